"""Frames from image files: a folder, a glob or a single picture."""

import glob
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from matchcut.errors import VideoError

Frame = np.ndarray[Any, np.dtype[np.uint8]]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
FRAME_RATE = Fraction(24)  # what DAVIS and most tools take for frames without one
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what Pillow raises, all told


class ImageFrames:
    """Image files as frames, by their index in natural order."""

    seekable = True
    frame_rate = FRAME_RATE

    def __init__(self, paths: list[Path]) -> None:
        """Read every header (not the pixels) and check that the images can be frames of one video.

        Raises:
            VideoError: an image that cannot be read, two sizes, or two images of one name.
        """
        self.paths = paths
        self.total = len(paths)
        self.size = image_size(paths[0])
        stems: dict[str, Path] = {}
        for path in paths:
            size = image_size(path)
            if size != self.size:
                raise VideoError(
                    f"frames differ in size: {paths[0]} is {self.size[1]}x{self.size[0]}, {path} is "
                    f"{size[1]}x{size[0]}; bring them to one size or choose with a glob"
                )
            if path.stem in stems:
                raise VideoError(
                    f"two frames have one name: {stems[path.stem]} and {path}; choose with a glob such as "
                    f"'{path.parent}/*{path.suffix}'"
                )
            stems[path.stem] = path

    def check(self, last: int) -> None:
        """Nothing to check: every image is there."""

    def name(self, index: int) -> str:
        """The stem of the image file."""
        return self.paths[index].stem

    def file(self, index: int) -> Path:
        """The image file."""
        return self.paths[index]

    def get(self, index: int) -> Frame:
        """One frame, (H, W, 3) uint8 RGB.

        Raises:
            VideoError: the image is damaged, or was replaced by one of another size.
        """
        frame = read_image(self.paths[index])
        if frame.shape[:2] != self.size:
            raise VideoError(f"{self.paths[index]} changed its size while it was being read; run again")
        return frame

    def read(self, indices: range) -> Iterator[Frame]:
        """The frames of `indices` in turn."""
        for index in indices:
            yield self.get(index)

    def close(self) -> None:
        """Nothing stays open."""


def natural_key(path: Path) -> list[Any]:
    """Sorts `2.png` before `10.png`."""
    # Split by digits: text and numbers alternate, so that like is compared with like.
    parts = re.split(r"([0-9]+)", str(path))
    return [[int(part) if at % 2 else part.casefold() for at, part in enumerate(parts)], str(path)]


def folder_images(folder: Path) -> list[Path]:
    """The images of a folder in natural order; hidden files are left out.

    Raises:
        VideoError: there is none.
    """
    found = [path for path in folder.iterdir() if is_image(path)]
    if not found:
        kinds = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise VideoError(f"{folder}: no images in this folder ({kinds}); give a folder of frames or a video file")
    return sorted(found, key=natural_key)


def glob_images(pattern: str) -> list[Path]:
    """The images that a glob matches, in natural order.

    Raises:
        VideoError: there is none.
    """
    found = [Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True)]  # noqa: PTH207
    images = [path for path in found if is_image(path)]
    if not images:
        raise VideoError(f"{pattern}: matches no image; put the pattern in quotes and check the folder")
    return sorted(images, key=natural_key)


def is_image(path: Path) -> bool:
    """Whether a path is a file that counts as a frame."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as it is shown, from its header.

    Raises:
        VideoError: not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def read_image(path: Path) -> Frame:
    """An image as (H, W, 3) uint8 RGB, upright. Alpha is dropped; 16 bits become 8.

    Raises:
        VideoError: not an image, or a damaged one.
    """
    try:
        data = path.read_bytes()
        if data[:3] == b"\xff\xd8\xff" and data[-2:] == b"\xff\xd9":  # else OpenCV would fill a cut JPEG with grey
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if decoded is not None:
                return decoded.astype(np.uint8, copy=False)
        with Image.open(path) as image:
            orientation = _orientation(image)
            frame = _to_rgb(image)
    except (*UNREADABLE, cv2.error) as error:
        raise _damaged(path, error) from error
    return _upright(frame, orientation)


def _to_rgb(image: Image.Image) -> Frame:
    image.load()
    if image.mode == "F":
        raise ValueError("floating-point images have no fixed range")
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8. A PNG is asked only where its header has EXIF, as Pillow would decode it all to look."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(frame: Frame, orientation: int) -> Frame:
    if orientation >= 5:
        frame = frame.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(frame[::rows, ::columns])


def _damaged(path: Path, error: Exception) -> VideoError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return VideoError(f"{path}: cannot be read as an image ({reason}); replace or remove it")

"""Frames from image files: a folder, a glob or a single picture."""

import glob
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from matchcut.errors import VideoError
from matchcut.folders import IMAGES, counts, files_in, natural_key
from matchcut.masks import Frame
from matchcut.pictures import ValueRange, is_deep, open_picture, stored_values
from matchcut.video.frames import Frames
from matchcut.video.sources import check_file, missing

UNREADABLE = (  # what Pillow raises, all told
    *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, struct.error),
    Image.DecompressionBombError,
)


class ImageFrames(Frames):
    """Image files as frames, by their index in natural order."""

    def __init__(self, paths: list[Path]) -> None:
        """Read every header (not the pixels) and check that the images can be frames of one video.

        Raises:
            VideoError: an image that cannot be read, two sizes, or two images of one name.
        """
        self.paths = paths
        self.total = len(paths)
        self.size = (0, 0)
        stems: dict[str, Path] = {}
        for path in paths:
            size, pictures = _header(path)
            if not stems:
                self.size = size
            if size != self.size:
                raise VideoError(
                    f"frames differ in size: {paths[0]} is {self.size[1]}x{self.size[0]}, {path} is "
                    f"{size[1]}x{size[0]}; bring them to one size or choose with a glob"
                )
            if pictures > 1 and len(paths) > 1:
                raise VideoError(
                    f"{path}: holds {pictures} pictures, and lies among other frames; give it by itself, or write "
                    "each picture into a file of its own"
                )
            if path.stem in stems:
                raise VideoError(
                    f"two frames have one name: {stems[path.stem]} and {path}; choose with a glob such as "
                    f"'{path.parent}/*{path.suffix}'"
                )
            stems[path.stem] = path

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
        frame = read_image(self.paths[index], lambda: self.values)
        if frame.shape[:2] != self.size:
            raise VideoError(f"{self.paths[index]} changed its size while it was being read; run again")
        return frame

    @cached_property
    def values(self) -> ValueRange:
        """The range of values that all deep pictures among the frames are brought to 8 bits by."""
        return range_of(open_image(self.paths[index]) for index in spread(self.total))


def folder_images(folder: Path) -> list[Path]:
    """The images of a folder in natural order, as `files_in` counts them; links that lead nowhere are among them.

    Raises:
        VideoError: there is none.
        MatchcutError: the folder cannot be listed.
    """
    found = files_in(folder, IMAGES)
    if not found:
        kinds = " ".join(sorted(extension[1:] for extension in IMAGES))
        raise VideoError(f"{folder}: no images in this folder ({kinds}); give a folder of frames or a video file")
    return found


def glob_images(pattern: str) -> list[Path]:
    """The images that a glob matches, in natural order.

    Raises:
        VideoError: there is none.
    """
    found = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207
    images = [one for one in found if one.suffix.lower() in IMAGES and counts(one.name) and not one.is_dir()]
    if not images:
        raise VideoError(f"{pattern}: matches no image; put the pattern in quotes and check the folder")
    return sorted(images, key=natural_key)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as it is shown, from its header.

    Raises:
        VideoError: not an image.
    """
    return _header(path)[0]


def open_image(path: Path) -> Image.Image:
    """An image file, its header read.

    Raises:
        VideoError: there is no file, or an empty one.
        OSError and others of `UNREADABLE`: it is no image.
    """
    check_file(path)
    return open_picture(path)


def _header(path: Path) -> tuple[tuple[int, int], int]:
    """(H, W) of an image as it is shown, and how many frames it holds."""
    try:
        with open_image(path) as image:
            return shown_size(image), len(frame_pages(image))
    except UNREADABLE as error:
        raise damaged(path, error) from error


def frame_pages(image: Any) -> Sequence[int]:
    """The numbers of the pictures of an open image file that are frames: all, but for what only goes with the first.

    That is the smaller copies, previews and masks of a TIFF, the further pictures of a camera's JPEG (MPO), and the
    still picture that stands in for an animated PNG.
    """
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return [0]
    if image.format != "TIFF":
        return range(1 if image.format == "PNG" and image.default_image else 0, image.n_frames)
    sizes = {}
    for page in range(image.n_frames):
        size = page_size(image, page)
        if not image.tag_v2.get(254, 0) & 5:  # NewSubfileType: a reduced copy, a transparency mask
            sizes[page] = size
    image.seek(0)
    pages = [*sizes] or [0]
    alike = [page for page in pages if sizes.get(page) == sizes.get(pages[0])]
    return alike if len(alike) == 1 else pages  # what is of other sizes alone are levels of one picture


def page_size(image: Image.Image, page: int) -> tuple[int, int]:
    """(H, W) of one picture of an open image file, from its header."""
    image.seek(page)
    return shown_size(image)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an open image as it is shown, from its header."""
    width, height = image.size
    return (width, height) if _orientation(image) >= 5 else (height, width)


def read_image(path: Path, clip: Callable[[], ValueRange] | None = None) -> Frame:
    """An image as (H, W, 3) uint8 RGB, upright. Alpha is dropped.

    More than 8 bits become 8 by the range of values of the `clip` that the image is of; by its own without one.

    Raises:
        VideoError: not an image, or a damaged one.
    """
    check_file(path)
    try:
        data = path.read_bytes()
        if data[:3] == b"\xff\xd8\xff" and data[-2:] == b"\xff\xd9":  # else OpenCV would fill a cut JPEG with grey
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if decoded is not None:
                return decoded.astype(np.uint8, copy=False)
        with open_picture(path) as image:
            return picture(image, clip)
    except (*UNREADABLE, cv2.error) as error:
        raise damaged(path, error) from error


def picture(image: Image.Image, clip: Callable[[], ValueRange] | None = None) -> Frame:
    """The picture that an open image file stands at, (H, W, 3) uint8 RGB, upright; see `read_image`.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: it is damaged.
    """
    orientation = _orientation(image)  # loading forgets it
    if not is_deep(image):
        return _upright(np.array(image.convert("RGB")), orientation)
    values = stored_values(image)
    frame = (ValueRange.of(values) if clip is None else clip()).to_8_bits(values)
    return _upright(np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame[..., :3], orientation)


def range_of(images: Iterable[Image.Image]) -> ValueRange:
    """The range of values that the deep ones among some open pictures of a clip need, at full bits of the highest.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: one is damaged.
    """
    found = ValueRange(0, 0)
    for image in images:
        with image:
            if is_deep(image):
                found = found.union(ValueRange.of(stored_values(image)))
    return ValueRange(found.low, min(found.low, 0) + (1 << found.bits) - 1)


def spread(total: int, most: int = 64) -> Iterator[int]:
    """At most so many indices below `total`, evenly spread, the first and the last among them."""
    step = max(1, -(-(total - 1) // (most - 1)))
    yield from range(0, total, step)
    if (total - 1) % step:
        yield total - 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8.

    A PNG is asked only where its header has EXIF, as Pillow would decode it all to look; a TIFF not at all, as Pillow
    turns it itself.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(frame: Frame, orientation: int) -> Frame:
    if orientation >= 5:
        frame = frame.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(frame[::rows, ::columns])


def damaged(path: Path, error: Exception, where: str = "") -> VideoError:
    """The error of an image that cannot be read; `where` in the file."""
    if isinstance(error, PermissionError):
        return missing(path, error)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return VideoError(f"{path}{where}: cannot be read as an image ({reason}); replace or remove it")

"""Raw videos to learn from, without any truth: finding them, and reading their frames quickly."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from matchcut.errors import DatasetError, VideoError
from matchcut.files import atomic_path, make_folder
from matchcut.folders import IMAGES, VIDEOS, counts, natural_key
from matchcut.masks import Frame
from matchcut.video.images import image_size, read_image
from matchcut.video.reader import Video

TRUTH = frozenset({"annotations", "annotations_unsupervised", "groundtruth", "ground-truth", "labels", "masks", "inst"})
"""Folders of these names, in lower case, hold masks and are passed over."""

_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


@dataclass(frozen=True)
class Footage:
    """One video: its image files in order, or the one video file that holds all frames."""

    name: str
    """The root's name and the path from there."""
    files: tuple[Path, ...]
    total: int
    """Number of frames."""

    @property
    def is_file(self) -> bool:
        """Whether it is a video file, whose frames are to be decoded in order."""
        return self.files[0].suffix.lower() in VIDEOS

    def frame_name(self, frame: int) -> str:
        """What to call a frame in a message."""
        return f"{self.files[0]}, frame {frame}" if self.is_file else str(self.files[frame])


def find_videos(*roots: Path) -> tuple[list[Footage], list[str]]:
    """All videos below some folders, and what was left out and why.

    Every folder that holds images is a video, and so is every video file; a root may be a video file too. What does not
    count (`folders.counts`) and folders of masks (`TRUTH`) are passed over, links are followed, what is reached twice
    counts once. A video may have a single frame. Images are not opened here, video files are: those that do not open
    are left out.

    Raises:
        DatasetError: no such folder, or no video in all of them.
    """
    found: list[Footage] = []
    problems: list[str] = []
    for root in roots:
        if not root.exists():
            raise DatasetError(f"{root}: no such folder; give one with folders of frames or video files in it")
        base = root if root.is_dir() else root.parent
        for folder, files in _walk(root):
            images = [path for path in files if path.suffix.lower() in IMAGES]
            name = (Path(base.resolve().name) / folder.relative_to(base)).as_posix()
            if images:
                found.append(Footage(name, tuple(images), len(images)))
            for path in files:
                if path.suffix.lower() in VIDEOS:
                    try:
                        with Video(path, allow_truncated=True) as video:
                            found.append(Footage((Path(name) / path.name).as_posix(), (path,), len(video)))
                    except VideoError as error:
                        problems.append(str(error))
    unique = {one.files[0].resolve(): one for one in reversed(found)}
    found = [one for one in found if unique[one.files[0].resolve()] is one]
    if not found:
        places = ", ".join(map(str, roots)) or "no folder"
        more = f"; left out: {problems[0]}" if problems else ""
        raise DatasetError(f"{places}: holds no video, neither a folder of frames nor a video file{more}")
    return found, problems


def _walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder below `root` with its files, both in natural order."""
    if root.is_file():
        yield root.parent, [root]
        return
    been: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(place)) in been:  # a link to a folder above
            folders.clear()
            continue
        been.add(real)
        kept = [one for one in folders if counts(one) and one.lower() not in TRUTH]
        folders[:] = sorted(kept, key=lambda one: natural_key(Path(one)))
        files = [Path(place, one) for one in names if counts(one)]
        yield Path(place), sorted(files, key=natural_key)


class FrameReader:
    """Frames of some videos at a short side of at most `side` pixels.

    JPEGs are decoded at 1/2, 1/4 or 1/8 where that is still enough, which saves most of the time; the rest is done by
    averaging (INTER_AREA). Smaller frames are not enlarged. Frames of video files are decoded in order, all at the
    first demand, and kept in `cache` as arrays, since random access in a compressed stream is slow; with `keep_images`
    so are those of image files. What comes back is the same with and without a cache. Copies in several processes may
    share one cache.
    """

    def __init__(self, videos: Sequence[Footage], side: int, cache: Path, *, keep_images: bool = False) -> None:
        self.videos = videos
        self.side = side
        self.cache = cache
        self.keep_images = keep_images
        self._unreadable: set[tuple[int, int]] = set()

    def read(self, video: int, frame: int) -> Frame | None:
        """One frame, (H, W, 3) uint8 RGB, or None where it cannot be read.

        Raises:
            OutputError: the cache cannot be written.
        """
        if (video, frame) in self._unreadable:
            return None
        source = self.videos[video]
        try:
            pixels = self._of_file(source, frame) if source.is_file else self._of_image(source.files[frame])
        except (VideoError, OSError, cv2.error):
            self._unreadable.add((video, frame))
            return None
        return pixels

    def _of_image(self, path: Path) -> Frame:
        if not self.keep_images:
            return read_reduced(path, self.side)
        place = self._place(path).with_suffix(".npy")
        kept = _load(place)
        if kept is None:
            kept = read_reduced(path, self.side)
            _keep(place, kept)
        return kept

    def _of_file(self, source: Footage, frame: int) -> Frame:
        place = self._place(source.files[0])
        kept = _load(place / f"{frame:06d}.npy")
        if kept is not None:
            return kept
        wanted: Frame | None = None
        with suppress(VideoError), Video(source.files[0], allow_truncated=True) as video:
            for index, pixels in video.frames():
                small, name = shrink(pixels, self.side), place / f"{index:06d}.npy"
                if index == frame:
                    wanted = small
                if index == frame or not name.exists():
                    _keep(name, small)
        if wanted is None:
            raise VideoError(f"{source.frame_name(frame)}: does not decode")
        return wanted

    def _place(self, path: Path) -> Path:
        state = path.stat()  # a file that was replaced has another place
        key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {self.side}"
        digest = blake2b(key.encode(), digest_size=12).hexdigest()
        return self.cache / digest[:2] / digest[2:]


def read_reduced(path: Path, side: int) -> Frame:
    """An image at a short side of at most `side` pixels, (H, W, 3) uint8 RGB, upright.

    Raises:
        VideoError: not an image, or a damaged one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    if data[:3] == b"\xff\xd8\xff" and data[-2:] == b"\xff\xd9":  # else OpenCV would fill a cut JPEG with grey
        short = min(image_size(path))
        flag = next((flag for factor, flag in _REDUCED if short // factor >= side), None)
        if flag is not None:
            # The flags of reduction name grey or BGR; grey plus this one is RGB.
            decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_COLOR_RGB)
            if decoded is not None:
                return shrink(decoded, side)
    return shrink(read_image(path), side)


def shrink(frame: Frame, side: int) -> Frame:
    """A frame with its short side brought down to `side` pixels; a smaller one as it is."""
    height, width = frame.shape[:2]
    if min(height, width) <= side:
        return frame
    factor = side / min(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _load(place: Path) -> Frame | None:
    try:
        kept: Frame = np.load(place)
    except (OSError, ValueError, EOFError):  # not there, or damaged: it is made anew
        return None
    return kept


def _keep(place: Path, frame: Frame) -> None:
    make_folder(place.parent)
    with atomic_path(place, note="none") as temporary:
        np.save(temporary, frame)

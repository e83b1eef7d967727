"""Frames from one image file that holds several pictures: a TIFF stack, an animated WebP or PNG."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from matchcut.errors import VideoError
from matchcut.pictures import ValueRange
from matchcut.video.images import FRAME_RATE, UNREADABLE, frame_pages, open_image, page_size, picture, range_of, spread

Frame = np.ndarray[Any, np.dtype[np.uint8]]

BLOCK_BYTES = 256 << 20  # what reading backwards may hold at once
DAMAGED = (*UNREADABLE, KeyError, IndexError, TypeError)  # what seeking in a damaged file raises besides


class StackFrames:
    """The pictures of one image file in their order, one of them decoded at a time."""

    def __init__(self, path: Path) -> None:
        """Read every picture's header and check that they can be frames of one video.

        Raises:
            VideoError: not an image, or pictures of several sizes.
        """
        self.path = path
        try:
            with open_image(path) as image:
                self.pages = frame_pages(image)
                sizes = [page_size(image, page) for page in (self.pages if image.format == "TIFF" else self.pages[:1])]
                delays = _delays(path, image) if len(self.pages) > 1 else []
        except DAMAGED as error:
            raise _damaged(path, "", error) from error
        self.total = len(self.pages)
        self.size = sizes[0]
        for index, size in enumerate(sizes):
            if size != self.size:
                raise VideoError(
                    f"{path}: its picture 0 is {self.size[1]}x{self.size[0]}, picture {index} is {size[1]}x{size[0]}; "
                    "bring them to one size or write each into a file of its own"
                )
        if 0 < len(delays) < self.total:
            raise VideoError(f"{path}: holds {len(delays)} of its {self.total} pictures; is it complete?")
        self.frame_rate = (len(delays) / sum(delays, Fraction())).limit_denominator(1001) if sum(delays) else FRAME_RATE
        self._cursor: _Cursor | None = None

    def check(self, last: int) -> None:
        """Nothing to check: every picture's header was read."""

    def name(self, index: int) -> str:
        """The number of the picture, 5 digits."""
        return f"{index:05d}"

    def file(self, index: int) -> Path:
        """The image file."""
        return self.path

    def get(self, index: int) -> Frame:
        """One frame, (H, W, 3) uint8 RGB. Frames asked for in rising order are each decoded once.

        Raises:
            VideoError: the picture is damaged.
        """
        if self._cursor is None:
            self._cursor = _Cursor(self)
        return self._cursor.frame(index)

    @cached_property
    def values(self) -> ValueRange:
        """The range of values that all pictures, where they are deep, are brought to 8 bits by."""
        return range_of(self._at(index) for index in spread(self.total))

    def _at(self, index: int) -> Any:
        image = open_image(self.path)
        image.seek(self.pages[index])
        return image

    def read(self, indices: range) -> Iterator[Frame]:
        """The frames of `indices` in turn; backwards in blocks of at most 256 MiB, since animations build up."""
        cursor = _Cursor(self)
        try:
            if indices.step > 0:
                for index in indices:
                    yield cursor.frame(index)
                return
            block = max(4, BLOCK_BYTES // (self.size[0] * self.size[1] * 3))
            for first in range(0, len(indices), block):
                decoded = [cursor.frame(index) for index in reversed(indices[first : first + block])]
                while decoded:
                    yield decoded.pop()
        finally:
            cursor.close()

    def close(self) -> None:
        """Close the file; a later `get` opens it again."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None


class _Cursor:
    """The file, open, at one of its pictures."""

    def __init__(self, source: StackFrames) -> None:
        self.source = source
        self.image: Any = None

    def frame(self, index: int) -> Frame:
        path, page = self.source.path, self.source.pages[index]
        try:
            if self.image is not None and page < self.image.tell() and self.image.format != "TIFF":
                self.close()  # Pillow does not always find the way back in an animation
            if self.image is None:
                self.image = open_image(path)
            self.image.seek(page)  # where pictures build on those before, Pillow goes through these
            frame = picture(self.image, lambda: self.source.values)
        except DAMAGED as error:
            self.close()
            raise _damaged(path, f", picture {index}", error) from error
        if frame.shape[:2] != self.source.size:
            raise VideoError(f"{path} was replaced while it was being read; run again")
        return frame

    def close(self) -> None:
        if self.image is not None:
            self.image.close()
            self.image = None


def _delays(path: Path, image: Any) -> list[Fraction]:
    """Seconds that an animation states for each of its pictures; none where it states none."""
    kinds = {"PNG": _png_delays, "WEBP": _webp_delays}
    if image.format in kinds:
        with path.open("rb") as file:
            return [*kinds[image.format](file)]
    if image.format != "TIFF":
        image.load()  # AVIF tells with each picture; the first one stands for all
    return [Fraction(image.info.get("duration", 0)) / 1000] * image.n_frames


def _png_delays(file: BinaryIO) -> Iterator[Fraction]:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"fcTL":
            over, under = struct.unpack_from(">HH", file.read(length), 20)
            yield Fraction(over, under or 100)
            length = 0
        file.seek(length + 4, 1)  # the checksum


def _webp_delays(file: BinaryIO) -> Iterator[Fraction]:
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        length += length % 2
        if kind == b"ANMF":
            yield Fraction(int.from_bytes(file.read(16)[12:15], "little"), 1000)
            length -= 16
        file.seek(length, 1)


def _damaged(path: Path, where: str, error: Exception) -> VideoError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return VideoError(f"{path}{where}: cannot be read as an image ({reason}); replace or remove it")

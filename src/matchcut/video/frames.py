"""Base classes of sources with random access: frames by index."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from matchcut.masks import Frame

FRAME_RATE = Fraction(24)  # what DAVIS and most tools take for frames without one
BLOCK_BYTES = 256 << 20  # what reading backwards may hold at once


class Frames(ABC):
    """Frames of one source, all by original index. A subclass sets the attributes and gives `get`.

    Attributes:
        total: how many there are.
        size: (H, W) of each, in pixels.
        frame_rate: frames a second.
    """

    total: int
    size: tuple[int, int]
    frame_rate: Fraction = FRAME_RATE

    def check(self, last: int) -> None:  # noqa: B027  (by default all frames are there)
        """Raise TruncatedVideoError unless the frame `last` is surely there."""

    def name(self, index: int) -> str:
        """The name of a frame: its number, 5 digits."""
        return f"{index:05d}"

    def file(self, index: int) -> Path | None:
        """The file that a frame lies in, if any."""
        return None

    @abstractmethod
    def get(self, index: int) -> Frame:
        """One frame, (H, W, 3) uint8 RGB, the caller's own."""

    def read(self, indices: range) -> Iterator[Frame]:
        """The frames of `indices` in turn."""
        return map(self.get, indices)

    def close(self) -> None:  # noqa: B027  (by default nothing is open)
        """Close what is open; a later `get` opens it again."""


class Cursor(Protocol):
    """An open file that gives frames in rising order fast."""

    def frame(self, index: int) -> Frame: ...
    def close(self) -> None: ...


class FramesOfFile(Frames):
    """Frames of one file, decoded in order: a subclass gives `cursor`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cursor: Cursor | None = None

    @abstractmethod
    def cursor(self) -> Cursor:
        """The file, opened anew."""

    def decoded_from(self, index: int) -> int:
        """The frame that decoding starts from to reach frame `index`."""
        return 0

    def file(self, index: int) -> Path:
        """The file."""
        return self.path

    def get(self, index: int) -> Frame:
        """One frame, (H, W, 3) uint8 RGB. Frames asked for in rising order are each decoded once."""
        if self._cursor is None:
            self._cursor = self.cursor()
        return self._cursor.frame(index)

    def read(self, indices: range) -> Iterator[Frame]:
        """The frames of `indices` in turn; backwards in blocks of at most 256 MiB that are decoded forwards."""
        cursor = self.cursor()
        try:
            if indices.step > 0:
                yield from map(cursor.frame, indices)
                return
            capacity = max(4, BLOCK_BYTES // (self.size[0] * self.size[1] * 3))
            while indices:
                start = self.decoded_from(indices[0])
                block = [index for index in indices[:capacity] if index >= start]
                indices = indices[len(block) :]
                decoded = [cursor.frame(index) for index in reversed(block)]
                while decoded:
                    yield decoded.pop()
        finally:
            cursor.close()

    def close(self) -> None:
        """Close the file; a later `get` opens it again."""
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

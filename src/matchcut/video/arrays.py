"""Frames that are arrays in memory already, or mapped from a file."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from matchcut.errors import VideoError

Frame = np.ndarray[Any, np.dtype[np.uint8]]

EXPECTED = "expected RGB frames (H, W, 3) uint8, or all of them as (T, H, W, 3)"


class ArrayFrames:
    """An array (T, H, W, 3) uint8, or a sequence of frames (H, W, 3) uint8, by index."""

    frame_rate = Fraction(24)

    def __init__(self, frames: Any) -> None:
        """Check every frame's shape and type.

        Raises:
            VideoError: no frame, one that is no RGB picture, or two sizes.
        """
        self.frames: Any = frames if isinstance(frames, list | tuple) else _as_array(frames)
        self.total = 0 if getattr(self.frames, "ndim", 1) == 0 else len(self.frames)
        if not self.total:
            raise VideoError("an empty list or array has no frame: give at least one")
        self.size: tuple[int, int] = self._checked(0).shape[:2]
        if isinstance(self.frames, np.ndarray):
            return  # of one size and type
        for index in range(1, self.total):
            height, width = self._checked(index).shape[:2]
            if (height, width) != self.size:
                raise VideoError(
                    f"frames differ in size: frame 0 is {self.size[1]}x{self.size[0]}, frame {index} is "
                    f"{width}x{height}; bring them to one size"
                )

    def check(self, last: int) -> None:
        """Nothing to check: every frame is there."""

    def name(self, index: int) -> str:
        """The frame's number, 5 digits."""
        return f"{index:05d}"

    def file(self, index: int) -> Path | None:
        """None: it is in memory."""
        return None

    def get(self, index: int) -> Frame:
        """A copy of one frame, so that drawing on it leaves the user's own as it is."""
        return np.array(self._checked(index), order="C")

    def read(self, indices: range) -> Iterator[Frame]:
        """The frames of `indices` in turn."""
        for index in indices:
            yield self.get(index)

    def close(self) -> None:
        """Nothing is open."""

    def _checked(self, index: int) -> Frame:
        frame = _as_array(self.frames[index])
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise VideoError(f"frame {index} is {frame.dtype} {frame.shape}, {EXPECTED}")
        return frame


def _as_array(given: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU, say
        raise VideoError(f"{type(given).__name__} cannot be read as an array ({error}), {EXPECTED}") from error

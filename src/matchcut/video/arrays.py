"""Frames that are arrays in memory already, or mapped from a file."""

from typing import Any

import numpy as np

from matchcut.errors import VideoError
from matchcut.masks import Frame
from matchcut.video.frames import Frames

EXPECTED = "expected RGB frames (H, W, 3) uint8, or all of them as (T, H, W, 3)"


def as_frame(value: Any, where: str = "the frame") -> Frame:
    """A frame, RGB uint8 (H, W, 3), contiguous and writable: itself where it is so already.

    Args:
        value: an array or tensor (H, W, 3) or (3, H, W), uint8, with any strides; or a PIL image.
        where: what it is, to open the message with.

    Raises:
        VideoError: anything else; the message says what is expected and what was got.
    """
    array = as_array(value.convert("RGB") if hasattr(value, "convert") else value)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise VideoError(f"{where}: expected RGB (H, W, 3), uint8, got {describe(value)}{_hint(array)}")
    return np.require(array, requirements=("C", "W"))


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """The array that an array, tensor, PIL image or sequence is or stands for; one without a shape for what is none."""
    if hasattr(value, "detach"):  # a tensor, on any device
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # rows of several lengths
        return np.empty((), object)


def describe(value: Any) -> str:
    """A short description of a value for messages: of an array its shape, type and range."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "detach"):
        array = as_array(value)
        what = "a tensor" if hasattr(value, "detach") else "an array"
        span = f", {array.min():g} to {array.max():g}" if array.dtype.kind in "biuf" and array.size else ""
        return f"{what} of shape {tuple(array.shape)}, {array.dtype}{span}"
    if hasattr(value, "convert"):
        return f"a PIL image of mode {value.mode}, {value.width}x{value.height}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r}"[:80]


def _hint(array: np.ndarray[Any, Any]) -> str:
    """A hint for messages: how to convert an array that is nearly a frame."""
    if array.dtype.kind == "f" and array.ndim == 3:
        return "; of values from 0 to 1, give (255 * frame).round().astype(np.uint8)"
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        return "; of a grey one, give cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)"
    if array.ndim == 3 and array.shape[2] == 4:
        return "; of one with alpha, give frame[..., :3]"
    return ""


class ArrayFrames(Frames):
    """An array or tensor (T, H, W, 3) or (T, 3, H, W) uint8, or a sequence of frames (`as_frame`), by index."""

    def __init__(self, frames: Any) -> None:
        """Check every frame's shape and type.

        Raises:
            VideoError: no frame, one that is no RGB picture, or two sizes.
        """
        self.frames: Any = frames if isinstance(frames, list | tuple) else as_array(frames)
        if getattr(self.frames, "ndim", 4) != 4:
            raise VideoError(f"{EXPECTED}, got {describe(frames)}")
        self.total = len(self.frames)
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

    def get(self, index: int) -> Frame:
        """A copy of one frame, so that drawing on it leaves the user's own as it is."""
        return np.array(self._checked(index), order="C")

    def _checked(self, index: int) -> Frame:
        return as_frame(self.frames[index], f"frame {index}")

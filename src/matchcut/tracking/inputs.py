"""What people pass for masks, frames' numbers and boxes, brought to the one form that all else takes.

Arrays, tensors, PIL images and files are taken where their meaning is plain; anything else is refused with what was
expected and what was got.
"""

import operator
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from matchcut.errors import MaskError, PromptError
from matchcut.masks import IGNORE, MAX_OBJECTS, LabelMap, read_mask
from matchcut.video.arrays import as_array, describe

if TYPE_CHECKING:
    from matchcut.video.reader import Video

Mask = str | os.PathLike[str] | NDArray[Any] | Tensor | Image.Image
"""What `as_label_map` takes."""
Boxes = Sequence[Any] | NDArray[Any] | Tensor
"""What `as_boxes` takes."""

LABEL_MAP = f"a label map (H, W): whole numbers, 0 background, 1 to {MAX_OBJECTS} objects, 255 unknown; or a mask"


def as_label_map(value: Mask, where: str = "the mask", *, threshold: float | None = None) -> LabelMap:
    """A new label map, uint8 (H, W), of a mask in any form that is plain.

    Args:
        value: an array or tensor (H, W), also (1, H, W) or (H, W, 1): bool, or whole numbers of any type. One that
            holds nothing but 0 and 255, or 0 and 65535, is a mask of the one object 1. A PIL image is read as its file
            would be (`matchcut.masks.read_mask`), and so is a path.
        where: what it is, to open the message with.
        threshold: of images and files, see `read_mask`.

    Raises:
        MaskError: anything else; the message says what is expected and what was got.
    """
    if isinstance(value, str | os.PathLike):
        return read_mask(value, threshold=threshold)
    if isinstance(value, Image.Image):
        return _of_image(value, where, threshold)
    array = as_array(value)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        hint = "; of a picture in colours, give its file" if array.ndim == 3 and array.shape[2] in (3, 4) else ""
        raise MaskError(f"{where}: expected {LABEL_MAP}, got {describe(value)}{hint}")
    if not array.size:
        raise MaskError(f"{where}: expected {LABEL_MAP}, got none of its pixels: {describe(value)}")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and not (np.isfinite([low, high]).all() and bool((array == np.floor(array)).all())):
        raise MaskError(
            f"{where}: expected {LABEL_MAP}, got {describe(value)}: make it one first, as mask > 0.5 of probabilities"
        )
    if high in (IGNORE, 65535) and bool(((array == 0) | (array == high)).all()):
        return np.asarray(array != 0, np.uint8)
    if low < 0 or high > IGNORE:
        raise MaskError(f"{where}: expected {LABEL_MAP}, got {describe(value)}")
    return np.array(array, np.uint8, order="C")


def as_boxes(value: Boxes | None) -> list[tuple[float, ...]]:
    """Boxes (left, top, right, bottom), one an object, from a sequence, array or tensor of them, or of one alone.

    Raises:
        PromptError: anything else.
    """
    if value is None:
        return []
    array = as_array(value)
    if array.ndim == 1 and not array.size:
        return []
    if array.shape == (4,):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        shown = repr(value)[:80] if isinstance(value, list | tuple) else describe(value)
        raise PromptError(f"boxes: expected (left, top, right, bottom) in pixels, one an object, got {shown}")
    return [tuple(map(float, box)) for box in array]


def as_frame_index(key: Any, video: "Video") -> int:
    """The index of a frame from what a person calls it by: its number, or its name with or without a suffix.

    Raises:
        PromptError: no such frame, or neither a number nor a name.
    """
    if isinstance(key, str | os.PathLike):
        name = os.fspath(key)
        if not video.seekable:
            raise PromptError(f"frame {name!r}: the frames of a stream have numbers only, from 0")
        names = video.names()
        for known in (name, name.rpartition(".")[0]):
            if known in names:
                return names.index(known)
        raise PromptError(f"no frame is named {name!r}; they are named {names[0]} to {names[-1]}")
    index = as_index(key, "a frame's number from 0, or its name")
    if video.seekable and not 0 <= index < len(video):
        raise PromptError(f"frame {index} is not in the video, which has frames 0 to {len(video) - 1}")
    return index


def as_index(value: Any, expected: str = "a frame's number") -> int:
    """A whole number of any type, and no bool.

    Raises:
        PromptError: anything else.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise PromptError(f"expected {expected}, got {describe(value)}")
    return operator.index(value)


def as_annotations(value: Mapping[Any, Mask], video: "Video") -> dict[int, LabelMap]:
    """Label maps by frame index, from a mapping of frames (`as_frame_index`) to masks (`as_label_map`).

    Raises:
        PromptError, MaskError: what cannot be taken.
    """
    given: dict[int, LabelMap] = {}
    for key, mask in value.items():
        index = as_frame_index(key, video)
        if index in given:
            raise PromptError(f"frame {index} has two masks, the second as {key!r}: give one")
        given[index] = as_label_map(mask, f"the mask for frame {key}")
    return given


def _of_image(image: Image.Image, where: str, threshold: float | None) -> LabelMap:
    """As its file would be read, so that palettes, colours and soft edges have one rule."""
    buffer = BytesIO()
    try:
        image.save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise MaskError(f"{where}: expected {LABEL_MAP}, got {describe(image)}") from error
    buffer.seek(0)
    try:
        return read_mask(buffer, threshold=threshold)  # type: ignore[arg-type]
    except MaskError as error:
        raise MaskError(str(error).replace(str(buffer), where)) from error

"""Label maps in memory: what they are, and the small operations on them. OpenCV is imported where it is used."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from matchcut.errors import MaskError, ShapeError

Frame = NDArray[np.uint8]
"""A frame: RGB, uint8 (H, W, 3)."""
LabelMap = NDArray[np.uint8]
"""A label map: uint8 (H, W); 0 is background, 1 to 254 are objects, 255 is ignored."""
BACKGROUND = 0
IGNORE = 255
MAX_OBJECTS = 254


def davis_palette() -> NDArray[np.uint8]:
    """The VOC and DAVIS palette, uint8 (256, 3) RGB: the bits of an id, dealt out to R, G and B from the top."""
    ids = np.arange(256)
    channels = [sum(((ids >> (3 * i + c)) & 1) << (7 - i) for i in range(3)) for c in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def check_mask(labels: LabelMap, size: tuple[int, int], where: str) -> None:
    """Raise MaskError unless a label map (H, W) is of `size` and holds an object; `where` opens the message."""
    check_labels(labels)
    if labels.shape != tuple(size):
        height, width = labels.shape
        frames = f"the frames are {size[1]}x{size[0]}"
        raise MaskError(f"{where}: the mask is {width}x{height} but {frames}: give a mask of the frames' own size")
    if not object_ids(labels):
        raise MaskError(f"{where}: the mask holds no object: mark at least one pixel with an id from 1 to 254")


def object_ids(labels: LabelMap) -> list[int]:
    """The ids of the objects in a label map (H, W), ascending, without 0 and 255."""
    return [value for value in values_of(labels) if value not in (BACKGROUND, IGNORE)]


def one_hot(labels: LabelMap, ids: Sequence[int]) -> NDArray[np.float32]:
    """One channel a class, float32 (1 + N, H, W) of 0 and 1: the background, then `ids` in the order given.

    An object that is not in `ids` counts as background. An ignored pixel (255) is 0 in every channel. Raises
    ShapeError unless the ids are distinct and from 1 to 254.
    """
    check_labels(labels)
    check_ids(ids)
    channels = np.empty((1 + len(ids), *labels.shape), np.float32)
    for channel, number in zip(channels[1:], ids, strict=True):
        np.equal(labels, number, out=channel)
    channels[0] = (labels != IGNORE) - channels[1:].sum(axis=0)
    return channels


def resize_labels(labels: LabelMap, size: tuple[int, int]) -> LabelMap:
    """Resize a label map (H, W) to `size` (H, W) without inventing an id.

    Where an axis shrinks, a pixel takes the value (0 and 255 included) that covers most of its area, the lowest of
    equals; where an axis grows, the nearest one. Raises ShapeError for a side below 1.
    """
    import cv2

    check_labels(labels)
    height, width = size
    if height < 1 or width < 1:
        raise ShapeError(f"cannot resize a label map to {size}: both sides must be at least 1")
    labels = np.ascontiguousarray(labels)
    small = (min(height, labels.shape[0]), min(width, labels.shape[1]))
    if labels.shape != small:
        covered = np.full(small, 1e-6, np.float32)  # the largest share of each pixel so far
        result = np.zeros(small, np.uint8)
        for value in values_of(labels):
            share = cv2.resize((labels == value).astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA)
            better = share > covered + 1e-6  # the margin takes rounding, so that ties stay ties
            result[better] = value
            covered[better] = share[better]
        labels = result
    if labels.shape != (height, width):
        return np.asarray(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return labels.copy()


def tight_boxes(labels: LabelMap, ids: Sequence[int]) -> dict[int, tuple[int, int, int, int]]:
    """The tight box (x0, y0, x1, y1) of each object, in pixels, x1 and y1 exclusive; absent objects are left out."""
    import cv2

    check_labels(labels)
    check_ids(ids)
    corners = {number: cv2.boundingRect((labels == number).view(np.uint8)) for number in ids}
    return {number: (x, y, x + width, y + height) for number, (x, y, width, height) in corners.items() if width}


def values_of(labels: LabelMap) -> list[int]:
    """The values in a label map (H, W), ascending, 0 and 255 too."""
    import cv2

    check_labels(labels)
    counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256])
    return [int(value) for value in np.flatnonzero(counts)]


def check_labels(labels: LabelMap) -> None:
    """Raise ShapeError unless this is a label map."""
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise ShapeError(f"expected a label map, uint8 (H, W), got {labels.dtype} {labels.shape}")


def check_ids(ids: Sequence[int]) -> None:
    """Raise ShapeError unless the ids are distinct and from 1 to 254."""
    if len(set(ids)) != len(ids) or not all(0 < number < IGNORE for number in ids):
        raise ShapeError(f"expected distinct ids from 1 to {MAX_OBJECTS}, got {list(ids)}")

"""Drawing label maps over frames, and cutting objects out of them."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.errors import ShapeError
from matchcut.masks import IGNORE, Frame, LabelMap, davis_palette, object_ids

IGNORE_GREY = 128
IGNORE_ALPHA = 0.25
_COLOURS = davis_palette()


def draw_overlay(frame: Frame, labels: LabelMap, *, alpha: float = 0.5, contour: int = 2, ids: bool = True) -> Frame:
    """A copy of a frame with each object tinted in its DAVIS colour, outlined and numbered.

    Args:
        frame: uint8 RGB (H, W, 3); stays as it is.
        labels: uint8 (H, W), 0 background, 1-254 objects, 255 ignore (drawn faint grey).
        alpha: how much of the tint is colour, 0 (none) to 1.
        contour: width of the outline in pixels, drawn inside the object; 0 for none.
        ids: write each object's number at its innermost point, where it fits.

    Returns:
        uint8 RGB (H, W, 3). Pixels of background are unchanged, but for the numbers of small objects.

    Raises:
        ShapeError: `frame` or `labels` of another shape or type, or `alpha` outside 0 to 1.
    """
    _check(frame, labels)
    if not 0 <= alpha <= 1:
        raise ShapeError(f"alpha is {alpha}, not between 0 and 1")
    out = frame.copy()
    if (labels == IGNORE).any():
        _tint(out, labels, IGNORE, (IGNORE_GREY,) * 3, IGNORE_ALPHA)
    numbers: list[tuple[int, tuple[int, int], float]] = []
    for label in object_ids(labels):
        colour = tuple(int(value) for value in _COLOURS[label])
        box, mask = _tint(out, labels, label, colour, alpha)
        if contour > 0:
            _outline(out, box, mask, colour, contour)
        if ids:
            numbers.append((label, *_innermost(box, mask)))
    for label, point, radius in numbers:
        _number(out, label, point, radius)
    return out


def cutout(frame: Frame, labels: LabelMap) -> NDArray[np.uint8]:
    """The objects of a frame on a transparent ground, uint8 RGBA (H, W, 4).

    Alpha is 255 on objects, 0 on background and ignored pixels. The colours are the frame's everywhere, so that an edge
    softened later does not go dark.

    Raises:
        ShapeError: `frame` or `labels` of another shape or type.
    """
    _check(frame, labels)
    return np.dstack((frame, np.where((labels > 0) & (labels < IGNORE), np.uint8(255), np.uint8(0))))


def _check(frame: Frame, labels: LabelMap) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ShapeError(f"a frame is uint8 (H, W, 3), not {frame.dtype} {frame.shape}")
    if labels.dtype != np.uint8 or labels.shape != frame.shape[:2]:
        raise ShapeError(f"the label map is {labels.dtype} {labels.shape}, the frame is uint8 {frame.shape[:2]}")


def _tint(
    out: Frame, labels: LabelMap, label: int, colour: tuple[int, ...], alpha: float
) -> tuple[tuple[slice, slice], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Mix a colour into an object's pixels; give its bounding box and, in it, its mask (1 inside)."""
    whole: Any = cv2.inRange(labels, label, label)
    x, y, width, height = cv2.boundingRect(whole)
    box = (slice(y, y + height), slice(x, x + width))
    mask = whole[box]
    # All 256 values of each channel are mixed once; then it is a table look-up.
    values = np.arange(256)[:, None] * (1 - alpha) + np.asarray(colour) * alpha
    table = np.rint(values).astype(np.uint8)[None]  # (1, 256, 3)
    cv2.copyTo(cv2.LUT(np.ascontiguousarray(out[box]), table), mask, out[box])
    return box, mask


def _outline(
    out: Frame, box: tuple[slice, slice], mask: np.ndarray[Any, Any], colour: tuple[int, ...], width: int
) -> None:
    """The object's own edge pixels, `width` deep, in its full colour, lightened where that is dark."""
    bordered = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.erode(bordered, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    edge = cv2.subtract(mask, inside)
    out[box][edge > 0] = [min(255, value + 64) for value in colour]


def _innermost(box: tuple[slice, slice], mask: np.ndarray[Any, Any]) -> tuple[tuple[int, int], float]:
    """((x, y), distance to the edge in pixels) of the point of an object that is farthest from its edge."""
    step = max(1, int((mask.size / 20_000) ** 0.5))  # the place of a number needs no full resolution
    small = np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step])
    small = cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    _, radius, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(small, cv2.DIST_L2, 3))
    if radius == 0:  # so thin that the coarse grid misses it
        rows, columns = np.nonzero(mask)
        x, y, step, radius = columns[len(columns) // 2] + 1, rows[len(rows) // 2] + 1, 1, 1.0
    return (
        box[1].start + (int(x) - 1) * step + step // 2,
        box[0].start + (int(y) - 1) * step + step // 2,
    ), radius * step


def _number(out: Frame, label: int, point: tuple[int, int], radius: float) -> None:
    """White digits with a dark edge, centred on a point, kept inside the frame as far as they fit."""
    height, width = out.shape[:2]
    text, font = str(label), cv2.FONT_HERSHEY_SIMPLEX
    smallest = float(np.clip(height / 800, 0.4, 0.8))
    size = float(np.clip(radius / (12 + 10 * len(text)), smallest, 1.8 * smallest))
    thick = 1 if size < 0.7 else 2
    (text_width, text_height), _ = cv2.getTextSize(text, font, size, thick)
    left = max(thick, min(point[0] - text_width // 2, width - text_width - thick))
    bottom = max(text_height + thick, min(point[1] + text_height // 2, height - thick))
    for colour, thickness in (((0, 0, 0), 3 * thick), ((255, 255, 255), thick)):
        cv2.putText(out, text, (left, bottom), font, size, colour, thickness, cv2.LINE_AA)

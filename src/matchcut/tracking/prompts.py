"""Prompts that are not masks: a box, clicks or a scribble turned into a mask of one frame (GrabCut, no download)."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.errors import PromptError
from matchcut.masks import MAX_OBJECTS, Frame, LabelMap

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, the end exclusive."""

WORK_SIZE = 480
"""Short side at which GrabCut runs; its cut is refined by nothing but enlargement beyond that."""
ROUNDS = 5


def box_to_mask(frame: Frame, box: Box) -> NDArray[np.bool_]:
    """The object inside a box: (H, W) bool. GrabCut (Rother et al., SIGGRAPH 2004) on the box and its surroundings.

    Raises:
        PromptError: the box is empty or reaches outside the frame.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = check_box(box, (height, width))
    margin_x, margin_y = max(8, (x1 - x0) // 2), max(8, (y1 - y0) // 2)
    left, top = max(x0 - margin_x, 0), max(y0 - margin_y, 0)
    right, bottom = min(x1 + margin_x, width), min(y1 + margin_y, height)
    state = np.full((bottom - top, right - left), cv2.GC_BGD, np.uint8)
    inside = state[y0 - top : y1 - top, x0 - left : x1 - left]
    inside[:] = cv2.GC_PR_BGD
    # An object fills the middle of its box rather than the corners: an ellipse is the better start.
    axes = (max(1, round((x1 - x0) * 0.47)), max(1, round((y1 - y0) * 0.47)))
    cv2.ellipse(inside, ((x1 - x0) // 2, (y1 - y0) // 2), axes, 0, 0, 360, cv2.GC_PR_FGD, -1)
    cut = _grab_cut(frame[top:bottom, left:right], state)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = cut
    if mask[y0:y1, x0:x1].mean() < 0.05:  # nothing stood out: the box itself is what the user said
        mask[y0:y1, x0:x1] = True
    return mask


def strokes_to_mask(
    frame: Frame,
    inside: Sequence[Sequence[tuple[int, int]]],
    outside: Sequence[Sequence[tuple[int, int]]] = (),
    *,
    width: int = 7,
) -> NDArray[np.bool_]:
    """The object under clicks or scribbles: (H, W) bool.

    Args:
        frame: RGB uint8 (H, W, 3).
        inside: strokes on the object, each a sequence of (x, y); one point is a click.
        outside: strokes on what is not the object.
        width: of a stroke, in pixels.

    Raises:
        PromptError: no stroke on the object, or a point outside the frame.
    """
    height, frame_width = frame.shape[:2]
    inside, outside = [stroke for stroke in inside if len(stroke)], [stroke for stroke in outside if len(stroke)]
    if not inside:
        raise PromptError("no click on the object: give at least one point inside it")
    for x, y in (point for stroke in (*inside, *outside) for point in stroke):
        if not (0 <= x < frame_width and 0 <= y < height):
            raise PromptError(f"point {x},{y} lies outside the frame of {frame_width}x{height}")
    state = np.full((height, frame_width), cv2.GC_PR_BGD, np.uint8)
    points = np.array([point for stroke in inside for point in stroke])
    # Around the clicks the object is likely; how far, the spread of the clicks says.
    reach = max(float(np.ptp(points, axis=0).max()) * 0.75, min(height, frame_width) * 0.15)
    for x, y in points:
        cv2.circle(state, (int(x), int(y)), round(reach), cv2.GC_PR_FGD, -1)
    _draw(state, outside, cv2.GC_BGD, width)
    _draw(state, inside, cv2.GC_FGD, width)
    mask = _grab_cut(frame, state)
    # Only what hangs together with a click.
    _, parts = cv2.connectedComponents(mask.astype(np.uint8))
    touched = {int(parts[y, x]) for x, y in points} - {0}
    return np.isin(parts, list(touched))


def check_box(box: Sequence[float], size: tuple[int, int]) -> Box:
    """A box as whole pixels inside a frame of size (H, W).

    Raises:
        PromptError: it is empty or reaches outside.
    """
    if len(box) != 4 or not all(math.isfinite(one) for one in box):
        raise PromptError(f"box {','.join(map(str, box))}: expected left,top,right,bottom in pixels")
    x0, y0, x1, y1 = (round(one) for one in box)
    height, width = size
    shown = f"box {x0},{y0},{x1},{y1}"
    if x0 >= x1 or y0 >= y1:
        raise PromptError(f"{shown} is empty: give left,top,right,bottom with left < right and top < bottom")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise PromptError(
            f"{shown} reaches outside the frame of {width}x{height}: x goes 0 to {width}, y 0 to {height}"
        )
    return x0, y0, x1, y1


def combine(masks: Sequence[NDArray[np.bool_]]) -> LabelMap:
    """One label map of several objects' masks, ids 1, 2, ... in their order; a smaller object lies over a larger."""
    if len(masks) > MAX_OBJECTS:
        raise PromptError(f"{len(masks)} objects are more than the {MAX_OBJECTS} that a label map can hold")
    labels = np.zeros(masks[0].shape, np.uint8)
    for index in sorted(range(len(masks)), key=lambda one: -int(masks[one].sum())):
        labels[masks[index]] = index + 1
    return labels


def _draw(state: NDArray[np.uint8], strokes: Sequence[Sequence[tuple[int, int]]], value: int, width: int) -> None:
    for stroke in strokes:
        points = [np.array(stroke, np.int32).reshape(-1, 1, 2)]
        cv2.polylines(state, points, False, value, width)
        cv2.circle(state, (int(stroke[0][0]), int(stroke[0][1])), max(1, width // 2), value, -1)


def _grab_cut(frame: Frame, state: NDArray[np.uint8]) -> NDArray[np.bool_]:
    height, width = state.shape
    scale = min(1.0, WORK_SIZE / min(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.cvtColor(cv2.resize(frame, small, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    work = cv2.resize(state, small, interpolation=cv2.INTER_NEAREST)
    has = [np.isin(work, kinds).any() for kinds in ((cv2.GC_BGD, cv2.GC_PR_BGD), (cv2.GC_FGD, cv2.GC_PR_FGD))]
    if all(has):
        cv2.setRNGSeed(0)  # its colour models start from a random k-means; the same prompt gives the same mask
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(image, work, (0, 0, 1, 1), *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    mask = np.isin(work, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(opened, (width, height), interpolation=cv2.INTER_NEAREST), bool)

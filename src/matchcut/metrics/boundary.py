"""Contour accuracy F: how well two boundaries match within a tolerance, as the official DAVIS evaluation counts it.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4.1, in the approximation by dilation of davisvideochallenge/davis2017-evaluation. The boundary map is David
Martin's `seg2bmap` (2003).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError
from matchcut.metrics.region import as_bytes, as_label_bytes, as_label_ids

Bytes = npt.NDArray[np.uint8]


def boundary(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The boundary of a mask, one pixel wide, as the official `seg2bmap` gives it at equal size.

    A pixel is on the boundary if it differs from its right, lower or lower right neighbour. The last row looks only to
    the right, the last column only down, and the last pixel is never on it. So a boundary lies half a pixel up and to
    the left.

    Args:
        mask: boolean (H, W).

    Returns:
        boolean (H, W).

    Raises:
        ShapeError: the mask is not boolean (H, W).
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise ShapeError(f"expected a boolean mask (H, W), got {mask.dtype} {mask.shape}")
    return _edges(np.ascontiguousarray(mask).view(np.uint8)).view(np.bool_)


def boundary_f(truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], tolerance: float = 0.008) -> float:
    """F of one object in one frame: the harmonic mean of the boundaries' precision and recall.

    Precision is the share of the prediction's boundary pixels that are near one of the truth's, recall the reverse;
    near is dx^2 + dy^2 <= radius^2, radius = ceil(tolerance x diagonal).

    Args:
        truth: boolean (H, W).
        prediction: boolean (H, W), the same size.
        tolerance: share of the frame's diagonal, in [0, 1): 8 pixels at 480 x 854 by default. Unlike the reference,
            a value of 1 or more is refused, not read as pixels.

    Returns:
        A number in [0, 1]; 1 where neither mask has a boundary, 0 where one has none. A mask that fills the frame has
        none.

    Raises:
        ShapeError: the masks are not boolean (H, W) of one size, or the tolerance is out of range.
    """
    a, b = as_bytes(truth, prediction)
    radius = _radius(a.shape, tolerance)
    box = _box(a, b)
    return float(_f([_edges(a[box])], [_edges(b[box])], radius)[0, 0])


def boundary_f_pairs(
    truth_labels: npt.NDArray[np.uint8],
    prediction_labels: npt.NDArray[np.uint8],
    truth_ids: Sequence[int],
    prediction_ids: Sequence[int],
    tolerance: float = 0.008,
) -> npt.NDArray[np.float64]:
    """`boundary_f` of every object of the truth with every one of the prediction, in one frame.

    Each boundary is found and dilated once.

    Args:
        truth_labels: uint8 (H, W). Labels outside `truth_ids` count as background.
        prediction_labels: the same size and, with `prediction_ids`, meaning.
        truth_ids: the K objects' labels in the truth, in [1, 255]. An id may be in neither map.
        prediction_ids: the P objects' labels in the prediction, likewise.
        tolerance: share of the frame's diagonal, in [0, 1).

    Returns:
        float64 (K, P) in [0, 1], each as `boundary_f` gives it.

    Raises:
        ShapeError: the maps are not uint8 (H, W) of one size, or an id or the tolerance is out of range.
    """
    a, b = as_label_bytes(truth_labels, prediction_labels)
    radius, box = _radius(a.shape, tolerance), _box(a, b)
    truths = [_edges((a[box] == i).view(np.uint8)) for i in as_label_ids(truth_ids)]
    predictions = [_edges((b[box] == i).view(np.uint8)) for i in as_label_ids(prediction_ids)]
    return _f(truths, predictions, radius)


def _radius(shape: tuple[int, ...], tolerance: float) -> int:
    """The tolerance in whole pixels; it is refused unless it is in [0, 1)."""
    if not 0 <= tolerance < 1:
        raise ShapeError(f"tolerance is a share of the diagonal in [0, 1), got {tolerance}")
    height, width = shape
    return math.ceil(tolerance * math.sqrt(height * height + width * width))


def _box(a: Bytes, b: Bytes) -> tuple[slice, slice]:
    """The box around all that is not 0 in two maps, grown by one pixel: no boundary lies outside it."""
    x, y, width, height = cv2.boundingRect(cv2.max(a, b))
    return slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)


def _edges(mask: Bytes) -> Bytes:
    """`boundary` of bytes (H, W), of which any but 0 is object; 0 and 1."""
    here: Bytes = (mask != 0).view(np.uint8)
    grown: Bytes = np.pad(here, (0, 1), mode="edge")
    right, below, diagonal = grown[:-1, 1:], grown[1:, :-1], grown[1:, 1:]
    edges: Bytes = (here ^ right) | (here ^ below) | (here ^ diagonal)
    return edges


def _f(truths: Sequence[Bytes], predictions: Sequence[Bytes], radius: int) -> npt.NDArray[np.float64]:
    """F of each of K boundaries with each of P, (K, P); each boundary is bytes 0 and 1 (H, W)."""
    maps = [*truths, *predictions]
    places = [np.flatnonzero(edges.view(np.bool_)) for edges in maps]
    near = [_dilate(edges, radius).ravel() if at.size else edges for edges, at in zip(maps, places, strict=True)]
    out = np.zeros((len(truths), len(predictions)))
    for k in range(len(truths)):
        for p in range(len(predictions)):
            t, q = places[k], places[len(truths) + p]
            if t.size and q.size:
                recall = np.count_nonzero(near[len(truths) + p][t]) / t.size
                precision = np.count_nonzero(near[k][q]) / q.size
                out[k, p] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            elif t.size == q.size:
                out[k, p] = 1.0
    return out


def _dilate(pixels: Bytes, radius: int) -> Bytes:
    """Dilation of bytes 0 and 1 (H, W) by the disc dx^2 + dy^2 <= radius^2, exactly.

    The disc is a union of rectangles, of half heights that rise from 0 and half widths that fall to 0. Starting with
    the lowest, the union so far is widened by what the widths differ in, and the next, thinner one is added: dilations
    by a row and by a column, which OpenCV does fast.
    """
    widths = [math.isqrt(radius * radius - height * height) for height in range(radius + 1)]
    heights = [height for height in range(radius) if widths[height + 1] < widths[height]] + [radius]
    union: Any = pixels
    column: Any = pixels
    for low, high in pairwise(heights):
        union = cv2.dilate(union, np.ones((1, 2 * (widths[low] - widths[high]) + 1), np.uint8))
        column = cv2.dilate(column, np.ones((2 * (high - low) + 1, 1), np.uint8))
        union = cv2.max(union, column)
    return np.asarray(union, np.uint8)

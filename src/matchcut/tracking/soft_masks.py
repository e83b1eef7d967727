"""From soft masks to label maps, and how sure they are."""

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.masks import LabelMap
from matchcut.tracking.colours import look_up

Frame = NDArray[np.uint8]
Enlarge = Literal["linear", "cubic", "guided"]
"""How soft masks come to the size of the frame. "guided": along its edges, see `guided_enlarge`."""

FAINT = 0.01
"""Where a soft mask is below this all around, it is taken for 0."""
SURE = 0.02
"""What the filter gives to the other side is at least this share, where colours have a say."""
MARGIN = 4
"""Cells around what is not faint that are enlarged with it."""
RADIUS, EPSILON = 2, 1e-4
"""Of the guided filter: cells, and squares of colours in [0, 1]. J&F on the development sequences hardly depends on
them (from 1 to 3, and from 1e-5 to 1e-3)."""

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Of colours: the entries of a symmetric matrix, each once."""


def to_labels(
    soft: NDArray[np.float32],
    ids: list[int],
    size: tuple[int, int],
    enlarge: Enlarge = "cubic",
    stretch: bool = False,
    frame: Frame | None = None,
    colours: NDArray[np.float32] | None = None,
    weight: float = 0.0,
) -> LabelMap:
    """The label map (H, W) of soft masks (1 + N, h, w): each enlarged, the largest wins. Memory grows with H x W only.

    Cubic enlargement keeps corners and thin parts that a linear one rounds off. `stretch` brings each enlarged mask to
    [0, 1] first (DINO). "guided" needs the frame (H, W, 3); without it, it is cubic. There, `weight` times what
    `colours` say of a pixel (`matchcut.tracking.colours.log_odds_of`) counts in the log odds of object and background.
    """
    if enlarge == "guided" and frame is not None:
        return _guided_labels(soft, ids, frame, colours, weight)
    how = cv2.INTER_LINEAR if enlarge == "linear" else cv2.INTER_CUBIC

    def enlarged(mask: NDArray[np.float32]) -> NDArray[Any]:
        result = cv2.resize(mask, size[::-1], interpolation=how)
        if stretch and result.max() > 0:
            result = (result - result.min()) / (result.max() - result.min() + 1e-12)
        return result

    best = np.maximum(enlarged(soft[0]), 0)  # cubic enlargement undershoots: nothing must win against less than nothing
    labels = np.zeros(size, np.uint8)
    for one, mask in zip(ids, soft[1:], strict=True):
        if mask.any():
            candidate = enlarged(mask)
            labels[candidate > best] = one
            np.maximum(best, candidate, out=best)
    return labels


def _guided_labels(
    soft: NDArray[np.float32], ids: list[int], frame: Frame, colours: NDArray[np.float32] | None, weight: float
) -> LabelMap:
    """All objects together are told from the background along the frame's edges; which of them it is, by the largest
    cubic mask: between objects that look alike, colour would lead astray."""
    size = (frame.shape[0], frame.shape[1])
    small = np.asarray(cv2.resize(frame, soft.shape[:0:-1], interpolation=cv2.INTER_AREA), np.uint8)
    labels = np.zeros(size, np.uint8)
    found = guided_enlarge(soft[1:].sum(0), frame, small)
    if found is None:
        return labels
    box, region = found
    known = cv2.resize(soft.sum(0), size[::-1], interpolation=cv2.INTER_LINEAR)[box]
    rest = known - region  # the filter is linear: what is left is the background's
    if colours is not None and weight > 0:
        region, rest = _with_colours(region, rest, weight * look_up(colours, frame[box]))
    inside = region > np.maximum(rest, FAINT)
    if len(ids) == 1:
        labels[box] = np.where(inside, ids[0], 0)
        return labels
    best, which = np.full(region.shape, -np.inf, np.float32), np.zeros(region.shape, np.uint8)
    for one, mask in zip(ids, soft[1:], strict=True):
        if mask.any():
            large = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_CUBIC)[box]
            which[large > best] = one
            np.maximum(best, large, out=best)
    labels[box] = np.where(inside, which, 0)
    return labels


def _with_colours(
    region: NDArray[np.float32], rest: NDArray[np.float32], log_odds: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is an object's and what is the background's, by as much more or less; what is sure is no surer than SURE."""
    least = SURE * (region + rest)
    return np.maximum(region, least) * np.exp(log_odds), np.maximum(rest, least)


def guided_enlarge(
    mask: NDArray[np.float32], frame: Frame, small: Frame
) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
    """A soft mask (h, w) enlarged along the edges of its frame (H, W, 3): a box of it and the mask there; 0 elsewhere.

    The guided filter of colour pictures (He, Sun and Tang, "Guided Image Filtering", PAMI 2013, Eq. 19 to 21), in its
    fast form (He and Sun, 2015): around each cell the mask is a linear function of colour, which is found on the grid
    of cells and then applied to the pixels.

    Args:
        small: the frame on the grid of the mask (h, w, 3).

    Returns:
        None where the mask is nowhere.
    """
    seen = mask > FAINT
    if not seen.any():
        return None
    (height, width), (rows, columns) = frame.shape[:2], mask.shape
    top, bottom = _span(seen.any(1), rows)
    left, right = _span(seen.any(0), columns)
    p = np.ascontiguousarray(mask[top:bottom, left:right], dtype=np.float32)
    guide = small[top:bottom, left:right].astype(np.float32) / 255
    colour, mean = _blur(guide), _blur(p)
    covariance = _blur(guide * p[..., None]) - colour * mean[..., None]
    products = _blur(np.dstack([guide[..., i] * guide[..., j] for i, j in PAIRS]))
    spread = [products[..., n] - colour[..., i] * colour[..., j] + EPSILON * (i == j) for n, (i, j) in enumerate(PAIRS)]
    slope = _solve(spread, covariance)
    line = _blur(np.dstack([slope, mean - (slope * colour).sum(2)]).astype(np.float32))
    # The pixels of these cells; cells need not be whole pixels, so each pixel looks up its place among the cells.
    y0, y1, x0, x1 = (
        round(cell * size / count)
        for cell, size, count in (
            (top, height, rows),
            (bottom, height, rows),
            (left, width, columns),
            (right, width, columns),
        )
    )
    down, across = rows / height, columns / width
    place = np.array(
        [[across, 0, (x0 + 0.5) * across - 0.5 - left], [0, down, (y0 + 0.5) * down - 0.5 - top]], np.float64
    )
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    line_at: Any = cv2.warpAffine(line, place, (x1 - x0, y1 - y0), flags=how, borderMode=cv2.BORDER_REPLICATE)
    picture = cv2.cvtColor(frame[y0:y1, x0:x1], cv2.COLOR_RGB2RGBA)  # colour and 255, for the line's constant
    terms = cv2.multiply(line_at, picture, scale=1 / 255, dtype=cv2.CV_32F)
    large = terms @ np.ones(4, np.float32)
    return (slice(y0, y1), slice(x0, x1)), np.asarray(large, np.float32)


def _solve(matrix: list[NDArray[Any]], vector: NDArray[Any]) -> NDArray[Any]:
    """x (h, w, 3) of matrix x = vector, by Cramer's rule: for many small systems, faster than LAPACK one by one.

    Args:
        matrix: (h, w) of each of PAIRS: symmetric, and positive definite.
    """
    a, b, c, d, e, f = (one.astype(np.float64) for one in matrix)  # differences of products: float32 would lose them
    x, y, z = (vector[..., i].astype(np.float64) for i in range(3))
    aa, ab, ac, bb, bc, cc = d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b
    solved = np.dstack([aa * x + ab * y + ac * z, ab * x + bb * y + bc * z, ac * x + bc * y + cc * z])
    return np.asarray(solved / (a * aa + b * ab + c * ac)[..., None])


def _span(seen: Any, size: int) -> tuple[int, int]:
    at = np.flatnonzero(seen)
    return max(int(at[0]) - MARGIN, 0), min(int(at[-1]) + 1 + MARGIN, size)


def _blur(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(values, (2 * RADIUS + 1, 2 * RADIUS + 1)), np.float32)


def confidence_of(soft: NDArray[np.float32], ids: list[int]) -> dict[int, float]:
    """How sure each object's mask is, 0 to 1: its mean probability where it is, weighted by that probability.

    An object that is nowhere counts by how surely it is absent.
    """
    result = {}
    for one, mask in zip(ids, soft[1:], strict=True):
        mass = float(mask.sum())
        sure = float((mask * mask).sum()) / mass if mass > 0.5 else 1.0 - float(mask.max(initial=0.0))
        result[one] = round(min(max(sure, 0.0), 1.0), 4)
    return result

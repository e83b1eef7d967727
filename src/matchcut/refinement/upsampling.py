"""Guided upsampling: soft masks from cells to pixels, along the edges of their frame."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.masks import Frame

FAINT = 0.01
"""Where a soft mask is below this all around, it is taken for 0."""
MARGIN = 4
"""Cells around what is not faint that are enlarged with it."""
RADIUS, EPSILON = 2, 1e-4
"""Of the guided filter: cells, and squares of colours in [0, 1]. J&F on the development sequences hardly depends on
them (from 1 to 3, and from 1e-5 to 1e-3)."""

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Of colours: the entries of a symmetric matrix, each once."""


def guided_upsample(
    mask: NDArray[np.float32], frame: Frame, small: Frame
) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
    """A soft mask (h, w) enlarged along the edges of its frame (H, W, 3): a box of it and the mask there; 0 elsewhere.

    The guided filter of colour pictures (He, Sun and Tang, "Guided Image Filtering", PAMI 2013, Eq. 19 to 21), in its
    fast form (He and Sun, 2015): around each cell the mask is a linear function of colour, which is found on the grid
    of cells and then applied to the pixels.

    Args:
        small: the frame on the grid of the mask (h, w, 3), see `shrink`.

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


def shrink(frame: Frame, grid: tuple[int, ...]) -> Frame:
    """A frame (H, W, 3) on a grid (h, w) of cells: the mean of each."""
    return np.asarray(cv2.resize(frame, (grid[1], grid[0]), interpolation=cv2.INTER_AREA), np.uint8)


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

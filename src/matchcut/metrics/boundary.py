"""Contour accuracy F: how well two boundaries match within a tolerance, as the official DAVIS evaluation counts it.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4.1, in the approximation by dilation of davisvideochallenge/davis2017-evaluation. The boundary map is David
Martin's `seg2bmap` (2003).

Exactly the reference's counts, by another way. The boundaries are packed 64 pixels a word, and the disc is taken as a
union of rectangles, each made from the one before (`_dilate`): a dilation is a few dozen shifts of a small array.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError
from matchcut.metrics.region import as_bytes, as_label_bytes, as_label_ids

Words = npt.NDArray[np.uint64]


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

    # A boundary lies in its mask's box grown by one, and only boundary pixels are asked whether they are near.
    x, y, w, h = cv2.boundingRect(cv2.max(a, b))
    if w == 0:
        return 1.0
    box = np.s_[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1]
    edges = _pack([_edges(a[box]), _edges(b[box])], radius)  # (2, rows, words)
    total = np.bitwise_count(edges).sum((1, 2), dtype=np.int64)
    if not total.all():
        return 0.0 if total.any() else 1.0
    near = _dilate(edges, radius)
    recall, precision = np.bitwise_count(edges & near[::-1]).sum((1, 2), dtype=np.int64) / total
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary_f_pairs(
    truth_labels: npt.NDArray[np.uint8],
    prediction_labels: npt.NDArray[np.uint8],
    truth_ids: Sequence[int],
    prediction_ids: Sequence[int],
    tolerance: float = 0.008,
) -> npt.NDArray[np.float64]:
    """`boundary_f` of every object of the truth with every one of the prediction, in one frame.

    Every boundary is found and dilated once, not once a pair.

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
    objects = [(a, i) for i in as_label_ids(truth_ids)] + [(b, i) for i in as_label_ids(prediction_ids)]
    radius, split = _radius(a.shape, tolerance), len(truth_ids)

    x, y, w, h = cv2.boundingRect(cv2.max(a, b))
    box = np.s_[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1]
    maps = {}  # place in objects -> boundary, of the objects that have one
    for place, (labels, i) in enumerate(objects if w else []):
        mask = labels[box] == i
        if mask.any() and (edges := _edges(mask.view(np.uint8))).any():
            maps[place] = edges
    found = np.array([place in maps for place in range(len(objects))], bool)
    out = np.where(found[:split, None] | found[split:], 0.0, 1.0)
    t, p = np.flatnonzero(found[:split]), np.flatnonzero(found[split:])
    if not (t.size and p.size):
        return out

    bits = _pack(list(maps.values()), radius)  # (t + p, rows, words), the truth first
    near = np.concatenate([_dilate(one[None], radius) for one in bits])  # one at a time stays in the cache
    total = np.bitwise_count(bits).sum((1, 2), dtype=np.int64)
    for n, k in enumerate(t):
        recall = np.bitwise_count(bits[n] & near[t.size :]).sum((1, 2), dtype=np.int64) / total[n]  # (p,)
        precision = np.bitwise_count(near[n] & bits[t.size :]).sum((1, 2), dtype=np.int64) / total[t.size :]
        either = precision + recall
        out[k, p] = np.where(either > 0, 2 * precision * recall / np.where(either > 0, either, 1), 0)
    return out


def _radius(shape: tuple[int, ...], tolerance: float) -> int:
    """The tolerance in whole pixels; it is refused unless it is in [0, 1)."""
    if not 0 <= tolerance < 1:
        raise ShapeError(f"tolerance is a share of the diagonal in [0, 1), got {tolerance}")
    height, width = shape
    return math.ceil(tolerance * math.sqrt(height * height + width * width))


def _edges(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`boundary` on bytes (H, W) of any non-zero value; bytes 0 and 1 out."""
    m: npt.NDArray[np.uint8] = (mask != 0).view(np.uint8)  # to 0 and 1, contiguous
    width = m.shape[1]
    out = np.zeros_like(m)
    # Views as one long row, which is faster; what wraps around, in the last column, is written over below.
    flat = m.ravel()
    n = max(flat.size - width - 1, 0)
    here, edge = flat[:n], out.ravel()[:n]
    np.bitwise_xor(here, flat[1 : n + 1], out=edge)
    for offset in (width, width + 1):
        edge |= here ^ flat[offset : offset + n]
    out[:-1, -1] = m[:-1, -1] ^ m[1:, -1]
    out[-1, :-1] = m[-1, :-1] ^ m[-1, 1:]
    return out


def _pack(maps: Sequence[npt.NDArray[np.uint8]], margin: int) -> Words:
    """N >= 1 maps of 0 and 1 (H, W) as bits (N, H + margin, words), pixel x of a row at bit x % 64 of word x // 64.

    At least `margin` zero bits end every row and `margin` zero rows end every map, so that in one long row of words
    nothing that moves by up to `margin` in x and y meets a pixel of another row or map.
    """
    height, width = maps[0].shape
    words = -(-(width + margin) // 64)
    packed = np.zeros((len(maps), height + margin, words * 8), np.uint8)
    for bits, pixels in zip(packed, maps, strict=True):
        bits[:height, : -(-width // 8)] = np.packbits(pixels, axis=1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def _dilate(bits: Words, radius: int) -> Words:
    """Dilation of what `_pack` gives (margin >= radius) by the disc dx^2 + dy^2 <= radius^2, exactly.

    A disc of whole pixels is a union of rectangles of half height h_i (rising, h_0 = 0) and half width w_i (falling
    to w_n = 0). With V_h and H_w the dilations along y and x, which commute, add up and pass through unions, it is
    V(h_n) | H(w_n-1 - w_n) (V(h_n-1) | H(w_n-2 - w_n-1) (... V(h_0))): every width is made from the one before.
    Bits in the margins are no pixels and mean nothing.
    """
    widths = [math.isqrt(radius * radius - h * h) for h in range(radius + 1)]
    corners = [h for h in range(radius) if widths[h + 1] < widths[h]] + [radius]
    row = bits.shape[2]
    column = bits.ravel()  # V_h of the pixels
    out = column
    for low, high in pairwise(corners):
        for step in _steps(widths[low] - widths[high]):
            out = _spread_x(out, step)
        for step in _steps(high - low):
            column = _spread_y(column, step * row)
        out = out | column
    return out.reshape(bits.shape)


def _steps(reach: int) -> list[int]:
    """Steps s for which x -> x-s, x, x+s in turn covers -reach..reach without a gap; below 64, for `_spread_x`.

    No step is longer than one more than all before it, so that every place is reached without a step back: the way
    there never leaves the array, whose ends have no margin.
    """
    steps, done = [], 0
    while done < reach:
        steps.append(min(done + 1, reach - done, 63))
        done += steps[-1]
    return steps


def _spread_x(words: Words, step: int) -> Words:
    """Every bit also `step` bits before and after, 1 <= step <= 63; words (N,)."""
    left, right = np.uint64(step), np.uint64(64 - step)
    out = words << left
    out |= words >> left
    out |= words
    out[1:] |= words[:-1] >> right
    out[:-1] |= words[1:] << right
    return out


def _spread_y(words: Words, step: int) -> Words:
    """Every word also `step` words before and after; words (N,)."""
    out = words.copy()
    out[step:] |= words[:-step]
    out[:-step] |= words[step:]
    return out

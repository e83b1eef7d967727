"""The search for the top-k on the CPU in float32, compiled: see `matchcut.matching.search`.

Features are quantised to int16, whose products are exact in int32, and twice as fast as those of float32. A bound on
the error of quantising says which cells may belong to a query cell's top-k, and these are compared in float32. No score
is stored: each is held against the limit that its query cell has reached so far, and few are above it.
"""

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from matchcut.matching.cpu.kernels import (
    REORDERED,
    Array,
    addresses_of,
    as_many_threads_as_torch,
    insert,
    kernel,
    row_at,
)
from matchcut.matching.cpu.products import KEYS, LANES, compare, lowest_bit
from matchcut.matching.cpu.quantise import quantise
from matchcut.matching.search import Radius, Window, reach_of

TILE = 4
"""Rows and columns of the query cells that are compared at once: the windows of a square have most in common."""
TILES = 2
"""Rows and columns of tiles in a block: they go through a row of references together, while it is in the cache."""
CANDIDATES = 96
"""Cells that a query cell collects before they are compared exactly."""
PARTS = 16
"""Each takes every so manieth block, so that all threads have as much to do."""
BELOW_ALL, ABOVE_ALL = -(2**31), 2**31 - 1
"""Limits of products of quantised rows."""


class Windows(NamedTuple):
    """The cells inside the windows of a tile's cells, on a square around the tile."""

    reach: int
    """Rows and columns of the square on each side of the tile."""
    which: Array
    """(T,) int64, for each reference the number of its window; -1 where there is none."""
    inside: Array
    """(windows, side, side) uint64, bits as `compare` gives them: in the window of which cell of the tile a cell of the
    square is, and the KEYS - 1 to its right."""
    spans: Array
    """(windows, side, 2) int64, of each row the columns from which, and up to which, there are such cells."""


def compiled_search(
    query: Tensor, keys: list[Tensor], radii: tuple[Radius, ...], window: Window, top_k: int, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `search`, for float32 on the CPU."""
    height, width, channels = query.shape
    h, w = keys[0].shape[:2]
    top_k = min(top_k, len(keys) * h * w)
    wanted = np.ones((height, width), np.bool_) if where is None else where.numpy()
    best = np.where(wanted.reshape(-1, 1), np.float32(-np.inf), np.float32(0)).repeat(top_k, 1)
    found = np.zeros(best.shape, np.int64)
    with torch.inference_mode():
        centre = keys[-1][::4, ::4].flatten(0, 1).mean(0)  # any vector near the keys will do
        offset = (query.flatten(0, 1) @ centre).nan_to_num_().numpy()
    with as_many_threads_as_torch():
        coarse_query = quantise([query], torch.zeros_like(centre), common=False)
        coarse_keys = quantise(keys, centre, common=True)
        # query . key = coarse . coarse * scale + offset, but for an error: Cauchy-Schwarz, and rounding of float32 sums
        scale = coarse_query.step[0].astype(np.float64) * coarse_keys.step[0, 0]
        length, loss = coarse_query.length[0, 0], coarse_query.error[0]
        sums = (channels + 8) * 2.0**-24 * length * (coarse_keys.length[0].max() + float(centre.norm()))
        error = sums + loss * coarse_keys.length[1].max() + (length + loss) * coarse_keys.error.max()
        if not np.isfinite(error).all():  # then all cells are compared in float32
            error = np.where(np.isfinite(error), error, np.inf)
        of_query = query.flatten(0, 1).numpy(), coarse_query.levels[0], scale, offset, error, wanted
        of_keys = addresses_of(keys), coarse_keys.levels, h, w, *_windows(radii, window, max(h, w))
        _search(*of_query, *of_keys, best, found)
    return torch.from_numpy(found), torch.from_numpy(best)


@functools.lru_cache(maxsize=8)
def _windows(radii: tuple[Radius, ...], window: Window, most: int) -> Windows:
    """Of references no side of which has more than `most` cells."""
    kinds = sorted({one for one in radii if one is not None})
    reach = min(max((reach_of(one, window) for one in kinds), default=0), most)
    which = np.array([-1 if one is None else kinds.index(one) for one in radii], np.int64)
    side = TILE + 2 * reach
    y, x = np.divmod(np.arange(LANES), TILE)
    dy, dx = np.arange(side)[:, None, None] - reach - y, np.arange(side + KEYS - 1)[:, None] - reach - x
    inside, spans = np.zeros((len(kinds), side, side), np.uint64), np.zeros((len(kinds), side, 2), np.int64)
    for number, radius in enumerate(kinds):
        near = dy**2 + dx**2 < radius**2 if window == "disc" else (abs(dy) <= radius) & (abs(dx) <= radius)
        words = (near.astype(np.uint64) << np.arange(LANES, dtype=np.uint64)).sum(2, dtype=np.uint64)
        for key in range(KEYS):
            inside[number] |= words[:, key : key + side] << np.uint64(LANES * key)
        reached = near.any(2)
        spans[number, :, 0], spans[number, :, 1] = reached.argmax(1), reached.argmax(1) + reached.sum(1)
    return Windows(reach, which, inside, spans)


@kernel
def _search(
    query: Any,
    coarse_query: Any,
    scale: Any,
    offset: Any,
    error: Any,
    wanted: Any,
    addresses: Any,
    coarse_keys: Any,
    h: int,
    w: int,
    reach: int,
    which: Any,
    inside: Any,
    spans: Any,
    best: Any,
    found: Any,
) -> None:
    """Fills rows of best (Q, k), descending, and found (Q, k) with the keys that are the best of each query.

    Args:
        query: (Q, C) float32.
        coarse_query, coarse_keys: (Q, C') and (T, h * w, C') int16, as `quantise` gives them.
        scale, offset, error: (Q,) the product of coarse rows * scale + offset differs from query . key by `error` at
            most.
        wanted: (H, W) bool, the queries that are looked for.
        addresses: (T,) int64, of the keys (h * w, C), float32 and contiguous.
        reach, which, inside, spans: as in `Windows`.
    """
    height, width = wanted.shape
    pairs, step, top_k, cells = coarse_query.shape[1] // 2, 2 * coarse_query.shape[1], best.shape[1], h * w
    first_key, last = coarse_keys.ctypes.data, len(which) - 1
    side = TILE * TILES
    across = -(-width // side)
    blocks = -(-height // side) * across
    for part in prange(PARTS):
        packed = np.empty((TILES * TILES, pairs, LANES, 2), np.int16)
        limits = np.empty((TILES * TILES, LANES), np.int32)
        margins, counts, queries = np.empty((3, TILES * TILES, LANES), np.int64)
        largest = np.empty((TILES * TILES, LANES, top_k), np.int32)
        names = np.empty((TILES * TILES, LANES, CANDIDATES), np.int64)
        reached = np.empty((TILES * TILES, LANES, CANDIDATES), np.int32)
        products = np.empty((KEYS, LANES), np.int32)
        for block in range(part, blocks, PARTS):
            top, left = side * (block // across), side * (block % across)
            if not wanted[top : top + side, left : left + side].any():
                continue
            packed[:], counts[:], largest[:], limits[:] = 0, 0, BELOW_ALL, ABOVE_ALL
            for tile in range(TILES * TILES):
                for lane in range(LANES):
                    y = top + TILE * (tile // TILES) + lane // TILE
                    x = left + TILE * (tile % TILES) + lane % TILE
                    if y < height and x < width and wanted[y, x]:
                        q = y * width + x
                        queries[tile, lane], limits[tile, lane] = q, BELOW_ALL
                        margins[tile, lane] = min(2 * error[q] / scale[q] + 2, 2.0**32)
                        for channel in range(2 * pairs):
                            packed[tile, channel // 2, lane, channel % 2] = coarse_query[q, channel]
            for back in range(last + 1):
                t = last - back  # what is newest is most alike, and so leaves out most of the rest
                number = which[t]
                low, high = 0, h
                if number >= 0:
                    low, high = max(top - reach, 0), min(top + side + reach, h)
                for turn in range(high - low):
                    row = low + (top + TILE - low + turn) % (high - low)  # from the block's own on
                    for tile in range(TILES * TILES):
                        left_most, in_square = left + TILE * (tile % TILES) - reach, 0
                        start, stop = 0, w
                        if number >= 0:
                            in_square = row - top - TILE * (tile // TILES) + reach
                            if not 0 <= in_square < TILE + 2 * reach:
                                continue
                            start = max(left_most + spans[number, in_square, 0], 0)
                            stop = min(left_most + spans[number, in_square, 1], w)
                        if limits[tile].min() == ABOVE_ALL:
                            continue
                        for x in range(start, stop, KEYS):
                            key = t * cells + row * w + x
                            hits = compare(
                                packed[tile].ctypes.data,
                                first_key + key * step,
                                step,
                                pairs,
                                limits[tile].ctypes.data,
                                products.ctypes.data,
                            )
                            if number >= 0:
                                hits &= inside[number, in_square, x - left_most]
                            if x + KEYS > w:
                                hits &= (np.uint64(1) << np.uint64(LANES * (w - x))) - np.uint64(1)
                            while hits:
                                bit = lowest_bit(hits)
                                hits &= hits - np.uint64(1)
                                lane, count = bit % LANES, counts[tile, bit % LANES]
                                product = products[bit // LANES, lane]
                                names[tile, lane, count], reached[tile, lane, count] = key + bit // LANES, product
                                counts[tile, lane] = count + 1
                                limit = np.int64(limits[tile, lane])
                                if product > largest[tile, lane, -1]:
                                    _rank(largest[tile, lane], product)
                                    limit = max(limit, largest[tile, lane, -1] - margins[tile, lane])
                                if count + 1 == CANDIDATES:
                                    q = queries[tile, lane]
                                    kept = names[tile, lane], reached[tile, lane], limit
                                    _compare_exactly(*kept, query[q], addresses, cells, best[q], found[q])
                                    counts[tile, lane] = 0
                                    sure = (np.float64(best[q, -1]) - offset[q] - error[q]) / scale[q] - 2
                                    if sure > limit:
                                        limit = np.int64(min(sure, ABOVE_ALL))
                                limits[tile, lane] = limit
            for tile in range(TILES * TILES):
                for lane in range(LANES):
                    count, q = counts[tile, lane], queries[tile, lane]
                    if count > 0:
                        kept = names[tile, lane, :count], reached[tile, lane, :count], limits[tile, lane]
                        _compare_exactly(*kept, query[q], addresses, cells, best[q], found[q])


@numba.njit
def _rank(largest: Any, value: Any) -> None:
    """Put a value above the last one into a descending list of fixed length."""
    place = len(largest) - 1
    while place > 0 and largest[place - 1] < value:
        largest[place] = largest[place - 1]
        place -= 1
    largest[place] = value


@numba.njit(fastmath=REORDERED)
def _compare_exactly(
    names: Any, reached: Any, limit: Any, query: Any, addresses: Any, cells: int, best: Any, found: Any
) -> None:
    """Compare candidates (n,) whose rough scores (n,) are above a limit in float32, into the list of the best (k,)."""
    channels = len(query)
    for i in range(len(names)):
        if reached[i] <= limit:
            continue
        reference, cell = divmod(names[i], cells)
        key = row_at(addresses[reference], cell, channels)
        exact = np.float32(0)
        for channel in range(channels):
            exact += query[channel] * key[channel]
        if exact > best[-1]:
            insert(best, found, exact, names[i])

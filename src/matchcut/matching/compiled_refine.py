"""The comparison of `matchcut.matching.refine` on the CPU, compiled: candidates are named, compared and sorted as they
come, none of which is ever stored."""

from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from matchcut.matching.compiled import PIECE, _insert, _kernel, _pointer, addresses_of, as_many_threads_as_torch


def best_around(
    query: Tensor, keys: list[Tensor], pairs: Tensor, weights: Tensor, size: tuple[int, int], top_k: int
) -> tuple[Tensor, Tensor]:
    """Positions and scores (Q, top_k), -inf where there are fewer, of the best fine cells around coarse matches.

    Args:
        query: (Q, C) float32.
        keys: T of (h * w, C), float32 and contiguous.
        pairs, weights: (Q, K) the coarse matches; those of weight 0 do not count.
        size: (h, w) of the fine grid.
    """
    best = query.new_full((len(query), top_k), -torch.inf)
    found = torch.zeros(best.shape, dtype=torch.int64)
    matches = (pairs.contiguous().numpy(), weights.contiguous().numpy())
    with as_many_threads_as_torch():
        _around(query.contiguous().numpy(), addresses_of(keys), *matches, *size, best.numpy(), found.numpy())
    return found, best


@_kernel
def _around(
    query: Any, addresses: Any, pairs: Any, weights: Any, height: int, width: int, best: Any, found: Any
) -> None:
    channels, matches = query.shape[1], pairs.shape[1]
    half = width // 2
    coarse = (height // 2) * half
    for piece in prange(-(-len(query) // PIECE)):
        frames, tops, lefts = np.empty((3, matches), np.int64)
        for q in range(piece * PIECE, min((piece + 1) * PIECE, len(query))):
            count = 0
            for i in range(matches):
                if weights[q, i] != 0:
                    frames[count], cell = divmod(pairs[q, i], coarse)
                    tops[count], lefts[count] = 2 * (cell // half) - 1, 2 * (cell % half) - 1
                    count += 1
            for i in range(count):
                for row in range(max(tops[i], 0), min(tops[i] + 4, height)):
                    for column in range(max(lefts[i], 0), min(lefts[i] + 4, width)):
                        known = False
                        for j in range(i):  # a cell around an earlier match was compared with that
                            down, across = row - tops[j], column - lefts[j]
                            known |= frames[j] == frames[i] and 0 <= down < 4 and 0 <= across < 4
                        if known:
                            continue
                        place = row * width + column
                        key = numba.carray(_pointer(addresses[frames[i]] + place * channels * 4), channels, np.float32)
                        score = np.float32(0)
                        for channel in range(channels):
                            score += query[q, channel] * key[channel]
                        if score > best[q, -1]:
                            _insert(best[q], found[q], score, frames[i] * height * width + place)

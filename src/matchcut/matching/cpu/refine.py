"""The comparison of `matchcut.matching.refine` on the CPU, compiled: candidates are named, compared and sorted as they
come, none of which is ever stored."""

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from matchcut.matching.cpu.kernels import addresses_of, as_many_threads_as_torch, insert, kernel, row_at

PIECE = 16
"""Coarse cells that a thread takes in one go."""


def best_around(
    query: Tensor, own: Tensor, keys: list[Tensor], pairs: Tensor, weights: Tensor, size: tuple[int, int], top_k: int
) -> tuple[Tensor, Tensor]:
    """Positions and scores (Q, top_k), -inf where there are fewer, of the best fine cells around coarse matches.

    Args:
        query: (Q, C) float32.
        own: (Q,) the coarse cell that each lies in, ascending: four at most lie in one, and share what they are
            compared with.
        keys: T of (h * w, C), float32 and contiguous.
        pairs, weights: (cells, K) the coarse matches of all coarse cells; those of weight 0 do not count.
        size: (h, w) of the fine grid.
    """
    best = query.new_full((len(query), top_k), -torch.inf)
    found = torch.zeros(best.shape, dtype=torch.int64)
    cells, counts = torch.unique_consecutive(own, return_counts=True)
    ends = counts.cumsum(0)
    matches = (pairs[cells].numpy(), weights[cells].numpy())
    with as_many_threads_as_torch():
        rows, answer = query.contiguous().numpy(), (best.numpy(), found.numpy())
        _around(rows, ends.numpy(), addresses_of(keys), *matches, *size, *answer)
    return found, best


@kernel
def _around(
    query: Any, ends: Any, addresses: Any, pairs: Any, weights: Any, height: int, width: int, best: Any, found: Any
) -> None:
    channels, matches = query.shape[1], pairs.shape[1]
    half = width // 2
    coarse = (height // 2) * half
    for piece in prange(-(-len(ends) // PIECE)):
        frames, tops, lefts = np.empty((3, matches), np.int64)
        scores = np.empty(4, np.float32)
        for g in range(piece * PIECE, min((piece + 1) * PIECE, len(ends))):
            first, last = (ends[g - 1] if g else 0), ends[g] - 1
            second, third = min(first + 1, last), min(first + 2, last)
            count = 0
            for i in range(matches):
                if weights[g, i] != 0:
                    frames[count], cell = divmod(pairs[g, i], coarse)
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
                        key = row_at(addresses[frames[i]], place, channels)
                        a = b = c = d = np.float32(0)
                        for channel in range(channels):
                            a += query[first, channel] * key[channel]
                            b += query[second, channel] * key[channel]
                            c += query[third, channel] * key[channel]
                            d += query[last, channel] * key[channel]
                        scores[0], scores[1], scores[2], scores[last - first] = a, b, c, d
                        for q in range(first, last + 1):
                            if scores[q - first] > best[q, -1]:
                                insert(best[q], found[q], scores[q - first], frames[i] * height * width + place)

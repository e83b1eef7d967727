"""The exact top-k of windowed similarities: how `affinity` finds its cells.

A block of query cells is compared with the rectangle of reference cells that its windows can reach, so the cost grows
with the window and not with the frame squared, and memory with one block.

On the CPU in float32, plain torch would spend most of its time on masking and top-k, not on the products. There the
search is compiled (`matchcut.matching.cpu.search`).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Window = Literal["disc", "square"]
Radius = float | None

BLOCK_SCORES = 7_000_000
"""Scores computed at once."""


def search(
    query: Tensor, keys: list[Tensor], radii: Sequence[Radius], window: Window, top_k: int, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The best cells (Q, K) of each query cell (H, W, C) and their scores, -inf for cells outside the window.

    Args:
        keys: T references (h, w, C).
        radii: T, as of `affinity`.
        where: (H, W) bool; query cells outside it are passed over: position 0 at score 0.
    """
    (height, width), count, (h, w) = query.shape[:2], len(keys), keys[0].shape[:2]
    top_k = min(top_k, count * h * w)
    found = query.new_zeros(height * width, top_k, dtype=torch.int64)
    best = query.new_zeros(height * width, top_k)
    stacked = torch.stack(keys)
    positions = torch.arange(count * h * w, device=query.device).view(count, h, w)
    wanted = torch.arange(height * width).view(height, width)
    wanted = wanted if where is None else wanted.masked_fill(~where.cpu(), -1)
    for rows, columns in _blocks((height, width), (h, w), radii, window):
        block = wanted[rows, columns].flatten()
        block = block[block >= 0].to(query.device)
        if not len(block):
            continue
        scores, names, first = [], [], 0
        for radius, same in itertools.groupby(radii):
            last = first + len(list(same))
            reached = slice(first, last), *_reached(rows, columns, radius, window, (h, w))
            scores.append(_block_scores(query, block, stacked, reached, radius, window))
            names.append(positions[reached].flatten())
            first = last
        value, place = torch.cat(scores, 1).topk(min(top_k, sum(len(one) for one in names)), 1)
        lacking = 0, top_k - value.shape[1]
        best[block] = F.pad(value, lacking, value=-torch.inf)
        found[block] = F.pad(torch.cat(names)[place], lacking)
    return found, best


def reach_of(radius: float, window: Window) -> int:
    """The largest distance on one axis inside a window."""
    return math.ceil(radius) - 1 if window == "disc" else math.floor(radius)


def _blocks(
    query: tuple[int, int], reference: tuple[int, int], radii: Sequence[Radius], window: Window
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of blocks of query cells, as large as a window, if that makes no more than BLOCK_SCORES."""
    reach = [reach_of(one, window) for one in radii if one is not None]
    unrestricted = (len(radii) - len(reach)) * math.prod(reference)
    height = max(8, max(reach) + 1) if reach else 12
    while height > 4:
        width = height * 4 // 3
        if height * width * (unrestricted + sum((height + 2 * r) * (width + 2 * r) for r in reach)) <= BLOCK_SCORES:
            break
        height -= 2
    for y, x in itertools.product(range(0, query[0], height), range(0, query[1], height * 4 // 3)):
        yield slice(y, min(y + height, query[0])), slice(x, min(x + height * 4 // 3, query[1]))


def _reached(rows: slice, columns: slice, radius: Radius, window: Window, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the reference that the windows of a block reach."""
    if radius is None:
        return slice(0, size[0]), slice(0, size[1])
    reach = reach_of(radius, window)
    return (
        slice(max(rows.start - reach, 0), min(rows.stop + reach, size[0])),
        slice(max(columns.start - reach, 0), min(columns.stop + reach, size[1])),
    )


def _block_scores(
    query: Tensor,
    block: Tensor,
    keys: Tensor,
    reached: tuple[slice, slice, slice],
    radius: Radius,
    window: Window,
) -> Tensor:
    """(n, m) inner products of n cells of the query (H, W, C), named by their numbers, with the part of keys
    (T, h, w, C) that their windows reach; -inf outside a cell's own window."""
    scores: Tensor = query.flatten(0, 1)[block] @ keys[reached].flatten(0, 2).T
    if radius is None:
        return scores
    y, x = (torch.arange(axis.start, axis.stop, device=block.device) for axis in reached[1:])
    dy, dx = y[:, None] - block[:, None, None] // query.shape[1], x - block[:, None, None] % query.shape[1]
    inside = dy**2 + dx**2 < radius**2 if window == "disc" else (dy.abs() <= radius) & (dx.abs() <= radius)
    outside = ~inside.flatten(1)[:, None]  # (n, 1, cells of a reference)
    masked: Tensor = scores.unflatten(1, (-1, outside.shape[2])).masked_fill_(outside, -torch.inf)
    return masked.flatten(1)

"""The exact top-k of windowed similarities: how `affinity` finds its cells.

A block of query cells is compared with the rectangle of reference cells that its windows can reach, so the cost grows
with the window and not with the frame squared, and memory with one block.

On the CPU in float32, plain torch would spend most of its time on masking and top-k, not on the products. There the
search is compiled (`matchcut.matching.cpu.search`).
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Window = Literal["disc", "square"]
Radius = float | None

BLOCK_SCORES = 7_000_000
"""Scores computed at once: few enough to stay in the cache."""


MOST = 0.5
"""Share of the cells of a block from which on all of it is done: to pick cells costs more than to do the others."""


def reach_of(radius: float, window: Window) -> int:
    """The largest distance on one axis inside a window."""
    return math.ceil(radius) - 1 if window == "disc" else math.floor(radius)


class Run(NamedTuple):
    """A rectangle of consecutive references that a block is compared with: rows start to stop of its scores.

    Their order is (reference, y, x) where the references are taken whole, as they are stored; else (x, reference, y),
    as the scorer lays out a strip of all references, from which a rectangle is then cut without a copy.
    """

    references: slice
    radius: Radius
    rows: slice
    columns: slice
    start: int
    stop: int

    def order(self, of: Tensor) -> Tensor:
        """(m,) of values (T, h, w), in the order of the scores."""
        part = of[self.references, self.rows, self.columns]
        return (part if self.radius is None else part.permute(2, 0, 1)).flatten()


class Block(NamedTuple):
    """A rectangle of query cells, or some cells of it."""

    rows: slice
    columns: slice
    subset: Tensor | None
    """Numbers of the cells that are wanted; None for all."""

    def take(self, of: Tensor) -> Tensor:
        """(n, ...) the block's cells of (H, W, ...)."""
        cells = of[self.rows, self.columns].flatten(0, 1)
        return cells if self.subset is None else cells[self.subset]

    def put(self, values: Tensor, into: Tensor) -> None:
        """Write (n, K) to the block's cells of (H, W, K)."""
        part = into[self.rows, self.columns]
        if self.subset is None:
            part.copy_(values.view(part.shape))
        else:
            part[self.subset // part.shape[1], self.subset % part.shape[1]] = values


class Plan:
    """Which rectangle of which reference each block of query cells is compared with."""

    def __init__(
        self,
        query: tuple[int, int],
        reference: tuple[int, int],
        radii: tuple[Radius, ...],
        window: Window,
    ) -> None:
        self.query, self.reference, self.radii, self.window = query, reference, radii, window
        self.known: dict[tuple[int, int], list[Run]] = {}
        reach = [reach_of(r, window) for r in radii if r is not None]
        whole = sum(r is None for r in radii) * math.prod(reference)
        rows = max(8, (max(reach) + 1)) if reach else 12
        columns = rows * 4 // 3
        while (
            rows > 4
            and rows * columns * (whole + sum((rows + 2 * r) * (columns + 2 * r) for r in reach)) > BLOCK_SCORES
        ):
            rows, columns = rows - 2, (rows - 2) * 4 // 3
        self.block = rows, columns

    def blocks(self, where: Tensor | None) -> Iterator[Block]:
        """The blocks in which there is something to match."""
        height, width = self.query
        chosen = None if where is None else where.cpu().numpy()
        for y in range(0, height, self.block[0]):
            for x in range(0, width, self.block[1]):
                rows, columns = slice(y, min(y + self.block[0], height)), slice(x, min(x + self.block[1], width))
                wanted = None if chosen is None else np.flatnonzero(chosen[rows, columns])
                if wanted is None or len(wanted) > MOST * (rows.stop - rows.start) * (columns.stop - columns.start):
                    yield Block(rows, columns, None)
                elif where is not None and len(wanted) > 0:
                    yield Block(rows, columns, torch.from_numpy(wanted).to(where.device))

    def rectangle(self, block: Block, radius: Radius) -> tuple[slice, slice]:
        h, w = self.reference
        if radius is None:
            return slice(0, h), slice(0, w)
        reach = reach_of(radius, self.window)
        return (
            slice(max(block.rows.start - reach, 0), min(block.rows.stop + reach, h)),
            slice(max(block.columns.start - reach, 0), min(block.columns.stop + reach, w)),
        )

    def runs(self, block: Block) -> list[Run]:
        """What a block is compared with: unrestricted references first, since they are the same for all blocks."""
        corner = block.rows.start, block.columns.start
        if corner in self.known:
            return self.known[corner]
        grouped, first = [], 0
        for radius, same in itertools.groupby(self.radii):
            last = first + len(list(same))
            grouped.append((slice(first, last), radius))
            first = last
        runs, start = [], 0
        for references, radius in sorted(grouped, key=lambda one: one[1] is not None):
            ys, xs = self.rectangle(block, radius)
            stop = start + (references.stop - references.start) * (ys.stop - ys.start) * (xs.stop - xs.start)
            runs.append(Run(references, radius, ys, xs, start, stop))
            start = stop
        self.known[corner] = runs
        return runs

    def most_rows_of(self, run: Run) -> int:
        """Rows of the largest rectangle of a run."""
        return self.largest(run.radius)[0]

    def most_rows(self) -> int:
        """Reference cells that the largest block is compared with."""
        return sum(math.prod(self.largest(radius)) for radius in self.radii)

    def largest(self, radius: Radius) -> tuple[int, int]:
        """Rows and columns of the largest rectangle."""
        if radius is None:
            return self.reference
        more = 2 * reach_of(radius, self.window)
        return min(self.reference[0], self.block[0] + more), min(self.reference[1], self.block[1] + more)

    def outside(self, block: Block, run: Run, like: Tensor) -> Tensor:
        """(columns, rows, n) of the run's rectangle: 0 inside the window, -inf outside."""
        spans = tuple(
            (query.start - reference.start, query.stop - query.start, reference.stop - reference.start)
            for query, reference in ((block.rows, run.rows), (block.columns, run.columns))
        )
        assert run.radius is not None
        mask = _outside(*spans, run.radius, self.window, like.dtype, like.device)
        return mask if block.subset is None else mask[..., block.subset]


@functools.lru_cache(maxsize=16)  # all inner blocks of all frames have the same
def _outside(
    rows: tuple[int, int, int],
    columns: tuple[int, int, int],
    radius: float,
    window: Window,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """`Plan.outside` for a block at an offset in a rectangle: (offset, size of the block, size of the rectangle)."""

    def distances(offset: int, size: int, reference: int) -> Tensor:
        return torch.arange(reference, device=device)[:, None] - torch.arange(offset, offset + size, device=device)

    dy, dx = distances(*rows)[None, :, :, None], distances(*columns)[:, None, None, :]
    inside = dy**2 + dx**2 < radius**2 if window == "disc" else (dy.abs() <= radius) & (dx.abs() <= radius)
    return torch.zeros(inside.shape, dtype=dtype, device=device).masked_fill_(~inside, -torch.inf).flatten(2)


plan = functools.lru_cache(maxsize=8)(Plan)  # frame after frame of a video has the same


class Scorer:
    """Inner products of blocks of query cells with the cells their windows reach, in buffers used again.

    Args:
        plan: of the blocks.
        like: a feature map (h, w, C): of the type, on the device.
    """

    def __init__(self, plan: Plan, like: Tensor) -> None:
        self.plan = plan
        self.keys = like.new_empty(len(plan.radii), *plan.reference, like.shape[-1])
        """(T, h, w, C), for the caller to fill in."""
        self.buffer = like.new_empty(plan.most_rows() * math.prod(plan.block))
        self.strips: dict[int, Tensor] = {}
        self.filled: dict[int, slice] = {}
        """By first reference: space for strips, and the rows that are in it."""

    def scores(self, block: Tensor, runs: list[Run]) -> Tensor:
        """(m, n) scores of the cells of all runs with the query cells (C, n); valid till the next call."""
        scores = self.buffer[: runs[-1].stop * block.shape[1]].view(runs[-1].stop, -1)
        for run in runs:
            keys = self.keys[run.references] if run.radius is None else self.strip(run)[run.columns]
            torch.mm(keys.flatten(0, 2), block, out=scores[run.start : run.stop])
        return scores

    def strip(self, run: Run) -> Tensor:
        """The rows that a run reaches, of the whole width: the same for all blocks beside each other."""
        first = run.references.start
        part = self.keys[run.references, run.rows].permute(2, 0, 1, 3)
        if first not in self.strips:
            self.strips[first] = part.new_empty(part.numel() // part.shape[2] * self.plan.most_rows_of(run))
        strip = self.strips[first][: part.numel()].view(part.shape)
        if self.filled.get(first) != run.rows:
            strip.copy_(part)
            self.filled[first] = run.rows
        return strip


def search(query: Tensor, keys: list[Tensor], plan: Plan, top_k: int, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """The best cells (Q, K) of each query cell (H, W, C) and their scores, -inf for cells outside the window.

    Args:
        keys: T references (h, w, C).
        where: (H, W) bool; query cells outside it are passed over: position 0 at score 0.
    """
    h, w = plan.reference
    top_k = min(top_k, len(keys) * h * w)
    chosen = torch.zeros(*plan.query, top_k, dtype=torch.int64, device=query.device)
    best = query.new_zeros(*plan.query, top_k)
    scorer = Scorer(plan, query)
    torch.stack(keys, out=scorer.keys)
    numbers = torch.arange(len(keys) * h * w, device=query.device).view(-1, h, w)
    for block in plan.blocks(where):
        runs = plan.runs(block)
        scores = scorer.scores(block.take(query).t(), runs)
        for run in runs:
            if run.radius is not None:
                outside = plan.outside(block, run, scores)
                scores[run.start : run.stop].view(len(outside), -1, *outside.shape[1:]).add_(outside[:, None])
        kept = min(top_k, len(scores))
        value, row = scores.t().topk(kept, dim=1)
        positions = torch.cat([run.order(numbers) for run in runs])
        block.put(F.pad(value, (0, top_k - kept), value=-torch.inf), into=best)
        block.put(F.pad(positions[row], (0, top_k - kept)), into=chosen)
    return chosen.flatten(0, 1), best.flatten(0, 1)

"""The exact top-k of windowed similarities: how `affinity` finds its cells.

* A block of query cells is compared with the rectangle of reference cells that its windows can reach, so the cost grows
  with the window and not with the frame squared, and memory with one block.
* The top-k of a row is sought among the groups of columns with the largest maxima. An entry outside the k best groups
  is beaten by k others, so nothing is lost, and one pass over the scores is a plain maximum.
* Where the processor multiplies bfloat16 matrices much faster (AMX), float32 inputs are first compared in bfloat16 to
  shortlist candidates; these are scored again in float32. A bound on the rounding error tells which rows might have
  missed a cell, and those rows are done again, at last in float32 throughout.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.matching.pairs import pair_scores

Window = Literal["disc", "square"]
Radius = float | None

GROUP = 32
"""Columns a group holds when the best of a row are sought."""
SPARE = 14
"""Candidates beyond `top_k` on a bfloat16 shortlist; six times as many for a row that is in doubt."""
BLOCK_SCORES = 4_500_000
"""Scores computed at once: few enough to stay in the cache."""


class _Run(NamedTuple):
    """A rectangle of consecutive references that a block is compared with: columns start to stop of its scores."""

    references: slice
    radius: Radius
    rows: slice
    columns: slice
    start: int
    stop: int


class Plan:
    """Which rectangle of which reference each block of query cells is compared with."""

    def __init__(self, query: tuple[int, int], reference: tuple[int, int], radii: list[Radius], window: Window) -> None:
        self.query, self.reference, self.radii, self.window = query, reference, radii, window
        self.masks: dict[tuple[float, ...], Tensor] = {}
        self.numbers: Tensor | None = None
        reach = [self.reach(r) for r in radii if r is not None]
        whole = sum(r is None for r in radii) * math.prod(reference)
        side = max(8, (max(reach) + 1)) if reach else 16
        while side > 4 and side * side * (whole + sum((side + 2 * r) ** 2 for r in reach)) > BLOCK_SCORES:
            side -= 2
        self.side = side

    def reach(self, radius: float) -> int:
        """The largest distance on one axis inside the window."""
        return math.ceil(radius) - 1 if self.window == "disc" else math.floor(radius)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        height, width = self.query
        for y in range(0, height, self.side):
            for x in range(0, width, self.side):
                yield slice(y, min(y + self.side, height)), slice(x, min(x + self.side, width))

    def rectangle(self, rows: slice, columns: slice, radius: Radius) -> tuple[slice, slice]:
        h, w = self.reference
        if radius is None:
            return slice(0, h), slice(0, w)
        reach = self.reach(radius)
        return (
            slice(max(rows.start - reach, 0), min(rows.stop + reach, h)),
            slice(max(columns.start - reach, 0), min(columns.stop + reach, w)),
        )

    def runs(self, rows: slice, columns: slice) -> list[_Run]:
        """What a block is compared with: unrestricted references first, since they are the same for all blocks."""
        grouped, first = [], 0
        for radius, same in itertools.groupby(self.radii):
            last = first + len(list(same))
            grouped.append((slice(first, last), radius))
            first = last
        runs, start = [], 0
        for references, radius in sorted(grouped, key=lambda one: one[1] is not None):
            ys, xs = self.rectangle(rows, columns, radius)
            cells = (references.stop - references.start) * (ys.stop - ys.start) * (xs.stop - xs.start)
            runs.append(_Run(references, radius, ys, xs, start, start + cells))
            start += cells
        return runs

    def most_columns(self) -> int:
        """Columns of the largest block, filled up to a multiple of GROUP."""
        h, w = self.reference
        sides = [(h, w) if r is None else [min(s, self.side + 2 * self.reach(r)) for s in (h, w)] for r in self.radii]
        return -(-sum(math.prod(side) for side in sides) // GROUP) * GROUP

    def positions(self, rows: slice, columns: slice, device: torch.device) -> Tensor:
        """(m,) positions in the flattened references of a block's columns; 0 for the filling."""
        if self.numbers is None:
            h, w = self.reference
            self.numbers = torch.arange(len(self.radii) * h * w, device=device).view(-1, h, w)
        runs = self.runs(rows, columns)
        flat = torch.cat([self.numbers[one.references, one.rows, one.columns].flatten() for one in runs])
        return F.pad(flat, (0, -len(flat) % GROUP))

    def outside(self, rows: slice, columns: slice, radius: float, like: Tensor) -> Tensor:
        """(block cells, rectangle cells): 0 inside the window, -inf outside. Equal for all inner blocks, so kept."""
        ys, xs = self.rectangle(rows, columns, radius)
        key = (
            *(rows.start - ys.start, columns.start - xs.start, rows.stop - rows.start, columns.stop - columns.start),
            *(ys.stop - ys.start, xs.stop - xs.start, radius),
        )
        if key not in self.masks:

            def offsets(query: slice, reference: slice) -> Tensor:
                q = torch.arange(query.start, query.stop, device=like.device)
                return torch.arange(reference.start, reference.stop, device=like.device) - q[:, None]

            dy, dx = offsets(rows, ys)[:, None, :, None], offsets(columns, xs)[None, :, None, :]
            if self.window == "disc":
                inside = dy**2 + dx**2 < radius**2
            else:
                inside = (dy.abs() <= radius) & (dx.abs() <= radius)
            mask = torch.zeros(inside.shape, dtype=like.dtype, device=like.device).masked_fill_(~inside, -torch.inf)
            self.masks[key] = mask.flatten(2).flatten(0, 1)
        return self.masks[key]


def search(
    query: Tensor, keys: Tensor, plan: Plan, top_k: int, shortlist: bool, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The best cells (Q, K) of each query cell and their scores, -inf for cells outside the window.

    Query cells outside `where` (H, W) are passed over: position 0 at score 0.
    """
    height, width, _ = query.shape
    flat = keys.flatten(0, 2)
    top_k = min(top_k, len(flat))
    chosen = torch.zeros(height, width, top_k, dtype=torch.int64, device=query.device)
    scores = query.new_zeros(height, width, top_k)
    exact = _Scorer(query, keys, plan)
    if shortlist:
        rough_query, rough_keys, allowance = _round(query, keys)
        rough = _Scorer(rough_query, rough_keys, plan)
    for ys, xs in plan.blocks():
        wanted = torch.ones_like(query[ys, xs, 0], dtype=torch.bool) if where is None else where[ys, xs]
        rows = wanted.flatten().nonzero().flatten()
        if len(rows) == 0:
            continue
        subset = None if len(rows) == wanted.numel() else rows
        positions = plan.positions(ys, xs, query.device)
        if shortlist:
            best, found, doubtful = _shortlisted(
                rough.scores(ys, xs, subset), query[ys, xs][wanted], flat, positions, top_k, allowance[ys, xs][wanted]
            )
            # Where rounding leaves most rows in doubt, the detour does not pay for this input.
            shortlist = 2 * len(doubtful) < len(rows)
            if len(doubtful):
                best[doubtful], column, _ = _best(exact.scores(ys, xs, rows[doubtful]), top_k, top_k)
                found[doubtful] = positions[column]
        else:
            best, column, _ = _best(exact.scores(ys, xs, subset), top_k, top_k)
            found = positions[column]
        chosen[ys, xs][wanted] = found
        scores[ys, xs][wanted] = best
    return chosen.flatten(0, 1), scores.flatten(0, 1)


def _shortlisted(
    rough: Tensor, block: Tensor, flat: Tensor, positions: Tensor, top_k: int, allowance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The exact scores and positions (n, top_k) of the best, from rough scores (n, m); and the rows still in doubt.

    A row is in doubt where a cell left out could beat one that was kept: `allowance` (n,) is the most by which an exact
    score exceeds a rough one, before that was rounded.
    """
    doubtful = torch.arange(len(block), device=block.device)
    scores = block.new_empty(len(block), top_k)
    found = torch.empty(len(block), top_k, dtype=torch.int64, device=block.device)
    for spare, groups in ((SPARE, top_k + SPARE // 2), (6 * SPARE, top_k + 4 * SPARE)):
        if len(doubtful) == 0:
            break
        rows = rough if len(doubtful) == len(rough) else rough[doubtful]
        kept, column, missed = _best(rows, min(top_k + spare, len(flat)), groups)
        cells = positions[column]
        again = pair_scores(block[doubtful], flat, cells).masked_fill_(kept == -torch.inf, -torch.inf)
        best, order = again.topk(top_k, dim=1)
        scores[doubtful], found[doubtful] = best, cells.gather(1, order)
        missed = missed.float()
        # What was left out scores at most this: rough scores are themselves rounded, too.
        missed = missed + missed.abs() * 2**-8 + allowance[doubtful]
        doubtful = doubtful[missed > best[:, -1]]
    return scores, found, doubtful


def _round(query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query and keys in bfloat16, and the most (H, W) by which a query's exact inner product exceeds theirs.

    Adding a constant to all scores of a query changes no ranking, so the keys are centred first: what is rounded is
    smaller then, and so is the error.
    """
    centre = query.flatten(0, 1).mean(0)
    rounded = torch.empty_like(keys, dtype=torch.bfloat16)
    largest = query.new_zeros(())
    for key, target in zip(keys, rounded, strict=True):  # one by one: what is centred stays in the cache
        centred = key - centre
        target.copy_(centred)
        largest = torch.maximum(largest, torch.linalg.vector_norm(centred, dim=2).max())
    # Each entry is rounded by at most 2^-8 of itself, in the query and in the key (Cauchy-Schwarz).
    error = torch.linalg.vector_norm(query, dim=2) * largest * (2**-7 + 2**-16)
    return query.bfloat16(), rounded, query @ centre + error


class _Scorer:
    """Inner products of blocks of query cells with the cells their windows reach, in buffers used again.

    Args:
        query: (H, W, C).
        keys: (T, h, w, C).
    """

    def __init__(self, query: Tensor, keys: Tensor, plan: Plan) -> None:
        self.query, self.keys, self.plan = query, keys, plan
        self.gathered = query.new_empty(0, query.shape[2])
        self.buffer = query.new_empty(0)

    def scores(self, ys: slice, xs: slice, subset: Tensor | None = None) -> Tensor:
        """(n, m) scores of a block, or of a subset of its cells; -inf outside the window.

        Columns are as in `Plan.positions`, m filled up to a multiple of GROUP with -inf. Valid until the next call.
        """
        channels = self.query.shape[2]
        block = self.query[ys, xs].reshape(-1, channels)  # (n, C)
        block = block if subset is None else block[subset]
        runs = self.plan.runs(ys, xs)
        count = runs[-1].stop
        if len(self.gathered) < count:
            self.gathered = self.query.new_empty(self.plan.most_columns(), channels)
            for run in runs:
                if run.radius is None:  # the same for all blocks, so filled in once
                    self.gathered[run.start : run.stop] = self.keys[run.references].flatten(0, 2)
        for run in runs:
            if run.radius is not None:
                part = self.keys[run.references, run.rows, run.columns]
                self.gathered[run.start : run.stop].view(part.shape).copy_(part)
        filled = -(-count // GROUP) * GROUP
        if self.buffer.numel() < len(block) * filled:
            self.buffer = self.query.new_empty(self.plan.side**2 * (self.plan.most_columns() + GROUP))
        self.gathered[count:filled] = 0
        scores = self.buffer[: len(block) * filled].view(len(block), filled)
        torch.mm(block, self.gathered[:filled].t(), out=scores)
        scores[:, count:] = -torch.inf
        for run in runs:
            if run.radius is not None:
                outside = self.plan.outside(ys, xs, run.radius, scores)
                outside = outside if subset is None else outside[subset]
                scores[:, run.start : run.stop].unflatten(1, (-1, outside.shape[1])).add_(outside[:, None])
        return scores


def _best(scores: Tensor, wanted: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `wanted` best (n, wanted) of each row, descending, their columns, and a bound (n,) on the best one left out.

    Only the `groups` groups of columns with the largest maxima are looked into; from `groups` = `wanted` on, the
    answer is exact.
    """
    n, m = scores.shape
    if m <= wanted:
        best, position = F.pad(scores, (0, wanted - m), value=-torch.inf).topk(wanted, dim=1)
        return best, position.clamp_max(m - 1), scores.new_full((n,), -torch.inf)
    per_row = scores.view(n, GROUP, m // GROUP)  # a group is a column of it, so that its maximum is a vector operation
    if groups + 1 >= m // GROUP:
        best, position = scores.topk(min(wanted + 1, m), dim=1)
        left = best[:, wanted] if m > wanted else scores.new_full((n,), -torch.inf)
        return best[:, :wanted], position[:, :wanted], left
    maxima, group = per_row.amax(1).topk(groups + 1, dim=1)
    left, group = maxima[:, groups], group[:, :groups]
    inner = per_row.gather(2, group[:, None].expand(n, GROUP, groups)).flatten(1)  # (n, GROUP * groups)
    best, position = inner.topk(wanted + 1, dim=1)
    left = torch.maximum(left, best[:, wanted])
    position = position[:, :wanted]
    inside, which = position // groups, position % groups
    return best[:, :wanted], inside * (m // GROUP) + group.gather(1, which), left

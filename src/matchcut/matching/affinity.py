"""Pixels matched to pixels: exact windowed top-k softmax affinity.

For each query cell: its similarities to the reference cells inside a window, the `top_k` best of them, and a softmax at
`temperature` over those. This is the propagation step of label propagation (Jabri et al., "Space-Time Correspondence as
a Contrastive Random Walk", NeurIPS 2020; Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
ICCV 2021) and, with learned values, the memory read of Mask-VOS (Eq. 7, 8).

How it is fast and still exact:

* A block of query cells is compared with the rectangle of reference cells that its windows can reach, so the cost grows
  with the window and not with the frame squared, and memory with one block.
* The top-k of a row is sought among the `top_k` groups of columns with the largest maxima. An entry outside them is
  beaten by `top_k` others, so nothing is lost, and one pass over the scores is a plain maximum.
* Where the processor multiplies bfloat16 matrices much faster (AMX), float32 inputs are first compared in bfloat16 to
  shortlist candidates; these are scored again in float32. A bound on the rounding error tells which rows might have
  missed a cell, and those rows are done again in float32 throughout.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError

Window = Literal["disc", "square"]
Radius = float | None

GROUP = 32
"""Columns a group holds when the best of a row are sought."""
SPARE = 14
"""Candidates beyond `top_k` on a bfloat16 shortlist; six times as many for a row that is in doubt."""
BLOCK_SCORES = 4_500_000
"""Scores computed at once: few enough to stay in the cache."""


@dataclass(frozen=True)
class Affinity:
    """The match `affinity` returns, kept sparse: `top_k` reference cells a query cell.

    Attributes:
        indices: (B, Q, K) int64, positions in the flattened reference (T * h * w).
        weights: (B, Q, K), each row sums to 1.
        query_shape: (H, W), with Q = H * W.
        reference_shape: (T, h, w).
    """

    indices: Tensor
    weights: Tensor
    query_shape: tuple[int, int]
    reference_shape: tuple[int, int, int]

    @property
    def residual(self) -> Tensor:
        """(B,) zeros: rows sum to 1 by construction."""
        return self.weights.new_zeros(self.weights.shape[0])

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, C, T, h, w), or (B, C, h, w) when T = 1, to the query: (B, C, H, W).

        Raises:
            ShapeError: the values do not lie on the reference cells.
        """
        batch, cells, _ = self.indices.shape
        if (
            values.ndim < 3
            or values.shape[0] != batch
            or math.prod(values.shape[2:]) != math.prod(self.reference_shape)
        ):
            raise ShapeError(
                f"values: expected (B, C, T, h, w) with B = {batch} and (T, h, w) = {self.reference_shape}, "
                f"got {tuple(values.shape)}"
            )
        channels = values.shape[1]
        if channels == 0 or cells == 0:
            return values.new_zeros(batch, channels, *self.query_shape)
        rows = values.flatten(2).transpose(1, 2).contiguous()  # (B, R, C)
        weights = self.weights.to(rows.dtype)
        carried = [
            F.embedding_bag(index, row, per_sample_weights=weight, mode="sum")  # (Q, C)
            for index, row, weight in zip(self.indices, rows, weights, strict=True)
        ]
        return torch.stack(carried).transpose(1, 2).reshape(batch, channels, *self.query_shape)

    def dense(self) -> Tensor:
        """The affinity matrix (B, H * W, T * h * w)."""
        batch, cells, _ = self.indices.shape
        matrix = self.weights.new_zeros(batch, cells, math.prod(self.reference_shape))
        return matrix.scatter_add(2, self.indices, self.weights)


def affinity(
    query: Tensor,
    reference: Tensor | Sequence[Tensor],
    *,
    top_k: int = 10,
    temperature: float = 0.05,
    radius: Radius | Sequence[Radius] = None,
    window: Window = "disc",
    where: Tensor | None = None,
    shortlist: bool | None = None,
) -> Affinity:
    """Match each query cell to the `top_k` most similar reference cells in its window.

    Similarity is the inner product, so pass L2-normalised features for the cosine. Differentiable in `query` and
    `reference`; which cells are matched is a choice and has no gradient.

    Args:
        query: (B, C, H, W) features.
        reference: (B, C, T, h, w), or (B, C, h, w), or a sequence of T tensors (B, C, h, w), which spares the copy.
        top_k: cells kept for a query cell; all where the reference has fewer.
        temperature: of the softmax over the kept similarities, above 0.
        radius: reach of the window in cells, one for all references or one for each; None leaves it unrestricted. A
            windowed reference must have the size of the query.
        window: "disc" keeps cells at a distance below `radius` (CRW), "square" those at most `radius` away on both
            axes (DINO).
        where: (B, H, W) bool, the query cells that are to be matched; all where None. The others carry nothing: their
            weights are 0.
        shortlist: compare in bfloat16 first, then exactly (see the module); None where it is faster. The answer is
            the same.

    Returns:
        The match; `apply` carries values (B, C, T, h, w) to (B, C, H, W).

    Raises:
        ShapeError: shapes that do not fit together.
        ValueError: a setting out of its range.
    """
    references = _as_list(query, reference)
    radii = _radii(radius, len(references))
    batch, channels, height, width = query.shape
    t, (h, w) = len(references), references[0].shape[2:]
    if top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}")
    if not temperature > 0:
        raise ValueError(f"temperature: expected above 0, got {temperature}")
    if window not in ("disc", "square"):
        raise ValueError(f'window: expected "disc" or "square", got {window!r}')
    if any(r is not None for r in radii) and (h, w) != (height, width):
        raise ShapeError(
            f"reference: a windowed reference must have the query's size {(height, width)}, got {(h, w)}; "
            "give radius=None for that reference"
        )
    for r in radii:
        if r is not None and not (r > 0 or (window == "square" and r == 0)):
            raise ValueError(f"radius: expected above 0 (or None), got {r}")
    if h * w == 0:
        raise ShapeError("reference: it has no cells")
    if shortlist is None:
        shortlist = query.dtype == torch.float32 and query.device.type == "cpu" and channels >= 32 and _has_amx()

    indices, weights = [], []
    for item in range(batch):
        rows = query[item].permute(1, 2, 0).contiguous()  # (H, W, C)
        keys = [r[item].permute(1, 2, 0).contiguous() for r in references]  # T x (h, w, C); free for channels_last
        flat = torch.cat([key.reshape(-1, channels) for key in keys])
        with torch.no_grad():
            plan = _Plan((height, width), (h, w), radii, window)
            chosen, scores = _search(
                *(rows.detach(), [key.detach() for key in keys], flat.detach(), plan, top_k, shortlist),
                None if where is None else where[item],
            )
        if flat.requires_grad or (rows.requires_grad and torch.is_grad_enabled()):
            again = pair_scores(rows.reshape(-1, channels), flat, chosen)
            scores = again.masked_fill(scores == -torch.inf, -torch.inf)
        indices.append(chosen)
        weight = (scores / temperature).softmax(dim=1)
        weights.append(weight if where is None else weight * where[item].reshape(-1, 1))
    return Affinity(torch.stack(indices), torch.stack(weights), (height, width), (t, h, w))


class _Piece(NamedTuple):
    """The rectangle of one reference that a block is compared with: columns start to stop of its scores."""

    reference: int
    radius: Radius
    rows: slice
    columns: slice
    start: int
    stop: int


class _Plan:
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

    def pieces(self, rows: slice, columns: slice) -> Iterator[_Piece]:
        """What a block is compared with: unrestricted references first, since they are the same for all blocks."""
        start = 0
        for reference in sorted(range(len(self.radii)), key=lambda index: self.radii[index] is not None):
            radius = self.radii[reference]
            ys, xs = self.rectangle(rows, columns, radius)
            stop = start + (ys.stop - ys.start) * (xs.stop - xs.start)
            yield _Piece(reference, radius, ys, xs, start, stop)
            start = stop

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
        pieces = self.pieces(rows, columns)
        flat = torch.cat([self.numbers[one.reference, one.rows, one.columns].flatten() for one in pieces])
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


def _search(
    query: Tensor, keys: list[Tensor], flat: Tensor, plan: _Plan, top_k: int, shortlist: bool, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The best cells (Q, K) of each query cell and their scores, -inf for cells outside the window.

    Blocks with no cell in `where` (H, W) are passed over: position 0 at score 0.
    """
    height, width, channels = query.shape
    top_k = min(top_k, len(flat))
    chosen = torch.zeros(height, width, top_k, dtype=torch.int64, device=query.device)
    scores = query.new_zeros(height, width, top_k)
    exact = _Scorer(query, keys, plan)
    if shortlist:
        rough_query, rough_keys, allowance = _round(query, keys)
        rough = _Scorer(rough_query, rough_keys, plan)
    for ys, xs in plan.blocks():
        if where is not None and not where[ys, xs].any():
            continue
        positions = plan.positions(ys, xs, query.device)
        if shortlist:
            block = query[ys, xs].reshape(-1, channels)  # (n, C)
            best, found, doubtful = _shortlisted(
                rough.scores(ys, xs), block, flat, positions, top_k, allowance[ys, xs].flatten()
            )
            # Where rounding leaves most rows in doubt, the detour does not pay for this input.
            shortlist = 2 * len(doubtful) < len(block)
            if len(doubtful):
                best[doubtful], column, _ = _best(exact.scores(ys, xs, doubtful), top_k, top_k)
                found[doubtful] = positions[column]
        else:
            best, column, _ = _best(exact.scores(ys, xs), top_k, top_k)
            found = positions[column]
        shape = (ys.stop - ys.start, xs.stop - xs.start, top_k)
        chosen[ys, xs], scores[ys, xs] = found.view(shape), best.view(shape)
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
        missed = missed + missed.abs() * 2**-9 + allowance[doubtful]
        doubtful = doubtful[missed > best[:, -1]]
    return scores, found, doubtful


def _round(query: Tensor, keys: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Query and keys in bfloat16, and the most (H, W) by which a query's exact inner product exceeds theirs.

    Adding a constant to all scores of a query changes no ranking, so the keys are centred first: what is rounded is
    smaller then, and so is the error.
    """
    centre = query.flatten(0, 1).mean(0)
    centred = torch.empty_like(keys[0])
    rounded, largest = [], query.new_zeros(())
    for key in keys:
        torch.sub(key, centre, out=centred)
        rounded.append(centred.bfloat16())
        largest = torch.maximum(largest, torch.linalg.vector_norm(centred, dim=2).max())
    # Each entry is rounded by at most 2^-9 of itself, in the query and in the key (Cauchy-Schwarz).
    error = torch.linalg.vector_norm(query, dim=2) * largest * (2**-8 + 2**-18)
    return query.bfloat16(), rounded, query @ centre + error


class _Scorer:
    """Inner products of blocks of query cells with the cells their windows reach, in buffers used again."""

    def __init__(self, query: Tensor, keys: list[Tensor], plan: _Plan) -> None:
        self.query, self.keys, self.plan = query, keys, plan
        self.gathered = query.new_empty(0, query.shape[2])
        self.buffer = query.new_empty(0)

    def scores(self, ys: slice, xs: slice, subset: Tensor | None = None) -> Tensor:
        """(n, m) scores of a block, or of a subset of its cells; -inf outside the window.

        Columns are as in `_Plan.positions`, m filled up to a multiple of GROUP with -inf. Valid until the next call.
        """
        channels = self.query.shape[2]
        block = self.query[ys, xs].reshape(-1, channels)  # (n, C)
        block = block if subset is None else block[subset]
        pieces = list(self.plan.pieces(ys, xs))
        count = pieces[-1].stop
        if len(self.gathered) < count:
            self.gathered = self.query.new_empty(self.plan.most_columns(), channels)
            for piece in pieces:
                if piece.radius is None:  # the same for all blocks, so filled in once
                    self.gathered[piece.start : piece.stop] = self.keys[piece.reference].flatten(0, 1)
        for piece in pieces:
            if piece.radius is not None:
                part = self.keys[piece.reference][piece.rows, piece.columns]
                self.gathered[piece.start : piece.stop].view(part.shape).copy_(part)
        filled = -(-count // GROUP) * GROUP
        if self.buffer.numel() < len(block) * filled:
            self.buffer = self.query.new_empty(self.plan.side**2 * (self.plan.most_columns() + GROUP))
        self.gathered[count:filled] = 0
        scores = self.buffer[: len(block) * filled].view(len(block), filled)
        torch.mm(block, self.gathered[:filled].t(), out=scores)
        scores[:, count:] = -torch.inf
        for piece in pieces:
            if piece.radius is not None:
                outside = self.plan.outside(ys, xs, piece.radius, scores)
                scores[:, piece.start : piece.stop] += outside if subset is None else outside[subset]
        return scores


def _best(scores: Tensor, wanted: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `wanted` best (n, wanted) of each row, descending, their columns, and a bound (n,) on the best one left out.

    Only the `groups` groups of columns with the largest maxima are looked into; from `groups` = `wanted` on, the
    answer is exact.
    """
    n, m = scores.shape
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


class _PairScores(torch.autograd.Function):
    """Inner products of chosen pairs, without gathering the (Q, M, C) rows."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, pairs)
        if query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64):
            pattern = _csr(pairs, query.new_zeros(pairs.numel()), len(keys))
            scores: Tensor = torch.sparse.sampled_addmm(pattern, query, keys.t(), beta=0.0).values()
            return scores.view(pairs.shape)
        step = max(1, BLOCK_SCORES * 4 // max(1, pairs.shape[1] * query.shape[1]))
        parts = zip(query.split(step), pairs.split(step), strict=True)
        return torch.cat([torch.einsum("qmc,qc->qm", keys[pair], row) for row, pair in parts])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        query, keys, pairs = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_query = grad_keys = None
        if ctx.needs_input_grad[0]:
            grad_query = F.embedding_bag(pairs, keys, per_sample_weights=grad.contiguous(), mode="sum")
        if ctx.needs_input_grad[1]:
            grad_keys = torch.zeros_like(keys)
            for rank in range(pairs.shape[1]):
                grad_keys.index_add_(0, pairs[:, rank], grad[:, rank, None] * query)
        return grad_query, grad_keys, None


def pair_scores(query: Tensor, keys: Tensor, pairs: Tensor) -> Tensor:
    """Inner products (Q, M) of each query row (Q, C) with the keys (R, C) that pairs (Q, M) names. Differentiable."""
    scores: Tensor = _PairScores.apply(query, keys, pairs)
    return scores


def _csr(columns: Tensor, values: Tensor, width: int) -> Tensor:
    """(Q, width) in CSR form with `columns` (Q, M) filled."""
    starts = torch.arange(0, columns.numel() + 1, columns.shape[1], device=columns.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts, columns.flatten(), values, size=(columns.shape[0], width), check_invariants=False
        )


def _as_list(query: Tensor, reference: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if query.ndim != 4:
        raise ShapeError(f"query: expected (B, C, H, W), got {tuple(query.shape)}")
    if isinstance(reference, Tensor):
        if reference.ndim not in (4, 5):
            raise ShapeError(f"reference: expected (B, C, T, h, w) or (B, C, h, w), got {tuple(reference.shape)}")
        reference = reference.unbind(2) if reference.ndim == 5 else [reference]
    references = list(reference)
    if not references:
        raise ShapeError("reference: expected at least one, got none")
    for one in references:
        if one.ndim != 4 or one.shape[:2] != query.shape[:2] or one.shape != references[0].shape:
            raise ShapeError(
                f"reference: expected (B, C, h, w) with B, C = {tuple(query.shape[:2])}, all of one size, "
                f"got {tuple(one.shape)}"
            )
        if one.dtype != query.dtype or one.device != query.device:
            raise ShapeError(
                f"reference: expected {query.dtype} on {query.device} as the query, got {one.dtype} on {one.device}"
            )
    return references


def _radii(radius: Radius | Sequence[Radius], count: int) -> list[Radius]:
    if radius is None or isinstance(radius, int | float):
        return [radius] * count
    radii = list(radius)
    if len(radii) != count:
        raise ShapeError(f"radius: expected one, or one for each of the {count} references, got {len(radii)}")
    return radii


def _has_amx() -> bool:
    """Whether this processor has tiles for bfloat16 matrix products, many times faster than its float32 ones."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())

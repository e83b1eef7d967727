"""A match taken to a finer grid: exact among the fine cells that lie in and around the cells already matched.

Coarse to fine: a cell's best matches on the coarse grid say where to look, so that the fine grid needs no search of its
own. For a fine cell its coarse cell's `top_k` matches hold 16 fine cells each (the four inside, and the ring around
them), and these alone are compared. On edges of masks a grid of half the stride is worth its price, elsewhere it is
not, so the fine cells that are matched are named by `where`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.affinity import Affinity, check_temperature, check_top_k, sharpened
from matchcut.matching.base import at_least_float32, full_precision
from matchcut.matching.pairs import pair_scores, wanted_pair_scores

AROUND = range(-1, 3)
"""Of a coarse cell at (y, x), the fine rows 2y - 1 to 2y + 2, and so the columns."""


@full_precision
def refine(
    match: Affinity,
    query: Tensor,
    reference: Sequence[Tensor],
    where: Tensor,
    *,
    top_k: int = 10,
    temperature: float = 0.05,
) -> Affinity:
    """Match the query cells of a grid twice as fine as that of `match`, among the cells around its own matches.

    Differentiable in `query` and `reference`, as `affinity` is, and computed in the same precision.

    Args:
        match: of the coarse grids, query (H, W) and T references (h, w).
        query: (B, C, 2H, 2W) features.
        reference: T of (B, C, 2h, 2w).
        where: (B, 2H, 2W) bool, the fine cells that are matched; the others carry nothing, and neither do those whose
            coarse cell was not matched.
        top_k: cells kept for a query cell.
        temperature: of the softmax over the kept similarities, above 0 and finite.

    Returns:
        The match on the fine grids.

    Raises:
        ShapeError: shapes that do not fit together.
        ValueError: a setting out of its range.
    """
    height, width = (2 * side for side in match.query_shape)
    count, h, w = match.reference_shape[0], 2 * match.reference_shape[1], 2 * match.reference_shape[2]
    batch, channels = query.shape[:2]
    if tuple(query.shape[2:]) != (height, width) or batch != len(match.indices):
        raise ShapeError(f"query: expected {(len(match.indices), channels, height, width)}, got {tuple(query.shape)}")
    if len(reference) != count or any(tuple(one.shape) != (batch, channels, h, w) for one in reference):
        raise ShapeError(
            f"reference: expected {count} of {(batch, channels, h, w)}, got {[tuple(one.shape) for one in reference]}"
        )
    if any((one.dtype, one.device) != (query.dtype, query.device) for one in reference):
        raise ShapeError(
            f"reference: expected {query.dtype} on {query.device} as the query, "
            f"got {[f'{one.dtype} on {one.device}' for one in reference]}"
        )
    if tuple(where.shape) != (batch, height, width) or where.dtype != torch.bool:
        raise ShapeError(f"where: expected bool {(batch, height, width)}, got {where.dtype} {tuple(where.shape)}")
    check_top_k(top_k)
    check_temperature(temperature)
    kept = min(top_k, match.indices.shape[2] * len(AROUND) ** 2)
    indices = match.indices.new_zeros(batch, height * width, kept)
    dtype = at_least_float32(query)
    weights = query.new_zeros(batch, height * width, kept, dtype=dtype)
    scores = query.new_full((batch, height * width, kept), -torch.inf, dtype=dtype)
    with_gradient = torch.is_grad_enabled() and (query.requires_grad or any(one.requires_grad for one in reference))
    for item in range(batch):
        # In the order of coarse cells: the four of each, which have the same cells to look at, come together.
        of_cells = where[item].reshape(height // 2, 2, width // 2, 2).transpose(1, 2)
        coarse_y, coarse_x, inner_y, inner_x = of_cells.nonzero(as_tuple=True)
        y, x, own = 2 * coarse_y + inner_y, 2 * coarse_x + inner_x, coarse_y * (width // 2) + coarse_x
        matched = match.weights[item, own].sum(1) > 0
        y, x, own = y[matched], x[matched], own[matched]
        if not len(y):
            continue
        rows = query[item].permute(1, 2, 0)[y, x].to(dtype)  # (Q, C)
        keys = [one[item].permute(1, 2, 0).reshape(h * w, channels).contiguous().to(dtype) for one in reference]
        with torch.no_grad():
            chosen, best = _search(match, item, own, rows.detach(), [one.detach() for one in keys], (h, w), kept)
        if with_gradient:
            best = pair_scores(rows, torch.cat(keys), chosen).masked_fill(best == -torch.inf, -torch.inf)
        at = y * width + x
        indices[item, at] = chosen
        scores = scores.index_put((at.new_tensor(item), at), best)
        weights = weights.index_put((at.new_tensor(item), at), sharpened(best, temperature))
    return Affinity(indices, weights.to(query.dtype), scores.to(query.dtype), (height, width), (count, h, w))


def near_edges(soft_masks: Tensor, reach: int) -> Tensor:
    """(B, h, w) bool: the cells within `reach` cells, on either axis, of one that belongs to something else.

    Args:
        soft_masks: (B, 1 + N, h, w); a cell belongs to what has most of it.
    """
    best = soft_masks[:, :1]
    labels = torch.zeros_like(best, dtype=torch.float32)  # bfloat16 counts to 256 only
    for index in range(1, soft_masks.shape[1]):  # argmax over a few channels takes ten times as long on the CPU
        labels = labels.masked_fill(soft_masks[:, index : index + 1] > best, index)
        best = torch.maximum(best, soft_masks[:, index : index + 1])
    both = torch.cat([labels, -labels], 1)
    both = F.max_pool2d(both, (2 * reach + 1, 1), 1, (reach, 0))  # a square is a column of rows
    most, least = F.max_pool2d(both, (1, 2 * reach + 1), 1, (0, reach)).unbind(1)
    return most != -least


def _search(
    match: Affinity, item: int, own: Tensor, rows: Tensor, keys: list[Tensor], size: tuple[int, int], kept: int
) -> tuple[Tensor, Tensor]:
    """Positions and scores (Q, kept) of the best around the matches of the coarse cells `own`."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32:
        from matchcut.matching.cpu.refine import best_around  # late: Numba takes a moment to load

        return best_around(rows, own, keys, match.indices[item], match.weights[item].detach().float(), size, kept)
    cells, fresh = _candidates(match, item, own, *size)
    best, place = wanted_pair_scores(rows, keys, cells, fresh).topk(kept, 1)
    return cells.gather(1, place), best


def _candidates(match: Affinity, item: int, own: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Positions (Q, M) in the flattened fine references, ascending, and which of them are to be compared: each once,
    and none for a match that carries nothing."""
    pairs, weights = match.indices[item, own], match.weights[item, own]
    coarse = (h // 2) * (w // 2)
    frame, y, x = pairs // coarse, pairs % coarse // (w // 2), pairs % (w // 2)
    shifts = torch.tensor(AROUND, device=own.device)
    rows = (2 * y[..., None] + shifts).clamp(0, h - 1)
    columns = (2 * x[..., None] + shifts).clamp(0, w - 1)
    cells = frame[..., None, None] * (h * w) + rows[..., :, None] * w + columns[..., None, :]
    nothing = match.reference_shape[0] * h * w
    cells = cells.masked_fill((weights == 0)[..., None, None], nothing).flatten(1).sort(1).values
    fresh = F.pad(cells[:, 1:] != cells[:, :-1], (1, 0), value=True) & (cells != nothing)
    return cells.clamp(max=nothing - 1), fresh

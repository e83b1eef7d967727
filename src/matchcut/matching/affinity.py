"""Pixels matched to pixels: exact windowed top-k softmax affinity.

For each query cell: its similarities to the reference cells inside a window, the `top_k` best of them, and a softmax at
`temperature` over those. This is the propagation step of label propagation (Jabri et al., "Space-Time Correspondence as
a Contrastive Random Walk", NeurIPS 2020; Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
ICCV 2021) and, with learned values, the memory read of Mask-VOS (Eq. 7, 8).

How it is fast and still exact: see `matchcut.matching.search`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.pairs import pair_scores
from matchcut.matching.search import Plan, Radius, Window, search


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
        if 0 in (batch, channels, cells):
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
    if where is not None and (where.shape != (batch, height, width) or where.dtype != torch.bool):
        raise ShapeError(f"where: expected bool {(batch, height, width)}, got {where.dtype} {tuple(where.shape)}")
    if batch == 0:
        empty = query.new_empty(0, height * width, min(top_k, t * h * w))
        return Affinity(empty.long(), empty, (height, width), (t, h, w))
    if h * w == 0:
        raise ShapeError("reference: it has no cells")
    if shortlist is None:
        shortlist = query.dtype == torch.float32 and query.device.type == "cpu" and channels >= 32 and _has_amx()

    indices, weights = [], []
    for item in range(batch):
        rows = query[item].permute(1, 2, 0).contiguous()  # (H, W, C)
        keys = torch.stack([r[item].permute(1, 2, 0) for r in references])  # (T, h, w, C)
        with torch.no_grad():
            plan = Plan((height, width), (h, w), radii, window)
            needed = None if where is None else where[item]
            chosen, scores = search(rows.detach(), keys.detach(), plan, top_k, shortlist, needed)
        if torch.is_grad_enabled() and (keys.requires_grad or rows.requires_grad):
            again = pair_scores(rows.flatten(0, 1), keys.flatten(0, 2), chosen)
            scores = again.masked_fill(scores == -torch.inf, -torch.inf)
        indices.append(chosen)
        weight = (scores / temperature).softmax(dim=1)
        weights.append(weight if where is None else weight * where[item].reshape(-1, 1))
    return Affinity(torch.stack(indices), torch.stack(weights), (height, width), (t, h, w))


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
    if not isinstance(radius, Iterable):
        radius = [radius] * count
    radii = [None if one is None or math.isinf(one) else float(one) for one in radius]
    if len(radii) != count:
        raise ShapeError(f"radius: expected one, or one for each of the {count} references, got {len(radii)}")
    return radii


def _has_amx() -> bool:
    """Whether this processor has tiles for bfloat16 matrix products, many times faster than its float32 ones."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())

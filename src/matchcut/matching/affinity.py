"""Pixels matched to pixels: exact windowed top-k softmax affinity.

For each query cell: its similarities to the reference cells inside a window, the `top_k` best of them, and a softmax at
`temperature` over those. This is the propagation step of label propagation (Jabri et al., "Space-Time Correspondence as
a Contrastive Random Walk", NeurIPS 2020; Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
ICCV 2021) and, with learned values, the memory read of Mask-VOS (Eq. 7, 8).

How it is fast and still exact: see `matchcut.matching.search`.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from threading import Thread

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.base import at_least_float32, check_values, full_precision
from matchcut.matching.pairs import pair_scores
from matchcut.matching.search import Radius, Window, search
from matchcut.matching.uncompiled import uncompiled


@dataclass(frozen=True)
class Affinity:
    """The match `affinity` returns, kept sparse: `top_k` reference cells a query cell.

    Attributes:
        indices: (B, Q, K) int64, positions in the flattened reference (T * h * w).
        weights: (B, Q, K), each row sums to 1.
        scores: (B, Q, K) the similarities, descending; -inf for a reference cell that is none.
        query_shape: (H, W), with Q = H * W.
        reference_shape: (T, h, w).
    """

    indices: Tensor
    weights: Tensor
    scores: Tensor
    query_shape: tuple[int, int]
    reference_shape: tuple[int, int, int]

    @property
    def residual(self) -> Tensor:
        """(B,) zeros: rows sum to 1 by construction."""
        return self.weights.new_zeros(self.weights.shape[0])

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, C, T, h, w), or (B, C, h, w) when T = 1, to the query: (B, C, H, W), in their dtype; half
        precision is computed in float32.

        Raises:
            ShapeError: the values do not lie on the reference cells, or are no floating-point numbers.
        """
        check_values(values)
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
        rows = values.flatten(2).transpose(1, 2).contiguous().to(at_least_float32(values))  # (B, R, C)
        weights = self.weights.to(rows.dtype)
        carried = [
            F.embedding_bag(index, row, per_sample_weights=weight, mode="sum")  # (Q, C)
            for index, row, weight in zip(self.indices, rows, weights, strict=True)
        ]
        whole = torch.stack(carried).transpose(1, 2).reshape(batch, channels, *self.query_shape)
        return whole.to(values.dtype)

    def dense(self) -> Tensor:
        """The affinity matrix (B, H * W, T * h * w)."""
        batch, cells, _ = self.indices.shape
        matrix = self.weights.new_zeros(batch, cells, math.prod(self.reference_shape))
        return matrix.scatter_add(2, self.indices, self.weights)


@full_precision
def affinity(
    query: Tensor,
    reference: Tensor | Sequence[Tensor],
    *,
    top_k: int = 10,
    temperature: float = 0.05,
    radius: Radius | Sequence[Radius] = None,
    window: Window = "disc",
    where: Tensor | None = None,
) -> Affinity:
    """Match each query cell to the `top_k` most similar reference cells in its window.

    Similarity is the inner product, so pass L2-normalised features for the cosine. Differentiable in `query` and
    `reference`; which cells are matched is a choice and has no gradient.

    Half precision is computed in float32, and what comes out is in the dtype of the query. Autocast changes nothing.

    Args:
        query: (B, C, H, W) features, floating-point.
        reference: (B, C, T, h, w), or (B, C, h, w), or a sequence of T tensors (B, C, h, w), which spares the copy.
        top_k: cells kept for a query cell; all where the reference has fewer.
        temperature: of the softmax over the kept similarities, above 0 and finite.
        radius: reach of the window in cells, one for all references or one for each; None leaves it unrestricted. A
            windowed reference must have the size of the query.
        window: "disc" keeps cells at a distance below `radius` (CRW), "square" those at most `radius` away on both
            axes (DINO).
        where: (B, H, W) bool, the query cells that are to be matched; all where None. The others carry nothing: their
            weights are 0.

    Returns:
        The match; `apply` carries values (B, C, T, h, w) to (B, C, H, W).

    Raises:
        ShapeError: shapes that do not fit together.
        ValueError: a setting out of its range.
    """
    references = _as_list(query, reference)
    radii = _radii(radius, len(references))
    batch, _, height, width = query.shape
    t, (h, w) = len(references), references[0].shape[2:]
    check_top_k(top_k)
    check_temperature(temperature)
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
    if batch == 0 or height * width == 0:
        empty = query.new_empty(batch, height * width, min(top_k, t * h * w))
        return Affinity(empty.long(), empty, empty, (height, width), (t, h, w))
    if h * w == 0:
        raise ShapeError("reference: it has no cells")
    indices, weights, similarities = [], [], []
    dtype = at_least_float32(query)
    for item in range(batch):
        rows = query[item].to(dtype).permute(1, 2, 0).contiguous()  # (H, W, C)
        keys = [one[item].to(dtype).permute(1, 2, 0).contiguous() for one in references]  # T of (h, w, C)
        needed = None if where is None else where[item]
        with torch.no_grad():
            chosen, scores = _search([one.detach() for one in (rows, *keys)], radii, window, top_k, needed)
        if torch.is_grad_enabled() and (rows.requires_grad or any(one.requires_grad for one in keys)):
            again = pair_scores(rows.flatten(0, 1), torch.stack(keys).flatten(0, 2), chosen)
            scores = again.masked_fill(scores == -torch.inf, -torch.inf)
        indices.append(chosen)
        weight = sharpened(scores, temperature)
        weights.append(weight if where is None else weight * where[item].reshape(-1, 1))
        similarities.append(scores)
    answers = torch.stack(weights).to(query.dtype), torch.stack(similarities).to(query.dtype)
    return Affinity(torch.stack(indices), *answers, (height, width), (t, h, w))


def join(first: Affinity, second: Affinity, *, top_k: int = 10, temperature: float = 0.05) -> Affinity:
    """Two matches of the same query as one: what `affinity` gives for the references of both together.

    Args:
        first, second: made with at least this `top_k`, the same `where` and references of the same size.
        top_k, temperature: as of `affinity`.

    Raises:
        ShapeError: the matches are not of the same query cells, or of references of another size.
        ValueError: a setting out of its range.
    """
    check_top_k(top_k)
    check_temperature(temperature)
    if first.indices.shape[:2] != second.indices.shape[:2] or first.reference_shape[1:] != second.reference_shape[1:]:
        raise ShapeError(
            f"join: expected matches of one query, got (B, Q) {tuple(first.indices.shape[:2])} and "
            f"{tuple(second.indices.shape[:2])}, references {first.reference_shape} and {second.reference_shape}"
        )
    count, h, w = first.reference_shape
    scores = torch.cat([first.scores, second.scores], 2)
    indices = torch.cat([first.indices, second.indices + count * h * w], 2)
    scores, place = scores.topk(min(top_k, scores.shape[2]), 2)
    asked = first.weights.sum(2, keepdim=True) > 0
    weights = sharpened(scores.to(at_least_float32(scores)), temperature) * asked
    shape = (count + second.reference_shape[0], h, w)
    return Affinity(indices.gather(2, place), weights.to(scores.dtype), scores, first.query_shape, shape)


def sharpened(scores: Tensor, temperature: float) -> Tensor:
    """The softmax over the last axis of scores / temperature, which may be as small as one likes."""
    below = scores - scores.detach().amax(-1, keepdim=True)
    return (below / max(temperature, torch.finfo(torch.float32).tiny)).softmax(-1)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless a softmax can have this temperature."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected above 0 and finite, got {temperature}")


def check_top_k(top_k: int) -> None:
    """Raise ValueError unless so many cells can be kept."""
    if top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}")


@cache
def load_ahead() -> None:
    """Begin to load, in a thread beside, what `affinity` is compiled of on the CPU: its first call waits less."""
    one = torch.ones(1, 32, 4, 4)

    def load() -> None:
        with suppress(RuntimeError):  # the program ends meanwhile; what is wrong else, the first call says
            affinity(one, one)

    Thread(target=load).start()


@uncompiled
def _search(
    features: list[Tensor],
    radii: list[Radius],
    window: Window,
    top_k: int,
    where: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Positions and scores (Q, K) of the best, by the fastest way there is for these features, the query first."""
    query, *keys = features
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return search(query, keys, radii, window, top_k, where)
    from matchcut.matching.cpu.search import compiled_search  # late: Numba takes a moment to load

    return compiled_search(query, keys, tuple(radii), window, top_k, where)


def _as_list(query: Tensor, reference: Tensor | Sequence[Tensor]) -> list[Tensor]:
    if query.ndim != 4 or not query.is_floating_point():
        raise ShapeError(f"query: expected floating point (B, C, H, W), got {query.dtype} {tuple(query.shape)}")
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

"""Label propagation in plain dense form: all cells scored with all, a mask, top-k. What the benchmarks compare with.

Our own writing of two published protocols, in the manner of the research scripts; the formulas are in systems.md
section 0. Everything is one batch item and one torch call a step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Carry = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""target (C, Q), sources (T, C, N) and labels (L, T * N) to labels (L, Q) and the cells (Q, K) they came from."""


def window(height: int, width: int, kind: str, radius: int = 12) -> Tensor:
    """(N, Q): whether a reference cell lies in the window of a query cell."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    dy, dx = (one.flatten()[:, None] - one.flatten() for one in (y, x))
    return dy**2 + dx**2 < radius**2 if kind == "disc" else torch.maximum(dy.abs(), dx.abs()) <= radius


def crw(height: int, width: int, top_k: int = 10, temperature: float = 0.05) -> Carry:
    """CRW's protocol: the first source is not masked; top-k, then softmax over those."""
    mask = torch.zeros(height * width, height * width).masked_fill_(~window(height, width, "disc"), -1e10)

    def carry(target: Tensor, sources: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.einsum("tcn,cq->tnq", sources, target)
        scores[1:] += mask
        best, index = scores.flatten(0, 1).topk(top_k, dim=0)  # (K, Q)
        weights = (best / temperature).softmax(dim=0)
        return (labels[:, index] * weights).sum(1), index.t()

    return carry


def dino(height: int, width: int, top_k: int = 5, temperature: float = 0.1) -> Carry:
    """DINO's protocol: exponentials of all scores, masked, cut at the k-th largest, normalised, multiplied."""
    mask = window(height, width, "square").float()

    def carry(target: Tensor, sources: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.exp(torch.bmm(sources.transpose(1, 2), target.expand(len(sources), -1, -1)) / temperature)
        weights *= mask
        weights = weights.flatten(0, 1)  # (T * N, Q)
        best, index = weights.topk(top_k, dim=0)
        weights[weights < best[-1]] = 0
        weights /= weights.sum(0)
        return labels @ weights, index.t()

    return carry

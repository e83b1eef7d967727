"""Inner products of chosen pairs of rows, without gathering the rows."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16_000_000
"""Numbers gathered at once where there is no sampled matrix product."""


class _PairScores(torch.autograd.Function):
    """Inner products of chosen pairs, without gathering the (Q, M, C) rows."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, pairs)
        if query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64):
            pattern = _csr(pairs, query.new_zeros(pairs.numel()), len(keys))
            scores: Tensor = torch.sparse.sampled_addmm(pattern, query, keys.t(), beta=0.0).values()
            return scores.reshape(pairs.shape).clone()  # a view of a sparse tensor's values would not compile
        step = max(1, CHUNK // max(1, pairs.shape[1] * query.shape[1]))
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


def wanted_pair_scores(query: Tensor, keys: list[Tensor], pairs: Tensor, wanted: Tensor) -> Tensor:
    """Inner products (Q, M) of query rows (Q, C) with rows of T keys (R, C) each, without joining these.

    Args:
        pairs: (Q, M) positions in the T * R rows of all keys.
        wanted: (Q, M) bool; what is not wanted comes out as -inf.
    """
    scores = query.new_full(pairs.shape, -torch.inf)
    for number, one in enumerate(keys):
        inside = wanted & (pairs >= number * len(one)) & (pairs < (number + 1) * len(one))
        columns = pairs[inside] - number * len(one)
        rows = inside.nonzero()[:, 0]
        parts = zip(rows.split(CHUNK // query.shape[1]), columns.split(CHUNK // query.shape[1]), strict=True)
        scores[inside] = torch.cat([(query[row] * one[column]).sum(1) for row, column in parts])
    return scores


def _csr(columns: Tensor, values: Tensor, width: int) -> Tensor:
    """(Q, width) in CSR form with `columns` (Q, M) filled."""
    starts = torch.arange(0, columns.numel() + 1, columns.shape[1], device=columns.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts, columns.flatten(), values, size=(columns.shape[0], width), check_invariants=False
        )

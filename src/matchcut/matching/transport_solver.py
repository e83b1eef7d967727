"""Sinkhorn's iterations, what they carry, and the exact gradient of both, without the matrix.

The gradient is that of the iterations as they ran. It needs the potentials after each, which are vectors, and goes back
through them by the same sweeps over the kernel; what they give to the scores is the kernel times a product of low rank.

Potentials f (B, N) and g (B, M) leave the masses out: plan = query_mass * exp(S + f + g) * reference_mass. Positions
without mass have potentials too, those that follow from the others'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from matchcut.matching.transport_kernel import Given, Kernel, Products, Scores, batch_parts
from matchcut.matching.uncompiled import uncompiled


@dataclass
class Trace:
    """The potentials after each iteration, and which items were still running (None: all)."""

    fs: list[Tensor]
    gs: list[Tensor]
    running: list[Tensor | None]
    residual: Tensor


def iterate(
    scores: Scores, a: Tensor, b: Tensor, iterations: int, tolerance: float | None, stored: bool, history: bool
) -> Trace:
    """Rows, then columns, `iterations` times, or until an item's residual is at most `tolerance`.

    The residual (B,) is the sum over rows of |row sum - mass|; columns have their mass but for rounding.
    """
    kernel = Kernel(scores, a, stored)
    f, g = kernel.first(a, b)
    fs, gs = [f], [g]
    running: list[Tensor | None] = [None]
    going = torch.ones(len(a), dtype=torch.bool, device=a.device)
    row, column = a, b  # the scalings, masses included: plan = row * K * column
    for _ in range(1, iterations):
        sums, total = kernel.sweep(column, lambda sums, rows: a[:, rows] / sums)
        new_f, new_g = kernel.f - sums.log(), kernel.g - total.log()
        if tolerance is not None:
            going = going & ((row * sums - a).abs().sum(1) > tolerance)
            if not going.any():
                break
            new_f, new_g = torch.where(going[:, None], new_f, f), torch.where(going[:, None], new_g, g)
        f, g = new_f, new_g
        if not kernel.near(f, g):
            kernel.settle(f, g)
        row, column = a * (f - kernel.f).exp(), b * (g - kernel.g).exp()
        if history:
            fs.append(f)
            gs.append(g)
            running.append(None if tolerance is None else going)
    residual = (row * kernel.rows(column) - a).abs().sum(1)
    return Trace(fs, gs, running, residual) if history else Trace([f], [g], [None], residual)


def reverse(
    scores: Scores, a: Tensor, b: Tensor, trace: Trace, grad_f: Tensor, grad_g: Tensor, stored: bool
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """The gradients with respect to what the scores are made of, a and b, from those of the last potentials."""
    kernel = Kernel(scores, a, stored)
    kernel.settle(trace.fs[-1], trace.gs[-1])
    into, grad_a, grad_b = scores.zeros(), torch.zeros_like(a), torch.zeros_like(b)
    left: list[Tensor] = []  # (B, N) and (B, M): K * sum of their outer products is the gradient of the scores
    right: list[Tensor] = []

    def flush() -> None:
        rows_of, columns_of = torch.stack(left, 2), torch.stack(right, 1)
        for rows, block in kernel.blocks():
            scores.gather(into, rows, torch.bmm(rows_of[:, rows], columns_of).mul_(block))
        left.clear()
        right.clear()

    for k in reversed(range(len(trace.fs))):
        f, g, running = trace.fs[k], trace.gs[k], trace.running[k]
        before = trace.gs[k - 1] if k else torch.zeros_like(g)
        on = a.new_ones(len(a), 1) if running is None else running[:, None].to(a.dtype)
        if not kernel.near(f, g):
            flush()
            kernel.settle(f, g)
        u = (f - kernel.f).exp()
        weights, row, direct = (g - kernel.g).exp() * grad_g * on, a * u, grad_f * on
        left.append(row)
        right.append(-weights)
        if kernel.near(f, before):
            sums, total = kernel.sweep(
                weights,
                lambda sums, rows: u[:, rows] * (direct[:, rows] - row[:, rows] * sums),  # noqa: B023
            )
            back = u * (direct - row * sums)
        else:  # as in the first iteration, which begins far from where it ends
            sums = kernel.rows(weights)
            back = direct - row * sums
            flush()
            kernel.settle(f, before)
            total = kernel.columns(back)
        scaling = (before - kernel.g).exp()
        left.append(back)
        right.append(-scaling * b)
        grad_a -= u * sums
        grad_b -= scaling * total
        grad_f = grad_f * (1 - on)
        grad_g = grad_g * (1 - on) - b * scaling * total
    flush()
    return into, grad_a, grad_b


class _Potentials(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        iterations: int,
        tolerance: float | None,
        stored: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        history = any(ctx.needs_input_grad)
        with torch.autocast(a.device.type, enabled=False):
            traces = [
                iterate(scores, a[some], b[some], iterations, tolerance, stored, history)
                for some, scores in _parts(first, second, a, b, scale)
            ]
        if history:
            ctx.save_for_backward(first, second, a, b)
            ctx.traces, ctx.scale, ctx.stored = traces, scale, stored
        residual = torch.cat([trace.residual for trace in traces])
        ctx.mark_non_differentiable(residual)
        return torch.cat([trace.fs[-1] for trace in traces]), torch.cat([trace.gs[-1] for trace in traces]), residual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, second, a, b = ctx.saved_tensors
        with torch.autocast(a.device.type, enabled=False):
            parts = [
                reverse(scores, a[some], b[some], trace, grads[0][some], grads[1][some], ctx.stored)
                for (some, scores), trace in zip(_parts(first, second, a, b, ctx.scale), ctx.traces, strict=True)
            ]
        inputs = [torch.cat(one) for one in zip(*(part[0] for part in parts), strict=True)]
        masses = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
        return inputs[0].mul_(ctx.scale), None if second is None else inputs[1], *masses, None, None, None, None


def _parts(first: Tensor, second: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Iterator[tuple[slice, Scores]]:
    """The items that are worked on at once, and their scores."""
    for some in batch_parts((len(a), a.shape[1], b.shape[1]), 0 if second is None else first.shape[1], a):
        scaled = first[some] * scale if scale != 1 else first[some]
        yield some, Given(scaled) if second is None else Products(scaled, second[some])


@uncompiled
def potentials(
    first: Tensor,
    second: Tensor | None,
    a: Tensor,
    b: Tensor,
    *,
    scale: float,
    iterations: int,
    tolerance: float | None,
    streaming: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """f (B, N), g (B, M) and the residual (B,), differentiable but for the last.

    Args:
        first: query features (B, C, N); or scores (B, N, M).
        second: reference features (B, C, M); None where scores are given.
        a, b: (B, N) and (B, M), masses that sum to 1.
        scale: what scores are multiplied by, 1 / epsilon.
        streaming: make the kernel anew at each sweep, and hold one block of it.
    """
    f, g, residual = _Potentials.apply(first, second, a, b, scale, iterations, tolerance, not streaming)
    return f, g, residual


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, reference: Tensor, f: Tensor, g: Tensor, b: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, reference, f, g, b, values)
        ctx.scale = scale
        carried = values.new_empty(*values.shape[:2], query.shape[2])
        with torch.autocast(f.device.type, enabled=False):
            for some, scores in _parts(query, reference, f, g, scale):
                kernel = Kernel(scores, f, stored=False)
                kernel.settle(f[some], g[some])
                weighted = values[some] * b[some, None]
                for rows, block in kernel.blocks():
                    carried[some, :, rows] = torch.bmm(weighted, block.transpose(1, 2))
        return carried

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, reference, f, g, b, values = ctx.saved_tensors
        needs = ctx.needs_input_grad[: len(ctx.saved_tensors)]  # what comes after them is no tensor
        results = [torch.zeros_like(one) if need else None for one, need in zip(ctx.saved_tensors, needs, strict=True)]
        grad_query, grad_reference, grad_f, grad_g, grad_b, grad_values = results
        with torch.autocast(f.device.type, enabled=False):
            for some, scores in _parts(query, reference, f, g, ctx.scale):
                kernel = Kernel(scores, f, stored=False)
                kernel.settle(f[some], g[some])
                shifted, weighted = kernel.shifted, values[some] * b[some, None]
                into, grad_weighted = shifted.zeros(), torch.zeros_like(weighted)
                for rows, block in kernel.blocks():
                    grad = grads[0][some, :, rows]
                    grad_weighted.baddbmm_(grad, block)
                    if any(needs[:4]):
                        shifted.gather(into, rows, block.mul_(torch.bmm(grad.transpose(1, 2), weighted)))
                if grad_query is not None:
                    grad_query[some] = into[0][:, :-2] * ctx.scale
                if grad_reference is not None:
                    grad_reference[some] = into[1][:, :-2]
                if grad_f is not None:
                    grad_f[some] = into[0][:, -2]
                if grad_g is not None:
                    grad_g[some] = into[1][:, -1]
                if grad_b is not None:
                    grad_b[some] = (grad_weighted * values[some]).sum(1)
                if grad_values is not None:
                    grad_values[some] = grad_weighted.mul_(b[some, None])
        return *results, None


@uncompiled
def carry(
    query: Tensor, reference: Tensor, f: Tensor, g: Tensor, a: Tensor, b: Tensor, values: Tensor, *, scale: float
) -> Tensor:
    """values (B, V, M) to (B, V, N), the sums of exp(scale * q_i . r_j + f_i + g_j) * b_j * v_j over j, by blocks.

    0 where a is 0. Differentiable in all but a; takes what `potentials` takes.
    """
    carried: Tensor = _Carry.apply(query, reference, f, g, b, values, scale)
    there = a > 0
    return carried if there.all() else carried * there[:, None]

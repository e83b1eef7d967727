"""Projected gradient descent on assignments, forward and backward, compiled by Numba for the CPU.

Dykstra's corrections need not be kept as matrices. That of the rows is constant along a row, and the projection onto
rows = 1 does not see it; that of the columns is constant along a column; that of X >= 0 is the negative part of what
was projected. So the state is one matrix and two vectors: before the projection onto X >= 0 stands

    W = level - rows - columns,  X = max(W, 0),  correction = min(W, 0)

and one round reads `level` once, for the row and the column sums of max(W, 0). The backward pass needs only where W > 0
and which columns are full (`columns` > 0), so `rows` and `columns` of each round. It keeps a state every sqrt(steps)
outer steps and recomputes the rest.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from matchcut.matching.assignment_newton import copy, project, project_backward
from matchcut.matching.assignment_plain import Settings
from matchcut.matching.compiled import as_many_threads_as_torch, helper, kernel


class Plan(NamedTuple):
    """What the kernels are told beside the tensors."""

    steps: int
    rounds: int
    """Dykstra rounds a step; 0 for the exact projection."""
    carry: bool
    """Whether corrections are kept from step to step."""
    weight_start: float
    weight_step: float
    weight_last: float
    """Shares of the start, of each iterate, and of the last one besides, in the answer."""
    tolerance: float
    """A problem stops after a step that moves no entry by more; negative: never."""
    rate: float
    quadratic: float
    interval: int
    """Outer steps from one kept state to the next; 0 to keep none."""


@helper
def _round(level: Any, rows: Any, columns: Any, sums: Any) -> None:
    """One round of Dykstra but for a step's first: `rows` and `columns` change, `sums` is to work in."""
    n, m = level.shape
    sums[:] = 0
    moved = 0.0
    for i in range(n):
        row, total = rows[i], 0.0
        for j in range(m):
            value = max(level[i, j] - row - columns[j], 0.0)
            total += value
            sums[j] += value
        rows[i] = row + (total - 1) / m
        moved += (total - 1) / m
    for j in range(m):
        columns[j] = max(columns[j] + (sums[j] - moved - 1) / n, 0.0)


@helper
def _advance(cost: Any, x: Any, level: Any, rows: Any, columns: Any, plan: Any, trace: Any) -> None:
    """One outer step: `x`, `level`, `rows` and `columns` change; `trace` (rounds, n + m), if any, gets each round's."""
    n, m = cost.shape
    keep = 1 - plan.rate * plan.quadratic
    if plan.rounds == 0:
        for i in range(n):
            for j in range(m):
                level[i, j] = keep * x[i, j] - plan.rate * cost[i, j]
        project(level, x, columns)
        if len(trace):
            copy(columns, trace[0, n:])
        return
    if not plan.carry:
        rows[:] = 0
        columns[:] = 0
    # The first projections of a step are of what the gradient step leaves, which may be negative.
    sums = np.zeros(m)
    moved = 0.0
    for i in range(n):
        total = 0.0
        for j in range(m):
            value = keep * x[i, j] - plan.rate * cost[i, j]
            total += value
            sums[j] += value
            level[i, j] = level[i, j] + (value - x[i, j]) if plan.carry else value
        rows[i] += (total - 1) / m
        moved += (total - 1) / m
    for j in range(m):
        columns[j] = max(columns[j] + (sums[j] - moved - 1) / n, 0.0)
    for k in range(plan.rounds):
        if k:
            _round(level, rows, columns, sums)
        if len(trace):
            copy(rows, trace[k, :n])
            copy(columns, trace[k, n:])
    for i in range(n):
        for j in range(m):
            x[i, j] = max(level[i, j] - rows[i] - columns[j], 0.0)


@helper
def _retreat(final: Any, plan: Any, trace: Any, grad: Any, held: Any, ends: Any, grad_cost: Any) -> None:
    """The transpose of `_advance`. `grad` (n, m), of the new x, becomes that of the old one; so do `held` (n, m), of
    level, and `ends` (n + m,), of rows and columns. `final` is level, or the new x where the projection is exact."""
    n, m = final.shape
    keep = 1 - plan.rate * plan.quadratic
    if plan.rounds == 0:
        project_backward(final, trace[0, n:], grad)
        for i in range(n):
            for j in range(m):
                grad_cost[i, j] -= plan.rate * grad[i, j]
                grad[i, j] *= keep
        return
    if not plan.carry:
        held[:] = 0
        ends[:] = 0
    grad_rows, grad_columns = ends[:n], ends[n:]
    shares, sums = np.empty(m), np.empty(m)
    rows, columns = trace[plan.rounds - 1, :n], trace[plan.rounds - 1, n:]
    for i in range(n):
        total = 0.0
        for j in range(m):
            part = grad[i, j] if final[i, j] - rows[i] - columns[j] > 0 else 0.0
            held[i, j] += part
            grad_columns[j] -= part
            total += part
        grad_rows[i] -= total
    spent = 0.0
    for k in range(plan.rounds - 1, -1, -1):
        spent = 0.0
        for j in range(m):
            shares[j] = grad_columns[j] / n if trace[k, n + j] > 0 else 0.0
            spent += shares[j]
        if k == 0:
            break
        rows, columns = trace[k - 1, :n], trace[k - 1, n:]
        sums[:] = 0
        for i in range(n):
            row, share, total = rows[i], (grad_rows[i] - spent) / m, 0.0
            for j in range(m):
                part = share + shares[j] if final[i, j] - row - columns[j] > 0 else 0.0
                held[i, j] += part
                sums[j] += part
                total += part
            grad_rows[i] -= total
        for j in range(m):
            grad_columns[j] = shares[j] * n - sums[j]
    for i in range(n):
        share = (grad_rows[i] - spent) / m
        for j in range(m):
            value = share + shares[j]
            into_step = value + held[i, j]
            grad_cost[i, j] -= plan.rate * into_step
            grad[i, j] = keep * into_step - held[i, j] if plan.carry else keep * into_step
    for j in range(m):
        grad_columns[j] = shares[j] * n


@helper
def _cut(source: Any, objects: Any, proposals: Any) -> Any:
    """The real rows and columns of a matrix."""
    n, m = objects.sum(), proposals.sum()
    if n == len(objects) and m == len(proposals):
        return source.copy()
    part = np.empty((n, m), source.dtype)
    i = 0
    for row in range(len(objects)):
        if objects[row]:
            j = 0
            for column in range(len(proposals)):
                if proposals[column]:
                    part[i, j] = source[row, column]
                    j += 1
            i += 1
    return part


@helper
def _paste(part: Any, objects: Any, proposals: Any, target: Any) -> None:
    """The reverse of `_cut`; 0 elsewhere."""
    i = 0
    for row in range(len(objects)):
        j = 0
        for column in range(len(proposals)):
            there = objects[row] and proposals[column]
            target[row, column] = part[i, j] if there else 0
            j += proposals[column]
        i += objects[row]


@helper
def _run(cost: Any, x: Any, plan: Any, answer: Any, objectives: Any, kept: Any) -> Any:
    """All steps on one problem (n, m) from `x`, which changes. Returns the steps taken."""
    n, m = cost.shape
    for i in range(n):  # loops, since array expressions would take memory for each problem
        for j in range(m):
            answer[i, j] = plan.weight_start * x[i, j]
    if n == 0:
        objectives[:] = 0
        return 1 if plan.tolerance >= 0 else plan.steps
    level, before = x.copy(), np.empty(n * m if plan.tolerance >= 0 else 0)
    rows, columns, trace = np.zeros(n), np.zeros(m), np.empty((0, n + m))
    step = 0
    while step < plan.steps:
        if plan.interval and step % plan.interval == 0:
            state = kept[step // plan.interval]
            copy(x.reshape(n * m), state[: n * m])
            copy(level.reshape(n * m), state[n * m : 2 * n * m])
            copy(rows, state[2 * n * m : 2 * n * m + n])
            copy(columns, state[2 * n * m + n : 2 * n * m + n + m])
        if plan.tolerance >= 0:
            copy(x.reshape(n * m), before)
        _advance(cost, x, level, rows, columns, plan, trace)
        objective, moved = 0.0, 0.0
        for i in range(n):
            for j in range(m):
                objective += cost[i, j] * x[i, j]
                answer[i, j] += plan.weight_step * x[i, j]
                if plan.tolerance >= 0:
                    moved = max(moved, abs(x[i, j] - before[i * m + j]))
        objectives[step] = objective
        step += 1
        if plan.tolerance >= 0 and moved <= plan.tolerance:
            break
    objectives[step:] = objectives[step - 1]
    last = plan.weight_last + plan.weight_step * (plan.steps - step)
    for i in range(n):
        for j in range(m):
            answer[i, j] += last * x[i, j]
    return step


@helper
def _run_back(cost: Any, weight: Any, plan: Any, taken: Any, kept: Any, grad_cost: Any) -> Any:
    """The transpose of `_run`, from `weight` (n, m), the gradient of the answer: adds to `grad_cost` (n, m).

    Returns the gradient of the start.
    """
    n, m = cost.shape
    if n == 0:
        return plan.weight_start * weight
    x, level, rows, columns = np.empty((n, m)), np.empty((n, m)), np.empty(n), np.empty(m)
    held, ends = np.zeros((n, m)), np.zeros(n + m)
    count = min(plan.interval, taken)
    traces, finals = np.empty((count, max(plan.rounds, 1), n + m)), np.empty((count, n * m))
    grad = (plan.weight_last + plan.weight_step * (plan.steps - taken)) * weight
    for segment in range((taken - 1) // plan.interval, -1, -1):
        first = segment * plan.interval
        end = min(first + plan.interval, taken)
        state = kept[segment]
        copy(state[: n * m], x.reshape(n * m))
        copy(state[n * m : 2 * n * m], level.reshape(n * m))
        copy(state[2 * n * m : 2 * n * m + n], rows)
        copy(state[2 * n * m + n : 2 * n * m + n + m], columns)
        for step in range(first, end):
            _advance(cost, x, level, rows, columns, plan, traces[step - first])
            copy((level if plan.rounds else x).reshape(n * m), finals[step - first])
        for step in range(end - 1, first - 1, -1):
            grad += plan.weight_step * weight
            _retreat(finals[step - first].reshape(n, m), plan, traces[step - first], grad, held, ends, grad_cost)
    grad += plan.weight_start * weight
    if plan.carry:  # the start is the first level too
        grad += held
    return grad


@kernel
def forward(
    cost: Any, start: Any, objects: Any, proposals: Any, plan: Any, answer: Any, objectives: Any, taken: Any, kept: Any
) -> None:
    """Run all steps on each problem.

    Args:
        cost, start: (B, N, M).
        objects, proposals: (B, N) and (B, M) bool, the real rows and columns.
        answer: (B, N, M), filled.
        objectives: (B, steps), filled.
        taken: (B,), filled with the steps taken.
        kept: (B, states, 2 * N * M + N + M), filled with x, level, rows and columns every `plan.interval` steps.
    """
    for number in prange(len(cost)):
        item = np.int64(number)
        part = _cut(cost[item], objects[item], proposals[item])
        x = _cut(start[item], objects[item], proposals[item])
        found = answer[item] if part.shape == answer[item].shape else np.empty_like(part)
        taken[item] = _run(part, x, plan, found, objectives[item], kept[item])
        _paste(found, objects[item], proposals[item], answer[item])


@kernel
def backward(
    cost: Any,
    grad_answer: Any,
    objects: Any,
    proposals: Any,
    plan: Any,
    taken: Any,
    kept: Any,
    grad_cost: Any,
    grad_start: Any,
) -> None:
    """The transpose of `forward`, whose arguments are named alike: fills grad_cost and grad_start (B, N, M)."""
    for number in prange(len(cost)):
        item = np.int64(number)
        part = _cut(cost[item], objects[item], proposals[item])
        weight = _cut(grad_answer[item], objects[item], proposals[item])
        into_cost = np.zeros_like(part)
        into_start = _run_back(part, weight, plan, taken[item], kept[item], into_cost)
        _paste(into_cost, objects[item], proposals[item], grad_cost[item])
        _paste(into_start, objects[item], proposals[item], grad_start[item])


@kernel
def greedy_pairs(cost: Any, objects: Any, proposals: Any, matrix: Any) -> None:
    """Fills `matrix` (B, N, M), which is 0, with 1 at the cheapest pair of what is left, again and again."""
    for number in prange(len(cost)):
        item = np.int64(number)
        rows, columns = objects[item].copy(), proposals[item].copy()
        for _ in range(min(rows.sum(), columns.sum())):
            best, row, column = np.inf, -1, -1
            for i in range(len(rows)):
                if rows[i]:
                    for j in range(len(columns)):
                        if columns[j] and (row < 0 or cost[item, i, j] < best):
                            best, row, column = cost[item, i, j], i, j
            matrix[item, row, column] = 1
            rows[row] = False
            columns[column] = False


class _Relax(torch.autograd.Function):
    """`forward` and `backward` as one operator, on float64."""

    @staticmethod
    def forward(ctx: Any, cost: Tensor, start: Tensor, objects: Tensor, proposals: Tensor, plan: Plan) -> Any:
        batch, rows, columns = cost.shape
        states = 0
        if any(ctx.needs_input_grad):
            plan = plan._replace(interval=math.isqrt(plan.steps - 1) + 1)
            states = -(-plan.steps // plan.interval)
        kept = cost.new_empty(batch, states, 2 * rows * columns + rows + columns)
        answer, objectives = torch.empty_like(cost), cost.new_empty(batch, plan.steps)
        taken = torch.empty(batch, dtype=torch.int64)
        with as_many_threads_as_torch():
            forward(*_arrays(cost, start, objects, proposals), plan, *_arrays(answer, objectives, taken, kept))
        ctx.save_for_backward(cost, objects, proposals, taken, kept)
        ctx.plan = plan
        ctx.mark_non_differentiable(objectives, taken)
        return answer, objectives, taken

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cost, objects, proposals, taken, kept = ctx.saved_tensors
        grad_cost, grad_start = torch.empty_like(cost), torch.empty_like(cost)
        inputs = _arrays(cost, grads[0].contiguous(), objects, proposals)
        with as_many_threads_as_torch():
            backward(*inputs, ctx.plan, *_arrays(taken, kept, grad_cost, grad_start))
        return grad_cost, grad_start, None, None, None


def relax_compiled(
    cost: Tensor, start: Tensor, objects: Tensor, proposals: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """As `assignment_plain.relax`, for float64 tensors on the CPU."""
    plan = Plan(
        settings.steps,
        settings.projections or 0,
        settings.carry,
        *settings.weights,
        settings.tolerance or -1.0,
        settings.learning_rate,
        settings.quadratic,
        0,
    )
    answer, objectives, taken = _Relax.apply(cost.contiguous(), start.contiguous(), objects, proposals, plan)
    return answer, objectives, taken


def greedy_compiled(cost: Tensor, objects: Tensor, proposals: Tensor) -> Tensor:
    """One-hot rows (B, N, M): the cheapest pair of what is left, again and again."""
    matrix = torch.zeros_like(cost)
    with as_many_threads_as_torch():
        greedy_pairs(*_arrays(cost.contiguous(), objects, proposals, matrix))
    return matrix


def _arrays(*tensors: Tensor) -> list[Any]:
    """Tensors on the CPU as arrays that share their memory."""
    return [one.detach().numpy() for one in tensors]

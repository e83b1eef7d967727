"""Masks matched to masks: relaxed linear assignment by projected gradient descent.

DMM-Net (Zeng et al., ICCV 2019), Eq. 2-7, Algorithm 1 and Listing 1: minimise <C, X> over X with rows = 1, columns <= 1
and X >= 0. One algorithm with settings: `ALGORITHM_1` and `LISTING_1` are the paper's. The default takes one step of it
with a small quadratic term (Blondel et al., "Smooth and Sparse Optimal Transport", AISTATS 2018; Lorenz et al.,
"Quadratically Regularized Optimal Transport", 2021) and an exact projection: docs/layers/assignment.md says why,
docs/experiments/assignment.md what each change buys.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.assignment_solver import Settings, relax
from matchcut.matching.base import at_least_float32, check_values, full_precision, product
from matchcut.matching.uncompiled import uncompiled

ALGORITHM_1: dict[str, Any] = {
    "steps": 40,
    "projections": 5,
    "learning_rate": 0.1,
    "corrections": "reset",
    "average": "iterates",
    "quadratic": 0.0,
    "backward_quadratic": None,
}
"""DMM-Net, Algorithm 1: corrections start anew at each step, the answer is the mean of the iterates 1..N."""
LISTING_1: dict[str, Any] = {**ALGORITHM_1, "corrections": "carry", "average": "all"}
"""DMM-Net, supplement, Listing 1: corrections are kept from step to step, the mean includes the start."""
SHARP, SOFT = 0.0005, 3.0
"""The default's quadratic terms, in units of cost: of its answer, and of its gradient."""
FEASIBLE = 1e-4
"""By how much an answer may violate a constraint that it should meet exactly."""


@dataclass(frozen=True)
class Assignment:
    """The match that `assign`, `greedy` and `hungarian` return. The query are N objects, the reference M proposals.

    Attributes:
        matrix: (B, N, M), the share of object i that each proposal gets.
        empties: (B, N, E), the shares of the empty proposals that were added where proposals are fewer than objects;
            E = 0 if nowhere.
        objectives: (B, steps) detached, <C, X_i> after each outer step; after an early stop the last one is repeated.
        steps: (B,) int64, outer steps taken.
        objects: (B, N) bool, the real rows.
    """

    matrix: Tensor
    empties: Tensor
    objectives: Tensor
    steps: Tensor
    objects: Tensor

    @property
    def residual(self) -> Tensor:
        """(B,) detached: the largest violation of rows = 1, columns <= 1 and entries >= 0."""
        whole = torch.cat([self.matrix, self.empties], 2).detach()
        whole = whole.to(at_least_float32(whole))
        if whole.numel() == 0:
            return whole.new_zeros(len(whole))
        rows = ((whole.sum(2) - 1).abs() * self.objects).amax(1)
        columns = (whole.sum(1) - 1).amax(1)
        return torch.stack([rows, columns, -whole.amin((1, 2))]).amax(0).clamp_min(0)

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, C, M) of the proposals to the objects: (B, C, N), in their dtype. Differentiable.

        Raises:
            ShapeError: the values do not lie on the proposals, or are no floating-point numbers.
        """
        check_values(values)
        batch, _, proposals = self.matrix.shape
        if values.ndim != 3 or values.shape[0] != batch or values.shape[2] != proposals:
            raise ShapeError(
                f"values: expected (B, C, M) with B = {batch} and M = {proposals}, got {tuple(values.shape)}"
            )
        dtype = at_least_float32(values)
        return product(values.to(dtype), self.matrix.to(dtype).mT).to(values.dtype)

    def dense(self) -> Tensor:
        """The matrix (B, N, M)."""
        return self.matrix

    def confident(self) -> "Assignment":
        """Each row's largest entry alone, X * 1[X = row max] (DMM-Net, section 3); none where an empty proposal has it.

        The residual becomes what rows lack.
        """
        whole = torch.cat([self.matrix, self.empties], 2).detach()
        if whole.numel() == 0:
            return self
        best = whole.amax(2, keepdim=True)
        matrix, empties = (one * (one.detach() == best) for one in (self.matrix, self.empties))
        return replace(self, matrix=matrix, empties=empties)


@full_precision
def assign(
    cost: Tensor,
    *,
    objects: Tensor | None = None,
    proposals: Tensor | None = None,
    start: Literal["greedy", "uniform"] | Tensor = "greedy",
    steps: int = 1,
    projections: int | None = None,
    learning_rate: float | None = None,
    corrections: Literal["reset", "carry"] = "reset",
    average: Literal["last", "iterates", "all"] = "last",
    quadratic: float | None = None,
    tolerance: float = 0.0,
    backward_quadratic: float | Literal["auto"] | None = "auto",
) -> Assignment:
    """Match each object to the proposals, softly, at the least total cost.

    Minimises <C, X> + quadratic / 2 ||X||^2 over X with rows = 1, columns <= 1 and X >= 0 by `steps` steps
    X <- P(X - learning_rate * (C + quadratic * X)), where P projects onto these constraints. Where an item has more
    objects than proposals, empty proposals at cost 0 are added; their columns do not come back, so that rows sum to
    less than 1 by what they gave to them. Differentiable in `cost` and `start`.

    Computed in float64, whatever the dtype of the cost, which is that of the answer; autocast changes nothing. Costs so
    far apart, beside the quadratic term, that float64 cannot hold the answer are refused. By default that may begin at
    1e5 where many objects bid for the same proposals, and at 1e13 elsewhere.

    Relative to the paper, the default differs in the quadratic term, in the projection, which is exact, in the step
    size 1 / quadratic, with which one step from any start arrives, and in its gradient. `assign(cost, **ALGORITHM_1)`
    and `assign(cost, **LISTING_1)` are the paper's.

    Args:
        cost: (B, N, M) of N objects and M proposals, any floating dtype; finite where real. A pair that must not be is
            one at a cost above all others, by 1000 rather than by 1e9.
        objects: (B, N) bool, the real rows; all where None. The others are 0, get no gradient and have no influence.
        proposals: (B, M) bool, the real columns, likewise.
        start: X_0: "greedy" (as `greedy` finds it), "uniform" (1 / proposals) or a tensor (B, N, M).
        steps: outer steps, at least 1.
        projections: rounds of Dykstra's projection a step, at least 1; None projects exactly.
        learning_rate: of the steps, above 0; None takes 1 / quadratic.
        corrections: whether Dykstra's corrections are "reset" at each step (Algorithm 1) or "carry" over (Listing 1).
        average: the answer is the "last" iterate, the mean of the "iterates" 1..N, or of "all", the start included.
        quadratic: weight of the quadratic term, in units of cost, at least 0. Rows are one-hot where the second best
            choice is dearer by more than this. None is 0.0005, or the paper's 0 where `projections` are given.
        tolerance: an item stops after a step that moves no entry by more, and the steps left out count as repeats of
            the last iterate; 0 takes all steps.
        backward_quadratic: where above `quadratic`, gradients are those of the exact answer at this quadratic term, and
            `start` gets none. None gives the exact derivative of what was computed. "auto" is 3 for the default, where
            neither `quadratic` nor `projections` is given: the exact derivative of an answer that sharp is zero or
            enormous, and nothing learns by it; and None elsewhere.

    Returns:
        The match; `apply` carries values (B, C, M) of the proposals to the objects, (B, C, N).

    Raises:
        ShapeError: shapes or dtypes that do not fit together; costs or a start that are not finite, or costs too far
            apart.
        ValueError: a setting out of its range.
    """
    _check(cost, objects, proposals)
    if isinstance(start, Tensor):
        if start.shape != cost.shape or not start.is_floating_point() or start.device != cost.device:
            raise ShapeError(
                f"start: expected floating {tuple(cost.shape)} on {cost.device} as the cost, "
                f"got {start.dtype} {tuple(start.shape)} on {start.device}"
            )
    elif start not in ("greedy", "uniform"):
        raise ValueError(f'start: expected "greedy", "uniform" or a tensor, got {start!r}')
    for name, value, known in (
        ("corrections", corrections, ("reset", "carry")),
        ("average", average, ("last", "iterates", "all")),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {known}, got {value!r}")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if projections is not None and projections < 1:
        raise ValueError(f"projections: expected at least 1 (or None, exact), got {projections}")
    if projections is None and corrections == "carry":
        raise ValueError('corrections: expected "reset" where projections is None, since there are none to carry')
    if backward_quadratic == "auto":
        backward_quadratic = SOFT if projections is None and quadratic is None else None
    if quadratic is None:
        quadratic = SHARP if projections is None else 0.0
    for name, number in (("quadratic", quadratic), ("tolerance", tolerance)):
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}: expected at least 0, got {number}")
    if learning_rate is None:
        if quadratic == 0:
            raise ValueError("learning_rate: expected above 0 where quadratic is 0 (as with projections), got None")
        learning_rate = 1 / quadratic
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate: expected above 0, got {learning_rate}")
    if backward_quadratic is not None and not 0 < backward_quadratic < math.inf:
        raise ValueError(f"backward_quadratic: expected above 0 (or None, exact), got {backward_quadratic}")
    settings = Settings(
        steps,
        projections,
        learning_rate,
        corrections == "carry",
        average,
        quadratic,
        tolerance,
    )
    if backward_quadratic is not None and backward_quadratic <= quadratic:
        backward_quadratic = None
    match: Assignment = _assign(cost, objects, proposals, start, settings, backward_quadratic)
    return match


def greedy(cost: Tensor, *, objects: Tensor | None = None, proposals: Tensor | None = None) -> Assignment:
    """Match the cheapest pair of what is left, again and again. It has no gradient.

    Args and errors: as of `assign`.
    """
    _check(cost, objects, proposals)
    match: Assignment = _without_gradient(cost, objects, proposals, _greedy)
    return match


def hungarian(cost: Tensor, *, objects: Tensor | None = None, proposals: Tensor | None = None) -> Assignment:
    """Match at the least total cost, one to one (SciPy's `linear_sum_assignment`, on the CPU). It has no gradient.

    Args and errors: as of `assign`.
    """
    _check(cost, objects, proposals)
    match: Assignment = _without_gradient(cost, objects, proposals, _hungarian)
    return match


@uncompiled
def _assign(
    cost: Tensor,
    objects: Tensor | None,
    proposals: Tensor | None,
    start: Any,
    settings: Settings,
    backward_quadratic: float | None,
) -> Assignment:
    width = cost.shape[2]
    padded, rows, columns = _pad(cost, objects, proposals)
    if padded.numel() == 0:
        steps = torch.full((len(cost),), settings.steps, device=cost.device)
        return _result(padded * 1, width, padded.new_zeros(len(cost), settings.steps), steps, rows, cost.dtype)
    first = _start(start, padded, rows, columns, width, settings)
    if settings.projections is not None:
        _check_resolution(padded.detach(), first.detach(), settings)
    differentiated = torch.is_grad_enabled() and (padded.requires_grad or first.requires_grad)
    real = rows[:, :, None] & columns[:, None]
    if backward_quadratic is None or not differentiated:
        x, objectives, taken = relax(padded, first, real, settings)
    else:
        with torch.no_grad():
            x, objectives, taken = relax(padded, first, real, settings)
        softer = Settings(1, None, 1 / backward_quadratic, False, "last", backward_quadratic, 0.0)
        x = _Through.apply(relax(padded, padded.detach(), real, softer)[0], x)
    if settings.projections is None:
        _check_solved(x.detach(), first.detach(), padded.detach(), rows, columns, settings)
    return _result(x, width, objectives, taken, rows, cost.dtype)


def _check_resolution(cost: Tensor, start: Tensor, settings: Settings) -> None:
    """That each step's projections, which answer in numbers near 1, still see them beside the costs and the start."""
    largest = max(float(cost.abs().max()) * settings.learning_rate, float(start.abs().max()))
    if largest * torch.finfo(cost.dtype).eps > FEASIBLE:
        raise ShapeError(_TOO_FAR.format(what=f"learning_rate * cost, or the start, reaches {largest:.1e}"))


def _check_solved(x: Tensor, start: Tensor, cost: Tensor, rows: Tensor, columns: Tensor, settings: Settings) -> None:
    """That exact projections met the constraints, and one from anywhere the least cost."""
    share = settings.weights[0]
    found = x - share * start if share else x
    row_errors, column_errors = (found.sum(2) - (1 - share) * rows).abs(), found.sum(1) - (1 - share)
    error = max(float(row_errors.max()), float(column_errors.max()))
    if not error <= FEASIBLE:
        item = int(torch.maximum(row_errors.amax(1), column_errors.amax(1)).argmax())
        raise ShapeError(_TOO_FAR.format(what=f"the answer of item {item} violates a constraint by {error:.1e}"))
    least, most = cost.aminmax()
    wide = float(most - least) * settings.learning_rate * torch.finfo(cost.dtype).eps > FEASIBLE
    if wide and settings.ignores_start:  # then rounding may have led to another vertex
        excess = (cost * (x - _hungarian(cost, rows, columns))).sum((1, 2))
        spread = cost.amax((1, 2)) - cost.amin((1, 2))
        over = excess - rows.sum(1) * (settings.quadratic + (max(error, 0) + 1e-12) * spread)
        if not float(over.max()) <= 0:
            item = int(over.argmax())
            raise ShapeError(_TOO_FAR.format(what=f"the answer of item {item} costs {float(excess[item]):.1e} more"))


_TOO_FAR = (
    "cost: too far apart to be solved in floating point: {what}; bring costs nearer to each other (those of pairs that "
    "must not be to 1000 above the others)"
)


class _Through(torch.autograd.Function):
    """`sharp`, with the gradient of `soft`."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, sharp: Tensor) -> Tensor:
        return sharp.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


@uncompiled
def _without_gradient(cost: Tensor, objects: Tensor | None, proposals: Tensor | None, solve: Any) -> Assignment:
    padded, rows, columns = _pad(cost.detach(), objects, proposals)
    x = solve(padded, rows, columns) if padded.numel() else padded
    taken = torch.ones(len(cost), dtype=torch.int64, device=cost.device)
    return _result(x, cost.shape[2], (padded * x).sum((1, 2))[:, None], taken, rows, cost.dtype)


def _result(x: Tensor, width: int, objectives: Tensor, taken: Tensor, rows: Tensor, dtype: torch.dtype) -> Assignment:
    x = x.to(dtype)
    objectives = objectives.to(torch.promote_types(dtype, torch.float32))
    return Assignment(x[..., :width], x[..., width:], objectives, taken, rows)


def _check(cost: Tensor, objects: Tensor | None, proposals: Tensor | None) -> None:
    if cost.ndim != 3 or not cost.is_floating_point():
        raise ShapeError(f"cost: expected floating (B, N, M), got {cost.dtype} {tuple(cost.shape)}")
    batch, rows, columns = cost.shape
    for name, mask, shape in (("objects", objects, (batch, rows)), ("proposals", proposals, (batch, columns))):
        if mask is not None and (mask.shape != shape or mask.dtype != torch.bool or mask.device != cost.device):
            raise ShapeError(
                f"{name}: expected bool {shape} on {cost.device}, got {mask.dtype} {tuple(mask.shape)} on {mask.device}"
            )


def _pad(cost: Tensor, objects: Tensor | None, proposals: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Costs (B, N, M + E) in float64, 0 where not real, the columns of empty proposals last; the real rows and columns.

    Sharp answers are differences of costs over a small number: float32 costs would lose four digits on the way.
    """
    batch, height, width = cost.shape
    rows = torch.ones(batch, height, dtype=torch.bool, device=cost.device) if objects is None else objects
    columns = torch.ones(batch, width, dtype=torch.bool, device=cost.device) if proposals is None else proposals
    padded = cost.to(torch.float32 if cost.device.type == "mps" else torch.float64)
    if objects is not None or proposals is not None:
        padded = padded.masked_fill(~(rows[:, :, None] & columns[:, None]), 0)
    if not padded.sum().isfinite() and not padded.isfinite().all():  # the sum is quicker, but may overflow
        raise ShapeError("cost: expected finite numbers where objects and proposals are real, got NaN or infinity")
    if objects is None and proposals is None and height <= width:
        return padded, rows, columns
    lacking = (rows.sum(1) - columns.sum(1)).clamp_min(0)
    extra = int(lacking.max()) if batch else 0
    columns = torch.cat([columns, torch.arange(extra, device=cost.device) < lacking[:, None]], 1)
    return torch.cat([padded, padded.new_zeros(batch, height, extra)], 2), rows, columns


def _start(start: Any, cost: Tensor, rows: Tensor, columns: Tensor, width: int, settings: Settings) -> Tensor:
    """X_0 (B, N, M + E), 0 where not real."""
    if settings.ignores_start and not isinstance(start, Tensor):
        return cost.detach()  # anything will do
    real = rows[:, :, None] & columns[:, None]
    if isinstance(start, Tensor):
        empties = cost.new_zeros(*cost.shape[:2], cost.shape[2] - width)
        first = torch.cat([start.to(cost.dtype), empties], 2).masked_fill(~real, 0)
        if not first.isfinite().all():
            raise ShapeError("start: expected finite numbers where objects and proposals are real")
        return first
    if start == "uniform":
        return real / columns.sum(1).clamp_min(1).to(cost)[:, None, None]
    return _greedy(cost.detach(), rows, columns)


def _greedy(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    left = cost.masked_fill(~(rows[:, :, None] & columns[:, None]), math.inf)
    x = torch.zeros_like(left)
    items = torch.arange(len(cost), device=cost.device)
    for _ in range(cost.shape[1]):
        best, where = left.flatten(1).min(1)
        row, column = where // cost.shape[2], where % cost.shape[2]
        x[items, row, column] = torch.maximum(x[items, row, column], best.isfinite().to(x))
        left[items, row] = math.inf
        left[items, :, column] = math.inf
    return x


def _hungarian(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment  # late: SciPy takes a moment to load

    x = torch.zeros(cost.shape, dtype=cost.dtype)
    for one, item, objects, proposals in zip(x, cost.cpu(), rows.cpu(), columns.cpu(), strict=True):
        i, j = objects.nonzero()[:, 0], proposals.nonzero()[:, 0]
        row, column = linear_sum_assignment(item[i][:, j].numpy())
        one[i[torch.from_numpy(row)], j[torch.from_numpy(column)]] = 1
    return x.to(cost.device)

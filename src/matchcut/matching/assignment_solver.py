"""Projected gradient descent on assignments. DMM-Net (Zeng et al., ICCV 2019), Algorithm 1 and Listing 1."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from matchcut.matching.base import full_precision

STAGES = 4.0
"""By how much sharper the problem gets from one stage of an exact projection to the next."""
FEW, MOST = 12, 100
"""Newton steps to try before going through softer problems, and those after which a stage is left as it is."""


@dataclass(frozen=True)
class Settings:
    """What `assign` was asked for; see there."""

    steps: int
    projections: int | None
    learning_rate: float
    carry: bool
    average: str
    quadratic: float
    tolerance: float

    @property
    def ignores_start(self) -> bool:
        """Whether one step arrives from anywhere."""
        return (
            self.steps == 1
            and self.projections is None
            and self.average != "all"
            and abs(1 - self.learning_rate * self.quadratic) < 1e-12
        )

    @property
    def weights(self) -> tuple[float, float, float]:
        """Shares of the start, of each iterate, and of the last one besides, in the answer."""
        if self.average == "last":
            return 0.0, 0.0, 1.0
        if self.average == "iterates":
            return 0.0, 1 / self.steps, 0.0
        return 1 / (self.steps + 1), 1 / (self.steps + 1), 0.0


class State(NamedTuple):
    """What an outer step goes on from."""

    x: Tensor
    """(B, N, M)"""
    total: Tensor
    """(B, N, M), the weighted sum of the iterates so far."""
    corrections: tuple[Tensor, ...]
    """Dykstra's, three times (B, N, M)."""
    moving: Tensor
    """(B,) bool, whether the problem goes on."""
    taken: Tensor
    """(B,) int64, steps taken."""


def relax(cost: Tensor, start: Tensor, real: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Run all steps: the answer (B, N, M), objectives (B, steps) detached, and steps taken (B,).

    For the backward pass the state of every sqrt(steps)-th step is kept, and the rest computed again.

    Args:
        cost, start: (B, N, M), 0 where not real.
        real: (B, N, M) bool.
    """
    zeros = torch.zeros_like(cost)
    moving = torch.ones(len(cost), dtype=torch.bool, device=cost.device)
    state = State(start, settings.weights[0] * start, (zeros,) * 3, moving, torch.zeros_like(moving, dtype=torch.int64))
    interval = math.isqrt(settings.steps - 1) + 1
    objectives: list[Tensor] = []
    for first in range(0, settings.steps, interval):
        count = min(interval, settings.steps - first)
        if settings.steps > 1 and torch.is_grad_enabled():
            state, found = checkpoint(
                _several, cost, real, state, settings, count, use_reentrant=False, preserve_rng_state=False
            )
        else:
            state, found = _several(cost, real, state, settings, count)
        objectives += found
    return state.total + settings.weights[2] * state.x, torch.stack(objectives, 1), state.taken


def _several(cost: Tensor, real: Tensor, state: State, settings: Settings, count: int) -> tuple[State, list[Tensor]]:
    """`count` outer steps, and the objective after each."""
    objectives = []
    for _ in range(count):
        state = _step(cost, real, state, settings)
        objectives.append((cost * state.x).sum((1, 2)).detach())
    return state, objectives


def _step(cost: Tensor, real: Tensor, state: State, settings: Settings) -> State:
    """One outer step; a problem that has stopped keeps its x."""
    descended = state.x - settings.learning_rate * (cost + settings.quadratic * state.x)
    corrections = state.corrections if settings.carry else (torch.zeros_like(cost),) * 3
    if settings.projections is None:
        new: Tensor = _Project.apply(descended, real)
    else:
        new, corrections = dykstra(descended, corrections, real, settings.projections)
    moving = state.moving
    if settings.tolerance > 0:
        moved = (new - state.x).detach().abs().amax((1, 2))
        new = torch.where(moving[:, None, None], new, state.x)
        moving = moving & (moved > settings.tolerance)
    total = state.total + settings.weights[1] * new
    return State(new, total, corrections, moving, state.taken + state.moving)


def dykstra(x: Tensor, corrections: tuple[Tensor, ...], real: Tensor, rounds: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Dykstra's projection onto rows = 1, columns <= 1 and >= 0 in turn (DMM-Net, Eq. 4-7): x and the corrections."""
    q1, q2, q3 = corrections
    columns = real.sum(2, keepdim=True).clamp_min(1)
    rows = real.sum(1, keepdim=True).clamp_min(1)
    for _ in range(rounds):
        y = x + q1
        x = (y - (y.sum(2, keepdim=True) - 1) / columns) * real
        q1 = y - x
        y = x + q2
        x = (y - ((y.sum(1, keepdim=True) - 1) / rows).relu()) * real
        q2 = y - x
        y = x + q3
        x = y.relu()
        q3 = y - x
    return x, (q1, q2, q3)


class _Project(torch.autograd.Function):
    """The nearest point of the polytope of assignments, exactly."""

    @staticmethod
    def forward(ctx: Any, level: Tensor, real: Tensor) -> Tensor:
        x, columns = project(level.detach(), real)
        ctx.save_for_backward(x, columns)
        return x

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, columns = ctx.saved_tensors
        return project_on_face(x, columns, grads[0]), None


def project(level: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The point of the polytope nearest to `level` (B, N, M), and by how much full columns were lowered, (B, M).

    The nearest point is max(level - rows - columns, 0). For given `rows` (B, N) the best `columns` >= 0 have a closed
    form, and so the other way round; Newton's method finds the rows for which all sums are 1 (the dual is concave and
    piecewise quadratic in them). Where objects bid for the same proposals, potentials move far: there the solution is
    followed from softer problems to this one.
    """
    accuracy = 1e-9 if level.dtype == torch.float64 else 1e-5
    level = level.masked_fill(~real, -math.inf)
    level = level - level.amax(2, keepdim=True).clamp_min(torch.finfo(level.dtype).min)  # as rows need, and is exact
    owned = real.any(2)
    rows = _rows(level, torch.zeros_like(level[:, 0]), owned)
    rows, solved = _ascend(level, rows, owned, accuracy, FEW)
    spread = -level.masked_fill(~real, 0).amin((1, 2))
    hard = ~solved & (spread * torch.finfo(level.dtype).eps < 1)  # beyond, rounding leaves no answer to be found
    if hard.any():
        rows[hard] = _follow(level[hard], owned[hard], float(spread[hard].max()), accuracy)
    return _fill(level, rows)


def _follow(level: Tensor, owned: Tensor, spread: float, accuracy: float) -> Tensor:
    """The rows (B, N) of `project`, by way of softer problems."""
    stages = math.ceil(math.log(max(spread, 1.0)) / math.log(STAGES))
    rows = _rows(level / STAGES**stages, torch.zeros_like(level[:, 0]), owned)
    for stage in range(stages, -1, -1):
        rows, _ = _ascend(level / STAGES**stage, rows, owned, accuracy if stage == 0 else 1e-2, MOST)
        rows = rows * STAGES if stage else rows
    return rows


def _fill(level: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of `level` less `rows`, projected onto {x >= 0, sum <= 1}: x, and by how much they were lowered."""
    level = level - rows[:, :, None]
    ranked = level.sort(1, descending=True).values
    count = torch.arange(1, level.shape[1] + 1, dtype=level.dtype, device=level.device)
    columns = ((ranked.cumsum(1) - 1) / count[:, None]).amax(1).relu()  # the largest is the threshold of a simplex
    return (level - columns[:, None]).relu(), columns


def _rows(level: Tensor, columns: Tensor, owned: Tensor) -> Tensor:
    """The rows for which the sums of relu(level - rows - columns) are 1; 0 for those not owned."""
    ranked = (level - columns[:, None]).sort(2, descending=True).values
    count = torch.arange(1, level.shape[2] + 1, dtype=level.dtype, device=level.device)
    return ((ranked.cumsum(2) - 1) / count).amax(2).masked_fill(~owned, 0)


def _ascend(level: Tensor, rows: Tensor, owned: Tensor, accuracy: float, most: int) -> tuple[Tensor, Tensor]:
    """At most so many semismooth Newton steps on the dual from `rows` (B, N), until all sums are 1 to `accuracy`.

    Returns:
        The rows, and (B,) whether they are there.
    """
    x, columns = _fill(level, rows)
    excess = (x.sum(2) - 1) * owned
    for _ in range(most):
        error = excess.abs().amax(1)
        open_ = error > accuracy
        if not open_.any():
            break
        system = _laplacian(x, columns, (1e-6 * error.clamp(1e-6, 1))[:, None])
        direction = torch.linalg.solve(system, excess) * open_[:, None]
        first = (excess * direction).sum(1)
        length = torch.ones_like(first)
        for _ in range(30):
            x, columns = _fill(level, rows + length[:, None] * direction)
            excess = (x.sum(2) - 1) * owned
            slope = (excess * direction).sum(1)
            long = (slope < -0.5 * first) & (excess.abs().amax(1) > accuracy)
            if not long.any():
                break
            secant = length * (first / (first - slope))
            length = torch.where(long, torch.minimum(torch.maximum(secant, 0.1 * length), 0.5 * length), length)
        rows = rows + length[:, None] * direction
        # A step in one block of the dual: it also finds rows that have nothing.
        rows = torch.where((excess.abs().amax(1) > accuracy)[:, None], _rows(level, columns, owned), rows)
        x, columns = _fill(level, rows)
        excess = (x.sum(2) - 1) * owned
    return rows, excess.abs().amax(1) <= accuracy


def _laplacian(x: Tensor, columns: Tensor, ridge: Tensor) -> Tensor:
    """(B, N, N): what the row sums lose as rows grow; entries > 0 and full columns tie rows together."""
    there = (x > 0).to(x)
    share = (columns > 0) / there.sum(1).clamp_min(1)
    return torch.diag_embed(there.sum(2) + ridge) - (there * share[:, None]) @ there.transpose(1, 2)


@full_precision
def project_on_face(x: Tensor, columns: Tensor, grad: Tensor) -> Tensor:
    """The derivative of `project`, which is its own transpose: `grad` (B, N, M) projected onto the directions that keep
    the zeros of x, the sums of its rows and those of its full columns."""
    there = (x > 0).to(x)
    full = (columns > 0).to(x)[:, None]
    count = there.sum(1, keepdim=True).clamp_min(1)
    grad = grad * there
    centred = grad - there * full * grad.sum(1, keepdim=True) / count
    ridge = x.new_full((1, 1), 1e-12 if x.dtype == torch.float64 else 1e-6)
    rows: Tensor = torch.linalg.solve(_laplacian(x, columns, ridge), centred.sum(2))
    along = there * rows[:, :, None]
    return centred - along + there * full * along.sum(1, keepdim=True) / count

"""DMM-Net (Zeng et al., ICCV 2019): its matching layer's figure, and its theorem put to the test.

All in float64: errors are followed down to where float32 would end.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from matchcut.benchmarks.drawing import COLOURS, GREY, bare, new_figure, save
from matchcut.files import write_csv
from matchcut.matching import assign, hungarian
from matchcut.matching.assignment_solver import dykstra, project

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OBJECTS, PROPOSALS = 5, 100
MATRICES, STARTS = 3, 10
RATES = (0.005, 0.01, 0.1)
"""Learning rates: the two that the supplement compares, and the one DMM-Net runs with."""
PROJECTIONS = (5, 20, 50)
STEPS, INNER = 500, 100
OUTER = (1, 10, 100, 400)
"""Outer steps whose inner loop is followed."""
FLOOR = 1e-12
"""Where the axes of errors end."""
SIZES, EPSILONS = ((3, 10), (5, 100), (10, 10)), (0.8, 0.4, 0.2, 0.1)


def figure_5(
    out: Path,
    *,
    seed: int = 0,
    say: Callable[[str], None] = print,
    steps: int = STEPS,
    inner: int = INNER,
    outers: Sequence[int] = OUTER,
) -> list[Path]:
    """Figure 5 of the supplement: objective over outer steps and projection error over inner ones.

    Three 5 x 100 cost matrices, uniform in [0, 1), ten random starts each, Algorithm 1. For each matrix the upper row
    has <C, X_i> (and, dotted, that of the mean of all iterates so far, which is what Algorithm 1 returns) for each
    number of projections, a panel a learning rate; the lower row the distance of the inner iterate to the exact
    projection, |Y_j - P_C(Y_0)|, for several outer steps. Lines are means over starts, bands one standard deviation, of
    logarithms; the CSV has those of the numbers themselves.
    """
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(MATRICES, OBJECTS, PROPOSALS, generator=generator, dtype=torch.float64)
    starts = torch.rand(MATRICES * STARTS, OBJECTS, PROPOSALS, generator=generator, dtype=torch.float64)
    every = costs.repeat_interleave(STARTS, 0)
    best = hungarian(costs).objectives[:, -1]
    figure = new_figure(4.2 * len(RATES), 2.35 * 2 * MATRICES)
    panels = figure.subplots(2 * MATRICES, len(RATES), sharex="row", sharey="row")
    rows: list[Sequence[Any]] = []
    for column, rate in enumerate(RATES):
        say(f"learning rate {rate}")
        for number, projections in enumerate(PROJECTIONS):
            match = assign(every, start=starts, steps=steps, **_algorithm_1(projections, rate))
            objectives = match.objectives.reshape(MATRICES, STARTS, steps)
            means = objectives.cumsum(2) / torch.arange(1, steps + 1)
            for matrix in range(MATRICES):
                label = f"{projections} projections"
                _band(panels[2 * matrix, column], objectives[matrix], COLOURS[number], label)
                panels[2 * matrix, column].plot(range(1, steps + 1), means[matrix].mean(0), ":", color=COLOURS[number])
                rows += _rows("objective", matrix, rate, projections, objectives[matrix])
                rows += _rows("objective of the mean", matrix, rate, projections, means[matrix])
        for number, outer in enumerate(outers):
            errors = inner_errors(every, starts, rate, outer, inner).reshape(MATRICES, STARTS, inner)
            for matrix in range(MATRICES):
                _band(panels[2 * matrix + 1, column], errors[matrix], COLOURS[number], f"outer step {outer}")
                rows += _rows("projection error", matrix, rate, outer, errors[matrix])
    for matrix in range(MATRICES):
        for column, rate in enumerate(RATES):
            upper, lower = panels[2 * matrix, column], panels[2 * matrix + 1, column]
            upper.axhline(float(best[matrix]), color=GREY, linewidth=1, linestyle="--", label="optimum (Hungarian)")
            upper.set_yscale("log")
            lower.set_yscale("log")
            lower.set_ylim(bottom=FLOOR)
            for panel, title in ((upper, "objective"), (lower, "projection error")):
                bare(panel)
                panel.set_title(f"matrix {matrix + 1}: {title}, learning rate {rate}", fontsize=9, loc="left")
            upper.set_xlabel("outer steps", fontsize=8)
            lower.set_xlabel("inner steps", fontsize=8)
    panels[0, -1].legend(fontsize=7, frameon=False)
    panels[1, -1].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    save(figure, out / "figure-5.png")
    header = ("curve", "matrix", "learning_rate", "projections_or_outer_step", "step", "mean", "deviation")
    return [out / "figure-5.png", write_csv(out / "figure-5.csv", header, rows, decimals=9)]


def inner_errors(cost: Tensor, start: Tensor, rate: float, outer: int, inner: int) -> Tensor:
    """(B, inner): |Y_j - P_C(Y_0)|_F of the inner iterates at one outer step, after exact outer steps before it."""
    if outer > 1:
        start = assign(cost, start=start, steps=outer - 1, **_algorithm_1(PROJECTIONS[-1], rate)).matrix
    real = torch.ones_like(cost, dtype=torch.bool)
    y, corrections = start - rate * cost, tuple(torch.zeros(3, *cost.shape, dtype=cost.dtype))
    exact, _ = project(y, real)
    errors = []
    for _ in range(inner):
        y, corrections = dykstra(y, corrections, real, 1)
        errors.append((y - exact).flatten(1).norm(dim=1))
    return torch.stack(errors, 1)


@dataclass(frozen=True)
class Bound:
    """What Theorem 1 asks for on one problem, with the constants of Lemma 1 measured on it."""

    learning_rate: float
    steps: int
    """K."""
    projections: int
    """N_proj."""
    rho: float
    c: float


def theorem_1_bound(cost: Tensor, start: Tensor, best: Tensor, epsilon: float) -> Bound:
    """K and N_proj of Theorem 1 for one problem: cost, start and optimal assignment, (1, N, M) each.

    The theorem leaves rho and c open (Lemma 1: |Y_n - P_C(Y_0)| <= rho c^n). Here they are the smallest that hold for
    200 inner steps at outer steps 1, 10 and 100. Of its two conditions on N_proj, rho c^N <= sqrt(alpha epsilon / 15 K)
    and delta <= alpha epsilon / 15 r_0, the second is the stricter by 1.6 with K as stated; both are met.
    """
    radius = float((start - best).norm())
    rate = 0.99 * min(15 * radius, radius / float(cost.norm()))
    steps = math.ceil(6 * radius**2 / (rate * epsilon))
    errors = torch.cat([inner_errors(cost, start, rate, outer, 200) for outer in (1, 10, 100)])
    rho, c = decay(errors)
    wanted = min(math.sqrt(rate * epsilon / (15 * steps)), rate * epsilon / (15 * radius))
    projections = max(1, math.ceil(math.log(rho / wanted) / math.log(1 / c)))
    return Bound(rate, steps, projections, rho, c)


def decay(errors: Tensor) -> tuple[float, float]:
    """rho and c with errors[:, n - 1] <= rho c^n wherever an error is not yet lost in rounding.

    c is that of the slowest curve, from its middle to where it ends.
    """
    c = 0.5
    for curve in errors.tolist():
        known = [error for error in curve if error > 1e-10]
        half = len(known) // 2
        if len(known) - half > 2:
            c = max(c, min(0.999, (known[-1] / known[half]) ** (1 / (len(known) - 1 - half))))
    n = torch.arange(1, errors.shape[1] + 1)
    return float((errors.where(errors > 1e-10, 0) / c**n).max()), c


def theorem_1(
    out: Path,
    *,
    seed: int = 0,
    say: Callable[[str], None] = print,
    sizes: Sequence[tuple[int, int]] = SIZES,
    epsilons: Sequence[float] = EPSILONS,
) -> list[Path]:
    """Theorem 1 on random problems: K and N_proj from the bound, and how far the answer then is from the optimum.

    Left: Dykstra's error over inner steps with its bound rho c^n. Middle: how much more than the optimum the answer
    costs, and how far from feasible it is, over the epsilon that was asked for; all must lie below the diagonal. Right:
    the relaxed cost tends to the Hungarian one as outer steps grow.
    """
    generator = torch.Generator().manual_seed(seed)
    figure = new_figure(13, 4)
    left, middle, right = figure.subplots(1, 3)
    rows: list[Sequence[Any]] = []
    for number, size in enumerate(sizes):
        cost = torch.rand(1, *size, generator=generator, dtype=torch.float64)
        start = torch.full_like(cost, 1 / size[1])
        optimum = hungarian(cost)
        best = float(optimum.objectives[0, -1])
        name, colour = f"{size[0]} x {size[1]}", COLOURS[number]
        found = []
        for epsilon in epsilons:
            bound = theorem_1_bound(cost, start, optimum.matrix, epsilon)
            say(f"{name}, epsilon {epsilon}: K = {bound.steps}, N_proj = {bound.projections}")
            match = assign(cost, start=start, steps=bound.steps, **_answer(bound))
            gap = abs(float((cost * match.matrix).sum()) - best)
            distance = float((match.matrix - projected(match.matrix)).norm())
            found.append((epsilon, gap, distance))
            settings = (bound.learning_rate, bound.steps, bound.projections, bound.rho, bound.c)
            rows.append((name, epsilon, *settings, gap, distance))
        _, gaps, distances = zip(*found, strict=True)
        labels = ("", "") if number else ("|cost - optimum|", "distance to C")
        middle.loglog(epsilons, gaps, "o-", color=colour, label=labels[0])
        middle.loglog(epsilons, [max(one, 1e-16) for one in distances], "x:", color=colour, label=labels[1])
        errors = inner_errors(cost, start, bound.learning_rate, 10, 200)[0]
        left.semilogy(range(1, 201), errors.clamp(min=1e-14), color=colour, label=name)
        left.semilogy(range(1, 201), [bound.rho * bound.c**n for n in range(1, 201)], ":", color=colour)
        excess = (match.objectives[0].cumsum(0) / torch.arange(1, bound.steps + 1) - best).abs() / best
        right.loglog(range(1, bound.steps + 1), excess, color=colour, label=name)
    middle.plot((0.08, 1), (0.08, 1), color=GREY, linestyle="--", label="epsilon")
    titles = (
        "Dykstra's error at outer step 10, and rho c^n (dotted)",
        "what the bound gives",
        "|relaxed cost / Hungarian cost - 1|",
    )
    axes = ("inner steps", "epsilon asked for", "outer steps")
    for panel, title, label in zip((left, middle, right), titles, axes, strict=True):
        bare(panel)
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlabel(label, fontsize=9)
        panel.legend(fontsize=7, frameon=False)
    left.set_ylim(1e-14, 100)
    figure.tight_layout()
    save(figure, out / "theorem-1.png")
    header = ("size", "epsilon", "learning_rate", "K", "N_proj", "rho", "c", "cost_gap", "distance_to_C")
    return [out / "theorem-1.png", write_csv(out / "theorem-1.csv", header, rows, decimals=9)]


def _algorithm_1(projections: int, rate: float) -> dict[str, Any]:
    """The last iterate of Algorithm 1; what it returns is the mean of all."""
    return {
        "projections": projections,
        "learning_rate": rate,
        "corrections": "reset",
        "average": "last",
        "quadratic": 0,
    }


def _answer(bound: Bound) -> dict[str, Any]:
    return _algorithm_1(bound.projections, bound.learning_rate) | {"average": "iterates"}


def projected(matrix: Tensor) -> Tensor:
    """P_C of a matrix (B, N, M)."""
    return project(matrix, torch.ones_like(matrix, dtype=torch.bool))[0]


def _band(panel: "Axes", curves: Tensor, colour: str, label: str) -> None:
    """The mean over starts, and one standard deviation to both sides, of logarithms as the axis is."""
    curves = curves.clamp(min=FLOOR).log()
    mean, deviation = curves.mean(0), curves.std(0)
    steps = range(1, curves.shape[1] + 1)
    panel.plot(steps, mean.exp(), color=colour, linewidth=1.4, label=label)
    panel.fill_between(steps, (mean - deviation).exp(), (mean + deviation).exp(), color=colour, alpha=0.2, lw=0)


def _rows(name: str, matrix: int, rate: float, setting: int, curves: Tensor) -> list[Sequence[Any]]:
    pairs = zip(curves.mean(0).tolist(), curves.std(0).tolist(), strict=True)
    return [(name, matrix + 1, rate, setting, step, *pair) for step, pair in enumerate(pairs, 1)]

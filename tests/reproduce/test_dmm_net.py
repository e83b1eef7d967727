"""Theorem 1 of DMM-Net on random problems, and its figure drawn small."""

import csv

import pytest
import torch

from matchcut.matching import ALGORITHM_1, assign, hungarian
from matchcut.reproduce import dmm_net


@pytest.mark.parametrize(
    ("size", "epsilon", "start"),
    [((2, 6), 0.2, "uniform"), ((3, 10), 0.5, "random"), ((6, 6), 0.5, "uniform")],
)
def test_steps_and_projections_of_the_bound_give_an_epsilon_optimal_answer(size, epsilon, start):
    generator = torch.Generator().manual_seed(sum(size))
    for _ in range(2):
        cost = torch.rand(1, *size, generator=generator, dtype=torch.float64)
        first = torch.rand(1, *size, generator=generator, dtype=torch.float64)
        first = first if start == "random" else torch.full_like(cost, 1 / size[1])
        best = hungarian(cost)
        bound = dmm_net.theorem_1_bound(cost, first, best.matrix, epsilon)
        radius = float((first - best.matrix).norm())
        assert 0 < bound.learning_rate < min(15 * radius, radius / float(cost.norm()))
        assert bound.steps >= 6 * radius**2 / (bound.learning_rate * epsilon)
        settings = ALGORITHM_1 | {"steps": bound.steps, "projections": bound.projections}
        answer = assign(cost, start=first, **settings | {"learning_rate": bound.learning_rate}).matrix
        assert abs(float((cost * answer).sum()) - float(best.objectives[0, -1])) <= epsilon
        assert float((answer - dmm_net.projected(answer)).norm()) <= epsilon
        # Lemma 1, with the constants as measured, at a step where they were not measured.
        errors = dmm_net.inner_errors(cost, first, bound.learning_rate, 20, 60)[0]
        limits = bound.rho * bound.c ** torch.arange(1, 61)
        assert (errors <= 3 * limits + 1e-10).all()


def test_too_few_steps_are_not_epsilon_optimal():
    cost = torch.rand(1, 3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best = hungarian(cost)
    start = torch.full_like(cost, 0.1)
    bound = dmm_net.theorem_1_bound(cost, start, best.matrix, 0.1)
    settings = ALGORITHM_1 | {"steps": 3, "projections": bound.projections, "learning_rate": bound.learning_rate}
    answer = assign(cost, start=start, **settings)
    assert float((cost * answer.matrix).sum()) - float(best.objectives[0, -1]) > 0.1


def test_decay_bounds_what_it_was_measured_on():
    n = torch.arange(1, 201)
    errors = torch.stack([3 * 0.9**n, 0.1 * 0.95**n * (1 + 0.1 * torch.sin(n))])
    rho, c = dmm_net.decay(errors.double())
    assert 0.93 < c < 0.97
    assert (errors <= rho * c**n * (1 + 1e-9) + 1e-10).all()


def test_figure_5_has_all_its_curves(tmp_path):
    said = []
    picture, table = dmm_net.figure_5(tmp_path, say=said.append, steps=12, inner=8, outers=(1, 10))
    assert picture.read_bytes().startswith(b"\x89PNG")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {row["curve"] for row in rows}
    assert kinds == {"objective", "objective of the mean", "projection error"}
    objectives = [row for row in rows if row["curve"] == "objective"]
    assert len(objectives) == dmm_net.MATRICES * len(dmm_net.RATES) * len(dmm_net.PROJECTIONS) * 12
    errors = [row for row in rows if row["curve"] == "projection error"]
    assert len(errors) == dmm_net.MATRICES * len(dmm_net.RATES) * 2 * 8
    first, last = ([float(row["mean"]) for row in errors if int(row["step"]) == step] for step in (1, 8))
    assert sum(last) < 0.5 * sum(first) and len(said) == len(dmm_net.RATES)


def test_theorem_1_is_drawn_and_holds(tmp_path):
    picture, table = dmm_net.theorem_1(tmp_path, say=lambda line: None, sizes=((3, 10), (4, 4)), epsilons=(0.8, 0.4))
    assert picture.is_file()
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["size"], float(row["epsilon"])) for row in rows] == [
        ("3 x 10", 0.8),
        ("3 x 10", 0.4),
        ("4 x 4", 0.8),
        ("4 x 4", 0.4),
    ]
    for row in rows:
        assert float(row["cost_gap"]) <= float(row["epsilon"])
        assert float(row["distance_to_C"]) <= float(row["epsilon"])

"""The tasks are what they are said to be, and each layer learns its own beyond what greedy matching reaches."""

import csv
import importlib

import pytest
import torch

from matchcut.matching import greedy, hungarian

MODULE = importlib.import_module("matchcut.reproduce.learning")  # the package has a function of that name


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_twins_have_one_assignment_that_greedy_does_not_find():
    problems = MODULE.twins(200, generator())
    fits = problems.costs == 0  # (B, N, N)
    assert ((fits.sum(2) == 2) | (fits.sum(2) == 1)).all()
    assert (fits.sum(2) == 1).sum(1).max() == 2  # views at the ends of the row, which fit one alone
    right = problems.query_things[:, 0, :, None] == problems.reference_things[:, 0, None]
    assert fits[right].all()
    # Exactly one permutation fits all views: the right one is best, and the second best does not fit.
    assert torch.equal(hungarian(problems.costs).dense() > 0.5, right)
    assert (hungarian(problems.costs + 0.01 * right.float()).objectives[:, -1] > 0.07).all()
    found = (greedy(problems.costs).dense() > 0.5)[right].double().mean()
    assert found < 0.65


def test_no_cost_of_a_pair_prefers_the_right_twin():
    problems = MODULE.twins(4000, generator())
    right = problems.query_things[:, 0, :, None] == problems.reference_things[:, 0, None]
    two = ((problems.costs == 0) & ((problems.costs == 0).sum(2, keepdim=True) == 2)).nonzero(as_tuple=True)
    scores = torch.einsum("bcq,bcr->bqr", problems.query[:, :, 0], problems.reference[:, :, 0])
    of_right, of_twin = scores[two][right[two]], scores[two][~right[two]]
    assert len(of_right) == len(of_twin) > 20_000
    for share in (0.1, 0.5, 0.9):  # the scores have the same distribution
        assert (of_right.quantile(share) - of_twin.quantile(share)).abs() < 0.05 * scores.std()


def test_a_mosaic_has_a_row_of_twins_in_each_long_distant_group():
    problems = MODULE.mosaic(2, generator())
    assert problems.query.shape == problems.reference.shape == (2, MODULE.CHANNELS, 8, 8)
    sets = set()
    for y in range(MODULE.BLOCK[0]):
        for x in range(MODULE.BLOCK[1]):
            here = (slice(None), slice(y, None, MODULE.BLOCK[0]), slice(x, None, MODULE.BLOCK[1]))
            of_query, of_reference = (
                one[here].flatten(1).sort(1).values for one in (problems.query_things, problems.reference_things)
            )
            assert torch.equal(of_query, of_reference) and torch.equal(of_query[0], of_query[1])
            sets.add(tuple(of_query[0].tolist()))
    assert sorted(sum(sets, ())) == list(range(1, 65))


def test_copies_move_a_little_and_look_the_same():
    problems = MODULE.moved(20, generator())
    for copy in range(1, 5):
        places = [
            (things == copy).nonzero()[:, 1:].reshape(20, -1, 2)
            for things in (problems.query_things, problems.reference_things)
        ]
        assert places[0].shape == (20, MODULE.SIDE**2, 2)
        by = places[0] - places[1]
        assert by.abs().max() == MODULE.REACH and (by == by[:, :1]).all()
    shown = problems.query_things.flatten(1) > 0
    assert ((problems.costs == 0).sum(2)[shown] == 4).all()
    ties = 1e-3 * torch.rand(problems.costs.shape, generator=generator())
    for solve in (greedy, hungarian):
        found = problems.reference_things.flatten(1).gather(1, solve(problems.costs + ties).dense().argmax(2))
        assert (found == problems.query_things.flatten(1))[shown].double().mean() < 0.35


@pytest.mark.parametrize(
    ("task", "name", "steps", "rise", "beyond"),
    [
        ("twins", "assign", 150, 0.5, 0.1),
        ("twins", "sinkhorn", 150, 0.5, 0.1),
        ("twins", "long_short_sinkhorn", 200, 0.5, 0.1),
        ("moved copies", "affinity", 30, 0.7, 0.6),
        ("moved copies", "deform", 70, 0.4, 0.4),
    ],
)
def test_a_layer_learns_what_greedy_matching_cannot(task, name, steps, rise, beyond, monkeypatch):
    monkeypatch.setattr(MODULE, "POINTS", 1)
    trial = MODULE.TRIALS[task][name]
    (_, first), (last_step, last) = MODULE._train(trial, 0, steps, by_costs=False)
    assert last_step == steps
    held_out = MODULE.TRIALS[task][MODULE.ROWS].problems(100, generator())
    ties = 1e-3 * torch.rand(held_out.costs.shape, generator=generator())
    by_greedy = MODULE._accuracy(greedy(held_out.costs + ties), held_out, generator())
    assert last[""] > first[""] + rise and last[""] > by_greedy + beyond, (first, last, by_greedy)


def test_the_command_draws_a_curve_a_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "POINTS", 2)
    said: list[str] = []
    picture, table = MODULE.learning(tmp_path, steps=4, say=said.append)
    assert sorted(tmp_path.iterdir()) == sorted((picture, table))
    assert picture.read_bytes().startswith(b"\x89PNG")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for task, layers in MODULE.TRIALS.items():
        for name in layers:
            curve = [row for row in rows if (row["task"], row["layer"]) == (task, name)]
            assert [int(row["step"]) for row in curve] == [0, 2, 4]
            assert all(0 <= float(row["accuracy"]) <= 1 for row in curve)
    assert {row["accuracy"] for row in rows if row["layer"] == "Hungarian, true costs" and row["task"] == "twins"} == {
        "1.000"
    }
    assert len(said) == sum(len(layers) + 2 for layers in MODULE.TRIALS.values())


def test_the_same_seed_gives_the_same_numbers(monkeypatch):
    monkeypatch.setattr(MODULE, "POINTS", 1)
    trial = MODULE.TRIALS["twins"]["assign"]
    one, same, other = (list(MODULE._train(trial, seed, 5, by_costs=True)) for seed in (0, 0, 1))
    assert one == same != other

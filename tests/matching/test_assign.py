"""Assignments against the paper's listing, a slow exact projection and SciPy, and by the contract all matches keep."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.assignment import ALGORITHM_1, LISTING_1, Assignment, assign, greedy, hungarian
from matchcut.matching.base import Match

F64 = torch.float64


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


# --- references


def paper(cost: Tensor, start: Tensor, steps: int, projections: int, rate: float, carry: bool, with_start: bool):
    """Algorithm 1, or Listing 1, on one problem (n, m), line by line with all corrections."""
    n, m = cost.shape
    x, q, found = start, [torch.zeros_like(cost)] * 3, [start] if with_start else []
    for _ in range(steps):
        y = x - rate * cost
        if not carry:
            q = [torch.zeros_like(cost)] * 3
        for _ in range(projections):
            y1 = y + q[0] - ((y + q[0]).sum(1, keepdim=True) - 1) / m
            q[0] = y + q[0] - y1
            full = (y1 + q[1]).sum(0, keepdim=True)
            y2 = torch.where(full <= 1, y1 + q[1], y1 + q[1] - (full - 1) / n)
            q[1] = y1 + q[1] - y2
            y = (y2 + q[2]).relu()
            q[2] = y2 + q[2] - y
        x = y
        found.append(x)
    return torch.stack(found).mean(0)


def cheapest(cost: Tensor) -> float:
    """The least total cost of an assignment (n <= m), by trying all."""
    n, m = cost.shape
    return min(sum(float(cost[i, j]) for i, j in enumerate(choice)) for choice in itertools.permutations(range(m), n))


def is_projection(x: Tensor, level: Tensor, atol: float = 1e-7) -> None:
    """Assert that x (n, m) is the nearest point to `level`: feasible, and no vertex lies further along x - level.

    The polytope's vertices are the assignments, and Hungarian finds the one that is best in a direction.
    """
    assert x.min() >= 0 and x.sum(0).max() <= 1 + 1e-8
    torch.testing.assert_close(x.sum(1), torch.ones_like(x[:, 0]), atol=1e-8, rtol=0)
    slope = x - level
    vertex = hungarian(slope[None]).matrix[0]
    assert (slope * (vertex - x)).sum() >= -atol * (1 + level.abs().max())


def hard(name: str) -> Tensor:
    """Problems on which potentials have far to go, or are not unique."""
    generator = np.random.default_rng(0)
    made = {
        "constant": np.full((10, 12), 0.5),
        "equal rows": generator.random((1, 15)) + np.zeros((10, 15)),
        "equal columns": generator.random((10, 1)) + np.zeros((10, 15)),
        "rank one": generator.random((10, 1)) * generator.random((1, 12)),
        "ties": generator.integers(0, 3, (10, 12)).astype(float),
        "square": generator.random((30, 30)),
        "large": 1e4 * generator.random((20, 50)),
        "negative": -1e3 * generator.random((6, 6)) ** 9,
        "one": generator.random((1, 1)),
        "twins": generator.random((5, 20)).repeat(2, 0) + 1e-3 * generator.random((10, 20)),
    }
    return torch.from_numpy(made[name])


# --- the paper's algorithms


@pytest.mark.parametrize(("steps", "projections", "rate"), [(40, 5, 0.1), (90, 20, 0.01), (1, 1, 0.3), (7, 1, 1.0)])
@pytest.mark.parametrize("shape", [(5, 100), (4, 4), (1, 3)])
def test_the_presets_are_the_papers_algorithms(shape, steps, projections, rate):
    cost, start = numbers(*shape), numbers(*shape, seed=1) * 2 - 0.5
    changed = {"steps": steps, "projections": projections, "learning_rate": rate}
    for preset, carry in ((ALGORITHM_1, False), (LISTING_1, True)):
        expected = paper(cost, start, steps, projections, rate, carry, with_start=carry)
        match = assign(cost[None], start=start[None], **(preset | changed))
        torch.testing.assert_close(match.matrix[0], expected, atol=1e-11, rtol=0)
        single = assign(cost[None].float(), start=start[None].float(), **(preset | changed))
        torch.testing.assert_close(single.matrix[0], expected.float(), atol=1e-5, rtol=0)


def test_the_presets_hold_the_papers_numbers():
    for preset in (ALGORITHM_1, LISTING_1):
        assert (preset["steps"], preset["projections"], preset["learning_rate"]) == (40, 5, 0.1)


def test_starts():
    cost = numbers(2, 4, 9)
    for name, start in (("greedy", greedy(cost).matrix), ("uniform", torch.full_like(cost, 1 / 9))):
        assert torch.equal(assign(cost, start=name, **LISTING_1).matrix, assign(cost, start=start, **LISTING_1).matrix)
    assert torch.equal(assign(cost, **LISTING_1).matrix, assign(cost, start="greedy", **LISTING_1).matrix)


def test_one_step_of_one_over_quadratic_arrives_from_anywhere():
    cost = numbers(2, 4, 9)
    settings = {"quadratic": 0.2, "backward_quadratic": None}
    expected = assign(cost, **settings).matrix
    for start in ("uniform", numbers(2, 4, 9, seed=1) * 5):
        torch.testing.assert_close(assign(cost, start=start, **settings).matrix, expected, atol=1e-8, rtol=0)
    smaller = assign(cost, start="uniform", steps=300, learning_rate=0.3, **settings)
    torch.testing.assert_close(smaller.matrix, expected, atol=1e-6, rtol=0)


# --- the exact projection


@pytest.mark.parametrize("quadratic", [3.0, 0.1, 0.01, 0.0005])
@pytest.mark.parametrize(
    "name",
    ["constant", "equal rows", "equal columns", "rank one", "ties", "square", "large", "negative", "one", "twins"],
)
def test_hard_problems_are_projected_exactly(name, quadratic):
    cost = hard(name)
    match = assign(cost[None], quadratic=quadratic)
    is_projection(match.matrix[0], -cost / quadratic)


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(0, 9), st.floats(-3, 3), st.integers(0, 2**16), st.sampled_from([0, 1, 3]))
def test_anything_is_projected_exactly(n, more, exponent, seed, levels):
    cost = torch.randn(n, n + more, generator=torch.Generator().manual_seed(seed), dtype=F64)
    if levels:
        cost = (cost * levels).round()
    quadratic = 10**exponent
    match = assign(cost[None], quadratic=quadratic)
    is_projection(match.matrix[0], -cost / quadratic)
    assert match.residual.item() <= 1e-8


def test_the_exact_projection_is_dykstras_limit():
    cost, start = numbers(3, 6, 8), numbers(3, 6, 8, seed=1)
    common = {"start": start, "steps": 3, "learning_rate": 0.3, "quadratic": 0.0, "backward_quadratic": None}
    exact = assign(cost, projections=None, **common)
    dykstra = assign(cost, projections=1500, **common)
    torch.testing.assert_close(dykstra.matrix, exact.matrix, atol=1e-6, rtol=0)
    torch.testing.assert_close(dykstra.objectives, exact.objectives, atol=1e-6, rtol=0)


# --- limits


@pytest.mark.parametrize(("shape", "share"), [((5, 100), 0.99), ((20, 50), 0.99)])
def test_the_default_is_the_optimum_within_one_percent(shape, share):
    cost = numbers(200, *shape, dtype=torch.float32)
    match, best = assign(cost), hungarian(cost)
    close = (match.matrix * cost).sum((1, 2)) <= 1.01 * best.objectives[:, 0]
    same = (match.matrix.argmax(2) == best.matrix.argmax(2)).all(1)
    assert (close & same).float().mean() >= share
    assert match.residual.max() < 1e-6


def test_a_falling_quadratic_term_tends_to_hungarian():
    cost = numbers(20, 8, 12)
    best = hungarian(cost).objectives[:, 0]
    above = [assign(cost, quadratic=0.5 / 8**i).objectives[:, 0] - best for i in range(6)]
    assert all((one >= -1e-7).all() for one in above)
    assert all((later <= earlier + 1e-7).all() for earlier, later in itertools.pairwise(above))
    assert above[0].mean() > 0.1 and above[-1].max() < 1e-3


@pytest.mark.parametrize("preset", [ALGORITHM_1, LISTING_1])
def test_more_steps_tend_to_hungarian(preset):
    cost = numbers(6, 4, 9)
    best = hungarian(cost).objectives[:, 0]
    more = preset | {"projections": 30, "learning_rate": 0.1, "start": "uniform"}
    gaps = [((assign(cost, **(more | {"steps": n})).matrix * cost).sum((1, 2)) - best).abs() for n in (5, 25, 125)]
    assert gaps[0].max() > gaps[1].max() > gaps[2].max()
    assert gaps[2].max() < 0.2
    last = assign(cost, **(more | {"steps": 200, "projections": 100, "learning_rate": 0.3, "average": "last"}))
    torch.testing.assert_close(last.objectives[:, -1], best, atol=5e-3, rtol=0)


def test_more_projections_bring_the_residual_down():
    cost = numbers(4, 5, 30)
    found = [assign(cost, **(ALGORITHM_1 | {"steps": 10, "projections": n})).residual for n in (1, 10, 100, 1000)]
    assert all((later < earlier).all() for earlier, later in itertools.pairwise(found))
    assert found[-1].max() < 1e-4


# --- greedy and Hungarian


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(0, 2), st.integers(0, 2**16))
def test_hungarian_is_the_cheapest(n, more, seed):
    cost = torch.randn(n, n + more, generator=torch.Generator().manual_seed(seed), dtype=F64)
    match = hungarian(cost[None])
    assert set(match.matrix.unique().tolist()) <= {0.0, 1.0} and match.residual.item() == 0
    assert match.objectives.item() == pytest.approx(cheapest(cost))
    assert match.objectives.item() == pytest.approx((match.matrix[0] * cost).sum().item())


def test_greedy_takes_the_cheapest_pair_first():
    cost = torch.tensor([[[1.0, 2.0, 9.0], [0.0, 5.0, 9.0], [3.0, 3.0, 9.0]]])
    match = greedy(cost)
    assert match.matrix.argmax(2).tolist() == [[1, 0, 2]]
    assert match.objectives.tolist() == [[11.0]] and match.steps.tolist() == [1] and match.residual.tolist() == [0]
    assert hungarian(cost).objectives.item() == 11.0
    worse = torch.tensor([[[1.0, 2.0], [0.0, 9.0]]])
    assert greedy(worse).matrix.argmax(2).tolist() == [[1, 0]]
    worse = torch.tensor([[[1.0, 2.0], [2.5, 9.0]]])
    assert greedy(worse).objectives.item() == 10.0 and hungarian(worse).objectives.item() == 4.5


# --- masks, and more objects than proposals


def masked() -> tuple[Tensor, Tensor, Tensor]:
    """Costs (6, 5, 7) and masks; one item has more objects than proposals, one no objects, one no proposals."""
    generator = torch.Generator().manual_seed(5)
    objects = torch.rand(6, 5, generator=generator) < 0.7
    proposals = torch.rand(6, 7, generator=generator) < 0.7
    objects[1], proposals[1] = True, torch.arange(7) % 3 == 1
    objects[2], proposals[3] = False, False
    objects[4], proposals[4] = True, True
    return numbers(6, 5, 7) - 0.5, objects, proposals


KINDS = [
    {},
    {"quadratic": 0.3, "backward_quadratic": None},
    ALGORITHM_1,
    LISTING_1,
    {**ALGORITHM_1, "quadratic": 0.2},
    {**LISTING_1, "quadratic": 0.2, "average": "iterates", "start": "uniform"},
]


@pytest.mark.parametrize("kind", [*KINDS, "greedy", "hungarian"])
def test_a_masked_batch_is_a_loop_over_cropped_items(kind):
    operators = {"greedy": greedy, "hungarian": hungarian}
    run = operators[kind] if isinstance(kind, str) else lambda *a, **k: assign(*a, **k, **kind)
    cost, objects, proposals = masked()
    real = objects[:, :, None] & proposals[:, None]
    whole = run(cost.masked_fill(~real, torch.nan), objects=objects, proposals=proposals)
    assert whole.matrix.shape == cost.shape and not whole.matrix[~real].any()
    for item in range(len(cost)):
        rows, columns = objects[item].nonzero()[:, 0], proposals[item].nonzero()[:, 0]
        one = run(cost[item][rows][:, columns][None])
        torch.testing.assert_close(whole.matrix[item][rows][:, columns], one.matrix[0], atol=1e-8, rtol=0)
        torch.testing.assert_close(whole.objectives[item], one.objectives[0], atol=1e-8, rtol=0)
        torch.testing.assert_close(whole.residual[item], one.residual[0], atol=1e-8, rtol=0)
        assert torch.equal(whole.steps[item], one.steps[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_gets_no_gradient(kind):
    cost, objects, proposals = masked()
    real = objects[:, :, None] & proposals[:, None]
    cost = cost.masked_fill(~real, torch.inf).requires_grad_()
    given_start = {} if "start" in kind else {"start": numbers(6, 5, 7, seed=2).masked_fill(~real, torch.nan)}
    match = assign(cost, objects=objects, proposals=proposals, **given_start, **kind)
    (grad,) = torch.autograd.grad((match.matrix * numbers(6, 5, 7, seed=3)).sum(), cost)
    assert grad.isfinite().all() and not grad[~real].any()
    assert grad[4].any()  # where all is real


def test_more_objects_than_proposals_leaves_the_dearest_out():
    cost = -numbers(1, 5, 2)
    match = assign(cost)
    best = hungarian(cost)
    assert match.matrix.shape == best.matrix.shape == (1, 5, 2)
    assert match.empties.shape == best.empties.shape == (1, 5, 3)
    torch.testing.assert_close(match.matrix, best.matrix, atol=1e-6, rtol=0)
    torch.testing.assert_close(match.matrix.sum(1), torch.ones(1, 2, dtype=F64), atol=1e-6, rtol=0)
    assert match.residual.item() < 1e-8
    soft = assign(cost, quadratic=0.5)
    torch.testing.assert_close(soft.matrix.sum(2) + soft.empties.sum(2), torch.ones(1, 5, dtype=F64))
    padded = torch.cat([cost, torch.zeros(1, 5, 3, dtype=F64)], 2)
    for kind in ({}, ALGORITHM_1, LISTING_1):
        given = assign(padded, **kind).matrix
        torch.testing.assert_close(assign(cost, **kind).matrix, given[..., :2], atol=1e-8, rtol=0)


# --- the contract of matches


@pytest.mark.parametrize("make", [assign, greedy, hungarian, lambda cost: assign(cost, **LISTING_1)])
def test_apply_is_dense_times_values(make):
    match = make(numbers(2, 4, 9))
    assert isinstance(match, Match) and isinstance(match, Assignment)
    values = numbers(2, 3, 9, seed=4)
    expected = (match.dense() @ values.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(match.apply(values), expected)
    assert match.apply(values[:, :0]).shape == (2, 0, 4)
    assert match.apply(values.float()).dtype == torch.float32
    assert not match.residual.requires_grad and match.residual.shape == (2,)
    with pytest.raises(ShapeError, match=r"values: expected \(B, C, M\) with B = 2 and M = 9, got \(2, 3, 8\)"):
        match.apply(values[..., :8])


@pytest.mark.parametrize("kind", KINDS)
def test_batch_is_a_loop_over_items(kind):
    cost = numbers(4, 5, 8)
    whole = assign(cost, **kind)
    for item in range(4):
        one = assign(cost[item : item + 1], **kind)
        torch.testing.assert_close(whole.matrix[item], one.matrix[0], atol=1e-8, rtol=0)


def test_feasible_everywhere():
    match = assign(numbers(3, 6, 9).requires_grad_(), quadratic=0.1)
    assert match.matrix.min() >= 0 and match.matrix.sum(1).max() <= 1 + 1e-8
    torch.testing.assert_close(match.matrix.sum(2), torch.ones(3, 6, dtype=F64), atol=1e-8, rtol=0)
    assert match.residual.max() < 1e-8
    rough = assign(numbers(3, 6, 9), **(LISTING_1 | {"steps": 2, "projections": 1}))
    rows, columns = (rough.matrix.sum(2) - 1).abs().amax(1), (rough.matrix.sum(1) - 1).amax(1)
    torch.testing.assert_close(rough.residual, torch.maximum(rows, columns))
    assert rough.residual.min() > 1e-3


def test_confident_keeps_each_rows_largest_entry():
    match = assign(numbers(2, 6, 4), quadratic=1.0)
    kept = match.confident()
    best = torch.cat([match.matrix, match.empties], 2).amax(2, keepdim=True)
    assert torch.equal(kept.matrix, match.matrix * (match.matrix == best))
    assert (kept.matrix != 0).sum() < (match.matrix != 0).sum()
    assert (kept.residual >= match.residual).all() and kept.residual.max() > 0.1
    sharp = hungarian(numbers(2, 6, 4))
    assert torch.equal(sharp.confident().matrix, sharp.matrix) and not sharp.confident().residual.any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (2, 0, 0)])
@pytest.mark.parametrize("make", [*KINDS, "greedy", "hungarian"])
def test_nothing_at_all(shape, make):
    cost = torch.zeros(shape, requires_grad=True)
    operators = {"greedy": greedy, "hungarian": hungarian}
    match = operators[make](cost) if isinstance(make, str) else assign(cost, **make)
    assert match.dense().shape == shape
    assert match.residual.shape == shape[:1] and not (match.residual > 1e-6).any()
    assert match.apply(torch.zeros(shape[0], 2, shape[2])).shape == (shape[0], 2, shape[1])
    assert match.confident().matrix.shape == shape
    if match.matrix.requires_grad:
        match.matrix.sum().backward()
        assert not cost.grad.any()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 1e-3), (torch.bfloat16, 5e-3), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kind", KINDS)
def test_lower_precision_goes_in_and_comes_out(kind, dtype, atol):
    cost = numbers(2, 4, 9, dtype=dtype).requires_grad_()
    match = assign(cost, **kind)
    exact = assign(cost.detach().double(), **kind)
    assert match.matrix.dtype == dtype and match.residual.dtype == torch.float32
    torch.testing.assert_close(match.matrix.double(), exact.matrix, atol=atol, rtol=0)
    match.matrix.sum().backward()
    assert cost.grad.dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_and_from_any_memory(kind):
    cost = numbers(3, 4, 9)
    expected = assign(cost, **kind).matrix
    with torch.inference_mode():
        assert torch.equal(assign(cost, **kind).matrix, expected)
        assert torch.equal(assign(cost.clone(), **kind).matrix, expected)
    with torch.no_grad():
        assert not assign(cost.requires_grad_(), **kind).matrix.requires_grad
    strided = cost.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    torch.testing.assert_close(assign(strided, **kind).matrix, expected)


# --- gradients

EXACT = [
    {"quadratic": 0.4},
    {"quadratic": 0.3, "steps": 4, "learning_rate": 0.9},
    {"quadratic": 0.0, "steps": 5, "learning_rate": 0.2, "average": "all"},
    {"quadratic": 0.0, "steps": 1, "projections": 1, "learning_rate": 0.2, "average": "all"},
    {"quadratic": 0.0, "steps": 7, "projections": 1, "learning_rate": 0.2, "corrections": "carry"},
    *(
        {"steps": 5, "projections": 3, "learning_rate": 0.2, "quadratic": 0.3, "corrections": how, "average": average}
        for how, average in itertools.product(("reset", "carry"), ("last", "iterates", "all"))
    ),
]


@pytest.mark.parametrize("kind", EXACT)
def test_gradcheck(kind):
    cost, start = numbers(2, 3, 4).requires_grad_(), numbers(2, 3, 4, seed=1).requires_grad_()
    objects = torch.tensor([[True, True, True], [True, False, True]])
    proposals = torch.tensor([[True] * 4, [False, False, True, False]])

    def run(cost, start):
        settings = {"objects": objects, "proposals": proposals, "backward_quadratic": None}
        return assign(cost, start=start, **settings, **kind).matrix

    assert torch.autograd.gradcheck(run, (cost, start))


@pytest.mark.parametrize("preset", [ALGORITHM_1, LISTING_1])
@pytest.mark.parametrize("steps", [5, 37])
def test_gradients_are_those_of_the_papers_algorithms(preset, steps):
    cost, start = numbers(4, 7).requires_grad_(), numbers(4, 7, seed=1).requires_grad_()
    weight, carry = numbers(4, 7, seed=2), preset["corrections"] == "carry"
    expected = torch.autograd.grad(paper(cost, start, steps, 5, 0.1, carry, with_start=carry), (cost, start), weight)
    match = assign(cost[None], start=start[None], **(preset | {"steps": steps}))
    for one, other in zip(torch.autograd.grad(match.matrix[0], (cost, start), weight), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_little_is_kept_for_the_backward_pass():
    cost = numbers(1, 5, 100).requires_grad_()
    kept = []
    for run in (
        lambda: assign(cost, start=cost.detach(), **(LISTING_1 | {"steps": 100, "projections": 10})),
        lambda: paper(cost[0], cost[0].detach(), 100, 10, 0.1, carry=True, with_start=True),
    ):
        held = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda one, held=held: held.append(one.numel()) or one, lambda one: one
        ):
            run()
        kept.append(sum(held))
    assert kept[0] < kept[1] / 10


def test_the_gradient_of_a_sharp_answer_is_that_of_a_softer_one():
    cost, weight = numbers(3, 5, 12).requires_grad_(), numbers(3, 5, 12, seed=1)
    sharp, soft = assign(cost), assign(cost, quadratic=3.0, backward_quadratic=None)
    found, expected = (torch.autograd.grad(one.matrix, cost, weight)[0] for one in (sharp, soft))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert (found != 0).any(2).all()  # every row learns
    torch.testing.assert_close(sharp.matrix, assign(cost.detach()).matrix, atol=1e-8, rtol=0)
    softer = assign(cost, quadratic=5.0, backward_quadratic=3.0)  # softer than what it asks for: its own gradient
    own = assign(cost, quadratic=5.0)
    assert torch.equal(*(torch.autograd.grad(one.matrix, cost, weight)[0] for one in (softer, own)))


@pytest.mark.parametrize(
    "settings", [{"quadratic": 0.3}, {"projections": 4, "learning_rate": 0.1, "steps": 3}, {"quadratic": 0.0005}]
)
def test_whoever_gives_settings_gets_the_exact_derivative(settings):
    cost, weight = numbers(3, 5, 12).requires_grad_(), numbers(3, 5, 12, seed=1)
    matches = assign(cost, **settings), assign(cost, **settings, backward_quadratic=None)
    assert torch.equal(*(torch.autograd.grad(one.matrix, cost, weight)[0] for one in matches))


def test_projections_mean_the_paper_s_problem():
    cost = numbers(2, 4, 9)
    settings = {"steps": 6, "projections": 3, "learning_rate": 0.1}
    paper = assign(cost, **ALGORITHM_1 | settings | {"average": "last"})
    assert torch.equal(assign(cost, **settings).matrix, paper.matrix)


def test_second_derivatives_fail_loudly():
    cost = numbers(1, 3, 5).requires_grad_()
    (grad,) = torch.autograd.grad(assign(cost, quadratic=0.5).matrix.square().sum(), cost, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_gradients_of_values_and_of_confident_matches():
    cost, values = numbers(2, 3, 5).requires_grad_(), numbers(2, 2, 5, seed=1).requires_grad_()

    def run(cost, values):
        match = assign(cost, quadratic=0.5, backward_quadratic=None)
        return match.apply(values), match.confident().apply(values)

    assert torch.autograd.gradcheck(run, (cost, values))


# --- early stop


@pytest.mark.parametrize("average", ["last", "iterates", "all"])
def test_an_item_stops_when_it_no_longer_moves(average):
    cost = torch.stack([numbers(4, 9), numbers(4, 9, seed=7) * 0.05])
    common = {"start": "uniform", "steps": 120, "learning_rate": 0.5, "quadratic": 0.3}
    full, early = (assign(cost, average=average, tolerance=most, **common) for most in (0.0, 1e-4))
    assert full.steps.tolist() == [120, 120]
    assert (early.steps < 100).all() and early.steps[0] != early.steps[1]
    torch.testing.assert_close(early.matrix, full.matrix, atol=1e-3, rtol=0)
    for item, steps in enumerate(early.steps.tolist()):
        torch.testing.assert_close(early.objectives[item, :steps], full.objectives[item, :steps])
        assert (early.objectives[item, steps:] == early.objectives[item, steps - 1]).all()
        last, before, earlier = (
            assign(cost[item : item + 1], **(common | {"steps": steps - back})).matrix for back in (0, 1, 2)
        )
        assert (last - before).abs().max() <= 1e-4 < (before - earlier).abs().max()
        if average == "last":
            torch.testing.assert_close(early.matrix[item], last[0])


# --- bad input


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"cost": torch.zeros(3, 4)}, ShapeError, r"cost: expected floating \(B, N, M\), got torch.float32 \(3, 4\)"),
        ({"cost": torch.zeros(1, 3, 4, dtype=torch.int64)}, ShapeError, "cost: expected floating"),
        ({"cost": torch.full((2, 3, 4), torch.nan)}, ShapeError, "cost: expected finite"),
        ({"cost": torch.full((2, 3, 4), torch.inf)}, ShapeError, "cost: expected finite"),
        ({"objects": torch.ones(2, 4, dtype=torch.bool)}, ShapeError, r"objects: expected bool \(2, 3\)"),
        ({"objects": torch.ones(2, 3)}, ShapeError, r"objects: expected bool \(2, 3\) .* got torch.float32"),
        ({"proposals": torch.ones(2, 3, dtype=torch.bool)}, ShapeError, r"proposals: expected bool \(2, 4\)"),
        ({"start": torch.zeros(2, 4, 3)}, ShapeError, r"start: expected floating \(2, 3, 4\)"),
        ({"start": torch.zeros(2, 3, 4, dtype=torch.int64)}, ShapeError, "start: expected floating"),
        ({"start": torch.full((2, 3, 4), torch.nan)}, ShapeError, "start: expected finite"),
        ({"start": torch.full((2, 3, 4), 1e20), **ALGORITHM_1}, ShapeError, "cost: too far apart .* the start"),
        ({"start": "random"}, ValueError, "start: expected .* got 'random'"),
        ({"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        ({"projections": 0}, ValueError, "projections: expected at least 1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate: expected above 0, got 0.0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate: expected above 0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate: expected above 0"),
        ({"quadratic": 0.0}, ValueError, "learning_rate: expected above 0 where quadratic is 0"),
        ({"quadratic": -0.1}, ValueError, "quadratic: expected at least 0"),
        ({"tolerance": -0.1}, ValueError, "tolerance: expected at least 0"),
        ({"corrections": "keep"}, ValueError, "corrections: expected one of .* got 'keep'"),
        ({"corrections": "carry"}, ValueError, 'corrections: expected "reset" where projections is None'),
        ({"average": "mean"}, ValueError, "average: expected one of"),
        ({"backward_quadratic": 0.0}, ValueError, "backward_quadratic: expected above 0"),
    ],
)
def test_bad_input_is_named(change, error, says):
    with pytest.raises(error, match=says):
        assign(**({"cost": torch.zeros(2, 3, 4)} | change))


SPREADS = {
    "uniform": lambda u, s: u * s,
    "negative": lambda u, s: -u * s,
    "some are not to be": lambda u, s: torch.where(u < 0.5, u, s),
    "over many scales": lambda u, s: s**u,
    "objects alike": lambda u, s: s * u[:, :1].expand_as(u) + u,
    "proposals unlike": lambda u, s: u + s * torch.arange(u.shape[2], dtype=F64),
}


@pytest.mark.parametrize(("dtype", "exponents"), [(torch.float32, (3, 13, 37)), (F64, (3, 9, 13, 13.5, 16, 20, 300))])
@pytest.mark.parametrize("kind", list(SPREADS))
def test_costs_far_apart_are_solved_or_refused(kind, dtype, exponents):
    solved = []
    for size in ((4, 9), (5, 5), (5, 3)):
        for exponent in exponents:
            cost = SPREADS[kind](numbers(2, *size), 10.0**exponent).to(dtype)
            try:
                match = assign(cost)
            except ShapeError as error:
                assert "cost: too far apart to be solved" in str(error)
                continue
            solved.append(exponent)
            assert match.residual.max() <= 2e-4
            best = hungarian(cost.double()).matrix
            excess = (cost.double() * (match.matrix.double() - best)).sum((1, 2))
            scale = cost.double().abs().amax((1, 2))
            assert (excess <= size[0] * (0.001 + 2e-4 * scale)).all()
    assert 3 in solved


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("exponent", [13, 14, 20, 37])
def test_a_spread_that_cannot_be_solved_is_told(dtype, exponent):
    cost = (numbers(4, 6, 6) * 10.0**exponent).to(dtype)
    for asked in (cost, cost.clone().requires_grad_()):
        with pytest.raises(ShapeError, match=r"cost: too far apart .* the answer of item [0-3] "):
            assign(asked)
    if exponent > 13:
        with pytest.raises(ShapeError, match=r"cost: too far apart .* learning_rate \* cost, or the start, reaches"):
            assign(cost, **ALGORITHM_1)


@pytest.mark.parametrize("offset", [-1e12, 1e12, 1e300])
def test_what_a_row_has_in_common_does_not_matter(offset):
    shifted = (numbers(2, 4, 6) * 1024).round() / 1024 + offset * torch.arange(4, dtype=F64)[:, None].clamp(0, 1)
    cost = shifted - shifted.amin(2, keepdim=True)
    expected = assign(cost).matrix
    torch.testing.assert_close(assign(shifted).matrix, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("solve", [assign, greedy, hungarian, lambda cost: assign(cost, **ALGORITHM_1)])
def test_tiny_and_constant_costs(solve):
    for cost in (numbers(2, 3, 4) * 1e-30, torch.full((2, 3, 4), 5.0), torch.zeros(2, 3, 4), numbers(2, 3, 4) * 1e-320):
        match = solve(cost)
        assert match.residual.max() <= 1e-6
        torch.testing.assert_close(match.matrix.sum(2), torch.ones_like(match.matrix[:, :, 0]))


@pytest.mark.parametrize("make", [greedy, hungarian])
def test_bad_input_to_the_others(make):
    with pytest.raises(ShapeError, match="cost: expected floating"):
        make(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="cost: expected finite"):
        make(torch.full((1, 2, 3), torch.nan))
    with pytest.raises(ShapeError, match="objects: expected bool"):
        make(torch.zeros(1, 2, 3), objects=torch.ones(1, 3, dtype=torch.bool))

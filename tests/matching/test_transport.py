"""Optimal transport against a slow reference that is obviously right, POT and SciPy, and by the contract of matches."""

import math
import warnings
from typing import Any

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from matchcut.errors import ShapeError
from matchcut.matching import Match, factorised, transport_kernel
from matchcut.matching.factorised import (
    LongShortSinkhorn,
    LongSinkhorn,
    ShortSinkhorn,
    long_short_sinkhorn,
    long_sinkhorn,
    short_sinkhorn,
)
from matchcut.matching.transport import Transport, sinkhorn, sinkhorn_from_cost

FUNCTIONS = {"long": long_sinkhorn, "short": short_sinkhorn, "long_short": long_short_sinkhorn}


# --- the reference


def slow_plan(scores: Tensor, a: Tensor, b: Tensor, iterations: int) -> Tensor:
    """Eq. 5 as printed, in the log domain on the whole matrix, which begins as exp(scores) times the column masses."""
    plan = scores + b.log()[:, None]
    for _ in range(iterations):
        plan = plan - plan.logsumexp(2, keepdim=True) + a.log()[:, :, None]
        plan = plan - plan.logsumexp(1, keepdim=True) + b.log()[:, None]
    return plan.exp()


def scores_of(query: Tensor, reference: Tensor, epsilon: float) -> Tensor:
    return query.flatten(2).transpose(1, 2) @ reference.flatten(2) / epsilon


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """L2-normalised random features."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(numbers, dim=1).to(dtype)


def numbers(*shape: int, seed: int = 9, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def masses(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    mass = numbers(*shape, seed=seed) + 0.1
    return (mass / mass.flatten(1).sum(1).reshape(-1, *[1] * (len(shape) - 1))).to(dtype)


def uniform(*shape: int) -> Tensor:
    return torch.full(shape, 1 / shape[1], dtype=torch.float64)


def by_dense(match: Match, values: Tensor, query_shape: tuple[int, ...]) -> Tensor:
    """`dense() @ v`, in the query's shape."""
    return (values.flatten(2) @ match.dense().transpose(1, 2)).reshape(*values.shape[:2], *query_shape)


@pytest.fixture(params=[2**19, 4])
def block(request, monkeypatch):
    """Everything at once, or blocks of a row or a few."""
    monkeypatch.setattr(transport_kernel, "BLOCK", request.param)
    return request.param


# --- equal to the reference, and to POT


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.02, 0.001])
def test_equals_the_slow_reference(epsilon, streaming, block):
    query, reference = features(3, 5, 4, 6), features(3, 5, 31, seed=1)
    a, b = masses(3, 4, 6), masses(3, 31, seed=1)
    match = sinkhorn(query, reference, epsilon=epsilon, query_mass=a, reference_mass=b, streaming=streaming)
    assert isinstance(match, Match) and isinstance(match, Transport)
    expected = slow_plan(scores_of(query, reference, epsilon), a.flatten(1), b, 20)
    torch.testing.assert_close(match.plan(), expected, atol=1e-12, rtol=1e-9)
    cost = sinkhorn_from_cost(
        -scores_of(query, reference, 1), epsilon=epsilon, query_mass=a.flatten(1), reference_mass=b
    )
    torch.testing.assert_close(cost.plan(), expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("epsilon", [1.0, 0.05, 0.01, 0.001])
def test_float32_is_near_the_reference(epsilon, block):
    query, reference = features(2, 16, 50, dtype=torch.float32), features(2, 16, 40, seed=1, dtype=torch.float32)
    expected = slow_plan(scores_of(query.double(), reference.double(), epsilon), uniform(2, 50), uniform(2, 40), 20)
    match = sinkhorn(query, reference, epsilon=epsilon)
    # A score of 1 is 1 / epsilon in the exponent, and its last bits with it.
    torch.testing.assert_close(match.plan().double(), expected, atol=0.02 * max(1e-5, 1e-6 / epsilon), rtol=0)


@settings(max_examples=30)
@given(
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 25),
    st.floats(0.005, 2),
    st.integers(0, 999),
)
def test_equals_the_slow_reference_on_anything(batch, cells, others, iterations, epsilon, seed):
    query, reference = features(batch, 4, cells, seed=seed), features(batch, 4, others, seed=seed + 1)
    a, b = masses(batch, cells, seed=seed), masses(batch, others, seed=seed + 1)
    match = sinkhorn(query, reference, epsilon=epsilon, iterations=iterations, query_mass=a, reference_mass=b)
    expected = slow_plan(scores_of(query, reference, epsilon), a, b, iterations)
    torch.testing.assert_close(match.plan(), expected, atol=1e-12, rtol=1e-8)
    values = numbers(batch, 2, others)
    torch.testing.assert_close(match.apply(values), by_dense(match, values, (cells,)), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("cells", "others"), [(30, 30), (20, 33), (33, 20)])
@pytest.mark.parametrize("given_masses", [False, True])
def test_agrees_with_pot(cells, others, given_masses):
    query, reference = features(1, 6, cells), features(1, 6, others, seed=1)
    a, b = (masses(1, cells), masses(1, others, seed=1)) if given_masses else (uniform(1, cells), uniform(1, others))
    cost = (1 - query[0].t() @ reference[0]).numpy()
    settings: dict[str, Any] = {"epsilon": 0.05, "query_mass": a, "reference_mass": b}
    converged = sinkhorn(query, reference, iterations=3000, **settings)
    plan = ot.sinkhorn(a[0].numpy(), b[0].numpy(), cost, 0.05, method="sinkhorn_log", numItermax=5000, stopThr=1e-13)
    np.testing.assert_allclose(converged.plan()[0].numpy(), plan, atol=1e-9)
    if given_masses:  # POT begins with uniform scalings whatever the masses
        return
    # It ends with the rows: of the transposed problem it makes the very same iterations.
    few = sinkhorn(query, reference, iterations=7, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = ot.sinkhorn(
            b[0].numpy(), a[0].numpy(), cost.T, 0.05, method="sinkhorn_log", numItermax=7, stopThr=0, warn=False
        )
    np.testing.assert_allclose(few.plan()[0].numpy(), same.T, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_tends_to_the_hungarian_permutation(seed):
    query, reference = features(1, 4, 12, seed=seed), features(1, 4, 12, seed=seed + 100)
    scores = (query[0].t() @ reference[0]).numpy()
    rows, columns = linear_sum_assignment(scores, maximize=True)
    best = scores[rows, columns].mean()
    gaps = []
    for epsilon in (0.1, 0.01, 0.001):
        match = sinkhorn(query, reference, epsilon=epsilon, iterations=5000, tolerance=1e-4)
        assert match.residual <= 1e-3
        gaps.append(best - (match.plan()[0].numpy() * scores).sum())
    assert gaps[0] > gaps[1] > gaps[2] > -1e-3 and gaps[2] < 2e-3
    assert (match.dense()[0].argmax(1).numpy() == columns).all()


def test_is_doubly_stochastic_to_the_residual():
    match = sinkhorn(features(2, 8, 40), features(2, 8, 40, seed=1), epsilon=0.02)
    dense = match.dense()
    torch.testing.assert_close(dense.sum(1), torch.ones(2, 40, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close((dense.sum(2) - 1).abs().sum(1) / 40, match.residual, atol=1e-12, rtol=0)
    torch.testing.assert_close((match.plan().sum(2) - 1 / 40).abs().sum(1), match.residual, atol=1e-12, rtol=0)
    assert (match.residual > 1e-3).all()  # so that the equations above say something
    more = sinkhorn(features(2, 8, 40), features(2, 8, 40, seed=1), epsilon=0.1, iterations=300)
    assert (more.residual < 1e-9).all()


@pytest.mark.parametrize("kind", ["random", "same", "one", "opposite"])
@pytest.mark.parametrize("epsilon", [0.001, 1e-4])
def test_nothing_but_numbers_at_small_epsilon(kind, epsilon):
    query = features(1, 8, 9, 10, dtype=torch.float32)
    reference = {
        "random": features(1, 8, 9, 10, seed=1, dtype=torch.float32),
        "same": query.clone(),
        "one": query[..., :1, :1].expand(1, 8, 9, 10).clone(),
        "opposite": -query,
    }[kind]
    query.requires_grad_()
    reference.requires_grad_()
    match = sinkhorn(query, reference, epsilon=epsilon)
    carried = match.apply(numbers(1, 3, 9, 10, dtype=torch.float32))
    carried.square().sum().backward()
    for tensor in (match.f, match.g, match.plan(), match.residual, carried, query.grad, reference.grad):
        assert torch.isfinite(tensor).all()
    torch.testing.assert_close(match.plan().sum(1), torch.full((1, 90), 1 / 90), atol=1e-5, rtol=0)


# --- relations


def test_a_map_matched_to_itself_carries_its_own_values():
    frame = features(1, 32, 7, 8)
    match = sinkhorn(frame, frame, epsilon=0.01)
    values = numbers(1, 3, 7, 8)
    torch.testing.assert_close(match.apply(values), values, atol=1e-6, rtol=0)


def test_large_epsilon_takes_the_mean_by_mass():
    match = sinkhorn(features(1, 8, 20), features(1, 8, 10, seed=1), epsilon=1e6, reference_mass=masses(1, 10))
    torch.testing.assert_close(match.dense(), masses(1, 10)[:, None].expand(1, 20, 10), atol=1e-6, rtol=0)


@pytest.mark.parametrize("streaming", [False, True])
def test_apply_is_dense_times_values(streaming, block):
    query, reference = features(2, 5, 4, 7), features(2, 5, 3, 3, 2, seed=1)
    match = sinkhorn(query, reference, epsilon=0.1, streaming=streaming, query_mass=masses(2, 4, 7))
    values = numbers(2, 3, 3, 3, 2)
    torch.testing.assert_close(match.apply(values), by_dense(match, values, (4, 7)), atol=1e-13, rtol=0)
    torch.testing.assert_close(match.plan() / match.query_mass[..., None], match.dense())
    back = match.transposed()
    torch.testing.assert_close(back.plan(), match.plan().transpose(1, 2))
    there = numbers(2, 3, 4, 7)
    torch.testing.assert_close(back.apply(there), by_dense(back, there, (3, 3, 2)), atol=1e-13, rtol=0)
    by_cost = sinkhorn_from_cost(-scores_of(query, reference, 1), epsilon=0.1, query_mass=match.query_mass)
    for one, size, other in ((by_cost, 28, 18), (by_cost.transposed(), 18, 28)):
        flat = numbers(2, 3, other)
        torch.testing.assert_close(one.apply(flat), by_dense(one, flat, (size,)), atol=1e-13, rtol=0)
    torch.testing.assert_close(by_cost.apply(values.flatten(2)).reshape(2, 3, 4, 7), match.apply(values))


@pytest.mark.parametrize("tolerance", [None, 0.03])
def test_batch_is_a_loop_over_items(tolerance, block):
    query, reference = features(6, 4, 15), features(6, 4, 12, seed=1)
    query[::2] *= 0.3  # so that items need different numbers of iterations
    a, b, values = masses(6, 15), masses(6, 12, seed=1), numbers(6, 2, 12)
    query.requires_grad_()
    settings: dict[str, Any] = {"epsilon": 0.02, "iterations": 30, "tolerance": tolerance}
    match = sinkhorn(query, reference, query_mass=a, reference_mass=b, **settings)
    (grad,) = torch.autograd.grad(match.apply(values).square().sum(), query)
    for item in range(6):
        one = slice(item, item + 1)
        single = sinkhorn(query[one], reference[one], query_mass=a[one], reference_mass=b[one], **settings)
        torch.testing.assert_close(match.plan()[one], single.plan(), atol=1e-13, rtol=0)
        torch.testing.assert_close(match.residual[one], single.residual, atol=1e-13, rtol=0)
        (alone,) = torch.autograd.grad(single.apply(values[one]).square().sum(), query)
        torch.testing.assert_close(grad[one], alone[one], atol=1e-11, rtol=0)


def test_stops_at_the_tolerance():
    query, reference = features(2, 4, 30), features(2, 4, 30, seed=1)
    query[1] *= 0.1
    residuals = [sinkhorn(query, reference, epsilon=0.05, iterations=i).residual for i in range(1, 61)]
    match = sinkhorn(query, reference, epsilon=0.05, iterations=60, tolerance=1e-3)
    assert (match.residual <= 1e-3).all()
    stops = []
    for item in range(2):
        first = next(i for i, one in enumerate(residuals) if one[item] <= 1e-3)
        torch.testing.assert_close(match.residual[item], residuals[first][item])
        stops.append(first)
    assert stops[1] < stops[0] < 60


def test_cells_without_mass_take_no_part(block):
    query, reference = features(1, 5, 10), features(1, 5, 12, seed=1)
    a, b = masses(1, 10), masses(1, 12, seed=1)
    a[:, [0, 4]] = 0
    b[:, 7:] = 0
    a, b = a / a.sum(), b / b.sum()
    keep = a[0] > 0
    small = sinkhorn(query[..., keep], reference[..., :7], epsilon=0.01, query_mass=a[:, keep], reference_mass=b[:, :7])
    query[..., ~keep] *= 50
    reference[..., 7:] *= 50
    query.requires_grad_()
    reference.requires_grad_()
    match = sinkhorn(query, reference, epsilon=0.01, query_mass=a, reference_mass=b)
    torch.testing.assert_close(match.plan()[:, keep, :7], small.plan(), atol=1e-10, rtol=0)
    assert not match.dense()[:, ~keep].any() and not match.dense()[..., 7:].any()
    values = numbers(1, 2, 12)
    carried = match.apply(values)
    torch.testing.assert_close(carried, by_dense(match, values, (10,)), atol=1e-12, rtol=0)
    carried.square().sum().backward()
    assert not query.grad[..., ~keep].any() and not reference.grad[..., 7:].any()
    assert query.grad[..., keep].any() and torch.isfinite(query.grad).all() and torch.isfinite(reference.grad).all()


def test_masses_of_any_size_are_met():
    a = torch.logspace(0, -30, 12, dtype=torch.float64)[None]
    a = (a / a.sum()).float()
    match = sinkhorn(features(1, 5, 12).float(), features(1, 5, 9, seed=1).float(), query_mass=a, iterations=200)
    torch.testing.assert_close(match.plan().sum(2), a, rtol=1e-3, atol=0)


def test_order_of_cells_does_not_matter():
    query, reference = features(1, 8, 20), features(1, 8, 25, seed=1)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    values = numbers(1, 2, 25)
    torch.testing.assert_close(
        sinkhorn(query, reference).apply(values), sinkhorn(query, reference[..., order]).apply(values[..., order])
    )


# --- memory


class Largest(TorchDispatchMode):
    """Records the most numbers a tensor made meanwhile holds."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                self.most = max(self.most, one.untyped_storage().nbytes() // one.element_size())
        return made


@pytest.mark.parametrize("streaming", [False, True])
def test_streaming_never_makes_the_matrix(streaming, monkeypatch):
    monkeypatch.setattr(transport_kernel, "BLOCK", 4096)
    query, reference = features(1, 4, 16, 16).requires_grad_(), features(1, 4, 16, 20, seed=1).requires_grad_()
    with Largest() as largest:
        match = sinkhorn(query, reference, streaming=streaming)
        match.apply(numbers(1, 3, 16, 20)).square().sum().backward()
    whole = 256 * 320
    assert largest.most <= whole / 4 if streaming else largest.most == whole
    with Largest() as largest, torch.no_grad():
        match.apply(numbers(1, 3, 16, 20))
    assert largest.most <= whole / 10


# --- gradients


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("epsilon", "tolerance"), [(0.5, None), (0.03, None), (0.3, 0.02)])
def test_gradcheck(epsilon, tolerance, streaming, block):
    query, reference = features(1, 2, 2, 2), features(1, 2, 3, seed=1)
    a, b, values = masses(1, 2, 2), masses(1, 3, seed=1), numbers(1, 1, 3)
    settings: dict[str, Any] = {"epsilon": epsilon, "tolerance": tolerance, "iterations": 5}

    def carry(query, reference, a, b, values):
        match = sinkhorn(query, reference, query_mass=a, reference_mass=b, streaming=streaming, **settings)
        return match.apply(values), match.transposed().apply(query), match.f, match.g, match.plan()

    def carry_cost(cost, a, b, values):
        match = sinkhorn_from_cost(cost, query_mass=a.flatten(1), reference_mass=b, **settings)
        return match.apply(values), match.dense()

    inputs = [one.requires_grad_() for one in (query, reference, a, b, values)]
    assert torch.autograd.gradcheck(carry, inputs)
    cost = (-scores_of(query, reference, 1)).detach().requires_grad_()
    assert torch.autograd.gradcheck(carry_cost, (cost, *inputs[2:]))


@pytest.mark.parametrize("epsilon", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("streaming", [False, True])
def test_gradients_are_those_of_the_slow_reference(epsilon, streaming, block, monkeypatch):
    monkeypatch.setitem(transport_kernel.DRIFT, torch.float64, 3.0)  # so that potentials are absorbed on the way
    settled = []
    original = transport_kernel.Kernel.settle
    monkeypatch.setattr(
        transport_kernel.Kernel, "settle", lambda self, f, g: (settled.append(f), original(self, f, g))[1]
    )
    query, reference = features(1, 4, 14), features(1, 4, 17, seed=1)
    a, b, values = masses(1, 14), masses(1, 17, seed=1), numbers(1, 2, 17)
    inputs = [one.requires_grad_() for one in (query, reference, a, b, values)]
    match = sinkhorn(query, reference, epsilon=epsilon, query_mass=a, reference_mass=b, streaming=streaming)
    weight = numbers(1, 2, 14, seed=3)
    ours = torch.autograd.grad((match.apply(values) * weight).sum(), inputs)
    if epsilon == 0.005:
        assert len(settled) > 6
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    plan = slow_plan(scores_of(query, reference, epsilon), a, b, 20)
    carried = values @ (plan / a[..., None]).transpose(1, 2)
    theirs = torch.autograd.grad((carried * weight).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9 * float(other.abs().max()), rtol=1e-7)


def test_gradients_in_float32_are_near_those_in_float64(block):
    def gradients(dtype):
        query, reference = features(1, 8, 60).to(dtype), features(1, 8, 50, seed=1).to(dtype)
        inputs = [query.requires_grad_(), reference.requires_grad_()]
        carried = sinkhorn(*inputs, epsilon=0.01).apply(numbers(1, 3, 50, dtype=dtype))
        return torch.autograd.grad((carried * numbers(1, 3, 60, seed=2, dtype=dtype)).sum(), inputs)

    for one, other in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-3 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize("who", ["query", "reference", "query_mass", "reference_mass", "values"])
def test_each_input_alone_may_ask_for_a_gradient(who):
    inputs = {
        "query": features(1, 4, 9),
        "reference": features(1, 4, 8, seed=1),
        "query_mass": masses(1, 9),
        "reference_mass": masses(1, 8, seed=1),
        "values": numbers(1, 2, 8),
    }
    asking = inputs[who].requires_grad_()
    values = inputs.pop("values")
    match = sinkhorn(**inputs, epsilon=0.1)
    assert match.f.requires_grad == (who != "values") and not match.residual.requires_grad
    (grad,) = torch.autograd.grad(match.apply(values).square().sum(), asking)
    assert grad.abs().sum() > 0


def test_no_graph_when_nobody_asks():
    query, reference, values = features(1, 4, 9), features(1, 4, 8, seed=1), numbers(1, 2, 8)
    match = sinkhorn(query, reference)
    assert not match.f.requires_grad and not match.apply(values).requires_grad
    for quiet in (torch.no_grad(), torch.inference_mode()):
        with quiet:
            same = sinkhorn(query.clone().requires_grad_(), reference)
            assert not same.f.requires_grad
            torch.testing.assert_close(same.apply(values), match.apply(values))
            maps = features(1, 4, 5, 6), features(1, 4, 5, 6, seed=1)
            assert not LongShortSinkhorn()(*maps)[0].requires_grad


def test_second_derivatives_are_refused():
    query, reference = features(1, 4, 9).requires_grad_(), features(1, 4, 8, seed=1)
    for made in (sinkhorn(query, reference).f, sinkhorn(query, reference).apply(numbers(1, 2, 8))):
        (grad,) = torch.autograd.grad(made.square().sum(), query, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


def test_learns_by_gradient_which_cells_belong_together():
    target, reference = torch.eye(6, dtype=torch.float64)[None].roll(2, 2), features(1, 8, 6)
    query = features(1, 8, 6, seed=1).requires_grad_()
    optimiser = torch.optim.Adam([query], 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        match = sinkhorn(F.normalize(query, dim=1), reference, epsilon=0.1)
        loss = -(match.dense().log() * target).sum()
        loss.backward()
        optimiser.step()
    assert torch.equal(match.dense().argmax(2), target.argmax(2))


# --- nothing at all


def test_empty_inputs():
    match = sinkhorn(features(2, 4, 5, 6), features(2, 4, 8))
    assert match.apply(torch.zeros(2, 0, 8)).shape == (2, 0, 5, 6)
    none = sinkhorn(torch.zeros(0, 4, 5, 6), torch.zeros(0, 4, 8))
    assert none.dense().shape == (0, 30, 8) and none.residual.shape == (0,)
    assert none.apply(torch.zeros(0, 3, 8)).shape == (0, 3, 5, 6)
    no_query = sinkhorn(torch.zeros(2, 4, 0), torch.zeros(2, 4, 8))
    assert no_query.dense().shape == (2, 0, 8) and no_query.apply(torch.zeros(2, 3, 8)).shape == (2, 3, 0)
    assert not no_query.residual.any()
    no_reference = sinkhorn(torch.zeros(2, 4, 5), torch.zeros(2, 4, 0))
    assert no_reference.dense().shape == (2, 5, 0)
    assert torch.equal(no_reference.apply(torch.ones(2, 3, 0)), torch.zeros(2, 3, 5))
    torch.testing.assert_close(no_reference.residual, torch.ones(2))  # all mass is missing
    assert sinkhorn_from_cost(torch.zeros(0, 4, 5)).apply(torch.zeros(0, 1, 5)).shape == (0, 1, 4)
    one = sinkhorn(features(1, 4, 1), features(1, 4, 1, seed=1))
    torch.testing.assert_close(one.dense(), torch.ones(1, 1, 1, dtype=torch.float64))
    for function in FUNCTIONS.values():
        match = function(torch.zeros(0, 4, 5, 6), torch.zeros(0, 4, 5, 6))
        assert match.dense().shape == (0, 30, 30) and match.residual.shape == (0,)
        assert match.apply(torch.zeros(0, 3, 5, 6)).shape == (0, 3, 5, 6)
        match = function(features(2, 4, 5, 6), features(2, 4, 5, 6))
        assert match.apply(torch.zeros(2, 0, 5, 6)).shape == (2, 0, 5, 6)


# --- layouts, precisions, devices, compilation


def test_layout_in_memory_does_not_matter_and_inputs_stay_as_they_were():
    query, reference, values = features(2, 4, 5, 6), features(2, 4, 3, 4, seed=1), numbers(2, 2, 3, 4)
    copies = query.clone(), reference.clone(), values.clone()
    expected = sinkhorn(query, reference).apply(values)
    assert all(torch.equal(one, copy) for one, copy in zip((query, reference, values), copies, strict=True))
    swapped = query.transpose(2, 3).contiguous().transpose(2, 3)
    last = reference.contiguous(memory_format=torch.channels_last)
    odd = torch.stack([values, values], -1)[..., 0]
    torch.testing.assert_close(sinkhorn(swapped, last).apply(odd), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision_stays_within_a_tolerance(dtype, tolerance):
    query, reference = features(1, 16, 6, 7, dtype=dtype), features(1, 16, 6, 7, seed=1, dtype=dtype)
    values = numbers(1, 3, 6, 7, dtype=dtype)
    uniform_mass = torch.full((1, 6, 7), 1 / 42, dtype=dtype)
    for function in (sinkhorn, *FUNCTIONS.values()):
        half, exact = (function(query.to(one), reference.to(one), epsilon=0.1) for one in (dtype, torch.float64))
        assert half.apply(values).dtype == half.dense().dtype == dtype
        for one, other in ((half.apply(values), exact.apply(values.double())), (half.dense(), exact.dense())):
            torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=0)
    given_mass = sinkhorn(query, reference, query_mass=uniform_mass, epsilon=0.1)
    torch.testing.assert_close(given_mass.plan(), sinkhorn(query, reference, epsilon=0.1).plan())
    query.requires_grad_()
    LongShortSinkhorn()(query, reference)[0].square().sum().backward()
    assert query.grad.dtype == dtype and torch.isfinite(query.grad).all()


def test_values_may_have_another_precision_than_features():
    match = sinkhorn(features(1, 4, 9, dtype=torch.float32), features(1, 4, 8, seed=1, dtype=torch.float32))
    values = numbers(1, 2, 8)
    assert match.apply(values).dtype == torch.float64
    torch.testing.assert_close(match.apply(values).float(), match.apply(values.float()))


def test_autocast_changes_nothing():
    maps = features(1, 4, 6, 7, dtype=torch.float32), features(1, 4, 6, 7, seed=1, dtype=torch.float32)
    values = numbers(1, 2, 6, 7, dtype=torch.float32)
    expected = sinkhorn(*maps).apply(values)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sinkhorn(*maps).apply(values), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    maps = features(1, 4, 9, 10), features(1, 4, 9, 10, seed=1)
    for function in (sinkhorn, *FUNCTIONS.values()):
        found = []
        for device in ("cpu", "cuda"):
            query, reference = (one.to(device).requires_grad_() for one in maps)
            carried = function(query, reference, epsilon=0.02).apply(numbers(1, 2, 9, 10).to(device))
            grads = torch.autograd.grad(carried.square().sum(), (query, reference))
            found.append([one.cpu() for one in (carried, *grads)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


# --- factorised


def cells_of(size: tuple[int, int], block: tuple[int, int], distance: str) -> list[list[int]]:
    """The groups of cells, said cell by cell."""
    groups: dict[tuple[int, int], list[int]] = {}
    for y in range(size[0]):
        for x in range(size[1]):
            place, where = (y % block[0], x % block[1]), (y // block[0], x // block[1])
            groups.setdefault(place if distance == "long" else where, []).append(y * size[1] + x)
    return list(groups.values())


def slow_grouped(a: Tensor, m: Tensor, block: tuple[int, int], distance: str, epsilon: float) -> Tensor:
    """The matrix (B, N, N) of a match within groups, group by group."""
    size = (a.shape[2], a.shape[3])
    a, m = (F.normalize(one, dim=1).flatten(2) for one in (a, m))
    whole = a.new_zeros(len(a), a.shape[2], a.shape[2])
    for cells in cells_of(size, block, distance):
        mass = uniform(1, len(cells)).expand(len(a), -1)
        plan = slow_plan(scores_of(a[..., cells], m[..., cells], epsilon), mass, mass, 20)
        whole[:, torch.tensor(cells)[:, None], torch.tensor(cells)] = plan * len(cells)
    return whole


@pytest.mark.parametrize(
    ("size", "groups", "block"),
    [((6, 8), 8, (2, 4)), ((5, 7), 8, (2, 4)), ((3, 5), (3, 2), (3, 2)), ((4, 4), 1, (1, 1)), ((2, 4), 8, (2, 4))],
)
def test_groups_are_those_of_the_paper(size, groups, block):
    a, m = torch.randn(2, 5, *size).double(), torch.randn(2, 5, *size).double()
    values = numbers(2, 3, *size)
    settings: dict[str, Any] = {"groups": groups, "epsilon": 0.1}
    far, near = long_sinkhorn(a, m, **settings), short_sinkhorn(a, m, **settings)
    for match, distance in ((far, "long"), (near, "short")):
        expected = slow_grouped(a, m, block, distance, 0.1)
        torch.testing.assert_close(match.dense(), expected, atol=1e-11, rtol=0)
        torch.testing.assert_close((expected.sum(2) - 1).abs().mean(1), match.residual, atol=1e-11, rtol=0)
        torch.testing.assert_close(match.transposed().dense(), expected.transpose(1, 2), atol=1e-11, rtol=0)
        back = match.transposed()
        torch.testing.assert_close(back.apply(values), by_dense(back, values, size), atol=1e-12, rtol=0)
    both = long_short_sinkhorn(a, m, **settings)
    z_a, z_m = far.apply(a), far.apply(m)  # Eq. 8: both streams by the same plan
    torch.testing.assert_close(both.long.dense(), far.dense())
    torch.testing.assert_close(torch.stack(both.carried), torch.stack([z_a, z_m]))
    torch.testing.assert_close(both.short.dense(), short_sinkhorn(z_a, z_m, **settings).dense())
    torch.testing.assert_close(both.dense(), both.short.dense() @ far.dense())
    torch.testing.assert_close(torch.stack(both.streams()), torch.stack([both.apply(a), both.apply(m)]))  # Eq. 10
    for match in (far, near, both):
        assert isinstance(match, Match)
        torch.testing.assert_close(match.apply(values), by_dense(match, values, size), atol=1e-12, rtol=0)


def test_each_cell_can_reach_each_other():
    a, m = features(1, 4, 8, 8), features(1, 4, 8, 8, seed=1)
    match = long_short_sinkhorn(a, m, epsilon=1.0)
    assert (match.dense() > 1e-5).all()
    assert ((match.long.dense() > 0).sum(2) == 8).all() and ((match.short.dense() > 0).sum(2) == 8).all()
    assert ((match.dense().sum(2) - 1).abs().mean(1) <= match.residual + 1e-12).all()


def test_one_long_group_is_the_full_layer():
    a, m = torch.randn(2, 4, 5, 6).double(), torch.randn(2, 4, 5, 6).double()
    full = sinkhorn(F.normalize(a, dim=1), F.normalize(m, dim=1))
    torch.testing.assert_close(long_sinkhorn(a, m, groups=1).dense(), full.dense())
    torch.testing.assert_close(torch.stack(LongSinkhorn(groups=1)(a, m)), torch.stack([full.apply(a), full.apply(m)]))


def test_features_as_they_are():
    a, m = 3 * features(1, 4, 4, 8), 2 * features(1, 4, 4, 8, seed=1)
    plain = long_sinkhorn(a, m, normalise=False, groups=1)
    torch.testing.assert_close(plain.dense(), sinkhorn(a, m).dense())
    torch.testing.assert_close(long_sinkhorn(a, m).dense(), long_sinkhorn(a / 3, m / 2, normalise=False).dense())


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_gradcheck_factorised(size):
    maps = [torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    inputs = [one.requires_grad_() for one in maps]

    def carry(a, m, values):
        match = long_short_sinkhorn(a, m, groups=(2, 2), epsilon=0.3, iterations=3)
        return match.apply(values), *match.streams()

    assert torch.autograd.gradcheck(carry, inputs)


def test_modules_do_what_the_functions_do():
    a, m = torch.randn(2, 4, 5, 6).double(), torch.randn(2, 4, 5, 6).double()
    settings: dict[str, Any] = {"epsilon": 0.1, "iterations": 7, "tolerance": 0.01, "streaming": True}
    for module, function in (
        (LongSinkhorn((2, 3), **settings), long_sinkhorn),
        (ShortSinkhorn((2, 3), **settings), short_sinkhorn),
        (LongShortSinkhorn((2, 3), **settings), long_short_sinkhorn),
    ):
        match = function(a, m, groups=(2, 3), **settings)
        torch.testing.assert_close(torch.stack(module(a, m)), torch.stack([match.apply(a), match.apply(m)]))
        assert "groups=(2, 3), epsilon=0.1, iterations=7" in repr(module) and not list(module.parameters())


# --- refusals


@pytest.mark.parametrize(
    ("query", "reference", "message"),
    [
        (
            torch.zeros(1, 8),
            torch.zeros(1, 8, 4),
            r"query: expected floating point \(B, C, \*query\), got torch.float32 \(1, 8\)",
        ),
        (torch.zeros(1, 8, 4).long(), torch.zeros(1, 8, 4), "query: expected floating point .* got torch.int64"),
        (torch.zeros(1, 8, 4), torch.zeros(1, 7, 4), r"reference: .* with B, C = \(1, 8\), got \(1, 7, 4\)"),
        (torch.zeros(2, 8, 4), torch.zeros(1, 8, 4), r"reference: .* with B, C = \(2, 8\), got \(1, 8, 4\)"),
        (torch.zeros(1, 8, 4), torch.zeros(1, 8, 4).double(), "reference: expected torch.float32 on cpu as the query"),
        (
            torch.zeros(1, 8, 4),
            torch.zeros(1, 8, 4, device="meta"),
            "reference: expected torch.float32 on cpu .* on meta",
        ),
        (torch.full((1, 8, 4), torch.nan), torch.zeros(1, 8, 4), "query: expected finite values, got 32 that are not"),
        (torch.zeros(1, 8, 4), torch.full((1, 8, 4), torch.inf), "reference: expected finite values, got 32"),
    ],
)
def test_features_that_do_not_fit_are_refused(query, reference, message):
    with pytest.raises(ShapeError, match=message):
        sinkhorn(query, reference)


@pytest.mark.parametrize("name", ["query_mass", "reference_mass"])
@pytest.mark.parametrize(
    ("mass", "message"),
    [
        (
            torch.full((1, 5), 0.2),
            r"expected torch.float32 \(1, 4\) on cpu as the features, got torch.float32 \(1, 5\)",
        ),
        (torch.full((1, 4), 0.25).double(), "got torch.float64"),
        (torch.tensor([[0.5, 0.7, -0.2, 0.0]]), "expected no negative masses, got -0.2"),
        (torch.full((1, 4), 0.26), "expected masses that sum to 1 for each item, got a sum of 1.04"),
        (torch.zeros(1, 4), "got a sum of 0"),
        (torch.tensor([[0.5, 0.5, torch.nan, 0.0]]), "expected finite values, got 1"),
    ],
)
def test_masses_that_are_none_are_refused(name, mass, message):
    with pytest.raises(ShapeError, match=f"{name}: .*{message}"):
        sinkhorn(torch.zeros(1, 8, 4), torch.zeros(1, 8, 4), **{name: mass})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0}, "epsilon: expected finite and above 0, got 0"),
        ({"epsilon": -1.0}, "epsilon: expected finite and above 0, got -1.0"),
        ({"epsilon": math.nan}, "epsilon: .* got nan"),
        ({"epsilon": math.inf}, "epsilon: .* got inf"),
        ({"iterations": 0}, "iterations: expected at least 1, got 0"),
        ({"tolerance": 0}, r"tolerance: expected above 0 \(or None\), got 0"),
        ({"tolerance": math.nan}, "tolerance: .* got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    for call in (
        lambda: sinkhorn(torch.zeros(1, 8, 4), torch.zeros(1, 8, 4), **settings),
        lambda: sinkhorn_from_cost(torch.zeros(1, 4, 4), **settings),
        lambda: long_short_sinkhorn(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4), **settings),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e5), (torch.float64, 1e14)])
def test_scores_too_large_for_their_dtype_are_refused(dtype, largest):
    query, reference = features(1, 6, 9).to(dtype), features(1, 6, 8).to(dtype)
    for scale in (largest, 1e37):  # beyond float32, 1 / epsilon makes infinity of scores
        for call in (
            lambda scale=scale: sinkhorn(query, reference, epsilon=1 / scale),
            lambda scale=scale: sinkhorn(query * scale**0.5, reference * scale**0.5, epsilon=1.0),
            lambda scale=scale: sinkhorn_from_cost(query.transpose(1, 2) @ reference * scale, epsilon=1.0),
        ):
            if scale == largest:
                plan = call().plan()
                torch.testing.assert_close(plan.sum(1), torch.full((1, 8), 1 / 8, dtype=dtype), atol=0.01, rtol=0)
            else:
                with pytest.raises(ShapeError, match=f"expected scores that {dtype} can tell apart"):
                    call()


@pytest.mark.parametrize("offset", [-1e12, 1e12, 1e300])
def test_what_all_costs_have_in_common_does_not_matter(offset):
    cost = torch.arange(12.0, dtype=torch.float64).reshape(1, 3, 4).sin().mul(1024).round() / 1024
    shifted = cost + offset
    expected = sinkhorn_from_cost(shifted - offset, epsilon=0.1).dense()
    torch.testing.assert_close(sinkhorn_from_cost(shifted, epsilon=0.1).dense(), expected)


def test_costs_that_are_none_are_refused():
    with pytest.raises(ShapeError, match=r"cost: expected floating point \(B, N, M\), got torch.float32 \(4, 5\)"):
        sinkhorn_from_cost(torch.zeros(4, 5))
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ShapeError, match="cost: expected finite values, got 20 that are not"):
            sinkhorn_from_cost(torch.full((1, 4, 5), bad))


@pytest.mark.parametrize("shape", [(1, 3, 9), (2, 3, 8), (8,), (1, 3, 2, 4)])
def test_values_that_do_not_lie_on_the_reference_are_refused(shape):
    match = sinkhorn(features(1, 4, 9), features(1, 4, 8))
    with pytest.raises(ShapeError, match=r"values: expected .* with B = 1 and reference \(8,\), got"):
        match.apply(torch.zeros(shape))
    with pytest.raises(ShapeError, match=r"values: expected floating point, got torch.int64"):
        match.apply(torch.zeros(1, 3, 8, dtype=torch.int64))
    for grouped in (long_sinkhorn, short_sinkhorn, long_short_sinkhorn):
        match = grouped(features(2, 4, 4, 4), features(2, 4, 4, 4))
        with pytest.raises(ShapeError, match=r"values: expected \(B, V, H, W\) with B = 2 and \(H, W\) = \(4, 4\)"):
            match.apply(torch.zeros(shape))


@pytest.mark.parametrize("groups", [0, -8, (2, 0), (2, 2, 2), 2.0, "8", None, True, (True, 2)])
def test_group_counts_that_are_none_are_refused(groups):
    maps = features(1, 4, 8, 8), features(1, 4, 8, 8)
    for call in (*(lambda f=f: f(*maps, groups=groups) for f in FUNCTIONS.values()), lambda: LongShortSinkhorn(groups)):
        with pytest.raises(ValueError, match=r"groups: expected a number or \(ph, pw\), at least 1, got"):
            call()


@pytest.mark.parametrize(("size", "groups"), [((1, 8), 8), ((8, 3), 8), ((2, 2), 7), ((3, 3), (4, 1))])
def test_group_counts_that_do_not_fit_are_refused(size, groups):
    for function in FUNCTIONS.values():
        with pytest.raises(ValueError, match=rf"groups: .* do not fit a map of {size[0]} x {size[1]} cells"):
            function(features(1, 4, *size), features(1, 4, *size), groups=groups)


def test_maps_that_do_not_fit_together_are_refused():
    with pytest.raises(ShapeError, match=r"appearance: expected floating point \(B, C, H, W\), got .* \(1, 4, 8\)"):
        long_sinkhorn(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
    with pytest.raises(ShapeError, match=r"appearance: expected floating point .* got torch.int64"):
        long_sinkhorn(torch.zeros(1, 4, 8, 8).long(), torch.zeros(1, 4, 8, 8).long())
    with pytest.raises(ShapeError, match=r"motion: expected torch.float32 \(1, 4, 8, 8\) on cpu as appearance, got"):
        short_sinkhorn(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 9))
    with pytest.raises(ShapeError, match=r"motion: .* got torch.float64"):
        long_short_sinkhorn(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8).double())
    with pytest.raises(ShapeError, match="appearance: expected finite values"):
        long_sinkhorn(torch.full((1, 4, 8, 8), torch.nan), torch.zeros(1, 4, 8, 8))
    with pytest.raises(ShapeError, match="motion: expected finite values"):
        long_sinkhorn(torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), torch.inf))


@pytest.mark.parametrize("layer", [LongSinkhorn, ShortSinkhorn, LongShortSinkhorn])
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 6, 13, 22), 8), ((1, 5, 9, 10), 4), ((2, 40, 7, 9), 4), ((1, 5, 4, 4), 1)]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_layer_that_keeps_nothing_gives_the_same(layer, shape, groups, streaming, monkeypatch):
    monkeypatch.setattr(factorised, "STRIP", 2**8)  # so that there are several strips of rows
    generator = torch.Generator().manual_seed(0)
    appearance, motion = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    module = layer(groups, streaming=streaming)
    copies = appearance.clone(), motion.clone()
    lean = module(appearance, motion)
    assert torch.equal(appearance, copies[0]) and torch.equal(motion, copies[1])
    for one, other in zip(lean, module(appearance.requires_grad_(), motion), strict=True):
        assert other.requires_grad and not one.requires_grad
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)

"""The contract that every operator's match keeps, and what float64 says of every gradient.

What is special to one operator is tested in its own file.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching import (
    ALGORITHM_1,
    LISTING_1,
    DeformableConv,
    DeformableStack,
    LongShortSinkhorn,
    LongSinkhorn,
    Match,
    ShortSinkhorn,
    affinity,
    assign,
    deform,
    deform_conv2d,
    greedy,
    hungarian,
    join,
    long_short_sinkhorn,
    long_sinkhorn,
    pool,
    pool_boxes,
    refine,
    short_sinkhorn,
    sinkhorn,
    sinkhorn_from_cost,
    soft_iou,
)


@dataclass(frozen=True)
class Operator:
    """How to call an operator on a batch of small problems."""

    call: Callable[..., Match]
    inputs: Callable[[int], list[Tensor]]
    """float64 inputs of so many problems."""
    query: tuple[int, ...]
    reference: tuple[int, ...]
    differentiable: bool = True
    tolerances: tuple[float, float] = (0.01, 0.08)
    """Of carried values in [0, 1]: float16, bfloat16."""
    exact: Callable[..., Match] | None = None
    """The same with the exact derivative, where the usual one is another's; or with fewer kinks near by."""


def numbers(*shape: int, seed: int = 0, uniform: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    make = torch.rand if uniform else torch.randn
    return make(*shape, generator=generator, dtype=torch.float64)


def maps(batch: int, *shapes: tuple[int, ...], channels: int = 6) -> list[Tensor]:
    made = [numbers(batch, channels, *shape, seed=i) for i, shape in enumerate(shapes)]
    return [F.normalize(one, dim=1) for one in made]


def costs(rows: int, columns: int) -> Callable[[int], list[Tensor]]:
    return lambda batch: [numbers(batch, rows, columns, uniform=True)]


def halved(fine: Tensor) -> Tensor:
    """On a grid of half the size, without a gradient: it only says where to look."""
    return F.avg_pool2d(fine.detach(), 2)


FEW_STEPS = ALGORITHM_1 | {"steps": 5, "projections": 3}
SOFT = {"epsilon": 0.2, "iterations": 8}
OPERATORS = {
    "affinity": Operator(
        lambda q, r: affinity(q, r, top_k=4, temperature=0.1, radius=[None, 3]),
        lambda batch: maps(batch, (5, 6), (2, 5, 6)),
        (5, 6),
        (2, 5, 6),
    ),
    "join": Operator(
        lambda q, r: join(*(affinity(q, r[:, :, t], top_k=4, temperature=0.1) for t in (0, 1)), temperature=0.1),
        lambda batch: maps(batch, (5, 6), (2, 5, 6)),
        (5, 6),
        (2, 5, 6),
    ),
    "refine": Operator(
        lambda q, r: refine(affinity(halved(q), halved(r), top_k=2), q, [r], q[:, 0] > -1, top_k=4, temperature=0.1),
        lambda batch: maps(batch, (4, 6), (4, 6)),
        (4, 6),
        (1, 4, 6),
    ),
    "assign": Operator(assign, costs(4, 9), (4,), (9,), exact=lambda c: assign(c, backward_quadratic=None)),
    "assign, soft": Operator(lambda c: assign(c, quadratic=0.3, backward_quadratic=None), costs(4, 9), (4,), (9,)),
    # Forty steps come nearer to a tight constraint than any finite difference.
    "assign, Algorithm 1": Operator(
        lambda c: assign(c, **ALGORITHM_1), costs(4, 9), (4,), (9,), exact=lambda c: assign(c, **FEW_STEPS)
    ),
    "assign, Listing 1": Operator(
        lambda c: assign(c, **LISTING_1),
        costs(4, 9),
        (4,),
        (9,),
        exact=lambda c: assign(c, **FEW_STEPS | {"corrections": "carry", "average": "all"}),
    ),
    "assign, more objects": Operator(lambda c: assign(c, **FEW_STEPS), costs(6, 4), (6,), (4,)),
    "greedy": Operator(greedy, costs(4, 9), (4,), (9,), differentiable=False),
    "hungarian": Operator(hungarian, costs(4, 9), (4,), (9,), differentiable=False),
    "sinkhorn": Operator(
        lambda q, r: sinkhorn(q, r, **SOFT), lambda batch: maps(batch, (4, 5), (3, 4)), (4, 5), (3, 4)
    ),
    "sinkhorn, streaming": Operator(
        lambda q, r: sinkhorn(q, r, streaming=True, **SOFT), lambda b: maps(b, (4, 5), (3, 4)), (4, 5), (3, 4)
    ),
    "sinkhorn_from_cost": Operator(lambda c: sinkhorn_from_cost(c, **SOFT), costs(5, 7), (5,), (7,)),
    "long_sinkhorn": Operator(
        lambda a, m: long_sinkhorn(a, m, groups=4, **SOFT), lambda b: maps(b, (5, 6), (5, 6)), (5, 6), (5, 6)
    ),
    "short_sinkhorn": Operator(
        lambda a, m: short_sinkhorn(a, m, groups=4, **SOFT), lambda b: maps(b, (5, 6), (5, 6)), (5, 6), (5, 6)
    ),
    "long_short_sinkhorn": Operator(
        lambda a, m: long_short_sinkhorn(a, m, groups=4, **SOFT), lambda b: maps(b, (5, 6), (5, 6)), (5, 6), (5, 6)
    ),
    "deform": Operator(  # between cells: on them the bilinear weights have a kink
        lambda o: deform(o, reference_shape=(4, 7)),
        lambda batch: [numbers(batch, 2, 5, 6).mul(2).floor() + 0.3125],
        (5, 6),
        (4, 7),
    ),
}


def filled(layer: torch.nn.Module) -> torch.nn.Module:
    """With weights of no symmetry."""
    for number, one in enumerate(layer.parameters()):
        torch.nn.init._no_grad_normal_(one, 0, 0.2, torch.Generator().manual_seed(number))
    return layer


LAYER = {"groups": 4, "epsilon": 0.2, "iterations": 8}
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[[], list[Tensor]]]] = {
    "deform_conv2d": (
        lambda x, offset, weight, bias: deform_conv2d(x, offset, weight, bias, padding=1),
        lambda: [numbers(2, 8, 5, 6), numbers(2, 18, 5, 6, seed=1), numbers(4, 8, 3, 3, seed=2), numbers(4, seed=3)],
    ),
    "DeformableConv": (filled(DeformableConv(8, 4)), lambda: [numbers(2, 8, 5, 6)]),
    "DeformableStack": (filled(DeformableStack(8, (6, 2))), lambda: [numbers(2, 8, 5, 6)]),
    "DeformableStack, dilated": (filled(DeformableStack(8, (6, 2), dilation=2)), lambda: [numbers(2, 8, 5, 6)]),
    "soft_iou": (soft_iou, lambda: [numbers(2, n, 40, 50, seed=n, uniform=True) for n in (3, 4)]),
    "soft_iou of bool": (
        lambda a, b: soft_iou(a > 0.3, b > 0.3),
        lambda: [numbers(2, n, 40, 50, seed=n, uniform=True) for n in (3, 4)],
    ),
    "pool": (pool, lambda: [numbers(2, 8, 5, 6), numbers(2, 3, 20, 24, seed=1, uniform=True)]),
    "pool_boxes": (
        lambda x, boxes: pool_boxes(x, boxes, scale=0.25),
        lambda: [numbers(2, 8, 5, 6), torch.tensor([[[1.0, 2, 17, 15], [0, 0, 24, 20]]] * 2, dtype=torch.float64)],
    ),
    **{
        type(layer).__name__: (lambda a, m, layer=layer: torch.cat(layer(a, m), 1), lambda: maps(2, (5, 6), (5, 6)))
        for layer in (LongSinkhorn(**LAYER), ShortSinkhorn(**LAYER), LongShortSinkhorn(**LAYER))
    },
}
DIFFERENTIABLE = [name for name, operator in OPERATORS.items() if operator.differentiable]


def values_for(operator: Operator, batch: int, channels: int = 3) -> Tensor:
    return numbers(batch, channels, *operator.reference, seed=9, uniform=True)


def by_dense(match: Match, values: Tensor, operator: Operator) -> Tensor:
    """`dense() @ v`, in the query's shape."""
    carried = match.dense() @ values.flatten(2).transpose(1, 2)  # (B, Q, C)
    return carried.transpose(1, 2).reshape(*values.shape[:2], *operator.query)


@pytest.fixture(params=list(OPERATORS))
def operator(request):
    return OPERATORS[request.param]


def test_apply_is_the_dense_matrix_times_the_values(operator):
    match = operator.call(*operator.inputs(2))
    assert isinstance(match, Match)
    dense, values = match.dense(), values_for(operator, 2)
    assert dense.shape == (2, math.prod(operator.query), math.prod(operator.reference))
    torch.testing.assert_close(match.apply(values), by_dense(match, values, operator), atol=1e-10, rtol=0)
    # Entries are at least 0 and rows sum to at most 1, but for what the residual says; it may be a share of a mass 1/Q.
    slack = (1e-9 + match.residual * dense.shape[1])[:, None]
    assert (dense.amin(2) > -slack).all() and (dense.sum(2) < 1 + slack).all()


def test_the_residual_is_detached_and_one_number_an_item(operator):
    match = operator.call(*[one.requires_grad_() for one in operator.inputs(2)])
    assert match.residual.shape == (2,) and not match.residual.requires_grad
    assert (match.residual >= 0).all() and match.residual.isfinite().all()


def test_float32_is_float64_rounded(operator):
    inputs, values = operator.inputs(2), values_for(operator, 2)
    exact = operator.call(*inputs).apply(values)
    carried = operator.call(*[one.float() for one in inputs]).apply(values.float())
    assert carried.dtype == torch.float32
    torch.testing.assert_close(carried.double(), exact, atol=1e-5, rtol=0)


def test_a_batch_is_a_loop_over_its_items(operator):
    inputs, values = operator.inputs(3), values_for(operator, 3)
    match = operator.call(*inputs)
    carried = match.apply(values)
    for item in range(3):
        single = operator.call(*[one[item : item + 1] for one in inputs])
        torch.testing.assert_close(match.dense()[item], single.dense()[0], atol=1e-10, rtol=0)
        torch.testing.assert_close(carried[item], single.apply(values[item : item + 1])[0], atol=1e-10, rtol=0)


def test_values_in_parts_are_the_whole(operator):
    match, values = operator.call(*operator.inputs(1)), values_for(operator, 1, channels=5)
    parts = [match.apply(part) for part in values.split([1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), match.apply(values), atol=1e-10, rtol=0)


def test_neither_inputs_nor_values_are_changed_and_strides_do_not_matter(operator):
    inputs, values = operator.inputs(2), values_for(operator, 2)
    copies = [one.clone() for one in (*inputs, values)]
    expected = operator.call(*inputs).apply(values)
    assert all(torch.equal(one, copy) for one, copy in zip((*inputs, values), copies, strict=True))
    odd = [one.transpose(0, 1).contiguous().transpose(0, 1) for one in (*inputs, values)]
    torch.testing.assert_close(operator.call(*odd[:-1]).apply(odd[-1]), expected, atol=1e-10, rtol=0)


def test_no_items_and_no_channels(operator):
    match = operator.call(*[one[:0] for one in operator.inputs(1)])
    assert match.dense().shape == (0, math.prod(operator.query), math.prod(operator.reference))
    assert match.apply(values_for(operator, 1)[:0]).shape == (0, 3, *operator.query)
    assert match.residual.shape == (0,)
    match = operator.call(*operator.inputs(2))
    assert match.apply(values_for(operator, 2)[:, :0]).shape == (2, 0, *operator.query)


@pytest.mark.parametrize("solve", [assign, greedy, hungarian, lambda c: assign(c, **ALGORITHM_1)])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_no_objects_or_no_proposals(solve, size):
    match = solve(torch.rand(2, *size))
    assert match.dense().shape == (2, *size) and not match.dense().any()
    assert match.apply(torch.rand(2, 3, size[1])).shape == (2, 3, size[0])
    torch.testing.assert_close(match.residual, torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_finite_differences(name):
    operator = OPERATORS[name]
    call = operator.exact or operator.call
    inputs = [one.clone().requires_grad_() for one in operator.inputs(2)]
    values = values_for(operator, 2, channels=2).requires_grad_()
    # Along random directions: entry by entry stands in the operators' own files. Sums of a loaded machine differ in the
    # last bit.
    how: Any = {"atol": 1e-6, "nondet_tol": 1e-12, "fast_mode": True}
    assert torch.autograd.gradcheck(lambda *given: call(*given[:-1]).apply(given[-1]), (*inputs, values), **how)
    assert torch.autograd.gradcheck(lambda *given: call(*given).dense(), inputs, **how)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_input_gets_a_gradient(name):
    operator = OPERATORS[name]
    inputs = [one.clone().requires_grad_() for one in operator.inputs(2)]
    carried = operator.call(*inputs).apply(values_for(operator, 2))
    found = torch.autograd.grad((carried * numbers(*carried.shape, seed=5)).sum(), inputs)
    for one in found:
        assert one.isfinite().all() and all(item.any() for item in one)


@pytest.mark.parametrize("name", ["greedy", "hungarian"])
def test_choices_have_no_gradient_but_values_do(name):
    operator = OPERATORS[name]
    values = values_for(operator, 1).requires_grad_()
    match = operator.call(*[one.requires_grad_() for one in operator.inputs(1)])
    assert not match.dense().requires_grad
    match.apply(values).sum().backward()
    assert values.grad is not None and values.grad.sum() == 3 * 4


@pytest.mark.parametrize("which", [0, 1])
def test_half_precision_stays_within_a_tolerance(operator, which):
    dtype, tolerance = (torch.float16, torch.bfloat16)[which], operator.tolerances[which]
    inputs, values = operator.inputs(2), values_for(operator, 2)
    match = operator.call(*[one.to(dtype) for one in inputs])
    carried = match.apply(values.to(dtype))
    assert carried.dtype == match.dense().dtype == dtype
    expected = operator.call(*[one.to(dtype).double() for one in inputs]).apply(values)
    assert (carried.double() - expected).abs().max() < tolerance


def carried_and_dense(operator: Operator) -> Callable[..., tuple[Tensor, ...]]:
    """What a match does, as a function of the operator's inputs."""

    def both(*inputs: Tensor) -> tuple[Tensor, ...]:
        match = operator.call(*inputs)
        return match.apply(values_for(operator, 2).to(inputs[0])), match.dense()

    return both


ALL: dict[str, tuple[Callable[..., Any], Callable[[], list[Tensor]]]] = {
    **{name: (carried_and_dense(one), lambda one=one: one.inputs(2)) for name, one in OPERATORS.items()},
    **FUNCTIONS,
}


def results_and_gradients(call: Callable[..., Any], given: list[Tensor], where: Any, backward: Any) -> list[Tensor]:
    """What comes out under a context, with gradients wanted and without, and the gradients of a backward pass."""
    inputs = [one.clone().requires_grad_() for one in given]
    with where:
        results = call(*inputs)
        with torch.no_grad():
            plain = call(*inputs)
    results, plain = ((one,) if isinstance(one, Tensor) else one for one in (results, plain))
    found: list[Tensor] = []
    if results[0].requires_grad:
        total = sum((one.double() * numbers(*one.shape, seed=5)).sum() for one in results)
        with backward:
            found += torch.autograd.grad(total, inputs)
    return [*(one.detach() for one in results), *plain, *found]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(ALL))
def test_autocast_changes_nothing(name, dtype):
    call, inputs = ALL[name]
    given, off = [one.float() for one in inputs()], contextlib.nullcontext()
    expected = results_and_gradients(call, given, off, off)
    for backward in (off, torch.autocast("cpu", dtype)):
        found = results_and_gradients(call, given, torch.autocast("cpu", dtype), backward)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(ALL))
def test_half_precision_has_the_gradients_of_float32_rounded(name, dtype):
    call, inputs = ALL[name]
    given, off = [one.to(dtype) for one in inputs()], contextlib.nullcontext()
    under = results_and_gradients(call, given, torch.autocast("cpu", dtype), off)
    for one, other in zip(results_and_gradients(call, given, off, off), under, strict=True):
        assert torch.equal(one, other)
    expected = results_and_gradients(call, [one.float() for one in given], off, off)
    for one, other in zip(under, expected, strict=True):
        assert (one.float() - other).norm() <= 4 * torch.finfo(dtype).eps * other.norm() + 1e-6


def test_values_that_are_no_floating_point_numbers_are_refused(operator):
    match = operator.call(*operator.inputs(1))
    for dtype in (torch.bool, torch.uint8, torch.int64):
        with pytest.raises(ShapeError, match="values: expected floating point, got"):
            match.apply(values_for(operator, 1).to(dtype))


@pytest.mark.parametrize(
    ("name", "differentiable"),
    [*((name, one.differentiable) for name, one in OPERATORS.items()), ("affinity", False), ("sinkhorn", False)],
)
def test_compiled_gives_the_same(name, differentiable):
    operator = OPERATORS[name]
    inputs = [one.float().requires_grad_(differentiable) for one in operator.inputs(1)]
    values = values_for(operator, 1).float()

    def carry(*given):
        return operator.call(*given[:-1]).apply(given[-1])

    torch._dynamo.reset()
    carried, expected = torch.compile(carry, backend="aot_eager")(*inputs, values), carry(*inputs, values)
    torch._dynamo.reset()
    torch.testing.assert_close(carried, expected)
    if differentiable:
        ours, plain = (torch.autograd.grad(one.square().sum(), inputs) for one in (carried, expected))
        torch.testing.assert_close(ours, plain)


def test_inference_mode_gives_the_same(operator):
    inputs, values = operator.inputs(1), values_for(operator, 1)
    expected = operator.call(*inputs).apply(values)
    with torch.inference_mode():
        torch.testing.assert_close(operator.call(*inputs).apply(values), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu(operator):
    inputs, values = operator.inputs(2), values_for(operator, 2)
    expected = operator.call(*inputs).apply(values)
    given = [one.cuda().requires_grad_(operator.differentiable) for one in inputs]
    carried = operator.call(*given).apply(values.cuda())
    torch.testing.assert_close(carried.cpu(), expected, atol=1e-8, rtol=0)
    if operator.differentiable:
        plain = [one.clone().requires_grad_() for one in inputs]
        ours = torch.autograd.grad(carried.square().sum(), given)
        theirs = torch.autograd.grad(operator.call(*plain).apply(values).square().sum(), plain)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.cpu(), other, atol=1e-6, rtol=1e-5)

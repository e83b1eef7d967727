"""Sampling by offsets against torchvision and against a slow reference; what all matches keep is in test_contract."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from matchcut.errors import ShapeError
from matchcut.matching.deform import DeformableConv, DeformableStack, OffsetField, deform, deform_conv2d


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow(offsets: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, H * W, h * w): a cell's weight is how near it lies to where the offset points, said cell by cell."""
    matrix = torch.zeros(len(offsets), offsets[0, 0].numel(), math.prod(shape), dtype=torch.float64)
    for item, (dy, dx) in enumerate(offsets.double().tolist()):
        for y, (row_dy, row_dx) in enumerate(zip(dy, dx, strict=True)):
            for x, place in enumerate(zip(row_dy, row_dx, strict=True)):
                for v in range(shape[0]):
                    for u in range(shape[1]):
                        near = max(0, 1 - abs(y + place[0] - v)) * max(0, 1 - abs(x + place[1] - u))
                        matrix[item, y * len(row_dy) + x, v * shape[1] + u] = near
    return matrix


# --- the match


@settings(max_examples=40)
@given(st.tuples(*[st.integers(1, 6)] * 4), st.sampled_from([0.0, 0.3, 2.0, 20.0]), st.integers(0, 999), st.booleans())
def test_it_is_the_slow_reference_and_the_dense_matrix_times_the_values(sizes, reach, seed, whole):
    offsets = reach * numbers(2, 2, *sizes[:2], seed=seed)
    offsets = offsets.round() if whole else offsets
    match = deform(offsets, reference_shape=sizes[2:])
    torch.testing.assert_close(match.dense(), slow(offsets, sizes[2:]), atol=1e-12, rtol=0)
    values = numbers(2, 3, *sizes[2:], seed=seed + 1)
    expected = (match.dense() @ values.flatten(2).mT).mT.reshape(2, 3, *sizes[:2])
    torch.testing.assert_close(match.apply(values), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchvisions_1x1_deformable_convolution_with_the_identity(dtype):
    offsets, values = 3 * numbers(2, 2, 12, 17, dtype=dtype), numbers(2, 5, 12, 17, seed=1, dtype=dtype)
    identity = torch.eye(5, dtype=dtype)[..., None, None]
    expected = torchvision.ops.deform_conv2d(values, offsets, identity)
    torch.testing.assert_close(deform(offsets).apply(values), expected, atol=1e-5, rtol=0)


def test_zero_offsets_are_the_identity_to_the_last_bit():
    values = numbers(2, 3, 60, 107, dtype=torch.float32)
    match = deform(torch.zeros(2, 2, 60, 107))
    assert isinstance(match, OffsetField) and match.reference_shape == (60, 107)
    assert torch.equal(match.apply(values), values)
    assert not match.residual.any()


def test_dy_comes_first_and_points_from_the_query_to_the_reference():
    values = torch.arange(20.0).reshape(1, 1, 4, 5)
    offsets = torch.zeros(1, 2, 4, 5)
    offsets[:, 0], offsets[:, 1] = 1, -2
    carried = deform(offsets).apply(values)
    assert torch.equal(carried[..., :3, 2:], values[..., 1:, :3])
    assert not carried[..., 3, :].any() and not carried[..., :2].any()  # outside


def test_what_falls_outside_is_zero_and_has_no_gradient_however_far():
    far = torch.tensor([-1.0, 4, 1e6, -1e12, 3e38, torch.inf, -torch.inf])
    offsets = torch.zeros(1, 2, 1, len(far))
    offsets[0, 0, 0] = far
    offsets.requires_grad_()
    match = deform(offsets, reference_shape=(4, len(far)))
    assert not match.dense().any()
    carried = match.apply(torch.ones(1, 2, 4, len(far)))
    assert not carried.any()
    carried.sum().backward()
    assert not offsets.grad[..., 2:].any()  # the first two touch the border


def test_nan_stays_in_its_cell_and_does_not_hide():
    offsets = torch.zeros(1, 2, 3, 3)
    offsets[0, 1, 1, 2] = torch.nan
    carried = deform(offsets).apply(torch.ones(1, 1, 3, 3))
    assert carried[0, 0, 1, 2].isnan() and carried.isnan().sum() == 1


@pytest.mark.parametrize("sizes", [(0, 3, 2, 2), (3, 2, 0, 2), (0, 2, 0, 2), (1, 1, 4, 0)])
def test_no_cells(sizes):
    match = deform(torch.zeros(2, 2, *sizes[:2]).requires_grad_(), reference_shape=sizes[2:])
    values = torch.ones(2, 3, *sizes[2:], requires_grad=True)
    carried = match.apply(values)
    assert carried.shape == (2, 3, *sizes[:2]) and not carried.any()
    assert match.dense().shape == (2, math.prod(sizes[:2]), math.prod(sizes[2:]))
    carried.sum().backward()
    assert values.grad.shape == values.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_loses_nothing_but_its_own_rounding(dtype, tolerance):
    offsets, values = numbers(1, 2, 40, 300, dtype=dtype), numbers(1, 2, 40, 300, seed=1).clamp(-1, 1).to(dtype)
    carried = deform(offsets).apply(values)
    assert carried.dtype == dtype
    expected = deform(offsets.double()).apply(values.double())
    assert (carried.double() - expected).abs().max() < tolerance  # though x reaches 300, which has no fraction here


def test_second_derivatives_are_refused():
    offsets, values = numbers(1, 2, 3, 3).requires_grad_(), numbers(1, 2, 3, 3, seed=1).requires_grad_()
    (first,) = torch.autograd.grad(deform(offsets).apply(values).square().sum(), offsets, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative"):
        first.sum().backward()


# --- the convolution


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(0, 999),
)
def test_it_is_torchvisions_convolution_with_its_gradients(size, kernel, stride, padding, dilation, seed):
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    if min(out) < 1:
        return
    inputs = [
        numbers(2, 3, *size, seed=seed),
        2 * numbers(2, 2 * math.prod(kernel), *out, seed=seed + 1),
        numbers(4, 3, *kernel, seed=seed + 2),
        numbers(4, seed=seed + 3),
    ]
    inputs = [one.requires_grad_() for one in inputs]
    chosen = {"stride": stride, "padding": padding, "dilation": dilation}
    ours, theirs = deform_conv2d(*inputs, **chosen), torchvision.ops.deform_conv2d(*inputs, **chosen)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    weight = numbers(*ours.shape, seed=seed + 4)
    found, expected = (torch.autograd.grad((one * weight).sum(), inputs) for one in (ours, theirs))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_the_issues_size_in_float32():
    inputs = [
        numbers(1, 64, 120, 214, dtype=torch.float32),
        2 * numbers(1, 18, 120, 214, seed=1, dtype=torch.float32),
        0.05 * numbers(32, 64, 3, 3, seed=2, dtype=torch.float32),
        numbers(32, seed=3, dtype=torch.float32),
    ]
    ours, theirs = (form(*inputs, padding=1) for form in (deform_conv2d, torchvision.ops.deform_conv2d))
    assert (ours - theirs).abs().max() < 1e-5


def test_gradients_of_the_convolution_are_those_of_finite_differences():
    inputs = [numbers(2, 2, 4, 5), numbers(2, 18, 4, 5, seed=1), numbers(3, 2, 3, 3, seed=2), numbers(3, seed=3)]
    inputs = [one.requires_grad_() for one in inputs]
    assert torch.autograd.gradcheck(lambda *given: deform_conv2d(*given, padding=1), inputs)


def test_whole_offsets_have_torchvisions_gradient():
    # There the sample has a kink; a layer whose offsets begin at zero begins on it.
    values, weight = numbers(1, 2, 5, 6), numbers(3, 2, 3, 3, seed=2)
    offset = torch.zeros(1, 18, 5, 6, dtype=torch.float64, requires_grad=True)
    found, expected = (
        torch.autograd.grad(form(values, offset, weight, padding=1).square().sum(), offset)
        for form in (deform_conv2d, torchvision.ops.deform_conv2d)
    )
    assert found[0].abs().sum() > 1
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_convolution_in_half_precision(dtype):
    inputs = [numbers(1, 8, 9, 10), numbers(1, 18, 9, 10, seed=1), 0.1 * numbers(4, 8, 3, 3, seed=2)]
    inputs = [one.to(dtype) for one in inputs]
    made = deform_conv2d(*inputs, padding=1)
    assert made.dtype == dtype
    exact = deform_conv2d(*[one.double() for one in inputs], padding=1)
    assert (made.double() - exact).abs().max() < 2 * torch.finfo(dtype).eps * exact.abs().max()


def test_an_empty_batch_of_the_convolution():
    made = deform_conv2d(torch.zeros(0, 3, 5, 6), torch.zeros(0, 18, 5, 6), torch.zeros(4, 3, 3, 3), padding=1)
    assert made.shape == (0, 4, 5, 6)


# --- the modules


def test_a_new_layer_is_a_plain_convolution():
    layer = DeformableConv(3, 5).double()
    x = numbers(2, 3, 7, 8)
    plain = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), plain)


def test_the_stack_has_the_papers_layers():
    shapes = {name: tuple(one.shape) for name, one in DeformableStack().state_dict().items()}
    widths = [(64, 32), (32, 16), (16, 2)]
    expected: dict[str, tuple[int, ...]] = {}
    for number, (before, after) in enumerate(widths):
        expected[f"layers.{number}.weight"] = (after, before, 3, 3)
        expected[f"layers.{number}.bias"] = (after,)
        expected[f"layers.{number}.offset.weight"] = (18, before, 3, 3)
        expected[f"layers.{number}.offset.bias"] = (18,)
    assert shapes == expected


@pytest.mark.parametrize(
    ("widths", "dilation"), [((32, 16, 2), None), ((2,), 1), ((8, 8, 8, 8, 2), 1), ((8, 4, 2), 6), ((2,), None)]
)
def test_every_row_of_table_2_gives_offsets_and_trains(widths, dilation):
    torch.manual_seed(0)
    stack = DeformableStack(6, widths, dilation=dilation)
    offsets = stack(numbers(2, 6, 9, 11, dtype=torch.float32))
    assert offsets.shape == (2, 2, 9, 11)
    assert (offsets < 0).any() and (offsets > 0).any()
    deform(offsets).apply(numbers(2, 3, 9, 11, seed=1, dtype=torch.float32)).square().sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in stack.parameters())


def test_the_stack_learns_a_shift_from_colours_alone():
    torch.manual_seed(0)
    reference = nn.functional.avg_pool2d(torch.rand(1, 3, 22, 26), 3, 1)  # 20 x 24
    target = reference.roll((1, -2), (2, 3))
    stack = DeformableStack(6, (8, 2))
    optimizer = torch.optim.Adam(stack.parameters(), lr=0.02)
    inside = (..., slice(3, -3), slice(3, -3))
    losses = []
    for _ in range(80):
        carried = deform(stack(torch.cat((target, reference), 1))).apply(reference)
        loss = (carried - target)[inside].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# --- bad input


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: deform(torch.zeros(1, 3, 4, 5)), ShapeError, r"offsets: expected \(B, 2, H, W\), got \(1, 3, 4, 5\)"),
        (lambda: deform(torch.zeros(2, 4, 5)), ShapeError, "offsets"),
        (lambda: deform(torch.zeros(1, 2, 4, 5).long()), ValueError, "offsets: .* got torch.int64"),
        (lambda: deform(torch.zeros(1, 2, 4, 5), reference_shape=(4, -1)), ShapeError, "reference_shape"),
        (lambda: deform(torch.zeros(1, 2, 4, 5)).apply(torch.zeros(1, 3, 5, 4)), ShapeError, "values: .*got"),
        (lambda: deform(torch.zeros(1, 2, 4, 5)).apply(torch.zeros(2, 3, 4, 5)), ShapeError, "values: .*got"),
        (lambda: DeformableConv(3, 4, kernel=2), ValueError, "kernel: expected an odd number"),
        (lambda: DeformableStack(4, (8, 3)), ValueError, "widths: .*got"),
        (lambda: DeformableStack(4, ()), ValueError, "widths: .*got"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input": torch.zeros(3, 5, 6)}, ShapeError, "input: expected"),
        ({"input": torch.zeros(1, 3, 5, 6).long()}, ValueError, "input: .*int64"),
        ({"weight": torch.zeros(4, 2, 3, 3)}, ShapeError, "weight: expected .* C = 3, got"),
        ({"bias": torch.zeros(3)}, ShapeError, r"bias: expected \(4,\), got \(3,\)"),
        ({"offset": torch.zeros(1, 9, 5, 6)}, ShapeError, r"offset: .*\(1, 18, 5, 6\), got \(1, 9, 5, 6\)"),
        ({"padding": 0}, ShapeError, r"offset: .*\(1, 18, 3, 4\), got"),
        ({"padding": -1}, ValueError, "padding: expected .* at least 0, got -1"),
        ({"stride": 0}, ValueError, "stride: expected .* at least 1, got 0"),
        ({"dilation": (1, 1, 1)}, ValueError, "dilation: expected"),
    ],
)
def test_a_convolution_that_does_not_fit_is_refused(change, error, words):
    inputs = {"input": torch.zeros(1, 3, 5, 6), "offset": torch.zeros(1, 18, 5, 6), "weight": torch.zeros(4, 3, 3, 3)}
    given = {**inputs, "padding": 1, **change}
    with pytest.raises(error, match=words):
        deform_conv2d(**given)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_convolution_on_cuda_is_that_on_the_cpu():
    inputs = [numbers(2, 3, 6, 7), numbers(2, 18, 6, 7, seed=1), numbers(4, 3, 3, 3, seed=2), numbers(4, seed=3)]
    expected = deform_conv2d(*inputs, padding=1)
    made = deform_conv2d(*[one.cuda() for one in inputs], padding=1)
    torch.testing.assert_close(made.cpu(), expected)

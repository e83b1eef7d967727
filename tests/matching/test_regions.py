"""Boxes, IoU and pooled features of masks, against loops, torchvision and pycocotools, on real masks where present."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching import regions
from matchcut.matching.regions import masks_to_boxes, pool, pool_boxes, soft_iou

REAL = Path(__file__).parents[3] / "shared/data/davis2016-dev-480p/Annotations"
SHAPES = st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(1, 9), st.integers(1, 70))


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(scope="module")
def real_masks():
    """(50, 480, 854) bool, from several sequences."""
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is absent")
    paths = sorted(REAL.glob("*/*.png"))
    assert len(paths) >= 50
    chosen = paths[:: len(paths) // 50][:50]
    return torch.stack([torch.from_numpy(np.array(Image.open(path)) > 0) for path in chosen])


# --- boxes


def slow_box(mask: Tensor) -> list[float]:
    ys, xs = mask.nonzero(as_tuple=True)
    return [float(one) for one in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)] if len(ys) else [0.0] * 4


@settings(max_examples=60)
@given(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.03, 0.2, 1.0]), st.integers(0, 999))
def test_boxes_are_those_found_pixel_by_pixel(count, height, width, share, seed):
    soft = 1 - uniform(count, height, width, seed=seed)
    masks = soft > 1 - share
    expected = torch.tensor([slow_box(mask) for mask in masks]).reshape(count, 4)
    assert torch.equal(masks_to_boxes(masks), expected)
    assert torch.equal(masks_to_boxes(soft, threshold=1 - share), expected)
    assert torch.equal(masks_to_boxes(masks.to(torch.uint8)), expected)


def test_boxes_are_torchvisions_but_for_the_exclusive_edge(real_masks):
    there = real_masks.flatten(1).any(1)  # torchvision takes no empty ones
    expected = torchvision.ops.masks_to_boxes(real_masks[there]) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(masks_to_boxes(real_masks)[there], expected)
    assert not masks_to_boxes(real_masks)[~there].any()


def test_boxes_of_any_leading_axes_and_of_nothing():
    masks = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    masks[1, 2, 3, 4] = True
    found = masks_to_boxes(masks)
    assert found.shape == (2, 3, 4) and found.dtype == torch.float32
    assert found[1, 2].tolist() == [4, 3, 5, 4] and found.sum() == 16
    assert masks_to_boxes(torch.ones(4, 5)).tolist() == [0, 0, 5, 4]
    assert masks_to_boxes(torch.zeros(2, 0, 4, 5)).shape == (2, 0, 4)
    assert torch.equal(masks_to_boxes(torch.zeros(2, 3, 0, 5)), torch.zeros(2, 3, 4))


def test_boxes_of_soft_masks_have_no_gradient_and_follow_the_threshold():
    soft = torch.tensor([[0.2, 0.6, 0.4], [0.0, 0.5, 0.0]], requires_grad=True)
    assert masks_to_boxes(soft).tolist() == [1, 0, 2, 1] and not masks_to_boxes(soft).requires_grad
    assert masks_to_boxes(soft, threshold=0.1).tolist() == [0, 0, 3, 2]
    assert masks_to_boxes(soft.half(), threshold=0.3).tolist() == [1, 0, 3, 2]


# --- IoU


def slow_iou(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, M), a pair at a time."""
    found = torch.zeros(*a.shape[:2], b.shape[1], dtype=torch.float64)
    for item in range(len(a)):
        for i, one in enumerate(a[item].double()):
            for j, other in enumerate(b[item].double()):
                both = (one * other).sum()
                either = one.sum() + other.sum() - both
                found[item, i, j] = both / either if either > 0 else 0
    return found


@settings(max_examples=40)
@given(SHAPES, st.sampled_from([0.0, 0.1, 0.6, 1.0]), st.integers(0, 999))
def test_iou_is_that_of_each_pair(shape, share, seed):
    count, other, height, width = shape
    a, b = uniform(2, count, height, width, seed=seed), uniform(2, other, height, width, seed=seed + 1)
    torch.testing.assert_close(soft_iou(a, b), slow_iou(a, b), atol=1e-12, rtol=0)
    hard = a < share, b < share
    torch.testing.assert_close(soft_iou(*hard).double(), slow_iou(*hard), atol=1e-7, rtol=0)
    assert soft_iou(*hard).dtype == torch.float32


@pytest.mark.parametrize("pixels", [1, 63, 64, 65, 1147])
def test_bits_are_counted_in_masks_of_any_length(pixels):
    a, b = uniform(2, 5, 1, pixels) < 0.4, uniform(2, 3, 1, pixels, seed=1) < 0.6
    torch.testing.assert_close(soft_iou(a, b).double(), slow_iou(a, b), atol=1e-7, rtol=0)


def test_iou_of_real_masks_is_that_of_pycocotools(real_masks):
    encoded = coco.encode(np.asfortranarray(real_masks.permute(1, 2, 0).numpy().astype(np.uint8)))
    expected = torch.from_numpy(coco.iou(encoded, encoded, [0] * 50))
    found = soft_iou(real_masks[None], real_masks[None])[0].double()
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    assert torch.equal(found.diag() == 1, real_masks.flatten(1).any(1))
    torch.testing.assert_close(soft_iou(real_masks[None].float(), real_masks[None].float())[0].double(), found)


def test_masks_may_be_views_that_are_not_contiguous():
    a, b = uniform(2, 6, 9, 10) < 0.5, uniform(4, 2, 9, 10, seed=1) < 0.5
    b = b.transpose(0, 1)
    expected = slow_iou(a[:, ::2], b)
    torch.testing.assert_close(soft_iou(a[:, ::2], b).double(), expected, atol=1e-7, rtol=0)


def test_empty_masks_score_zero_and_get_no_wild_gradient():
    a = torch.zeros(1, 2, 3, 3)
    a[0, 1] = 1
    assert soft_iou(a, a).tolist() == soft_iou(a > 0, a > 0).tolist() == [[[0, 0], [0, 1]]]
    a.requires_grad_()
    soft_iou(a, a.detach()).sum().backward()
    assert a.grad.isfinite().all()


def test_gradients_of_iou():
    a, b = (uniform(2, n, 3, 4, seed=n).requires_grad_() for n in (2, 3))
    assert torch.autograd.gradcheck(soft_iou, (a, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_iou_in_half_precision_does_not_overflow(dtype):
    a = torch.ones(1, 2, 300, 400, dtype=dtype)  # 120,000 pixels, beyond what float16 holds
    a[:, 1, :150] = 0
    found = soft_iou(a, a)
    assert found.dtype == dtype and found.tolist() == [[[1, 0.5], [0.5, 1]]]


# --- pooling


def test_pooling_is_the_mean_of_the_features_under_the_mask():
    features, small = uniform(2, 5, 6, 7), uniform(2, 3, 6, 7, seed=1)
    small[0, 1] = 0
    masks = small.repeat_interleave(8, 2).repeat_interleave(8, 3)
    weight = small[:, :, None]
    expected = (features[:, None] * weight).sum((3, 4)) / weight.sum((3, 4)).clamp(min=1e-9)
    found = pool(features, masks)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert not found[0, 1].any()
    torch.testing.assert_close(pool(features, masks > 0.5), pool(features, (masks > 0.5).double()))


def test_a_whole_mask_pools_the_mean_at_any_size():
    features = uniform(1, 5, 6, 7)
    for size in ((6, 7), (48, 56), (50, 61), (3, 2), (1, 1)):
        mean = features.mean((2, 3))[:, None].expand(1, 20, 5)
        torch.testing.assert_close(pool(features, torch.ones(1, 20, *size, dtype=torch.bool)), mean)


def test_masks_are_taken_a_few_at_a_time_with_the_same_result(monkeypatch):
    features, masks = uniform(2, 5, 6, 7), uniform(2, 11, 20, 23, seed=1)
    expected = pool(features, masks)
    monkeypatch.setattr(regions, "MASKS", 3)
    torch.testing.assert_close(pool(features, masks), expected)


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([(1, 1), (14, 2), (3, 4)]),
    st.sampled_from([1.0, 0.25, 1 / 7]),
    st.integers(0, 999),
)
def test_pooling_boxes_is_torchvisions_roi_align_averaged(size, grid, scale, seed):
    features, numbers = uniform(2, 3, *size, seed=seed), uniform(2, 4, 4, seed=seed + 1)
    corner, extent = 2 * numbers[..., :2] - 0.6, 0.05 + 1.5 * numbers[..., 2:]  # some lie partly or wholly outside
    frame = torch.tensor([size[1], size[0]], dtype=torch.float64) / scale
    given_as = torch.cat((corner, corner + extent), 2) * frame.repeat(2)
    aligned = torchvision.ops.roi_align(features, list(given_as), grid[0], scale, grid[1], aligned=True)
    expected = aligned.mean((2, 3)).reshape(2, 4, 3)
    found = pool_boxes(features, given_as, scale=scale, bins=grid[0], samples=grid[1])
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_a_box_around_a_mask_that_fills_it_pools_about_what_the_mask_does():
    features = torch.nn.functional.avg_pool2d(uniform(1, 4, 32, 36), 5, 1)  # 28 x 32
    masks = torch.zeros(1, 2, 224, 256, dtype=torch.bool)
    masks[0, 0, 40:120, 64:200] = True
    found = pool_boxes(features, masks_to_boxes(masks), scale=1 / 8, bins=28)
    torch.testing.assert_close(found[0, 0], pool(features, masks)[0, 0], atol=0.01, rtol=0)
    assert not found[0, 1].any() and not pool(features, masks)[0, 1].any()


def test_gradients_of_pooling():
    features, masks = uniform(2, 2, 3, 4).requires_grad_(), uniform(2, 3, 6, 9, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(pool, (features, masks))
    around = torch.tensor([[[0.3, 0.2, 2.1, 2.7]], [[1.1, 0.4, 3.6, 1.9]]], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, b: pool_boxes(f, b, scale=1.0, bins=3), (features, around))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_pooling_in_half_precision(dtype, tolerance):
    features, masks = uniform(1, 8, 30, 40, dtype=dtype), uniform(1, 3, 240, 320, seed=1, dtype=dtype)
    around = torch.tensor([[[8.0, 16, 200, 120]]])
    for found, exact in (
        (pool(features, masks), pool(features.double(), masks.double())),
        (pool_boxes(features, around, scale=0.125), pool_boxes(features.double(), around.double(), scale=0.125)),
    ):
        assert found.dtype == dtype
        assert (found.double() - exact).abs().max() < tolerance


def test_pooling_nothing():
    features = uniform(2, 3, 4, 5)
    assert pool(features, torch.zeros(2, 0, 8, 9)).shape == (2, 0, 3)
    assert pool(features[:0], torch.zeros(0, 4, 8, 9)).shape == (0, 4, 3)
    assert pool(features[:, :0], torch.ones(2, 4, 8, 9)).shape == (2, 4, 0)
    assert pool_boxes(features, torch.zeros(2, 0, 4), scale=1.0).shape == (2, 0, 3)
    assert pool_boxes(features[:0], torch.zeros(0, 2, 4), scale=1.0).shape == (0, 2, 3)
    assert pool_boxes(features[:, :, :0], torch.ones(2, 2, 4), scale=1.0).tolist() == torch.zeros(2, 2, 3).tolist()


def test_compiled_gives_the_same():
    torch._dynamo.reset()
    features, masks = uniform(1, 3, 6, 7), uniform(1, 4, 24, 28, seed=1) < 0.3

    def all_of_it(features, masks):
        around = masks_to_boxes(masks)
        return around, soft_iou(masks, masks), pool(features, masks), pool_boxes(features, around, scale=0.25)

    torch.testing.assert_close(
        torch.compile(all_of_it, backend="aot_eager")(features, masks), all_of_it(features, masks)
    )
    torch._dynamo.reset()


# --- bad input


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: masks_to_boxes(torch.zeros(5)), ShapeError, r"masks: expected \(\.\.\., H, W\), got \(5,\)"),
        (lambda: soft_iou(torch.zeros(2, 4, 5), torch.zeros(2, 4, 5)), ShapeError, "a: expected"),
        (lambda: soft_iou(torch.zeros(1, 2, 4, 5).int(), torch.zeros(1, 2, 4, 5).int()), ShapeError, "a: .*int32"),
        (lambda: soft_iou(torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 5, 4)), ShapeError, "b: expected .* got"),
        (lambda: soft_iou(torch.zeros(1, 2, 4, 5), torch.zeros(2, 2, 4, 5)), ShapeError, "b: expected .* got"),
        (lambda: soft_iou(torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 5).bool()), ShapeError, "b: .*float32.*bool"),
        (lambda: pool(torch.zeros(3, 4, 5), torch.zeros(1, 2, 4, 5)), ShapeError, "features: expected"),
        (lambda: pool(torch.zeros(1, 3, 4, 5), torch.zeros(2, 2, 4, 5)), ShapeError, "masks: .* B = 1, got"),
        (lambda: pool_boxes(torch.zeros(1, 3, 4, 5), torch.zeros(2, 4), scale=1), ShapeError, "boxes: expected"),
        (lambda: pool_boxes(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4), scale=0), ValueError, "scale: .*got 0"),
        (lambda: pool_boxes(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4), scale=1, bins=0), ValueError, "bins"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    features, masks = uniform(1, 3, 6, 7), uniform(1, 4, 24, 28, seed=1) < 0.3
    around = masks_to_boxes(masks)
    assert torch.equal(masks_to_boxes(masks.cuda()).cpu(), around)
    assert torch.equal(soft_iou(masks.cuda(), masks.cuda()).cpu(), soft_iou(masks, masks))
    torch.testing.assert_close(pool(features.cuda(), masks.cuda()).cpu(), pool(features, masks))
    there = pool_boxes(features.cuda(), around.cuda(), scale=0.25)
    torch.testing.assert_close(there.cpu(), pool_boxes(features, around, scale=0.25))

"""The losses against loops that spell them out, at their limits, and by what may and may not have a gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.training.losses import dice_loss, segmentation_loss
from matchcut.training.objectives.mask_vos.correspondence import (
    TEMPERATURE,
    align,
    anchor_cells,
    anchors_of,
    long_term_loss,
    short_term_loss,
)

B, T, C, H, W = 2, 3, 6, 4, 6


def keys(seed: int, batch: int = B, frames: int = T) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, frames, C, H, W, generator=generator), dim=2)


def same_place(batch: int = B, height: int = H, width: int = W) -> Tensor:
    """Each cell lies where it lies."""
    y, x = torch.meshgrid(
        *((torch.arange(size) + 0.5) * 2 / size - 1 for size in (height, width)),
        indexing="ij",
    )
    return torch.stack([x, y], 2).expand(batch, height, width, 2).clone()


def shifted(columns: int) -> Tensor:
    """The second view shows the scene so many cells further to the left."""
    place = same_place()
    place[..., 0] += 2 * columns / W
    return place


# --- views


def test_anchors_lie_in_the_middle_of_equal_parts():
    assert anchor_cells(8, 8, 2).tolist() == [2 * 8 + 2, 2 * 8 + 6, 6 * 8 + 2, 6 * 8 + 6]
    assert anchor_cells(4, 4, 4).tolist() == list(range(16))
    assert len(set(anchor_cells(32, 32, 8).tolist())) == 64
    one = keys(0)
    torch.testing.assert_close(anchors_of(one, 2)[1, 3], one[1, 0, :, 3, 4])


@pytest.mark.parametrize("columns", [-2, 0, 1])
def test_align_undoes_a_shift(columns):
    one = keys(0)
    aligned, seen = align(one, shifted(columns))
    inside = [x for x in range(W) if 0 <= x + columns < W]
    for x in range(W):
        assert seen[..., x].all() == (x in inside) and seen[..., x].any() == (x in inside)
    for x in inside:
        torch.testing.assert_close(aligned[..., x], one[..., x + columns], rtol=1e-4, atol=1e-5)


def test_align_takes_views_of_another_resolution():
    one = keys(0)
    large = F.interpolate(one.flatten(0, 1), scale_factor=2, mode="nearest").unflatten(0, (B, T))
    aligned, seen = align(large, same_place())
    torch.testing.assert_close(aligned, one, rtol=1e-4, atol=1e-5)
    assert seen.all()


# --- long term


def test_long_term_loss_is_what_it_says():
    one, two, place = keys(0), keys(1), shifted(1)
    found = long_term_loss(one, two, place, side=2)
    cells = anchor_cells(H, W, 2).tolist()
    anchors = [(b, n) for b in range(B) for n in cells]
    errors, cross = [], []
    for b in range(B):
        for t in range(T):
            for y in range(H):
                for x in range(W - 1):  # the last column lies outside the second view
                    similar = {
                        n: float(two[b, t, :, y, x + 1] @ two[b, 0, :, n // W, n % W + 1])
                        for n in cells
                        if n % W + 1 < W
                    }
                    label = anchors.index((b, max(similar, key=lambda n: similar[n])))
                    logits = torch.stack([one[b, t, :, y, x] @ one[a, 0, :, n // W, n % W] for a, n in anchors])
                    errors.append(F.cross_entropy(logits[None] / TEMPERATURE, torch.tensor([label])))
        for n in cells:
            if n % W + 1 < W:
                logits = torch.stack(
                    [two[b, 0, :, n // W, n % W + 1] @ one[a, 0, :, m // W, m % W] for a, m in anchors]
                )
                cross.append(F.cross_entropy(logits[None] / TEMPERATURE, torch.tensor([anchors.index((b, n))])))
    torch.testing.assert_close(found.assignment, torch.stack(errors).mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.cross_view, torch.stack(cross).mean(), rtol=1e-4, atol=1e-4)


def test_long_term_loss_tells_good_keys_from_collapsed_ones():
    # Each clip of its own kind, each anchor's part of its own place: four places of two clips in eight dimensions.
    part = (torch.arange(H)[:, None] >= H // 2) * 2 + (torch.arange(W) >= W // 2)
    perfect = torch.stack([F.one_hot(part + 4 * b, 8).permute(2, 0, 1).float() for b in range(2)])
    perfect = perfect[:, None].repeat(1, T, 1, 1, 1)
    assert sum(long_term_loss(perfect, perfect, same_place(), side=2)) < 1e-6
    collapsed = F.normalize(torch.ones_like(perfect), dim=2)
    for part_of_it in long_term_loss(collapsed, collapsed, same_place(), side=2):
        torch.testing.assert_close(part_of_it, torch.tensor(math.log(8.0)))


def test_the_pseudo_label_has_no_gradient_and_the_assignment_has():
    one, two = keys(0).requires_grad_(), keys(1).requires_grad_()
    long_term_loss(one, two, same_place(), side=2).assignment.backward()
    assert two.grad is None and one.grad.abs().sum() > 0
    short_term_loss(one, two, same_place(), side=2).backward()
    assert two.grad is None


def test_two_processes_train_as_one_with_twice_the_batch():
    one, two, place = keys(0), keys(1), torch.cat([same_place(1), shifted(2)[:1]])  # the second is seen in part
    whole = long_term_loss(one, two, place, side=2)
    anchors = anchors_of(one, 2)
    parts = [
        long_term_loss(*(x[b : b + 1] for x in (one, two, place)), side=2, others=anchors[1 - b]) for b in range(B)
    ]
    torch.testing.assert_close(sum(p.assignment for p in parts) / 2, whole.assignment)
    torch.testing.assert_close(sum(p.cross_view for p in parts) / 2, whole.cross_view)


def test_a_second_view_of_another_place_gives_no_loss():
    one = keys(0).requires_grad_()
    for loss in (
        *long_term_loss(one, keys(1), same_place() + 5, side=2),
        short_term_loss(one, keys(1), same_place() + 5),
    ):
        assert loss == 0


# --- short term


def test_short_term_loss_is_what_it_says():
    one, two = keys(0), keys(1)
    cells = anchor_cells(H, W, 2)
    errors = []
    for b in range(B):
        for t in range(1, T):
            anchors, twins = (k[b, t - 1].flatten(1)[:, cells] for k in (one, two))  # (C, 4)
            labels = (two[b, t].flatten(1).t() @ twins).argmax(1)
            errors.append(F.cross_entropy(one[b, t].flatten(1).t() @ anchors / TEMPERATURE, labels))
    found = short_term_loss(one, two, same_place(), side=2)
    torch.testing.assert_close(found, torch.stack(errors).mean(), rtol=1e-4, atol=1e-4)


# --- segmentation


def test_segmentation_loss_counts_all_but_what_is_ignored():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(segmentation_loss(logits, labels), F.cross_entropy(logits, labels))
    labels[0, 0], labels[1, 1:] = 255, 255  # of one more is counted than of the other; both weigh the same
    expected = (
        F.cross_entropy(logits[:1, :, 1:], labels[:1, 1:]) + F.cross_entropy(logits[1:, :, :1], labels[1:, :1])
    ) / 2
    torch.testing.assert_close(segmentation_loss(logits, labels.to(torch.uint8)), expected)
    assert segmentation_loss(logits, torch.full((2, 4, 4), 255)) == 0
    sure = F.one_hot(torch.arange(4).view(1, 2, 2) % 3, 3).permute(0, 3, 1, 2).float() * 50
    assert segmentation_loss(sure, torch.arange(4).view(1, 2, 2) % 3) < 1e-6


def test_segmentation_loss_enlarges_logits():
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(2, (1, 16, 16), generator=torch.Generator().manual_seed(1))
    large = F.interpolate(logits, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(segmentation_loss(logits, labels), F.cross_entropy(large, labels))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"labels: expected at most 1, got 2"):
        segmentation_loss(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 2))
    with pytest.raises(ShapeError, match=r"expected logits"):
        segmentation_loss(torch.zeros(1, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"place \(B, h, w, 2\)"):
        align(keys(0), same_place(3))
    with pytest.raises(ShapeError, match=r"keys: expected"):
        long_term_loss(keys(0, frames=2), keys(0), same_place())


def test_pixels_at_edges_count_more():
    labels = torch.zeros(1, 12, 12, dtype=torch.int64)
    labels[:, :, 6:] = 1
    labels[:, :, 0] = 255
    each = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(each, labels.masked_fill(labels == 255, -100), reduction="none")[0]
    weights = torch.ones(12, 12)
    weights[:, 4:8] = 3  # two pixels on either side of the edge
    weights[:, 1:3] = 3  # what is not counted lies beside these
    weights[:, 0] = 0
    torch.testing.assert_close(segmentation_loss(each, labels, edge_weight=2.0), (loss * weights).sum() / weights.sum())


UNDER_AUTOCAST = {
    "long term": lambda one: sum(long_term_loss(one, keys(1), same_place(), side=2)),
    "short term": lambda one: short_term_loss(one, keys(1), shifted(1), side=2),
    "masks": lambda one: segmentation_loss(one[:, 0], torch.arange(B * 64).view(B, 8, 8) % C, edge_weight=2.0),
    "dice": lambda one: dice_loss(one[:, 0], torch.arange(B * 64).view(B, 8, 8) % C),
}


@pytest.mark.parametrize("name", UNDER_AUTOCAST)
def test_autocast_changes_no_loss_and_no_gradient(name):
    found = []
    for autocast in (False, True):
        one = keys(0).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = UNDER_AUTOCAST[name](one)
        loss.backward()
        found.append((loss.detach(), one.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][1].any()

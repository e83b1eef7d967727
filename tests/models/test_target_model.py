"""The target model: against the regression spelt out cell by cell, and by what must not change it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.models.mask_vos.target_model import REACH, RIDGE, STEP, evidence_of, target_score

SIZE, CHANNELS = (24, 30), 6


def features_of(seed: int, batch: int = 1) -> Tensor:
    return F.normalize(torch.randn(batch, CHANNELS, *SIZE, generator=torch.Generator().manual_seed(seed)), dim=1)


def masks_of(seed: int, objects: int = 1) -> Tensor:
    """Soft everywhere, sums 1."""
    return torch.randn(1, 1 + objects, *SIZE, generator=torch.Generator().manual_seed(100 + seed)).mul(3).softmax(1)


def rows_of(features: Tensor, soft: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with a constant, targets and weights of each STEP-th cell; inside and outside weigh a half each."""
    x = features[0, :, ::STEP, ::STEP].flatten(1).T.double().numpy()
    target = (soft[0, 1:].sum(0) - soft[0, 0])[::STEP, ::STEP].flatten().double().numpy()
    weight = np.abs(target)
    for half in (target > 0, target <= 0):
        weight[half] /= 2 * weight[half].sum()
    return np.hstack([x, np.ones((len(x), 1))]), target, weight


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("given", [(1, 0), (0, 2), (1, 3), (2, 1)])
def test_it_is_the_weighted_ridge_regression_of_all_cells(given: tuple[int, int], objects: int) -> None:
    parts = [
        [(features_of(at), masks_of(at, objects)) for at in range(10 * which, 10 * which + count)]
        for which, count in enumerate(given)
    ]
    found = target_score(features_of(7), *([evidence_of(*one) for one in part] for part in parts))
    rows = [(*rows_of(*one), 1 / len(part)) for part in parts for one in part]
    x, target = (np.concatenate([row[at] for row in rows]) for at in (0, 1))
    weight = np.concatenate([row[2] * row[3] for row in rows]) / sum(map(bool, given))
    # Ridge regression by least squares: each coefficient is a row of its own that asks it to be 0.
    root = np.sqrt(weight)
    stacked = np.vstack([x * root[:, None], np.sqrt(RIDGE) * np.eye(CHANNELS + 1)])
    line = np.linalg.lstsq(stacked, np.concatenate([target * root, np.zeros(CHANNELS + 1)]))[0]
    expected = np.tensordot(line[:-1], features_of(7)[0].double().numpy(), 1) + line[-1]
    np.testing.assert_allclose(found[0], expected.clip(-1, 1), atol=1e-4)


def test_what_is_told_apart_by_one_feature_is_told_apart_in_another_frame() -> None:
    soft = torch.zeros(1, 2, *SIZE)
    soft[:, 1, 6:14, 8:20] = 1
    soft[:, 0] = 1 - soft[:, 1]
    features = features_of(0)
    features[:, 0] = torch.where(soft[:, 1] > 0, 1.0, -1.0)
    features = F.normalize(features, dim=1)
    moved = features.roll((5, -4), (2, 3))
    score = target_score(moved, [evidence_of(features, soft)], [])
    assert torch.equal(score[0] > 0, soft[0, 1].roll((5, -4), (0, 1)) > 0)
    assert score.abs().max() <= 1


def test_frames_without_an_object_know_nothing_and_count_for_nothing() -> None:
    nothing, all_of_it = torch.zeros(1, 2, *SIZE), torch.zeros(1, 2, *SIZE)
    nothing[:, 0] = all_of_it[:, 1] = 1
    empty = [evidence_of(features_of(3), soft) for soft in (nothing, all_of_it)]
    assert all(not part.any() for one in empty for part in one)
    known = evidence_of(features_of(1), masks_of(1))
    assert not target_score(features_of(2), empty, []).any()
    alone = target_score(features_of(2), [known], [])
    torch.testing.assert_close(target_score(features_of(2), [known, *empty], empty), alone)


def test_cells_that_are_unknown_undecided_or_far_have_no_say() -> None:
    soft = torch.zeros(1, 2, 40, 120)
    soft[:, 1, 4:12, 4:12] = 1
    soft[:, 0] = 1 - soft[:, 1]
    soft[:, :, 20:24, :12] = 0.5
    soft[:, :, 30:34] = 0.0
    features = F.normalize(torch.randn(1, CHANNELS, 40, 120, generator=torch.Generator().manual_seed(0)), dim=1)
    other = features.clone()
    other[:, :, 20:24, :12], other[:, :, 30:34], other[..., 12 + REACH + STEP :] = 7.0, -3.0, 5.0
    for one, two in zip(evidence_of(features, soft), evidence_of(other, soft), strict=True):
        assert torch.equal(one, two) and one.any()


def test_only_the_cells_asked_for_get_a_score() -> None:
    known = evidence_of(features_of(1, 2), torch.cat([masks_of(1), masks_of(2)]))
    where = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0)) < 0.3
    everywhere, some = (target_score(features_of(3, 2), [known], [], wanted) for wanted in (None, where))
    torch.testing.assert_close(some, everywhere * where)


def test_a_score_has_a_gradient() -> None:
    features = features_of(3, 2).requires_grad_()
    known = evidence_of(features_of(1, 2), torch.cat([masks_of(1), masks_of(2)]))
    target_score(features, [known], [], features[:, 0] > 0).square().sum().backward()
    assert features.grad is not None and features.grad.abs().sum(dim=(1, 2, 3)).gt(0).all()


def test_a_batch_is_a_loop_over_its_items() -> None:
    soft = [masks_of(at, 2) for at in range(3)]
    features = features_of(5, batch=3)
    together = evidence_of(features, torch.cat(soft))
    alone = [evidence_of(features[at : at + 1], one) for at, one in enumerate(soft)]
    scores = target_score(features, [together], [])
    for at, one in enumerate(alone):
        torch.testing.assert_close(together.products[at : at + 1], one.products)
        torch.testing.assert_close(scores[at : at + 1], target_score(features[at : at + 1], [one], []))

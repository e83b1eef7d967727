"""Perturbed masks; the clips themselves are tested with the objective."""

import numpy as np
import torch

from matchcut.training.objectives.mask_vos.synthetic_clips import bend, fade, perturb_some


def test_bent_masks_are_the_same_masks_elsewhere() -> None:
    soft = torch.zeros(6, 2, 40, 60)
    soft[:, 1, 12:28, 20:40] = 1
    soft[:, 0] = 1 - soft[:, 1]
    found = bend(np.random.default_rng(0), soft)
    torch.testing.assert_close(found.sum(1), torch.ones(6, 40, 60))
    assert found.min() >= 0
    inside = ((found[:, 1] > 0.5) & (soft[:, 1] > 0.5)).flatten(1).sum(1)
    either = ((found[:, 1] > 0.5) | (soft[:, 1] > 0.5)).flatten(1).sum(1)
    overlap = inside / either
    assert overlap.min() > 0.4 and overlap.std() > 0.01
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        assert torch.equal(found, bend(np.random.default_rng(0), soft))


def test_faded_masks_lack_parts_and_gain_none() -> None:
    soft = torch.zeros(6, 2, 40, 60)
    soft[:, :, 8:32, 10:50] = 0.8
    found = fade(np.random.default_rng(0), soft)
    assert found.min() >= 0 and (found <= soft).all()
    left = (found / 0.8)[:, :, 8:32, 10:50]
    assert (left < 0.05).any() and (left > 0.95).any()
    assert torch.equal(left[:, 0], left[:, 1])  # of all objects alike
    assert torch.equal(found, fade(np.random.default_rng(0), soft))


def test_a_share_of_the_masks_is_changed_each_by_its_own_random_numbers() -> None:
    soft = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def changed(share: float, first: int, last: int) -> torch.Tensor:
        rngs = [np.random.default_rng(seed) for seed in range(first, last)]
        return perturb_some(rngs, soft[first:last], share, bend, fade)

    whole = changed(0.5, 0, 40)
    assert torch.equal(torch.cat([changed(0.5, 0, 15), changed(0.5, 15, 40)]), whole)
    count = int((whole != soft).flatten(1).any(1).sum())
    assert 12 <= count <= 28
    assert torch.equal(changed(0.0, 0, 40), soft)
    assert (changed(1.0, 0, 40) != soft).flatten(1).any(1).all()

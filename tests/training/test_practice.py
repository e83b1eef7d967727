"""Masks spoilt for practice; the clips themselves are tested with the objective."""

import numpy as np
import torch

from matchcut.training.practice import spoil


def test_spoilt_masks_are_the_same_masks_bent() -> None:
    soft = torch.zeros(6, 2, 40, 60)
    soft[:, 1, 12:28, 20:40] = 1
    soft[:, 0] = 1 - soft[:, 1]
    found = spoil(np.random.default_rng(0), soft)
    torch.testing.assert_close(found.sum(1), torch.ones(6, 40, 60))
    assert found.min() >= 0
    inside = ((found[:, 1] > 0.5) & (soft[:, 1] > 0.5)).flatten(1).sum(1)
    either = ((found[:, 1] > 0.5) | (soft[:, 1] > 0.5)).flatten(1).sum(1)
    overlap = inside / either
    assert overlap.min() > 0.4 and overlap.std() > 0.01
    assert torch.equal(found, spoil(np.random.default_rng(0), soft))

"""Linear foreground/background classifier of cells, solved in closed form.

A discriminative target model, as in Robinson et al., "Learning Fast and Robust Target Models for Video Object
Segmentation", CVPR 2020, here by ridge regression instead of Gauss-Newton steps on a small network: matching asks which
remembered cell a cell is most like, this asks on which side of all of them it lies. Each reference keeps the sums that
the regression needs of it, so the cost of a frame does not depend on how many are remembered. All objects together are
told from the background: one apart from others of its kind, a line does not tell (with a classifier for each,
schoolgirls scores 3 points less).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from matchcut.matching.base import full_precision
from matchcut.models.search_region import boxes_of

REACH = 32
"""Cells around the objects that they are told from; what is further away the match does not offer."""
STEP = 3
"""Every third cell, on either axis, is enough to learn from: neighbours are alike. J&F of the development sequences is
the same with all of them, and with every second or fourth."""
RIDGE = 1e-3
"""Weight of the squared coefficients. J&F hardly depends on it (from 1e-5 to 1e-3; it falls by 0.2 at 1e-2)."""


class Evidence(NamedTuple):
    """What a reference says of its cells' features: sums in which objects and surroundings weigh a half each. All 0
    where there is no object."""

    products: Tensor
    """(B, C + 1, C + 1) of two features' products; the last of the features is a constant 1."""
    targets: Tensor
    """(B, C + 1) of the features' products with 1 inside the objects, -1 outside."""


@full_precision
def evidence_of(features: Tensor, soft_masks: Tensor) -> Evidence:
    """The sums of a reference.

    Args:
        features: (B, C, h, w), L2-normalised.
        soft_masks: (B, 1 + N, h, w), background first; cells that sum to less than 1 are known so much less, and those
            of undecided masks count less too.
    """
    region = torch.stack([soft_masks[:, 0], soft_masks[:, 1:].sum(1)], 1)
    box = boxes_of(region, REACH)[0]
    if box is None:
        size = features.shape[1] + 1
        return Evidence(features.new_zeros(len(features), size, size), features.new_zeros(len(features), size))
    rows, columns = (slice(one.start, one.stop, STEP) for one in box)
    x = _with_constant(features[..., rows, columns]).flatten(2)  # (B, C + 1, n)
    outside, inside = region[..., rows, columns].flatten(2).unbind(1)
    target = inside - outside
    weights = [target.abs() * (target > 0), target.abs() * (target <= 0)]
    sums = [one.sum(1, keepdim=True) for one in weights]
    there = (torch.minimum(*sums) > 0.5).float()  # half a cell at least, of both
    weight = there * sum(one / (2 * total.clamp(min=0.5)) for one, total in zip(weights, sums, strict=True))
    weighted = x * weight[:, None]
    return Evidence(weighted @ x.transpose(1, 2), (weighted * target[:, None]).sum(2))


@full_precision
def target_score(
    features: Tensor, annotated: Sequence[Evidence], context: Sequence[Evidence], where: Tensor | None = None
) -> Tensor:
    """(B, h, w) in [-1, 1]: how surely each cell is of an object. 0 where nothing is known of any.

    Args:
        features: (B, C, h, w), L2-normalised.
        annotated: of the annotated references; all of them weigh as much as all of the context. At least one of either.
        context: of the others.
        where: (B, h, w) bool, the cells that are asked for; 0 elsewhere. All where None.
    """
    products, targets = _mean([_mean(part) for part in (annotated, context) if part])
    ridge = RIDGE * torch.eye(products.shape[-1], device=products.device)
    coefficients = torch.linalg.solve(products + ridge, targets)
    where = torch.ones_like(features[:, 0], dtype=torch.bool) if where is None else where
    score = torch.zeros_like(where, dtype=features.dtype)
    for item, (line, cells, wanted) in enumerate(zip(coefficients, features.permute(0, 2, 3, 1), where, strict=True)):
        score[item, wanted] = cells[wanted] @ line[:-1] + line[-1]
    return score.clamp(-1, 1)


def _mean(evidence: Sequence[Evidence]) -> Evidence:
    """Over those in which an object is there, that is, whose weights sum to 1."""
    products = torch.stack([one.products for one in evidence]).sum(0)
    targets = torch.stack([one.targets for one in evidence]).sum(0)
    known = products[:, -1, -1].clamp(min=1)
    return Evidence(products / known[:, None, None], targets / known[:, None])


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(features.shape[0], 1, *features.shape[2:])], 1)

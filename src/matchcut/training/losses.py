"""Losses of masks that are decoded: cross-entropy, with more weight on edges where asked for, and Dice.

They are in float32 and the mean over the batch of each item's own mean, so that several processes have the loss of one
with all their clips.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.masks import IGNORE
from matchcut.matching.base import full_precision

UNLABELLED = -100
"""A label that counts for nothing, to PyTorch too."""
EDGE = 2
"""Pixels so near to an edge of the labels, on either axis, count as on it."""


@full_precision
def segmentation_loss(logits: Tensor, labels: Tensor, *, edge_weight: float = 0.0) -> Tensor:
    """Cross-entropy over {background, objects} (B, 1 + N, h, w), which are enlarged to the labels' size first.

    Args:
        labels: (B, H, W) of whole numbers: 0 background, 1 to N objects, 255 not counted.
        edge_weight: how many times more than others the pixels at edges of the labels count, and so thin parts too.

    Raises:
        ShapeError: another number of items, or a label above N.
    """
    if labels.ndim != 3 or logits.ndim != 4 or len(labels) != len(logits):
        raise ShapeError(
            f"expected logits (B, 1 + N, h, w) and labels (B, H, W), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    counted = labels != IGNORE
    if (labels[counted] >= logits.shape[1]).any():
        raise ShapeError(f"labels: expected at most {logits.shape[1] - 1}, got {int(labels[counted].max())}")
    large = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
    targets = labels.long().masked_fill(~counted, UNLABELLED)
    if edge_weight == 0:
        return cross_entropy(large.permute(0, 2, 3, 1), targets)
    each = F.cross_entropy(large, targets, reduction="none")
    numbers, side = labels[:, None].float(), 2 * EDGE + 1
    spread = F.max_pool2d(numbers, side, 1, EDGE) + F.max_pool2d(-numbers, side, 1, EDGE)
    weights = (1 + edge_weight * (spread[:, 0] > 0)) * counted
    return ((each * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1)).mean()


@full_precision
def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - the soft Dice coefficient of each object, the mean over the objects that an item has; 0 where it has none.

    Each object counts alike, whatever its area. Milletari et al., "V-Net", 3DV 2016. Arguments as in
    `segmentation_loss`.
    """
    counted = (labels != IGNORE)[:, None]
    large = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
    found = large.softmax(1)[:, 1:] * counted
    numbers = torch.arange(1, logits.shape[1], device=labels.device).view(1, -1, 1, 1)
    truth = (labels[:, None] == numbers).float()
    inside, both = (found * truth).sum((2, 3)), (found + truth).sum((2, 3))
    there = truth.flatten(2).amax(2)
    return (((1 - 2 * inside / both.clamp(min=1)) * there).sum(1) / there.sum(1).clamp(min=1)).mean()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of logits (B, ..., K) with labels (B, ...): the mean over the batch of each item's mean over what is labelled
    (`UNLABELLED` is not), or 0 where nothing is."""
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(len(labels), -1)
    return (each.sum(1) / (labels != UNLABELLED).flatten(1).sum(1).clamp(min=1)).mean()

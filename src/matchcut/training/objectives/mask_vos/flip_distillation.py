"""A backbone that learns to say in one pass what it says on average over a frame's flips.

Feature maps of a frame and of its mirror images, each mirrored back, agree on what a place shows and differ in what
its edges look like to filters that were trained on upright pictures. Their mean matches better, at four times the cost.
Here the backbone learns to give that mean itself: it is its own teacher (as in Hinton et al., "Distilling the
Knowledge in a Neural Network", 2015, with an ensemble of views for one of networks), and frames are all it needs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.models.backbones import Backbone
from matchcut.models.mask_vos import MaskVOS

FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
"""As they are, left to right, upside down, both: by the axes of images (B, C, H, W)."""


def mean_over_flips(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """The mean of the feature maps of images (B, 3, H, W) over FLIPS, each flipped back; float32."""
    each = [[one.flip(axes) for one in backbone(images.flip(axes))] for axes in FLIPS]
    return [torch.stack(maps).mean(0, dtype=torch.float32) for maps in zip(*each, strict=True)]


def flips_loss(network: MaskVOS, teacher: Backbone, images: Tensor) -> Tensor:
    """How far what the network matches of images (B, 3, H, W) is from what the teacher's mean over flips would give:
    the mean squared distance of keys, and of details where there are any, each of norm 1; so 0 to 4 each."""
    with torch.no_grad():
        aim = network.features(mean_over_flips(teacher, images), images)
    found = network.features(network.backbone(images), images)
    pairs = [(found.keys, aim.keys)]
    if found.details is not None and aim.details is not None:
        pairs.append((found.details, aim.details))
    return torch.stack([F.mse_loss(one, other, reduction="none").sum(1).mean() for one, other in pairs]).sum()

"""Synthetic clips: frames with exact masks that need no label, and masks perturbed as those of a long track are.

A clip gets pieces of other videos pasted over it; or it is a cycle, a frame, another and the first again, so that real
motion is seen and a region's true mask at the end is the one that was drawn at the beginning.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.data.pasting import adapt_colours, moving_piece, paste, region, smooth_shape, soften, with_limbs
from matchcut.masks import Frame, LabelMap
from matchcut.matching.base import full_precision
from matchcut.training.objectives.mask_vos.pseudo_masks import OBJECTS

SMALLEST = 0.003
"""Share of the first frame below which a pasted piece is too small, or too hidden, to be followed."""
SOURCES = 3
"""Frames of other videos that pieces are cut out of, for each clip: as many as there are pieces at most."""
TRIES = 5
BEND = 0.04
"""Standard deviation of the field that bends a perturbed mask at most, as a share of the frame's side."""


def pasted_clip(rng: np.random.Generator, frames: Frame, others: Frame) -> tuple[Frame, LabelMap]:
    """One or two pieces of other frames (N, H, W, 3) over a clip (T, H, W, 3), sometimes a distractor too; and its
    labels (T, H, W).

    A piece is a union of superpixels or a smooth shape, mostly with thin limbs, its edge and colours brought more or
    less towards what it lies over. None may be left, where all tries gave pieces that are too small.
    """
    size = (frames.shape[1], frames.shape[2])
    mixed, labels = frames, np.zeros(frames.shape[:3], np.uint8)
    for _ in range(TRIES):
        numbers = [1, 2][: rng.integers(1, OBJECTS + 1)] + [0] * int(rng.random() < 0.3)
        pieces = []
        for _ in numbers:
            source = others[int(rng.integers(len(others)))]
            shape = region(rng, source) if rng.random() < 0.6 else smooth_shape(rng, size)
            if rng.random() < 0.6:
                shape = with_limbs(rng, shape)
            piece = moving_piece(rng, source, shape, len(frames), size)
            pieces.append(soften(adapt_colours(piece, frames, rng.uniform(0, 0.7)), rng.uniform(0, 1.2)))
        mixed, labels = paste(frames, pieces, numbers)
        if all((labels[0] == number).mean() > SMALLEST for number in numbers if number):
            break
    return mixed, labels


def cycle_clips(rngs: Sequence[np.random.Generator], clips: Tensor) -> tuple[Tensor, Tensor]:
    """The first frame of each clip (M, T, H, W, 3), the last, and the first again (M, 3, H, W, 3), with one or two
    regions of the first as labels (M, 3, H, W)."""
    frames = clips[:, [0, -1, 0]]
    drawn = []
    for rng, frame in zip(rngs, frames[:, 0].cpu().numpy(), strict=True):
        labels = np.zeros(frame.shape[:2], np.uint8)
        for number in range(1, 1 + int(rng.integers(1, OBJECTS + 1))):
            labels[region(rng, frame)] = number
        drawn.append(labels)
    return frames, torch.from_numpy(np.stack(drawn)).to(frames.device)[:, None].expand(-1, 3, -1, -1)


def perturb_some(
    rngs: Sequence[np.random.Generator], soft_masks: Tensor, share: float, *ways: Callable[..., Tensor]
) -> Tensor:
    """Soft masks (B, C, h, w), a share of them changed by one of some ways; both are drawn for each on its own."""
    changed = []
    for rng, one in zip(rngs, soft_masks.split(1), strict=True):
        way = ways[int(rng.integers(len(ways)))]
        changed.append(way(rng, one) if rng.random() < share else one)
    return torch.cat(changed)


@full_precision
def bend(rng: np.random.Generator, soft_masks: Tensor) -> Tensor:
    """Soft masks (B, C, h, w) as those of a track that has drifted: bent by smooth random fields."""
    batch, (height, width) = len(soft_masks), soft_masks.shape[2:]
    bends = rng.normal(size=(batch, 2, 4, 4)) * rng.uniform(0, 2 * BEND, (batch, 1, 1, 1))
    field = F.interpolate(
        torch.from_numpy(bends).to(soft_masks), size=(height, width), mode="bicubic", align_corners=False
    )
    still = F.affine_grid(torch.eye(2, 3).to(field).expand(batch, 2, 3), [batch, 1, height, width], align_corners=False)
    where = still + field.permute(0, 2, 3, 1)
    return F.grid_sample(soft_masks, where, padding_mode="border", align_corners=False)


def fade(rng: np.random.Generator, soft_masks: Tensor) -> Tensor:
    """Soft masks (B, C, h, w) of which parts are gone, as of an object that no longer looks as it was annotated."""
    field = torch.from_numpy(rng.uniform(-1.5, 1.5, (len(soft_masks), 1, 4, 4))).to(soft_masks)
    size = (soft_masks.shape[2], soft_masks.shape[3])
    return soft_masks * F.interpolate(field, size=size, mode="bicubic", align_corners=False).clamp(0, 1)

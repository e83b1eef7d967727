"""Clips with masks to practise on, made without a label: pieces of other videos pasted in, or pseudo masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from matchcut.data.footage import Footage, FrameReader
from matchcut.data.pasting import adapt_colours, moving_piece, paste, region, smooth_shape, soften, with_limbs
from matchcut.matching.base import full_precision
from matchcut.training.pseudo_masks import (
    EVERY,
    Clusters,
    ObjectRule,
    candidates,
    choose_objects,
    k_means,
    snap_to_edges,
    transport_clusters,
)
from matchcut.training.views import to_images

Frames = NDArray[np.uint8]
Labels = NDArray[np.uint8]

OBJECTS = 2
"""A clip's at most."""
SMALLEST = 0.003
"""Share of the first frame below which a pasted piece is too small, or too hidden, to be followed."""
OTHERS = 3
"""Frames of other videos that pieces are cut out of, for each clip: as many as there are pieces at most."""
TRIES = 5
SOUND = 0.5
"""Least score of a pseudo object in a clip: below it its pieces jump, fray or fall apart from frame to frame."""


@dataclass(frozen=True)
class ClipClusters:
    """What one clip's pixels fall to, and which of it are taken for objects."""

    clusters: Labels
    """(T, H, W)."""
    objects: Labels
    """(T, H, W): 0 background, 1, 2, ..."""


def pasted_clip(rng: np.random.Generator, frames: Frames, others: Frames) -> tuple[Frames, Labels]:
    """One or two pieces of other frames (N, H, W, 3) over a clip (T, H, W, 3), sometimes a distractor too; and its
    labels (T, H, W).

    A piece is a union of superpixels or a smooth shape, mostly with thin limbs, its edge and colours brought more or
    less towards what it lies over. None may be left, where all tries gave pieces that are too small.
    """
    size = (frames.shape[1], frames.shape[2])
    mixed, labels = frames, np.zeros(frames.shape[:3], np.uint8)
    for _ in range(TRIES):
        numbers = [1, 2][: rng.integers(1, OBJECTS + 1)] + [0] * int(rng.random() < 0.3)
        layers = []
        for _ in numbers:
            source = others[int(rng.integers(len(others)))][None]
            shape = region(rng, source[0]) if rng.random() < 0.6 else smooth_shape(rng, size)
            if rng.random() < 0.6:
                shape = with_limbs(rng, shape)
            layer = moving_piece(rng, source, shape[None], len(frames), size)
            layers.append(soften(adapt_colours(layer, frames, rng.uniform(0, 0.7)), rng.uniform(0, 1.2)))
        mixed, labels = paste(frames, layers, numbers)
        if all((labels[0] == number).mean() > SMALLEST for number in numbers if number):
            return mixed, labels
    return mixed, labels


def clip_clusters(
    keys: Tensor, clusters: Clusters, frames: Frames, *, rule: ObjectRule | None = None, snap: bool = True
) -> ClipClusters:
    """Pseudo masks of a clip (T, H, W, 3) by the clusters of its video; none where no cluster is soundly an object.

    Args:
        keys: of the clip, by `deep_keys` or `unit_keys`.
        snap: move the objects to the edges of the picture.
    """
    found = clusters.assign(keys, (frames.shape[1], frames.shape[2])).cpu().numpy().astype(np.uint8)
    rule = rule or ObjectRule(objects=OBJECTS)
    objects = choose_objects(found, len(clusters.centres), rule)
    for number, one in enumerate(candidates(objects, 1 + rule.objects)):
        if one.score(rule) < SOUND:
            objects[objects == number] = 0
    if snap:
        objects = np.stack([snap_to_edges(frame, one) for frame, one in zip(frames, objects, strict=True)])
    return ClipClusters(found, objects)


@full_precision
def spoil(rng: np.random.Generator, soft_masks: Tensor, most: float = 0.04) -> Tensor:
    """Soft masks (B, C, h, w) as those of a track that has drifted: bent by smooth random fields.

    Args:
        most: a field's standard deviation at most, as a share of the frame's side.
    """
    batch, (height, width) = len(soft_masks), soft_masks.shape[2:]
    bends = rng.normal(size=(batch, 2, 4, 4)) * rng.uniform(0, 2 * most, (batch, 1, 1, 1))
    field = F.interpolate(
        torch.from_numpy(bends).to(soft_masks), size=(height, width), mode="bicubic", align_corners=False
    )
    still = F.affine_grid(torch.eye(2, 3).to(field).expand(batch, 2, 3), [batch, 1, height, width], align_corners=False)
    where = still + field.permute(0, 2, 3, 1)
    return F.grid_sample(soft_masks, where, padding_mode="border", align_corners=False)


def now_and_then(
    rngs: Sequence[np.random.Generator], soft_masks: Tensor, share: float, *ways: Callable[..., Tensor]
) -> Tensor:
    """Soft masks (B, C, h, w), a share of them changed by one of some ways; both are drawn for each on its own."""
    changed = []
    for rng, one in zip(rngs, soft_masks.split(1), strict=True):
        way = ways[int(rng.integers(len(ways)))]
        changed.append(way(rng, one) if rng.random() < share else one)
    return torch.cat(changed)


def fade(rng: np.random.Generator, soft_masks: Tensor) -> Tensor:
    """Soft masks (B, C, h, w) of which parts are gone, as of an object that no longer looks as it was annotated."""
    field = torch.from_numpy(rng.uniform(-1.5, 1.5, (len(soft_masks), 1, 4, 4))).to(soft_masks)
    size = (soft_masks.shape[2], soft_masks.shape[3])
    return soft_masks * F.interpolate(field, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


@torch.no_grad()
def deep_keys(backbone: nn.Module, frames: Frames) -> Tensor:
    """(T, C, h, w) the deepest features of frames (T, H, W, 3), L2-normalised; float32."""
    device, training = next(backbone.parameters()).device, backbone.training
    maps: list[Tensor] = backbone.eval()(to_images(torch.from_numpy(frames).to(device)))
    backbone.train(training)
    return unit_keys(maps[-1])


def unit_keys(deepest: Tensor) -> Tensor:
    """The deepest features (T, C, h, w) L2-normalised; float32, without gradient."""
    return F.normalize(deepest.detach().float(), dim=1)


def cluster_video(
    backbone: nn.Module, reader: FrameReader, video: int, footage: Footage, count: int, *, transport: bool
) -> Clusters:
    """Clusters of the keys of every 8th frame of a video. A video of which nothing can be read, or too little for so
    many clusters, gets one that all falls to, which is no object."""
    keys = []
    for frame in range(0, footage.total, EVERY):
        pixels = reader.read(video, frame)
        if pixels is not None:
            keys.append(deep_keys(backbone, pixels[None])[0].flatten(1))
    cells = torch.cat(keys, 1) if keys else torch.zeros(1, 0, device=next(backbone.parameters()).device)
    if cells.shape[1] < count:
        return Clusters(cells.new_zeros(count, max(1, len(cells))), cells.new_zeros(count))
    one = cells[None, :, :, None]  # as a single frame, of which the clustering takes every cell
    return transport_clusters(one, count) if transport else k_means(one, count)

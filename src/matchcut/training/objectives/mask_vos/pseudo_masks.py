"""Pseudo masks: which of a clip's clusters are taken for objects, moved to the edges of the picture.

Which clusters become objects Mask-VOS's paper leaves open: here compact, solid, temporally stable ones off the frame's
border, of middling area.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from matchcut.masks import Frame, LabelMap
from matchcut.training.objectives.mask_vos.clustering import Clusters

OBJECTS = 2
"""A clip's at most."""
AREA = (0.01, 0.4)
"""Least and most share of the frame that an object covers, mean over frames."""
BORDER = 0.1
"""Share of the frame's border from which on a cluster is none."""
SOUND = 0.5
"""Least score of an object in its clip: below it its pieces jump, fray or fall apart from frame to frame."""
RADIUS, SOFTNESS = 8, 1e-3
"""Of the guided filter: half a window in pixels, about how far an edge can move; and its epsilon, for colours in
[0, 1]: small ones follow faint edges."""


def clip_pseudo_masks(keys: Tensor, clusters: Clusters, frames: Frame) -> tuple[LabelMap, LabelMap]:
    """The clusters of a clip's pixels, uint8 (T, H, W), and its pseudo masks, the same with 0 for background, moved to
    the edges of the picture; none where no cluster is soundly an object.

    Args:
        keys: (T, C, h, w) of the clip, by `deep_keys` or `unit_keys`.
        clusters: of its video.
        frames: (T, H, W, 3).
    """
    found = clusters.assign(keys, (frames.shape[1], frames.shape[2])).cpu().numpy().astype(np.uint8)
    objects = choose_objects(found, len(clusters.centres))
    for number in range(1, OBJECTS + 1):
        if objectness(objects, number).score < SOUND:
            objects[objects == number] = 0
    return found, np.stack([snap_to_edges(frame, one) for frame, one in zip(frames, objects, strict=True)])


def choose_objects(clusters: LabelMap, count: int) -> LabelMap:
    """The objects of a clip's `count` clusters, uint8 (T, h, w) to the same: 0 background, 1, 2 the best clusters; of
    each, in each frame, the largest piece. A clip may have none."""
    found = [objectness(clusters, number) for number in range(count)]
    objects = np.zeros_like(clusters)
    best = sorted((one for one in found if one.score > 0), key=lambda one: -one.score)
    for number, one in enumerate(best[:OBJECTS], 1):
        objects[one.pieces] = number
    return objects


@dataclass(frozen=True)
class Objectness:
    """How much a cluster of a clip looks like an object; shares are means over frames."""

    pieces: NDArray[np.bool_]
    """(T, h, w), its largest piece in each frame."""
    area: float
    """Of the frame that the piece covers."""
    border: float
    """Of the frame's border that it covers."""
    compact: float
    """Of the cluster that the piece holds."""
    solid: float
    """Of its convex hull that it fills."""
    stable: float
    """Intersection over union with the next frame's, both moved to their centres of mass."""

    @property
    def score(self) -> float:
        """0, or compact x solid x stable, the less the more of the border it covers."""
        if not AREA[0] <= self.area <= AREA[1] or self.border >= BORDER:
            return 0.0
        return self.compact * self.solid * self.stable * (1 - self.border / BORDER)


def objectness(clusters: LabelMap, number: int) -> Objectness:
    """Of one of the clusters of a clip, uint8 (T, h, w)."""
    masks = clusters == number
    pieces = np.stack([_largest_piece(mask) for mask in masks])
    edge = np.ones(clusters.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    return Objectness(
        pieces,
        area=float(pieces.mean()),
        border=float(pieces[:, edge].mean()),
        compact=float(np.mean(pieces.sum((1, 2)) / masks.sum((1, 2)).clip(1))),
        solid=float(np.mean([_solidity(piece) for piece in pieces])),
        stable=float(np.mean([_overlap(_centred(a), _centred(b)) for a, b in pairwise(pieces)] or [1.0])),
    )


def snap_to_edges(frame: Frame, labels: LabelMap) -> LabelMap:
    """Objects (H, W) moved to the edges of their frame (H, W, 3), by a guided filter of each mask.

    He et al., "Guided Image Filtering", ECCV 2010, with colour as the guide: inside windows the mask becomes a linear
    function of colour.
    """
    guide = frame.astype(np.float32) / 255
    size = (2 * RADIUS + 1,) * 2

    def mean(values: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_REFLECT), np.float32)

    average = mean(guide)
    products = mean((guide[..., :, None] * guide[..., None, :]).reshape(*guide.shape[:2], 9)).reshape(*guide.shape, 3)
    spread = products - average[..., :, None] * average[..., None, :] + SOFTNESS * np.eye(3, dtype=np.float32)
    inverse = np.linalg.inv(spread)
    best = np.full(labels.shape, 0.5, np.float32)
    snapped = np.zeros_like(labels)
    for number in range(1, int(labels.max(initial=0)) + 1):
        mask = (labels == number).astype(np.float32)
        level = mean(mask)
        shared = mean(guide * mask[..., None]) - average * level[..., None]
        slope = (inverse @ shared[..., None])[..., 0].astype(np.float32)
        offset = level - (slope * average).sum(2)
        soft = (mean(slope) * guide).sum(2) + mean(offset)
        snapped[soft > best] = number
        best = np.maximum(best, soft)
    return snapped


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    count, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count <= 2:
        return mask
    return np.asarray(pieces == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax()))


def _solidity(mask: NDArray[np.bool_]) -> float:
    """The share of its convex hull that a mask fills; 0 where it is empty."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    if points is None:
        return 0.0
    hull = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1)
    return float(mask.sum() / hull.sum())


def _centred(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask moved so that its centre of mass is the middle; on a canvas on which it cannot reach an edge."""
    height, width = mask.shape
    canvas = np.zeros((2 * height + 1, 2 * width + 1), bool)
    rows, columns = mask.nonzero()
    if len(rows):
        canvas[rows - round(rows.mean()) + height, columns - round(columns.mean()) + width] = True
    return canvas


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 0.0

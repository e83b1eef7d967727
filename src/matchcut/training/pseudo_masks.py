"""Pseudo masks: the space-time pixels of a video in clusters of their keys, and which clusters are taken for objects.

Mask-VOS (supplement, sections B and G): k-means over keys of every 8th frame, then every frame assigned; and what the
paper names as future work, clusters by optimal transport, each with its share of the cells (as Asano et al.,
"Self-labelling", ICLR 2020). Which clusters become objects the paper leaves open; see `choose_objects`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.base import full_precision
from matchcut.matching.transport import sinkhorn

Labels = NDArray[np.uint8]
Frames = NDArray[np.uint8]

EVERY = 8
"""Of so many frames one is clustered."""


@dataclass(frozen=True)
class Clusters:
    """What a key falls to: the cluster with the largest `key . centre + bias`."""

    centres: Tensor
    """(k, C)."""
    biases: Tensor
    """(k,): minus half the squared length of a centre for k-means, what keeps the balance for transport."""

    @full_precision
    def scores(self, keys: Tensor) -> Tensor:
        """(T, k, h, w) of keys (T, C, h, w)."""
        return torch.einsum("tchw,kc->tkhw", keys.float(), self.centres) + self.biases[:, None, None]

    def assign(self, keys: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The cluster of every cell of keys (T, C, h, w), int64 (T, h, w); or of every pixel, where `size` is given:
        scores, not labels, are enlarged, so that edges run smoothly."""
        if size is None:
            return self.scores(keys).argmax(1)
        enlarged = [
            F.interpolate(one[None], size=size, mode="bicubic", align_corners=False).argmax(1)
            for one in self.scores(keys)
        ]
        return torch.cat(enlarged)


@full_precision
def k_means(
    keys: Tensor, count: int = 7, *, iterations: int = 30, starts: int = 3, generator: torch.Generator | None = None
) -> Clusters:
    """Clusters of keys (T, C, h, w) by Lloyd's k-means, the best of several k-means++ starts.

    Raises:
        ShapeError: no keys, or fewer than clusters.
    """
    points = _points(keys, count)
    best, least = points[:count], float("inf")
    for _ in range(starts):
        centres = _spread(points, count, generator)
        for _ in range(iterations):
            labels = (points @ centres.t() - centres.square().sum(1) / 2).argmax(1)
            sums = points.new_zeros(centres.shape).index_add_(0, labels, points)
            sizes = labels.bincount(minlength=count)[:, None]
            moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)  # an empty cluster stays where it is
            if torch.equal(moved, centres):
                break
            centres = moved
        inertia = float((points.square().sum(1) - 2 * _best(points, centres)).sum())
        if inertia < least:
            best, least = centres, inertia
    return Clusters(best, -best.square().sum(1) / 2)


@full_precision
def transport_clusters(
    keys: Tensor,
    count: int = 7,
    *,
    epsilon: float = 0.05,
    rounds: int = 10,
    balance: float = 1.0,
    generator: torch.Generator | None = None,
) -> Clusters:
    """Clusters of keys (T, C, h, w) by balanced optimal transport: in turn, cells go to centres by `sinkhorn`, each
    centre with its share of the mass, and centres to the mean of their cells.

    Args:
        epsilon: of the transport; small ones make assignments sharp.
        balance: 1 gives every cluster the same share of cells, 0 the share that k-means gave it, which it starts from.

    Raises:
        ShapeError: as in `k_means`.
        ValueError: `balance` outside [0, 1].
    """
    if not 0 <= balance <= 1:
        raise ValueError(f"balance: expected 0 to 1, got {balance}")
    points = _points(keys, count)
    first = k_means(keys, count, starts=1, generator=generator)
    own = first.assign(keys).flatten().bincount(minlength=count) / len(points)
    shares = balance / count + (1 - balance) * own.to(points)
    shares = shares / shares.sum()
    centres = F.normalize(first.centres, dim=1)
    for step in range(rounds + 1):
        match = sinkhorn(
            points.t()[None], centres.t()[None], epsilon=epsilon, iterations=20, reference_mass=shares[None]
        )
        biases = epsilon * (match.g[0] + shares.clamp(min=1e-12).log())
        if step < rounds:
            centres = F.normalize(match.plan()[0].t() @ points, dim=1)
    return Clusters(centres, biases)


@dataclass(frozen=True)
class ObjectRule:
    """Which clusters are taken for objects. Shares are of 1, and means over frames."""

    least: float = 0.01
    most: float = 0.4
    """Of the frame's area."""
    border: float = 0.1
    """Of the frame's border: a cluster that covers so much of it is none."""
    objects: int = 2
    """At most, a clip."""


@dataclass(frozen=True)
class Candidate:
    """A cluster, its largest piece in each frame, and what speaks for it; shares are means over frames."""

    pieces: NDArray[np.bool_]
    """(T, h, w)."""
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

    def score(self, rule: ObjectRule) -> float:
        """How much it is an object: 0, or compact x solid x stable, the less the more of the border it covers."""
        if not rule.least <= self.area <= rule.most or self.border >= rule.border:
            return 0.0
        return self.compact * self.solid * self.stable * (1 - self.border / rule.border)


def candidates(clusters: Labels, count: int) -> list[Candidate]:
    """What `choose_objects` goes by, of each of `count` clusters of a clip: uint8 (T, h, w)."""
    edge = np.ones(clusters.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    found = []
    for cluster in range(count):
        masks = clusters == cluster
        pieces = np.stack([_largest_piece(mask) for mask in masks])
        stable = [_overlap(_centred(a), _centred(b)) for a, b in pairwise(pieces)] or [1.0]
        found.append(
            Candidate(
                pieces,
                area=float(pieces.mean()),
                border=float(pieces[:, edge].mean()),
                compact=float(np.mean(pieces.sum((1, 2)) / masks.sum((1, 2)).clip(1))),
                solid=float(np.mean([_solidity(piece) for piece in pieces])),
                stable=float(np.mean(stable)),
            )
        )
    return found


def choose_objects(clusters: Labels, count: int, rule: ObjectRule | None = None) -> Labels:
    """The objects of a clip's clusters, uint8 (T, h, w) to the same: 0 background, 1, 2, ... the best clusters.

    Compact, solid, temporally stable clusters off the frame's border, of middling area; of each, in each frame, the
    largest piece. A clip may have none.
    """
    rule = rule or ObjectRule()
    scored = [(one.score(rule), one) for one in candidates(clusters, count)]
    objects = np.zeros_like(clusters)
    best = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])
    for number, (_, one) in enumerate(best[: rule.objects], 1):
        objects[one.pieces] = number
    return objects


def snap_to_edges(frame: Frames, labels: Labels, *, radius: int = 8, softness: float = 1e-3) -> Labels:
    """Objects (H, W) moved to the edges of their frame (H, W, 3), by a guided filter of each mask.

    He et al., "Guided Image Filtering", ECCV 2010, with colour as the guide: inside windows the mask becomes a linear
    function of colour.

    Args:
        radius: of the windows, in pixels: about how far an edge can move.
        softness: the filter's epsilon, for colours in [0, 1]; small ones follow faint edges.
    """
    guide = frame.astype(np.float32) / 255
    size = (2 * radius + 1,) * 2

    def mean(values: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_REFLECT), np.float32)

    average = mean(guide)
    products = mean((guide[..., :, None] * guide[..., None, :]).reshape(*guide.shape[:2], 9)).reshape(*guide.shape, 3)
    spread = products - average[..., :, None] * average[..., None, :] + softness * np.eye(3, dtype=np.float32)
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


def _points(keys: Tensor, count: int) -> Tensor:
    """(cells, C) float32 of every EVERY-th frame."""
    if keys.ndim != 4:
        raise ShapeError(f"keys: expected (T, C, h, w), got {tuple(keys.shape)}")
    points = keys[::EVERY].detach().float().permute(0, 2, 3, 1).flatten(0, 2)
    if not 1 <= count <= len(points):
        raise ShapeError(f"count: expected 1 to {len(points)}, the cells of every {EVERY}th frame, got {count}")
    return points.contiguous()


def _spread(points: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """k-means++: each further centre is a point drawn by its squared distance from those that are there."""
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    squares = points.square().sum(1)
    distance = torch.full_like(squares, torch.inf)
    for _ in range(count - 1):
        centre = points[chosen[-1]]
        distance = torch.minimum(distance, (squares - 2 * points @ centre + centre @ centre).clamp(min=0))
        # On the CPU, where the generator is; all at one place leaves nothing to go by.
        weights = (distance + 1e-12).cpu()
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return points[chosen]


def _best(points: Tensor, centres: Tensor) -> Tensor:
    return (points @ centres.t() - centres.square().sum(1) / 2).amax(1)


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

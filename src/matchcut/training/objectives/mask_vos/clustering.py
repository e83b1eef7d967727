"""Clusters of a video's features, from which pseudo masks are made.

Mask-VOS (supplement, sections B and G): k-means over keys of every 8th frame, then every frame assigned; and what the
paper names as future work, clusters by optimal transport, each with its share of the cells (as Asano et al.,
"Self-labelling", ICLR 2020).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.data.footage import Footage, FrameReader
from matchcut.errors import ShapeError
from matchcut.masks import Frame
from matchcut.matching.base import full_precision
from matchcut.matching.transport import sinkhorn
from matchcut.training.views import to_images

CLUSTERS = 7
"""Of a video."""
EVERY = 8
"""Of so many frames one is clustered."""
STARTS, ITERATIONS = 3, 30
"""Of k-means."""
EPSILON, ROUNDS = 0.05, 10
"""Of clusters by transport: small epsilons make assignments sharp; rounds of assigning cells and moving centres."""


@dataclass(frozen=True)
class Clusters:
    """A linear classifier of keys: each belongs to the cluster with the largest `key . centre + bias`."""

    centres: Tensor
    """(k, C)."""
    biases: Tensor
    """(k,): minus half the squared length of a centre for k-means, what keeps the balance for transport."""

    @full_precision
    def assign(self, keys: Tensor, size: tuple[int, int]) -> Tensor:
        """The cluster of every pixel of frames of a size (H, W), int64 (T, H, W), by their keys (T, C, h, w).

        Scores, not labels, are enlarged, so that edges run smoothly.
        """
        scores = torch.einsum("tchw,kc->tkhw", keys.float(), self.centres) + self.biases[:, None, None]
        enlarged = (F.interpolate(one, size=size, mode="bicubic", align_corners=False) for one in scores.split(1))
        return torch.cat([one.argmax(1) for one in enlarged])


@full_precision
def k_means(points: Tensor, count: int, *, starts: int = STARTS) -> Clusters:
    """Clusters of keys (N, C) by Lloyd's k-means, the best of several k-means++ starts.

    Raises:
        ShapeError: fewer keys than clusters.
    """
    if not 1 <= count <= len(points):
        raise ShapeError(f"count: expected 1 to {len(points)}, the number of keys, got {count}")
    best, least = points[:count], float("inf")
    for _ in range(starts):
        centres = _k_means_plus_plus(points, count)
        for _ in range(ITERATIONS):
            labels = (points @ centres.t() - centres.square().sum(1) / 2).argmax(1)
            sums = points.new_zeros(centres.shape).index_add_(0, labels, points)
            sizes = labels.bincount(minlength=count)[:, None]
            moved = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)  # an empty cluster stays where it is
            if torch.equal(moved, centres):
                break
            centres = moved
        nearest = (points @ centres.t() - centres.square().sum(1) / 2).amax(1)
        inertia = float((points.square().sum(1) - 2 * nearest).sum())
        if inertia < least:
            best, least = centres, inertia
    return Clusters(best, -best.square().sum(1) / 2)


def _k_means_plus_plus(points: Tensor, count: int) -> Tensor:
    """First centres (count, C): each further one is a point drawn by its squared distance from those that are there."""
    chosen = [int(torch.randint(len(points), ()))]
    squares = points.square().sum(1)
    distance = torch.full_like(squares, torch.inf)
    for _ in range(count - 1):
        centre = points[chosen[-1]]
        distance = torch.minimum(distance, (squares - 2 * points @ centre + centre @ centre).clamp(min=0))
        # On the CPU, where the random numbers are; all at one place leaves nothing to go by.
        weights = (distance + 1e-12).cpu()
        chosen.append(int(torch.multinomial(weights, 1)))
    return points[chosen]


@full_precision
def transport_clusters(points: Tensor, count: int, *, epsilon: float = EPSILON) -> Clusters:
    """Clusters of keys (N, C) by balanced optimal transport: in turn, cells go to centres by `sinkhorn`, each centre
    with the same share of the mass, and centres to the mean of their cells.

    Raises:
        ShapeError: fewer keys than clusters.
    """
    centres = F.normalize(k_means(points, count, starts=1).centres, dim=1)
    shares = torch.full((1, count), 1 / count, device=points.device)
    for _ in range(ROUNDS):
        match = sinkhorn(points.t()[None], centres.t()[None], epsilon=epsilon, iterations=20, reference_mass=shares)
        centres = F.normalize(match.plan()[0].t() @ points, dim=1)
    match = sinkhorn(points.t()[None], centres.t()[None], epsilon=epsilon, iterations=20, reference_mass=shares)
    return Clusters(centres, epsilon * (match.g[0] + shares[0].log()))


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
    points = cells.t().contiguous()
    return transport_clusters(points, count) if transport else k_means(points, count)


@torch.no_grad()
def deep_keys(backbone: nn.Module, frames: Frame) -> Tensor:
    """(T, C, h, w) the deepest features of frames (T, H, W, 3), L2-normalised; float32."""
    device, training = next(backbone.parameters()).device, backbone.training
    maps: list[Tensor] = backbone.eval()(to_images(torch.from_numpy(frames).to(device)))
    backbone.train(training)
    return unit_keys(maps[-1])


def unit_keys(deepest: Tensor) -> Tensor:
    """The deepest features (T, C, h, w) L2-normalised; float32, without gradient."""
    return F.normalize(deepest.detach().float(), dim=1)

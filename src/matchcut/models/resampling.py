"""Feature maps and masks between grids: of the frame's size, of cells, of cells twice as fine."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.matching.base import full_precision


def finer(box: tuple[slice, slice]) -> tuple[slice, slice]:
    """A box in cells as a box on the grid that is twice as fine."""
    rows, columns = (slice(2 * one.start, 2 * one.stop) for one in box)
    return rows, columns


def enlarge(values: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """(B, C, h, w) bilinearly to a size; as they are where they have it."""
    if tuple(values.shape[2:]) == tuple(size):
        return values
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)


@full_precision
def halve(masks: Tensor) -> Tensor:
    """Soft masks (B, C, 2h, 2w) on cells twice as large, (B, C, h, w): what `enlarge` made of those becomes them again.

    A mean of four would blur what memory holds a little more with every frame, since after bilinear doubling it weighs
    neighbours by 1/8. These taps invert the doubling.
    """
    taps = masks.new_tensor([-0.25, 0.75, 0.75, -0.25])
    kernel = (taps[:, None] * taps).expand(masks.shape[1], 1, 4, 4)
    cells = F.conv2d(F.pad(masks, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=masks.shape[1])
    kept = cells.clamp(0, 1)  # crisp masks overshoot
    return kept * (cells.sum(1, keepdim=True).clamp(0, 1) / kept.sum(1, keepdim=True).clamp(min=1e-6))


def to_grid(values: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """(B, C, h, w) to a size: means where it is smaller, bilinear where it is larger."""
    if values.shape[2] > size[0]:
        return F.adaptive_avg_pool2d(values, (size[0], size[1]))
    return enlarge(values, size)


def join_maps(maps: list[Tensor], size: tuple[int, ...], weights: tuple[float, ...] | None = None) -> Tensor:
    """Feature maps on one grid, (B, C, h, w) float32, each normalised and weighted, so that all together have norm 1.

    Args:
        maps: (B, C', h', w') each.
        weights: of each; all alike where None.
    """
    weights, channels = weights or (1.0,) * len(maps), [one.shape[1] for one in maps]
    places: list[Tensor | None] = [None] * len(maps)
    if not any(one.requires_grad for one in maps):  # written where they belong, not joined by one more copy
        shape = len(maps[0]), sum(channels), *size
        joined = torch.empty(shape, device=maps[0].device, memory_format=torch.channels_last)
        places = list(joined.split(channels, 1))
    parts = []
    for weight, one, place in zip(weights, maps, places, strict=True):
        part = to_grid(one.float(), size)
        norm = torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp(min=1e-12)
        parts.append(torch.mul(part, weight / math.hypot(*weights) / norm, out=place))
    return torch.cat(parts, 1) if places[0] is None else joined

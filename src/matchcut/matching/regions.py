"""What masks are compared by: their boxes, the IoU of all pairs, and one vector of features a mask or a box.

DMM-Net (Zeng et al., ICCV 2019) matches proposals to templates by the cosine of such vectors and by IoU (Eq. 1). All of
it is a matrix product or a maximum over rows and columns, with no loop over masks.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.base import at_least_float32, full_precision, product

PIXELS = 16_384
"""Pixels of each mask that are held as float32 at once, on anything but a CPU."""
MASKS = 8
"""Whole masks that are held as float32 at once."""


def masks_to_boxes(masks: Tensor, threshold: float = 0.5) -> Tensor:
    """The tight box of each mask, as RoIAlign takes it: right and bottom are the first column and row beyond the mask.

    Args:
        masks: (..., H, W), bool, or numbers of which those above `threshold` are inside.
        threshold: not used for bool.

    Returns:
        (..., 4) float32, (x0, y0, x1, y1) in pixels, no gradient; zeros for an empty mask.

    Raises:
        ShapeError: the masks have no two axes.
    """
    if masks.ndim < 2:
        raise ShapeError(f"masks: expected (..., H, W), got {tuple(masks.shape)}")
    if 0 in masks.shape[-2:]:
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    whole = masks.dtype == torch.bool
    values = masks.view(torch.uint8) if whole else masks.detach()  # the maximum of bool is slow
    edges = []
    for axis in (-2, -1):
        inside = (values.amax(axis) > (0 if whole else threshold)).int()  # (..., W), then (..., H)
        first, beyond = inside.argmax(-1), inside.shape[-1] - inside.flip(-1).argmax(-1)  # argmax is the first
        edges.append(torch.stack((first, beyond), -1) * inside.amax(-1, keepdim=True))
    return torch.stack(edges, -1).flatten(-2).float()  # x0, y0, x1, y1


@full_precision
def soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each mask of `a` with each of `b`: sum(a b) / (sum(a) + sum(b) - sum(a b)).

    Differentiable in soft masks; for bool ones exact, by counting. It is 0 where both are empty: DMM-Net scores the
    empty masks that stand in for missing proposals by 0. (The measure J of DAVIS says 1 there, see `matchcut.metrics`.)

    Args:
        a: (B, N, H, W), bool, or floating-point in [0, 1].
        b: (B, M, H, W), as `a`.

    Returns:
        (B, N, M) in the dtype of the masks, float32 for bool; half precision is computed in float32, and autocast
        changes nothing.

    Raises:
        ShapeError: shapes or dtypes that do not fit together.
    """
    if a.ndim != 4 or (a.dtype != torch.bool and not a.is_floating_point()):
        raise ShapeError(f"a: expected bool or floating-point (B, N, H, W), got {a.dtype} {tuple(a.shape)}")
    if b.ndim != 4 or b.dtype != a.dtype or (b.shape[0], *b.shape[2:]) != (a.shape[0], *a.shape[2:]):
        raise ShapeError(
            f"b: expected {a.dtype} (B, M, H, W) with B = {a.shape[0]} and (H, W) = {tuple(a.shape[2:])}, "
            f"got {b.dtype} {tuple(b.shape)}"
        )
    dtype = torch.float32 if a.dtype == torch.bool else a.dtype
    if a.dtype == torch.bool:
        both, *areas = _counts(a.flatten(2), b.flatten(2))
    else:
        rows, columns = (one.flatten(2).to(at_least_float32(a)) for one in (a, b))
        areas = [rows.sum(2), columns.sum(2)]
        both = product(rows, columns.mT)
    either = areas[0][:, :, None] + areas[1][:, None] - both
    return (both / torch.where(either > 0, either, 1)).to(dtype)


@full_precision
def pool(features: Tensor, masks: Tensor) -> Tensor:
    """One vector a mask: the mean of the features, weighted by the mask's share of each cell.

    Differentiable in features and soft masks.

    Args:
        features: (B, C, h, w).
        masks: (B, N, H, W) of the same frame at any size, bool or floating-point.

    Returns:
        (B, N, C) in the dtype of the features, computed in float32 at least, also under autocast; zeros for an empty
        mask.

    Raises:
        ShapeError: shapes that do not fit together.
    """
    _check_features(features)
    if masks.ndim != 4 or masks.shape[0] != features.shape[0]:
        raise ShapeError(f"masks: expected (B, N, H, W) with B = {features.shape[0]}, got {tuple(masks.shape)}")
    dtype = at_least_float32(features)
    if masks.numel() == 0 or features.numel() == 0:
        return features.new_zeros(*masks.shape[:2], features.shape[1])
    size = (features.shape[2], features.shape[3])
    parts = [F.interpolate(part.to(dtype), size, mode="area") for part in masks.split(MASKS, dim=1)]
    weights = torch.cat(parts, 1).flatten(2)  # (B, N, h * w)
    total = weights.sum(2, keepdim=True)
    pooled = product(weights, features.to(dtype).flatten(2).mT) / torch.where(total > 0, total, 1)
    return pooled.to(features.dtype)


@full_precision
def pool_boxes(features: Tensor, boxes: Tensor, *, scale: float, bins: int = 14, samples: int = 2) -> Tensor:
    """One vector a box: `torchvision.ops.roi_align` (aligned), averaged over its bins (DMM-Net, supplement).

    RoIAlign reads the features at points on a grid that is the product of its rows and columns, by bilinear weights.
    So the mean over all is a weighted mean whose weights are a product too: one matrix product for all boxes.
    Differentiable in features and boxes.

    Args:
        features: (B, C, h, w).
        boxes: (B, N, 4), (x0, y0, x1, y1) in pixels of the frame, right and bottom exclusive.
        scale: cells a pixel: 1 / stride.
        bins: of RoIAlign, on each axis.
        samples: points a bin, on each axis.

    Returns:
        (B, N, C) in the dtype of the features, computed in float32 at least, also under autocast; zeros for a box
        without area.

    Raises:
        ShapeError: shapes that do not fit together.
        ValueError: a setting out of its range.
    """
    _check_features(features)
    if boxes.ndim != 3 or boxes.shape[0] != features.shape[0] or boxes.shape[2] != 4:
        raise ShapeError(f"boxes: expected (B, N, 4) with B = {features.shape[0]}, got {tuple(boxes.shape)}")
    if not scale > 0:
        raise ValueError(f"scale: expected above 0, got {scale}")
    if min(bins, samples) < 1:
        raise ValueError(f"bins, samples: expected at least 1, got {bins} and {samples}")
    dtype = at_least_float32(features)
    if features.numel() == 0:
        return features.new_zeros(*boxes.shape[:2], features.shape[1])
    corners = boxes.to(dtype) * scale - 0.5  # a cell's centre is its number
    rows = _axis_weights(corners[..., 1], corners[..., 3], features.shape[2], bins * samples)  # (B, N, h)
    columns = _axis_weights(corners[..., 0], corners[..., 2], features.shape[3], bins * samples)  # (B, N, w)
    weights = (rows[..., :, None] * columns[..., None, :]).flatten(2)  # (B, N, h * w)
    return product(weights, features.to(dtype).flatten(2).mT).to(features.dtype)


def _axis_weights(start: Tensor, end: Tensor, size: int, points: int) -> Tensor:
    """(B, N, size): mean of the linear weights of points spread over (B, N) spans; zeros for a span of no length."""
    steps = (torch.arange(points, dtype=start.dtype, device=start.device) + 0.5) / points
    places = start[..., None] + (end - start)[..., None] * steps  # (B, N, points)
    counted = (places >= -1) & (places <= size) & (end > start)[..., None]
    cells = torch.arange(size, device=start.device)
    weights = F.relu(1 - (places.clamp(0, size - 1)[..., None] - cells).abs())  # (B, N, points, size)
    return (weights * counted[..., None]).mean(2)


def _counts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels that bool masks (B, N, P) and (B, M, P) share, (B, N, M), and their own, (B, N) and (B, M): exact."""
    if a.device.type == "cpu":
        rows, columns = _packed(a), _packed(b)
        # Mask by mask: the words of all pairs would not fit the memory.
        shared = [_bits(rows[:, index, None] & columns) for index in range(a.shape[1])]
        both = torch.stack(shared, 1) if shared else torch.zeros(*a.shape[:2], b.shape[1])
        return both, _bits(rows), _bits(columns)
    frame = a.new_ones(len(a), 1, a.shape[2])
    a, b = torch.cat([a, frame], 1), torch.cat([b, frame], 1)
    both = torch.zeros(*a.shape[:2], b.shape[1], dtype=torch.int32, device=a.device)
    for one, other in zip(a.split(PIXELS, 2), b.split(PIXELS, 2), strict=True):
        both += (one.float() @ other.float().mT).int()  # float32 counts to 2^24 without rounding
    return both[:, :-1, :-1], both[:, :-1, -1], both[:, -1, :-1]


def _bits(words: npt.NDArray[np.uint64]) -> Tensor:
    """How many bits are set in the last axis."""
    return torch.from_numpy(np.bitwise_count(words).sum(-1, dtype=np.int64))


def _packed(masks: Tensor) -> npt.NDArray[np.uint64]:
    """(..., words): bool masks (..., P), 64 pixels a word."""
    packed = np.packbits(masks.numpy(), axis=-1)
    return np.pad(packed, [*[(0, 0)] * (packed.ndim - 1), (0, -packed.shape[-1] % 8)]).view(np.uint64)


def _check_features(features: Tensor) -> None:
    if features.ndim != 4 or not features.is_floating_point():
        raise ShapeError(
            f"features: expected floating-point (B, C, h, w), got {features.dtype} {tuple(features.shape)}"
        )

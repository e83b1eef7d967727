"""The losses of Mask-VOS, as pure functions: correspondence without labels, and segmentation on pseudo masks.

The paper names its correspondence terms only (short-term appearance consistency, long-term semantic dependency). The
forms are those of systems.md section 3: anchors after Araslanov et al., "Dense Unsupervised Learning for Video
Segmentation", NeurIPS 2021; colour after Lai et al., "MAST: A Memory-Augmented Self-Supervised Tracker", CVPR 2020.

Keys are (B, T, C, h, w), L2-normalised. All losses are in float32 and the mean over the batch of each item's own mean,
so that several processes have the loss of one with all their clips. A *place* (B, h, w, 2) says for each cell of the
first view where it lies in the second, as (x, y) in [-1, 1] from edge to edge; outside means that the second view does
not show it. It is the same for all frames of a clip.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.base import full_precision

TEMPERATURE = 0.05
SIDE = 8
"""Anchors of a clip on either axis, in the long-term loss."""
IGNORE = 255


class LongTerm(NamedTuple):
    """The two parts of the long-term loss: their weighted sum is what is trained on."""

    assignment: Tensor
    """Cross-entropy of each cell's assignment to anchors with that in the second view."""
    cross_view: Tensor
    """Cross-entropy of each anchor of the second view with its own place in the first."""


def anchor_cells(height: int, width: int, side: int) -> Tensor:
    """(side * side,) int64, the cells of a grid (h, w) that lie in the middle of side x side equal parts."""
    rows, columns = ((torch.arange(side) * 2 + 1) * size // (2 * side) for size in (height, width))
    return (rows[:, None] * width + columns).flatten()


def anchors_of(keys: Tensor, side: int = SIDE) -> Tensor:
    """(B, side * side, C) the anchors of clips (B, T, C, h, w): keys of their first frames on a grid."""
    rows = keys[:, 0].float().flatten(2).transpose(1, 2)
    return rows[:, anchor_cells(keys.shape[3], keys.shape[4], side).to(keys.device)]


@full_precision
def align(keys: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The second view's keys (B, T, C, h', w') brought to the first: keys (B, T, C, h, w), L2-normalised, and whether
    the second view shows each cell (B, h, w).

    Raises:
        ShapeError: shapes that do not fit together.
    """
    if keys.ndim != 5 or place.ndim != 4 or place.shape[0] != keys.shape[0] or place.shape[3] != 2:
        raise ShapeError(
            f"expected keys (B, T, C, h, w) and place (B, h, w, 2), got {tuple(keys.shape)} and {tuple(place.shape)}"
        )
    batch, frames = keys.shape[:2]
    grid = place.float().repeat_interleave(frames, 0)
    # Cells half outside are blended with what lies at the border, not with zeros.
    moved = F.grid_sample(keys.flatten(0, 1).float(), grid, padding_mode="border", align_corners=False)
    return F.normalize(moved, dim=1).unflatten(0, (batch, frames)), (place.abs() <= 1).all(3)


@full_precision
def long_term_loss(
    keys: Tensor,
    second: Tensor,
    place: Tensor,
    *,
    side: int = SIDE,
    temperature: float = TEMPERATURE,
    others: Tensor | None = None,
) -> LongTerm:
    """Cells of a clip fall to the anchors of its first frame as they do in a second, differently transformed view.

    Every cell of the clip's frames is assigned by softmax to the anchors (side x side a clip) of the whole batch; its
    pseudo label is the most similar of its own clip's anchors in the second view, without gradient. Anchors of other
    clips are what it must be told from, and keep keys from all becoming one.

    Args:
        keys: (B, T, C, h, w) of the first view; gradients flow here.
        second: (B, T, C, h', w') of the second.
        place: (B, h, w, 2), see the module.
        others: (M, C) anchors (`anchors_of`, of the same side) of clips that other processes hold, if any, so that
            several train as one.

    Raises:
        ShapeError: shapes that do not fit together.
    """
    other, seen = align(second, place)
    _check_views(keys, other)
    batch, _, _, height, width = keys.shape
    chosen = anchor_cells(height, width, side).to(keys.device)
    count = len(chosen)
    rows = keys.float().flatten(3).transpose(2, 3)  # (B, T, h * w, C)
    everyone = anchors_of(keys, side).flatten(0, 1)
    if others is not None:
        everyone = torch.cat([everyone, others.float()])
    seen_rows = seen.flatten(1)
    with torch.no_grad():
        twin = other.flatten(3).transpose(2, 3)
        scores = torch.einsum("btnc,bac->btna", twin, twin[:, 0, chosen])
        scores = scores.masked_fill(~seen_rows[:, chosen][:, None, None], -torch.inf)
        own = torch.arange(batch, device=keys.device)[:, None, None] * count
        labels = own + scores.argmax(3)  # (B, T, h * w)
        usable = seen_rows & seen_rows[:, chosen].any(1, keepdim=True)
        labels = labels.masked_fill(~usable[:, None], -100)
    assignment = _cross_entropy(rows @ everyone.t() / temperature, labels)
    # An anchor, as the second view sees it, is nearest to itself of all anchors.
    again = other[:, 0].flatten(2).transpose(1, 2)[:, chosen]
    itself = torch.arange(batch * count, device=keys.device).view(batch, count)
    cross_view = _cross_entropy(again @ everyone.t() / temperature, itself.masked_fill(~seen_rows[:, chosen], -100))
    return LongTerm(assignment, cross_view)


@full_precision
def short_term_loss(
    keys: Tensor, second: Tensor, place: Tensor, *, side: int = 16, temperature: float = TEMPERATURE
) -> Tensor:
    """The same between adjacent frames: each cell of a frame falls to the anchors of the frame before it as it does in
    the second view. Only that frame's own anchors count, more of them: what is told apart is places, not clips.

    Arguments and errors as in `long_term_loss`.
    """
    other, seen = align(second, place)
    _check_views(keys, other)
    height, width = keys.shape[3:]
    chosen = anchor_cells(height, width, side).to(keys.device)
    rows = keys.float().flatten(3).transpose(2, 3)
    seen_rows = seen.flatten(1)
    with torch.no_grad():
        twin = other.flatten(3).transpose(2, 3)
        scores = torch.einsum("btnc,btac->btna", twin[:, 1:], twin[:, :-1, chosen])
        scores = scores.masked_fill(~seen_rows[:, chosen][:, None, None], -torch.inf)
        usable = seen_rows & seen_rows[:, chosen].any(1, keepdim=True)
        labels = scores.argmax(3).masked_fill(~usable[:, None], -100)
    logits = torch.einsum("btnc,btac->btna", rows[:, 1:], rows[:, :-1, chosen]) / temperature
    return _cross_entropy(logits, labels)


@full_precision
def reconstruction_loss(
    keys: Tensor, colours: Tensor, levelled: Tensor | None = None, *, radius: int = 6, temperature: float = TEMPERATURE
) -> Tensor:
    """Each frame's colours made from those of the frame before it, by the match of their keys: a Huber loss.

    Each cell looks at the cells of the frame before within `radius` on either axis.

    Args:
        keys: (B, T, C, h, w) of frames in which one colour channel may have been levelled (`level_channel`).
        colours: (B, T, 3, H, W), Lab as `rgb_to_lab` gives it, of the frames as they are; H and W whole multiples of h
            and w. Their means over each cell are reconstructed.
        levelled: (B,) the channel that was levelled: only it counts, since the keys did not see it. None: all three.

    Raises:
        ShapeError: shapes that do not fit together.
    """
    batch, frames, _, height, width = keys.shape
    if colours.ndim != 5 or tuple(colours.shape[:3]) != (batch, frames, 3):
        raise ShapeError(f"colours: expected {(batch, frames, 3)} and two sides, got {tuple(colours.shape)}")
    target = F.adaptive_avg_pool2d(colours.float().flatten(0, 1), (height, width)).unflatten(0, (batch, frames))
    rows = keys.float().flatten(3).transpose(2, 3)
    wanted = target.flatten(3).transpose(2, 3)  # (B, T, h * w, 3)
    inside = _window(height, width, radius, keys.device)
    made = F.scaled_dot_product_attention(
        rows[:, 1:], rows[:, :-1], wanted[:, :-1], attn_mask=inside, scale=1 / temperature
    )
    error = F.smooth_l1_loss(made, wanted[:, 1:], reduction="none", beta=0.1).mean((1, 2))  # (B, 3)
    if levelled is None:
        return error.mean()
    return error.gather(1, levelled[:, None]).mean()


@full_precision
def level_channel(frames: Tensor, which: Tensor) -> Tensor:
    """Clips (B, T, 3, H, W), RGB in [0, 1], each with one channel of its Lab form, `which` (B,) int64, set to its mean
    over the clip.

    What a network cannot see it cannot copy: it must match by what the other channels show (MAST's channel dropout).
    """
    lab = rgb_to_lab(frames)
    chosen = F.one_hot(which, 3).bool()[:, None, :, None, None]
    level = lab.mean((1, 3, 4), keepdim=True)
    return lab_to_rgb(torch.where(chosen, level, lab)).clamp(0, 1)


# CIE Lab under D65, from linear sRGB.
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.950456, 1.0, 1.088754)


@full_precision
def rgb_to_lab(frames: Tensor) -> Tensor:
    """(..., 3, H, W) sRGB in [0, 1] to Lab, L / 50 - 1 and a, b / 110, so that each is about in [-1, 1]."""
    linear = torch.where(frames > 0.04045, ((frames.clamp(min=0) + 0.055) / 1.055) ** 2.4, frames / 12.92)
    xyz = _mix(
        linear, torch.tensor(_TO_XYZ, device=frames.device) / torch.tensor(_WHITE, device=frames.device)[:, None]
    )
    bent = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = bent.unbind(-3)
    return torch.stack([(116 * y - 16) / 50 - 1, 500 * (x - y) / 110, 200 * (y - z) / 110], -3)


@full_precision
def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours that sRGB cannot show fall outside [0, 1]."""
    lightness, a, b = lab.unbind(-3)
    y = ((lightness + 1) * 50 + 16) / 116
    bent = torch.stack([y + a * 110 / 500, y, y - b * 110 / 200], -3)
    xyz = torch.where(bent > 0.206893, bent**3, (bent - 16 / 116) / 7.787)
    mixed = torch.tensor(_TO_XYZ, device=lab.device) / torch.tensor(_WHITE, device=lab.device)[:, None]
    linear = _mix(xyz, torch.linalg.inv(mixed))
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055, 12.92 * linear)


EDGE = 2
"""Pixels so near to an edge of the labels, on either axis, count as on it."""


@full_precision
def segmentation_loss(logits: Tensor, labels: Tensor, *, edges: float = 0.0) -> Tensor:
    """Cross-entropy over {background, objects} (B, 1 + N, h, w), which are enlarged to the labels' size first.

    Args:
        labels: (B, H, W) of whole numbers: 0 background, 1 to N objects, 255 not counted.
        edges: how many times more than others the pixels at edges of the labels count, and so thin parts too.

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
    if edges == 0:
        return _cross_entropy(large.permute(0, 2, 3, 1), labels.long().masked_fill(~counted, -100))
    each = F.cross_entropy(large, labels.long().masked_fill(~counted, -100), reduction="none")
    numbers, side = labels[:, None].float(), 2 * EDGE + 1
    spread = F.max_pool2d(numbers, side, 1, EDGE) + F.max_pool2d(-numbers, side, 1, EDGE)
    weights = (1 + edges * (spread[:, 0] > 0)) * counted
    return ((each * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1)).mean()


@full_precision
def overlap_loss(logits: Tensor, labels: Tensor) -> Tensor:
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


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of each item's mean over what is labelled (-100 is not), or 0 where nothing is."""
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(len(labels), -1)
    return (each.sum(1) / (labels != -100).flatten(1).sum(1).clamp(min=1)).mean()


def _mix(channels: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,...jhw->...ihw", matrix.to(channels.dtype), channels)


def _window(height: int, width: int, radius: int, device: torch.device) -> Tensor:
    """(h * w, h * w) bool: the cells of the frame before that a cell looks at."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    near = [(one.flatten()[:, None] - one.flatten()).abs() <= radius for one in (y, x)]
    return near[0] & near[1]


def _check_views(keys: Tensor, aligned: Tensor) -> None:
    if keys.shape != aligned.shape:
        raise ShapeError(
            f"keys: expected {tuple(aligned.shape)} as the second view has at the places given, got {tuple(keys.shape)}"
        )

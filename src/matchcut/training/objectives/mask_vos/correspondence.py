"""The correspondence losses of Mask-VOS: long-term and short-term assignment of cells to anchors, without labels.

The paper names them only (short-term appearance consistency, long-term semantic dependency). The forms are those of
Araslanov et al., "Dense Unsupervised Learning for Video Segmentation", NeurIPS 2021.

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
from matchcut.training.losses import UNLABELLED, cross_entropy

TEMPERATURE = 0.05
SIDE = 8
"""Anchors of a clip on either axis, in the long-term loss."""


class LongTerm(NamedTuple):
    """The two parts of the long-term loss."""

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
    keys: Tensor, second: Tensor, place: Tensor, *, side: int = SIDE, others: Tensor | None = None
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
    rows, twin, seen, chosen = _cells(keys, second, place, side)
    batch, count = len(keys), len(chosen)
    everyone = anchors_of(keys, side).flatten(0, 1)
    if others is not None:
        everyone = torch.cat([everyone, others.float()])
    labels, usable = _nearest_anchors(twin, twin[:, :1, chosen], seen, chosen)
    own = torch.arange(batch, device=keys.device)[:, None] * count  # where a clip's anchors begin among everyone's
    labels = (own[:, None] + labels).masked_fill(~usable, UNLABELLED)
    assignment = cross_entropy(rows @ everyone.t() / TEMPERATURE, labels)
    # An anchor, as the second view sees it, is nearest to itself of all anchors.
    itself = (own + torch.arange(count, device=keys.device)).masked_fill(~seen[:, chosen], UNLABELLED)
    return LongTerm(assignment, cross_entropy(twin[:, 0, chosen] @ everyone.t() / TEMPERATURE, itself))


@full_precision
def short_term_loss(keys: Tensor, second: Tensor, place: Tensor, *, side: int = 16) -> Tensor:
    """The same between adjacent frames: each cell of a frame falls to the anchors of the frame before it as it does in
    the second view. Only that frame's own anchors count, more of them: what is told apart is places, not clips.

    Arguments and errors as in `long_term_loss`.
    """
    rows, twin, seen, chosen = _cells(keys, second, place, side)
    labels, usable = _nearest_anchors(twin[:, 1:], twin[:, :-1, chosen], seen, chosen)
    logits = torch.einsum("btnc,btac->btna", rows[:, 1:], rows[:, :-1, chosen]) / TEMPERATURE
    return cross_entropy(logits, labels.masked_fill(~usable, UNLABELLED))


def _cells(keys: Tensor, second: Tensor, place: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys of both views at the same places (B, T, h * w, C), which of these the second shows (B, h * w), and the cells
    of the anchors."""
    other, seen = align(second, place)
    if keys.shape != other.shape:
        raise ShapeError(
            f"keys: expected {tuple(other.shape)} as the second view has at the places given, got {tuple(keys.shape)}"
        )
    chosen = anchor_cells(keys.shape[3], keys.shape[4], side).to(keys.device)
    rows, twin = (one.float().flatten(3).transpose(2, 3) for one in (keys, other))
    return rows, twin, seen.flatten(1), chosen


@torch.no_grad()
def _nearest_anchors(cells: Tensor, anchors: Tensor, seen: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar of the anchors (B, 1 or T, A, C) that are seen for each cell (B, T, h * w, C): (B, T, h * w),
    and for which cells it counts (B, 1, h * w)."""
    scores = torch.einsum("btnc,btac->btna", cells, anchors.expand(-1, cells.shape[1], -1, -1))
    scores = scores.masked_fill(~seen[:, chosen][:, None, None], -torch.inf)
    return scores.argmax(3), (seen & seen[:, chosen].any(1, keepdim=True))[:, None]

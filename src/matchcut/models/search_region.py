"""Where objects can be: most of a frame is background that needs no look."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

PRESENT, FAINT, SHRUNK = 0.5, 0.1, 0.3
"""An object is in the context if its soft mask reaches the first; cells are its own above the second. One that shrank
to less than the third of its annotated area may have left, and what is there be something else."""
FOLLOWED, RECENT = 2, 3
"""Objects are looked for so many times as far as they moved between the last frames; of so many."""
UNKNOWN, FARTHEST, WIDEST = 11, 24, 20
"""In cells: how far they are looked for where there are no such frames yet, and at most; and how far windows reach."""
STEPS = 10
"""Cells that an object may have moved: what is more counts as so many."""
MOST = 0.98
"""Share of an object's cells that say how far it moved: the others may be crumbs."""


def near_objects(references: Sequence[tuple[Tensor, bool]], reach: int | None) -> Tensor | None:
    """(B, h, w) bool: the cells within `reach` cells, on either axis, of an object in the context; None for all cells.

    All of them where there is no context, and once an object was nowhere, or shrank much: it is looked for everywhere.

    Args:
        references: of each its soft masks (B, 1 + N, h, w), and whether it is annotated; the context's oldest first.
    """
    context = [cells[:, 1:] for cells, annotated in references if not annotated]
    if reach is None or not context or context[0].shape[1] == 0:
        return None
    latest = torch.stack(context).amax(0)  # (B, N, h, w)
    if latest.flatten(2).amax(2).min() < PRESENT:
        return None
    areas = [cells[:, 1:].sum((2, 3)) for cells, annotated in references if annotated]
    first = torch.stack(areas).amax(0) if areas else context[-1].new_zeros(())
    if (context[-1].sum((2, 3)) < SHRUNK * first).any():
        return None
    seen = (latest.amax(1, keepdim=True) > FAINT).float()
    return _dilated(seen, reach)[:, 0] > 0


def where_to_look(references: Sequence[tuple[Tensor, bool]], least: int | None) -> tuple[Tensor | None, int]:
    """The cells (B, h, w) of the next frame that are near where objects were, as `near_objects` gives them, and the
    reach of the windows over the last frames that goes with that; 0 where all cells are looked at.

    Near is `least` cells, and FOLLOWED times as many as any object moved between the last frames.

    Args:
        references: as of `near_objects`; a frame that stands in for others is the same tensor.
        least: None for all cells.
    """
    context = [cells for cells, annotated in references if not annotated]
    if least is None or not context or context[0].shape[1] == 1:
        return None, 0
    moved = [_movement(old[:, 1:], new[:, 1:]) for old, new in pairwise(context[-RECENT:]) if old is not new]
    reach = min(least + FOLLOWED * max(moved), FARTHEST) if moved else max(least, UNKNOWN)
    where = near_objects(references, reach)
    return where, 0 if where is None else min(reach, WIDEST)


def _movement(old: Tensor, new: Tensor) -> int:
    """How many cells larger soft masks (B, N, h, w) must be, on all sides, to hold those of a later frame."""
    grown, now = (old > FAINT).float(), (new > PRESENT).float()
    needed = MOST * now.sum((2, 3))
    for step in range(STEPS):
        if ((now * grown).sum((2, 3)) >= needed).all():
            return step
        grown = _dilated(grown, 1)
    return STEPS


def _dilated(masks: Tensor, reach: int) -> Tensor:
    """(B, N, h, w) the largest within `reach` cells, on either axis."""
    columns = F.max_pool2d(masks, (2 * reach + 1, 1), 1, (reach, 0))  # a square is a column of rows
    return F.max_pool2d(columns, (1, 2 * reach + 1), 1, (0, reach))


def boxes_of(soft_masks: Tensor, margin: int | None, faint: float = 0.05) -> list[tuple[slice, slice] | None]:
    """The box, in cells, of each object of soft masks (B, 1 + N, h, w), and `margin` cells around it.

    None for an object that is nowhere; the whole grid where `margin` is None. One box holds for all items of the batch.
    """
    height, width = soft_masks.shape[2:]
    boxes: list[tuple[slice, slice] | None] = []
    for seen in (soft_masks[:, 1:] > faint).any(0).cpu():
        if margin is None:
            boxes.append((slice(0, height), slice(0, width)))
            continue
        spans = []
        for side, size in ((seen.any(1), height), (seen.any(0), width)):
            at = side.nonzero()
            if len(at):
                spans.append(slice(max(int(at[0]) - margin, 0), min(int(at[-1]) + 1 + margin, size)))
        boxes.append((spans[0], spans[1]) if spans else None)
    return boxes

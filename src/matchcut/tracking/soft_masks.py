"""From soft masks to label maps, and how sure they are."""

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.masks import LabelMap
from matchcut.tracking.edge_pixels import EdgePixels
from matchcut.tracking.enlarging import FAINT, guided_enlarge, shrink

Frame = NDArray[np.uint8]
Enlarge = Literal["linear", "cubic", "guided"]
"""How soft masks come to the size of the frame. "guided": along its edges, see `matchcut.tracking.enlarging`."""


def to_labels(
    soft: NDArray[np.float32],
    ids: list[int],
    size: tuple[int, int],
    enlarge: Enlarge = "cubic",
    stretch: bool = False,
    frame: Frame | None = None,
    pixels: EdgePixels | None = None,
    weight: float = 0.0,
) -> LabelMap:
    """The label map (H, W) of soft masks (1 + N, h, w): each enlarged, the largest wins. Memory grows with H x W only.

    Cubic enlargement keeps corners and thin parts that a linear one rounds off. `stretch` brings each enlarged mask to
    [0, 1] first (DINO). "guided" needs the frame (H, W, 3); without it, it is cubic. There, `weight` times what
    `pixels` say at edges counts in the log odds of object and background.
    """
    if enlarge == "guided" and frame is not None:
        return _guided_labels(soft, ids, frame, pixels, weight)
    how = cv2.INTER_LINEAR if enlarge == "linear" else cv2.INTER_CUBIC

    def enlarged(mask: NDArray[np.float32]) -> NDArray[Any]:
        result = cv2.resize(mask, size[::-1], interpolation=how)
        if stretch and result.max() > 0:
            result = (result - result.min()) / (result.max() - result.min() + 1e-12)
        return result

    best = np.maximum(enlarged(soft[0]), 0)  # cubic enlargement undershoots: nothing must win against less than nothing
    labels = np.zeros(size, np.uint8)
    for one, mask in zip(ids, soft[1:], strict=True):
        if mask.any():
            candidate = enlarged(mask)
            labels[candidate > best] = one
            np.maximum(best, candidate, out=best)
    return labels


def _guided_labels(
    soft: NDArray[np.float32], ids: list[int], frame: Frame, pixels: EdgePixels | None, weight: float
) -> LabelMap:
    """All objects together are told from the background along the frame's edges; which of them it is, by the largest
    cubic mask: between objects that look alike, colour would lead astray."""
    size = (frame.shape[0], frame.shape[1])
    labels = np.zeros(size, np.uint8)
    objects = soft[1:].sum(0)
    small = shrink(frame, objects.shape)
    found = guided_enlarge(objects, frame, small)
    if found is None:
        return labels
    box, region = found
    known = cv2.resize(soft.sum(0), size[::-1], interpolation=cv2.INTER_LINEAR)[box]
    rest = np.maximum(known - region, FAINT)  # the filter is linear: what is left is the background's
    inside = region > rest
    if pixels is not None and weight > 0:
        inside = pixels.added_to(region, rest, weight, frame, box, objects, small)
    if len(ids) == 1:
        labels[box] = np.where(inside, ids[0], 0)
        return labels
    best, which = np.full(region.shape, -np.inf, np.float32), np.zeros(region.shape, np.uint8)
    for one, mask in zip(ids, soft[1:], strict=True):
        if mask.any():
            large = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_CUBIC)[box]
            which[large > best] = one
            np.maximum(best, large, out=best)
    labels[box] = np.where(inside, which, 0)
    return labels


def confidence_of(soft: NDArray[np.float32], ids: list[int]) -> dict[int, float]:
    """How sure each object's mask is, 0 to 1: its mean probability where it is, weighted by that probability.

    An object that is nowhere counts by how surely it is absent.
    """
    result = {}
    for one, mask in zip(ids, soft[1:], strict=True):
        mass = float(mask.sum())
        sure = float((mask * mask).sum()) / mass if mass > 0.5 else 1.0 - float(mask.max(initial=0.0))
        result[one] = round(min(max(sure, 0.0), 1.0), 4)
    return result

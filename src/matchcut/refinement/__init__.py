"""Refinement: from soft masks on a model's grid to the label map of a frame at its own size, and how sure it is.

`linear`, `cubic` and `guided` are ready-made for `GuidedModel.refine`. Memory grows with the frame only, not with the
number of objects.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.masks import Frame, LabelMap
from matchcut.refinement.edge_classifier import EdgeClassifier
from matchcut.refinement.upsampling import FAINT, guided_upsample, shrink

Soft = NDArray[np.float32]
"""(1 + N, h, w) soft masks, background first."""
Refined = tuple[LabelMap, dict[int, float]]
"""The label map of a frame (H, W), and how sure each object is, 0 to 1."""


def linear(soft: Soft, ids: Sequence[int], image: Frame, *, stretch: bool = False) -> Refined:
    """Soft masks enlarged linearly to the size of the frame; the largest wins.

    Args:
        stretch: bring each enlarged mask to [0, 1] first, as DINO's evaluation does.
    """
    return _largest(soft, ids, image, cv2.INTER_LINEAR, stretch), confidence_of(soft, ids)


def cubic(soft: Soft, ids: Sequence[int], image: Frame, *, stretch: bool = False) -> Refined:
    """As `linear`, enlarged by cubic interpolation, which keeps corners and thin parts that a linear one rounds off."""
    return _largest(soft, ids, image, cv2.INTER_CUBIC, stretch), confidence_of(soft, ids)


def guided(
    soft: Soft, ids: Sequence[int], image: Frame, *, edges: EdgeClassifier | None = None, weight: float = 0.0
) -> Refined:
    """Soft masks enlarged along the edges of the frame, by the guided filter (`matchcut.refinement.upsampling`).

    All objects together are told from the background; which of them it is, the largest cubic mask says: between objects
    that look alike, colour would lead astray.

    Args:
        edges: a classifier of pixels at edges, learned on the annotated frames; `weight` times its log odds are added.
    """
    confidence, size = confidence_of(soft, ids), (image.shape[0], image.shape[1])
    labels = np.zeros(size, np.uint8)
    objects = soft[1:].sum(0)
    small = shrink(image, objects.shape)
    found = guided_upsample(objects, image, small)
    if found is None:
        return labels, confidence
    box, region = found
    known = cv2.resize(soft.sum(0), size[::-1], interpolation=cv2.INTER_LINEAR)[box]
    rest = np.maximum(known - region, FAINT)  # the filter is linear: what is left is the background's
    inside = region > rest
    if edges is not None and weight > 0:
        inside = edges.added_to(region, rest, weight, image, box, objects, small)
    if len(ids) == 1:
        labels[box] = np.where(inside, ids[0], 0)
        return labels, confidence
    best, which = np.full(region.shape, -np.inf, np.float32), np.zeros(region.shape, np.uint8)
    for one, mask in zip(ids, soft[1:], strict=True):
        if mask.any():
            large = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_CUBIC)[box]
            which[large > best] = one
            np.maximum(best, large, out=best)
    labels[box] = np.where(inside, which, 0)
    return labels, confidence


def confidence_of(soft: Soft, ids: Sequence[int]) -> dict[int, float]:
    """How sure each object's mask is, 0 to 1: its mean probability where it is, weighted by that probability.

    An object that is nowhere counts by how surely it is absent.
    """
    result = {}
    for one, mask in zip(ids, soft[1:], strict=True):
        mass = float(mask.sum())
        sure = float((mask * mask).sum()) / mass if mass > 0.5 else 1.0 - float(mask.max(initial=0.0))
        result[one] = round(min(max(sure, 0.0), 1.0), 4)
    return result


def _largest(soft: Soft, ids: Sequence[int], image: Frame, interpolation: int, stretch: bool) -> LabelMap:
    size = (image.shape[0], image.shape[1])

    def enlarged(mask: NDArray[np.float32]) -> NDArray[Any]:
        result = cv2.resize(mask, size[::-1], interpolation=interpolation)
        if stretch and result.max() > 0:
            result = (result - result.min()) / (result.max() - result.min() + 1e-12)
        return result

    best = np.maximum(
        enlarged(soft[0]), 0
    )  # cubic interpolation undershoots: nothing must win against less than nothing
    labels = np.zeros(size, np.uint8)
    for one, mask in zip(ids, soft[1:], strict=True):
        if mask.any():
            candidate = enlarged(mask)
            labels[candidate > best] = one
            np.maximum(best, candidate, out=best)
    return labels

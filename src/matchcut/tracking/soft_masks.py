"""From soft masks to label maps, and how sure they are."""

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.masks import LabelMap

Enlarge = Literal["linear", "cubic"]


def to_labels(
    soft: NDArray[np.float32],
    ids: list[int],
    size: tuple[int, int],
    enlarge: Enlarge = "cubic",
    stretch: bool = False,
) -> LabelMap:
    """The label map (H, W) of soft masks (1 + N, h, w): each enlarged, the largest wins. Memory grows with H x W only.

    Cubic enlargement keeps corners and thin parts that a linear one rounds off. `stretch` brings each enlarged mask to
    [0, 1] first (DINO).
    """
    how = cv2.INTER_CUBIC if enlarge == "cubic" else cv2.INTER_LINEAR

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

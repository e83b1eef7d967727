"""What colours say, pixel by pixel: whether they were the objects' or their surroundings' in the annotated frames.

Cells of features see badly what is thinner than they are; annotated frames are exact to the pixel, and their colours
tell some of it. Histograms as in Boykov and Jolly, "Interactive Graph Cuts", ICCV 2001, of annotated frames
alone: those that follow what was found confirm its mistakes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.masks import IGNORE, Frame, LabelMap

BITS = 5
"""Of each channel."""
SURROUNDINGS = 0.135
"""How far they reach, as a share of the frame's height."""
LIMIT = 3.0
"""No colour speaks louder, in log odds."""
RARE = 1e-6
"""Share of the pixels that every colour is taken to have."""


@dataclass(frozen=True)
class Colours:
    """How often each colour comes in an annotated frame: (2 ** BITS,) * 3 float32 each, that sum to 1."""

    inside: NDArray[np.float32]
    """Of all objects together."""
    outside: NDArray[np.float32]
    """Of their surroundings."""


def colours_of(frame: Frame, labels: LabelMap, ids: Sequence[int]) -> Colours | None:
    """The colours of an annotated frame (H, W, 3), of whose objects those in `ids` count; None where there is none of
    them, or nothing else. Ignored pixels (255) are neither."""
    objects = np.isin(labels, ids)
    if not objects.any():
        return None
    distance = cv2.distanceTransform((~objects).astype(np.uint8), cv2.DIST_C, 3)  # in pixels, the larger of both axes
    around = ~objects & (labels != IGNORE) & (distance <= round(SURROUNDINGS * len(frame)))
    if not around.any():
        return None
    numbers = _numbers(frame)
    return Colours(_shares(numbers[objects]), _shares(numbers[around]))


def log_odds_of(seen: Iterable[Colours]) -> NDArray[np.float32] | None:
    """Of each colour (8 ** BITS,), how much more often it is inside than outside; None where nothing was seen."""
    seen = list(seen)
    if not seen:
        return None
    inside, outside = (np.mean([getattr(one, side) for one in seen], 0) for side in ("inside", "outside"))
    return np.asarray(np.log((inside + RARE) / (outside + RARE)).clip(-LIMIT, LIMIT).ravel(), np.float32)


def look_up(log_odds: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """What `log_odds_of` says of each pixel of a frame (H, W, 3): (H, W), smoothed by a pixel."""
    said = np.take(log_odds, _numbers(frame), mode="clip")  # all are inside; to look whether they are takes as long
    return np.asarray(cv2.GaussianBlur(said, (0, 0), 1), np.float32)


def _numbers(frame: Frame) -> NDArray[Any]:
    """(H, W) of each pixel's colour."""
    red, green, blue = (one.astype(np.uint16) >> (8 - BITS) for one in cv2.split(frame))
    return (red << (2 * BITS)) | (green << BITS) | blue


def _shares(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """Of each colour; what is next to it counts too."""
    smooth: Any = np.bincount(numbers, minlength=1 << (3 * BITS)).astype(np.float32)
    for _ in range(3):  # along one channel after the other
        along = smooth.reshape(1 << BITS, -1)
        smooth = cv2.GaussianBlur(along, (1, 9), 1, borderType=cv2.BORDER_REFLECT).T.copy()
    return np.asarray(smooth.reshape((1 << BITS,) * 3) / smooth.sum(), np.float32)

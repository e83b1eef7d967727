"""Masks as COCO run lengths. pycocotools is imported where it is used."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from matchcut.errors import MaskError
from matchcut.masks.labels import LabelMap, check_ids, check_labels


class Rle(TypedDict):
    """One binary mask as COCO run lengths: `size` is [H, W], `counts` the compressed string (or a list of runs)."""

    size: list[int]
    counts: str | list[int]


def encode_rle(labels: LabelMap, ids: Sequence[int]) -> dict[int, Rle]:
    """Each object as COCO compressed run lengths, `counts` a string ready for JSON; an absent object has no pixels."""
    from pycocotools import mask as coco

    check_labels(labels)
    check_ids(ids)
    packed = [coco.encode(np.asfortranarray(labels == number, np.uint8))["counts"].decode("ascii") for number in ids]
    return {number: Rle(size=list(labels.shape), counts=text) for number, text in zip(ids, packed, strict=True)}


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """The mask, bool (H, W), of COCO run lengths, compressed or not; MaskError if they do not add up to H x W.

    Unpacked here, since pycocotools returns unset memory for runs that do not fill the mask.
    """
    (height, width), counts = rle["size"], rle["counts"]
    runs = _runs(counts) if isinstance(counts, str) else counts
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise MaskError(f"damaged run lengths: they do not fill a mask of {height}x{width} (H x W) pixels")
    values = np.arange(len(runs)) % 2 == 1  # the runs alternate, from background
    return np.repeat(values, runs).reshape((height, width), order="F")


def _runs(counts: str) -> list[int]:
    """Unpack COCO's string: 5 bits a character, the 6th says more follow; from the 4th on, differences two back."""
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in counts):
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift  # a negative number
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs

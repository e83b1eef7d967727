"""Masks as COCO run lengths. pycocotools is imported where it is used."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from matchcut.masks.labels import LabelMap, check_ids, check_labels


class Rle(TypedDict):
    """One binary mask as COCO run lengths: `size` is [H, W], `counts` the compressed string."""

    size: list[int]
    counts: str


def encode_rle(labels: LabelMap, ids: Sequence[int]) -> dict[int, Rle]:
    """Each object as COCO compressed run lengths, `counts` a string ready for JSON; an absent object has no pixels."""
    from pycocotools import mask as coco

    check_labels(labels)
    check_ids(ids)
    packed = [coco.encode(np.asfortranarray(labels == number, np.uint8))["counts"].decode("ascii") for number in ids]
    return {number: Rle(size=list(labels.shape), counts=text) for number, text in zip(ids, packed, strict=True)}

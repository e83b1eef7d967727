"""Detecting pictures that are no label maps: anti-aliasing, lossy compression, dithering, soft mattes, photos.

Every picture here is uint8 (H, W, C). OpenCV is imported where it is used.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Of the edge pixels of true DAVIS annotations at most 2 % are stray (7 % at 60 lines); of resized or blurred copies,
# and copies once stored as JPEG (quality up to 95), at least 18 %; of photos at least 60 %.
_STRAY_SHARE = 0.12
# Of the edge pixels of true DAVIS annotations at most 30 % stand loose, of dithered masks at least 86 %.
_LOOSE_SHARE = 0.6
# A lossy codec of good quality leaves copies of a value: some units off, and far rarer.
_NEAR, _RARER, _APART = 4, 16, 32
# Of the steps between neighbouring pixels of wide blurs at least 86 % are small, of cells numbered by rows half.
_SMALL_STEP, _SMALL_SHARE, _MANY = 4, 0.7, 32


@dataclass(frozen=True)
class Edges:
    """The edge pixels of a picture: those that are not the centre of a 3x3 block of their own value.

    Attributes:
        total: how many there are.
        loose: how many of them lie in no such block at all.
        stray: how many of the loose ones have both a lower and a higher value around them, as a blend of two regions.
    """

    total: int
    loose: int
    stray: int

    @classmethod
    def of(cls, pixels: Pixels) -> "Edges":
        """The edge pixels of a picture."""
        import cv2

        pixels = np.ascontiguousarray(pixels)
        kernel = np.ones((3, 3), np.uint8)
        lowest = cv2.erode(pixels, kernel).reshape(pixels.shape)
        highest = cv2.dilate(pixels, kernel).reshape(pixels.shape)
        interior = (lowest == highest).all(axis=2)  # what an erosion of each value's region leaves
        loose = cv2.dilate(interior.view(np.uint8), kernel) == 0
        between = ((lowest < pixels) & (pixels < highest)).any(axis=2)
        return cls(int((~interior).sum()), int(loose.sum()), int((between & loose).sum()))

    @property
    def blended(self) -> bool:
        """Whether edges are blends of what they part, as in an anti-aliased mask or a photo.

        More than 12 % of the edge pixels are stray then; true objects, however small, have such pixels only where three
        regions meet.
        """
        return self.stray > _STRAY_SHARE * max(1, self.total)

    @property
    def dithered(self) -> bool:
        """Whether most edge pixels are loose: speckles in place of a colour that lacked."""
        return self.loose > _LOOSE_SHARE * max(1, self.total)


def has_near_copies(values: NDArray[np.integer], counts: NDArray[np.integer]) -> bool:
    """Whether most values are rare copies of frequent ones that differ by a few units: what lossy compression leaves.

    Args:
        values: the distinct values, (N, C).
        counts: how many pixels have each, (N,).
    """
    order = np.argsort(-counts, kind="stable")[:256]
    values, counts = values[order].astype(np.int64), counts[order]
    near = np.abs(values[:, None] - values[None]).max(axis=2) <= _NEAR
    copied = near & (counts[None] >= _RARER * counts[:, None])  # (copy, original)
    originals, copies = copied.any(axis=0), copied.any(axis=1)
    if originals.sum() < 2 or 2 * copies.sum() < len(values) - originals.sum():
        return False
    found = values[originals]
    return bool((found.max(axis=0) - found.min(axis=0)).max() >= _APART)


def is_ramp(grey: Pixels) -> bool:
    """Whether a grey picture (H, W) of many values changes by small steps nearly everywhere, as a wide blur does."""
    if len(np.unique(grey)) <= _MANY:
        return False
    signed = grey.astype(np.int16)
    steps = [np.abs(np.diff(signed, axis=axis)) for axis in (0, 1)]
    some = sum(int((step > 0).sum()) for step in steps)
    small = sum(int(((step > 0) & (step <= _SMALL_STEP)).sum()) for step in steps)
    return small > _SMALL_SHARE * some


def is_large_area(inside: NDArray[np.bool_]) -> bool:
    """Whether a region (H, W) is anywhere thicker than a border is drawn: 1/40 of the short side, at least 7 pixels."""
    import cv2

    side = max(7, min(inside.shape) // 40)
    kernel = np.ones((side, side), np.uint8)
    # Beyond the picture counts as outside, so that a border along its edge stays a border.
    return bool(cv2.erode(inside.view(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).any())

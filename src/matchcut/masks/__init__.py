"""Label maps: reading any common mask file, writing palette PNGs, and the small operations on them.

A *label map* is uint8 (H, W): 0 is background, 1 to 254 are objects, 255 is ignored. `size` is always (H, W).
Every function that takes one raises ShapeError for any other array. Pillow, OpenCV and pycocotools are imported where
they are used, so that importing this package stays cheap.
"""

from matchcut.masks.files import decode_png, encode_png, write_mask
from matchcut.masks.labels import (
    BACKGROUND,
    IGNORE,
    MAX_OBJECTS,
    Frame,
    LabelMap,
    check_mask,
    davis_palette,
    object_ids,
    one_hot,
    resize_labels,
    tight_boxes,
)
from matchcut.masks.reading import MaskReader, read_mask, read_masks
from matchcut.masks.rle import Rle, encode_rle

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "MAX_OBJECTS",
    "Frame",
    "LabelMap",
    "MaskReader",
    "Rle",
    "check_mask",
    "davis_palette",
    "decode_png",
    "encode_png",
    "encode_rle",
    "object_ids",
    "one_hot",
    "read_mask",
    "read_masks",
    "resize_labels",
    "tight_boxes",
    "write_mask",
]

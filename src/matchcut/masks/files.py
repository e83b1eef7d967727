"""Label maps as files and bytes: palette PNGs with the DAVIS palette. Pillow is imported where it is used."""

import io
import os
import zlib

import numpy as np

from matchcut.errors import MaskError
from matchcut.files import atomic_path
from matchcut.masks.decoding import reading
from matchcut.masks.labels import LabelMap, check_labels, davis_palette


def write_mask(path: str | os.PathLike[str], labels: LabelMap) -> None:
    """Write a label map (H, W) as a palette PNG, in one step: a reader sees all of the file or none.

    `read_mask` gives it back as it was, but for a map of nothing other than 0 and 255, which it takes as binary.
    Raises OutputError if the folder cannot be written to or no space is left.
    """
    data = encode_png(labels)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def encode_png(labels: LabelMap) -> bytes:
    """A label map (H, W) as the bytes of a palette PNG with the DAVIS palette."""
    from PIL import Image

    check_labels(labels)
    image = Image.fromarray(np.ascontiguousarray(labels))
    image.putpalette(davis_palette().tobytes())  # makes it mode P
    buffer = io.BytesIO()
    # Runs alone, at the lowest level: as fast as any other setting, and label maps come out half the size.
    image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def decode_png(data: bytes) -> LabelMap:
    """The label map (H, W) that `encode_png` packed, every id as it was; MaskError if `data` is something else."""
    with reading(io.BytesIO(data), "PNG data") as image:
        if image.mode != "P":
            raise MaskError(f"PNG data: a palette image is expected, this one has mode {image.mode}")
        return np.array(image, np.uint8)

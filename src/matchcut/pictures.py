"""Images of any bit depth: their values as stored, and the conversion of a whole clip to 8 bits.

8, 16 and 32 bits with or without a sign, 12 bits in 16, one bit, either order of bytes, in whatever container Pillow or
OpenCV reads. Both are imported where they are used.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Values = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ValueRange:
    """The lowest and the highest value of the pictures of a clip."""

    low: int
    high: int

    @classmethod
    def of(cls, values: Values) -> "ValueRange":
        """The range of one picture."""
        return cls(int(values.min()), int(values.max()))

    def union(self, other: "ValueRange") -> "ValueRange":
        """The range of both."""
        return ValueRange(min(self.low, other.low), max(self.high, other.high))

    @property
    def bits(self) -> int:
        """The bits that the values need, at least 8; values below 0 are counted from the lowest."""
        return max(8, (self.high - min(self.low, 0)).bit_length())

    def to_8_bits(self, values: Values) -> NDArray[np.uint8]:
        """Values of this range by their upper 8 bits, uint8: 12 bits of 16 by 16, and what fits 8 bits as it is.

        The same for every picture of the clip, so that its brightness does not jump. What lies outside is clipped.
        """
        lowest = min(self.low, 0)
        raised = np.clip(values, lowest, self.high).astype(np.int64) - lowest
        return (raised >> (self.bits - 8)).astype(np.uint8)


def open_picture(source: str | os.PathLike[str] | io.BytesIO) -> "Image":
    """Open a picture as `PIL.Image.open` does, and also the TIFFs that Pillow does not know but OpenCV does: 64 bits,
    or 32 without a sign in the other order of bytes. Those come as 32 bits.

    Raises:
        PIL.UnidentifiedImageError, OSError and others of Pillow: not a picture, or it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(source)
    except UnidentifiedImageError:
        data = source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes()
        if (image := _wide_tiff(data)) is None:
            raise
        return image


def is_deep(image: "Image") -> bool:
    """Whether an open picture has more than 8 bits a channel, so that Pillow's conversion to RGB would be wrong.

    Asked before its pixels are loaded.
    """
    return image.mode[0] in "IF" or _deep_colour(image)


def stored_values(image: "Image") -> Values:
    """The values that an open picture's file holds: (H, W) of grey, of a palette's indices or of one bit (0 and 1);
    (H, W, C) of colours, RGB or RGBA.

    Called before its pixels are loaded. A deep grey one comes as uint16 or int32, a PGM in its own scale (up to its
    `maxval`), deep colours as uint16; the rest is uint8.

    Raises:
        ValueError: the values are floating-point numbers.
        OSError and others of Pillow: the file is damaged.
    """
    if image.mode == "F":
        raise ValueError("it holds floating-point values, which have no fixed range")
    if _deep_colour(image) and (colours := _deep_colours(image)) is not None:
        return colours
    top = _pgm_top(image)
    values: Values = np.asarray(image)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if top is not None:
        full = 255 if image.mode == "L" else 65535
        return ((values.astype(np.int64) * top + full // 2) // full).astype(values.dtype)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _wide_tiff(data: bytes) -> "Image | None":
    """A grey TIFF of 32 or 64 bits as OpenCV reads it; None for all else, also where values do not fit 32 bits."""
    import cv2
    from PIL import Image

    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.ndim != 2 or not values.size:
        return None
    if values.dtype.kind == "f":
        return Image.fromarray(values.astype(np.float32))
    limits = np.iinfo(np.int32)
    fits = limits.min <= values.min() and values.max() <= limits.max
    return Image.fromarray(values.astype(np.int32)) if fits else None


def _deep_colour(image: "Image") -> bool:
    """Whether an open picture's file holds 16 bits a channel, of which Pillow would keep the upper 8."""
    _, args = _decoder(image)
    return any(";16" in str(one) for one in args) and image.mode[0] != "I"


def _deep_colours(image: "Image") -> Values | None:
    """The colours, uint16 (H, W, 3 or 4), by OpenCV; None where it cannot read them."""
    import cv2

    file: Any = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    data = np.frombuffer(file.read(), np.uint8)
    file.seek(place)
    page = image.tell()
    try:
        read, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED, range=(page, page + 1))
    except cv2.error:
        return None
    if not read or pages[0].dtype != np.uint16 or pages[0].shape[:2] != image.size[::-1] or pages[0].ndim != 3:
        return None
    order = cv2.COLOR_BGRA2RGBA if pages[0].shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(pages[0], order), np.uint16)


def _pgm_top(image: "Image") -> int | None:
    """The `maxval` of a grey PPM or PGM where Pillow would scale the values by it."""
    name, args = _decoder(image)
    scaled = (
        name in ("ppm", "ppm_plain") and image.mode in ("L", "I") and len(args) == 2 and args[1] not in (255, 65535)
    )
    return int(args[1]) if scaled else None


def _decoder(image: Any) -> tuple[str, tuple[Any, ...]]:
    """The decoder that Pillow will use for an open picture, and what it is told; nothing for one made from an array."""
    tile = getattr(image, "tile", None)
    if not tile:
        return "", ()
    args = tile[0].args
    return tile[0].codec_name, args if isinstance(args, tuple) else (args,)

"""Label maps: reading any common mask file, writing palette PNGs, and the small operations on them.

A *label map* is uint8 (H, W): 0 is background, 1 to 254 are objects, 255 is ignored. `size` is always (H, W).
Every function that takes one raises ShapeError for any other array. Pillow, OpenCV and pycocotools are imported where
they are used, so that importing this module stays cheap.
"""

import io
import logging
import os
import zlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from matchcut.errors import MaskError, ShapeError
from matchcut.files import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image

LabelMap = NDArray[np.uint8]
BACKGROUND = 0
IGNORE = 255
MAX_OBJECTS = 254

# Of the edge pixels of true DAVIS annotations at most 2 % are stray (7 % at 60 lines); of resized or blurred copies,
# and copies once stored as JPEG (quality up to 95), at least 18 %; of photos at least 60 %.
_STRAY_SHARE = 0.12
# Ids 1..N without a gap are a label map, however tangled, if N is small: no anti-aliasing leaves just those values.
_GAPLESS_IDS = 32

_log = logging.getLogger("matchcut")


class Rle(TypedDict):
    """One binary mask as COCO run lengths: `size` is [H, W], `counts` the compressed string (or a list of runs)."""

    size: list[int]
    counts: str | list[int]


def davis_palette() -> NDArray[np.uint8]:
    """The VOC and DAVIS palette, uint8 (256, 3) RGB: the bits of an id, dealt out to R, G and B from the top."""
    ids = np.arange(256)
    channels = [sum(((ids >> (3 * i + c)) & 1) << (7 - i) for i in range(3)) for c in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def read_mask(path: str | os.PathLike[str], *, threshold: float | None = None) -> LabelMap:
    """Read a mask file as a label map, uint8 (H, W), at the file's own size.

    Palette images and grey ones (8 or 16 bits) hold ids, 255 meaning ignore; a mask of 0 and 255 only, 0 and 1 only,
    or one bit a pixel has the one object 1. In an RGB(A) image each colour but black is an object (transparent pixels
    are background): colours of the DAVIS palette have their ids there, others are numbered 1, 2, ... in sorted order,
    and the log (`matchcut`, INFO) says which colour got which id. An RGB image of greys is read as a grey one.

    An anti-aliased mask or a photo is refused. A pixel is stray if it lies in no 3x3 block of its own value (its
    region there is a thin edge, without interior) and has both a lower and a higher value around it, as a blend of
    two regions has. The image is refused if more than 12 % of its edge pixels are stray; true objects, however
    small, have such pixels only where three regions meet.

    With `threshold`, in [0, 1], the image becomes grey / 255 (or its alpha, if that varies) and the pixels at or above
    it become object 1; nothing is refused then for its values.

    Raises MaskError: no such file, not an image, damaged, anti-aliased or a photo, an id over 255, over 254 objects.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise MaskError(f"threshold must lie between 0 and 1, not {threshold}")
    image = _open(path)
    if threshold is not None:
        return (_grey(image) >= threshold).astype(np.uint8)
    if image.mode == "P":
        greys = image.getpalette() == np.repeat(np.arange(256), 3).tolist()  # a grey image saved with a palette
        return _from_ids(np.array(image), path, lossy=False, check=greys)
    lossy = image.format in ("JPEG", "MPO")
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        return _from_ids(np.array(image), path, lossy=lossy)
    rgba = np.array(image.convert("RGBA"))
    rgba[rgba[..., 3] == 0] = 0
    red, green, blue = rgba[..., 0], rgba[..., 1], rgba[..., 2]
    if _stray_share(rgba) > _STRAY_SHARE:
        raise _not_a_mask(path, "its edges are blends of colours, as in an anti-aliased mask or a photo")
    packed = (red.astype(np.int32) << 16) | (green.astype(np.int32) << 8) | blue  # (H, W), sorts as (R, G, B) does
    colours = np.unique(packed)
    known = _palette_ids()
    in_palette = all(int(colour) in known for colour in colours)
    if not in_palette and np.array_equal(red, green) and np.array_equal(red, blue):
        return _from_ids(red, path, lossy=lossy)
    if lossy:
        raise _not_a_mask(path, "JPEG changes colours, so they cannot be told apart as objects")
    objects = [int(colour) for colour in colours if colour != 0]
    if len(objects) > MAX_OBJECTS + in_palette:  # the palette holds the colour of 255 too
        raise _not_a_mask(path, f"it has {len(objects)} colours, and a label map holds {MAX_OBJECTS} objects")
    ids = {colour: known[colour] if in_palette else number for number, colour in enumerate(objects, 1)}
    named = ", ".join(f"({c >> 16}, {c >> 8 & 255}, {c & 255}) = {ids[c]}" for c in objects)
    _log.info("%s: colours read as objects: %s", path, named or "none")
    lookup = np.array([ids.get(int(colour), BACKGROUND) for colour in colours], np.uint8)
    return np.asarray(lookup[np.searchsorted(colours, packed)], np.uint8)


def check_mask(labels: LabelMap, size: tuple[int, int], where: str) -> None:
    """Raise MaskError unless a label map (H, W) is of `size` and holds an object; `where` opens the message."""
    _check(labels)
    if labels.shape != tuple(size):
        height, width = labels.shape
        frames = f"the frames are {size[1]}x{size[0]}"
        raise MaskError(f"{where}: the mask is {width}x{height} but {frames}: give a mask of the frames' own size")
    if not object_ids(labels):
        raise MaskError(f"{where}: the mask holds no object: mark at least one pixel with an id from 1 to 254")


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

    _check(labels)
    image = Image.fromarray(np.ascontiguousarray(labels))
    image.putpalette(davis_palette().tobytes())  # makes it mode P
    buffer = io.BytesIO()
    # Runs alone, at the lowest level: as fast as any other setting, and label maps come out half the size.
    image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def decode_png(data: bytes) -> LabelMap:
    """The label map (H, W) that `encode_png` packed, every id as it was; MaskError if `data` is something else."""
    image = _open(io.BytesIO(data), "PNG data")
    if image.mode != "P":
        raise MaskError(f"PNG data: a palette image is expected, this one has mode {image.mode}")
    return np.array(image, np.uint8)


def object_ids(labels: LabelMap) -> list[int]:
    """The ids of the objects in a label map (H, W), ascending, without 0 and 255."""
    return [value for value in _values(labels) if value not in (BACKGROUND, IGNORE)]


def one_hot(labels: LabelMap, ids: Sequence[int]) -> NDArray[np.float32]:
    """One channel a class, float32 (1 + N, H, W) of 0 and 1: the background, then `ids` in the order given.

    An object that is not in `ids` counts as background. An ignored pixel (255) is 0 in every channel. Raises
    ShapeError unless the ids are distinct and from 1 to 254.
    """
    _check(labels)
    _check_ids(ids)
    channels = np.empty((1 + len(ids), *labels.shape), np.float32)
    for channel, number in zip(channels[1:], ids, strict=True):
        np.equal(labels, number, out=channel)
    channels[0] = (labels != IGNORE) - channels[1:].sum(axis=0)
    return channels


def from_soft(soft: NDArray[np.floating[Any]], ids: Sequence[int]) -> LabelMap:
    """The label map (H, W) of the strongest class a pixel, from scores (1 + N, H, W): the background, then `ids`.

    Equal scores go to the earlier channel, so pixels that are 0 in every channel become background. Raises ShapeError
    unless there are 1 + N channels and the ids are distinct and from 1 to 254.
    """
    _check_ids(ids)
    if soft.ndim != 3 or soft.shape[0] != 1 + len(ids):
        raise ShapeError(f"expected scores of shape ({1 + len(ids)}, H, W) for {len(ids)} objects, got {soft.shape}")
    labels = np.zeros(soft.shape[1:], np.uint8)
    best = soft[0]
    for scores, number in zip(soft[1:], ids, strict=True):
        labels[scores > best] = number
        best = np.maximum(best, scores)
    return labels


def resize_labels(labels: LabelMap, size: tuple[int, int]) -> LabelMap:
    """Resize a label map (H, W) to `size` (H, W) without inventing an id.

    Where an axis shrinks, a pixel takes the value (0 and 255 included) that covers most of its area, the lowest of
    equals; where an axis grows, the nearest one. Raises ShapeError for a side below 1.
    """
    import cv2

    _check(labels)
    height, width = size
    if height < 1 or width < 1:
        raise ShapeError(f"cannot resize a label map to {size}: both sides must be at least 1")
    labels = np.ascontiguousarray(labels)
    small = (min(height, labels.shape[0]), min(width, labels.shape[1]))
    if labels.shape != small:
        covered = np.full(small, 1e-6, np.float32)  # the largest share of each pixel so far
        result = np.zeros(small, np.uint8)
        for value in _values(labels):
            share = cv2.resize((labels == value).astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA)
            better = share > covered + 1e-6  # the margin takes rounding, so that ties stay ties
            result[better] = value
            covered[better] = share[better]
        labels = result
    if labels.shape != (height, width):
        return np.asarray(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return labels.copy()


def boxes(labels: LabelMap, ids: Sequence[int]) -> dict[int, tuple[int, int, int, int]]:
    """The tight box (x0, y0, x1, y1) of each object, in pixels, x1 and y1 exclusive; absent objects are left out."""
    import cv2

    _check(labels)
    _check_ids(ids)
    corners = {number: cv2.boundingRect((labels == number).view(np.uint8)) for number in ids}
    return {number: (x, y, x + width, y + height) for number, (x, y, width, height) in corners.items() if width}


def encode_rle(labels: LabelMap, ids: Sequence[int]) -> dict[int, Rle]:
    """Each object as COCO compressed run lengths, `counts` a string ready for JSON; an absent object has no pixels."""
    from pycocotools import mask as coco

    _check(labels)
    _check_ids(ids)
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


def _open(source: str | os.PathLike[str] | io.BytesIO, name: str | None = None) -> "Image":
    """The image, with its pixels loaded; MaskError, one line, for anything that keeps it from being read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as image:
            image.load()
        if image.mode == "F":
            raise ValueError("it holds floating-point values")
        return image
    except UnidentifiedImageError:
        raise MaskError(f"{name or source}: not an image file that can be read") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or f"damaged or of no known form ({' '.join(str(error).split())})"
        raise MaskError(f"{name or source}: cannot read the mask: {reason}") from error


def _grey(image: "Image") -> NDArray[np.float64]:
    """Alpha, where it varies, or else luminance, float (H, W) in [0, 1]."""
    if image.mode.startswith("I"):
        wide = np.array(image)
        return np.asarray(wide / (255 if wide.max() <= 255 else 65535), np.float64)
    alpha = np.array(image.convert("RGBA"))[..., 3]
    grey = alpha if alpha.min() != alpha.max() else np.array(image.convert("RGB").convert("L"))
    return np.asarray(grey / 255, np.float64)


def _from_ids(pixels: NDArray[Any], path: str | os.PathLike[str], *, lossy: bool, check: bool = True) -> LabelMap:
    """The label map of an image (H, W) whose values are ids; `check` looks for anti-aliasing."""
    if _is_binary(pixels):
        return np.asarray(pixels != 0, np.uint8)
    if pixels.max() > IGNORE or pixels.min() < 0:
        raise _not_a_mask(path, f"its values reach {pixels.max()}, and ids are 1 to {MAX_OBJECTS} (255 is ignored)")
    labels = np.asarray(pixels, np.uint8)
    if lossy:
        raise _not_a_mask(path, "JPEG changes grey values, so they cannot be ids")
    ids = object_ids(labels)
    gapless = len(ids) <= _GAPLESS_IDS and ids == list(range(1, len(ids) + 1))
    if check and not gapless and _stray_share(labels[..., None]) > _STRAY_SHARE:
        raise _not_a_mask(path, f"{len(ids)} grey values, most at edges, as in an anti-aliased mask or a photo")
    return labels


def _is_binary(pixels: NDArray[Any]) -> bool:
    """Whether the values are 0 and 1, or 0 and the type's full white, and nothing else."""
    top = pixels.max()
    return top in (0, 1, 255, 65535) and bool(((pixels == 0) | (pixels == top)).all())


def _stray_share(pixels: NDArray[np.uint8]) -> float:
    """The share of the edge pixels of an image (H, W, C) that are stray, as `read_mask` defines it."""
    import cv2

    pixels = np.ascontiguousarray(pixels)
    kernel = np.ones((3, 3), np.uint8)
    lowest = cv2.erode(pixels, kernel).reshape(pixels.shape)
    highest = cv2.dilate(pixels, kernel).reshape(pixels.shape)
    interior = (lowest == highest).all(axis=2)  # (H, W), what an erosion of each value's region leaves
    solid = cv2.dilate(interior.view(np.uint8), kernel) > 0
    between = ((lowest < pixels) & (pixels < highest)).any(axis=2)
    return int((between & ~solid).sum()) / max(1, int((~interior).sum()))


def _not_a_mask(path: str | os.PathLike[str], reason: str) -> MaskError:
    return MaskError(f"{path}: not a label map: {reason}: give --threshold 0.5 to binarise it")


def _values(labels: LabelMap) -> list[int]:
    """The values present, ascending."""
    import cv2

    _check(labels)
    counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256])
    return [int(value) for value in np.flatnonzero(counts)]


@cache
def _palette_ids() -> dict[int, int]:
    """The id of each palette colour, packed as 0xRRGGBB."""
    return {int.from_bytes(colour.tobytes()): number for number, colour in enumerate(davis_palette())}


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


def _check(labels: LabelMap) -> None:
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise ShapeError(f"expected a label map, uint8 (H, W), got {labels.dtype} {labels.shape}")


def _check_ids(ids: Sequence[int]) -> None:
    if len(set(ids)) != len(ids) or not all(0 < number < IGNORE for number in ids):
        raise ShapeError(f"expected distinct ids from 1 to {MAX_OBJECTS}, got {list(ids)}")

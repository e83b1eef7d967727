"""Decoding one mask file: its pixels and their colours, not yet mapped to object ids."""

import io
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matchcut.errors import MaskError
from matchcut.masks.blends import Edges, has_near_copies, is_large_area, is_ramp
from matchcut.masks.labels import BACKGROUND, IGNORE, MAX_OBJECTS, LabelMap, davis_palette, object_ids, values_of
from matchcut.pictures import ValueRange, is_deep, open_picture, stored_values

if TYPE_CHECKING:
    from PIL.Image import Image

AnyPath = str | os.PathLike[str]

# Ids 1..N without a gap are a label map, however tangled, if N is small: no anti-aliasing leaves just those values.
_GAPLESS_IDS = 32
_DARKEST = 32  # greys up to this one are ids: nobody could tell them apart as colours
_BLACK, _WHITE = 0, 0xFFFFFF


@dataclass(frozen=True)
class MaskFile:
    """A decoded mask file.

    Attributes:
        path: of the file.
        pixels: uint8 (H, W): the ids that the file holds, or the places of its colours in sorted order.
        colours: the colour of each value of `pixels`, packed as 0xRRGGBB; transparent is black.
        coloured: whether pixels are places of colours, not ids.
        white: whether 255 (of grey) fills an area too large for a border.
    """

    path: str
    pixels: LabelMap
    colours: dict[int, int]
    coloured: bool
    white: bool = False

    @property
    def greys(self) -> dict[int, int]:
        """The value of each pixel value as a grey; only for ids, and colours that are all grey."""
        return {one: colour & 255 if self.coloured else one for one, colour in self.colours.items()}

    @property
    def all_grey(self) -> bool:
        """Whether all its colours are greys."""
        return all(_is_grey(colour) for colour in self.colours.values())


def decode(path: AnyPath) -> MaskFile:
    """Decode a mask file, and refuse what cannot be a label map whatever else its sequence holds.

    Raises MaskError: no such file, not an image, damaged, several pages, anti-aliased, lossy, dithered, a photo, an id
    over 255, over 254 colours.
    """
    with reading(path) as image:
        palette = _palette(image) if image.mode == "P" else None
        lossy = _lossy(image, path)
        grey = image.mode in ("1", "L") or image.mode[0] == "I"
        values = stored_values(image) if grey or palette is not None or is_deep(image) else None
        if values is None:
            values = np.array(image.convert("RGBA"))
    if palette is not None:
        return _of_palette(path, values.astype(np.uint8), palette)
    if grey:
        return _of_greys(path, _ids(path, values), lossy)
    if values.max() > 255:
        values = values >> 8
    rgba = np.full((*values.shape[:2], 4), 255, np.uint8)
    rgba[..., : values.shape[2]] = values
    return _of_colours(path, rgba, lossy)


def decode_binary(path: AnyPath, threshold: float) -> LabelMap:
    """A mask file as object 1, where its alpha, if that varies, or else its grey is at least a threshold in [0, 1].

    Raises MaskError: no such file, not an image, damaged, several pages.
    """
    with reading(path) as image:
        if image.mode[0] == "I":
            if image.format == "PPM":  # Pillow has scaled it by its maxval
                return np.asarray(np.asarray(image) >= threshold * 65535, np.uint8)
            values = stored_values(image)
            bits = ValueRange.of(values).bits
            top = (1 << bits + bits % 2) - 1  # cameras have 8, 10, 12, 14 or 16
            return np.asarray(values >= threshold * top, np.uint8)
        alpha = np.array(image.convert("RGBA"))[..., 3]
        grey = alpha if alpha.min() != alpha.max() else np.array(image.convert("RGB").convert("L"))
        return np.asarray(grey / 255 >= threshold, np.uint8)


@contextmanager
def reading(source: AnyPath | io.BytesIO, name: str | None = None) -> Iterator["Image"]:
    """An open image, to be read inside the block; MaskError, one line, for anything that keeps it from being read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_picture(source) as image:
            pages = getattr(image, "n_frames", 1)
            if pages > 1 and image.format != "MPO":  # a JPEG with its preview
                raise MaskError(f"{name or source}: holds {pages} pages or frames, and a mask is one: save them apart")
            if image.mode == "F":
                what = "holds floating-point values, and a mask whole numbers"
                raise MaskError(f"{name or source}: {what}: save it with 8 bits")
            yield image
    except UnidentifiedImageError:
        raise MaskError(f"{name or source}: not an image file that can be read") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or f"damaged or of no known form ({' '.join(str(error).split())})"
        raise MaskError(f"{name or source}: cannot read the mask: {reason}") from error


@cache
def davis_ids() -> dict[int, int]:
    """The id of each colour of the DAVIS palette, packed as 0xRRGGBB."""
    return {int.from_bytes(colour.tobytes()): number for number, colour in enumerate(davis_palette())}


def refusal(path: AnyPath, reason: str) -> MaskError:
    """The error of a file that is no label map, with the way out."""
    return MaskError(f"{path}: not a label map: {reason}: give --threshold 0.5 to binarise it")


# --- palettes


def _palette(image: "Image") -> NDArray[np.uint8]:
    """The colours of a palette image, uint8 (N, 4) RGBA, transparent entries as transparent black."""
    image.load()  # which brings the transparency
    colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    alpha = np.full(len(colours), 255, np.uint8)
    transparency = image.info.get("transparency")
    if isinstance(transparency, bytes):
        given = np.frombuffer(transparency, np.uint8)[: len(alpha)]
        alpha[: len(given)] = given
    elif isinstance(transparency, int) and transparency < len(alpha):
        alpha[transparency] = 0
    colours[alpha == 0] = 0
    return np.column_stack([colours, alpha])


def _of_palette(path: AnyPath, pixels: LabelMap, palette: NDArray[np.uint8]) -> MaskFile:
    """A palette image: its entries are the ids, unless its colours show that they were put in another order."""
    lookup = np.zeros((256, 4), np.uint8)
    lookup[: len(palette)] = palette
    used = values_of(pixels)
    colours = {one: _pack(lookup[one]) for one in used}
    if all(colour == one * 0x010101 for one, colour in colours.items()):
        return _of_greys(path, pixels, None)  # a grey image saved with a palette
    if _reordered(colours, {_pack(one) for one in palette}):
        return _of_colours(path, lookup[pixels], None)
    known = davis_ids()
    if any(known.get(colour) != one for one, colour in colours.items()):
        _refuse_blends(path, lookup[pixels])
    return MaskFile(str(path), pixels, colours, coloured=False)


def _reordered(colours: dict[int, int], palette: set[int]) -> bool:
    """Whether a palette's entries were put in another order than that of the ids, as optimisers of PNG do.

    Black, the background, is another entry than 0; or the colours are those of DAVIS; or greys so dark that they must
    be ids themselves.

    Args:
        colours: the colour of each entry in use.
        palette: all colours that the palette has.
    """
    known = davis_ids()
    if colours.get(0) != _BLACK and _BLACK in colours.values():
        return True
    if all(_is_grey(colour) for colour in colours.values()):
        return 0 < max((colour & 255 for colour in colours.values() if colour != _WHITE), default=0) <= _DARKEST
    return palette <= known.keys() and any(known[colour] != one for one, colour in colours.items())


# --- greys


def _ids(path: AnyPath, values: NDArray[np.integer[Any]]) -> LabelMap:
    """The values of a grey image as uint8; full white of 16 bits, beside 0 only, as 255."""
    if values.max() == 65535 and ((values == 0) | (values == 65535)).all():
        return np.where(values == 0, np.uint8(BACKGROUND), np.uint8(IGNORE))
    if values.max() > IGNORE or values.min() < 0:
        reach = values.max() if values.max() > IGNORE else values.min()
        raise refusal(path, f"its values reach {reach}, and ids are 1 to {MAX_OBJECTS} (255 is ignored)")
    return values.astype(np.uint8)


def _of_greys(path: AnyPath, pixels: LabelMap, lossy: str | None) -> MaskFile:
    """A grey image, whose values are ids."""
    used = values_of(pixels)
    white = IGNORE in used and is_large_area(pixels == IGNORE)
    if not is_binary(used):
        if lossy:
            raise refusal(path, f"{lossy} changes grey values, so they cannot be ids")
        ids = object_ids(pixels)
        gapless = len(ids) <= _GAPLESS_IDS and ids == list(range(1, len(ids) + 1))
        counts = np.bincount(pixels.ravel(), minlength=256)[used]
        if not gapless and (Edges.of(pixels[..., None]).blended or is_ramp(pixels)):
            raise refusal(path, f"{len(ids)} grey values, most at edges, as in an anti-aliased mask or a photo")
        if not gapless and has_near_copies(np.array(used)[:, None], counts):
            raise refusal(path, f"{len(ids)} grey values, most of them near-copies of others, as lossy files have")
    return MaskFile(str(path), pixels, {one: one * 0x010101 for one in used}, coloured=False, white=white)


def is_binary(values: Iterable[int]) -> bool:
    """Whether the values of an image are 0 and 1, or 0 and 255, and nothing else."""
    values = set(values)
    return values <= {0, 1} or values <= {0, IGNORE}


# --- colours


def _of_colours(path: AnyPath, rgba: NDArray[np.uint8], lossy: str | None) -> MaskFile:
    """An image of colours (H, W, 4), whose alpha makes transparent pixels black."""
    rgba[rgba[..., 3] == 0] = 0
    wide = rgba.astype(np.int32)
    packed = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]  # (H, W), sorts as (R, G, B) does
    colours, counts = np.unique(packed, return_counts=True)
    known = davis_ids()
    in_palette = all(int(colour) in known for colour in colours)
    white = bool((colours == _WHITE).any()) and is_large_area(packed == _WHITE)
    if not in_palette and all(_is_grey(int(colour)) for colour in colours):
        if not is_binary([int(one) & 255 for one in colours]) and Edges.of(rgba).blended:
            raise refusal(path, "its edges are blends of greys, as in an anti-aliased mask or a photo")
        _of_greys(path, np.ascontiguousarray(rgba[..., 0]), lossy)
    else:
        _refuse_blends(path, rgba)
        if lossy and colours.any():
            raise refusal(path, f"{lossy} changes colours, so they cannot be told apart as objects")
        if not in_palette and has_near_copies((colours[:, None] >> np.array([16, 8, 0])) & 255, counts):
            raise refusal(path, f"{len(colours)} colours, most of them near-copies of others, as lossy files have")
        objects = int((colours != _BLACK).sum())
        if objects > MAX_OBJECTS + in_palette:  # the palette holds the colour of 255 too
            raise refusal(path, f"it has {objects} colours, and a label map holds {MAX_OBJECTS} objects")
    places = np.searchsorted(colours, packed).astype(np.uint8)
    return MaskFile(str(path), places, {at: int(one) for at, one in enumerate(colours)}, coloured=True, white=white)


def _refuse_blends(path: AnyPath, rgba: NDArray[np.uint8]) -> None:
    edges = Edges.of(rgba)
    if edges.blended:
        raise refusal(path, "its edges are blends of colours, as in an anti-aliased mask or a photo")
    if edges.dithered:
        raise refusal(path, "its areas are speckles of several colours, as in a dithered picture")


def _pack(colour: NDArray[np.uint8]) -> int:
    return int.from_bytes(colour[:3].tobytes())


def _is_grey(colour: int) -> bool:
    return colour == (colour & 255) * 0x010101


def _lossy(image: "Image", path: AnyPath) -> str | None:
    """The name of the lossy codec that an image is stored with."""
    if image.format in ("JPEG", "MPO", "AVIF"):
        return "AVIF" if image.format == "AVIF" else "JPEG"
    if image.format == "WEBP" and b"VP8L" not in Path(path).read_bytes():  # the mark of the lossless codec
        return "lossy WebP"
    return None

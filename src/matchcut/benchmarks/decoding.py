"""Reading truths and predictions fast, and saying what is wrong with a prediction.

Most of the time of scoring is decoding. Pillow's way is taken, but for the commonest file of all, the 8-bit PNG without
row filters that Pillow itself writes of a palette image: its rows are the inflated bytes.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from matchcut.data.sequence import Form, Sequence, read_file, read_truth
from matchcut.errors import MaskError
from matchcut.masks import LabelMap, MaskReader
from matchcut.video.images import UNREADABLE

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST = 1 << 26  # pixels; larger ones are for Pillow, which refuses bombs
_PROBE = 16  # rows looked at before the rest is inflated
_MODES = ("1", "L", "P")


def read_prediction(path: Path, shape: tuple[int, ...]) -> tuple[str, LabelMap]:
    """Pillow's mode, "1", "L" or "P", and the values, uint8 (H, W); of one bit a pixel 0 and 255.

    Raises:
        MaskError: missing, damaged, not of one of these modes, or not of this (H, W).
    """
    try:
        mode, pixels = _load(path)
    except FileNotFoundError as error:
        raise MaskError(f"{path}: the prediction is missing") from error
    except (*UNREADABLE, zlib.error, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaskError(f"{path}: cannot be read ({reason}); write it again") from error
    if mode not in _MODES:
        raise MaskError(f"{path}: is {mode}; a palette, 8-bit grey or one-bit PNG is expected")
    if pixels.shape != shape:
        height, width = pixels.shape
        raise MaskError(f"{path}: is {width}x{height}, but its truth is {shape[1]}x{shape[0]}; write it at that size")
    return mode, pixels


def read_truth_files(files: tuple[Path, ...], form: Form, reader: MaskReader | None = None) -> LabelMap:
    """As `data.read_truth`; but a binary truth may hold any value above 0 for its object.

    Args:
        reader: that of the sequence, for the form "mask".

    Values are not brought to 0 and 1 here, since another array of this size costs as much as half the decoding.

    Raises:
        DatasetError: a file is missing, damaged, of the wrong form or size.
    """
    if len(files) == 1 and form in ("binary", "ids"):
        try:
            mode, pixels = _load(files[0])
            if mode in _MODES:
                return pixels if form == "binary" or mode != "1" else np.minimum(pixels, 1)
        except (*UNREADABLE, zlib.error, struct.error):
            pass  # the reader below says what is wrong
    if form == "mask":
        return read_file(files[0], form, reader)
    return read_truth(Sequence("one", {}, {"one": files}, form), "one")


def _load(path: Path) -> tuple[str, npt.NDArray[Any]]:
    data = path.read_bytes()
    if (found := _unfiltered(data)) is not None:
        return found
    with Image.open(path) as image:
        if image.mode not in _MODES:
            image.load()
            return image.mode, np.empty(image.size[::-1], np.uint8)
        pixels = np.asarray(image)
    return image.mode, pixels.view(np.uint8) if image.mode == "1" else pixels  # Pillow stores true as 255


def _unfiltered(data: bytes) -> tuple[str, LabelMap] | None:
    """Mode and values of an 8-bit palette or grey PNG whose rows have no filter; None for all else, also if damaged."""
    if data[:8] != _SIGNATURE or len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if depth != 8 or colour not in (0, 3) or interlaced or not 0 < width * height < _LARGEST:
        return None
    parts = []
    position, kind = 8, b""
    while kind != b"IEND":
        if position + 12 > len(data):
            return None
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            return None
        if kind == b"IDAT":
            if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                return None
            parts.append(data[position + 8 : end - 4])
        position = end
    row, inflate = width + 1, zlib.decompressobj()
    try:
        raw = inflate.decompress(b"".join(parts), min(_PROBE, height) * row)
        if any(raw[::row]):
            return None
        if rest := height * row - len(raw):
            raw += inflate.decompress(inflate.unconsumed_tail, rest)
    except zlib.error:
        return None
    if len(raw) != height * row:
        return None
    rows = np.frombuffer(raw, np.uint8).reshape(height, row)
    return None if rows[:, 0].any() else ("P" if colour == 3 else "L", np.ascontiguousarray(rows[:, 1:]))

"""Features as whole numbers of 16 bits, with what rounding them loses."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from torch import Tensor

from matchcut.matching.compiled import Array, addresses_of, kernel, row_at
from matchcut.matching.compiled_products import KEYS

LEVELS = 32_000
"""Length of the longest row of whole numbers: then none is above 2^15, and no sum of products above 2^31."""
PIECE = 64
"""Rows that a thread takes in one go."""
MOST, LARGEST = 0.85, 0.6
"""The head are the first channels that hold so much of the energy, if they are no more than this share of all: to look
at them first costs as much as it saves where more is left."""
MORE = np.float32(1 + 1e-4)
"""By so much float32 may have been wrong about a length, and then some."""
SMALLEST = 1e-30
"""Rows that are not longer become 0."""


class Rounded(NamedTuple):
    """Rows of features as whole numbers: row ~ whole * step + centre."""

    whole: Array
    """(T, N, channels filled up to an even number) int16; KEYS rows can be read from any on."""
    step: Array
    """(T, N) float32."""
    length: Array
    """(2, T, N) float32: of the row as given, and less the centre."""
    lost: Array
    """(T, N) float32, the length of what is lost."""
    rest: Array
    """(T * N + KEYS,) float32, at least the length of what a row's whole numbers have after the head."""


def rounded(frames: list[Tensor], centre: Tensor, head: int, *, common: bool) -> Rounded:
    """Frames, T of (h, w, C) float32 and contiguous, less `centre` (C,), in steps that are the same for all rows
    (`common`), or as small as each row allows. The first `head` channels are their head. What is returned is valid till
    the next of this size."""
    count, cells, channels = len(frames), frames[0].shape[0] * frames[0].shape[1], frames[0].shape[2]
    addresses, middle = addresses_of(frames), centre.numpy()
    length, lost = np.empty((2, count, cells), np.float32), np.empty((count, cells), np.float32)
    _measure(addresses, middle, length)
    longest = np.full_like(length[1], length[1].max()) if common else length[1]
    step = np.where(longest > SMALLEST, longest, np.float32(1)) / np.float32(LEVELS)
    whole = _space(common, count, cells, channels + channels % 2)
    rest = np.zeros(count * cells + KEYS, np.float32)
    _round(addresses, middle, step, head, whole, lost, rest)
    return Rounded(whole, step, length, lost, rest)


def head_of(rows: Tensor) -> int:
    """How many of the first channels tell most of rows (N, C): an even number, or C where it would take too many."""
    channels = rows.shape[1]
    energy = rows.square().mean(0).cumsum(0)
    enough = int((energy < MOST * energy[-1]).sum()) + 1
    head = -(-enough // 16) * 16
    return head if head <= LARGEST * channels else channels + channels % 2


@functools.lru_cache(maxsize=4)
def _space(common: bool, count: int, cells: int, channels: int) -> Array:
    """Kept for the next frame: to get this much memory anew takes as long as to fill it. Keys and queries
    have their own."""
    rows = np.zeros((count * cells + KEYS, channels), np.int16)
    return rows[:-KEYS].reshape(count, cells, channels)


@kernel
def _measure(addresses: Any, centre: Any, length: Any) -> None:
    """Fills (2, T, N) with the lengths of rows (N, C) at T addresses, as given and less the centre (C,)."""
    _, count, rows = length.shape
    channels = len(centre)
    pieces = -(-rows // PIECE)
    for number in prange(count * pieces):
        t, piece = divmod(np.int64(number), np.int64(pieces))
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            source = row_at(addresses[t], row, channels)
            whole = centred = np.float32(0)
            for channel in range(channels):
                less = source[channel] - centre[channel]
                whole += source[channel] * source[channel]
                centred += less * less
            length[0, t, row], length[1, t, row] = np.sqrt(whole), np.sqrt(centred)


@kernel
def _round(addresses: Any, centre: Any, step: Any, head: int, whole: Any, lost: Any, rest: Any) -> None:
    """Fills `whole`, `lost` and `rest`, as in `Rounded`, from rows at T addresses."""
    count, rows, _ = whole.shape
    channels = len(centre)
    pieces = -(-rows // PIECE)
    for number in prange(count * pieces):
        t, piece = divmod(np.int64(number), np.int64(pieces))
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            source = row_at(addresses[t], row, channels)
            size = step[t, row]
            steps, loss, after = np.float32(1) / size, np.float32(0), np.float32(0)
            for channel in range(channels):
                less = source[channel] - centre[channel]
                number_of_steps = np.rint(less * steps)
                whole[t, row, channel] = np.int16(number_of_steps)
                less -= number_of_steps * size
                loss += less * less
            for channel in range(head, channels):
                after += np.float32(whole[t, row, channel]) * np.float32(whole[t, row, channel])
            lost[t, row], rest[t * rows + row] = np.sqrt(loss), np.sqrt(after) * MORE

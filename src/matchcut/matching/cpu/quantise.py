"""Quantise features to int16, and measure the error."""

from typing import Any, NamedTuple

import numpy as np
from numba import prange
from torch import Tensor

from matchcut.matching.cpu.kernels import Array, addresses_of, kernel, row_at
from matchcut.matching.cpu.products import KEYS

LEVELS = 32_000
"""Length of the longest quantised row: then no entry is above 2^15, and no inner product above 2^31."""
PIECE = 64
"""Rows that a thread takes in one go."""
SMALLEST = 1e-30
"""Rows that are not longer become 0."""


class Quantised(NamedTuple):
    """Rows of features in int16: row ~ levels * step + centre."""

    levels: Array
    """(T, N, channels filled up to an even number) int16; KEYS rows can be read from any on."""
    step: Array
    """(T, N) float32."""
    length: Array
    """(2, T, N) float32: of the row as given, and less the centre."""
    error: Array
    """(T, N) float32, the length of row - levels * step - centre."""


def quantise(frames: list[Tensor], centre: Tensor, *, common: bool) -> Quantised:
    """Quantise frames, T of (h, w, C) float32 and contiguous, less `centre` (C,).

    Args:
        common: one step for all rows; else one for each, as small as it allows.
    """
    count, cells, channels = len(frames), frames[0].shape[0] * frames[0].shape[1], frames[0].shape[2]
    addresses, middle = addresses_of(frames), centre.numpy()
    length, error = np.empty((2, count, cells), np.float32), np.empty((count, cells), np.float32)
    _measure(addresses, middle, length)
    longest = np.full_like(length[1], length[1].max()) if common else length[1]
    step = np.where(longest > SMALLEST, longest, np.float32(1)) / np.float32(LEVELS)
    even = channels + channels % 2
    levels = np.empty((count * cells + KEYS, even), np.int16)[:-KEYS].reshape(count, cells, even)
    _quantise(addresses, middle, step, levels, error)
    return Quantised(levels, step, length, error)


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
def _quantise(addresses: Any, centre: Any, step: Any, levels: Any, error: Any) -> None:
    """Fills `levels` and `error`, as in `Quantised`, from rows at T addresses."""
    count, rows, even = levels.shape
    channels = len(centre)
    pieces = -(-rows // PIECE)
    for number in prange(count * pieces):
        t, piece = divmod(np.int64(number), np.int64(pieces))
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            source = row_at(addresses[t], row, channels)
            size = step[t, row]
            steps, squares = np.float32(1) / size, np.float32(0)
            levels[t, row, even - 1] = 0  # where channels are odd in number
            for channel in range(channels):
                less = source[channel] - centre[channel]
                level = np.rint(less * steps)
                levels[t, row, channel] = np.int16(level)
                less -= level * size
                squares += less * less
            error[t, row] = np.sqrt(squares)

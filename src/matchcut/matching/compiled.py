"""The loops over scores that plain torch makes slow, compiled by Numba for the CPU.

Scores lie as (keys, queries): neighbouring queries are neighbours in memory, so a loop over them is a vector operation.
A query is called a lane here. The kernels release the GIL, and run on as many threads as torch does.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch
from numba import prange, types
from numba.extending import intrinsic

LANES = 8
"""Queries a thread works on together, and the multiple to which a block of them is filled up."""
GROUP = 8
"""Scores, about, that share one maximum."""
FAN = 12
"""Groups that share one maximum."""
CANDIDATES = 256
"""Rough scores a query collects before they are compared exactly."""
PIECE = 64
"""Rows that a thread takes in one go, where it needs room to work in."""
SMALLEST = 1e-30
"""Rows with nothing larger become 0."""

_LOCK = threading.Lock()


@contextlib.contextmanager
def as_many_threads_as_torch() -> Iterator[None]:
    """For calling kernels; one caller at a time, since not every threading layer of Numba can take two."""
    threads = torch.get_num_threads()
    with _LOCK:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        if torch.get_num_threads() != threads:  # Numba sets up the OpenMP that torch uses too, once
            torch.set_num_threads(threads)
        yield


class RunRow(NamedTuple):
    """Columns of the table of runs that `select` takes: cells of a rectangle, in each of several references.

    A cell is (major, minor), numbered major * minors + minor: y and x in references taken whole, else x and y.
    """

    references: int
    cells: int
    minors: int
    reference: int
    """Number of the first reference."""
    row: int
    row_reference: int
    row_major: int
    """Where a cell stands in the scores: row + reference * row_reference + major * row_major + minor."""
    place: int
    place_major: int
    place_minor: int
    """Where it lies in its reference: place + major * place_major + minor * place_minor."""
    outside: int
    """Row of the windows' mask that belongs to the first cell; -1 where there is no window."""


class GroupRow(NamedTuple):
    """Columns of the table of groups: some cells of a run, in each of its references."""

    run: int
    cell: int
    """Number of the first cell in the rectangle."""
    cells: int


FASTMATH = {"contract", "reassoc", "nsz"}  # sums may be reordered, so that they are vector operations


def _kernel(function: Any) -> Any:
    # Only what is marked runs in parallel: small arrays of one thread must not be shared out again.
    parallel = {"prange": True, **dict.fromkeys(("comprehension", "fusion", "numpy", "reduction", "setitem"), False)}
    compiled = functools.partial(numba.njit, parallel=parallel, nogil=True, fastmath=FASTMATH, error_model="numpy")
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # nowhere to keep what was compiled
        return compiled()(function)


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:
    """An address as a pointer, for `numba.carray`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), build


@numba.njit
def _insert(values: Any, names: Any, value: Any, name: Any) -> None:
    """Put a value above the last one into a descending list of fixed length, and its name into the list beside it."""
    place = len(values) - 1
    while place > 0 and values[place - 1] < value:
        values[place] = values[place - 1]
        names[place] = names[place - 1]
        place -= 1
    values[place] = value
    names[place] = name


@numba.njit(fastmath=FASTMATH)
def _compare(
    names: Any, scores: Any, errors: Any, certain: Any, query: Any, addresses: Any, cells: Any, best: Any, found: Any
) -> None:
    """Compare candidates exactly, into a list of the best: first those reached for certain, then what could beat them.

    Args:
        names: (n,) the candidates, reference * cells + cell.
        scores, errors: (n,) what their scores are, and by how much these may be wrong.
        certain: the least score to begin with.
        query: (C,).
        best: (k,) the list, descending.
        found: (k,) their names.
    """
    channels = len(query)
    for turn in range(2):
        for i in range(len(names)):
            if (turn == 0) != (scores[i] - errors[i] >= certain) or scores[i] + errors[i] < best[-1]:
                continue
            reference, cell = divmod(names[i], cells)
            key = numba.carray(_pointer(addresses[reference] + cell * channels * 4), channels, np.float32)
            exact = np.float32(0)
            for channel in range(channels):
                exact += query[channel] * key[channel]
            if exact > best[-1]:
                _insert(best, found, exact, names[i])


@_kernel
def round_rows(
    centre: Any, other: Any, addresses: Any, levels: int, target: Any, scale: Any, bias: Any, norms: Any
) -> None:
    """Features less their centre as whole numbers of 8 bits, each row by a scale of its own.

    Args:
        centre: (C,) is subtracted.
        other: (C,) the other side's centre: `bias` (T, N) becomes the product with it.
        addresses: (T,) int64, of features (N, C), float32 and contiguous.
        levels: the largest whole number that there is to be.
        target: (T, N, C) int8, filled with them; times `scale` (T, N) they are near the features.
        norms: (T, 3, N), filled with squared norms: of rows as given, less their centre, and of what rounding loses.
    """
    count, rows, channels = target.shape
    pieces = -(-rows // PIECE)
    for number in prange(count * pieces):
        t, piece = divmod(np.int64(number), np.int64(pieces))
        less, largest = np.empty(channels, np.float32), np.empty(1, np.float32)
        bits, largest_bits = less.view(np.int32), largest.view(np.int32)
        for row in range(piece * PIECE, min((piece + 1) * PIECE, rows)):
            source = numba.carray(_pointer(addresses[t] + row * channels * 4), channels, np.float32)
            product = whole = centred = lost = np.float32(0)
            for channel in range(channels):
                value = source[channel]
                less[channel] = value - centre[channel]
                product += value * other[channel]
                whole += value * value
                centred += less[channel] * less[channel]
            most = np.int32(0)
            for channel in range(channels):  # sizes are ordered as their bits are, and these are compared many at once
                most = max(most, bits[channel] & np.int32(0x7FFFFFFF))
            largest_bits[0] = most
            step = largest[0] / np.float32(levels) if largest[0] > SMALLEST else np.float32(1)
            steps = np.float32(1) / step
            for channel in range(channels):
                rounded = np.rint(less[channel] * steps)
                target[t, row, channel] = np.int8(rounded)
                loss = less[channel] - rounded * step
                lost += loss * loss
            scale[t, row], bias[t, row] = step, product
            norms[t, 0, row], norms[t, 1, row], norms[t, 2, row] = whole, centred, lost


@_kernel
def select(
    scores: Any,
    factor: Any,
    scale: Any,
    bias: Any,
    runs: Any,
    groups: Any,
    outside: Any,
    query: Any,
    lanes: Any,
    addresses: Any,
    constant: Any,
    error: Any,
    error_key: Any,
    maxima: Any,
    best: Any,
    found: Any,
) -> None:
    """The exactly best keys of the queries of a block: fills rows of best (Q, k), descending, and found (Q, k).

    An exact score is the rough one, scores * factor[lane] * scale[key] + bias[key], plus `constant`, but for an error
    of at most error[0, query] + error[1, query] * error_key[0, key] + error[2, query] * error_key[1, key]. What a lane
    collects holds all that can belong to its k best: what may reach the k-th largest of the scores that are reached
    for certain. These are compared exactly.

    Args:
        scores: (m, n) float32 or int32; n is the number of lanes filled up to a multiple of LANES.
        factor: (n,) float32.
        scale, bias: (T, h * w) float32.
        runs: (R, fields of `RunRow`) int64.
        groups: (G, fields of `GroupRow`) int64.
        outside: (cells, n) 0 inside the windows, -inf outside.
        query: (Q, C) float32.
        lanes: (lanes,) int64, the query of each lane.
        addresses: (T,) int64, of the references' features (h * w, C), float32 and contiguous.
        constant: (Q,) float32.
        error: (4, Q) float32, the last the most that the error of any key can be.
        error_key: (2, T, h * w) float32.
        maxima: (G + ceil(G / FAN), n) float32, to work in: the largest score of each group, then of each FAN of them.
    """
    width = scores.shape[1]
    group_count = len(groups)
    for fan in prange(len(maxima) - group_count):
        fan_best = maxima[group_count + fan]
        cell_best = np.empty(width, np.float32)
        fan_best[:] = -np.inf
        for g in range(FAN * fan, min(FAN * (fan + 1), group_count)):
            run, first_cell, cells = groups[g]
            row, place, mask = runs[run, 4], runs[run, 7], runs[run, 10]
            group_best = maxima[g]
            group_best[:] = -np.inf
            best_here = group_best if mask < 0 else cell_best
            for cell in range(first_cell, first_cell + cells):
                major, minor = divmod(cell, runs[run, 2])
                at = row + major * runs[run, 6] + minor
                where = place + major * runs[run, 8] + minor * runs[run, 9]
                if mask >= 0:
                    cell_best[:] = -np.inf
                for reference in range(runs[run, 0]):
                    step, extra = scale[runs[run, 3] + reference, where], bias[runs[run, 3] + reference, where]
                    for i in range(width):
                        rough_score = np.float32(scores[at, i]) * (factor[i] * step) + extra
                        best_here[i] = max(best_here[i], rough_score)
                    at += runs[run, 5]
                if mask >= 0:
                    for i in range(width):
                        group_best[i] = max(group_best[i], cell_best[i] + outside[mask + cell, i])
            for i in range(width):
                fan_best[i] = max(fan_best[i], group_best[i])

    top_k = best.shape[1]
    reference_cells = bias.shape[1]
    for chunk in prange(-(-len(lanes) // LANES)):
        first = chunk * LANES
        # The k largest maxima of each lane, by passing each maximum down a ladder: the k-th bounds the k-th score.
        ladder = np.full((top_k, LANES), np.float32(-np.inf))
        falling = np.empty(LANES, np.float32)
        fans = np.empty((LANES, len(maxima) - group_count), np.float32)
        for fan in range(fans.shape[1]):
            above = False
            for i in range(LANES):
                falling[i] = maxima[group_count + fan, first + i]
                fans[i, fan] = falling[i]
                above |= falling[i] > ladder[top_k - 1, i]
            if not above:
                continue
            for rung in range(top_k):
                for i in range(LANES):
                    upper, lower = max(ladder[rung, i], falling[i]), min(ladder[rung, i], falling[i])
                    ladder[rung, i], falling[i] = upper, lower
        certain = np.empty(top_k, np.float32)  # the largest of what scores are at least
        unnamed = np.empty(top_k, np.int64)
        names = np.empty(CANDIDATES, np.int64)
        rough = np.empty(CANDIDATES, np.float32)
        errors = np.empty(CANDIDATES, np.float32)
        for lane in range(first, min(first + LANES, len(lanes))):
            q = lanes[lane]
            best[q] = -np.inf
            found[q] = 0
            certain[:] = -np.inf
            level, fixed, by_first, by_second, most = constant[q], error[0, q], error[1, q], error[2, q], error[3, q]
            least = ladder[top_k - 1, lane - first] + level - most  # the k-th best is at least this
            count = 0
            for turn in range(2):  # where the largest are comes first: what is found there leaves out most of the rest
                for fan in range(fans.shape[1]):
                    if (turn == 0) != (fans[lane - first, fan] >= ladder[top_k - 1, lane - first]):
                        continue
                    if fans[lane - first, fan] + level + most < least:
                        continue
                    for g in range(FAN * fan, min(FAN * (fan + 1), group_count)):
                        if maxima[g, lane] + level + most < least:
                            continue
                        run, first_cell, cells = groups[g]
                        row, place, mask = runs[run, 4], runs[run, 7], runs[run, 10]
                        for cell in range(first_cell, first_cell + cells):
                            major, minor = divmod(cell, runs[run, 2])
                            at = row + major * runs[run, 6] + minor
                            where = place + major * runs[run, 8] + minor * runs[run, 9]
                            for reference in range(runs[run, 3], runs[run, 3] + runs[run, 0]):
                                product = np.float32(scores[at, lane]) * (factor[lane] * scale[reference, where])
                                at += runs[run, 5]
                                score = product + bias[reference, where] + level
                                off = fixed + by_first * error_key[0, reference, where]
                                off += by_second * error_key[1, reference, where]
                                if score + off < least or (mask >= 0 and outside[mask + cell, lane] < 0):
                                    continue
                                if count == CANDIDATES:
                                    kept = (names, rough, errors, certain[top_k - 1], query[q], addresses)
                                    _compare(*kept, reference_cells, best[q], found[q])
                                    least = max(least, best[q, top_k - 1])
                                    count = 0
                                names[count] = reference * reference_cells + where
                                rough[count] = score
                                errors[count] = off
                                count += 1
                                if score - off > certain[top_k - 1]:
                                    _insert(certain, unnamed, score - off, 0)
                                    least = max(least, certain[top_k - 1])
            kept = (names[:count], rough[:count], errors[:count], certain[top_k - 1], query[q], addresses)
            _compare(*kept, reference_cells, best[q], found[q])


Array = npt.NDArray[Any]


def addresses_of(tensors: list[torch.Tensor]) -> Array:
    """(T,) where tensors on the CPU begin; whoever uses it must keep them."""
    return np.array([one.data_ptr() for one in tensors], np.int64)

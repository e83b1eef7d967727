"""Numba as the compiled forms use it: kernels that release the GIL and run on as many threads as torch does."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from numba import types
from numba.extending import intrinsic

from matchcut.matching.cpu.cache import keep_on_disk
from matchcut.matching.threads import limit_threads

_LOCK = threading.Lock()


@contextlib.contextmanager
def as_many_threads_as_torch() -> Iterator[None]:
    """For calling kernels; one caller at a time, since not every threading layer of Numba can take two."""
    threads = torch.get_num_threads()
    with _LOCK:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        if torch.get_num_threads() != threads:  # Numba sets up the OpenMP that torch uses too, once
            limit_threads(threads)
        yield


REORDERED = {"contract", "reassoc", "nsz"}
"""Of `fastmath`: sums may be reordered, so that they are vector operations."""


def kernel(function: Any) -> Any:
    """A function compiled by Numba, parallel over its `prange`, kept on disk if that can be; without the GIL."""
    # Only what is marked runs in parallel: small arrays of one thread must not be shared out again.
    parallel = {"prange": True, **dict.fromkeys(("comprehension", "fusion", "numpy", "reduction", "setitem"), False)}
    compiled = numba.njit(parallel=parallel, nogil=True, fastmath=REORDERED, error_model="numpy")(function)  # type: ignore[call-overload]
    keep_on_disk(compiled)
    return compiled


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:
    """An address as a pointer, for `numba.carray`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), build


@numba.njit
def insert(values: Any, names: Any, value: Any, name: Any) -> None:
    """Put a value above the last one into a descending list of fixed length, and its name into the list beside it."""
    place = len(values) - 1
    while place > 0 and values[place - 1] < value:
        values[place] = values[place - 1]
        names[place] = names[place - 1]
        place -= 1
    values[place] = value
    names[place] = name


@numba.njit
def row_at(address: Any, row: Any, channels: Any) -> Any:
    """Row `row` of float32 rows of so many channels that begin at an address."""
    return numba.carray(_pointer(address + row * channels * 4), channels, np.float32)


Array = npt.NDArray[Any]


def addresses_of(tensors: list[torch.Tensor]) -> Array:
    """(T,) where tensors on the CPU begin; whoever uses it must keep them."""
    return np.array([one.data_ptr() for one in tensors], np.int64)

"""How many threads torch computes with, for one thread of the program at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import torch

Answer = TypeVar("Answer")
_LOCK = Lock()


def limit_threads(count: int) -> None:
    """Let torch compute with `count` threads (from 1) in the thread that calls this, and in no other.

    OpenMP keeps the number for each thread; `torch.set_num_threads` sets that, and also what new threads begin with,
    which is put back here at once (a thread that began to use torch in that instant has `count` too).
    """
    with _LOCK:
        others = _elsewhere(torch.get_num_threads)
        torch.get_num_threads()  # a thread takes what new ones begin with when it first asks, even after it was set
        torch.set_num_threads(count)
        if others != count:
            _elsewhere(lambda: torch.set_num_threads(others))


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads here until the block ends."""
    before = torch.get_num_threads()
    limit_threads(count)
    try:
        yield
    finally:
        limit_threads(before)


def _elsewhere(work: Callable[[], Answer]) -> Answer:
    """Done by a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()

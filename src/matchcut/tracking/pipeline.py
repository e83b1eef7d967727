"""Reading ahead while a model computes."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 4
"""Frames read ahead at most."""


@contextmanager
def prefetch(
    source: Iterable[tuple[int, Item]], prepare: Callable[[Item], Made], ahead: int = AHEAD
) -> Generator[Iterator[tuple[int, Made]]]:
    """Iterate over (index, prepare(item)) of a source that a thread of its own reads, at most `ahead` items early.

    What goes wrong there is raised here, where the item would have come. The thread ends with the context.
    """
    ready: queue.Queue[tuple[int, Made] | BaseException | None] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: tuple[int, Made] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for index, item in source:
                if not put((index, prepare(item))):
                    return
            put(None)
        except BaseException as error:
            put(error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def items() -> Iterator[tuple[int, Made]]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    reader = threading.Thread(target=read, name="matchcut-reader", daemon=True)
    reader.start()
    try:
        yield items()
    finally:
        stopped.set()
        reader.join()

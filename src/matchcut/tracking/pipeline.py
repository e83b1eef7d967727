"""Stages of a pipeline in threads of their own: reading ahead, and several items at once."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 4
"""Frames read ahead at most."""


@contextmanager
def prefetch(
    source: Iterable[tuple[int, Item]],
    prepare: Callable[[Item], Made],
    ahead: int = AHEAD,
    begin: Callable[[], object] = lambda: None,
) -> Generator[Iterator[tuple[int, Made]]]:
    """Iterate over (index, prepare(item)) of a source that a thread of its own reads, at most `ahead` items early.

    What goes wrong there is raised here, where the item would have come. The thread calls `begin` first, and ends with
    the context.
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
            begin()
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


@contextmanager
def together(
    source: Iterable[Item], work: Callable[[Item], Made], threads: int, begin: Callable[[], object] = lambda: None
) -> Generator[Iterator[Made]]:
    """Iterate over work(item) of a source, in its order, from so many threads: at most as many items as there are
    threads are worked on, and one is ready, while what came out last is used.

    Each thread calls `begin` first. What goes wrong is raised where the item would have come.
    """

    def items() -> Iterator[Made]:
        begun: deque[Future[Made]] = deque()
        for item in source:
            begun.append(pool.submit(work, item))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        try:
            yield items()
        finally:
            pool.shutdown(cancel_futures=True)

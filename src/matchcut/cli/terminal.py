"""Standard output and error that take any text in any encoding, and do not mind when nobody reads on."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from matchcut.errors import OutputError


class _Lasting(io.FileIO):
    """The raw stream of a descriptor. Once its reader has gone, what is written is dropped: the work goes on."""

    gone = False

    def write(self, data: Any, /) -> int:
        if not self.gone:
            try:
                return super().write(data)
            except OSError as error:
                self.gone = True
                if not isinstance(error, BrokenPipeError) and self.fileno() != 2:
                    raise OutputError(f"standard output cannot be written to ({error.strerror})") from error
        return memoryview(data).nbytes


@contextmanager
def any_text() -> Iterator[None]:
    """Standard output and error, for the time of a command: what an encoding lacks is written as \\u...; none is ever
    missing, so that no file that is opened takes its place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    held = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(held[0], 1), _lasting(held[1], 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OutputError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = held


def say(line: str) -> None:
    """A line on standard output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def tell(line: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def starting() -> None:
    """Tells whoever watches that it has begun: to load the libraries takes seconds."""
    if sys.stderr.isatty():
        tell("matchcut: starting")


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    try:
        descriptor = descriptor if stream is None else stream.fileno()
    except (AttributeError, OSError, ValueError):  # in memory
        assert stream is not None
        return stream
    if stream is not None:
        stream.flush()
    raw = io.BufferedWriter(_Lasting(descriptor, "w", closefd=False))
    encoding = "utf-8" if stream is None else stream.encoding
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)

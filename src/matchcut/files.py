"""Writing files so that a reader, or a run that resumes, never sees half of one, and nothing of the user's is lost."""

import csv
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from matchcut.disk import flush
from matchcut.disk import make_folder as make_folder
from matchcut.disk import output_error as output_error
from matchcut.manifest import TEMPORARY, manifest_of

Note = Literal["content", "name", "none"]
"""What a run notes of a file: its content, so that it is known when somebody has changed it; its name alone, for what
serves the run itself (checkpoints, logs), whatever is in it; nothing, for what a cache keeps."""


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, note: Note = "content") -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps the suffix, since libraries choose a format by it. What is written is on the disk before it
    gets its name. In the folder of a run (see `run_folder`) the file is noted first.

    Raises:
        OutputError: the folder cannot be written to, no space is left on the device, or a file of the user's has the
            name in the folder of a run.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        temporary = _new_file(target)
        yield temporary
        flush(temporary)
        if note != "none" and (manifest := manifest_of(target)) is not None:
            manifest.note(target, temporary if note == "content" else None)
        temporary.replace(target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # it has its name
                temporary.unlink()


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Sequence[Any]], decimals: int = 3) -> Path:
    """A CSV as pandas writes it with a `float_format` of so many decimals: NaN is empty.

    Raises:
        OutputError: it cannot be written.
    """

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.{decimals}f}"
        return str(value)

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[cell(value) for value in row] for row in rows])
    return path


def read_csv(path: Path) -> list[list[str]]:
    """The rows of a CSV that `write_csv` wrote, without its header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def _new_file(target: Path) -> Path:
    """An empty file beside `target`, of a short name and with the rights that the user gives to new files."""
    suffix = target.suffix if len(target.suffix) <= 16 else ""
    while True:
        path = target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}{suffix}")
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            return path

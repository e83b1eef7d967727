"""File system helpers: making folders, fsync, safe file names, and whether two paths are the same file."""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PureWindowsPath

from matchcut.errors import OutputError


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """The error of an operating-system error met while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"no space left on the device while writing {path}: free some and run again with --resume")
    return OutputError(f"cannot write {path}: {error.strerror or error}")


def is_plain_name(name: object) -> bool:
    """Whether a name that somebody else chose is one of a file in a folder, and leads nowhere else on any system."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not set(name) & {"/", "\\", "\0"}
        and not PureWindowsPath(name).drive
    )


def flush(path: Path) -> None:
    """Wait until a file, or which files are in a folder, is on the disk."""
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except OSError:
        if folder:  # Windows opens none
            return
        raise
    try:
        sync(handle)
    finally:
        os.close(handle)


def sync(handle: int) -> None:
    """Wait until what was written to an open file is on the disk."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # there are file systems that cannot
            raise


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse files that would lie on what is read: on one of the files, by whatever name or link, or in one of the
    folders.

    Raises:
        OutputError: one does.
    """
    read = {identity(one): one for one in inputs if one.exists()}
    parents: dict[Path, Path | None] = {}
    for output in outputs if read else ():
        if output.parent not in parents:
            parents[output.parent] = read.get(identity(output.parent)) if output.parent.exists() else None
        found = parents[output.parent] or (read.get(identity(output)) if output.exists() else None)
        if found is not None:
            what = f"in {found}, which is read" if found.is_dir() else f"on {found}, which is read"
            raise OutputError(f"{output} would lie {what}: give another folder with -o")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, which need not be there, is a folder or lies in it, by whatever name or link."""
    if not folder.exists():
        return False
    real, wanted = Path(os.path.realpath(path)), identity(folder)
    return any(one.exists() and identity(one) == wanted for one in (real, *real.parents))


def remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as they hold no file."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(place).rmdir()


def identity(path: Path) -> tuple[int, int]:
    """Device and inode: the same for all names of a file or folder."""
    state = path.stat()
    return state.st_dev, state.st_ino

"""Manifest: the list of the files that runs wrote into a folder. Only what is on it, and unchanged, is ever removed or
replaced."""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypedDict, Unpack

from matchcut.disk import check_apart, flush, is_plain_name, make_folder, output_error, remove_empty, sync
from matchcut.errors import OutputError

MANIFEST = ".matchcut.jsonl"
"""The list of the files that a run wrote, in its folder."""
TEMPORARY = ".matchcut-"
"""Prefix of the names of unfinished files."""


class Manifest:
    """The list of the files that runs wrote into a folder: a line a file, with a hash of what was written.

    A line stands there before its file gets its name, so what an interrupted run wrote is known too. What it does not
    name, or what has another content now, is the user's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / MANIFEST

    def kind(self) -> str | None:
        """The kind of run that wrote it; None where there is no list."""
        return next((str(line["kind"]) for line in self._lines() if "kind" in line), None)

    def begin(self, kind: str) -> None:
        """Make the list where there is none.

        Raises:
            OutputError: the folder cannot be written to.
        """
        if self.kind() is None:
            self._append({"kind": kind})

    def note(self, file: Path, content: Path | None) -> None:
        """Write down that `file` is about to be what the file `content` is; of None, whatever it will be.

        Raises:
            OutputError: a file of the user's has that name.
        """
        if os.path.lexists(file) and not self.owns(file):
            raise OutputError(in_the_way(file))
        what = None if content is None else _hash(content)
        if what is not None or None not in self.entries(self.name(file)).get(self.name(file), ()):
            self._append({"file": self.name(file), "hash": what})

    def adopt(self, file: Path) -> None:
        """Write down a file that something else has just made for the run, whatever it will be.

        Raises:
            OutputError: the list cannot be written.
        """
        self._append({"file": self.name(file), "hash": None})

    def add(self, file: Path) -> None:
        """Write down a file that a run wrote before the folder had a list.

        Raises:
            OutputError: the list cannot be written.
        """
        self._append({"file": self.name(file), "hash": _hash(file)})

    def entries(self, only: str = "") -> dict[str, set[str | None]]:
        """The hashes of each file, by its path in the folder: of every content that it was given.

        Args:
            only: the path of one file, to be quick; all of them where it is empty.
        """
        found: dict[str, set[str | None]] = {}
        for line in self._lines(json.dumps(only) if only else ""):
            name = line.get("file")
            if isinstance(name, str) and all(is_plain_name(part) for part in name.split("/")):
                found.setdefault(name, set()).add(str(line["hash"]) if line.get("hash") is not None else None)
        return found

    def files(self) -> list[str]:
        """The files written for the user that are there: sorted paths in the folder."""
        return sorted(name for name, hashes in self.entries().items() if None not in hashes and self.is_there(name))

    def owns(self, file: Path, entries: Mapping[str, set[str | None]] | None = None) -> bool:
        """Whether a run wrote a file and it is as it was written, or empty, as a power cut can leave one.

        Args:
            entries: what `entries` says, where it is at hand.
        """
        name = self.name(file)
        hashes = (self.entries(name) if entries is None else entries).get(name)
        if hashes is None or file.is_symlink() or not file.is_file() or not self._is_inside(file.parent):
            return False
        return None in hashes or file.stat().st_size == 0 or _hash(file) in hashes

    def ruined(self, files: Iterable[Path], readable: Callable[[Path], bool]) -> list[Path]:
        """The damaged ones of some files: runs wrote them, and they have changed and cannot be read.

        Args:
            readable: whether a file can be; what was changed and can be read is the user's.
        """
        entries = self.entries()
        noted = [one for one in files if self.name(one) in entries and one.is_file()]
        changed = [one for one in noted if not {None, _hash(one)} & entries[self.name(one)]]
        return [one for one in changed if not readable(one)]

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """The paths of files that runs wrote, those that fit one of some patterns."""
        patterns = list(patterns)
        return [name for name in self.entries() if any(fnmatchcase(name, one) for one in patterns)]

    def remove(self, patterns: Iterable[str] = ("*",)) -> None:
        """Remove the files that runs wrote, of the paths that fit one of some patterns, and the folders that this
        leaves empty.

        Raises:
            OutputError: one of them was changed since, and nothing was removed; or one cannot be removed.
        """
        entries = self.entries()
        chosen = [name for name in self.matching(patterns) if self.is_there(name)]
        for name in chosen:
            if not self.owns(self.folder / name, entries):
                raise OutputError(in_the_way(self.folder / name))
        try:
            for name in chosen:
                (self.folder / name).unlink()
        except OSError as error:
            raise output_error(self.folder, error) from error
        places = {parent for name in chosen for parent in Path(name).parents if parent != Path()}
        for place in sorted(places, key=lambda one: -len(one.parts)):
            with suppress(OSError):  # it holds something else
                (self.folder / place).rmdir()

    def remove_unfinished(self) -> None:
        """Remove what runs that were killed left of files that had no name yet."""
        for place in {self.folder, *((self.folder / name).parent for name in self.entries())}:
            if self.path.exists() and self._is_inside(place):
                for path in place.glob(f"{TEMPORARY}*"):
                    with suppress(OSError):
                        path.unlink()

    def forget(self) -> None:
        """Remove the list itself."""
        with suppress(OSError):
            self.path.unlink()

    def is_there(self, name: str) -> bool:
        """Whether something has this path in the folder, and no link leads out of the folder on the way to it."""
        return os.path.lexists(self.folder / name) and self._is_inside((self.folder / name).parent)

    def name(self, file: Path) -> str:
        """The path of a file in the folder."""
        return Path(os.path.relpath(file, self.folder)).as_posix()

    def _is_inside(self, place: Path) -> bool:
        return place.resolve().is_relative_to(self.folder.resolve())

    def _lines(self, holding: str = "") -> Iterator[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise output_error(self.path, error) from error
        for line in (one for one in text.split("\n") if holding in one):
            with suppress(ValueError):  # cut short as the run was killed
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found

    def _append(self, line: dict[str, Any]) -> None:
        data = f"\n{json.dumps(line)}".encode()  # a line that was cut short stays one of its own
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                while data:
                    data = data[os.write(handle, data) :]
                sync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise output_error(self.path, error) from error


_open: dict[str, Manifest] = {}
"""The folders, by absolute path, that runs in this process write to: whoever writes there finds the list by it."""


@contextmanager
def noted_in(folder: Path) -> Iterator[Manifest]:
    """Note all files that are written into a folder meanwhile, and let nothing of the user's be replaced there."""
    place = os.path.abspath(folder)  # noqa: PTH100  links stay as they are
    before, manifest = _open.get(place), Manifest(folder)
    _open[place] = manifest
    try:
        yield manifest
    finally:
        if before is None:
            del _open[place]
        else:
            _open[place] = before


class RunOptions(TypedDict, total=False):
    """Options of `run_folder` and `check_run`; `overwrite` and `resume` are False unless given."""

    inputs: Iterable[Path]
    """Files and folders that are read."""
    overwrite: bool
    """Remove what earlier runs wrote, and nothing else."""
    resume: bool
    """Go on with what is there."""
    goes_on: bool
    """Whether `resume` can be advised, which is so unless said."""
    ruined: Collection[Path]
    """Damaged files of an earlier run (see `Manifest.ruined`), which are removed."""


@contextmanager
def run_folder(folder: Path, kind: str, names: Iterable[str] = (), **options: Unpack[RunOptions]) -> Iterator[Manifest]:
    """The folder of a run, made if it is not there; what is written into it meanwhile is noted.

    Args:
        kind: of the run; a folder with one of another kind is not taken.
        names: the paths in it that will be written, as far as they are known.
        options: see `RunOptions`.

    Raises:
        OutputError: it is a file, cannot be written to, holds something and neither `overwrite` nor `resume` is set; an
            output lies on an input; or a file of the user's is where one would be written, or removed. Nothing was
            changed then.
    """
    new = not folder.exists()
    manifest = check_run(folder, kind, names, **options)
    make_folder(folder)
    manifest.remove_unfinished()
    for one in options.get("ruined", ()):
        one.unlink(missing_ok=True)
    if options.get("overwrite") and not options.get("resume"):
        manifest.remove()
        manifest.forget()
    try:
        with noted_in(folder):
            manifest.begin(kind)
            yield manifest
    finally:
        if not any(manifest.is_there(name) for name in manifest.entries()):  # it never came to write anything
            manifest.forget()
            if new:
                remove_empty(folder)
    for place in {folder, *((folder / name).parent for name in manifest.entries())}:
        with suppress(OSError):
            flush(place)


def check_run(folder: Path, kind: str, names: Iterable[str] = (), **options: Unpack[RunOptions]) -> Manifest:
    """Whether a folder can be that of a run; its list. Nothing is changed. See `run_folder`.

    Raises:
        OutputError: it cannot.
    """
    overwrite, resume = options.get("overwrite", False), options.get("resume", False)
    entries, ruined = Manifest(folder).entries(), set(options.get("ruined", ()))
    outputs = [folder / name for name in (*names, *(entries if overwrite and not resume else ()))]
    check_apart(outputs, options.get("inputs", ()))
    goes_on = options.get("goes_on", True)
    manifest = check_folder(folder, kind, overwrite=overwrite, resume=resume, goes_on=goes_on)
    for place in {one.parent for one in outputs}:
        if not place.resolve().is_relative_to(folder.resolve()):
            raise OutputError(
                f"{place} leads out of {folder} by a link: remove the link, or give another folder with -o"
            )
    for one in outputs:
        if os.path.lexists(one) and one not in ruined and not manifest.owns(one, entries):
            raise OutputError(in_the_way(one))
    return manifest


def check_folder(
    folder: Path, kind: str, *, overwrite: bool = False, resume: bool = False, goes_on: bool = True
) -> Manifest:
    """The list of a folder that a run may be written to, which may not be there yet; see `run_folder`.

    Raises:
        OutputError: it is a file, or holds something, and neither `overwrite` nor `resume` is set, or a run of another
            kind.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: give a folder with -o")
    manifest = Manifest(folder)
    try:
        held = sorted(one.name for one in folder.iterdir() if one.name[0] != ".") if folder.exists() else []
    except OSError as error:
        raise output_error(folder, error) from error
    if held and not resume and not overwrite:
        advice = "--overwrite replaces an earlier run" + ", --resume goes on with it" * goes_on
        raise OutputError(f"{folder} is not empty (it holds {held[0]}): {advice}")
    if (other := manifest.kind()) not in (None, kind):
        raise OutputError(f"{folder} holds {other}: give another folder with -o")
    return manifest


def manifest_of(path: Path) -> Manifest | None:
    """The list of the innermost folder with a run that a path lies in."""
    if not _open:
        return None
    place = Path(os.path.abspath(path))  # noqa: PTH100  links stay as they are
    return next((found for one in place.parents if (found := _open.get(str(one))) is not None), None)


def in_the_way(path: Path) -> str:
    """The message for a file of the user's that stands where one would be written or removed."""
    return (
        f"{path}: is in the way, and no run is known to have written it as it is (yours, changed since, or of an older "
        "version): move it, or give another folder with -o"
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

"""What the readers share: lists of names, folders of images, and pairing files by name or number."""

import codecs
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matchcut.data.sequence import Form, Sequence
from matchcut.errors import DatasetError
from matchcut.folders import IMAGES, files_in, folders_in


def read_list(path: Path) -> list[str]:
    """The lines of a split's list, stripped, empty ones left out; UTF-8, or UTF-16 with a byte order mark.

    Raises:
        DatasetError: no such list (the message names those that are there), not a text, or an empty one.
    """
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = data.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except OSError as error:
        there = [other.stem for other in files_in(path.parent, {path.suffix})]
        known = f"choose one of: {', '.join(there)}" if there else "this folder holds no list; check the root"
        raise DatasetError(f"{path}: cannot be read as the list of a split; {known}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file; replace it by the published list") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DatasetError(f"{path}: the split is empty; replace it by the published list")
    return names


def folders(path: Path) -> list[Path]:
    """The folders in a folder that count (`folders.counts`), in natural order.

    Raises:
        DatasetError: there is none.
    """
    found = folders_in(path)
    if not found:
        raise DatasetError(f"{path}: no sequence is there; check that the root is the folder that was unpacked")
    return found


def images_in(folder: Path, problems: list[str]) -> dict[str, Path]:
    """The images of a folder by stem, in natural order; what is wrong is added to `problems`."""
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; restore it")
        return {}
    found: dict[str, Path] = {}
    for path in files_in(folder, IMAGES):
        if path.stem in found:
            problems.append(f"{path}: a second file of this frame beside {found[path.stem].name}; remove one")
        found.setdefault(path.stem, path)
    if not found:
        problems.append(f"{folder}: holds no image; restore them")
    return found


def sequence_of(name: str, images_at: Path, truths_at: Path, form: Form, **more: Any) -> Sequence:
    """A sequence whose frames are the images of one folder, and their truths those of another, paired by stem.

    Args:
        more: see `Sequence`.
    """
    problems: list[str] = []
    images, truths = images_in(images_at, problems), images_in(truths_at, problems)
    return Sequence(name, images, singles(truths), form, problems=tuple(problems), **more)


def singles(files: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """One file a frame, as `Sequence.truths` wants it."""
    return {name: (path,) for name, path in files.items()}


def number_of(stem: str) -> int | None:
    """The last number in a file's stem, a trailing `_gt` left out; None without one."""
    found = re.findall(r"[0-9]+", stem.removesuffix("_gt"))
    return int(found[-1]) if found else None


def pair_numbers(truths: Iterable[Path], images: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Truths by the frame of the same number, in the order of the frames; one without a frame keeps its own stem."""
    frames = {number_of(name): name for name in images}
    paired = {frames.get(number_of(path.stem), path.stem): (path,) for path in truths}
    order = {name: index for index, name in enumerate(images)}
    return dict(sorted(paired.items(), key=lambda item: order.get(item[0], len(order))))

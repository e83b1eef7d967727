"""Listing folders: which files count, in natural order; one rule for readers, prompts, benchmarks and training."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from matchcut.errors import MatchcutError

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})
"""Suffixes of pictures, in lower case; see `files_in`."""
VIDEOS = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".y4m"})
"""Suffixes of video files, in lower case."""

_SYSTEM = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found", "system volume information", "__macosx"}
)
# Hidden files and temporary ones of ours; of Synology and QNAP (@eaDir, #recycle), Windows ($RECYCLE.BIN), Office (~$).
_SYSTEM_BEGINNINGS = (".", "@", "#recycle", "#snapshot", "$recycle", "~$")


def counts(name: str) -> bool:
    """Whether a file or folder of this name is the user's own: neither hidden nor put there by a system or a tool."""
    lower = name.lower()
    return lower not in _SYSTEM and not lower.startswith(_SYSTEM_BEGINNINGS)


def entries(folder: Path) -> list[Path]:
    """All files and folders in a folder that count (`counts`), in natural order; none where it is not a folder.

    Raises:
        MatchcutError: it cannot be listed.
    """
    try:
        found = [one for one in folder.iterdir() if counts(one.name)] if folder.is_dir() else []
    except OSError as error:
        raise MatchcutError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    return sorted(found, key=natural_key)


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files in a folder that count and end in one of `suffixes` (lower case, in the names any case), in natural
    order. A link to nothing is among them, so that reading it says what is missing.

    Raises:
        MatchcutError: it cannot be listed.
    """
    return [one for one in entries(folder) if one.suffix.lower() in suffixes and not one.is_dir()]


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder that count, in natural order.

    Raises:
        MatchcutError: it cannot be listed.
    """
    return [one for one in entries(folder) if one.is_dir()]


def natural_key(path: Path) -> list[Any]:
    """Sorts `2.png` before `10.png`."""
    # Split by digits: text and numbers alternate, so that like is compared with like.
    parts = re.split(r"([0-9]+)", str(path))
    return [[int(part) if at % 2 else part.casefold() for at, part in enumerate(parts)], str(path)]

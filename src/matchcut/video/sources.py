"""Opening a source: telling streams, video files, image files and arrays apart."""

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from matchcut.errors import VideoError
from matchcut.folders import IMAGES
from matchcut.video.arrays import ArrayFrames
from matchcut.video.frames import Frames


def source_of(source: Any) -> str | list[Path] | ArrayFrames:
    """The kind of source that a caller gave: a path or address, image files, or frames in memory.

    Raises:
        VideoError: none of these, or an empty list.
    """
    if isinstance(source, str | Path):
        return local_name(source)
    if isinstance(source, list | tuple) and source and all(isinstance(one, str | Path) for one in source):
        return [Path(local_name(one)) for one in source]
    if isinstance(source, list | tuple) or hasattr(source, "__array__"):
        return ArrayFrames(source)
    raise VideoError(
        f"a video of type {type(source).__name__}: expected a path, a list of image files, or frames as an array "
        "(T, H, W, 3) uint8; frames that come one by one go to Tracker.stream"
    )


def local_name(source: str | Path) -> str:
    """A source with a `file:` URL made the path that it names, its %-escapes undone, and `~` the home folder.

    What lies there under the very name is taken as it is.
    """
    text = os.fspath(source)
    if os.path.lexists(text):
        return text
    if url := re.fullmatch(r"file:(?://(?:localhost(?=/))?)?(.+)", text, re.IGNORECASE | re.DOTALL):
        return unquote(url[1], errors="surrogateescape")
    return os.path.expanduser(text)  # noqa: PTH111  pathlib fails where there is no such user


def is_stream(source: str) -> bool:
    """Whether a source gives its frames once, in order: standard input, an address, a camera, a pipe."""
    if source == "-" or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source):
        return True
    try:
        mode = Path(source).stat().st_mode
    except (OSError, ValueError):
        return source.isdecimal()
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def stream_name(source: str) -> str:
    """The name of a stream, for outputs."""
    if source == "-":
        return "stdin"
    if source.isdecimal():
        return f"camera{source}"
    return re.sub(r"[^\w.-]+", "_", Path(source.split("?")[0].rstrip("/")).stem) or "stream"


def open_frames(source: str | list[Path] | ArrayFrames, allow_truncated: bool) -> tuple[str, Frames]:
    """The name and the frames of a video file, an image file, a folder, a glob, image files or arrays.

    Raises:
        VideoError: there is nothing, or what is there cannot be read.
    """
    if isinstance(source, ArrayFrames):
        return "frames", source
    from matchcut.video.images import folder_images, glob_images

    if isinstance(source, list):
        return source[0].resolve().parent.name or "frames", open_images(source)
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if re.search(r"[*?[]", source) and not os.path.lexists(source):
            images = glob_images(source)
            return (images[0].stem if len(images) == 1 else images[0].resolve().parent.name), open_images(images)
        raise missing(path, error) from error
    if stat.S_ISDIR(mode):
        return path.resolve().name or "frames", open_images(folder_images(path))
    check_file(path)
    if path.suffix.lower() in IMAGES:
        return path.stem, open_images([path])
    from matchcut.video.container import FileFrames

    return path.stem, FileFrames(path, allow_truncated=allow_truncated)


def open_images(paths: Sequence[Path]) -> Frames:
    """Image files as frames: one each, or all pictures of a single file that holds several.

    Raises:
        VideoError: they are no images, or cannot be frames of one video.
    """
    from matchcut.video.images import ImageFrames
    from matchcut.video.stacks import StackFrames

    if len(paths) == 1:
        stack = StackFrames(paths[0])
        if stack.total > 1:
            return stack
    return ImageFrames(list(paths))


def missing(path: Path, error: OSError | ValueError) -> VideoError:
    """The error of a path that leads to no file."""
    code = getattr(error, "errno", None)
    if os.path.islink(path):  # noqa: PTH114  pathlib fails on a name that is too long
        what = "leads to itself" if code == errno.ELOOP else f"leads nowhere ({_target(path)})"
        return VideoError(f"{path}: is a link that {what}; restore what it points to, or remove the link")
    if code in (errno.ENOENT, errno.ENOTDIR) or not isinstance(error, OSError):
        return VideoError(f"{path}: no such file or folder; check the path")
    return VideoError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions")


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return "its target is gone"


def check_file(path: Path) -> None:
    """Raise VideoError unless a path leads to a file with something in it."""
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise missing(path, error) from error
    if not stat.S_ISREG(state.st_mode):
        raise VideoError(f"{path}: is no file (a folder, pipe or device); remove it, or choose with a glob")
    if not state.st_size:
        raise VideoError(f"{path}: is an empty file; replace or remove it")

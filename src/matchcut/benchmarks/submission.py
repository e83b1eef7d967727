"""The zip of masks that the YouTube-VOS server takes, checked before it is written."""

import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from matchcut.data import Sequence as Video
from matchcut.errors import DatasetError, VideoError
from matchcut.files import atomic_path, make_folder
from matchcut.folders import entries, folders_in
from matchcut.masks import BACKGROUND, davis_palette
from matchcut.video.images import UNREADABLE, image_size

_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_SHOWN = 50  # problems in a message


def write_submission(sequences: Sequence[Video], masks: Path, zip_path: Path) -> None:
    """Zip the masks of a YouTube-VOS split as `Annotations/<video>/<frame>.png`, after checking them all.

    Exactly the frames that meta.json lists for a video's objects are in it; masks of a video's other frames (of
    `valid_all_frames`, say) stay out. The same masks give the same bytes.

    Args:
        sequences: as `data.read_dataset` gives them for youtube-vos-2018 or youtube-vos-2019.
        masks: a folder a video in it, a PNG a frame.
        zip_path: its folder is made if it is not there.

    Raises:
        DatasetError: a mask is missing, damaged, not a palette PNG with the DAVIS palette, of another size than its
            frame, or holds an id that is not in the video or has not entered yet; a video or frame that is not in the
            split. The message lists all of them.
        OutputError: the zip cannot be written.
    """
    problems = submission_problems(sequences, masks)
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        noun = "problem" if len(problems) == 1 else "problems"
        lines = "\n".join(["", *problems[:_SHOWN], *more])
        raise DatasetError(f"{masks}: {len(problems)} {noun}; no submission was written:{lines}")
    make_folder(zip_path.parent)
    with atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for video in sequences:
            for frame in wanted_frames(video):
                entry = zipfile.ZipInfo(f"Annotations/{video.name}/{frame}.png", _DATE)
                entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same on every system
                archive.writestr(entry, (masks / video.name / f"{frame}.png").read_bytes())


def submission_problems(sequences: Sequence[Video], masks: Path) -> list[str]:
    """The problems that keep these masks from being a submission, a line each."""
    if not masks.is_dir():
        return [f"{masks}: no such folder"]
    names = {video.name for video in sequences}
    folders = [one for one in folders_in(masks) if one.name not in names]
    strays = [f"{one}: no video of the split has this name; remove it" for one in folders]
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        found = pool.map(lambda video: list(_video_problems(video, masks / video.name)), sequences)
        return [line for lines in found for line in lines] + strays


def wanted_frames(video: Video) -> list[str]:
    """The frames that the server asks for, in order: those that meta.json lists for any object."""
    return sorted({frame for one in video.objects.values() for frame in one.frames}, key=lambda name: _order(name))


def _video_problems(video: Video, folder: Path) -> Iterator[str]:
    frames = wanted_frames(video)
    if not frames:
        yield f"{video.name}: meta.json lists no frame for it; restore the file of YouTube-VOS"
        return
    if not folder.is_dir():
        yield f"{folder}: missing, with {len(frames)} masks"
        return
    known = {*frames, *video.images}
    for path in entries(folder):
        if path.suffix != ".png" or path.stem not in known or not path.is_file():
            yield f"{path}: not the mask of a frame of the video, <frame>.png; remove it"
    for frame in frames:
        entered = {
            number for number, one in video.objects.items() if one.frames and _order(one.frames[0]) <= _order(frame)
        }
        yield from _mask_problems(folder / f"{frame}.png", _size(video, frame), entered, set(video.objects))


def _mask_problems(path: Path, size: tuple[int, int] | None, entered: set[int], all_ids: set[int]) -> Iterator[str]:
    """The problems of one mask; `size` is its frame's (H, W), None where that is not at hand."""
    if not path.is_file():
        yield f"{path}: missing"
        return
    try:
        with Image.open(path) as image:
            form, mode, palette = image.format, image.mode, image.getpalette() or []
            labels = np.array(image)
    except UNREADABLE as error:
        yield f"{path}: damaged ({' '.join(str(error).split()) or type(error).__name__}); write it again"
        return
    if form != "PNG" or mode != "P":
        yield f"{path}: {form} of mode {mode}, not a palette PNG (mode P); write it with masks.write_mask"
        return
    if size is None:
        yield f"{path}: the size of its frame is not known; restore the images of the video"
    elif labels.shape != size:
        height, width = labels.shape
        yield f"{path}: is {width}x{height}, but its frame is {size[1]}x{size[0]}; bring it to that size"
    present = {int(value) for value in np.flatnonzero(np.bincount(labels.ravel(), minlength=256))} - {BACKGROUND}
    if strangers := sorted(present - all_ids):
        yield f"{path}: holds ids {_list(strangers)}, but meta.json has {_list(sorted(all_ids))}"
    if early := sorted((present & all_ids) - entered):
        yield f"{path}: holds ids {_list(early)}, which enter later; no mask may have them before"
    expected = davis_palette().ravel().tolist()
    if palette != expected[: len(palette)] or len(palette) < 3 * (max(present, default=0) + 1):
        yield f"{path}: its palette is not that of DAVIS; write it with masks.write_mask"


def _size(video: Video, frame: str) -> tuple[int, int] | None:
    """(H, W) of a frame, or of the first mask given for the video where its images are not there."""
    for path in (video.images.get(frame), *video.images.values(), *(one[0] for one in video.truths.values())):
        if path is not None:
            try:
                return image_size(path)
            except VideoError:
                continue
    return None


def _order(name: str) -> tuple[int, int, str]:
    """Frames are named by their number."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _list(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))

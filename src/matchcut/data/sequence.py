"""One sequence of a benchmark: its frames, its ground truth, and how that truth is read."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from matchcut.disk import is_plain_name
from matchcut.errors import DatasetError, MaskError
from matchcut.masks import LabelMap, MaskReader, object_ids, read_mask
from matchcut.pictures import ValueRange, open_picture, stored_values
from matchcut.video.images import UNREADABLE

Form = Literal["binary", "grey", "ids", "colours", "mask", "joints"]
"""How the files of a frame's truth are read.

binary: one file; a pixel above 0 is object 1 (255 too: there is no void).
grey: one file an object, in the order of their ids; a pixel above 127 belongs to it. Later objects lie over earlier.
ids: one palette or grey file; 0 is background, 255 void, the rest are ids.
colours: one file of regions, merged: any value above 0 is object 1; in RGB any colour but black and white.
mask: one file of any form that `masks.read_masks` takes, read alike over the sequence.
joints: a MATLAB file of the whole sequence, for `read_joints`.
"""


@dataclass(frozen=True)
class ObjectInfo:
    """What a benchmark says of one object.

    Attributes:
        category: its name there; "" where none is given.
        frames: names of the frames that YouTube-VOS lists for it, in order; the first is where it enters.
        seen: whether the category occurs in YouTube-VOS train; None where that is not known.
    """

    category: str
    frames: tuple[str, ...] = ()
    seen: bool | None = None


@dataclass(frozen=True)
class Sequence:
    """A video of a benchmark. Nothing is decoded to make one; `checks.check` says what is wrong with it.

    Raises:
        DatasetError: a name, of the sequence or of a frame, that may lead out of a folder.

    Attributes:
        name: of the sequence, as predictions are filed under.
        images: frame name (the stem of its file) to image file, in order. The frames of a video file are named by
            `Video.frame_name` and all lead to that file.
        truths: frame name to the files of its truth, in order, only where there is one.
        form: how those files are read.
        dense: whether every frame must have a truth.
        enters_later: whether objects may enter after the first mask.
        objects: by id, where the benchmark says something of them; then no other ids are allowed.
        problems: what the reader found wrong, a line each.
    """

    name: str
    images: dict[str, Path]
    truths: dict[str, tuple[Path, ...]]
    form: Form
    dense: bool = False
    enters_later: bool = False
    objects: dict[int, ObjectInfo] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @cached_property
    def reader(self) -> MaskReader | None:
        """What reads truths of the form "mask", so that a colour is one object in all of them."""
        if self.form != "mask":
            return None
        return MaskReader([path for files in self.truths.values() for path in files])

    def __post_init__(self) -> None:
        """Names come from lists and JSON that somebody else wrote, and files are named after them."""
        listed = (frame for one in self.objects.values() for frame in one.frames)
        for name in (self.name, *self.images, *self.truths, *listed):
            if not is_plain_name(name):
                raise DatasetError(
                    f"{name!r}: not the name of a sequence or frame, which is that of a file in a folder; mend the "
                    "list or JSON that holds it"
                )


def read_truth(sequence: Sequence, frame: str) -> LabelMap:
    """The truth of a frame, uint8 (H, W): 0 background, ids from 1, 255 void where the benchmark has void.

    Raises:
        DatasetError: the frame has no truth, or a file of it is missing, damaged, of the wrong form or size.
    """
    if sequence.form == "joints":
        raise DatasetError(f"{sequence.name}: its truth is joints, not masks; use read_joints")
    if frame not in sequence.truths:
        raise DatasetError(f"{sequence.name}: frame {frame} has no ground truth; choose one of its truths")
    files = sequence.truths[frame]
    labels = read_file(files[0], sequence.form, sequence.reader)
    for number, path in enumerate(files[1:], start=2):
        mask = read_file(path, sequence.form, sequence.reader)
        if mask.shape != labels.shape:
            raise DatasetError(f"{path}: differs in size from {files[0]}; replace one of them")
        labels[mask > 0] = number
    return labels


def read_file(path: Path, form: Form, reader: MaskReader | None = None) -> LabelMap:
    """One file of a truth, uint8 (H, W), values as `Form` says; a file of "grey" as 0 and 1.

    Args:
        reader: reads the form "mask" as the other files of the sequence; without it the file stands alone.

    Raises:
        DatasetError: missing, damaged, or of the wrong form.
    """
    if form == "mask":
        try:
            return read_mask(path) if reader is None else reader.read(path)
        except MaskError as error:
            raise DatasetError(str(error)) from error
    try:
        with open_picture(path) as image:
            pixels = _pixels(image, form)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing; restore it") from error
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(f"{path}: cannot be read as a mask ({reason}); replace it") from error
    if form == "grey":
        return np.asarray(pixels > 127, np.uint8)
    if form == "ids":
        if pixels.ndim != 2 or pixels.max() > 255 or pixels.min() < 0:
            raise DatasetError(f"{path}: not a palette or 8-bit grey image of ids; replace it by the published file")
        return np.asarray(pixels, np.uint8)
    if pixels.ndim == 2:
        return np.asarray(pixels > 0, np.uint8)
    colours = pixels[..., :3]
    inside = (colours > 0).any(axis=2)
    if form == "colours":
        inside &= (colours < 255).any(axis=2)
    return np.asarray(inside, np.uint8)


def _pixels(image: Image, form: Form) -> NDArray[Any]:
    """The values of an open image; of the form "grey" its brightness of 0 to 255, whatever its depth."""
    if form == "grey":
        if image.mode[0] != "I":
            return np.array(image.convert("L"))
        values = stored_values(image)
        return ValueRange.of(values).to_8_bits(values)
    return stored_values(image) if image.mode in ("1", "L", "P") or image.mode[0] == "I" else np.array(image)


def read_joints(sequence: Sequence) -> NDArray[np.float64]:
    """The joints of every annotated frame, float64 (frames, joints, 2): x, y in pixels, the first pixel's centre 0, 0.

    The file is JHMDB's `joint_positions.mat`: `pos_img` (2, joints, frames), counted from 1. It may hold fewer frames
    than the video has; they are the first.

    Raises:
        DatasetError: the sequence has no joints, or their file is missing or damaged.
    """
    from scipy.io import loadmat

    if sequence.form != "joints" or not sequence.truths:
        raise DatasetError(f"{sequence.name}: has no joints")
    ((path,), *_) = sequence.truths.values()
    if not path.exists():
        raise DatasetError(f"{path}: missing; restore it")
    try:
        positions = np.asarray(loadmat(path)["pos_img"], np.float64)
    except Exception as error:  # loadmat raises nearly anything for a damaged file
        raise DatasetError(f"{path}: not a joint file with pos_img ({type(error).__name__}); replace it") from error
    if positions.ndim != 3 or positions.shape[0] != 2:
        raise DatasetError(f"{path}: pos_img is {positions.shape}, expected (2, joints, frames); replace it")
    return positions.transpose(2, 1, 0) - 1


def prompts(sequence: Sequence) -> dict[str, tuple[int, ...]]:
    """Frame name to the ids whose mask is given there: of every object the first, in order of the frames.

    Where objects cannot enter later, that is the first mask that holds any. Of joints: the first frame, 1 to their
    number. Reads masks until all objects are found.

    Raises:
        DatasetError: a mask that must be read cannot be.
    """
    if sequence.form == "joints":
        return {next(iter(sequence.truths)): tuple(range(1, read_joints(sequence).shape[1] + 1))}
    found: dict[str, tuple[int, ...]] = {}
    known: set[int] = set()
    for frame, files in sequence.truths.items():
        ids = tuple(number for number in object_ids(read_truth(sequence, frame)) if number not in known)
        if ids:
            found[frame] = ids
            known.update(ids)
        all_ids = set(sequence.objects) or (set(range(1, len(files) + 1)) if sequence.form == "grey" else None)
        if known and (not sequence.enters_later or (all_ids and known >= all_ids)):
            break
    return found


def is_seen(sequence: Sequence, number: int) -> bool:
    """Whether YouTube-VOS counts an object's category as seen: it occurs in the train split.

    Raises:
        DatasetError: no such object, or the root did not hold `train/meta.json`, which says so.
    """
    info = sequence.objects.get(number)
    if info is None:
        raise DatasetError(f"{sequence.name}: no object {number} in meta.json; it names {sorted(sequence.objects)}")
    if info.seen is None:
        raise DatasetError(
            f"{sequence.name}: whether category '{info.category}' of object {number} is seen cannot be known; "
            "put train/meta.json of the same release under the root"
        )
    return info.seen

"""Tracking: from a video and a prompt to masks, as a timeline or in a folder."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matchcut.api.passes import Passes
from matchcut.api.records import (
    EarlierRun,
    earlier_run,
    measured_of,
    seconds_of,
    sure_of,
    update_record,
    versions,
    weakest_of,
)
from matchcut.errors import MaskError, PromptError
from matchcut.files import make_folder
from matchcut.folders import IMAGES, files_in
from matchcut.manifest import check_run, run_folder
from matchcut.masks import MAX_OBJECTS, LabelMap, check_mask, object_ids, read_masks, write_mask
from matchcut.models.base import GuidedModel
from matchcut.tracking.inputs import Boxes, Mask, as_annotations, as_boxes, as_label_map
from matchcut.tracking.outputs import CHECKPOINT, KIND, RECORD, Outputs, read_of, write_record
from matchcut.tracking.prompts import box_to_mask, check_box, combine
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Progress, Tracker
from matchcut.video.reader import Video
from matchcut.weights.store import model_of

Frame = NDArray[np.uint8]
Source = str | Path | Sequence[Any] | NDArray[Any] | Video
"""What a `Video` takes, or a `Video`."""
Prompt = Mask | Mapping[Any, Mask] | None
"""A mask, masks by frame (its number or name), or the path of a file or a folder of masks."""


def track(
    source: Source,
    mask: Prompt = None,
    *,
    boxes: Boxes = (),
    model: str | GuidedModel | None = None,
    preset: str | None = None,
    size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Timeline:
    """Carry the mask of a video's objects to every frame.

    Args:
        source: a video file, folder of frames, glob or `Video`; or what a `Video` takes besides: a list of image files,
            frames (T, H, W, 3) uint8.
        mask: what the first frame shows, a file or a label map (H, W) (`matchcut.tracking.inputs.as_label_map` says
            what is taken for one); a folder of masks named after their frames; or masks by frame, by its number or its
            name.
        boxes: instead of a mask, a box (left, top, right, bottom) in pixels an object on the first frame; or one alone.
        model: a name of `list_models()`, or any guided model; None is the default.
        preset: of a model by name, see `load_model`.
        size, device, precision: see `Tracker`.
        progress: called with frames done and frames to do.

    Returns:
        The filled timeline; `save` writes the masks, `save_video` the overlay.

    Raises:
        MatchcutError: the input, the prompt or the model cannot be used; the message says why.
    """
    video = source if isinstance(source, Video) else Video(source)
    annotations = annotations_of(video, mask, boxes)
    tracker = Tracker(model_of(model, preset=preset), size=size, device=device, precision=precision)
    timeline = Timeline(video)
    for frame, labels in annotations.items():
        timeline.annotate(frame, labels)
    tracker.fill(timeline, progress)
    return timeline


def annotations_of(
    video: Video,
    mask: Prompt,
    boxes: Boxes = (),
    *,
    frame: int = 0,
    threshold: float | None = None,
    image: Frame | None = None,
) -> dict[int, LabelMap]:
    """Label maps by frame index from any form a prompt can have, each checked against the video.

    Args:
        frame: the frame that a single mask or the boxes are of.
        threshold: see `read_masks`.
        image: the picture of that frame, where the video cannot be sought.

    Raises:
        MaskError, PromptError: the prompt does not fit the video; the message says why.
    """
    around = as_boxes(boxes)
    if (mask is None) == (not around) or (isinstance(mask, Mapping) and not mask):
        raise PromptError("nothing to track: give either a mask or boxes of the first frame")
    if len(around) > MAX_OBJECTS:
        raise PromptError(f"{len(around)} boxes are more than the {MAX_OBJECTS} objects that a label map can hold")
    if video.seekable and not 0 <= frame < len(video):
        raise PromptError(f"frame {frame} is not in the video, which has frames 0 to {len(video) - 1}")
    if around:
        checked = [check_box(box, video.size) for box in around]
        image = video[frame] if image is None else image
        return {frame: combine([box_to_mask(image, box) for box in checked])}
    if isinstance(mask, Mapping):
        given = as_annotations(mask, video)
        for index, labels in given.items():
            check_mask_or_empty(labels, video.size, f"the mask for frame {index}")
    elif not isinstance(mask, str | PathLike):
        given = {frame: as_label_map(mask, threshold=threshold)}  # type: ignore[arg-type]
        check_mask_or_empty(given[frame], video.size, "the mask")
    else:
        path = Path(mask)
        files = _mask_files(video, path) if path.is_dir() else {frame: path}
        given = dict(zip(files, read_masks(files.values(), threshold=threshold), strict=True))
        for index, labels in given.items():
            check_mask_or_empty(labels, video.size, str(files[index]))
    if not any(object_ids(labels) for labels in given.values()):
        check_mask(
            next(iter(given.values())), video.size, str(mask) if isinstance(mask, str | PathLike) else "the mask"
        )
    return given


def check_mask_or_empty(labels: LabelMap, size: tuple[int, int], where: str) -> None:
    """As `check_mask`, but a map without objects may pass: a frame on which all have left."""
    if labels.shape != tuple(size) or object_ids(labels):
        check_mask(labels, size, where)


def _mask_files(video: Video, folder: Path) -> dict[int, Path]:
    """The mask files of a folder, by the frame whose name they have, in the order of the frames."""
    frames = {name: index for index, name in enumerate(video.names())}
    files = files_in(folder, IMAGES)
    if not files:
        raise MaskError(f"{folder} holds no masks: expected PNGs named after their frames, as {next(iter(frames))}.png")
    strangers = [one.name for one in files if one.stem not in frames]
    if strangers:
        raise MaskError(
            f"{folder / strangers[0]}: no frame has this name ({len(strangers)} such masks); frames are named "
            f"{video.frame_name(0)} to {video.frame_name(len(video) - 1)}"
        )
    given: dict[int, Path] = {}
    for one in sorted(files, key=lambda one: frames[one.stem]):
        if (other := given.setdefault(frames[one.stem], one)) is not one:
            raise MaskError(f"{one}: a second mask of this frame beside {other.name}: remove one")
    return given


def run(
    video: Video,
    tracker: Tracker,
    folder: Path,
    outputs: Outputs,
    mask: Prompt = None,
    boxes: Boxes = (),
    *,
    frame: int = 0,
    threshold: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Sequence[Path] = (),
    about: Mapping[str, Any] | None = None,
    passes: Passes | None = None,
) -> dict[str, Any]:
    """Track a video into a folder, as the command does: masks as they come, then what else is wanted.

    An interrupted run of the same input and settings in the folder is gone on with, a finished one left as it is, but
    for masks that are damaged or gone: these are made anew.

    Args:
        inputs: other files that are read, of weights say, which nothing is written over.
        passes: those before this one, if any, whose time counts too; told of those that follow.

    Returns:
        What was measured (`measured_of`); `said`: what a user should know of it; and `weakest`: the frame that most
        needs a correction (`weakest_of`).

    Raises:
        MatchcutError: as `annotations_of` and `Tracker.fill`; the folder holds a run of other settings, or files of the
            user's where some would be written; see `run_folder`.
    """
    passes = passes or Passes()
    reads = [*read_of(video), *([Path(mask)] if isinstance(mask, str | Path) else []), *inputs]
    if not video.seekable:
        if frame:
            raise PromptError(f"frame {frame}: the prompt of a stream is of its first frame")
        first, frames = _first_frame(video)
        annotations = annotations_of(video, mask, boxes, threshold=threshold, image=first)
        there = [one.stem for place in ("masks", "cutout") for one in (folder / place).glob("[0-9]*.png")]
        with run_folder(folder, KIND, _names(there, outputs), inputs=reads, overwrite=overwrite, goes_on=False):
            return _run_stream(video, frames, annotations, tracker, folder, outputs, dict(about or {}), passes)
    annotations = annotations_of(video, mask, boxes, frame=frame, threshold=threshold)
    timeline = Timeline(video, folder / "masks", correctable=False)
    for index, labels in annotations.items():
        timeline.annotate(index, labels)
    fingerprint = tracker.fingerprint(timeline)
    earlier = earlier_run(folder, timeline, fingerprint) if resume else EarlierRun()
    names = outputs.names(video.names()) if earlier.whole else _names(video.names(), outputs)
    how: Any = {"inputs": reads, "overwrite": overwrite, "resume": resume, "ruined": earlier.ruined}
    with run_folder(folder, KIND, names, **how):
        if earlier.record is not None:
            sure = sure_of(earlier.record)
            for chain in timeline.chains():
                for index in chain.frames():
                    if timeline.has_file(index):
                        timeline.mark(index, sure.get(video.frame_name(index), {}), chain)
        if earlier.whole:
            measured: dict[str, Any] = {"frames": len(video), "finished_before": True, "seconds_a_stage": {}}
        else:
            make_folder(folder / "masks")
            passes.begin("tracking")
            tracker.fill(timeline, passes.progress, folder / CHECKPOINT)
            measured = measured_of(len(video), passes, tracker.seconds)
            timeline.save(folder, **(about or {}), **versions(), **measured, fingerprint=fingerprint)
        write_outputs(video, timeline, outputs, measured, passes)
    return {**measured, "said": earlier.remarks(), "weakest": weakest_of(timeline)}


def check_outputs(
    video: Video, outputs: Outputs, *, overwrite: bool = False, resume: bool = False, inputs: Sequence[Path] = ()
) -> None:
    """Before a model is loaded: whether a run over a video can be written into the folder of its outputs.

    Args:
        inputs: other files and folders that are read.

    Raises:
        OutputError: it cannot; see `run_folder`.
    """
    frames = video.names() if video.seekable and not resume else []  # where one goes on, it depends on what is there
    reads = [*read_of(video), *inputs]
    how: Any = {"inputs": reads, "overwrite": overwrite, "resume": resume, "goes_on": video.seekable}
    check_run(outputs.folder, KIND, _names(frames, outputs) if frames else [], **how)


def write_outputs(video: Video, timeline: Timeline, outputs: Outputs, measured: dict[str, Any], passes: Passes) -> None:
    """Write what is wanted besides masks, once the record stands; the time that it takes joins what was measured."""
    if outputs.wanted:
        passes.begin(f"writing {' and '.join(outputs.wanted)}")
        with outputs:
            for index, image in video.frames():
                found = timeline.labels(index)
                assert found is not None
                outputs.add(video.frame_name(index), image, found)
                if passes.progress is not None:
                    passes.progress(index + 1, len(video))
        if "finished_before" not in measured:
            measured |= seconds_of(passes)
        update_record(outputs.folder, {} if "finished_before" in measured else measured)


def _names(frames: Sequence[str], outputs: Outputs) -> list[str]:
    """The paths in its folder of what a run writes for frames of these names."""
    masks = [f"masks/{name}.png" for name in frames]
    return [*masks, RECORD, CHECKPOINT, *outputs.names(frames)]


def _first_frame(video: Video) -> tuple[Frame, Iterator[Frame]]:
    """The first frame of a stream, and all of them."""
    frames = iter(video)
    first = next(frames)
    return first, itertools.chain([first], frames)


def _run_stream(
    video: Video,
    frames: Iterator[Frame],
    annotations: Mapping[int, LabelMap],
    tracker: Tracker,
    folder: Path,
    outputs: Outputs,
    about: dict[str, Any],
    passes: Passes,
) -> dict[str, Any]:
    """As `run`, for frames that come once and cannot be sought."""
    count = 0
    shown: list[Frame] = []

    def seen() -> Iterator[Frame]:
        for one in frames:
            shown[:] = [one]
            yield one

    make_folder(folder / "masks")
    passes.begin("tracking")
    with outputs:
        for index, labels in tracker.stream(seen(), annotations):
            write_mask(folder / "masks" / f"{video.frame_name(index)}.png", labels)
            outputs.add(video.frame_name(index), shown[0], labels)
            count = index + 1
            if passes.progress is not None:
                passes.progress(count, 0)
    measured = measured_of(count, passes, tracker.seconds)
    described = {"input": video.source, "size": list(video.size), "frame_rate": float(video.frame_rate)}
    write_record(folder, {**described, **about, **versions(), **measured})
    return {**measured, "said": [], "weakest": None}

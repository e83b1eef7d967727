"""Tracking: from a video and a prompt to masks, as a timeline or in a folder."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matchcut.api.records import EarlierRun, earlier_run, measured_of, sure_of, update_record, versions
from matchcut.errors import MaskError, PromptError
from matchcut.files import make_folder
from matchcut.manifest import run_folder
from matchcut.masks import MAX_OBJECTS, LabelMap, check_mask, object_ids, read_mask, write_mask
from matchcut.models.base import GuidedModel
from matchcut.tracking.outputs import CHECKPOINT, KIND, RECORD, Outputs, read_of, write_record
from matchcut.tracking.prompts import box_to_mask, check_box, combine
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Progress, Tracker
from matchcut.video.reader import Video
from matchcut.weights.store import load_model

Frame = NDArray[np.uint8]


def track(
    source: str | Path | Video,
    mask: str | Path | LabelMap | Mapping[int, LabelMap] | None = None,
    *,
    boxes: Sequence[Sequence[float]] = (),
    model: str | GuidedModel | None = None,
    preset: str | None = None,
    size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Timeline:
    """Carry the mask of a video's objects to every frame.

    Args:
        source: a video file, folder of frames, glob or `Video`.
        mask: what the first frame shows, a file or a label map (H, W) uint8; a folder of masks named after their
            frames; or label maps by frame index.
        boxes: instead of a mask, a box (left, top, right, bottom) an object on the first frame.
        model: a name of `list_models()`, or any guided model; None is the default.
        preset, size, device, precision: see `load_model` and `Tracker`.
        progress: called with frames done and frames to do.

    Returns:
        The filled timeline; `save` writes the masks, `save_video` the overlay.

    Raises:
        MatchcutError: the input, the prompt or the model cannot be used; the message says why.
    """
    video = source if isinstance(source, Video) else Video(source)
    network: Any = load_model(model, preset=preset) if model is None or isinstance(model, str) else model
    tracker = Tracker(network, size=size, device=device, precision=precision)
    timeline = Timeline(video)
    for frame, labels in annotations_of(video, mask, boxes).items():
        timeline.annotate(frame, labels)
    tracker.fill(timeline, progress)
    return timeline


def annotations_of(
    video: Video,
    mask: str | Path | LabelMap | Mapping[int, LabelMap] | None,
    boxes: Sequence[Sequence[float]] = (),
    *,
    frame: int = 0,
    threshold: float | None = None,
    image: Frame | None = None,
) -> dict[int, LabelMap]:
    """Label maps by frame index from any form a prompt can have, each checked against the video.

    Args:
        frame: the frame that a single mask or the boxes are of.
        threshold: see `read_mask`.
        image: the picture of that frame, where the video cannot be sought.

    Raises:
        MaskError, PromptError: the prompt does not fit the video; the message says why.
    """
    if (mask is None) == (len(boxes) == 0) or (isinstance(mask, Mapping) and not mask):
        raise PromptError("nothing to track: give either a mask or boxes of the first frame")
    if len(boxes) > MAX_OBJECTS:
        raise PromptError(f"{len(boxes)} boxes are more than the {MAX_OBJECTS} objects that a label map can hold")
    if video.seekable and not 0 <= frame < len(video):
        raise PromptError(f"frame {frame} is not in the video, which has frames 0 to {len(video) - 1}")
    if len(boxes):
        checked = [check_box(box, video.size) for box in boxes]
        image = video[frame] if image is None else image
        return {frame: combine([box_to_mask(image, box) for box in checked])}
    if isinstance(mask, Mapping):
        given = dict(mask)
        absent = [index for index in given if video.seekable and not 0 <= index < len(video)]
        if absent:
            raise PromptError(f"frame {absent[0]} is not in the video, which has frames 0 to {len(video) - 1}")
    elif isinstance(mask, np.ndarray):
        given = {frame: mask}
    else:
        path = Path(mask)  # type: ignore[arg-type]
        given = _masks_in(video, path, threshold) if path.is_dir() else {frame: read_mask(path, threshold=threshold)}
        for index, labels in given.items():
            check_mask_or_empty(
                labels, video.size, str(path / f"{video.frame_name(index)}.png" if path.is_dir() else path)
            )
    if not any(object_ids(labels) for labels in given.values()):
        check_mask(next(iter(given.values())), video.size, str(mask) if isinstance(mask, str | Path) else "the mask")
    return given


def check_mask_or_empty(labels: LabelMap, size: tuple[int, int], where: str) -> None:
    """As `check_mask`, but a map without objects may pass: a frame on which all have left."""
    if labels.shape != tuple(size) or object_ids(labels):
        check_mask(labels, size, where)


def _masks_in(video: Video, folder: Path, threshold: float | None) -> dict[int, LabelMap]:
    """The masks of a folder, by the frame whose name they have."""
    frames = {name: index for index, name in enumerate(video.names())}
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() in (".png", ".bmp", ".tif", ".tiff"))
    if not files:
        raise MaskError(f"{folder} holds no masks: expected PNGs named after their frames, as {next(iter(frames))}.png")
    strangers = [one.name for one in files if one.stem not in frames]
    if strangers:
        raise MaskError(
            f"{folder / strangers[0]}: no frame has this name ({len(strangers)} such masks); frames are named "
            f"{video.frame_name(0)} to {video.frame_name(len(video) - 1)}"
        )
    return {frames[one.stem]: read_mask(one, threshold=threshold) for one in files}


def run(
    video: Video,
    tracker: Tracker,
    folder: Path,
    outputs: Outputs,
    mask: str | Path | Mapping[int, LabelMap] | None = None,
    boxes: Sequence[Sequence[float]] = (),
    *,
    frame: int = 0,
    threshold: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Sequence[Path] = (),
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Track a video into a folder, as the command does: masks as they come, then what else is wanted.

    An interrupted run of the same input and settings in the folder is gone on with, a finished one left as it is, but
    for masks that are damaged or gone: these are made anew.

    Args:
        inputs: other files that are read, of weights say, which nothing is written over.

    Returns:
        What was measured: frames, seconds, seconds a stage, frames a second, peak memory; and `said`: what a user
        should know of it.

    Raises:
        MatchcutError: as `annotations_of` and `Tracker.fill`; the folder holds a run of other settings, or files of the
            user's where some would be written; see `run_folder`.
    """
    started = time.perf_counter()
    reads = [*read_of(video), *([Path(mask)] if isinstance(mask, str | Path) else []), *inputs]
    if not video.seekable:
        if frame:
            raise PromptError(f"frame {frame}: the prompt of a stream is of its first frame")
        first, frames = _first_frame(video)
        annotations = annotations_of(video, mask, boxes, threshold=threshold, image=first)
        there = [one.stem for place in ("masks", "cutout") for one in (folder / place).glob("[0-9]*.png")]
        with run_folder(folder, KIND, _names(there, outputs), inputs=reads, overwrite=overwrite, goes_on=False):
            return _run_stream(video, frames, annotations, tracker, folder, outputs, dict(about or {}), progress)
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
            tracker.fill(timeline, progress, folder / CHECKPOINT)
            measured = measured_of(len(video), started, tracker.seconds)
            timeline.save(folder, **(about or {}), **versions(), **measured, fingerprint=fingerprint)
        write_outputs(video, timeline, outputs, measured)
    return {**measured, "said": earlier.remarks()}


def write_outputs(video: Video, timeline: Timeline, outputs: Outputs, measured: dict[str, Any]) -> None:
    """Write what is wanted besides masks, once the record stands; the time that it takes joins what was measured."""
    if outputs.wanted:
        started = time.perf_counter()
        with outputs:
            for index, image in video.frames():
                found = timeline.labels(index)
                assert found is not None
                outputs.add(video.frame_name(index), image, found)
        measured["seconds_a_stage"]["outputs"] = round(time.perf_counter() - started, 3)
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
    progress: Progress | None,
) -> dict[str, Any]:
    """As `run`, for frames that come once and cannot be sought."""
    started, count = time.perf_counter(), 0
    shown: list[Frame] = []

    def seen() -> Iterator[Frame]:
        for one in frames:
            shown[:] = [one]
            yield one

    make_folder(folder / "masks")
    with outputs:
        for index, labels in tracker.stream(seen(), annotations):
            write_mask(folder / "masks" / f"{video.frame_name(index)}.png", labels)
            outputs.add(video.frame_name(index), shown[0], labels)
            count = index + 1
            if progress is not None:
                progress(count, 0)
    measured = measured_of(count, started, tracker.seconds)
    described = {"input": video.source, "size": list(video.size), "frame_rate": float(video.frame_rate)}
    write_record(folder, {**described, **about, **versions(), **measured})
    return {**measured, "said": []}

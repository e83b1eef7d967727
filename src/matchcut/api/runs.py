"""A run: a video into a folder, as the commands do, with a guided model or an automatic one."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matchcut.api.guided import Prompt, annotations_of
from matchcut.api.passes import Passes
from matchcut.api.records import earlier_run, measured_of, seconds_of, update_record, versions, weakest_of
from matchcut.errors import PromptError
from matchcut.files import make_folder
from matchcut.manifest import check_run, run_folder
from matchcut.masks import Frame, LabelMap, write_mask
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.inputs import Boxes
from matchcut.tracking.outputs import CHECKPOINT, KIND, RECORD, Outputs, read_of, write_record
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.reader import Video


def run(
    video: Video,
    runner: Tracker | Segmenter,
    folder: Path,
    outputs: Outputs,
    annotations: Mapping[int, LabelMap] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Sequence[Path] = (),
    about: Mapping[str, Any] | None = None,
    passes: Passes | None = None,
) -> dict[str, Any]:
    """Masks of a video into a folder, as they come; then what else is wanted.

    An interrupted run of the same input and settings in the folder is gone on with, a finished one left as it is, but
    for masks that are damaged or gone: these are made anew.

    Args:
        runner: with a guided model, or one that needs no prompt.
        annotations: what is given, by frame; nothing for a model that needs no prompt.
        inputs: other files that are read, of weights say, which nothing is written over.
        about: more for the record.
        passes: those before this one, if any, whose time counts too; told of those that follow.

    Returns:
        What was measured (`measured_of`); `said`: what a user should know of it; and `weakest`: the frame that most
        needs a correction (`weakest_of`).

    Raises:
        MatchcutError: as `fill`; the folder holds a run of other settings, or files of the user's where some would be
            written; see `run_folder`.
    """
    if not video.seekable:
        raise PromptError(f"{video.source}: a stream cannot be segmented: frames are needed twice; save it first")
    passes = passes or Passes()
    reads = [*read_of(video), *inputs]
    timeline = Timeline(video, folder / "masks", correctable=False)
    for index, labels in (annotations or {}).items():
        timeline.annotate(index, labels)
    fingerprint = timeline.fingerprint(runner.fingerprint())
    earlier = earlier_run(folder, timeline, fingerprint, resume)
    names = outputs.names(video.names()) if earlier.whole else _names(video.names(), outputs)
    how: Any = {"inputs": reads, "overwrite": overwrite, "resume": resume, "ruined": earlier.ruined}
    with run_folder(folder, KIND, names, **how):
        earlier.restore(timeline)
        if earlier.whole:
            measured: dict[str, Any] = {"frames": len(video), "finished_before": True, "seconds_a_stage": {}}
        else:
            make_folder(folder / "masks")
            passes.begin("tracking" if annotations else "finding the object")
            runner.fill(timeline, passes.progress, folder / CHECKPOINT)
            measured = measured_of(len(video), passes, runner.seconds)
            timeline.save(folder, **(about or {}), **versions(), **measured, fingerprint=fingerprint)
        _write_outputs(video, timeline, outputs, measured, passes)
    said = earlier.remarks() if annotations else [*remarks(timeline), *earlier.remarks()]
    return {**measured, "said": said, "weakest": weakest_of(timeline)}


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


def _write_outputs(
    video: Video, timeline: Timeline, outputs: Outputs, measured: dict[str, Any], passes: Passes
) -> None:
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


def run_stream(
    video: Video,
    tracker: Tracker,
    folder: Path,
    outputs: Outputs,
    mask: Prompt,
    boxes: Boxes = (),
    *,
    frame: int = 0,
    threshold: float | None = None,
    overwrite: bool = False,
    inputs: Sequence[Path] = (),
    about: Mapping[str, Any] | None = None,
    passes: Passes | None = None,
) -> dict[str, Any]:
    """As `run`, for frames that come once and cannot be sought.

    Args:
        mask, boxes, threshold: the prompt of the first frame, see `annotations_of`.
    """
    if frame:
        raise PromptError(f"frame {frame}: the prompt of a stream is of its first frame")
    passes = passes or Passes()
    frames = iter(video)
    first = next(frames)
    annotations = annotations_of(video, mask, boxes, threshold=threshold, image=first)
    reads = [*read_of(video), *([Path(mask)] if isinstance(mask, str | Path) else []), *inputs]
    there = [one.stem for place in ("masks", "cutout") for one in (folder / place).glob("[0-9]*.png")]
    with run_folder(folder, KIND, _names(there, outputs), inputs=reads, overwrite=overwrite, goes_on=False):
        count = 0
        shown: list[Frame] = []

        def seen() -> Iterator[Frame]:
            for one in itertools.chain([first], frames):
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
        write_record(folder, {**described, **(about or {}), **versions(), **measured})
        return {**measured, "said": [], "weakest": None}


def remarks(timeline: Timeline) -> list[str]:
    """What a user should know of a video that was segmented with no prompt, a line each."""
    lines, count, name = [], len(timeline), timeline.video.frame_name
    still, cuts, missing = (timeline.noted(what) for what in ("still", "cut", "flow"))
    if len(still) == count:
        what = "a single frame shows no motion" if count == 1 else "nothing moves in this video"
        lines.append(f"{what}: the object was looked for by appearance alone, and may be another")
    elif still:
        lines.append(f"nothing moves in {len(still)} of {count} frames: there it was found by appearance alone")
    if cuts:
        names = ", ".join(name(one) for one in cuts[:5]) + ", ..." * (len(cuts) > 5)
        lines.append(f"{len(cuts) + 1} scenes: cuts before {names}; no motion was taken across them")
    if missing:
        names = ", ".join(name(one) for one in missing[:5]) + ", ..." * (len(missing) > 5)
        lines.append(f"{len(missing)} frames had no precomputed flow ({names}); theirs was computed")
    return lines

"""Segmenting with no prompt: the primary moving object of a video, as a timeline or in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from matchcut.api.guided import Source, run, write_outputs
from matchcut.api.passes import Passes
from matchcut.api.records import EarlierRun, earlier_run, measured_of, versions, weakest_of
from matchcut.errors import ModelError, PromptError
from matchcut.files import make_folder
from matchcut.manifest import run_folder
from matchcut.models.base import AutomaticModel
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.instances import After, annotations_from
from matchcut.tracking.motion import FlowSource
from matchcut.tracking.outputs import KIND, LOG, RECORD, Outputs, read_of
from matchcut.tracking.placement import pick_device
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Progress, Tracker
from matchcut.video.flow import dis_flow
from matchcut.video.reader import Video
from matchcut.weights.specs import AUTOMATIC
from matchcut.weights.store import load_model, model_of


def segment(
    source: Source,
    *,
    model: str | AutomaticModel | None = None,
    after: After | None = None,
    flow: str | Path = "dis",
    size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Timeline:
    """Find the primary moving object of a video, with no prompt.

    Args:
        source: see `track`.
        model: a name, or any automatic model; None is the default.
        after: "track" hands the surest frames to the default guided tracker, which fills the others from them;
            "objects" also splits the region into instances that stay apart.
        flow: "dis", "raft-small", "raft-large", or a folder of precomputed flow (see `FlowSource`).
        size, device, precision: see `Segmenter`.
        progress: called with frames done and frames to do.

    Returns:
        The filled timeline; `save` writes the masks, `save_video` the overlay.

    Raises:
        MatchcutError: the input, the flow or the model cannot be used; the message says why.
    """
    video = source if isinstance(source, Video) else Video(source)
    if after not in (None, *get_args(After)):
        raise PromptError(f"after: expected {', '.join(map(repr, get_args(After)))} or None, got {after!r}")
    network = model_of(AUTOMATIC if model is None else model)
    segmenter = Segmenter(network, size=size, device=device, precision=precision, flow=flow_source(flow, device=device))
    timeline = Timeline(video)
    segmenter.fill(timeline, progress)
    if after is None:
        return timeline
    tracker = Tracker(load_model(), device=device, precision=precision)  # type: ignore[arg-type]
    annotations = annotations_from(timeline, segmenter.cuts, tracker, after)
    tracked = Timeline(video)
    for frame, labels in annotations.items():
        tracked.annotate(frame, labels)
    tracker.fill(tracked, progress)
    return tracked


def flow_source(
    flow: str | Path, *, weights: Path | None = None, cache: Path | None = None, device: str = "auto"
) -> FlowSource:
    """Where optical flow comes from, by what a user names: dis, raft-small, raft-large or a folder.

    Raises:
        MatchcutError: no such network or folder, or no weights.
    """
    if weights is not None and (str(flow) == "dis" or Path(flow).is_dir()):
        raise PromptError(
            f"{weights}: are weights of raft-small or raft-large, and the flow is {flow}; name the network"
        )
    if str(flow) == "dis":
        return FlowSource(dis_flow, cache=cache)
    if not Path(flow).is_dir():
        from matchcut.models.raft import Raft  # torchvision's models take a second to load

        return FlowSource(Raft(str(flow), weights, pick_device(device)), cache=cache)
    return FlowSource(folder=Path(flow), cache=cache)


def run_automatic(
    video: Video,
    segmenter: Segmenter,
    folder: Path,
    outputs: Outputs,
    *,
    tracker: Tracker | None = None,
    after: After | None = None,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Sequence[Path] = (),
    about: Mapping[str, Any] | None = None,
    passes: Passes | None = None,
) -> dict[str, Any]:
    """Segment a video into a folder, as the command does: masks as they come, then what else is wanted.

    An interrupted run of the same input and settings goes on, a finished one is left as it is.

    Args:
        tracker: of `after`, where that is given.
        inputs, passes: as of `run`.

    Returns:
        As `run`.

    Raises:
        MatchcutError: the input, the flow or the folder cannot be used.
    """
    if not video.seekable:
        raise PromptError(f"{video.source}: a stream cannot be segmented: frames are needed twice; save it first")
    passes = passes or Passes()
    flow = segmenter.flow
    folders = {place for place in (flow.cache, *(one.parent for one in flow.files.values())) if place is not None}
    reads = [*read_of(video), *flow.files.values(), *folders, *inputs]
    masks = [f"masks/{name}.png" for name in video.names()]
    if after is not None:
        if tracker is None:
            raise ModelError(f"after={after!r} needs a tracker")
        # What cannot be written is said before minutes are spent.
        names = [] if resume else [*masks, RECORD, *outputs.names(video.names())]
        with run_folder(folder, KIND, names, inputs=reads, overwrite=overwrite, resume=resume):
            with TemporaryDirectory() as scratch:  # in memory, masks would grow with the video
                timeline = Timeline(video, Path(scratch), correctable=False)
                passes.begin("finding the object")
                segmenter.fill(timeline, passes.progress)
                if after == "objects":
                    passes.begin("splitting it into objects")
                given = annotations_from(timeline, segmenter.cuts, tracker, after, passes.progress)
            said = remarks(video, segmenter)
            record = {
                **(about or {}),
                **found_of(video, segmenter),
                "handed_on": [video.frame_name(one) for one in given],
            }
            how: Any = {"resume": True, "inputs": reads, "about": record, "passes": passes}
            measured = run(video, tracker, folder, outputs, given, **how)
        return {**measured, "said": [*said, *measured["said"]]}
    timeline = Timeline(video, folder / "masks", correctable=False)
    fingerprint = segmenter.fingerprint(timeline)
    earlier = earlier_run(folder, timeline, fingerprint) if resume else EarlierRun()
    names = outputs.names(video.names())
    if not earlier.whole:
        names = [*masks, RECORD, LOG, *names]
    how = {"inputs": reads, "overwrite": overwrite, "resume": resume, "ruined": earlier.ruined}
    with run_folder(folder, KIND, names, **how):
        if earlier.whole:
            for frame in range(len(video)):
                timeline.mark(frame, {}, segmenter.chain(timeline))
            measured = {"frames": len(video), "finished_before": True, "seconds_a_stage": {}}
        else:
            make_folder(folder / "masks")
            passes.begin("finding the object")
            segmenter.fill(timeline, passes.progress, log=folder / LOG, fingerprint=fingerprint)
            measured = measured_of(len(video), passes, segmenter.seconds)
            more = {**(about or {}), **versions(), **measured, **found_of(video, segmenter)}
            timeline.save(folder, **more, fingerprint=fingerprint)
            (folder / LOG).unlink(missing_ok=True)
        write_outputs(video, timeline, outputs, measured, passes)
    said = [] if earlier.whole else [*remarks(video, segmenter), *earlier.remarks()]
    return {**measured, "said": said, "weakest": weakest_of(timeline)}


def found_of(video: Video, segmenter: Segmenter) -> dict[str, Any]:
    """For the record: frames without motion, and where scenes begin."""
    return {
        "still_frames": [video.frame_name(one) for one in segmenter.still],
        "cuts": [video.frame_name(one) for one in segmenter.cuts],
        "flow": segmenter.flow.name,
        "flow_computed_instead": segmenter.flow.missing,
    }


def remarks(video: Video, segmenter: Segmenter) -> list[str]:
    """What a user should know of the video that was segmented last, a line each."""
    lines, count = [], len(video)
    if len(segmenter.still) == count:
        what = "a single frame shows no motion" if count == 1 else "nothing moves in this video"
        lines.append(f"{what}: the object was looked for by appearance alone, and may be another")
    elif segmenter.still:
        lines.append(
            f"nothing moves in {len(segmenter.still)} of {count} frames: there it was found by appearance alone"
        )
    if segmenter.cuts:
        names = ", ".join(video.frame_name(one) for one in segmenter.cuts[:5]) + ", ..." * (len(segmenter.cuts) > 5)
        lines.append(f"{len(segmenter.cuts) + 1} scenes: cuts before {names}; no motion was taken across them")
    if missing := segmenter.flow.missing:
        names = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
        lines.append(f"{len(missing)} frames had no precomputed flow ({names}); theirs was computed")
    return lines

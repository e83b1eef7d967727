"""Segmenting with no prompt: the primary moving object of a video, as a timeline or in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from matchcut.api.guided import Source
from matchcut.api.passes import Passes
from matchcut.api.runs import check_outputs, remarks, run
from matchcut.errors import ModelError, PromptError
from matchcut.flow.fields import dis_flow
from matchcut.flow.source import FlowSource
from matchcut.models.base import AutomaticModel
from matchcut.models.catalogue import AUTOMATIC
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.device import pick_device
from matchcut.tracking.instances import After, annotations_from
from matchcut.tracking.outputs import Outputs
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Progress, Tracker
from matchcut.video.reader import Video
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
    annotations = annotations_from(timeline, tracker, after)
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
        from matchcut.flow.raft import Raft  # torchvision's models take a second to load

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
    """Segment a video into a folder with no prompt, and hand what was found to a tracker, where that is wanted.

    Args:
        tracker: of `after`, where that is given.
        overwrite, resume, inputs, about, passes: as of `run`, whose result it returns.

    Raises:
        MatchcutError: the input, the flow or the folder cannot be used.
    """
    passes, flow = passes or Passes(), segmenter.flow
    folders = {place for place in (flow.cache, *(one.parent for one in flow.files.values())) if place is not None}
    reads = [*flow.files.values(), *folders, *inputs]
    about = {**(about or {}), "flow": flow.name}
    how: Any = {"overwrite": overwrite, "resume": resume, "inputs": reads, "passes": passes}
    if after is None:
        return run(video, segmenter, folder, outputs, about=about, **how)
    if tracker is None:
        raise ModelError(f"after={after!r} needs a tracker")
    # What cannot be written is said before minutes are spent.
    check_outputs(video, outputs, overwrite=overwrite, resume=resume, inputs=reads)
    with TemporaryDirectory() as scratch:  # in memory, masks would grow with the video
        timeline = Timeline(video, Path(scratch), correctable=False)
        passes.begin("finding the object")
        segmenter.fill(timeline, passes.progress)
        if after == "objects":
            passes.begin("splitting it into objects")
        given = annotations_from(timeline, tracker, after, passes.progress)
        said, notes = remarks(timeline), timeline.record()["notes"]
    about = {**about, "found_first": notes, "handed_on": [video.frame_name(one) for one in given]}
    measured = run(video, tracker, folder, outputs, given, about=about, **how)
    return {**measured, "said": [*said, *measured["said"]]}

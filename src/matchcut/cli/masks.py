"""`track` and `segment`: from videos to masks, with a prompt and without."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matchcut.cli import options
from matchcut.cli.clock import BEGAN
from matchcut.cli.options import PROMPT, option
from matchcut.cli.shared import Bar, boxes_of, check_one_of, correct, folders_of, one_each, resumable, summarise
from matchcut.cli.terminal import starting
from matchcut.errors import PromptError

if TYPE_CHECKING:
    from matchcut.tracking.outputs import Outputs
    from matchcut.video.reader import Video


def track(
    inputs: Annotated[
        list[str], typer.Argument(help="Video files, folders of frames, globs; - is raw Y4M on standard input.")
    ],
    *,
    mask: Annotated[
        list[Path] | None,
        option(group=PROMPT, help="Mask of the objects on the first frame; of several inputs one, or one each."),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        option(group=PROMPT, help="Folder of masks named after their frames: later objects, corrections."),
    ] = None,
    box: Annotated[
        list[str] | None,
        option(
            group=PROMPT,
            help="left,top,right,bottom in pixels instead of a mask. For one input, one an object; for several inputs "
            "one, or one each.",
        ),
    ] = None,
    frame: Annotated[int, option(group=PROMPT, help="The frame that --mask or --box is of.", min=0)] = 0,
    threshold: Annotated[
        float | None, option(group=PROMPT, help="Make a grey mask binary: 0 to 1 of full white.", min=0, max=1)
    ] = None,
    model: options.Model = None,
    preset: options.Preset = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    size: options.Size = None,
    start: options.Start = 0,
    end: options.End = None,
    stride: options.Stride = 1,
    allow_truncated: options.AllowTruncated = False,
    out: options.Out,
    overlay: options.Overlay = False,
    cutout: options.Cutout = None,
    coco: options.Coco = False,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
) -> None:
    """Carry the mask of a video's objects to every frame."""
    _check(cutout, overwrite, resume)
    if sum(map(bool, (mask, masks, box))) != 1:
        raise PromptError("give one of --mask FILE, --masks FOLDER and --box left,top,right,bottom")
    prompts = one_each(inputs, mask or masks, "--mask" if mask else "--masks")
    boxes = boxes_of(inputs, box or [])
    starting()
    from matchcut import api
    from matchcut.tracking.tracker import Tracker

    selected = {"start": start, "end": end, "stride": stride, "allow_truncated": allow_truncated}
    wanted = {"overlay": overlay, "cutout": cutout, "coco": coco}
    opened = _open(inputs, out, selected, wanted)
    how: Any = {"overwrite": overwrite, "resume": resume}
    asked: list[Any] = []
    for (video, outputs), prompt, around in zip(opened, prompts, boxes, strict=True):
        # What cannot be used is said before a model is loaded, and before anything is written.
        read = [one for one in (prompt, weights) if one is not None]
        api.check_outputs(video, outputs, **how, inputs=read)
        if video.seekable:
            asked.append((api.annotations_of(video, prompt, around, frame=frame, threshold=threshold), (), read))
        else:
            asked.append((prompt, around, read))
    network: Any = api.load_model(model, preset=preset, backbone=backbone, weights=weights)
    chosen = {"model": model, "preset": preset, "backbone": backbone, "weights": weights, "size": size}
    began = BEGAN
    for source, (video, outputs), prompt, (given, around, read) in zip(inputs, opened, prompts, asked, strict=True):
        tracker = Tracker(network, size=size, device=device, precision=precision)
        about = api.about_model(tracker, model, preset, backbone, weights)
        with resumable(), Bar(video.name) as bar:
            passes = api.Passes(began, bar.begin, bar.update)
            place = video, tracker, outputs.folder, outputs
            if video.seekable:
                measured = api.run(*place, given, **how, inputs=read, about=about, passes=passes)
            else:
                prompted: Any = {"frame": frame, "threshold": threshold, "overwrite": overwrite}
                measured = api.run_stream(*place, given, around, **prompted, inputs=read, about=about, passes=passes)
        hand_made = prompt if prompt is not None and prompt.is_dir() else None
        summarise(outputs.folder, measured, wanted, [*outputs.said, *measured["said"]])
        correct(outputs.folder, measured["weakest"], source, {**selected, **chosen, **wanted}, hand_made)
        began = perf_counter()


def segment(
    inputs: Annotated[list[str], typer.Argument(help="Video files, folders of frames, globs.")],
    *,
    track: Annotated[
        bool, typer.Option("--track", help="Hand the surest frames to the guided tracker, which fills the others.")
    ] = False,
    objects: Annotated[
        bool, typer.Option("--objects", help="Split what moves into instances that stay apart; implies --track.")
    ] = False,
    flow: Annotated[
        str, typer.Option(help="Optical flow: dis, raft-small, raft-large, or a folder of it, <frame name>.flo.")
    ] = "dis",
    flow_weights: Annotated[Path | None, typer.Option(help="RAFT's weights, instead of a download.")] = None,
    flow_cache: Annotated[Path | None, typer.Option(help="Folder in which optical flow is kept.")] = None,
    model: options.Model = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    size: options.Size = None,
    start: options.Start = 0,
    end: options.End = None,
    stride: options.Stride = 1,
    allow_truncated: options.AllowTruncated = False,
    out: options.Out,
    overlay: options.Overlay = False,
    cutout: options.Cutout = None,
    coco: options.Coco = False,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
) -> None:
    """Cut out the primary moving object, with no prompt."""
    _check(cutout, overwrite, resume)
    starting()
    from matchcut import api
    from matchcut.models.catalogue import AUTOMATIC
    from matchcut.tracking.automatic import Segmenter
    from matchcut.tracking.tracker import Tracker

    selected = {"start": start, "end": end, "stride": stride, "allow_truncated": allow_truncated}
    wanted = {"overlay": overlay, "cutout": cutout, "coco": coco}
    opened = _open(inputs, out, selected, wanted)
    how: Any = {
        "overwrite": overwrite,
        "resume": resume,
        "inputs": [one for one in (weights, flow_weights) if one is not None],
    }
    for video, outputs in opened:  # before a model is loaded
        api.check_outputs(video, outputs, **how)
    name = AUTOMATIC if model is None else model
    network: Any = api.load_model(name, weights=weights)
    guided: Any = api.load_model() if track or objects else None
    began = BEGAN
    for given, (video, outputs) in zip(inputs, opened, strict=True):
        cache = flow_cache / video.name if flow_cache and len(opened) > 1 else flow_cache
        source = api.flow_source(flow, weights=flow_weights, cache=cache, device=device)
        segmenter = Segmenter(network, size=size, device=device, precision=precision, flow=source)
        tracker = Tracker(guided, device=device, precision=precision) if guided else None
        with resumable(), Bar(video.name) as bar:
            measured = api.run_automatic(
                *(video, segmenter, outputs.folder, outputs),
                tracker=tracker,
                after=("objects" if objects else "track") if tracker else None,
                **how,
                about=api.about_model(segmenter, name, weights=weights),
                passes=api.Passes(began, bar.begin, bar.update),
            )
        summarise(outputs.folder, measured, wanted, [*outputs.said, *measured["said"]])
        correct(outputs.folder, measured["weakest"], given, {**selected, **wanted})
        began = perf_counter()


def _check(cutout: str | None, overwrite: bool, resume: bool) -> None:
    """Refuse options that cannot be meant, before anything is loaded."""
    check_one_of(overwrite=overwrite, resume=resume)
    if cutout not in (None, "png", "mov"):
        raise PromptError(f'--cutout {cutout}: expected "png" or "mov"')


def _open(
    inputs: list[str], out: Path, selected: dict[str, Any], wanted: dict[str, Any]
) -> "list[tuple[Video, Outputs]]":
    """Each input, opened, with what is to be written of it."""
    from matchcut.tracking.outputs import Outputs
    from matchcut.video.reader import Video

    videos = [Video(one, **selected) for one in inputs]
    return [
        (video, Outputs(folder, video.size, video.frame_rate, source=video, **wanted))
        for video, folder in zip(videos, folders_of(out, videos), strict=True)
    ]

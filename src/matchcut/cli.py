"""The command line: parses, calls the library, prints. What it does lives in `matchcut.api`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matchcut.errors import MatchcutError, PromptError

if TYPE_CHECKING:
    from matchcut.benchmarks.results import Result
    from matchcut.video.reader import Video

app = typer.Typer(
    name="matchcut",
    help="Cut any object out of a video by matching.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Cut any object out of a video by matching."""


@app.command()
def track(
    inputs: Annotated[
        list[str], typer.Argument(help="Video files, folders of frames, globs; - is raw Y4M on standard input.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; of several inputs, one in it each.")
    ],
    mask: Annotated[
        list[Path] | None, typer.Option(help="Mask of the objects on the first frame; of several inputs, one each.")
    ] = None,
    masks: Annotated[
        list[Path] | None, typer.Option(help="Folder of masks named after their frames: later objects, corrections.")
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="left,top,right,bottom in pixels instead of a mask; once an object.")
    ] = None,
    frame: Annotated[int, typer.Option(help="The frame that --mask or --box is of.", min=0)] = 0,
    threshold: Annotated[
        float | None, typer.Option(help="Make a grey mask binary: 0 to 1 of full white.", min=0, max=1)
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also overlay.mp4: the video with the masks on it.")
    ] = False,
    cutout: Annotated[
        str | None, typer.Option(help='Also the objects cut out: "png" (a folder of RGBA) or "mov" (ProRes 4444).')
    ] = None,
    coco: Annotated[bool, typer.Option("--coco", help="Also coco.json: the masks as run lengths.")] = False,
    model: Annotated[str | None, typer.Option(help="See `matchcut models`.")] = None,
    preset: Annotated[str | None, typer.Option(help="A published protocol: crw, dino, vfs or mask-vos.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm model instead of the default backbone.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A local file: a training run's weights, or the --backbone's.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "auto",
    size: Annotated[
        int | None, typer.Option(help="Short side it works at; masks have full size anyway.", min=32)
    ] = None,
    start: Annotated[int, typer.Option(help="First frame.", min=0)] = 0,
    end: Annotated[int | None, typer.Option(help="Frame to stop before.", min=1)] = None,
    stride: Annotated[int, typer.Option(help="Every n-th frame.", min=1)] = 1,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Go on with the frames of a video that ends early.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left in -o.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in -o.")] = False,
) -> None:
    """Carry the mask of a video's objects to every frame."""
    from matchcut import api
    from matchcut.tracking.outputs import Outputs
    from matchcut.tracking.tracker import Tracker
    from matchcut.video.reader import Video

    if cutout not in (None, "png", "mov"):
        raise PromptError(f'--cutout {cutout}: expected "png" or "mov"')
    boxes = [_parse_box(one) for one in box or []]
    prompts = _one_each(inputs, mask or masks, "--mask" if mask else "--masks")
    if sum(map(bool, (mask, masks, boxes))) != 1:
        raise PromptError("give one of --mask FILE, --masks FOLDER and --box left,top,right,bottom")
    videos = [Video(one, start=start, end=end, stride=stride, allow_truncated=allow_truncated) for one in inputs]
    folders = _folders(out, videos)
    for video, prompt in zip(videos, prompts, strict=True):  # what does not fit is said before anything is written
        if video.seekable:
            api.annotations_of(video, prompt, boxes, frame=frame, threshold=threshold)
    network: Any = api.load_model(model, preset=preset, backbone=backbone, weights=str(weights) if weights else None)
    wanted: Any = {"overlay": overlay, "cutout": cutout, "coco": coco}
    for video, prompt, folder in zip(videos, prompts, folders, strict=True):
        tracker = Tracker(network, size=size, device=device, precision=precision)
        about = api.about_model(model, preset, backbone, tracker)
        outputs = Outputs(folder, video.size, video.frame_rate, **wanted)
        try:
            with _Bar(video.name) as bar:
                measured = api.run(
                    *(video, tracker, folder, outputs, prompt, boxes),
                    frame=frame,
                    threshold=threshold,
                    overwrite=overwrite,
                    resume=resume,
                    about=about,
                    progress=bar.update,
                )
        except KeyboardInterrupt as stop:
            typer.echo("matchcut: stopped; run the same command with --resume to go on", err=True)
            raise typer.Exit(130) from stop
        _summary(folder, measured, wanted)


@app.command()
def score(
    benchmark: Annotated[
        str, typer.Argument(help="davis2016, davis2017, youtube-vos-2019, ...; a wrong one lists all.")
    ],
    root: Annotated[Path, typer.Option(help="Root of the benchmark, as published.")],
    masks: Annotated[Path, typer.Option(help="Folder of predictions, <sequence>/<frame>.png; or the OUT of a run.")],
    split: Annotated[str | None, typer.Option(help="By default the one that papers report.")] = None,
    sequences: Annotated[list[str] | None, typer.Option(help="Only these: --sequences bus flamingo.")] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,  # what follows the first of --sequences
    missing: Annotated[str, typer.Option(help='"error", or "empty": a missing prediction counts as empty.')] = "error",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for CSVs, report.json and plots.")] = None,
    compare: Annotated[Path | None, typer.Option(help="OUT of another run, to be put beside this one.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="By default one a core, where they can be forked.", min=1)
    ] = None,
    reference_fault: Annotated[
        bool, typer.Option("--reference-fault", help="Decay as the reference code has it beyond 256 frames.")
    ] = False,
) -> None:
    """Score anyone's masks by a benchmark's official protocol."""
    from matchcut.benchmarks.score import score as run_score

    if missing not in ("error", "empty"):
        raise PromptError(f'--missing {missing}: expected "error" or "empty"')
    wanted: Any = {"split": split, "missing": missing, "processes": processes, "reference_fault": reference_fault}
    result = run_score(benchmark, root, masks, sequences=_names(sequences, more), **wanted)
    if compare is None:
        _report(result, out)
    else:
        from matchcut.benchmarks.report import read_report

        _report(result, out, read_report(compare))


@app.command()
def evaluate(
    benchmark: Annotated[str, typer.Argument(help="davis2016, davis2017, vip, ...; a wrong one lists all.")],
    root: Annotated[Path, typer.Option(help="Root of the benchmark, as published.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for masks, CSVs, report.json and plots.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="By default the one that papers report.")] = None,
    sequences: Annotated[list[str] | None, typer.Option(help="Only these: --sequences bus flamingo.")] = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,  # what follows the first of --sequences
    model: Annotated[str | None, typer.Option(help="See `matchcut models`.")] = None,
    preset: Annotated[str | None, typer.Option(help="A published protocol: crw, dino, vfs or mask-vos.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm model instead of the default backbone.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A local file: a training run's weights, or the --backbone's.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "auto",
    size: Annotated[int | None, typer.Option(help="Short side it works at.", min=32)] = None,
    processes: Annotated[int, typer.Option(help="That share the sequences and the cores.", min=1)] = 1,
    compare: Annotated[Path | None, typer.Option(help="OUT of another run, to be put beside this one.")] = None,
    submission: Annotated[
        str | None, typer.Option(help='"youtube-vos": also submission.zip, as the server takes it.')
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what is wrong with the benchmark's files.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run left in -o.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in -o.")] = False,
) -> None:
    """Run a model on a benchmark and score it by the official protocol."""
    from matchcut.benchmarks.protocols import find_protocol

    names, protocol = _names(sequences, more), find_protocol(benchmark)
    if submission not in (None, "youtube-vos") or (submission and not benchmark.startswith("youtube-vos")):
        raise PromptError(f"--submission {submission}: expected youtube-vos, for one of the youtube-vos benchmarks")
    if check:
        from matchcut.data import check_dataset

        found = check_dataset(protocol.dataset, root, split or protocol.split, names)
        frames = sum(len(one.images) for one in found)
        typer.echo(f"{benchmark}: {len(found)} sequences, {frames} frames, nothing is wrong")
        return
    if out is None:
        raise PromptError("say where results go: -o FOLDER")
    from matchcut import api
    from matchcut.benchmarks.report import read_report

    if compare and compare.resolve() == out.resolve():
        raise PromptError(f"--compare {compare}: is -o itself; give the folder of another run")
    other = read_report(compare) if compare else None
    if other and (other.benchmark, other.split) != (benchmark, split or protocol.split):
        raise PromptError(f"--compare {compare}: is of {other.benchmark} {other.split}; give a run of this benchmark")
    chosen: Any = {"model": model, "preset": preset, "backbone": backbone, "weights": str(weights) if weights else None}
    how: Any = {"size": size, "device": device, "precision": precision, "processes": processes}
    what: Any = {"split": split, "sequences": names, "overwrite": overwrite, "resume": resume}
    try:
        result = api.evaluate(
            benchmark, root, out, **what, **chosen, **how, say=lambda line: typer.echo(line, err=True)
        )
    except KeyboardInterrupt as stop:
        typer.echo("matchcut: stopped; run the same command with --resume to go on", err=True)
        raise typer.Exit(130) from stop
    typer.echo(f"masks     {out / 'masks'}")
    if submission:
        from matchcut.benchmarks.run import SUBMISSION
        from matchcut.benchmarks.submission import write_submission
        from matchcut.data import read_dataset

        found = read_dataset(protocol.dataset, root, split or protocol.split, names)
        write_submission(found, out / "masks", out / SUBMISSION)
        typer.echo(f"zip       {out / SUBMISSION}")
    if result is None:
        typer.echo("not scored: the truth is not public; the benchmark's server scores the masks")
    else:
        _report(result, out, other)


def _names(sequences: list[str] | None, more: list[str] | None) -> list[str] | None:
    if more and not sequences:
        raise PromptError(f"what is {' '.join(more)}? Expected one benchmark; sequences follow --sequences")
    return [*(sequences or []), *(more or [])] or None


def _report(result: "Result", out: Path | None, other: "Result | None" = None) -> None:
    from matchcut.benchmarks.results import table

    typer.echo(table(result))
    if result.missing:
        typer.echo(f"\n{len(result.missing)} missing predictions count as empty: {_few(result.missing)}")
    if out is not None:
        from matchcut.benchmarks.report import write_report

        for path in write_report(result, out, other):
            typer.echo(f"written   {path}")


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, as recipes/mask_vos.toml.")],
    data: Annotated[list[Path], typer.Option(help="Folder of videos or of folders of frames; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, checkpoints, log and pictures.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in -o.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded frames, to be shared by runs.")] = None,
) -> None:
    """Train a network on raw video by a recipe; under torchrun, on several processes."""
    from matchcut import api

    try:
        written = api.train(recipe, data, out, resume=resume, device=device, cache=cache, say=typer.echo)
    except KeyboardInterrupt as stop:
        typer.echo("matchcut: stopped; run the same command with --resume to go on", err=True)
        raise typer.Exit(130) from stop
    typer.echo(f"weights   {written}")


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="dmm-net, transport-net, mask-vos or matching; a wrong one lists all.")],
    what: Annotated[str, typer.Argument(help="figure-5, figure-6, ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and CSVs.")],
    seed: Annotated[int, typer.Option(help="Of all random numbers.", min=0)] = 0,
    root: Annotated[Path | None, typer.Option(help="Benchmark that is scored on, where one is.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="Videos that are trained on; may be repeated.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A training run's, instead of those shipped.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each training.", min=1)] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this row; may be repeated.")] = None,
) -> None:
    """Make a table, a figure or a proof of one of the papers."""
    from matchcut.reproduce import reproduce as make

    asked = {"root": root, "data": data, "weights": weights, "epochs": epochs, "only": only}
    given: Any = {name: value for name, value in asked.items() if value not in (None, [])}
    for path in make(paper, what, out, seed=seed, say=lambda line: typer.echo(line, err=True), **given):
        typer.echo(f"written   {path}")


@app.command()
def models() -> None:
    """What there is to choose from, with licence and scores."""
    from rich.console import Console
    from rich.table import Table

    from matchcut.weights.specs import DEFAULT_MODEL, MODELS, WEIGHTS

    table = Table()
    for head in ("model", "what it is", "backbone", "licence", "scores"):
        table.add_column(head, overflow="fold", no_wrap=head in ("model", "backbone"))  # names that are typed
    for one in MODELS.values():
        weights = WEIGHTS[one.weights]
        name = f"{one.name} (default)" if one.name == DEFAULT_MODEL else one.name
        scores = ", ".join(f"{key} {value}" for key, value in one.scores.items())
        table.add_row(name, one.summary, weights.backbone, weights.licence, scores)
    Console().print(table)


def _parse_box(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(one) for one in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise PromptError(f"--box {text}: expected left,top,right,bottom in pixels, as --box 210,80,420,390")
    return numbers


def _one_each(inputs: list[str], given: list[Path] | None, option: str) -> list[Path | None]:
    if not given:
        return [None] * len(inputs)
    if len(given) not in (1, len(inputs)):
        raise PromptError(f"{option} was given {len(given)} times for {len(inputs)} inputs: give one, or one each")
    return [*given] if len(given) == len(inputs) else [given[0]] * len(inputs)


def _folders(out: Path, videos: "list[Video]") -> list[Path]:
    if len(videos) == 1:
        return [out]
    names = [video.name for video in videos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PromptError(f"two inputs are named {twice}: their results would share a folder; run them one by one")
    return [out / name for name in names]


class _Bar:
    """A progress bar: frame, frames a second, time left. Plain lines where standard error is no terminal."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self.task = self.progress.add_task(name, total=None, rate="")

    def __enter__(self) -> "_Bar":
        return self

    def update(self, done: int, total: int) -> None:
        self.progress.start()  # with the first frame, so that an error before it stands alone
        speed = self.progress.tasks[0].speed
        rate = f"{speed:.1f} frames/s" if speed else ""
        self.progress.update(self.task, completed=done, total=total or None, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self.progress.live.is_started:
            self.progress.stop()


def _summary(folder: Path, measured: dict[str, Any], wanted: dict[str, Any]) -> None:
    if measured.get("finished_before"):
        typer.echo(f"{folder} holds this run, finished: its masks are left as they are")
    else:
        typer.echo(
            f"{measured['frames']} frames in {measured['seconds']:.1f} s "
            f"({measured['frames_a_second']:.1f} frames a second, peak memory {measured['peak_memory_gib']:.2f} GiB)"
        )
    typer.echo(f"masks     {folder / 'masks'}")
    typer.echo(f"record    {folder / 'timeline.json'}")
    if wanted["overlay"]:
        typer.echo(f"overlay   {folder / 'overlay.mp4'}")
    if wanted["cutout"]:
        typer.echo(f"cut-outs  {folder / ('cutout.mov' if wanted['cutout'] == 'mov' else 'cutout')}")
    if wanted["coco"]:
        typer.echo(f"COCO      {folder / 'coco.json'}")


def main() -> None:
    """Run the command line: exit status 2 and one line for bad input."""
    try:
        app()
    except MatchcutError as error:
        typer.echo(f"matchcut: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

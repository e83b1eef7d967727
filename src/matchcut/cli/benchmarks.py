"""`evaluate` and `score`: from a benchmark to numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matchcut.cli import options
from matchcut.cli.options import MODEL, OUTPUT, option
from matchcut.cli.shared import check_one_of, resumable
from matchcut.cli.terminal import say, starting, tell
from matchcut.errors import PromptError

if TYPE_CHECKING:
    from matchcut.benchmarks.results import Result


def score(
    benchmark: Annotated[
        str, typer.Argument(help="davis2016, davis2017, youtube-vos-2019, ...; a wrong one lists all.")
    ],
    root: options.Root,
    masks: Annotated[Path, typer.Option(help="Folder of predictions, <sequence>/<frame>.png; or the OUT of a run.")],
    split: options.Split = None,
    sequences: options.Sequences = None,
    more: options.More = None,
    missing: Annotated[str, typer.Option(help='"error", or "empty": a missing prediction counts as empty.')] = "error",
    out: Annotated[
        Path | None, option("--out", "-o", group=OUTPUT, help="Folder for CSVs, report.json and plots.")
    ] = None,
    compare: options.Compare = None,
    reference_fault: Annotated[
        bool, typer.Option("--reference-fault", help="Decay as the reference code has it beyond 256 frames.")
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Score anyone's masks by a benchmark's official protocol."""
    if missing not in ("error", "empty"):
        raise PromptError(f'--missing {missing}: expected "error" or "empty"')
    starting()
    from matchcut.benchmarks.report import check_report_folder
    from matchcut.benchmarks.score import score as run_score

    if out is not None:
        within = [place for place in (masks / "masks", masks / "Annotations") if place.is_dir()]
        read = [root, *(within or [masks])]
        check_report_folder(out, overwrite=overwrite, compare=compare, inputs=read)
    wanted: Any = {"split": split, "missing": missing, "reference_fault": reference_fault}
    result = run_score(benchmark, root, masks, sequences=_names(sequences, more), **wanted)
    if compare is None:
        _report(result, out)
    else:
        from matchcut.benchmarks.report import read_report

        _report(result, out, read_report(compare))


def evaluate(
    benchmark: Annotated[str, typer.Argument(help="davis2016, davis2017, vip, ...; a wrong one lists all.")],
    root: options.Root,
    out: Annotated[
        Path | None, option("--out", "-o", group=OUTPUT, help="Folder for masks, CSVs, report.json and plots.")
    ] = None,
    split: options.Split = None,
    sequences: options.Sequences = None,
    more: options.More = None,
    model: options.Model = None,
    preset: options.Preset = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    size: options.Size = None,
    processes: Annotated[int, option(group=MODEL, help="That share the sequences and the cores.", min=1)] = 1,
    compare: options.Compare = None,
    submission: Annotated[
        str | None, option(group=OUTPUT, help='"youtube-vos": also submission.zip, as the server takes it.')
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what is wrong with the benchmark's files.")] = False,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
) -> None:
    """Run a model on a benchmark and score it by the official protocol."""
    check_one_of(overwrite=overwrite, resume=resume)
    starting()
    from matchcut.benchmarks.protocols import find_protocol

    names, protocol = _names(sequences, more), find_protocol(benchmark)
    if submission not in (None, "youtube-vos") or (submission and not benchmark.startswith("youtube-vos")):
        raise PromptError(f"--submission {submission}: expected youtube-vos, for one of the youtube-vos benchmarks")
    if check:
        from matchcut.data import check_dataset

        found = check_dataset(protocol.dataset, root, split or protocol.split, names)
        frames = sum(len(one.images) for one in found)
        say(f"{benchmark}: {len(found)} sequences, {frames} frames, nothing is wrong")
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
    with resumable():
        result = api.evaluate(benchmark, root, out, **what, **chosen, **how, say=tell)
    say(f"masks     {out / 'masks'}")
    if submission:
        from matchcut.benchmarks.report import SUBMISSION
        from matchcut.benchmarks.submission import write_submission
        from matchcut.data import read_dataset
        from matchcut.manifest import noted_in

        found = read_dataset(protocol.dataset, root, split or protocol.split, names)
        with noted_in(out):
            write_submission(found, out / "masks", out / SUBMISSION)
        say(f"zip       {out / SUBMISSION}")
    if result is None:
        say("not scored: the truth is not public; the benchmark's server scores the masks")
    else:
        _report(result, out, other)


def _names(sequences: list[str] | None, more: list[str] | None) -> list[str] | None:
    if more and not sequences:
        raise PromptError(f"what is {' '.join(more)}? Expected one benchmark; sequences follow --sequences")
    return [*(sequences or []), *(more or [])] or None


def _report(result: "Result", out: Path | None, other: "Result | None" = None) -> None:
    from matchcut.benchmarks.results import table

    say(table(result))
    if result.missing:
        say(f"\n{len(result.missing)} missing predictions count as empty: {_few(result.missing)}")
    if out is not None:
        from matchcut.benchmarks.report import write_report

        for path in write_report(result, out, other):
            say(f"written   {path}")


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

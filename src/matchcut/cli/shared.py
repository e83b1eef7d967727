"""What the commands share: options as they are typed, the progress bar, the last lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from matchcut.errors import PromptError

if TYPE_CHECKING:
    from matchcut.video.reader import Video


def parse_box(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(one) for one in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise PromptError(f"--box {text}: expected left,top,right,bottom in pixels, as --box 210,80,420,390")
    return numbers


def one_each(inputs: list[str], given: list[Path] | None, option: str) -> list[Path | None]:
    if not given:
        return [None] * len(inputs)
    if len(given) not in (1, len(inputs)):
        raise PromptError(f"{option} was given {len(given)} times for {len(inputs)} inputs: give one, or one each")
    return [*given] if len(given) == len(inputs) else [given[0]] * len(inputs)


def folders_of(out: Path, videos: "list[Video]") -> list[Path]:
    if len(videos) == 1:
        return [out]
    names = [video.name for video in videos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PromptError(f"two inputs are named {twice}: their results would share a folder; run them one by one")
    return [out / name for name in names]


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C ends with a line that says how to go on, and status 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo("matchcut: stopped; run the same command with --resume to go on", err=True)
        raise typer.Exit(130) from stop


class Bar:
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

    def __enter__(self) -> "Bar":
        return self

    def update(self, done: int, total: int) -> None:
        self.progress.start()  # with the first frame, so that an error before it stands alone
        speed = self.progress.tasks[0].speed
        rate = f"{speed:.1f} frames/s" if speed else ""
        self.progress.update(self.task, completed=done, total=total or None, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self.progress.live.is_started:
            self.progress.stop()


def summarise(folder: Path, measured: dict[str, Any], wanted: dict[str, Any]) -> None:
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
    for line in measured["said"]:
        typer.echo(f"note      {line}")

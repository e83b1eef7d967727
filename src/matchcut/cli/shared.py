"""Shared by the commands: parsing of options, Ctrl-C, the progress bar, the closing lines."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from matchcut.cli.terminal import say, tell
from matchcut.errors import PromptError

Box = tuple[float, ...]
Given = TypeVar("Given")

if TYPE_CHECKING:
    from matchcut.video.reader import Video


def check_words(words: Sequence[str]) -> None:
    """Refuse an empty word, as an unset variable of the shell makes it: as a path it would be the folder one is in."""
    for before, word in zip(["matchcut", *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            raise PromptError(
                f"an empty word after {before}: is a variable of the shell not set?"
                if not word
                else f"nothing after {word}: is a variable of the shell not set?"
            )


def check_one_of(**flags: bool) -> None:
    """Refuse several flags that contradict each other."""
    given = [f"--{name}" for name, value in flags.items() if value]
    if len(given) > 1:
        raise PromptError(f"{' and '.join(given)} contradict each other: give one")


def parse_box(text: str) -> Box:
    try:
        numbers = tuple(float(one) for one in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise PromptError(f"--box {text}: expected left,top,right,bottom in pixels, as --box 210,80,420,390")
    return numbers


def one_each(inputs: Sequence[str], given: Sequence[Given] | None, option: str) -> list[Given | None]:
    """The value of an option for each input; one value serves all inputs."""
    if not given:
        return [None] * len(inputs)
    if len(given) not in (1, len(inputs)):
        raise PromptError(f"{option} was given {len(given)} times for {len(inputs)} inputs: give one, or one each")
    return [*given] if len(given) == len(inputs) else [given[0]] * len(inputs)


def boxes_of(inputs: Sequence[str], given: Sequence[str]) -> list[list[Box]]:
    """The boxes of each input: of one input all, an object each; of several one each, or the same one of all."""
    boxes = [parse_box(one) for one in given]
    if len(inputs) == 1:
        return [boxes]
    if len(boxes) not in (0, 1, len(inputs)):
        raise PromptError(
            f"--box was given {len(boxes)} times for {len(inputs)} inputs: give one, or one each; several objects of "
            "one video by boxes need a command of their own"
        )
    return [[] if box is None else [box] for box in one_each(inputs, boxes, "--box")]


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
    with stoppable("; run the same command with --resume to go on"):
        yield


@contextmanager
def stoppable(advice: str = "") -> Iterator[None]:
    """Ctrl-C ends with one line and status 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        tell(f"matchcut: stopped{advice}")
        raise typer.Exit(130) from stop


class Bar:
    """A progress bar: pass, frame, frames a second, time left. Plain lines where standard error is no terminal."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        self.name = name
        self.progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))

    def __enter__(self) -> "Bar":
        return self

    def begin(self, name: str) -> None:
        """Another pass: a bar of its own."""
        self.task = self.progress.add_task(f"{self.name}: {name}", total=None, rate="")

    def update(self, done: int, total: int) -> None:
        """So many frames of the pass are done, of so many."""
        self.progress.start()  # with the first frame, so that an error before it stands alone
        task = next(one for one in self.progress.tasks if one.id == self.task)
        rate = f"{task.speed:.1f} frames/s" if task.speed else ""
        self.progress.update(self.task, completed=done, total=total or None, rate=rate)

    def __exit__(self, *_: object) -> None:
        if self.progress.live.is_started:
            self.progress.stop()


def summarise(folder: Path, measured: Mapping[str, Any], wanted: Mapping[str, Any], notes: Sequence[str] = ()) -> None:
    """The closing lines: how long each pass took, where things are, and what a user should know."""
    if measured.get("finished_before"):
        say(f"{folder} holds this run, finished: its masks are left as they are")
    else:
        passes = ", ".join(f"{name} {spent:.1f} s" for name, spent in measured["seconds_a_pass"].items())
        say(f"{measured['frames']} frames in {measured['seconds']:.1f} s: {passes}")
        say(
            f"          {measured['frames_a_second']:.1f} frames a second once started, peak memory "
            f"{measured['peak_memory_gib']:.2f} GiB"
        )
    say(f"masks     {folder / 'masks'}")
    say(f"record    {folder / 'timeline.json'}")
    if wanted["overlay"]:
        say(f"overlay   {folder / 'overlay.mp4'}")
    if wanted["cutout"]:
        say(f"cut-outs  {folder / ('cutout.mov' if wanted['cutout'] == 'mov' else 'cutout')}")
    if wanted["coco"]:
        say(f"COCO      {folder / 'coco.json'}")
    for line in notes:
        say(f"note      {line}")


def correct(
    folder: Path,
    weakest: Mapping[str, Any] | None,
    source: str,
    options: Mapping[str, Any],
    given: Path | None = None,
) -> None:
    """The last lines: which frame most needs a correction, and the command that gives it.

    Args:
        folder: of the results.
        weakest: see `matchcut.api.records.weakest_of`.
        source: the video as it was typed.
        options: what was said of it, by the option's name in Python.
        given: the folder of masks that were given, if it was one.
    """
    if weakest is None:
        return
    name, known = weakest["name"], [f"{one}.png" for one in weakest["annotated"] if given is None]
    beside = f", beside {_few(known)} of {folder / 'masks'}" if known else ""
    words = ["matchcut", "track", source, "--masks", "FOLDER" if given is None else str(given)]
    for name_, value in options.items():
        if value and (name_, value) != ("stride", 1):
            option = f"--{name_.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    words += ["-o", f"{folder}-corrected"]
    sure = f"{weakest['sure']:.2f} of 1"
    say(f"correct   frame {name} is the least sure ({sure}); if its mask is wrong, save the right one")
    say(f"          as {given or 'FOLDER'}/{name}.png{beside}, and run")
    say(f"          {shlex.join(words)}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

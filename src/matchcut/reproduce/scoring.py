"""What the tables of scores share: rows that may be asked for alone, and scoring a model on a benchmark."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchcut.benchmarks.results import Result
from matchcut.benchmarks.run import Choice, run_benchmark
from matchcut.benchmarks.score import score
from matchcut.errors import PromptError
from matchcut.tracking.device import pick_device, pick_precision

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scorer:
    """A benchmark that models are scored on, one after another."""

    benchmark: str
    root: Path
    precision: str
    overwrite: bool
    """Score anew what an earlier call has scored in the same folder."""
    say: Say

    def evaluate(self, model: Any, out: Path) -> Result:
        """The scores of a model, whose masks go to a folder."""
        choice, resume = Choice(model, precision=self.precision), not self.overwrite
        run_benchmark(self.benchmark, self.root, out, choice, overwrite=self.overwrite, resume=resume, say=self.say)
        return self.score(out)

    def score(self, out: Path) -> Result:
        """The scores of the masks in a folder."""
        return score(self.benchmark, self.root, out / "masks")


def percent(result: Result, *measures: str) -> list[str]:
    """Some measures of a whole benchmark, in percent."""
    return [f"{100 * result.summary[one]:.1f}" for one in measures]


def training_precision(asked: str) -> Any:
    """The precision of training, as recipes name it; "auto" is what is fast here."""
    return str(pick_precision(asked, pick_device("auto"))).removeprefix("torch.")


def chosen_rows(only: Sequence[str], rows: Iterable[str]) -> list[str]:
    """The rows of a table that are asked for; all where none is named.

    Raises:
        PromptError: no such row.
    """
    known = list(rows)
    if unknown := set(only) - set(known):
        raise PromptError(f"no row {', '.join(sorted(unknown))}; there are: {'; '.join(known)}")
    return list(only) or known


def folder_name(row: str) -> str:
    """Where what belongs to a row lies: its name in lower case, with hyphens."""
    return "".join(one for one in row.lower().replace(" ", "-") if one.isalnum() or one == "-")

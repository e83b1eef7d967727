"""Results of scoring: one record a run, with a row an object, and the table that the official tool prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ObjectScores:
    """One object of one sequence.

    Attributes:
        sequence: its name.
        object: its id; "" where objects are merged or a sequence has one score.
        frames: names of the scored frames.
        values: "J", "F" (or "MAE", ...) to one number a frame, in [0, 1]; NaN where a frame has none.
        summary: "J-Mean", "J-Recall", "J-Decay", "F-Mean", ... of this object.
    """

    sequence: str
    object: int | str
    frames: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    summary: dict[str, float]

    @property
    def name(self) -> str:
        """The name in the official tool's list: `bus_1`; the sequence alone where there is no object."""
        return f"{self.sequence}_{self.object}" if self.object != "" else self.sequence


@dataclass(frozen=True)
class Result:
    """One benchmark scored.

    Attributes:
        benchmark, split: what was scored.
        protocol: one paragraph: which frames count, void, averages, source.
        summary: the global row, in the official order and under the official names.
        objects: in the order of the split's list, then of their ids.
        curves: of saliency `precision`, `recall` and `f-measure` at the thresholds 0 to 255; of VIP `iou-per-class`;
            else empty.
        missing: predictions that were counted as empty, "sequence/frame".
        masks: the folder of predictions that was read, a folder a sequence in it.
        root: the root of the benchmark.
        seconds: how long scoring took.
        versions: package to version.
    """

    benchmark: str
    split: str
    protocol: str
    summary: dict[str, float]
    objects: tuple[ObjectScores, ...]
    curves: dict[str, tuple[float, ...]]
    missing: tuple[str, ...]
    masks: Path
    root: Path
    seconds: float
    versions: dict[str, str]


def row_measures(result: Result) -> list[str]:
    """The columns of the rows of objects: of J and F only the means, as in the official tool; else all there are."""
    names = dict.fromkeys(name for one in result.objects for name in one.summary)
    return [name for name in names if not name.endswith(("-Recall", "-Decay"))]


def table(result: Result) -> str:
    """The table for the terminal, in the official tool's form: the global row, then one an object, 3 decimals."""
    measures = row_measures(result)
    rows = [[one.name, *(_shown(one.summary, name) for name in measures)] for one in result.objects]
    parts = [
        f"--------------------------- Global results for {result.split} ---------------------------",
        *_columns([list(result.summary), [_shown(result.summary, name) for name in result.summary]]),
        "",
        f"---------- Per sequence results for {result.split} ----------",
        *_columns([["Sequence", *measures], *rows]),
    ]
    return "\n".join(parts)


def _shown(summary: Mapping[str, float], name: str) -> str:
    return "%.3f" % summary[name] if name in summary else ""  # noqa: UP031  # as the official tool rounds


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines, columns to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [" ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]

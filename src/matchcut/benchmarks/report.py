"""Reports of scores in a folder: the official tool's CSV files, `report.json`, plots, a comparison of two results."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from matchcut.benchmarks import plots
from matchcut.benchmarks.drawing import save
from matchcut.benchmarks.protocols import PROTOCOLS
from matchcut.benchmarks.results import ObjectScores, Result, row_measures
from matchcut.data import Sequence as Video
from matchcut.data import read_dataset, read_truth
from matchcut.disk import check_apart, is_inside
from matchcut.errors import DatasetError, MaskError, MatchcutError, OutputError
from matchcut.files import atomic_path, make_folder, write_csv
from matchcut.folders import files_in
from matchcut.manifest import Manifest, check_folder, in_the_way, run_folder
from matchcut.masks import LabelMap, object_ids, read_mask

KIND = "an evaluation"
REPORT, SUBMISSION = "report.json", "submission.zip"
OWN = (
    "global_results-*.csv",
    "per-sequence_results-*.csv",
    "compare.csv",
    "compare.json",
    "compare-frames.csv",
    "plots/*.png",
    "plots/over-time/*.png",
)
"""Files of a report beside `report.json`; those of an earlier report are removed before anything is written."""

_FORMAT = "matchcut report 1"
_FRAMES = 50  # in compare-frames.csv
_PICTURES = 8  # in plots/compare-frames.png
_WIDTH = 480  # pixels of a picture there


class FrameDifference(NamedTuple):
    """A frame of an object in two results, and the measure in which it differs most there."""

    sequence: str
    object: int | str
    frame: str
    measure: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """First less second."""
        return self.first - self.second


def write_report(result: Result, out: Path, compare: Result | None = None, *, draw: bool = True) -> list[Path]:
    """Write all that a result has to say into a folder, made if it is not there.

    `global_results-<split>.csv` and `per-sequence_results-<split>.csv` are for DAVIS as davis2017-evaluation writes
    them, and for other benchmarks of the same form; `report.json` holds every value. `plots/` has bars a sequence,
    every measure over time, and precision and recall. With `compare` there are `compare.csv` (rows of objects),
    `compare-frames.csv` (the 50 frames that differ most), `compare.json` (the global row), and their plots, with
    pictures of those frames if the benchmark's images are at hand; A is `result`, B is `compare`.

    What an earlier report wrote into the folder is removed first, and `report.json` is written last: where it stands,
    all else is of its run. Nothing else is touched.

    Returns:
        The files, in the order they were written.

    Raises:
        DatasetError: `compare` is of another benchmark or split, or has other sequences, objects or frames.
        OutputError: the folder cannot be written to, or a file that no report wrote has the name of one of these.
    """
    if compare is not None:
        check_comparable(result, compare)
    stale = [*Manifest(out).matching(OWN), REPORT]
    with run_folder(out, KIND, [*stale, *_names(result, compare)], inputs=[result.masks], resume=True) as manifest:
        manifest.remove([REPORT])
        manifest.remove(OWN)
        written = []
        measures = row_measures(result)
        rows = [[one.name, *(one.summary.get(name, math.nan) for name in measures)] for one in result.objects]
        tables = [out / name for name in _tables(result)]
        written.append(write_csv(tables[0], result.summary, [list(result.summary.values())]))
        written.append(write_csv(tables[1], ["Sequence", *measures], rows))
        if draw:
            written += _draw(result, out / "plots")
        if compare is not None:
            written += _write_comparison(result, compare, out, draw=draw)
        with atomic_path(out / REPORT) as temporary:
            record = {"format": _FORMAT, **_plain(asdict(result))}
            temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [*written, out / REPORT]


def _tables(result: Result) -> list[str]:
    split = _file_name(result.split)
    return [f"global_results-{split}.csv", f"per-sequence_results-{split}.csv"]


def _plot_name(sequence: str) -> str:
    return f"plots/over-time/{_file_name(sequence) or 'all'}.png"


def _names(result: Result, compare: Result | None) -> list[str]:
    """The paths in its folder of all that a report may write."""
    plots_of = [_plot_name(one.sequence) for one in result.objects]
    compared = [one for one in OWN if "*" not in one] + ["plots/compare.png", "plots/compare-frames.png"]
    names = [*_tables(result), "plots/sequences.png", "plots/precision-recall.png", *dict.fromkeys(plots_of)]
    return names + compared if compare is not None else names


def check_report_folder(
    out: Path, *, overwrite: bool = False, compare: Path | None = None, inputs: Iterable[Path] = ()
) -> None:
    """Before anything is scored: whether a report can be written into a folder.

    Args:
        overwrite: an earlier report there may be replaced.
        compare: the folder of the other report.
        inputs: what is read.

    Raises:
        OutputError: the folder is one that is read, or holds something and `overwrite` is not set, or a report that was
            not written here, or the one that is to be compared with.
    """
    check_apart([out / REPORT], inputs)
    manifest = check_folder(out, KIND, overwrite=overwrite, goes_on=False)
    if compare is not None and is_inside(compare, out):
        raise OutputError(f"{compare} is compared with, and lies in {out}: give another folder with -o")
    if (out / REPORT).exists() and not manifest.owns(out / REPORT):
        raise OutputError(in_the_way(out / REPORT))


def read_report(path: Path) -> Result:
    """The result in a `report.json`, or in a folder that holds one.

    Raises:
        DatasetError: there is none, or it is damaged or of another form.
    """
    path = path / REPORT if path.is_dir() else path
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: no report can be read there; score with -o first") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not a report ({error}); score again with -o") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise DatasetError(f"{path}: not a report of this version ('{_FORMAT}'); score again with -o")
    try:
        return Result(
            benchmark=str(record["benchmark"]),
            split=str(record["split"]),
            protocol=str(record["protocol"]),
            summary=_numbers(record["summary"]),
            objects=tuple(_object(one) for one in record["objects"]),
            curves=_series(record["curves"]),
            missing=tuple(str(one) for one in record["missing"]),
            masks=Path(record["masks"]),
            root=Path(record["root"]),
            seconds=float(record["seconds"]),
            versions={str(name): str(version) for name, version in record["versions"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: a damaged report ({error!r}); score again with -o") from error


def check_comparable(first: Result, second: Result) -> None:
    """Raise DatasetError unless two results are of one benchmark and split, and of the same objects and frames."""
    for what in ("benchmark", "split"):
        a, b = getattr(first, what), getattr(second, what)
        if a != b:
            raise DatasetError(f"cannot compare: one result is of {what} '{a}', the other of '{b}'")
    ours, theirs = ({(one.sequence, one.object): one for one in result.objects} for result in (first, second))
    if lone := [key for key in (*ours, *theirs) if key not in ours or key not in theirs]:
        shown = ", ".join(f"{sequence} {number}".strip() for sequence, number in lone[:5])
        more = f" and {len(lone) - 5} more" if len(lone) > 5 else ""
        raise DatasetError(f"cannot compare: only one of the two results has {shown}{more}; score both on one truth")
    for key, one in ours.items():
        other = theirs[key]
        if one.frames != other.frames:
            raise DatasetError(
                f"cannot compare: of {one.name}, {len(one.frames)} frames are scored in one result and "
                f"{len(other.frames)} in the other, not the same ones; score both by one protocol"
            )


def frame_differences(first: Result, second: Result) -> list[FrameDifference]:
    """Every frame of every object in two comparable results, the greatest difference first, frames alike left out."""
    others = {(one.sequence, one.object): one for one in second.objects}
    found = []
    for one in first.objects:
        other = others[one.sequence, one.object]
        shared = [name for name in one.values if name in other.values]
        for index, frame in enumerate(one.frames):
            pairs = [
                FrameDifference(one.sequence, one.object, frame, name, a, b)
                for name in shared
                if math.isfinite(a := one.values[name][index]) and math.isfinite(b := other.values[name][index])
            ]
            if pairs:
                found.append(max(pairs, key=lambda pair: abs(pair.difference)))
    return sorted((one for one in found if one.difference), key=lambda one: -abs(one.difference))


def _draw(result: Result, folder: Path) -> list[Path]:
    make_folder(folder / "over-time")
    written = []
    if result.objects:
        save(plots.sequence_bars(result), folder / "sequences.png")
        written.append(folder / "sequences.png")
    if {"precision", "recall", "f-measure"} <= result.curves.keys():
        save(plots.precision_recall(result), folder / "precision-recall.png")
        written.append(folder / "precision-recall.png")
    sequences: dict[str, list[ObjectScores]] = {}
    for one in result.objects:
        if one.frames and one.values:
            sequences.setdefault(one.sequence, []).append(one)
    for name, objects in sequences.items():
        path = folder.parent / _plot_name(name)
        save(plots.scores_over_time(objects), path)
        written.append(path)
    return written


def _write_comparison(first: Result, second: Result, out: Path, *, draw: bool) -> list[Path]:
    measures = row_measures(first)
    sides = [f"{name} {side}" for name in measures for side in ("A", "B", "A-B")]
    others = {(one.sequence, one.object): one for one in second.objects}
    rows: list[list[Any]] = []
    for one in first.objects:
        other = others[one.sequence, one.object].summary
        rows.append([one.name])
        for name in measures:
            rows[-1] += _sides(one.summary.get(name, math.nan), other.get(name, math.nan))
    found = frame_differences(first, second)
    written = [
        write_csv(out / "compare.csv", ["Sequence", *sides], rows),
        write_csv(
            out / "compare-frames.csv",
            ["Sequence", "Object", "Frame", "Measure", "A", "B", "A-B"],
            [[*one[:4], *_sides(one.first, one.second)] for one in found[:_FRAMES]],
        ),
    ]
    shared = [name for name in first.summary if name in second.summary]
    summary = {name: _sides(first.summary[name], second.summary[name]) for name in shared}
    record = _plain({"A": first.masks, "B": second.masks, "summary": summary})
    with atomic_path(out / "compare.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    written.append(out / "compare.json")
    if draw and first.objects:
        save(plots.difference_bars(first, second), out / "plots" / "compare.png")
        written.append(out / "plots" / "compare.png")
        if pictures := _pictures(first, second, found):
            a, b = plots.result_names(first, second)
            figure = plots.picture_sheet(("truth", f"A: {a}", f"B: {b}"), pictures)
            save(figure, out / "plots" / "compare-frames.png")
            written.append(out / "plots" / "compare-frames.png")
    return written


def _pictures(first: Result, second: Result, found: Sequence[FrameDifference]) -> list[plots.Comparison]:
    """The frame of each object that differs most, for the objects that differ most; what cannot be shown is left out.

    One frame an object, since the frames beside it look the same.
    """
    protocol = PROTOCOLS.get(first.benchmark)
    try:
        videos = read_dataset(protocol.dataset if protocol else first.benchmark, first.root, first.split)
    except (MatchcutError, OSError):
        return []
    by_name = {video.name: video for video in videos if video.form != "joints"}
    shown: set[tuple[str, int | str]] = set()
    rows: list[plots.Comparison] = []
    for one in found:
        if len(rows) == _PICTURES:
            break
        if (one.sequence, one.object) not in shown and one.sequence in by_name:
            with suppress(MatchcutError, OSError, KeyError):
                rows.append(_picture(by_name[one.sequence], one, (first, second)))
                shown.add((one.sequence, one.object))
    return rows


def _picture(video: Video, one: FrameDifference, results: Iterable[Result]) -> plots.Comparison:
    import cv2

    from matchcut.video.images import read_image
    from matchcut.video.overlay import draw_overlay

    image = read_image(video.images[one.frame])
    truth = read_truth(video, one.frame)
    maps = [truth, *(_prediction(result.masks / one.sequence, one.frame, truth) for result in results)]
    merged = one.object == ""
    height, width = image.shape[:2]
    size = (min(width, _WIDTH), max(1, round(height * min(width, _WIDTH) / width)))
    drawn = []
    for labels in maps:
        shown = (labels > 0).astype(labels.dtype) if merged else labels
        picture = draw_overlay(image, shown, ids=len(object_ids(truth)) > 1)
        drawn.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(picture.dtype, copy=False))
    who = f"{one.sequence} {one.object}".strip()
    return plots.Comparison(
        f"{who}, frame {one.frame}: {one.measure} {one.first:.3f} in A, {one.second:.3f} in B", tuple(drawn)
    )


def _prediction(folder: Path, frame: str, truth: LabelMap) -> LabelMap:
    """A predicted label map, one of grey values cut at a half, a missing one empty."""
    path = next((path for path in files_in(folder, {".png"}) if path.stem == frame), None)
    if path is None:
        return truth * 0
    try:
        return read_mask(path)
    except MaskError:
        return read_mask(path, threshold=0.5)


def _file_name(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_").lstrip(".")


def _sides(a: float, b: float) -> list[float]:
    return [float(a), float(b), float(a - b)]


def _plain(value: Any) -> Any:
    """A value as JSON has it: a path as text, NaN as null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value.absolute())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _object(record: dict[str, Any]) -> ObjectScores:
    number, frames = record["object"], tuple(str(name) for name in record["frames"])
    if not isinstance(number, int | str) or isinstance(number, bool):
        raise TypeError(f"object is {number!r}")
    values = _series(record["values"])
    if any(len(one) != len(frames) for one in values.values()):
        raise ValueError(f"{record['sequence']} {number}: not one value a frame")
    return ObjectScores(str(record["sequence"]), number, frames, values, _numbers(record["summary"]))


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {str(name): _number(value) for name, value in record.items()}


def _series(record: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    return {str(name): tuple(_number(value) for value in values) for name, values in record.items()}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

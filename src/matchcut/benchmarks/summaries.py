"""Averaging: from scores a frame to a row an object and the global row, a function a task."""

from collections import defaultdict
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import numpy as np

from matchcut.benchmarks.frames import Answer, FrameScores
from matchcut.benchmarks.results import ObjectScores
from matchcut.data.sequence import Sequence, is_seen
from matchcut.metrics import Saliency, iou_per_class, mean_iou, mean_recall_decay, mean_saliency

NAN = float("nan")


@dataclass
class Scored:
    """One sequence with its frames in order; `counts` are the places in them at which each object counts."""

    sequence: Sequence
    frames: list[FrameScores]
    answers: list[Answer]
    counts: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """The global row, the rows of objects, and curves."""

    row: dict[str, float]
    objects: tuple[ObjectScores, ...]
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)


def davis(scored: List[Scored], *, named: bool, reference_fault: bool) -> Summary:
    """J and F of every object with mean, recall and decay; the means over objects. `named`: whether rows bear ids."""
    objects = []
    for one in scored:
        rows = dict(_series(one, ("J", "F")))
        for answer in one.answers:
            if answer.assignment is not None:
                both = zip(answer.assignment.j.tolist(), answer.assignment.f.tolist(), strict=True)
                names = tuple(frame.name for frame in one.frames)
                rows |= {k: (names, {"J": tuple(j), "F": tuple(f)}) for k, (j, f) in enumerate(both, start=1)}
        for number, (names, values) in rows.items():
            summary: dict[str, float] = {}
            for measure, series in values.items():
                parts = mean_recall_decay(series, reference_fault)
                summary |= {f"{measure}-{part}": getattr(parts, part.lower()) for part in ("Mean", "Recall", "Decay")}
            objects.append(ObjectScores(one.sequence.name, number if named else "", names, values, summary))
    columns = [f"{measure}-{part}" for measure in "JF" for part in ("Mean", "Recall", "Decay")]
    means = {column: _mean([row.summary[column] for row in objects]) for column in columns}
    return Summary({"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2, **means}, tuple(objects))


def youtube_vos(scored: List[Scored]) -> Summary:
    """J and F of every object, and G from those of seen and unseen categories."""
    objects = []
    parts: dict[str, list[float]] = {f"{measure}-{kind}": [] for measure in "JF" for kind in ("Seen", "Unseen")}
    for one in scored:
        for number, (names, values) in _series(one, ("J", "F")).items():
            summary = {f"{measure}-Mean": _mean(series) for measure, series in values.items()}
            objects.append(ObjectScores(one.sequence.name, number, names, values, summary))
            kind = "Seen" if is_seen(one.sequence, number) else "Unseen"
            for measure in "JF":
                parts[f"{measure}-{kind}"].append(summary[f"{measure}-Mean"])
    means = {name: _mean(values) for name, values in parts.items()}
    return Summary({"G": _mean([value for value in means.values() if value == value]), **means}, tuple(objects))


def segtrack(scored: List[Scored]) -> Summary:
    """mIoU* and mIoU+; a frame that does not show an object has no value for it."""
    objects, frame_means = [], []
    for one in scored:
        by_frame: defaultdict[str, list[float]] = defaultdict(list)
        for number in one.counts:
            present = {frame.name for frame in one.frames if number in frame.present}
            if not present:
                continue
            names = tuple(frame.name for frame in one.frames)
            values = tuple(frame.values[number][0] if frame.name in present else NAN for frame in one.frames)
            for name, value in zip(names, values, strict=True):
                if name in present:
                    by_frame[name].append(value)
            mean = _mean([value for value in values if value == value])
            objects.append(ObjectScores(one.sequence.name, number, names, {"J": values}, {"J-Mean": mean}))
        frame_means += [_mean(values) for values in by_frame.values()]
    return Summary(
        {"mIoU*": _mean(frame_means), "mIoU+": _mean([row.summary["J-Mean"] for row in objects])}, tuple(objects)
    )


def by_class(scored: List[Scored]) -> Summary:
    """J of every sequence, its mean over each class's, and the mean of these (YouTube-Objects)."""
    objects = []
    classes: defaultdict[str, list[float]] = defaultdict(list)
    for one in scored:
        for names, values in _series(one, ("J",)).values():
            mean = _mean(values["J"])
            objects.append(ObjectScores(one.sequence.name, "", names, values, {"J-Mean": mean}))
            classes[one.sequence.objects[1].category].append(mean)
    means = {name: _mean(values) for name, values in classes.items()}
    row = {"J-Mean": _mean(list(means.values())), **{f"J-Mean {name}": mean for name, mean in means.items()}}
    return Summary(row, tuple(objects))


def saliency_maps(scored: List[Scored]) -> Summary:
    """MAE and the curves of precision, recall and F: means over frames, of each sequence and of all."""
    objects, every = [], []
    for one in scored:
        scores: list[Saliency] = [frame.other for frame in one.frames]
        every += scores
        mean = mean_saliency(scores)
        names = tuple(frame.name for frame in one.frames)
        values = {"MAE": tuple(score.mae for score in scores)}
        summary = {"MAE": mean.mae, "F-Measure-Max": mean.max_f}
        objects.append(ObjectScores(one.sequence.name, "", names, values, summary))
    total = mean_saliency(every)
    curves = {"precision": total.precision, "recall": total.recall, "f-measure": total.f}
    return Summary(
        {"MAE": total.mae, "F-Measure-Max": total.max_f},
        tuple(objects),
        {name: tuple(curve.tolist()) for name, curve in curves.items()},
    )


def classes(scored: List[Scored]) -> Summary:
    """Mean IoU over classes of one confusion matrix: of each frame, each sequence and all frames."""
    objects = []
    total = 0
    for one in scored:
        matrices = [frame.other for frame in one.frames]
        together = sum(matrices)
        total = total + together
        names = tuple(frame.name for frame in one.frames)
        values = {"IoU": tuple(mean_iou(matrix) for matrix in matrices)}
        objects.append(ObjectScores(one.sequence.name, "", names, values, {"mIoU": mean_iou(together)}))
    matrix = np.asarray(total)
    return Summary({"mIoU": mean_iou(matrix)}, tuple(objects), {"iou-per-class": tuple(iou_per_class(matrix).tolist())})


def _series(one: Scored, measures: tuple[str, ...]) -> dict[int, tuple[tuple[str, ...], dict[str, tuple[float, ...]]]]:
    """Of every object the frames at which it counts, and its values there; 1 where it is in neither map."""
    absent = (1.0,) * len(measures)
    found = {}
    for number, places in one.counts.items():
        frames = [one.frames[place] for place in places]
        rows = [frame.values.get(number, absent) for frame in frames]
        columns = dict(zip(measures, map(tuple, zip(*rows, strict=True)), strict=True))
        found[number] = tuple(frame.name for frame in frames), columns
    return found


def _mean(values: List[float]) -> float:
    return float(np.mean(values)) if len(values) else NAN

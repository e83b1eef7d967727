"""Scoring frames of a sequence: decode truth and prediction, say what is wrong with them, and score what is right."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from matchcut.benchmarks.protocols import Protocol
from matchcut.data.sequence import Sequence, read_truth
from matchcut.errors import DatasetError, MaskError, ShapeError
from matchcut.masks import LabelMap, object_ids
from matchcut.metrics import (
    MAX_PROPOSALS,
    ProposalAssignment,
    assign_proposals,
    boundary_f,
    confusion_matrix,
    jaccard,
    jaccard_per_object,
    saliency,
)
from matchcut.video.images import UNREADABLE

CLASSES = 20
HALF = 127
_MODES = ("1", "L", "P")


def read_prediction(path: Path, shape: tuple[int, ...]) -> tuple[str, LabelMap]:
    """Pillow's mode, "1", "L" or "P", and the values, uint8 (H, W); of one bit a pixel 0 and 255.

    Raises:
        MaskError: missing, damaged, not of one of these modes, or not of this (H, W).
    """
    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
            pixels = np.asarray(image) if mode in _MODES else None
    except FileNotFoundError as error:
        raise MaskError(f"{path}: the prediction is missing") from error
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaskError(f"{path}: cannot be read ({reason}); write it again") from error
    if pixels is None:
        raise MaskError(f"{path}: is {mode}; a palette, 8-bit grey or one-bit PNG is expected")
    if pixels.shape != shape:
        raise MaskError(f"{path}: is {width}x{height}, but its truth is {shape[1]}x{shape[0]}; write it at that size")
    return mode, pixels.view(np.uint8)  # Pillow stores true as 255


@dataclass(frozen=True)
class FrameFiles:
    """A frame to score: its name, and its prediction, None where there is no file."""

    name: str
    prediction: Path | None


@dataclass(frozen=True)
class Job:
    """Frames to score of one sequence.

    Attributes:
        place: of the sequence among all.
        ids: of its objects; None where only the truths know.
        score: False only looks for what is wrong.
    """

    place: int
    protocol: Protocol
    sequence: Sequence
    frames: tuple[FrameFiles, ...]
    ids: tuple[int, ...] | None = None
    score: bool = True


@dataclass
class FrameScores:
    """The scores of one frame.

    Attributes:
        name: of the frame.
        missing: whether there was no prediction; it was scored as empty then.
        values: by id (1 where there is one object), one number a measure. An object in neither map is left out.
        present: the ids in the truth.
        predicted: the ids in the prediction.
        other: a `Saliency` or a confusion matrix, where the protocol has them.
        top: the greatest value of a grey prediction of an automatic task, else -1.
    """

    name: str
    missing: bool = False
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)
    present: tuple[int, ...] = ()
    predicted: tuple[int, ...] = ()
    other: Any = None
    top: int = -1


@dataclass
class Answer:
    """The result of a job. `problems` are (kind, line); where there are any, scores may be lacking."""

    place: int
    frames: list[FrameScores]
    problems: list[tuple[str, str]]
    assignment: ProposalAssignment | None = None


def run_job(job: Job) -> Answer:
    """Decode, check and score the frames of a job."""
    answer = Answer(job.place, [], [])
    if job.protocol.objects == "proposals":
        maps = _proposal_maps(job, answer)
        try:
            found = assign_proposals(maps) if job.score else None
        except ShapeError:
            if not answer.problems:
                raise
            found = None
        for _ in maps:  # what is left of it, if nothing is scored
            pass
        answer.assignment = None if answer.problems else found
        return answer
    for frame, scores, truth, prediction in _decoded(job, answer):
        _look(job, frame, scores, truth, prediction, answer)
        if job.score and not answer.problems:
            _SCORERS[job.protocol.objects](job, scores, truth, prediction)
    return answer


def _decoded(job: Job, answer: Answer) -> Iterator[tuple[FrameFiles, FrameScores, LabelMap, LabelMap]]:
    """The frames that can be decoded; what cannot is added to the answer's problems."""
    for frame in job.frames:
        scores = FrameScores(frame.name, missing=frame.prediction is None)
        try:
            truth = read_truth(job.sequence, frame.name)
        except DatasetError as error:
            answer.problems.append(("truth", str(error)))
            continue
        mode, prediction = "P", None
        if frame.prediction is not None:
            try:
                mode, prediction = read_prediction(frame.prediction, truth.shape)
            except MaskError as error:
                kind = "size" if "its truth is" in str(error) else "unreadable"
                answer.problems.append((kind, str(error)))
                continue
            if job.protocol.task in ("automatic", "saliency") and mode == "L":
                scores.top = int(prediction.max())
            prediction = _values(job, mode, prediction)
        answer.frames.append(scores)
        yield frame, scores, truth, np.zeros_like(truth) if prediction is None else prediction


def _values(job: Job, mode: str, prediction: LabelMap) -> LabelMap:
    """The values of a prediction as the protocol reads a file of this mode."""
    if job.protocol.objects == "one":
        return (prediction > HALF).view(np.uint8) if job.protocol.task == "automatic" and mode == "L" else prediction
    if job.protocol.objects == "map":
        return np.where(prediction > 0, np.uint8(255), np.uint8(0)) if mode == "P" else prediction
    white = mode == "1" or (
        job.sequence.form == "mask" and mode == "L" and not ((prediction > 0) & (prediction < 255)).any()
    )
    return np.minimum(prediction, 1) if white else prediction


def _look(
    job: Job, frame: FrameFiles, scores: FrameScores, truth: LabelMap, prediction: LabelMap, answer: Answer
) -> None:
    """Find the ids, and among the prediction's those that may not be there."""
    if job.protocol.objects == "classes":
        if (top := int(prediction.max())) >= CLASSES:
            line = f"{frame.prediction}: holds label {top}, but the classes are 0 to {CLASSES - 1}; write those"
            answer.problems.append(("ids", line))
        return
    if job.protocol.objects != "ids":
        return
    scores.present, scores.predicted = tuple(object_ids(truth)), tuple(object_ids(prediction))
    if prediction.max() == 255:
        scores.predicted += (255,)
    if job.ids is not None:
        scores.present = tuple(one for one in scores.present if one in job.ids)
        if strangers := [one for one in scores.predicted if one not in job.ids]:
            answer.problems.append(strange_ids(frame.prediction, strangers, job.ids))


def strange_ids(path: Path | None, strangers: list[int], ids: tuple[int, ...]) -> tuple[str, str]:
    """The problem of a prediction with objects that the truth has not."""
    have, known = ", ".join(map(str, strangers)), ", ".join(map(str, ids)) or "none"
    noun = "object" if len(strangers) == 1 else "objects"
    return "ids", f"{path}: holds {noun} {have}, but the truth's are {known}; remove what is not among them"


def _proposal_maps(job: Job, answer: Answer) -> Iterator[tuple[LabelMap, LabelMap]]:
    """Truth and prediction of each frame of a sequence that is scored as a whole."""
    shape: tuple[int, ...] | None = None
    for frame, _, truth, prediction in _decoded(job, answer):
        if (top := int(prediction.max())) > MAX_PROPOSALS:
            line = f"{frame.prediction}: holds proposal {top}; ids are 1 to {MAX_PROPOSALS}, 0 is background"
            answer.problems.append(("ids", line))
            continue
        shape = shape or truth.shape
        if truth.shape != shape:
            answer.problems.append(
                ("truth", f"{job.sequence.truths[frame.name][0]}: differs in size from the first truth; restore it")
            )
            continue
        yield truth, prediction


def _one(job: Job, scores: FrameScores, truth: LabelMap, prediction: LabelMap) -> None:
    a, b = truth.view(np.bool_), prediction.view(np.bool_)  # the metrics take any byte above 0 as true
    both = jaccard(a, b), boundary_f(a, b) if "F" in job.protocol.measures else 0.0
    scores.values[1] = both[: len(job.protocol.measures)]


def _ids(job: Job, scores: FrameScores, truth: LabelMap, prediction: LabelMap) -> None:
    ids = sorted({*scores.present, *scores.predicted} - {255})
    for one, j in zip(ids, jaccard_per_object(truth, prediction, ids).tolist(), strict=True):
        f = (boundary_f(truth == one, prediction == one),) if "F" in job.protocol.measures else ()
        scores.values[one] = (j, *f)


def _map(job: Job, scores: FrameScores, truth: LabelMap, prediction: LabelMap) -> None:
    scores.other = saliency(truth.view(np.bool_), prediction)


def _classes(job: Job, scores: FrameScores, truth: LabelMap, prediction: LabelMap) -> None:
    scores.other = confusion_matrix(truth, prediction, CLASSES)


_SCORERS = {"one": _one, "ids": _ids, "map": _map, "classes": _classes}

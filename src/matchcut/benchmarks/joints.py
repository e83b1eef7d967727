"""Scoring of JHMDB: joints instead of masks, `MASKS/<sequence>.json`.

The file is a list of the video's frames, each a list of the joints' [x, y] in pixels from 0, or null for a lost one.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from matchcut.benchmarks.results import ObjectScores
from matchcut.benchmarks.summaries import Summary
from matchcut.data.sequence import Sequence, read_joints
from matchcut.errors import DatasetError, MaskError
from matchcut.metrics import joint_distances, pck

ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)


def score_joints(
    sequences: list[Sequence], masks: Path, *, empty: bool
) -> tuple[Summary | None, list[tuple[int, str, str]], list[str]]:
    """PCK of every sequence and of all; what is wrong, by place; and, where `empty`, the predictions that are missing.

    A missing prediction has every joint wrong. Frame 0, the given one, is left out.
    """
    problems: list[tuple[int, str, str]] = []
    missing, distances, objects = [], [], []
    for place, sequence in enumerate(sequences):
        path = masks / f"{sequence.name}.json"
        try:
            truth = read_joints(sequence)
            if not path.exists() and empty:
                missing += [f"{sequence.name}/{frame}" for frame in list(sequence.truths)[1 : len(truth)]]
                found = np.full(truth.shape[:2], np.inf)[1:]
            else:
                found = joint_distances(truth[1:], _read(path, truth.shape)[1:])
        except MaskError as error:
            problems.append((place, "unreadable" if path.exists() else "missing", str(error)))
            continue
        except DatasetError as error:
            problems.append((place, "truth", str(error)))
            continue
        distances.append(found)
        names = tuple(sequence.truths)[1 : len(truth)]
        if len(found) == 0:
            problems.append((place, "truth", f"{sequence.name}: has one frame, and that is given; leave it out"))
            continue
        per_frame = [pck(frame[None], ALPHAS).mean.tolist() for frame in found]
        values = {name: tuple(column) for name, column in zip(_NAMES, zip(*per_frame, strict=True), strict=True)}
        summary = dict(zip(_NAMES, pck(found, ALPHAS).mean.tolist(), strict=True))
        objects.append(ObjectScores(sequence.name, "", names, values, summary))
    if problems:
        return None, problems, missing
    total = pck(np.concatenate(distances), ALPHAS)
    return Summary(dict(zip(_NAMES, total.mean.tolist(), strict=True)), tuple(objects)), problems, missing


_NAMES = tuple(f"PCK@{alpha}" for alpha in ALPHAS)


def _read(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """The joints (T, N, 2), NaN where they are null."""
    try:
        frames = json.loads(path.read_bytes())
        lost = [np.nan, np.nan]
        joints = np.array([[lost if one is None else one for one in frame] for frame in frames], np.float64)
    except FileNotFoundError as error:
        raise MaskError(f"{path}: the prediction is missing") from error
    except (OSError, ValueError, TypeError) as error:
        raise MaskError(f"{path}: not a list of frames of joints ({error}); write it again") from error
    if joints.ndim != 3 or joints.shape[1:] != shape[1:] or len(joints) < shape[0]:
        raise MaskError(f"{path}: holds {joints.shape}, but {shape} (frames, joints, x and y) is expected")
    if np.isinf(joints).any():
        raise MaskError(f"{path}: holds an infinite coordinate; write null for a lost joint")
    return joints[: shape[0]]

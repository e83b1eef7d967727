"""Score a folder of masks by a benchmark's protocol: all that is wrong is found first and told at once.

Truths and predictions are decoded once, in the processes that score them.
"""

import os
import platform
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Literal

from matchcut.benchmarks import summaries
from matchcut.benchmarks.decoding import read_truth_files
from matchcut.benchmarks.frames import Answer, Frame, Job, run_job, strange_ids
from matchcut.benchmarks.joints import score_joints
from matchcut.benchmarks.protocols import Protocol, find_protocol
from matchcut.benchmarks.results import Result
from matchcut.benchmarks.summaries import Scored, Summary
from matchcut.data.readers import read_dataset
from matchcut.data.sequence import Sequence, is_seen
from matchcut.errors import DatasetError, MaskError, MatchcutError
from matchcut.folders import files_in

SHOWN = 10  # lines of one kind in one sequence; what is left is counted
FEW = 64  # frames for which no second process is started unasked

Problems = dict[int, list[tuple[str, str]]]
"""By place of the sequence, -1 for all: (kind, line)."""


def score(
    benchmark: str,
    root: str | Path,
    masks: str | Path,
    *,
    split: str | None = None,
    sequences: Iterable[str] | None = None,
    missing: Literal["error", "empty"] = "error",
    processes: int | None = None,
    reference_fault: bool = False,
) -> Result:
    """Score masks, anyone's, by the official protocol of a benchmark.

    Args:
        benchmark: a name of `PROTOCOLS`.
        root: of the benchmark, as published.
        masks: the predictions, `<sequence>/<frame>.png`, in this folder or in `masks` or `Annotations` in it; of one
            sequence also without its folder. Palette, 8-bit grey or one-bit; for JHMDB `<sequence>.json`.
        split: by default the one that papers report.
        sequences: only these.
        missing: "empty" counts a missing prediction as empty, and lists it in the result.
        processes: by default one a core where they can be forked (Linux, no torch, no threads), else one. More than
            one elsewhere needs the caller's script to have `if __name__ == "__main__"`.
        reference_fault: decay as the reference has it beyond 256 frames; see `metrics.mean_recall_decay`.

    Raises:
        DatasetError, MaskError: all that is wrong with the benchmark or the predictions, a line each.
    """
    started = time.perf_counter()
    protocol, root, masks = find_protocol(benchmark), Path(root), Path(masks)
    if missing not in ("error", "empty") or (processes is not None and processes < 1):
        raise MatchcutError(f"missing is 'error' or 'empty', processes at least 1; got {missing!r}, {processes!r}")
    found = read_dataset(protocol.dataset, root, split or protocol.split, sequences)
    masks = _predictions(masks, found)
    problems: Problems = defaultdict(list)
    if protocol.objects == "joints":
        problems.update(_reader_problems(found))
        summary, wrong, absent = score_joints(found, masks, empty=missing == "empty")
        for place, kind, line in wrong:
            problems[place].append((kind, line))
    else:
        jobs = _plan(protocol, found, masks, problems, empty=missing == "empty")
        scored = _gather(found, _run(_chunks(jobs, processes), processes), problems)
        absent = _settle(protocol, scored, jobs, masks, problems, empty=missing == "empty")
        summary = None if any(problems.values()) else _summary(protocol, scored, reference_fault)
    _raise(problems)
    assert summary is not None
    if not summary.objects:
        raise DatasetError(f"{root}: no object is left to score in {benchmark} {split or protocol.split}")
    return Result(
        benchmark=benchmark,
        split=split or protocol.split,
        protocol=protocol.paragraph(),
        summary=summary.row,
        objects=summary.objects,
        curves=summary.curves,
        missing=tuple(absent),
        masks=masks,
        root=root,
        seconds=time.perf_counter() - started,
        versions=_versions(),
    )


# --- what is to be scored


def _predictions(masks: Path, found: list[Sequence]) -> Path:
    """The folder that holds the sequences' predictions."""
    if not masks.is_dir():
        raise MaskError(f"{masks}: no such folder; give the folder of predictions")
    for place in (masks, masks / "masks", masks / "Annotations"):
        if any((place / sequence.name).is_dir() or (place / f"{sequence.name}.json").exists() for sequence in found):
            return place
    if len(found) == 1:
        return next((masks / one for one in ("masks", "Annotations") if (masks / one).is_dir()), masks)
    names = ", ".join(sequence.name for sequence in found[:3])
    raise MaskError(f"{masks}: holds no folder of a sequence ({names}, ...); predictions are <sequence>/<frame>.png")


def _reader_problems(found: list[Sequence]) -> Problems:
    """What the readers found wrong with truths; with images only where there are any, since scoring needs none."""
    problems: Problems = {}
    for place, sequence in enumerate(found):
        folders = tuple({f"{path.parent}" for files in sequence.truths.values() for path in files[:1]})
        lines = [line for line in sequence.problems if sequence.images or not folders or line.startswith(folders)]
        if sequence.dense and sequence.truths:
            lines += [
                f"{sequence.images[name]}: its ground truth is missing; restore it"
                for name in sequence.images
                if name not in sequence.truths
            ]
        if not sequence.truths and not lines:
            lines.append(f"{sequence.name}: has no ground truth; restore its masks")
        problems[place] = [("truth", line) for line in lines]
    return problems


def _plan(protocol: Protocol, found: list[Sequence], masks: Path, problems: Problems, *, empty: bool) -> list[Job]:
    """A job a sequence."""
    problems.update(_reader_problems(found))
    if protocol.task == "youtube-vos":
        try:
            is_seen(found[0], next(iter(found[0].objects)))
        except DatasetError as error:
            problems[-1].append(("truth", str(error)))
    jobs = []
    for place, sequence in enumerate(found):
        names = list(sequence.truths)
        if (hidden := hidden_truth(protocol, sequence)) is not None:
            problems[place].append(("truth", hidden))
        if protocol.frames == "inner":
            names = names[1:-1]
        if sequence.truths and not names:
            line = f"{sequence.name}: has {len(sequence.truths)} truths, and the first and the last do not count"
            problems[place].append(("truth", f"{line}; leave it out or restore the others"))
        folder = masks / sequence.name
        if not folder.is_dir() and len(found) == 1:
            folder = masks
        there: dict[str, Path] = {}
        for path in files_in(folder, {".png"}):
            if path.stem in there:
                line = f"{path}: a second prediction of this frame beside {there[path.stem].name}; remove one"
                problems[place].append(("twice", line))
            there.setdefault(path.stem, path)
        if names and not there and not empty:
            problems[place].append(("missing", f"{folder}: holds no prediction ({len(names)} PNG files are expected)"))
        if sequence.reader is not None:
            try:
                _ = sequence.reader.meaning  # learnt once, here, for all processes
            except MaskError as error:
                problems[place].append(("truth", str(error)))
        frames = tuple(Frame(name, sequence.truths[name], there.get(name)) for name in names)
        ids = _ids(protocol, sequence, problems[place])
        jobs.append(Job(place, protocol, sequence.form, frames, ids, reader=sequence.reader))
    return jobs if not any(problems.values()) else [replace(job, score=False) for job in jobs]


def hidden_truth(protocol: Protocol, sequence: Sequence) -> str | None:
    """A line if the benchmark keeps the truth of this sequence to itself."""
    truths = sequence.truths
    if protocol.task == "youtube-vos":
        asked = {frame for one in sequence.objects.values() for frame in one.frames}
        lacking = len(asked - truths.keys())
    else:
        partial = protocol.dataset.startswith("davis") and not sequence.dense
        lacking = len(sequence.images.keys() - truths) if partial else 0
    if not lacking:
        return None
    return f"{sequence.name}: {lacking} frames have no truth here; where it is not public, only the server can score"


def _ids(protocol: Protocol, sequence: Sequence, problems: list[tuple[str, str]]) -> tuple[int, ...] | None:
    """The objects of a sequence; None where its truths must be looked through."""
    if protocol.objects != "ids" or not sequence.truths:
        return None
    files = next(iter(sequence.truths.values()))
    if sequence.form == "grey":
        return tuple(range(1, len(files) + 1))
    if sequence.objects:
        return tuple(sequence.objects)
    if sequence.enters_later:
        return None
    try:
        first = read_truth_files(files, sequence.form, sequence.reader)
    except DatasetError as error:
        problems.append(("truth", str(error)))
        return None
    return tuple(range(1, int(first[first < 255].max(initial=0)) + 1))


# --- processes


def _chunks(jobs: list[Job], processes: int | None) -> list[Job]:
    """Jobs cut to an equal number of frames, but for those that need a sequence as a whole."""
    total = sum(len(job.frames) for job in jobs)
    size = min(64, max(8, total // (8 * (processes or _cores()))))
    cut = []
    for job in jobs:
        step = max(1, len(job.frames)) if job.protocol.objects == "proposals" else size
        for start in range(0, len(job.frames), step):
            cut.append(replace(job, frames=job.frames[start : start + step]))
    return cut


def _run(jobs: list[Job], processes: int | None) -> list[Answer]:
    fork = _can_fork()
    if processes is None:
        processes = _cores() if fork and sum(len(job.frames) for job in jobs) >= FEW else 1
    processes = min(processes, len(jobs))
    if processes <= 1:
        return [run_job(job) for job in jobs]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    context = get_context("fork" if fork else "spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)
    try:
        return list(pool.map(run_job, jobs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In a new process: leave Ctrl-C to the first one and OpenCV's threads unused."""
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_fork() -> bool:
    """Whether a copy of this process is safe: Linux, one thread, and no torch, whose threads would not be copied."""
    return sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1


# --- what came back


def _gather(found: list[Sequence], answers: list[Answer], problems: Problems) -> list[Scored]:
    scored = [Scored(sequence, [], []) for sequence in found]
    for answer in answers:
        one = scored[answer.place]
        one.frames += answer.frames
        one.answers.append(answer)
        problems[answer.place] += answer.problems
    return scored


def _settle(
    protocol: Protocol, scored: list[Scored], jobs: list[Job], masks: Path, problems: Problems, *, empty: bool
) -> list[str]:
    """Find the frames at which each object counts, then the missing predictions among them; what is wrong with either.

    Returns:
        The missing predictions, "sequence/frame", where they count as empty.
    """
    absent = []
    for place, (one, job) in enumerate(zip(scored, jobs, strict=True)):
        wrong = problems[place]
        every = range(len(one.frames))
        ids = job.ids
        if protocol.objects == "ids" and ids is None:
            ids = tuple(sorted({number for frame in one.frames for number in frame.present}))
            files = {frame.name: frame.prediction for frame in job.frames}
            for frame in one.frames:
                if strangers := [number for number in frame.predicted if number not in ids]:
                    wrong.append(strange_ids(files[frame.name], strangers, ids))
        elif protocol.objects == "one":
            ids = (1,)
        for number in ids or ():
            first = -1
            if protocol.frames == "after-first":
                first = next((at for at in every if number in one.frames[at].present), len(every))
            if places := [at for at in every if at > first]:
                one.counts[number] = places
        counted = set(every) if ids is None else {at for places in one.counts.values() for at in places}
        lost = [one.frames[at].name for at in sorted(counted) if one.frames[at].missing]
        if empty:
            absent += [f"{one.sequence.name}/{name}" for name in lost]
        elif lost and not any(kind == "missing" for kind, _ in wrong):
            folder = masks / one.sequence.name if (masks / one.sequence.name).is_dir() else masks
            wrong.extend(("missing", f"{folder / name}.png: the prediction is missing") for name in lost)
    tops = {frame.top for one in scored for frame in one.frames}
    if 1 in tops and max(tops) == 1:
        line = f"{masks}: grey values are 0 and 1 everywhere; write 0 and 255, or palette or one-bit files"
        problems[-1].append(("values", line))
    return absent


def _summary(protocol: Protocol, scored: list[Scored], reference_fault: bool) -> Summary:
    if protocol.task == "youtube-vos":
        return summaries.youtube_vos(scored)
    if protocol.task == "segtrack":
        return summaries.segtrack(scored)
    if protocol.objects == "map":
        return summaries.saliency_maps(scored)
    if protocol.objects == "classes":
        return summaries.classes(scored)
    if protocol.dataset == "youtube-objects":
        return summaries.by_class(scored)
    return summaries.davis(scored, named=protocol.dataset != "fbms", reference_fault=reference_fault)


def _raise(problems: Problems) -> None:
    """Raise all problems at once, or nothing."""
    lines, kinds = [], set()
    for place in sorted(problems):
        by_kind: defaultdict[str, list[str]] = defaultdict(list)
        for kind, line in dict.fromkeys(problems[place]):
            by_kind[kind].append(line)
        for kind, found in by_kind.items():
            kinds.add(kind)
            lines += found[:SHOWN]
            if len(found) > SHOWN:
                lines.append(f"... and {len(found) - SHOWN} more like these in the same sequence")
    if "missing" in kinds:
        lines.append(
            "score what is there with --sequences and its names, or count what is missing as empty with --missing empty"
        )
    if lines:
        total = sum(len(dict.fromkeys(found)) for found in problems.values())
        head = f"nothing was scored: {total} {'file' if total == 1 else 'files'} cannot be used"
        error = DatasetError if "truth" in kinds else MaskError
        raise error("\n  ".join([head, *lines]))


def _versions() -> dict[str, str]:
    import cv2
    import numpy
    import PIL

    return {
        "matchcut": import_module("matchcut").__version__,  # by name, as the package names modules that load torch
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }

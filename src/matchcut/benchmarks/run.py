"""Evaluate a model: run it on each sequence of a benchmark, write its masks, and score them as anyone's.

A sequence that an earlier run finished with the same input and settings is left as it is, and one that was interrupted
is gone on with; nothing else that lies in the folder is ever read.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matchcut.benchmarks.automatic import segment_sequence
from matchcut.benchmarks.protocols import Protocol, find_protocol
from matchcut.benchmarks.report import KIND, OWN, REPORT, SUBMISSION
from matchcut.data import Sequence, check_dataset, prompts, read_joints, read_truth
from matchcut.disk import is_inside
from matchcut.errors import MatchcutError, ModelError, OutputError
from matchcut.files import atomic_path, make_folder
from matchcut.folders import VIDEOS
from matchcut.manifest import check_folder, noted_in, run_folder
from matchcut.masks import write_mask
from matchcut.metrics import joint_positions
from matchcut.models.base import AutomaticModel, GuidedModel
from matchcut.models.catalogue import AUTOMATIC, model_name
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.outputs import can_be_read
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.reader import Video
from matchcut.weights.store import model_of

Say = Callable[[str], None]
Record = dict[str, Any]

PUBLISHED: dict[str, tuple[int, int]] = {"vip": (560, 4), "jhmdb": (320, 7)}
"""Short side and context of label propagation on a benchmark, where they are not those of DAVIS. Contexts: Jabri et
al., NeurIPS 2020; sizes: Li et al., NeurIPS 2019, whose scripts others use."""
SIGMA = 0.5
"""Of a joint's heat map, in cells of the grid (Li et al., NeurIPS 2019)."""
CHECKPOINT = ".ckpt"
"""What is beside a sequence's record while it runs; short, since its name may be as long as a file's."""


@dataclass(frozen=True)
class Choice:
    """Which model, and how it runs: the arguments of `load_model` and `Tracker`."""

    model: str | GuidedModel | AutomaticModel | None = None
    preset: str | None = None
    backbone: str | None = None
    weights: str | None = None
    size: int | None = None
    device: str = "auto"
    precision: str = "auto"

    def tracker(self, protocol: Protocol) -> Tracker:
        """The tracker; label propagation by a published preset has the benchmark's own size and context.

        Raises:
            ModelError: no such model, preset, backbone, weights, device or precision.
        """
        model = model_of(self.model, preset=self.preset, backbone=self.backbone, weights=self.weights)
        size, policy = self.size, None
        if self.preset is not None and protocol.task in PUBLISHED:
            published, context = PUBLISHED[protocol.task]
            size, policy = size or published, replace(model.spec.policy, context=context)
        return Tracker(model, policy, size=size, device=self.device, precision=self.precision)

    def segmenter(self) -> Segmenter:
        """The same for models that need no prompt.

        Raises:
            ModelError: no such model, weights, device or precision.
        """
        model = AUTOMATIC if self.model is None else self.model
        model = model_of(model, preset=self.preset, backbone=self.backbone, weights=self.weights)
        return Segmenter(model, size=self.size, device=self.device, precision=self.precision)

    def runner(self, protocol: Protocol) -> Tracker | Segmenter:
        """What runs the model on a benchmark."""
        return self.tracker(protocol) if protocol.prompted else self.segmenter()

    def described(self, protocol: Protocol) -> dict[str, Any]:
        """For records: what was chosen."""
        chosen = {one.name: getattr(self, one.name) for one in fields(self)}
        chosen["model"] = type(self.model).__qualname__
        if self.model is None and not protocol.prompted:
            chosen["model"] = AUTOMATIC
        elif self.model is None or isinstance(self.model, str):
            chosen["model"] = model_name(self.model, self.preset, self.backbone)
        return {name: value for name, value in chosen.items() if value is not None}


def run_benchmark(
    benchmark: str,
    root: str | Path,
    out: str | Path,
    choice: Choice,
    *,
    split: str | None = None,
    sequences: Iterable[str] | None = None,
    processes: int = 1,
    overwrite: bool = False,
    resume: bool = False,
    say: Say = lambda line: None,
) -> list[Sequence]:
    """Run a model on a benchmark: masks go to OUT/masks/<sequence>, a record of each run to OUT/runs.

    Args:
        processes: that share the sequences and the cores.
        overwrite, resume: what to do with what an earlier run left in OUT; without either, OUT must be empty.
        say: is told of each sequence that is done.

    Returns:
        The sequences.

    Raises:
        DatasetError: all that is wrong with the benchmark, a line each.
        ModelError: the model cannot be loaded, or is not one for this benchmark.
        OutputError: OUT holds something else, or what is read, or cannot be written to.
    """
    protocol, root, out = find_protocol(benchmark), Path(root), Path(out)
    if processes > 1 and not (choice.model is None or isinstance(choice.model, str)):
        raise ModelError("several processes load the model by its name; give a name, or one process")
    found = check_dataset(protocol.dataset, root, split or protocol.split, sequences)
    runner = choice.runner(protocol)
    folders = _folders_of(found, out)
    manifest = check_folder(out, KIND, overwrite=overwrite, resume=resume)
    ruined = set(manifest.ruined((path for one in found for path in _files(one, protocol, out)), can_be_read))
    # Before anything is written or run: a run of something else shows here.
    finished = {
        one.name: record for one in found if resume and (record := _finished(one, protocol, runner, out, ruined))
    }
    todo = [one for one in found if one.name not in finished]
    files = [path for one in todo for path in _files(one, protocol, out)]
    stale = manifest.matching((REPORT, *OWN, SUBMISSION))  # of other masks than there will be
    names = [*stale, *(path.relative_to(out).as_posix() for path in files)]
    inputs = [*folders, *([Path(choice.weights)] if choice.weights else [])]
    how: Any = {"overwrite": overwrite, "resume": resume, "ruined": ruined}
    with run_folder(out, KIND, names, inputs=inputs, **how) as manifest:
        manifest.remove(stale)
        make_folder(out / "masks")
        make_folder(out / "runs")
        for path in sorted(ruined) if resume else ():
            say(f"{path} was damaged; it is made anew")
        processes = min(processes, len(todo))
        work = partial(_run, protocol, runner, out, choice)
        done = _in_processes(todo, protocol, choice, out, processes) if processes > 1 else (work(one) for one in todo)
        for count, (name, record) in enumerate(finished.items(), start=1):
            say(f"{count:4d}/{len(found)}  {name}: {record['frames']} frames, done before")
        with closing(done):  # however this ends, no process is left
            for count, record in enumerate(done, start=1 + len(finished)):
                line = f"{record['sequence']}: {record['frames']} frames in {record['seconds']:.1f} s"
                say(f"{count:4d}/{len(found)}  {line}")
    return found


# --- processes


def _in_processes(
    todo: list[Sequence], protocol: Protocol, choice: Choice, out: Path, processes: int
) -> Generator[Record, None, None]:
    threads = max(1, torch.get_num_threads() // processes)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    begin = partial(_start_worker, protocol, choice, out, threads, ours)
    with ours, theirs, ProcessPoolExecutor(processes, context, begin) as pool:
        try:
            longest = sorted(todo, key=lambda one: -len(one.images))
            for future in as_completed([pool.submit(_work, one) for one in longest]):
                yield future.result()
        except BrokenProcessPool as error:
            raise MatchcutError(
                "a process was ended from outside (out of memory?): go on with --resume and fewer --processes"
            ) from error
        except BaseException:
            theirs.close()  # ends the workers now, not when their sequences are done
            raise


_worker: Callable[[Sequence], Record]  # in a process of a pool, set as it starts


def _start_worker(protocol: Protocol, choice: Choice, out: Path, threads: int, parent: Connection) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    _worker = partial(_run, protocol, choice.runner(protocol), out, choice)


def _end_with(parent: Connection) -> None:
    """End this process once the parent has closed its end of the pipe, or was killed."""
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)


def _work(sequence: Sequence) -> Record:
    return _worker(sequence)


# --- the folder


def _folders_of(found: Iterable[Sequence], out: Path) -> list[Path]:
    """The folders that the frames and truths of sequences lie in.

    Raises:
        OutputError: one of them lies in `out`, where masks would pass for truths.
    """
    files = (
        path for one in found for path in (*one.images.values(), *(path for of in one.truths.values() for path in of))
    )
    folders = list(dict.fromkeys(path.parent for path in files))
    if inner := next((one for one in folders if is_inside(one, out)), None):
        raise OutputError(f"{inner} is read, and lies in {out}: give another folder with -o")
    return folders


def _masks(sequence: Sequence, protocol: Protocol, out: Path) -> list[Path]:
    """The files of a sequence's masks, or of its joints."""
    place = out / "masks" / sequence.name
    if protocol.task == "jhmdb":
        return [place.with_name(f"{sequence.name}.json")]
    return [place / f"{name}.png" for name in sequence.images]


def _files(sequence: Sequence, protocol: Protocol, out: Path) -> list[Path]:
    """All files that a sequence's run writes."""
    record = out / "runs" / f"{sequence.name}.json"
    return [*_masks(sequence, protocol, out), record, _checkpoint(record)]


def _checkpoint(record: Path) -> Path:
    """The checkpoint beside the record of a sequence, whose name may have dots."""
    return record.with_name(record.name.removesuffix(".json") + CHECKPOINT)


def _write_record(out: Path, record: Record) -> Path:
    path = out / "runs" / f"{record['sequence']}.json"
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def _finished(
    sequence: Sequence, protocol: Protocol, runner: Tracker | Segmenter, out: Path, ruined: set[Path]
) -> Record | None:
    """The record of a sequence's run, None where it was not finished, or is not whole.

    Raises:
        OutputError: it was of another input or other settings.
    """
    try:
        record = json.loads((out / "runs" / f"{sequence.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    with _job(sequence, protocol, runner, out) as job:
        if record.get("fingerprint") != job.fingerprint:
            raise OutputError(
                f"{out} holds a run of {sequence.name} with another input, model or setting: --overwrite replaces it"
            )
        whole = all(path.exists() and path not in ruined for path in job.wanted)
        return record if whole and {"seconds", "frames"} <= record.keys() else None


# --- one sequence


@dataclass(frozen=True)
class _Job:
    """What a sequence's run needs: its video from the first frame that is given, and the files to be written."""

    timeline: Timeline
    fingerprint: str
    first: int
    wanted: list[Path]
    joints: NDArray[np.float64] | None = None
    heat: NDArray[np.float32] | None = None


@contextmanager
def _job(sequence: Sequence, protocol: Protocol, runner: Tracker | Segmenter, out: Path) -> Iterator[_Job]:
    names, files = list(sequence.images), list(sequence.images.values())
    given = prompts(sequence) if protocol.prompted else {}
    first = names.index(next(iter(given))) if given else 0
    place = out / "masks" / sequence.name
    film = files[0].suffix.lower() in VIDEOS
    with Video(files[0], start=first) if film else Video(files[first:]) as video:
        wanted = _masks(sequence, protocol, out)
        if isinstance(runner, Segmenter):
            files_of = place if protocol.objects == "one" else None  # else the masks are made into something else
            timeline = Timeline(video, files_of, correctable=False)
            yield _Job(timeline, timeline.fingerprint(runner.fingerprint()), first, wanted)
            return
        tracker, timeline = runner, Timeline(video, place, correctable=False)
        if protocol.task == "jhmdb":
            joints = read_joints(sequence)[0]  # (N, 2)
            scale = min(video.size) / (tracker.size or min(video.size))
            heat = _heat(joints, video.size, scale * tracker.spec.grid, scale * tracker.spec.mask_grid)
            timeline.annotate(0, (1 + heat[1:].argmax(0)).astype(np.uint8))  # for the fingerprint alone
            yield _Job(timeline, timeline.fingerprint(tracker.fingerprint()), first, wanted, joints, heat)
            return
        for frame, ids in given.items():
            labels = read_truth(sequence, frame)
            timeline.annotate(names.index(frame) - first, np.where(np.isin(labels, ids), labels, 0).astype(np.uint8))
        yield _Job(timeline, timeline.fingerprint(tracker.fingerprint()), first, wanted)


def _run(protocol: Protocol, runner: Tracker | Segmenter, out: Path, choice: Choice, sequence: Sequence) -> Record:
    """Run one sequence; the record of it, which is written before and, with the seconds, after."""
    started = perf_counter()
    with noted_in(out), _job(sequence, protocol, runner, out) as job:
        about = {"sequence": sequence.name, "fingerprint": job.fingerprint, "frames": len(sequence.images)}
        record = about | choice.described(protocol)
        written = _write_record(out, record)
        if isinstance(runner, Segmenter):
            make_folder(job.wanted[0].parent)
            segment_sequence(protocol, runner, job.timeline, job.wanted, _checkpoint(written))
        elif job.joints is None:
            make_folder(job.wanted[0].parent)
            runner.fill(job.timeline, checkpoint=_checkpoint(written))
            for path in job.wanted[: job.first]:  # before the first object enters
                write_mask(path, np.zeros(job.timeline.size, np.uint8))
        else:
            _carry_joints(job, runner)
    record["seconds"] = round(perf_counter() - started, 3)
    _write_record(out, record)
    return record


def _carry_joints(job: _Job, tracker: Tracker) -> None:
    """The joints of the first frame as heat maps, carried along; where each is strongest is the joint."""
    assert job.joints is not None and job.heat is not None
    video = job.timeline.video
    later = (joint_positions(soft[1:], video.size) for soft in tracker.stream_soft(video, job.heat))
    rows = [[None if np.isnan(joint).any() else joint.tolist() for joint in frame] for frame in (job.joints, *later)]
    with atomic_path(job.wanted[0]) as temporary:
        temporary.write_text(json.dumps(rows) + "\n", encoding="utf-8")


def _heat(joints: NDArray[np.float64], size: tuple[int, int], cell: float, read: float) -> NDArray[np.float32]:
    """(1 + N, H, W) a Gaussian a joint (N, 2), and what they leave first.

    As published, a joint in the corner of a cell lies in its middle, and `joint_positions` reads it back so.

    Args:
        cell: pixels of a cell that is matched.
        read: pixels of a cell of the maps that come back.
    """
    ys, xs = np.mgrid[: size[0], : size[1]] - (read - 1) / 2
    squares = (xs - joints[:, 0, None, None]) ** 2 + (ys - joints[:, 1, None, None]) ** 2
    heat = np.exp(-squares / (2 * (SIGMA * cell) ** 2))
    return np.concatenate([1 - heat.max(0, keepdims=True), heat]).astype(np.float32)

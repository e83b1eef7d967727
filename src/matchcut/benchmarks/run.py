"""Evaluate a model: run it on each sequence of a benchmark, write its masks, and score them as anyone's.

A sequence that an earlier run finished with the same input and settings is left as it is, and one that was interrupted
is gone on with; nothing else that lies in the folder is ever read.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matchcut.benchmarks.protocols import Protocol, find_protocol
from matchcut.data import Sequence, check_dataset, prompts, read_joints, read_truth
from matchcut.errors import ModelError, OutputError
from matchcut.files import atomic_path, make_folder, output_error
from matchcut.masks import write_mask
from matchcut.metrics import joint_positions
from matchcut.models.base import GuidedModel
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.reader import Video
from matchcut.weights.specs import DEFAULT_MODEL
from matchcut.weights.store import load_model

Say = Callable[[str], None]

PUBLISHED: dict[str, tuple[int, int]] = {"vip": (560, 4), "jhmdb": (320, 7)}
"""Short side and context of label propagation on a benchmark, where they are not those of DAVIS. Contexts: Jabri et
al., NeurIPS 2020; sizes: Li et al., NeurIPS 2019, whose scripts others use."""
SIGMA = 0.5
"""Of a joint's heat map in cells of 8 pixels (Li et al., NeurIPS 2019)."""


@dataclass(frozen=True)
class Choice:
    """Which model, and how it runs: the arguments of `load_model` and `Tracker`."""

    model: str | GuidedModel = DEFAULT_MODEL
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
        if isinstance(self.model, str):
            model: Any = load_model(self.model, preset=self.preset, backbone=self.backbone, weights=self.weights)
        else:
            model = self.model
        size, policy = self.size, None
        if self.preset is not None and protocol.task in PUBLISHED:
            published, context = PUBLISHED[protocol.task]
            size, policy = size or published, replace(model.policy, context=context)
        return Tracker(model, policy, size=size, device=self.device, precision=self.precision)

    def described(self) -> dict[str, Any]:
        """For records: what was chosen."""
        chosen = {one.name: getattr(self, one.name) for one in fields(self)}
        chosen["model"] = self.model if isinstance(self.model, str) else type(self.model).__qualname__
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
    """Run a guided model on a benchmark: masks go to OUT/masks/<sequence>, a record of each run to OUT/runs.

    Args:
        processes: that share the sequences and the cores.
        overwrite, resume: what to do with what an earlier run left in OUT; without either, OUT must be empty.
        say: is told of each sequence that is done.

    Returns:
        The sequences.

    Raises:
        DatasetError: all that is wrong with the benchmark, a line each.
        ModelError: the model cannot be loaded, or the benchmark is not for guided models.
        OutputError: OUT holds something else, or cannot be written to.
    """
    protocol, root, out = find_protocol(benchmark), Path(root), Path(out)
    if not protocol.prompted:
        raise ModelError(
            f"{benchmark} is for models that need no prompt, and there is none yet; for a guided model choose "
            "another, as davis2016 or davis2017"
        )
    found = check_dataset(protocol.dataset, root, split or protocol.split, sequences)
    tracker = choice.tracker(protocol)  # before anything is written: a wrong name shows here
    _open(out, overwrite=overwrite, resume=resume)
    done: Iterator[tuple[str, dict[str, Any]]]
    if processes == 1 or len(found) == 1:
        done = ((one.name, _run(one, protocol, tracker, out, choice)) for one in found)
    else:
        if not isinstance(choice.model, str):
            raise ModelError("several processes load the model by its name; give a name, or one process")
        done = _in_processes(found, protocol, choice, out, min(processes, len(found)))
    for count, (name, record) in enumerate(done, start=1):
        how = "done before" if record["done_before"] else f"{record['frames'] / record['seconds']:.1f} frames/s"
        say(f"{count:4d}/{len(found)}  {name}: {record['frames']} frames, {how}")
    return found


def _in_processes(
    found: list[Sequence], protocol: Protocol, choice: Choice, out: Path, processes: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    longest = sorted(found, key=lambda one: -len(one.images))
    with ProcessPoolExecutor(processes, context, _start_worker, (protocol, choice, out, threads)) as pool:
        running = {pool.submit(_work, one): one.name for one in longest}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker: Callable[[Sequence], dict[str, Any]]  # in a process of a pool, set as it starts


def _start_worker(protocol: Protocol, choice: Choice, out: Path, threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    tracker = choice.tracker(protocol)
    _worker = lambda sequence: _run(sequence, protocol, tracker, out, choice)  # noqa: E731


def _work(sequence: Sequence) -> dict[str, Any]:
    return _worker(sequence)


def _open(out: Path, *, overwrite: bool, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: give a folder with -o")
    make_folder(out)
    held = sorted(one.name for one in out.iterdir())
    if held and not overwrite and not resume:
        raise OutputError(
            f"{out} is not empty (it holds {held[0]}): --overwrite replaces an earlier run, --resume goes on with it"
        )
    try:
        (out / "report.json").unlink(missing_ok=True)  # of other masks than there will be
        if not resume:
            for pattern in ("masks/*/*.png", "masks/*.json", "runs/*.json", "runs/*.safetensors"):
                for path in out.glob(pattern):
                    path.unlink()
            for folder in out.glob("masks/*/"):
                folder.rmdir()
    except OSError as error:
        raise output_error(out, error) from error
    make_folder(out / "masks")
    make_folder(out / "runs")


def _run(sequence: Sequence, protocol: Protocol, tracker: Tracker, out: Path, choice: Choice) -> dict[str, Any]:
    """Run one sequence, unless that was done; the record of it."""
    files = list(sequence.images.values())
    names = list(sequence.images)
    given = prompts(sequence)
    first = names.index(next(iter(given)))
    one_file = len(set(files)) == 1 and len(files) > 1
    with closing(Video(files[0], start=first) if one_file else Video(files[first:])) as video:
        work = _joints if protocol.task == "jhmdb" else _masks
        started = perf_counter()
        record = work(sequence, video, given, names, first, tracker, out)
    if not record["done_before"]:
        record |= {"frames": len(names) - first, "seconds": round(perf_counter() - started, 3), **choice.described()}
        with atomic_path(out / "runs" / f"{sequence.name}.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    return record


def _masks(
    sequence: Sequence,
    video: Video,
    given: dict[str, tuple[int, ...]],
    names: list[str],
    first: int,
    tracker: Tracker,
    out: Path,
) -> dict[str, Any]:
    folder = out / "masks" / sequence.name
    make_folder(folder)
    timeline = Timeline(video, folder, correctable=False)
    for frame, ids in given.items():
        labels = read_truth(sequence, frame)
        timeline.annotate(names.index(frame) - first, np.where(np.isin(labels, ids), labels, 0).astype(np.uint8))
    fingerprint = tracker.fingerprint(timeline)
    wanted = [folder / f"{name}.png" for name in names]
    if (known := _known(out, sequence.name, fingerprint)) is not None and all(path.exists() for path in wanted):
        return known
    tracker.fill(timeline, checkpoint=out / "runs" / f"{sequence.name}.safetensors")
    for path in wanted[:first]:  # before the first object enters
        write_mask(path, np.zeros(video.size, np.uint8))
    return {"fingerprint": fingerprint, "done_before": False}


def _joints(
    sequence: Sequence,
    video: Video,
    given: dict[str, tuple[int, ...]],
    names: list[str],
    first: int,
    tracker: Tracker,
    out: Path,
) -> dict[str, Any]:
    """The joints of the first frame as heat maps, carried along; where each is strongest is the joint."""
    joints = read_joints(sequence)[0]  # (N, 2)
    timeline = Timeline(video)
    heat = _heat(joints, video.size, 8 * SIGMA * min(video.size) / (tracker.size or min(video.size)))
    timeline.annotate(0, (1 + heat[1:].argmax(0)).astype(np.uint8))  # for the fingerprint alone
    fingerprint = tracker.fingerprint(timeline)
    path = out / "masks" / f"{sequence.name}.json"
    if (known := _known(out, sequence.name, fingerprint)) is not None and path.exists():
        return known
    found = [joints, *(joint_positions(soft[1:], video.size) for soft in tracker.stream_soft(video, heat))]
    rows = [[None if np.isnan(joint).any() else joint.tolist() for joint in frame] for frame in found]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(rows) + "\n")
    return {"fingerprint": fingerprint, "done_before": False}


def _heat(joints: NDArray[np.float64], size: tuple[int, int], sigma: float) -> NDArray[np.float32]:
    """(1 + N, H, W) a Gaussian of `sigma` pixels a joint (N, 2), and what they leave first."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    squares = (xs - joints[:, 0, None, None]) ** 2 + (ys - joints[:, 1, None, None]) ** 2
    heat = np.exp(-squares / (2 * sigma**2))
    return np.concatenate([1 - heat.max(0, keepdims=True), heat]).astype(np.float32)


def _known(out: Path, name: str, fingerprint: str) -> dict[str, Any] | None:
    """The record of a finished run with this fingerprint; None where there is none.

    Raises:
        OutputError: the record is of another input or other settings.
    """
    path = out / "runs" / f"{name}.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    if record.get("fingerprint") != fingerprint:
        raise OutputError(f"{out} holds a run of {name} with another input, model or setting: --overwrite replaces it")
    return {**record, "done_before": True}

"""Finding the primary moving object of a video with no prompt: frames, their motion, an automatic model, masks.

Frames are read, resized and given their optical flow in one thread and masks are written in another; on a CPU, the
network works on several frames side by side, each in a thread of its own. Of the video, never more is held than a few
frames.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matchcut.files import atomic_path, output_error
from matchcut.masks import LabelMap
from matchcut.matching.threads import limit_threads
from matchcut.models.base import AutomaticModel
from matchcut.models.contract import check_automatic, check_probability, check_size
from matchcut.tracking.interrupted import read_log
from matchcut.tracking.memory import Chain
from matchcut.tracking.motion import FlowSource, Moving, Pair, with_motion
from matchcut.tracking.pipeline import prefetch, together
from matchcut.tracking.placement import pick_device, pick_precision
from matchcut.tracking.soft_masks import to_labels
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Frame, Progress

Soft = NDArray[np.float32]
Keep = Callable[[int, Soft], None]

AT_ONCE = 8
"""Frames that are worked on side by side at most: each holds some 100 MB."""
STILL_SHARE = 0.5
"""What is left of the confidence in a mask of a frame in which nothing moves: it is by appearance alone."""


def _begin_log(log: Path | None, fingerprint: str, timeline: Timeline) -> list[dict[str, Any]]:
    """The frames that an interrupted run with this fingerprint has done, as far as their masks are there.

    Raises:
        OutputError: it was a run of something else.
    """
    if log is None:
        return []
    done: list[dict[str, Any]] = []
    for frame, line in enumerate(read_log(log, fingerprint)[1:]):
        whole = {"frame", "confidence", "still", "cut", "missing"} <= line.keys() and line["frame"] == frame
        if not whole or frame >= len(timeline) or not timeline.has_file(frame):
            break
        done.append(line)
    with atomic_path(log, note="name") as temporary:
        lines = [{"fingerprint": fingerprint}, *done]
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return done


@dataclass(frozen=True)
class _Found:
    """What was found in a frame."""

    index: int
    soft: Soft
    """(h, w) probability of the object, as the network gives it."""
    labels: LabelMap
    """(H, W)."""
    confidence: float
    still: bool
    cut: bool


class Segmenter:
    """An automatic model, run over videos.

    Args:
        model: offers `segment(image, flow)` (see `matchcut.models.base.AutomaticModel`).
        size: short side, in pixels, of the frames the model sees; the model's own where None.
        device, precision: as of `Tracker`.
        flow: where optical flow comes from; DIS where None.

    Raises:
        ModelError: an unknown device or precision, or what is no automatic model.
    """

    def __init__(
        self,
        model: AutomaticModel,
        *,
        size: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        flow: FlowSource | None = None,
    ) -> None:
        check_size(size, 32)
        check_automatic(model)
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        self.model = model
        if isinstance(model, torch.nn.Module):
            model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.size: int | None = size or getattr(model, "size", None)
        self.square: bool = getattr(model, "square", False)
        self.multiple: int = getattr(model, "multiple", 1)
        self.camera: bool = getattr(model, "camera", True)
        self.flow = flow or FlowSource()
        self.seconds: dict[str, float] = {}
        """Spent since the start: waiting for frames and flow, in the network, enlarging, writing files. Together more
        than has passed where frames are worked on side by side."""
        self._counting = Lock()
        self.still: list[int] = []
        """Frames of the last video in which nothing moves."""
        self.cuts: list[int] = []
        """Frames of the last video with which another scene begins."""

    def fill(
        self,
        timeline: Timeline,
        progress: Progress | None = None,
        keep: Keep | None = None,
        log: Path | None = None,
        fingerprint: str = "",
    ) -> None:
        """Give each frame of a timeline the mask of the primary object, as object 1, and how sure it is.

        Args:
            progress: called after each frame.
            keep: is given each frame's index and its probability (H, W) in [0, 1], at the frame's size.
            log: a file to which each frame is added as it is done, so that an interrupted `fill` whose masks are files
                goes on there.
            fingerprint: what `self.fingerprint` says.

        Raises:
            OutputError: the log is of another fingerprint, or cannot be written.
        """
        video, total, chain = timeline.video, len(timeline), self.chain(timeline)
        self.still, self.cuts, self.flow.missing = [], [], []
        done = _begin_log(log, fingerprint, timeline)
        for line in done:
            self._note(line["frame"], line["still"], line["cut"])
            if line["missing"]:
                self.flow.missing.append(video.frame_name(line["frame"]))
            timeline.mark(line["frame"], {1: line["confidence"]}, chain)
        first = max(len(done) - 1, 0)  # the flow of a scene's last frame leads to the one before
        moving = with_motion(self._resized(video.frames(first)), video.frame_name, self.flow, camera=self.camera)

        def put(frame: int, labels: LabelMap, sure: float, still: bool, cut: bool) -> None:
            timeline.put(frame, labels, {1: sure}, chain)
            if log is not None:
                missing = video.frame_name(frame) in self.flow.missing
                line = {"frame": frame, "confidence": sure, "still": still, "cut": cut, "missing": missing}
                try:
                    with log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                except OSError as error:
                    raise output_error(log, error) from error

        def new(frames: Iterator[tuple[int, Moving]]) -> Iterator[tuple[int, Moving]]:
            started = perf_counter()
            for index, moving in frames:
                self._count("read", perf_counter() - started)
                if index >= len(done):
                    yield index, moving
                started = perf_counter()

        # Frames know nothing of each other: rather one a thread than one after the other on all of them.
        threads = torch.get_num_threads()
        at_once = min(threads, AT_ONCE) if self.device.type == "cpu" else 1
        begin = partial(limit_threads, threads // at_once)
        with prefetch(moving, lambda one: one) as source, together(new(source), self._find, at_once, begin) as masks:
            for one in masks:
                started = perf_counter()
                self._note(one.index, one.still, one.cut)
                put(one.index, one.labels, one.confidence, one.still, one.cut)
                if keep is not None:
                    keep(one.index, cv2.resize(one.soft, timeline.size[::-1], interpolation=cv2.INTER_LINEAR))  # type: ignore[arg-type]
                self._count("write", perf_counter() - started)
                if progress is not None:
                    progress(one.index + 1, total)

    def _find(self, indexed: tuple[int, Moving]) -> _Found:
        """The object in a frame, by its index. Called by several threads."""
        index, one = indexed
        started = perf_counter()
        soft = self._probability(one)
        self._count("network", perf_counter() - started)
        started = perf_counter()
        size = (one.frame.shape[0], one.frame.shape[1])
        labels = to_labels(np.stack([1 - soft, soft]), [1], size, "guided", frame=one.frame)
        self._count("enlarge", perf_counter() - started)
        confidence = round(confidence_of(soft) * (STILL_SHARE if one.still else 1.0), 4)
        return _Found(index, soft, labels, confidence, one.still, one.cut and index > 0)

    def chain(self, timeline: Timeline) -> Chain:
        """What the timeline takes the masks for: made frame by frame, from nothing that was annotated."""
        return Chain(-1, 1, len(timeline) - 1)

    def fingerprint(self, timeline: Timeline) -> str:
        """A hash of all that the masks of a timeline depend on: input, flow, model and settings."""
        video, files = timeline.video, sorted(self.flow.files.values())
        backbone = getattr(self.model, "backbone", None)
        seen = (
            *(video.stamp(), timeline.length, tuple(timeline.size)),
            *(video.frame_name(0), video.frame_name(len(video) - 1)),
            *(type(self.model).__qualname__, getattr(backbone, "weights", None)),
            *(getattr(self.model, "form", None), getattr(self.model, "settings", None)),
            *(self.size, self.square, str(self.dtype), self.camera, self.flow.identity),
            *((str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files),
        )
        return hashlib.sha256(repr(seen).encode()).hexdigest()

    def _note(self, frame: int, still: bool, cut: bool) -> None:
        if still:
            self.still.append(frame)
        if cut:
            self.cuts.append(frame)

    def _resized(self, frames: Iterable[tuple[int, Frame]]) -> Iterator[tuple[int, Pair]]:
        for index, frame in frames:
            yield index, (frame, self.resize(frame))

    def resize(self, frame: Frame) -> Frame:
        """A frame (H, W, 3) in the size that the network sees."""
        size = self._working(frame.shape[:2])
        how = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(frame, size[::-1], interpolation=how), np.uint8)

    def _working(self, size: tuple[int, ...]) -> tuple[int, int]:
        """The size that the network sees: both sides a multiple of what it wants."""
        short, step = self.size or min(size), self.multiple
        wanted = (short, short) if self.square else tuple(side * short / min(size) for side in size)
        height, width = (max(step, round(one / step) * step) for one in wanted)
        return height, width

    def _probability(self, one: Moving) -> Soft:
        image, flow = (to_image(part).to(self.device) for part in (one.small, one.flow))
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            found = self.model.segment(image, flow)
        check_probability(self.model, found)
        soft: Soft = found[0, 0].float().cpu().numpy()
        return soft

    def _count(self, stage: str, seconds: float) -> None:
        with self._counting:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def confidence_of(soft: Soft) -> float:
    """How sure a probability map (H, W) is: its soft overlap with the mask it becomes above one half; 0 where that is
    empty."""
    inside = soft > 0.5
    sure = float(soft[inside].sum())
    return sure / (float(inside.sum()) + float(soft[~inside].sum())) if sure else 0.0


def to_image(pixels: Frame) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) in [0, 1], channels last."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.channels_last) / 255

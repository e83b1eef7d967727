"""Finding the primary moving object of a video with no prompt: frames, their motion, an automatic model, masks.

Frames are read, resized and given their optical flow in one thread and masks are written in another; on a CPU, the
network works on several frames side by side, each in a thread of its own. Of the video, never more is held than a few
frames.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from time import perf_counter

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matchcut.errors import PromptError
from matchcut.flow.source import FlowSource, Moving, Pair, with_motion
from matchcut.masks import Frame, LabelMap
from matchcut.matching.threads import limit_threads
from matchcut.models.base import AutomaticModel, ModelInput
from matchcut.models.contract import check_automatic, check_probability, check_size
from matchcut.refinement import guided
from matchcut.tracking.checkpoint import CHECKPOINTS, EVERY, load_checkpoint, save_checkpoint
from matchcut.tracking.device import pick_device, pick_precision
from matchcut.tracking.pipeline import prefetch, together
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import OnFrame, Progress

Probability = NDArray[np.float32]
Keep = Callable[[int, Probability], None]

AT_ONCE = 8
"""Frames that are worked on side by side at most: each holds some 100 MB."""
STILL_SHARE = 0.5
"""What is left of the confidence in a mask of a frame in which nothing moves: it is by appearance alone."""


@dataclass(frozen=True)
class _Found:
    """What was found in a frame."""

    index: int
    soft: Probability
    """(h, w) probability of the object, as the network gives it."""
    labels: LabelMap
    """(H, W)."""
    confidence: float
    still: bool
    cut: bool


class Segmenter:
    """An automatic model, run over videos.

    Args:
        model: see `matchcut.models.base.AutomaticModel`.
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
        self.spec = model.spec
        self.size = size or model.spec.size
        self.flow = flow or FlowSource()
        self.seconds: dict[str, float] = {}
        """Spent since the start: waiting for frames and flow, in the network, refining, writing files. Together more
        than has passed where frames are worked on side by side."""
        self._counting = Lock()

    def fingerprint(self) -> str:
        """A hash of the model and of how it is run, flow included."""
        files = sorted(self.flow.files.values())
        seen = (
            *(self.model.fingerprint(), self.size, str(self.dtype), self.flow.identity),
            *((str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files),
        )
        return hashlib.sha256(repr(seen).encode()).hexdigest()

    def fill(
        self,
        timeline: Timeline,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
        *,
        on_frame: OnFrame | None = None,
        cancel: Event | None = None,
        keep: Keep | None = None,
    ) -> None:
        """Give each stale frame of a timeline the mask of the primary object, as object 1, and how sure it is.

        It notes in the timeline in which frames nothing moves ("still"), with which another scene begins ("cut"), and
        of which the precomputed flow was missing ("flow").

        Args:
            progress, checkpoint, on_frame, cancel: as of `Tracker.fill`.
            keep: is given each frame's index and its probability (H, W) in [0, 1], at the frame's size.

        Raises:
            PromptError: something is annotated, which this knows no use for.
            OutputError: the checkpoint is of a run of something else.
        """
        if timeline.annotations:
            raise PromptError("frames are annotated: a model that needs no prompt finds its own object; track instead")
        video, model = timeline.video, self.fingerprint()
        timeline.run_by(model)
        run = timeline.fingerprint(model) if checkpoint is not None else ""
        if checkpoint is not None:
            load_checkpoint(checkpoint, run, timeline)
        stale, (_, made), done = timeline.stale(), timeline.plan()[0], 0
        if not stale:
            return
        wanted, every = set(stale), max(EVERY, len(stale) // CHECKPOINTS)
        first = max(stale[0] - 1, 0)  # the flow of a scene's last frame leads to the one before
        self.flow.missing = []
        frames = islice(video.frames(first), stale[-1] + 2 - first)  # and the one after, to which the last flow leads
        moving = with_motion(self._resized(frames), video.frame_name, self.flow, camera=self.spec.camera)

        def new(frames: Iterator[tuple[int, Moving]]) -> Iterator[tuple[int, str, Moving]]:
            started = perf_counter()
            for index, moving in frames:
                self._count("read", perf_counter() - started)
                if index in wanted:
                    yield index, video.frame_name(index), moving
                started = perf_counter()

        # Frames know nothing of each other: rather one a thread than one after the other on all of them.
        threads = torch.get_num_threads()
        at_once = min(threads, AT_ONCE) if self.device.type == "cpu" else 1
        begin = partial(limit_threads, threads // at_once)
        with prefetch(moving, lambda one: one) as source, together(new(source), self._find, at_once, begin) as masks:
            for one in masks:
                started = perf_counter()
                found = {"still": one.still, "cut": one.cut, "flow": video.frame_name(one.index) in self.flow.missing}
                for what, holds in found.items():
                    if holds:
                        timeline.note(what, one.index)
                timeline.put(one.index, one.labels, {1: one.confidence}, made)
                done += 1
                if keep is not None:
                    keep(one.index, cv2.resize(one.soft, timeline.size[::-1], interpolation=cv2.INTER_LINEAR))  # type: ignore[arg-type]
                if checkpoint is not None and done % every == 0:
                    save_checkpoint(checkpoint, run, timeline, {})
                self._count("write", perf_counter() - started)
                if on_frame is not None:
                    on_frame(one.index, one.labels)
                if progress is not None:
                    progress(done, len(stale))
                if cancel is not None and cancel.is_set():
                    return
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)

    def _find(self, named: tuple[int, str, Moving]) -> _Found:
        """The object in a frame, by its index and its name. Called by several threads."""
        index, name, one = named
        started = perf_counter()
        soft = self._probability(index, name, one)
        self._count("network", perf_counter() - started)
        started = perf_counter()
        labels, _ = guided(np.stack([1 - soft, soft]), [1], one.frame)
        self._count("refine", perf_counter() - started)
        confidence = round(overlap_confidence(soft) * (STILL_SHARE if one.still else 1.0), 4)
        return _Found(index, soft, labels, confidence, one.still, one.cut and index > 0)

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
        short, step = self.size or min(size), self.spec.multiple
        wanted = (short, short) if self.spec.square else tuple(side * short / min(size) for side in size)
        height, width = (max(step, round(one / step) * step) for one in wanted)
        return height, width

    def _probability(self, index: int, name: str, one: Moving) -> Probability:
        image, flow = (to_image(part).to(self.device) for part in (one.small, one.flow))
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            found = self.model.segment(ModelInput(image, index, name, {"flow": flow}))
        check_probability(self.model, found)
        soft: Probability = found[0, 0].float().cpu().numpy()
        return soft

    def _count(self, stage: str, seconds: float) -> None:
        with self._counting:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def overlap_confidence(soft: Probability) -> float:
    """How sure a probability map (H, W) is: its soft overlap with the mask it becomes above one half; 0 where that is
    empty."""
    inside = soft > 0.5
    sure = float(soft[inside].sum())
    return sure / (float(inside.sum()) + float(soft[~inside].sum())) if sure else 0.0


def to_image(pixels: Frame) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) in [0, 1], channels last."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.channels_last) / 255

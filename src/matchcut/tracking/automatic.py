"""Finding the primary moving object of a video with no prompt: frames, their motion, an automatic model, masks.

Frames are read, resized and given their optical flow in one thread, the network runs in another, masks are written in
a third. Of the video, never more is held than a few frames.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matchcut.errors import ModelError, VideoError
from matchcut.files import make_folder
from matchcut.models.base import AutomaticModel
from matchcut.tracking.memory import Chain
from matchcut.tracking.pipeline import prefetch
from matchcut.tracking.placement import pick_device, pick_precision
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Frame, Progress
from matchcut.video.flow import (
    FILES,
    STILL,
    Flow,
    camera_flow,
    dis_flow,
    draw_flow,
    is_cut,
    motion_of,
    read_flow,
    write_flow,
)

Soft = NDArray[np.float32]
FlowOf = Callable[[Frame, Frame], Flow]
"""From one frame to another, both RGB (H, W, 3) uint8 of one size, to (H, W, 2) float32 in pixels."""
Keep = Callable[[int, Soft], None]

STILL_SHARE = 0.5
"""What is left of the confidence in a mask of a frame in which nothing moves: it is by appearance alone."""


@dataclass(frozen=True)
class Moving:
    """A frame with its motion."""

    picture: Frame
    """(H, W, 3) as the network sees it."""
    flow: Frame
    """(H, W, 3) its optical flow, drawn; white where nothing moves."""
    still: bool
    """Whether nothing moves, or the motion cannot be known: a single frame, or one between two cuts."""
    cut: bool
    """Whether another scene begins with this frame."""


class FlowSource:
    """Where optical flow comes from: computed, or precomputed files; kept on disk where asked for.

    Args:
        compute: DIS by default.
        folder: of precomputed flow, `<frame name>.flo`, .npz, .npy or .png, each to the next frame (of the last, if it
            is there, to the one before). Frames whose file is missing get computed flow, and are named in `missing`.
        cache: folder where computed flow is kept, and taken from if it is there.
        camera: take the camera's own motion off.

    Raises:
        VideoError: no such folder, or it holds no flow.
    """

    def __init__(
        self, compute: FlowOf = dis_flow, folder: Path | None = None, cache: Path | None = None, camera: bool = True
    ) -> None:
        self.compute, self.cache, self.camera = compute, cache, camera
        self.files: dict[str, Path] = {}
        self.missing: list[str] = []
        if folder is not None:
            there = sorted(folder.iterdir()) if folder.is_dir() else []
            self.files = {path.stem: path for path in there if path.suffix.lower() in FILES}
            if not self.files:
                raise VideoError(f"{folder}: holds no optical flow; expected <frame name>{', '.join(FILES)}")
        if cache is not None:
            make_folder(cache)

    def of(self, name: str, first: Frame, second: Frame) -> tuple[Frame, bool]:
        """The picture of the flow of the frame called `name`, and whether nothing moves in it.

        Raises:
            VideoError: its file is damaged.
        """
        size = (first.shape[0], first.shape[1])
        found: Flow | Frame | None = None
        if self.files:
            if name in self.files:
                found = read_flow(self.files[name], size)
            else:
                self.missing.append(name)
        kept = None if self.cache is None or found is not None else self.cache / f"{name}.npz"
        if kept is not None and kept.exists():
            found = read_flow(kept, size)
        if found is None:
            found = self.compute(first, second)
            if kept is not None:
                write_flow(kept, found)
        if found.dtype == np.uint8:
            return found.astype(np.uint8), False  # drawn by somebody: how fast it is cannot be known
        flow = found.astype(np.float32)
        if self.camera:
            flow = flow - camera_flow(flow)
        return draw_flow(flow), motion_of(flow) < STILL


def with_motion(
    frames: Iterable[tuple[int, Frame]], name: Callable[[int], str], source: FlowSource
) -> Iterator[tuple[int, Moving]]:
    """Each frame with the flow to the next; of the last of a scene, to the one before."""
    before: Frame | None = None
    held: tuple[int, Frame] | None = None
    for index, after in _with_end(frames):
        if held is not None:
            at, frame = held
            ends = after is None or is_cut(frame, after)
            other = before if ends else after
            drawn, still = np.full_like(frame, 255), True
            if other is not None:
                drawn, still = source.of(name(at), frame, other)
            yield at, Moving(frame, drawn, still, before is None and at > 0)
            before = None if ends else frame
        if after is not None:
            held = (index, after)


def _with_end(frames: Iterable[tuple[int, Frame]]) -> Iterator[tuple[int, Frame | None]]:
    yield from frames
    yield -1, None


class Segmenter:
    """An automatic model, run over videos.

    Args:
        model: offers `segment(image, flow)` (see `matchcut.models.base.AutomaticModel`).
        size: short side, in pixels, of the frames the model sees; the model's own where None.
        device, precision: as of `Tracker`.
        flow: where optical flow comes from; DIS where None.

    Raises:
        ModelError: an unknown device or precision.
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
        if size is not None and size < 32:
            raise ModelError(f"size: expected at least 32 pixels, got {size}")
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        self.model = model
        if isinstance(model, torch.nn.Module):
            model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.size: int | None = size or getattr(model, "size", None)
        self.square: bool = getattr(model, "square", False)
        self.multiple: int = getattr(model, "multiple", 1)
        self.flow = flow or FlowSource()
        self.seconds: dict[str, float] = {}
        """Spent since the start: waiting for frames and flow, in the network, enlarging, waiting for files."""
        self.still: list[int] = []
        """Frames of the last video in which nothing moves."""
        self.cuts: list[int] = []
        """Frames of the last video with which another scene begins."""

    def fill(self, timeline: Timeline, progress: Progress | None = None, keep: Keep | None = None) -> None:
        """Give each frame of a timeline the mask of the primary object, as object 1, and how sure it is.

        Args:
            progress: called after each frame.
            keep: is given each frame's index and its probability (H, W) in [0, 1], at the frame's size.
        """
        video, total = timeline.video, len(timeline)
        self.still, self.cuts, self.flow.missing = [], [], []
        chain = Chain(-1, 1, total - 1)
        moving = with_motion(self._resized(video.frames()), video.frame_name, self.flow)
        with prefetch(moving, lambda one: one) as source, ThreadPoolExecutor(1) as writer:
            writing = None
            started = perf_counter()
            for index, one in source:
                self._count("read", started)
                started = perf_counter()
                soft = self._probability(one)
                self._count("network", started)
                started = perf_counter()
                large = cv2.resize(soft, timeline.size[::-1], interpolation=cv2.INTER_LINEAR)
                labels = (large > 0.5).astype(np.uint8)
                sure = confidence_of(soft) * (STILL_SHARE if one.still else 1.0)
                self._count("enlarge", started)
                if one.still:
                    self.still.append(index)
                if one.cut:
                    self.cuts.append(index)
                started = perf_counter()
                if writing is not None:
                    writing.result()  # raises what went wrong there
                self._count("write", started)
                writing = writer.submit(timeline.put, index, labels, {1: sure}, chain)
                if keep is not None:
                    keep(index, np.asarray(large, np.float32))
                if progress is not None:
                    progress(index + 1, total)
                started = perf_counter()
            if writing is not None:
                writing.result()

    def _resized(self, frames: Iterable[tuple[int, Frame]]) -> Iterator[tuple[int, Frame]]:
        for index, frame in frames:
            yield index, cv2.resize(frame, self._working(frame.shape[:2])[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[misc]

    def _working(self, size: tuple[int, ...]) -> tuple[int, int]:
        """The size that the network sees: both sides a multiple of what it wants."""
        short, step = self.size or min(size), self.multiple
        wanted = (short, short) if self.square else tuple(side * short / min(size) for side in size)
        height, width = (max(step, round(one / step) * step) for one in wanted)
        return height, width

    def _probability(self, one: Moving) -> Soft:
        image, flow = (_image(part).to(self.device) for part in (one.picture, one.flow))
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
            found = self.model.segment(image, flow)
        soft: Soft = found[0, 0].float().cpu().numpy()
        return soft

    def _count(self, stage: str, started: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - started


def confidence_of(soft: Soft) -> float:
    """How sure a probability map (H, W) is: its soft overlap with the mask it becomes above one half; 0 where that is
    empty."""
    inside = soft > 0.5
    sure = float(soft[inside].sum())
    return sure / (float(inside.sum()) + float(soft[~inside].sum())) if sure else 0.0


def _image(pixels: Frame) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) in [0, 1], channels last."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.channels_last) / 255

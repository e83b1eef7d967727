"""Carrying masks through a video with a guided model and a bounded memory."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from matchcut.errors import MaskError, ModelError, PromptError, VideoError
from matchcut.masks import Frame, LabelMap, check_mask, object_ids
from matchcut.matching.threads import limit_threads
from matchcut.models.base import AnnotatedFrame, GuidedModel, MemoryPolicy, ModelInput
from matchcut.models.contract import check_guided, check_policy, check_size
from matchcut.tracking.annotations import Annotations, Provenance
from matchcut.tracking.checkpoint import CHECKPOINTS, EVERY, load_checkpoint, save_checkpoint, unpack
from matchcut.tracking.device import pick_device, pick_precision, side_by_side
from matchcut.tracking.inputs import Mask, as_index, as_label_map
from matchcut.tracking.memory import Segment, reference_frames
from matchcut.tracking.pipeline import prefetch
from matchcut.tracking.propagation import Annotated, Propagation, Segmented
from matchcut.tracking.timeline import Timeline
from matchcut.video.arrays import as_frame, describe

Progress = Callable[[int, int], None]
"""Called with frames done and frames to do."""
OnFrame = Callable[[int, LabelMap], None]
"""Called with the index of a frame and its mask."""


class Tracker:
    """A guided model, run over videos.

    Args:
        model: see `matchcut.models.base.GuidedModel`.
        policy: which frames are remembered; the model's own where None.
        size: short side, in pixels, of the frames the model sees: larger ones are shrunk to it, smaller ones
            enlarged. None takes the model's own (`ModelSpec.size`), or the frames as they are. Masks have the frames'
            size in any case.
        device: "cpu", "cuda", "mps", or "auto" for the best there is.
        precision: of the model's features: "float32", "bfloat16", or "auto", which takes bfloat16 where the
            processor is built for it. Matching is in float32 throughout.

    Raises:
        ModelError: an unknown device or precision, or what is no guided model.
    """

    def __init__(
        self,
        model: GuidedModel,
        policy: MemoryPolicy | None = None,
        *,
        size: int | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        check_size(size, 8)
        check_guided(model)
        if policy is not None:
            check_policy(policy, "policy")
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        self.model, self.spec = model, model.spec
        if isinstance(model, torch.nn.Module):
            model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.policy = policy or model.spec.policy
        self.size = size or model.spec.size
        self.seconds: dict[str, float] = {}
        """Spent since the start: waiting for frames, learning, encoding, matching, decoding what is shown, refining,
        waiting for writing. Together more than has passed where stages run side by side."""

    def fingerprint(self) -> str:
        """A hash of the model and of how it is run: what its masks depend on besides the input and the annotations."""
        model = self.model.fingerprint()
        if not isinstance(model, str) or not model:
            raise ModelError(f"{type(self.model).__name__}.fingerprint: expected a string, got {model!r}")
        seen = (model, self.size, str(self.dtype), self.policy)
        return hashlib.sha256(repr(seen).encode()).hexdigest()

    def fill(
        self,
        timeline: Timeline,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
        *,
        on_frame: OnFrame | None = None,
        cancel: Event | None = None,
        near: int | None = None,
    ) -> None:
        """Give each stale frame of a timeline its mask, forwards and backwards from the annotated frames.

        What is annotated while it runs counts for the next `fill`: masks that are made from what was there before are
        stale then.

        Args:
            timeline: with at least one annotated frame.
            progress: called after each frame.
            checkpoint: a file that is written now and then, from which an interrupted `fill` of the same timeline
                goes on with the same masks; removed at the end.
            on_frame: called with each mask as it comes, in the order in which they are made.
            cancel: once it is set, no more frames are begun; those that are done stay, the others stay stale.
            near: a frame, that someone looks at say: the row of stale frames nearest to it comes first.

        Raises:
            MaskError: nothing is annotated, or no object.
            OutputError: the checkpoint is of a run of something else.
        """
        if near is not None and not 0 <= as_index(near) < len(timeline):
            raise PromptError(f"near: expected a frame from 0 to {len(timeline) - 1}, got {near}")
        given = timeline.annotations
        if not given.objects():
            raise MaskError("nothing to track: annotate at least one frame with at least one object")
        timeline.run_by(self.fingerprint(), self.spec.state)
        run = timeline.fingerprint(self.fingerprint()) if checkpoint is not None else ""
        packed = load_checkpoint(checkpoint, run, timeline) if checkpoint is not None else {}
        timeline.write_annotations()
        stretches = timeline.stretches(given)
        total, done = sum(abs(last - first) + 1 for _, first, last, _ in stretches), 0
        every = max(EVERY, total // CHECKPOINTS)  # a checkpoint holds the record of all frames
        ended: dict[int, Any] = {}  # the state after each segment that was gone through, by its anchor
        beside = Lock()
        waiting: list[tuple[int, Future[LabelMap]]] = []  # the mask that is being written

        def written() -> None:
            started = perf_counter()
            while waiting:
                index, future = waiting.pop()
                labels = future.result()  # raises what went wrong there
                if on_frame is not None:
                    on_frame(index, labels)
            self._count("write", started)

        with (
            side_by_side(self.device, self.spec.parallel) as (apart, threads),
            ThreadPoolExecutor(1, initializer=limit_threads, initargs=(threads,)) as writer,
        ):
            for segment, first, last, made in _in_order(stretches, near, given, self.spec.state):
                propagation, start = self._begin(timeline, given, segment, first, packed, ended)
                for frame, image, found in self._run(timeline, propagation, start, last, beside, apart):
                    if cancel is not None and cancel.is_set():
                        written()
                        return
                    kept = propagation.pack(frame) if timeline.keeps_soft else None
                    written()
                    about = frame, image, found, kept
                    waiting.append((frame, writer.submit(self._put, timeline, given, made, beside, *about)))
                    done += 1
                    if checkpoint is not None and done % every == 0:
                        written()
                        save_checkpoint(checkpoint, run, timeline, propagation.checkpoint(frame))
                    if progress is not None:
                        progress(min(done, total), total)
                written()
                if segment.step > 0 and last == segment.last:
                    ended[segment.anchor] = propagation.state
                del propagation  # one memory at a time
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)

    def stream(self, frames: Iterable[Any], annotations: Mapping[int, Mask]) -> Iterator[tuple[int, LabelMap]]:
        """Masks of live input, one frame at a time: yields (index, label map) from the first annotated frame on.

        Forwards only; with annotations on one frame, the masks are those of `fill`. `annotations` may be filled while
        the stream runs: it is looked up when a frame comes.

        Args:
            frames: RGB uint8 (H, W, 3), all of one size (`matchcut.video.arrays.as_frame` says what else is taken).
            annotations: label maps (H, W) by frame index, see `Timeline.annotate`.

        Raises:
            VideoError: what is no frame, or of another size than those before it.
            MaskError: an annotation of another size than its frame, or that is no label map.
            PromptError: annotations by anything but numbers; of a frame that has gone by, or never came.
        """
        if not isinstance(annotations, Mapping):
            raise PromptError(f"annotations: expected label maps by frame, as {{0: mask}}, got {describe(annotations)}")
        taken: dict[int, Mask] = {}
        propagation: Propagation | None = None
        remembered: dict[int, Annotated] = {}  # annotated frames that the memory may name
        ids: list[int] = []
        size: tuple[int, ...] | None = None
        index = -1
        for index, one in enumerate(frames):
            _check_in_time(annotations, taken, index)
            mask = annotations.get(index)
            if mask is None and propagation is None:
                continue
            pixels = as_frame(one, f"frame {index}")
            if size is not None and pixels.shape != size:
                raise VideoError(
                    f"frame {index} is {pixels.shape[1]}x{pixels.shape[0]} but those before it are {size[1]}x{size[0]}"
                )
            size = pixels.shape
            frame = self._input(pixels, index, f"{index:05d}")
            features = self._encode(frame)
            if mask is None:
                assert propagation is not None
                yield index, self._refined(propagation.segment(index, features), pixels)
                continue
            taken[index] = mask
            labels = as_label_map(mask, f"the mask for frame {index}")
            if labels.shape != pixels.shape[:2]:
                check_mask(labels, pixels.shape[:2], f"the mask for frame {index}")
            shown = object_ids(labels)
            if propagation is not None and shown and not set(shown) & set(ids):
                labels = np.where(labels > 0, labels, self._refined(propagation.segment(index, features), pixels))
            ids = sorted({*ids, *shown})
            # A copy, since the next frame may be read into the same place.
            remembered[index] = Annotated(features, AnnotatedFrame(frame, pixels.copy(), labels, ids))
            slots = reference_frames(index + 1, index, 1, sorted(remembered), self.policy)
            remembered = {one: remembered[one] for one in sorted({slot.frame for slot in slots} & {*remembered})}
            state, propagation = None if propagation is None else propagation.state, None  # one memory at a time
            propagation = self._propagation(index, 1, remembered, ids, state)
            yield index, labels.copy()
        _check_in_time(annotations, taken, index + 1, ended=True)

    def stream_soft(self, frames: Iterable[Frame], first: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Carry soft maps of the first frame, masks or heat maps, to each frame after it: as they are remembered,
        neither decoded nor refined.

        Args:
            first: (1 + N, H, W), background first, of the first frame's shape but in any size.

        Yields:
            (1 + N, h, w) a frame, in the size that the model gives.
        """
        propagation = Propagation(self.model, self.policy, 0, 1, {}, range(1, len(first)))
        for index, pixels in enumerate(frames):
            features = self._encode(self._input(pixels, index, f"{index:05d}"))
            if index == 0:
                propagation.start_with(features, torch.from_numpy(first)[None].to(self.device))
            else:
                yield propagation.segment(index, features).masks()

    # --- a segment of a timeline

    def _begin(
        self,
        timeline: Timeline,
        given: Annotations,
        segment: Segment,
        first: int,
        packed: Mapping[int, bytes],
        ended: dict[int, Any],
    ) -> tuple[Propagation, int]:
        """The propagation of a segment, ready for its frame `first`, and where it is to begin: at its first frame where
        the memory that `first` needs is not kept.

        Args:
            packed: what a checkpoint kept, by frame.
            ended: the states after segments that this run went through, by anchor.
        """
        anchor, step, ids = segment.anchor, segment.step, given.ids(segment)
        kept: dict[int, bytes] = {}
        slots = reference_frames(first, anchor, step, given.sources(segment), self.policy)
        for frame in self._needed(first, segment, [slot.frame for slot in slots if not slot.annotated]):
            data = packed[frame] if frame in packed else timeline.soft(frame)
            if data is None:
                kept, first = {}, anchor + step
                slots = reference_frames(first, anchor, step, given.sources(segment), self.policy)
                break
            kept[frame] = data
        state = None
        if self.spec.state and not kept:
            state = self._state_before(timeline, given, segment, packed, ended)
        annotated = {}
        for frame in sorted({slot.frame for slot in slots if slot.annotated or slot.frame == anchor}):
            labels, pixels = timeline.labels_with(given, frame), timeline.video[frame]
            assert labels is not None
            image = self._input(pixels, frame, timeline.video.frame_name(frame))
            seen = AnnotatedFrame(image, pixels, labels, given.objects(frame))
            annotated[frame] = Annotated(self._encode(image), seen)
        propagation = self._propagation(anchor, step, annotated, ids, state, first)
        propagation.recall(kept, lambda frame: self._encode(self._frame(timeline, frame)), self.device)
        return propagation, first

    @staticmethod
    def _needed(first: int, segment: Segment, context: Iterable[int]) -> list[int]:
        """The frames that must be recalled to begin with `first`: its context, and the frame before, whose state goes
        on."""
        return sorted({first - segment.step, *context} - {segment.anchor})

    def _state_before(
        self,
        timeline: Timeline,
        given: Annotations,
        segment: Segment,
        packed: Mapping[int, bytes],
        ended: dict[int, Any],
    ) -> Any:
        """The state with which a segment begins: after the one before, which is gone through again where it is not
        kept."""
        before = [one for one in given.segments(timeline.length, True) if one.step > 0 and one.anchor < segment.anchor]
        if segment.step < 0 or not before:
            return None
        last = before[-1]
        if last.anchor not in ended:
            if (data := timeline.soft(last.last)) is not None:
                ended[last.anchor] = unpack(data, self.device)[1]
            else:
                propagation, first = self._begin(timeline, given, last, last.last, packed, ended)
                for _ in self._run(timeline, propagation, first, last.last, Lock(), False):
                    pass
                ended[last.anchor] = propagation.state
        return ended[last.anchor]

    def _propagation(
        self,
        anchor: int,
        step: int,
        annotated: Mapping[int, Annotated],
        ids: Sequence[int],
        state: Any = None,
        first: int | None = None,
    ) -> Propagation:
        started = perf_counter()
        propagation = Propagation(self.model, self.policy, anchor, step, annotated, ids, state, first)
        self._count("learn", started)
        return propagation

    def _run(
        self, timeline: Timeline, propagation: Propagation, first: int, last: int, beside: Lock, apart: bool
    ) -> Iterator[tuple[int, Frame, Segmented]]:
        """Go through a segment from `first` to `last`.

        Args:
            beside: held by what computes while a frame is matched: more than one at a time would take the processor
                from the match.
            apart: encode the next frame while one is matched, and leave the last one to be decoded beside.
        """
        video = timeline.video
        frames = islice(video.frames(first, propagation.step), abs(last - first) + 1)
        prepared = ((index, (index, pixels)) for index, pixels in frames)
        begin = partial(limit_threads, torch.get_num_threads())

        def resized(one: tuple[int, Frame]) -> tuple[Frame, Frame, Mapping[str, Any]]:
            index, pixels = one
            return self._resize(pixels), pixels, self._side(index, video.frame_name(index), pixels)

        with prefetch(prepared, resized) as read:

            def encoded() -> Iterator[tuple[int, tuple[Any, Frame]]]:
                started = perf_counter()
                for index, (small, pixels, side) in read:
                    self._count("read", started)
                    with beside:
                        features = self._encode(self._tensor(small, index, video.frame_name(index), side))
                    yield index, (features, pixels)
                    started = perf_counter()

            with prefetch(encoded(), _same, 1, begin) if apart else nullcontext(encoded()) as source:
                for index, (features, pixels) in source:
                    started = perf_counter()
                    found = propagation.segment(index, features)
                    self._count("match", started)
                    yield index, pixels, found if apart else found.now()

    def _put(
        self,
        timeline: Timeline,
        given: Annotations,
        made: Provenance,
        beside: Lock,
        index: int,
        pixels: Frame,
        found: Segmented,
        kept: bytes | None,
    ) -> LabelMap:
        """Give a timeline the label map of a frame, and what is kept of its soft masks."""
        with beside:
            labels, confidence = self._refine(found, pixels)
        timeline.put(index, labels, confidence, made, kept, given.get(index))
        return labels

    def _refined(self, found: Segmented, pixels: Frame) -> LabelMap:
        return self._refine(found, pixels)[0]

    def _refine(self, found: Segmented, pixels: Frame) -> tuple[LabelMap, dict[int, float]]:
        started = perf_counter()
        soft = found.soft()
        started = self._count("show", started)
        refined = found.refine(soft, pixels)
        self._count("refine", started)
        return refined

    # --- a frame

    def _frame(self, timeline: Timeline, index: int) -> ModelInput:
        return self._input(timeline.video[index], index, timeline.video.frame_name(index))

    def _input(self, pixels: Frame, index: int, name: str) -> ModelInput:
        return self._tensor(self._resize(pixels), index, name, self._side(index, name, pixels))

    def _side(self, index: int, name: str, pixels: Frame) -> Mapping[str, Any]:
        return {what: make(index, name, pixels) for what, make in self.spec.side.items()}

    def _resize(self, pixels: Frame) -> Frame:
        """A frame at the working size."""
        height, width = pixels.shape[:2]
        scale, step = self.size / min(height, width) if self.size else 1.0, self.spec.multiple
        # Whole cells: a cell that reaches over the edge would shift all labels a little.
        small = tuple(max(step, int(round(side * scale, 3)) // step * step) for side in (width, height))
        if small == (width, height):
            return pixels
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(pixels, small, interpolation=how), np.uint8)

    def _tensor(self, small: Frame, index: int, name: str, side: Mapping[str, Any]) -> ModelInput:
        tensor = torch.from_numpy(small).to(self.device).permute(2, 0, 1)[None]  # channels_last as it lies
        return ModelInput(tensor.float().div_(255), index, name, side)

    def _encode(self, frame: ModelInput) -> Any:
        started = perf_counter()
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features = self.model.encode(frame)
        self._count("encode", started)
        return features

    def _count(self, stage: str, started: float) -> float:
        now = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - started
        return now


Stretch = tuple[Segment, int, int, Provenance]


def _in_order(stretches: Sequence[Stretch], near: int | None, given: Annotations, state: bool) -> list[Stretch]:
    """Rows of stale frames in the order in which they are filled: those nearest to `near` first, each after what it
    needs: where objects enter at its anchor, or a state goes on, the segments before."""
    if near is None:
        return list(stretches)
    order: list[Stretch] = []

    def add(one: Stretch) -> None:
        if one in order:
            return
        anchor = one[0].anchor
        if one[0].step > 0 and (state or anchor in given.entering):
            for other in stretches:
                if other[0].step > 0 and other[0].anchor < anchor:
                    add(other)
        order.append(one)

    for one in sorted(stretches, key=lambda one: max(min(one[1:3]) - near, near - max(one[1:3]), 0)):
        add(one)
    return order


def _check_in_time(annotations: Mapping[int, Mask], taken: Mapping[int, Mask], index: int, ended: bool = False) -> None:
    """Whether all annotations of a stream are of frames that are still to come, or were taken when they came.

    Raises:
        PromptError: one is not.
    """
    if len(annotations) == len(taken) and not ended:
        return
    for key in list(annotations):
        frame = as_index(key, "the frames of a stream by their numbers, from 0")
        if frame not in taken and (ended or frame < index):
            what = f"never came: the stream had {index}" if frame >= index else f"had gone by: this is frame {index}"
            raise PromptError(f"the mask for frame {frame} was not used: the frame {what}")


def _same(value: Any) -> Any:
    return value

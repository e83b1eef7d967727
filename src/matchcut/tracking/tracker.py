"""Carrying masks through a video with a guided model and a bounded memory."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matchcut.errors import MaskError, PromptError, VideoError
from matchcut.masks import LabelMap, check_mask, object_ids, one_hot
from matchcut.matching.threads import limit_threads
from matchcut.models.base import GuidedModel, MemoryPolicy, Reference
from matchcut.models.contract import (
    check_finite,
    check_guided,
    check_policy,
    check_remembered,
    check_segmented,
    check_size,
    check_soft,
)
from matchcut.tracking.edge_pixels import EdgePixels, learn
from matchcut.tracking.inputs import Mask, as_index, as_label_map
from matchcut.tracking.interrupted import load_checkpoint, pack, save_checkpoint, unpack
from matchcut.tracking.memory import Chain, Use, reference_frames
from matchcut.tracking.pipeline import prefetch
from matchcut.tracking.placement import pick_device, pick_precision, side_by_side
from matchcut.tracking.soft_masks import Enlarge, confidence_of, to_labels
from matchcut.tracking.timeline import Timeline
from matchcut.video.arrays import as_frame, describe

Frame = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with frames done and frames to do."""
Show = Callable[[], NDArray[np.float32]]
"""Makes the soft masks (1 + N, h, w) of a frame that are shown, from what was matched."""

CHECKPOINT_EVERY = 25
"""Frames between two checkpoints of `fill`."""


@dataclass
class _Memory:
    """What is kept while a chain is gone through: references by their use, never more than the policy names."""

    references: dict[Use, Reference] = field(default_factory=dict)
    carry: Any = None
    pixels: EdgePixels | None = None
    """Learned on the annotated frames."""

    def keep(self, uses: Iterable[Use]) -> None:
        wanted = set(uses)
        self.references = {use: reference for use, reference in self.references.items() if use in wanted}


class Tracker:
    """A guided model and its memory of a video.

    Args:
        model: offers `encode`, `remember`, `segment` (see `matchcut.models.base.GuidedModel`).
        policy: which frames are remembered; the model's own where None.
        size: short side, in pixels, of the frames the model sees: larger ones are shrunk to it, smaller ones
            enlarged. None takes the model's own (`model.size`), or the frames as they are. Masks have the frames' size
            in any case.
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
        self.model = model
        if isinstance(model, torch.nn.Module):
            model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.policy = policy or model.policy
        self.seconds: dict[str, float] = {}
        """Spent since the start: waiting for frames, learning, encoding, matching, decoding what is shown, enlarging,
        waiting for writing. Together more than has passed where stages run side by side."""
        self.size: int | None = size or getattr(model, "size", None)
        self.multiple: int = getattr(model, "multiple", 1)
        self.enlarge: Enlarge = getattr(model, "enlarge", "cubic")
        self.stretch: bool = getattr(model, "stretch", False)
        self.pixels: float = getattr(model, "pixels", 0.0)
        self.side_by_side: bool = getattr(model, "side_by_side", False)

    def fill(self, timeline: Timeline, progress: Progress | None = None, checkpoint: Path | None = None) -> None:
        """Give each stale frame of a timeline its mask, forwards and backwards from the annotated frames.

        Args:
            timeline: with at least one annotated frame.
            progress: called after each frame.
            checkpoint: a file that is written now and then, from which an interrupted `fill` of the same timeline
                goes on with the same masks; removed at the end.

        Raises:
            MaskError: nothing is annotated, or no object.
        """
        if not timeline.objects():
            raise MaskError("nothing to track: annotate at least one frame with at least one object")
        fingerprint = self.fingerprint(timeline) if checkpoint is not None else ""
        resumed = load_checkpoint(checkpoint, fingerprint, timeline) if checkpoint is not None else {}
        timeline.write_annotations()
        total, done = len(timeline.stale()), 0
        beside, writing = Lock(), None
        with (
            side_by_side(self.device, self.side_by_side) as (apart, threads),
            ThreadPoolExecutor(1, initializer=limit_threads, initargs=(threads,)) as writer,
        ):
            for chain, first, last in timeline.stretches():
                memory = self._recall(timeline, chain, first, resumed)
                if memory is None:
                    first, memory = chain.frames()[0], _Memory()
                for frame, image, show in self._run(timeline, chain, memory, first, last, beside, apart):
                    kept = memory.references[Use(frame, False)].values if memory.carry is None else None
                    started = perf_counter()
                    if writing is not None:
                        writing.result()  # raises what went wrong there
                    self._count("write", started)
                    about = frame, image, show, memory.pixels, kept
                    writing = writer.submit(self._put, timeline, chain, beside, *about)
                    done += 1
                    if checkpoint is not None and done % CHECKPOINT_EVERY == 0 and memory.carry is None:
                        writing.result()
                        save_checkpoint(checkpoint, fingerprint, timeline, chain, frame, memory.references)
                    if progress is not None:
                        progress(min(done, total), total)
                if writing is not None:
                    writing.result()
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)

    def fingerprint(self, timeline: Timeline) -> str:
        """A hash of all that the masks of a timeline depend on: input, annotations, model and settings."""
        video = timeline.video
        backbone = getattr(self.model, "backbone", None)
        seen = (
            *(video.stamp(), timeline.length, tuple(timeline.size)),
            *(video.frame_name(0), video.frame_name(len(video) - 1)),
            *(
                type(self.model).__qualname__,
                getattr(backbone, "name", None),
                getattr(backbone, "stages", None),
                getattr(backbone, "weights", None),
            ),
            *(getattr(backbone, "stride", None), getattr(self.model, "grid", None), getattr(self.model, "mix", None)),
            *(self.size, str(self.dtype), self.policy, getattr(self.model, "settings", None)),
        )
        digest = hashlib.sha256(repr(seen).encode())
        for frame in timeline.annotated:
            digest.update(str(frame).encode() + timeline.annotation(frame).tobytes())
        return digest.hexdigest()

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
            PromptError: annotations by anything but numbers.
        """
        if not isinstance(annotations, Mapping):
            raise PromptError(f"annotations: expected label maps by frame, as {{0: mask}}, got {describe(annotations)}")
        for key in list(annotations):
            as_index(key, "the frames of a stream by their numbers, from 0")
        memory, chain = _Memory(), None
        given: dict[int, LabelMap] = {}
        known: dict[int, list[int]] = {}  # objects annotated up to a frame
        features_of: dict[int, Any] = {}  # of annotated frames that the memory may name
        seen: dict[int, Frame] = {}
        ids: list[int] = []
        size: tuple[int, ...] | None = None
        for index, one in enumerate(frames):
            mask = annotations.get(index)
            if mask is None and chain is None:
                continue
            frame = as_frame(one, f"frame {index}")
            if size is not None and frame.shape != size:
                raise VideoError(
                    f"frame {index} is {frame.shape[1]}x{frame.shape[0]} but those before it are {size[1]}x{size[0]}"
                )
            size = frame.shape
            features = self._encode(frame)
            if mask is not None:
                labels = as_label_map(mask, f"the mask for frame {index}")
                if labels.shape != frame.shape[:2]:
                    check_mask(labels, frame.shape[:2], f"the mask for frame {index}")
                shown = object_ids(labels)
                if chain is not None and shown and not set(shown) & set(ids):
                    found, _ = self._segment(features, memory, index, chain, list(given), ids, frame)
                    labels = np.where(labels > 0, labels, found)
                ids = sorted({*ids, *shown})
                given[index], known[index] = labels, ids
                seen[index] = frame.copy()  # the next may be read into the same place
                chain, memory = Chain(index, 1, index), _Memory()
                features_of[index] = features
                uses = reference_frames(index + 1, Chain(index, 1, index + 1), sorted(given), self.policy)
                features_of = {one: features_of[one] for one, _ in uses if one in features_of}
                given = {one: given[one] for one in features_of}
                seen = {one: seen[one] for one in features_of}
                for use in dict.fromkeys(uses):
                    kept = features_of[use.frame], given[use.frame]
                    memory.references[use] = self._remember(*kept, ids, use, known[use.frame])
                memory.pixels = self._learn(memory, [(seen[one], given[one], known[one]) for one in sorted(seen)], ids)
                yield index, labels.copy()
                continue
            assert chain is not None
            labels, _ = self._segment(features, memory, index, chain, sorted(given), ids, frame)
            yield index, labels

    def stream_soft(self, frames: Iterable[Frame], first: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Carry soft maps of the first frame, masks or heat maps, to each frame after it.

        Args:
            first: (1 + N, H, W), background first, of the first frame's shape but in any size.

        Yields:
            (1 + N, h, w) a frame, in the size that the model gives.
        """
        memory, chain = _Memory(), Chain(0, 1, 0)
        for index, frame in enumerate(frames):
            features = self._encode(frame)
            if index > 0:
                yield self._match(features, memory, index, chain, [0])()
                continue
            soft = torch.from_numpy(first)[None].to(self.device)
            with torch.inference_mode():
                for use in dict.fromkeys(reference_frames(1, chain, [0], self.policy)):
                    memory.references[use] = kept = self.model.remember(features, soft, annotated=use.annotated)
                    check_remembered(self.model, kept, soft.shape[1])

    def _run(
        self, timeline: Timeline, chain: Chain, memory: _Memory, first: int, last: int, beside: Lock, apart: bool
    ) -> Iterator[tuple[int, Frame, Show]]:
        """Go through a chain from `first` to `last`; earlier frames must be in the memory.

        Args:
            beside: held by what computes while a frame is matched: more than one at a time would take the processor
                from the match.
            apart: encode the next frame while one is matched.
        """
        ids, annotated = timeline.shown(chain), timeline.sources(chain)
        # Before the reader's thread starts: a video serves one thread at a time.
        for use in reference_frames(first, chain, annotated, self.policy):
            if use not in memory.references and (use.annotated or use.frame == chain.anchor):
                memory.references[use] = self._annotated(timeline, use, ids, memory)
        given = sorted(use.frame for use in memory.references if use.annotated and self.pixels)
        known = [(timeline.video[one], timeline.labels(one), timeline.objects(one)) for one in given]
        memory.pixels = self._learn(memory, known, ids)
        frames = islice(timeline.video.frames(first, chain.step), abs(last - first) + 1)
        begin = partial(limit_threads, torch.get_num_threads())
        with prefetch(frames, self._resize) as read:

            def encoded() -> Iterator[tuple[int, tuple[Any, Frame]]]:
                started = perf_counter()
                for index, (image, frame) in read:
                    self._count("read", started)
                    with beside:
                        features = self._features(image)
                    yield index, (features, frame)
                    started = perf_counter()

            with prefetch(encoded(), _same, 1, begin) if apart else nullcontext(encoded()) as source:
                for index, (features, frame) in source:
                    show = self._match(features, memory, index, chain, annotated)
                    yield index, frame, show if apart else partial(_same, show())

    def _put(
        self,
        timeline: Timeline,
        chain: Chain,
        beside: Lock,
        index: int,
        frame: Frame,
        show: Show,
        pixels: EdgePixels | None,
        kept: Tensor | None,
    ) -> None:
        """Give a timeline the label map of a frame, and what is kept of its soft masks."""
        with beside:
            labels, confidence = self._labels(show(), timeline.shown(chain), frame, pixels)
        timeline.put(index, labels, confidence, chain, None if kept is None else pack(kept))

    def _segment(
        self,
        features: Any,
        memory: _Memory,
        index: int,
        chain: Chain,
        annotated: list[int],
        ids: list[int],
        frame: Frame,
    ) -> tuple[LabelMap, dict[int, float]]:
        """The label map of a frame and how sure each object is; the frame joins the memory."""
        shown = self._match(features, memory, index, chain, annotated)()
        return self._labels(shown, ids, frame, memory.pixels)

    def _labels(
        self, shown: NDArray[np.float32], ids: list[int], frame: Frame, pixels: EdgePixels | None
    ) -> tuple[LabelMap, dict[int, float]]:
        """The label map of a frame and how sure each object is, from its soft masks (1 + N, h, w)."""
        started = perf_counter()
        size = (frame.shape[0], frame.shape[1])
        labels = to_labels(shown, ids, size, self.enlarge, self.stretch, frame, pixels, self.pixels)
        confidence = confidence_of(shown, ids)
        self._count("enlarge", started)
        return labels, confidence

    def _match(self, features: Any, memory: _Memory, index: int, chain: Chain, annotated: list[int]) -> Show:
        """What makes the soft masks of a frame, which joins the memory."""
        started = perf_counter()
        uses = reference_frames(index, chain, annotated, self.policy)
        with torch.inference_mode():
            references = [memory.references[use] for use in uses]
            channels = references[0].values.shape[1]
            found = self.model.segment(features, references, memory.carry)
            check_segmented(self.model, found, channels, index)
            soft, memory.carry, *show = found
            memory.references[Use(index, False)] = kept = self.model.remember(features, soft)
            check_remembered(self.model, kept, channels)
        memory.keep([*reference_frames(index + chain.step, chain, annotated, self.policy), Use(index, False)])
        self._count("match", started)
        return partial(self._shown, show[0] if show else partial(_same, soft), index, channels)

    def _shown(self, show: Callable[[], Tensor], index: int, channels: int) -> NDArray[np.float32]:
        started, where = perf_counter(), f"segment, frame {index}"
        with torch.inference_mode():
            soft = show()
            check_soft(self.model, soft, channels, where)
            shown: NDArray[np.float32] = soft[0].float().cpu().numpy()
        check_finite(self.model, shown, where)
        self._count("show", started)
        return shown

    def _annotated(self, timeline: Timeline, use: Use, ids: list[int], memory: _Memory) -> Reference:
        """The reference of an annotated frame; its features are computed once for both its uses."""
        other = memory.references.get(Use(use.frame, not use.annotated))
        features = other.features if other is not None else self._encode(timeline.video[use.frame])
        labels = timeline.labels(use.frame)
        assert labels is not None
        return self._remember(features, labels, ids, use, timeline.objects(use.frame))

    def _learn(
        self, memory: _Memory, annotated: Iterable[tuple[Frame, LabelMap | None, list[int]]], ids: list[int]
    ) -> EdgePixels | None:
        """Of annotated frames, their labels and the objects known there; those are left out in which an object that was
        annotated later may have been."""
        if not self.pixels:
            return None
        started = perf_counter()
        pairs = [(one, labels) for one, labels, known in annotated if labels is not None and set(ids) <= set(known)]
        grid = next(iter(memory.references.values())).values.shape[2:]
        found = learn(pairs, ids, (grid[0], grid[1]))
        self._count("learn", started)
        return found

    def _remember(self, features: Any, labels: LabelMap, ids: list[int], use: Use, known: list[int]) -> Reference:
        soft = torch.from_numpy(one_hot(labels, ids))[None].to(self.device)
        if not set(ids) <= set(known):
            soft[:, 0] = 0  # an object annotated later may have been here: what is not an object is unknown
        with torch.inference_mode():
            kept = self.model.remember(features, soft, annotated=use.annotated)
        check_remembered(self.model, kept, soft.shape[1])
        return kept

    def _recall(self, timeline: Timeline, chain: Chain, first: int, resumed: Mapping[int, Tensor]) -> _Memory | None:
        """The memory with the context that a run from `first` on needs; None where it is not kept."""
        uses = reference_frames(first, chain, timeline.sources(chain), self.policy)
        # The frame before, too, where there is no context: that it is kept says that the model carries no state.
        context = {first - chain.step, *(use.frame for use in uses if not use.annotated)} - {chain.anchor}
        memory = _Memory()
        for frame in sorted(context):
            values = resumed[frame] if frame in resumed else unpack(timeline.soft(frame))
            if values is None:
                return None
            features = self._encode(timeline.video[frame])
            with torch.inference_mode():
                memory.references[Use(frame, False)] = self.model.remember(features, values.to(self.device))
        return memory

    def _encode(self, frame: Frame) -> Any:
        return self._features(self._resize(frame)[0])

    def _resize(self, frame: Frame) -> tuple[Frame, Frame]:
        """The frame at the working size, and as it is."""
        height, width = frame.shape[:2]
        scale = self.size / min(height, width) if self.size else 1.0
        # Whole cells: a cell that reaches over the edge would shift all labels a little.
        small = tuple(
            max(self.multiple, int(round(side * scale, 3)) // self.multiple * self.multiple) for side in (width, height)
        )
        if small != (width, height):
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            return np.asarray(cv2.resize(frame, small, interpolation=how), np.uint8), frame
        return frame, frame

    def _features(self, image: Frame) -> Any:
        started = perf_counter()
        tensor = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None]  # channels_last as it lies
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features = self.model.encode(tensor.float().div_(255))
        self._count("encode", started)
        return features

    def _count(self, stage: str, started: float) -> float:
        now = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - started
        return now


def _same(value: Any) -> Any:
    return value

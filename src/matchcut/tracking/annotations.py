"""What is annotated on the frames of a video, and what follows from it: objects, segments, and what masks depend on."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from matchcut.masks import LabelMap, decode_png, encode_png, object_ids
from matchcut.tracking.memory import Segment, segments


@dataclass(frozen=True)
class Provenance:
    """What a mask was made from. It is stale when this is not what would be used now."""

    model: str
    """Fingerprint of the model, and of how it is run."""
    anchor: int = -1
    """The annotated frame that it was propagated from; -1 where there is none."""
    step: int = 1
    """1 forwards, -1 backwards."""
    annotations: str = ""
    """Hash of the annotations that it depends on, each with its frame."""
    ids: tuple[int, ...] = (1,)
    """Of the objects that it can show."""
    own: str = ""
    """Hash of the annotation that was laid over it, if any."""


class Annotation:
    """What was said of a frame, compressed. Its `version` is a hash of the labels."""

    def __init__(self, labels: LabelMap) -> None:
        self.png = encode_png(labels)
        self.objects = object_ids(labels)
        self.version = hashlib.sha256(labels.tobytes()).hexdigest()[:16]

    def labels(self) -> LabelMap:
        """The label map (H, W)."""
        return decode_png(self.png)


class Annotations(Mapping[int, Annotation]):
    """The annotated frames of a video at one moment, ascending. Immutable, so a run that has begun with them goes on
    with them, whatever is annotated meanwhile. All that follows is found once, in time that is linear in their number.
    """

    def __init__(self, by_frame: Mapping[int, Annotation] | None = None) -> None:
        self._by_frame = dict(sorted((by_frame or {}).items()))
        self.frames = list(self._by_frame)
        self.entering: set[int] = set()
        """Frames that add objects to what is found there of the earlier ones: none of theirs was annotated before."""
        self._known: list[tuple[int, ...]] = []  # the objects annotated up to a frame
        known: set[int] = set()
        for frame, one in self._by_frame.items():
            shown = set(one.objects)
            if known and shown and not shown & known:
                self.entering.add(frame)
            known |= shown
            self._known.append(tuple(sorted(known)))

    def __getitem__(self, frame: int) -> Annotation:
        return self._by_frame[frame]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_frame)

    def __len__(self) -> int:
        return len(self._by_frame)

    def objects(self, frame: int | None = None) -> list[int]:
        """Ids of all objects, or of those that a frame can show: those annotated at or before it; before the first
        annotation, those of the first."""
        if not self.frames:
            return []
        at = len(self.frames) if frame is None else bisect_right(self.frames, frame)
        return list(self._known[max(at, 1) - 1])

    def segments(self, length: int, forward: bool = False) -> list[Segment]:
        """How the frames of a video that are not wholly annotated are filled, in order."""
        return segments(self.frames, length, self.entering, forward=forward)

    def ids(self, segment: Segment) -> list[int]:
        """Of the objects that the frames of a segment can show."""
        return self.objects(segment.anchor if segment.step > 0 else segment.last)

    def sources(self, segment: Segment) -> list[int]:
        """The annotated frames on the anchor's side, which a segment may remember.

        Backwards, frames that only add objects say nothing of the others before these were found there.
        """
        at = bisect_right(self.frames, segment.anchor)
        if segment.step > 0:
            return self.frames[:at]
        return [segment.anchor, *(one for one in self.frames[at:] if one not in self.entering)]

    def provenance(self, segment: Segment, model: str) -> Provenance:
        """What the masks of a segment depend on, but for an annotation laid over them."""
        hashes = self._before if segment.step > 0 else self._after
        return Provenance(model, segment.anchor, segment.step, hashes[segment.anchor], tuple(self.ids(segment)))

    @property
    def version(self) -> str:
        """A hash of all of them."""
        return self._before[self.frames[-1]] if self.frames else ""

    @cached_property
    def _before(self) -> dict[int, str]:
        """By frame, a hash of its annotation and all before."""
        found, last = {}, ""
        for frame, one in self._by_frame.items():
            found[frame] = last = _hash(last, frame, one)
        return found

    @cached_property
    def _after(self) -> dict[int, str]:
        """By frame, a hash of its annotation and all after that are not of objects that enter."""
        found, last = {}, ""
        for frame in reversed(self.frames):
            found[frame] = _hash(last, frame, self[frame])
            last = last if frame in self.entering else found[frame]
        return found


def _hash(last: str, frame: int, annotation: Annotation) -> str:
    return hashlib.sha256(f"{last} {frame} {annotation.version}".encode()).hexdigest()[:16]

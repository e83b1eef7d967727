"""The record of one video: what was annotated, what the masks are, which are stale, and how sure each is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchcut.disk import check_apart
from matchcut.files import make_folder
from matchcut.manifest import run_folder
from matchcut.masks import LabelMap, check_mask, decode_png, encode_png, object_ids, write_mask
from matchcut.tracking.inputs import Mask, as_index, as_label_map
from matchcut.tracking.memory import Chain, chains
from matchcut.tracking.outputs import KIND, RECORD, read_of, write_record
from matchcut.tracking.scratch import Scratch
from matchcut.video.overlay import draw_overlay
from matchcut.video.writer import VideoWriter

if TYPE_CHECKING:
    from matchcut.video.reader import Video


class Timeline:
    """Annotated frames and label maps of one video. It knows no model.

    A first-frame mask, an object that enters later and a correction are one act: `annotate`. Undo is `drop`.
    Masks are kept as compressed PNGs in memory, or as files where `folder` is given.

    Args:
        video: the frames; its length and size are what the timeline goes by.
        folder: where masks are kept as `<frame name>.png`; None keeps them in memory.
        correctable: whether a run's soft masks are kept too, in a temporary file, so that after a correction only
            stale frames run again. Without them a run starts again at the annotated frame.

    Raises:
        OutputError: the masks would lie on the frames.

    Which objects a frame can show: those annotated at or before it; before the first annotation, those of the first.
    So an object that is annotated late enters there. An annotation that shows only objects not annotated before it
    adds them to what is found there of the others; any other says all that its frame shows.
    """

    def __init__(self, video: "Video", folder: Path | None = None, *, correctable: bool = True) -> None:
        self.video, self.folder = video, folder
        self.length, self.size = len(video), video.size
        self._annotations: dict[int, bytes] = {}
        self._shows: dict[int, list[int]] = {}  # the objects of each annotation
        self._versions: dict[int, int] = {}  # how often a frame was annotated: part of what a mask depends on
        self._written: dict[int, int] = {}  # the version of each annotation that is in its file
        self._masks: dict[int, bytes] = {}
        self._made_from: dict[int, tuple[Any, ...]] = {}
        self._soft = Scratch() if correctable else None
        self._sure: dict[int, dict[int, float]] = {}
        if folder is not None and folder.exists():
            check_apart([folder / f"{name}.png" for name in video.names()], read_of(video))

    def __len__(self) -> int:
        return self.length

    @property
    def annotated(self) -> list[int]:
        """Annotated frames, ascending."""
        return sorted(self._annotations)

    def annotate(self, frame: int, labels: Mask) -> None:
        """Say what a frame shows. Replaces what was said.

        Args:
            frame: its index; negative ones count from the end.
            labels: (H, W), 0 background, 1-254 objects, 255 unknown; or a mask of one object, as bool or 0 and 255
                (`matchcut.tracking.inputs.as_label_map` says what else is taken).

        Raises:
            MaskError: no label map, of another size than the video, or with no object on the only annotated frame.
            PromptError: the frame is no number.
            IndexError: no such frame.
        """
        frame = self._index(frame)
        labels = as_label_map(labels, f"the mask for frame {frame}")
        if labels.shape != tuple(self.size):
            check_mask(labels, self.size, f"the mask for frame {frame}")
        if not object_ids(labels) and not [one for one in self._annotations if one != frame]:
            check_mask(labels, self.size, f"the mask for frame {frame}")
        self._annotations[frame], self._shows[frame] = encode_png(labels), object_ids(labels)
        self._versions[frame] = self._versions.get(frame, 0) + 1
        if frame not in self.entering():
            self._made_from.pop(frame, None)

    def drop(self, frame: int) -> None:
        """Take an annotation back; frames that came from it are stale.

        Raises:
            KeyError: the frame is not annotated.
        """
        del self._annotations[self._index(frame)]

    def annotation(self, frame: int) -> LabelMap:
        """What was said of an annotated frame."""
        return decode_png(self._annotations[frame])

    def labels(self, frame: int) -> LabelMap | None:
        """The label map (H, W) of a frame, stale or not; None where there is none yet."""
        frame = self._index(frame)
        given = self.annotation(frame) if frame in self._annotations else None
        if frame not in self._made_from or (given is not None and frame not in self.entering()):
            return given
        path = self._path(frame)
        found = decode_png(self._masks[frame] if path is None else path.read_bytes())
        return found if given is None else np.where(given > 0, given, found)

    def __iter__(self) -> Iterator[LabelMap | None]:
        return (self.labels(frame) for frame in range(self.length))

    def objects(self, frame: int | None = None) -> list[int]:
        """Ids of all objects, or of those that a frame can show."""
        annotated = self.annotated
        if frame is not None and annotated:
            annotated = [one for one in annotated if one <= frame] or annotated[:1]
        return sorted({one for index in annotated for one in self._shows[index]})

    def entering(self) -> list[int]:
        """Annotated frames that add objects to what is found there of the earlier ones."""
        known: set[int] = set()
        frames = []
        for frame in self.annotated:
            shown = set(self._shows[frame])
            if known and shown and not shown & known:
                frames.append(frame)
            known |= shown
        return frames

    def chains(self) -> list[Chain]:
        """How the frames that are not wholly annotated are to be filled, in order."""
        return chains(self.annotated, self.length, self.entering())

    def origin(self, chain: Chain) -> tuple[Any, ...]:
        """What the masks of a chain depend on; a mask made from anything else is stale."""
        sources = tuple((one, self._versions[one]) for one in self.sources(chain))
        return (chain.anchor, chain.step, sources, self.shown(chain))

    def sources(self, chain: Chain) -> list[int]:
        """The annotated frames on the anchor's side, which a chain may remember.

        Backwards, frames that only add objects say nothing of the others before these were found there.
        """
        side = [one for one in self.annotated if (chain.anchor - one) * chain.step >= 0]
        return side if chain.step > 0 else [one for one in side if one == chain.anchor or one not in self.entering()]

    def shown(self, chain: Chain) -> list[int]:
        """Ids of the objects that the frames of a chain can show."""
        return self.objects(chain.anchor if chain.step > 0 else chain.last)

    def is_stale(self, frame: int, chain: Chain) -> bool:
        """Whether a chain's frame has no mask yet, or one made before an annotation it depends on came or went."""
        return self._made_from.get(frame) != self._origin_at(frame, chain)

    def _origin_at(self, frame: int, chain: Chain) -> tuple[Any, ...]:
        own = (self._versions[frame],) if frame in self._annotations else ()
        return self.origin(chain) + own

    def stale(self) -> list[int]:
        """Frames whose mask is missing or stale."""
        return sorted(f for chain in self.chains() for f in chain.frames() if self.is_stale(f, chain))

    def stretches(self) -> list[tuple[Chain, int, int]]:
        """The chain, first and last of each row of stale frames, in the order in which they are to be filled."""
        result = []
        for chain in self.chains():
            stale = [frame for frame in chain.frames() if self.is_stale(frame, chain)]
            known = set(stale)
            firsts = [frame for frame in stale if frame - chain.step not in known]
            lasts = [frame for frame in stale if frame + chain.step not in known]
            result += [(chain, *ends) for ends in zip(firsts, lasts, strict=True)]
        return result

    def put(
        self, frame: int, labels: LabelMap, confidence: Mapping[int, float], chain: Chain, soft: bytes | None = None
    ) -> None:
        """Record the mask that a chain gave a frame, and its soft masks in whatever form the tracker wants them back.

        On an entering frame, the annotation is laid over the mask.
        """
        if frame in self._annotations:
            given = self.annotation(frame)
            labels = np.where(given > 0, given, labels)
        self._put(frame, labels)
        self.mark(frame, confidence, chain, soft)

    def mark(self, frame: int, confidence: Mapping[int, float], chain: Chain, soft: bytes | None = None) -> None:
        """Take the mask that is there for one that a chain gave."""
        self._made_from[frame] = self._origin_at(frame, chain)
        self._sure[frame] = dict(confidence)
        if self._soft is not None:
            self._soft.put(frame, soft)

    def soft(self, frame: int) -> bytes | None:
        """The soft masks that were put with a frame's mask; None where none are kept."""
        return None if self._soft is None else self._soft.get(frame)

    @property
    def confidence(self) -> dict[int, dict[int, float]]:
        """How sure a run was of each object, 0 to 1, by frame and object; 1 for what was annotated."""
        sure = {frame: dict(found) for frame, found in self._sure.items() if frame in self._made_from}
        entering = self.entering()
        for frame in self.annotated:
            if frame in entering:
                sure[frame] = {**sure.get(frame, {}), **dict.fromkeys(self._shows[frame], 1.0)}
            else:
                sure[frame] = dict.fromkeys(self.objects(frame), 1.0)
        return sure

    def weakest(self) -> int | None:
        """The frame that most needs a correction: where the least sure object is least sure. None if there is none."""
        sure = {f: min(c.values()) for f, c in self.confidence.items() if c and f not in self._annotations}
        return min(sure, key=lambda frame: (sure[frame], frame), default=None)

    def save(self, folder: str | Path, **about: Any) -> None:
        """Write `masks/<frame name>.png` and `timeline.json` (with `about`, what the caller knows) to a folder.

        What was saved there before is replaced.

        Raises:
            OutputError: the folder cannot be written to, a file that is not of an earlier `save` or run has the name of
                one of these, or the frames lie there.
        """
        folder = Path(folder)
        lie_there = self.folder is not None and self.folder.resolve() == (folder / "masks").resolve()
        masks = [] if lie_there else [f"masks/{name}.png" for name in self.video.names()]
        with run_folder(folder, KIND, [*masks, RECORD], inputs=read_of(self.video), resume=True) as manifest:
            if lie_there:
                self.write_annotations()
                for frame in sorted({*self._made_from, *self._written}):  # written while the folder had no list
                    if (path := self._path(frame)) is not None and path.exists() and not manifest.owns(path):
                        manifest.add(path)
            else:
                make_folder(folder / "masks")
                for frame, labels in enumerate(self):
                    if labels is not None:
                        write_mask(folder / "masks" / f"{self.video.frame_name(frame)}.png", labels)
            write_record(folder, self._record(about))

    def _record(self, about: Mapping[str, Any]) -> dict[str, Any]:
        weakest, confidence = self.weakest(), self.confidence
        return {
            "input": self.video.source,
            "size": list(self.size),
            "frame_rate": float(self.video.frame_rate),
            "frames": self.length,
            **about,
            "objects": self.objects() or sorted({one for sure in confidence.values() for one in sure}),
            "annotations": [
                {"frame": frame, "name": self.video.frame_name(frame), "objects": self._shows[frame]}
                for frame in self.annotated
            ],
            "most_needs_correction": None if weakest is None else self.video.frame_name(weakest),
            "confidence": {self.video.frame_name(f): confidence[f] for f in sorted(confidence)},
        }

    def save_video(self, path: str | Path) -> None:
        """Write the overlay as `.mp4`: the video with each object in its colour, and with its sound.

        Raises:
            OutputError: it cannot be written, or is the video itself.
        """
        check_apart([Path(path)], self.video.files)
        with VideoWriter(path, source=self.video) as writer:
            for index, frame in self.video.frames():
                labels = self.labels(index)
                writer.write(frame if labels is None else draw_overlay(frame, labels))

    def write_annotations(self) -> None:
        """Write the masks of wholly annotated frames to the folder, if there is one and where they are new."""
        for frame in self.annotated:
            path = self._path(frame)
            if path is not None and frame not in self.entering():
                if self._written.get(frame) != self._versions[frame]:
                    write_mask(path, self.annotation(frame))
                self._written[frame] = self._versions[frame]
                self._made_from.pop(frame, None)

    def has_file(self, frame: int) -> bool:
        """Whether the mask of a frame is a file that is there, or is kept in memory."""
        path = self._path(frame)
        return path is None or path.exists()

    def _put(self, frame: int, labels: LabelMap) -> None:
        path = self._path(frame)
        if path is not None:
            write_mask(path, labels)
        else:
            self._masks[frame] = encode_png(labels)

    def _path(self, frame: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{self.video.frame_name(frame)}.png"

    def _index(self, frame: int) -> int:
        frame = as_index(frame)
        if not -self.length <= frame < self.length:
            raise IndexError(f"frame {frame}: the video has frames 0 to {self.length - 1}")
        return frame % self.length

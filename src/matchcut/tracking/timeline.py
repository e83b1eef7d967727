"""The record of one video: what was annotated, what the masks are, which are stale, and how sure each is."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from matchcut.disk import check_apart
from matchcut.errors import MaskError, MatchcutError, OutputError, VideoError
from matchcut.files import make_folder
from matchcut.manifest import Manifest, run_folder
from matchcut.masks import IGNORE, LabelMap, check_mask, decode_png, encode_png, object_ids, read_mask, write_mask
from matchcut.tracking.annotations import Annotation, Annotations, Provenance
from matchcut.tracking.inputs import Mask, as_index, as_label_map
from matchcut.tracking.memory import Segment
from matchcut.tracking.outputs import KIND, RECORD, read_of, read_record, write_record
from matchcut.tracking.scratch import Scratch
from matchcut.video.arrays import describe
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
        folder: where masks are kept as `<frame name>.png`, and written over; None keeps them in memory.
        correctable: whether a run's soft masks and states are kept too, in a temporary file, so that after a correction
            only stale frames run again. Without them a run starts again at the annotated frame.

    Raises:
        OutputError: the masks would lie on the frames.

    Which objects a frame can show: those annotated at or before it; before the first annotation, those of the first.
    So an object that is annotated late enters there. An annotation that shows only objects not annotated before it
    adds them to what is found there of the others; any other says all that its frame shows.

    Each mask is stored with its `Provenance`, what it was made from, and is stale where that is not what would be used
    now: the annotations as they are, and the model of the last run.
    """

    def __init__(self, video: "Video", folder: Path | None = None, *, correctable: bool = True) -> None:
        self.video, self.folder = video, folder
        self.length, self.size = len(video), video.size
        self.annotations = Annotations()
        """What is annotated now. Immutable: another with each `annotate` and `drop`."""
        self.provenance: dict[int, Provenance] = {}
        """Of each mask that a run gave, by frame."""
        self.notes: dict[str, set[int]] = {}
        """Frames of which a run noted something, as that a scene begins there ("cut"), by what."""
        self._masks: dict[int, bytes] = {}
        self._written: dict[int, str] = {}  # the version of each annotation that is in its file
        self._soft = Scratch() if correctable else None
        self._sure: dict[int, dict[int, float]] = {}
        self._model, self._forward = "", False
        self._planned: tuple[Any, list[tuple[Segment, Provenance]]] = None, []
        if folder is not None and folder.exists():
            check_apart([folder / f"{name}.png" for name in video.names()], read_of(video))

    def __len__(self) -> int:
        return self.length

    # --- annotations

    @property
    def annotated(self) -> list[int]:
        """Annotated frames, ascending."""
        return list(self.annotations.frames)

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
        frame, before = self._index(frame), self.annotations
        labels = as_label_map(labels, f"the mask for frame {frame}")
        alone = not object_ids(labels) and not [one for one in before.frames if one != frame]
        if labels.shape != tuple(self.size) or alone:
            check_mask(labels, self.size, f"the mask for frame {frame}")
        self.annotations = Annotations({**before, frame: Annotation(labels)})

    def drop(self, frame: int) -> None:
        """Take an annotation back; frames that came from it are stale.

        Raises:
            KeyError: the frame is not annotated.
        """
        rest = dict(self.annotations)
        del rest[self._index(frame)]
        self.annotations = Annotations(rest)

    def annotation(self, frame: int) -> LabelMap:
        """What was said of an annotated frame."""
        return self.annotations[frame].labels()

    def objects(self, frame: int | None = None) -> list[int]:
        """Ids of all objects, or of those that a frame can show."""
        return self.annotations.objects(frame)

    # --- masks

    def labels(self, frame: int) -> LabelMap | None:
        """The label map (H, W) of a frame, stale or not; None where there is none yet."""
        return self.labels_with(self.annotations, self._index(frame))

    def labels_with(self, annotations: Annotations, frame: int) -> LabelMap | None:
        """As `labels`, with what was annotated at another moment."""
        given = annotations[frame].labels() if frame in annotations else None
        if frame not in self.provenance or (given is not None and frame not in annotations.entering):
            return given
        path = self._path(frame)
        found = decode_png(self._masks[frame] if path is None else path.read_bytes())
        return found if given is None else np.where(given > 0, given, found)

    def __iter__(self) -> Iterator[LabelMap | None]:
        return (self.labels(frame) for frame in range(self.length))

    def put(
        self,
        frame: int,
        labels: LabelMap,
        confidence: Mapping[int, float],
        provenance: Provenance,
        soft: bytes | None = None,
        laid_over: Annotation | None = None,
    ) -> None:
        """Store the mask that a run gave a frame.

        Args:
            confidence: how sure the run is of each object.
            provenance: of the run.
            soft: what the run needs to go on from this frame, in its own form.
            laid_over: what was annotated of the frame, where objects enter there.
        """
        if laid_over is not None:
            given = laid_over.labels()
            labels = np.where(given > 0, given, labels)
            provenance = replace(provenance, own=laid_over.version)
        path = self._path(frame)
        if path is None:
            self._masks[frame] = encode_png(labels)
        else:
            write_mask(path, labels)
            self._written.pop(frame, None)
        if self._soft is not None:
            self._soft.put(frame, soft)
        self._sure[frame] = dict(confidence)
        self.provenance[frame] = provenance

    @property
    def keeps_soft(self) -> bool:
        """Whether what `put` is given as `soft` is kept."""
        return self._soft is not None

    def soft(self, frame: int) -> bytes | None:
        """What `put` was given as `soft`; None where none is kept."""
        return None if self._soft is None else self._soft.get(frame)

    def note(self, what: str, frame: int) -> None:
        """Note something of a frame, as "cut"."""
        self.notes.setdefault(what, set()).add(frame)

    def noted(self, what: str) -> list[int]:
        """The frames of which that was noted, ascending."""
        return sorted(self.notes.get(what, ()))

    # --- what is stale

    def run_by(self, model: str, forward: bool = False) -> None:
        """Say which model fills it from now on; the masks of others are stale.

        Args:
            model: its fingerprint.
            forward: see `matchcut.tracking.memory.segments`.
        """
        self._model, self._forward = model, forward

    def plan(self, annotations: Annotations | None = None) -> list[tuple[Segment, Provenance]]:
        """The segments by which the frames that are not wholly annotated are filled, in order, and the provenance of
        their masks; with nothing annotated one segment, once a model was named.

        Args:
            annotations: those of another moment.
        """
        given = self.annotations if annotations is None else annotations
        now = (given, self._model, self._forward)
        if self._planned[0] != now:
            if given:
                found = given.segments(self.length, self._forward)
                plan = [(one, given.provenance(one, self._model)) for one in found]
            else:
                plan = [(Segment(-1, 1, self.length - 1), Provenance(self._model))] if self._model else []
            self._planned = now, plan
        return self._planned[1]

    def stale(self) -> list[int]:
        """Frames whose mask is missing, or was made from something else than would be used now."""
        return sorted(frame for segment, made in self.plan() for frame in self._stale(self.annotations, segment, made))

    def stretches(self, annotations: Annotations | None = None) -> list[tuple[Segment, int, int, Provenance]]:
        """The segment, first and last of each row of stale frames, and the provenance of the masks that they are to
        have, in the order in which they are to be filled. See `plan`."""
        given = self.annotations if annotations is None else annotations
        result = []
        for segment, provenance in self.plan(given):
            stale = self._stale(given, segment, provenance)
            known = set(stale)
            firsts = [frame for frame in stale if frame - segment.step not in known]
            lasts = [frame for frame in stale if frame + segment.step not in known]
            result += [(segment, *ends, provenance) for ends in zip(firsts, lasts, strict=True)]
        return result

    def _stale(self, annotations: Annotations, segment: Segment, provenance: Provenance) -> list[int]:
        """The stale frames of a segment, in its order."""

        def is_stale(frame: int) -> bool:
            made = self.provenance.get(frame)
            if frame in annotations:  # objects enter: what was said is laid over what is found
                return made != replace(provenance, own=annotations[frame].version)
            return made is not provenance and made != provenance

        return [frame for frame in segment.frames() if is_stale(frame)]

    def fingerprint(self, model: str) -> str:
        """A hash of all that the masks depend on: the input, what is annotated, and the model's fingerprint."""
        video = self.video
        names = video.frame_name(0), video.frame_name(len(video) - 1)
        seen = (video.stamp(), self.length, tuple(self.size), *names, self.annotations.version, model)
        return hashlib.sha256(repr(seen).encode()).hexdigest()

    # --- confidence

    @property
    def confidence(self) -> dict[int, dict[int, float]]:
        """How sure a run was of each object, 0 to 1, by frame and object; 1 for what was annotated."""
        sure = {frame: dict(self._sure.get(frame, {})) for frame in self.provenance}
        for frame, one in self.annotations.items():
            if frame in self.annotations.entering:
                sure[frame] = {**sure.get(frame, {}), **dict.fromkeys(one.objects, 1.0)}
            else:
                sure[frame] = dict.fromkeys(self.objects(frame), 1.0)
        return sure

    def weakest(self) -> int | None:
        """The frame that most needs a correction: where the least sure object is least sure. None if there is none."""
        sure = {f: min(c.values()) for f, c in self.confidence.items() if c and f not in self.annotations}
        return min(sure, key=lambda frame: (sure[frame], frame), default=None)

    # --- files

    def save(self, folder: str | Path, **about: Any) -> None:
        """Write `masks/<frame name>.png` and `timeline.json` (with `about`, what the caller knows) to a folder.

        What was saved there before is replaced. `load` is the inverse.

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
                for frame in sorted({*self.provenance, *self._written}):  # written while the folder had no list
                    if (path := self._path(frame)) is not None and path.exists() and not manifest.owns(path):
                        manifest.add(path)
            else:
                make_folder(folder / "masks")
                for frame, labels in enumerate(self):
                    if labels is not None:
                        write_mask(folder / "masks" / f"{self.video.frame_name(frame)}.png", labels)
            write_record(folder, self.record() | about)

    @classmethod
    def load(cls, folder: str | Path, video: "Video | None" = None) -> Self:
        """The timeline that `save`, or a run, wrote to a folder. Its masks are held in memory: the folder stays as it
        is until they are saved there again.

        A mask that is gone, damaged, or no longer as it was written is stale.

        Args:
            video: its frames, where they are no longer where they were, or were no file.

        Raises:
            MatchcutError: the folder holds no record, or a damaged one; the mask of an annotated frame is gone or
                damaged; or the video is another.
        """
        from matchcut.video.reader import Video

        folder, where = Path(folder), Path(folder) / RECORD
        record = read_record(folder) if folder.is_dir() else None
        if record is None:
            raise OutputError(f"{where}: does not exist; give the folder that a run or `Timeline.save` wrote")
        if not isinstance(video, Video | None):
            raise VideoError(f"video: expected a Video, got {describe(video)}: Video(...) makes one")
        try:
            if video is None:
                start, end, stride = record["selection"]
                video = Video(record["input"], start=start, end=end, stride=stride)
            timeline, names = cls(video), set(video.names())
            if [len(video), list(video.size)] != [record["frames"], record["size"]] or not names >= {
                *record["made_from"],
                *(one["name"] for one in record["annotations"]),
            }:
                raise OutputError(f"{where}: is of another video, or of other frames of it, than {video.source}")
            frame_of = {name: frame for frame, name in enumerate(video.names())}
            given = {}
            for one in record["annotations"]:
                labels = read_mask(folder / "masks" / f"{one['name']}.png")
                if labels.shape != tuple(video.size):
                    check_mask(labels, video.size, str(folder / "masks" / f"{one['name']}.png"))
                shown = np.where(np.isin(labels, [*one["objects"], IGNORE]), labels, 0).astype(np.uint8)
                given[frame_of[one["name"]]] = Annotation(shown)
            timeline.annotations = Annotations(given)
            manifest = Manifest(folder)
            written = manifest.entries()
            for name in record["made_from"]:
                path = folder / "masks" / f"{name}.png"
                if manifest.owns(path, written):
                    with suppress(MaskError, OSError):
                        data = path.read_bytes()
                        if decode_png(data).shape == tuple(video.size):
                            timeline._masks[frame_of[name]] = data
            timeline.restore(record)
            timeline.run_by(str(record["run_by"]), bool(record["forward"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, MatchcutError):
                raise
            raise OutputError(f"{where}: is no record of a run: {error!r}") from error
        return timeline

    def record(self) -> dict[str, Any]:
        """What `timeline.json` holds, ready for JSON: all but the masks."""
        weakest, confidence, name = self.weakest(), self.confidence, self.video.frame_name
        made = list(dict.fromkeys(self.provenance.values()))
        number = {one: index for index, one in enumerate(made)}
        return {
            "input": self.video.source,
            "selection": list(self.video.selection),
            "size": list(self.size),
            "frame_rate": float(self.video.frame_rate),
            "frames": self.length,
            "objects": self.objects() or sorted({one for sure in confidence.values() for one in sure}),
            "annotations": [
                {"frame": frame, "name": name(frame), "objects": one.objects} for frame, one in self.annotations.items()
            ],
            "most_needs_correction": None if weakest is None else name(weakest),
            "confidence": {name(f): confidence[f] for f in sorted(confidence)},
            "notes": {what: [name(one) for one in sorted(frames)] for what, frames in self.notes.items()},
            "run_by": self._model,
            "forward": self._forward,
            "provenance": [asdict(one) for one in made],
            "made_from": {name(f): number[self.provenance[f]] for f in sorted(self.provenance)},
        }

    def restore(self, record: Mapping[str, Any], ruined: Collection[Path] = ()) -> None:
        """Take over what a `record` says of masks that are there, but for files that are ruined.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, IndexError: it is no record.
        """
        index = {name: frame for frame, name in enumerate(self.video.names())}
        made = [Provenance(**{**one, "ids": tuple(one["ids"])}) for one in record["provenance"]]
        self.notes = {what: {index[name] for name in names} for what, names in record["notes"].items()}
        for name, number in record["made_from"].items():
            frame, path = index[name], self._path(index[name])
            if frame in self._masks if path is None else path not in ruined and path.exists():
                self.provenance[frame] = made[number]
                self._sure[frame] = {int(one): float(sure) for one, sure in record["confidence"].get(name, {}).items()}

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
        for frame, one in self.annotations.items():
            path = self._path(frame)
            if path is not None and frame not in self.annotations.entering:
                if self._written.get(frame) != one.version:
                    write_mask(path, one.labels())
                self._written[frame] = one.version
                self.provenance.pop(frame, None)

    def _path(self, frame: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{self.video.frame_name(frame)}.png"

    def _index(self, frame: int) -> int:
        frame = as_index(frame)
        if not -self.length <= frame < self.length:
            raise IndexError(f"frame {frame}: the video has frames 0 to {self.length - 1}")
        return frame % self.length

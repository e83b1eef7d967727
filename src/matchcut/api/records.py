"""What a run says of itself in `timeline.json`: the model, versions, what was measured; and whether it is done."""

import platform
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matchcut.api.passes import STARTING, Passes
from matchcut.errors import OutputError
from matchcut.manifest import Manifest
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.checkpoint import check_checkpoint
from matchcut.tracking.outputs import CHECKPOINT, RECORD, can_be_read, read_record, write_record
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.weights.store import described


def about_model(
    runner: Tracker | Segmenter,
    model: str | None,
    preset: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
) -> dict[str, Any]:
    """What a record says of a model by name, and of how it is run."""
    return {
        **described(model, preset, backbone, weights),
        "working_size": runner.size,
        "device": str(runner.device),
        "precision": str(runner.dtype).removeprefix("torch."),
    }


def versions() -> dict[str, Any]:
    """Versions of what made a result."""
    names = ("matchcut", "torch", "timm", "av", "numpy", "opencv-python-headless")
    return {"versions": {"python": platform.python_version(), **{name: version(name) for name in names}}}


def measured_of(frames: int, passes: Passes, stages: Mapping[str, float]) -> dict[str, Any]:
    """Frames, seconds from the beginning up to now, seconds a pass (which add up to them), seconds a stage (of stages
    side by side), frames a second without what went before the first pass, and peak memory."""
    passes.end()
    seconds = sum(passes.seconds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    return {
        "frames": frames,
        **seconds_of(passes),
        "frames_a_second": round(frames / (seconds - passes.seconds.get(STARTING, 0.0)), 2),
        "seconds_a_stage": {stage: round(spent, 3) for stage, spent in stages.items()},
        "peak_memory_gib": round(peak, 3),
    }


def seconds_of(passes: Passes) -> dict[str, Any]:
    """Seconds from the beginning up to now, and those of each pass."""
    passes.end()
    return {
        "seconds": round(sum(passes.seconds.values()), 3),
        "seconds_a_pass": {name: round(spent, 3) for name, spent in passes.seconds.items()},
    }


def weakest_of(timeline: Timeline) -> dict[str, Any] | None:
    """The frame that most needs a correction: its name, how sure its least sure object is, 0 to 1, and the names of the
    frames that are annotated; None where there is no such frame."""
    frame = timeline.weakest()
    if frame is None:
        return None
    video, sure = timeline.video, timeline.confidence[frame]
    annotated = [video.frame_name(one) for one in timeline.annotated]
    return {"name": video.frame_name(frame), "sure": min(sure.values()), "annotated": annotated}


@dataclass(frozen=True)
class EarlierRun:
    """What a folder holds of a run that is to be gone on with."""

    record: dict[str, Any] | None = None
    """Of one that was finished."""
    ruined: tuple[Path, ...] = ()
    """Masks that are damaged."""
    gone: tuple[Path, ...] = ()
    """Of a finished run: masks that are no longer there."""

    @property
    def whole(self) -> bool:
        """Whether it was finished and all of it is there."""
        return self.record is not None and not self.ruined and not self.gone

    def restore(self, timeline: Timeline) -> None:
        """Tell a timeline what is done of a finished run.

        Raises:
            OutputError: its record is damaged.
        """
        if self.record is not None:
            try:
                timeline.restore(self.record, self.ruined)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise OutputError(f"{RECORD}: is damaged ({error!r}); remove it, and --resume makes it anew") from error

    def remarks(self) -> list[str]:
        """What a user should know of it, a line each."""
        damaged = [f"{path} was damaged; it was made anew" for path in self.ruined]
        return damaged + [f"{path} was gone; it was made anew" for path in self.gone]


def earlier_run(folder: Path, timeline: Timeline, fingerprint: str, resume: bool) -> EarlierRun:
    """What a folder holds of a run with this fingerprint that is to be gone on with, whose masks are the files of
    `timeline`.

    Raises:
        OutputError: it holds a run of something else, or a damaged record.
    """
    if not resume:
        return EarlierRun()
    record = read_record(folder)
    if record is None:
        check_checkpoint(folder / CHECKPOINT, fingerprint)
    elif record.get("fingerprint") != fingerprint:
        raise OutputError(f"{folder} holds a run of another input, prompt or setting: --overwrite replaces it")
    places = [folder / "masks" / f"{name}.png" for name in timeline.video.names()]
    gone = [path for path in places if not path.exists()] if record is not None else []
    return EarlierRun(record, tuple(Manifest(folder).ruined(places, can_be_read)), tuple(gone))


def update_record(folder: Path, changes: Mapping[str, Any]) -> None:
    """Bring the record of a run up to date, with the list of its files.

    Raises:
        OutputError: it cannot be read or written.
    """
    if (record := read_record(folder)) is not None:
        write_record(folder, {**record, **changes})

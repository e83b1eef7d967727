"""What a run says of itself in `timeline.json`: the model, versions, what was measured; and whether it is done."""

import json
import platform
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matchcut.api.passes import STARTING, Passes
from matchcut.errors import OutputError
from matchcut.manifest import Manifest
from matchcut.models.mask_vos import MaskVOS
from matchcut.models.transport_net import TransportNet
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.interrupted import check_interrupted
from matchcut.tracking.outputs import CHECKPOINT, LOG, RECORD, can_be_read, write_record
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.weights.specs import MODELS, WEIGHTS, model_name


def about_model(
    model: str | None, preset: str | None, backbone: str | None, tracker: Tracker | Segmenter
) -> dict[str, Any]:
    """What a record says of the model: its name, settings and weights."""
    model = model_name(model, preset, backbone)
    weights, own = WEIGHTS[MODELS[model].weights], getattr(tracker.model, "backbone", None)
    if isinstance(tracker.model, MaskVOS | TransportNet):  # of a file, which the store knows by name and hash
        assert own is not None and own.weights is not None
        backbone = own.name
        name, _, digest = own.weights.rpartition(" ")
    elif backbone in (None, weights.backbone):
        backbone, name, digest = weights.backbone, weights.name, weights.sha256
    else:
        name, digest = backbone, None
    return {
        "model": model,
        "preset": preset,
        "backbone": backbone,
        "weights": name,
        "weights_sha256": digest,
        "working_size": tracker.size,
        "device": str(tracker.device),
        "precision": str(tracker.dtype).removeprefix("torch."),
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


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `timeline.json` holds; None where there is none.

    Raises:
        OutputError: it cannot be read, or is no record.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = "is empty" if path.is_file() and not path.stat().st_size else f"cannot be read ({error})"
        raise OutputError(f"{path}: {why}; remove it, and --resume makes it anew") from error
    if not isinstance(record, dict):
        raise OutputError(f"{path}: is no record of a run; remove it, and --resume makes it anew")
    return record


def finished_run(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The record of a finished run with this fingerprint in a folder; None where there is none.

    Raises:
        OutputError: the folder holds a finished run of something else, or a damaged record.
    """
    record = read_record(folder)
    if record is not None and record.get("fingerprint") != fingerprint:
        raise OutputError(f"{folder} holds a run of another input, prompt or setting: --overwrite replaces it")
    return record


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

    def remarks(self) -> list[str]:
        """What a user should know of it, a line each."""
        damaged = [f"{path} was damaged; it was made anew" for path in self.ruined]
        return damaged + [f"{path} was gone; it was made anew" for path in self.gone]


def earlier_run(folder: Path, timeline: Timeline, fingerprint: str) -> EarlierRun:
    """What a folder holds of a run with this fingerprint, whose masks are the files of `timeline`.

    Raises:
        OutputError: it holds a run of something else, or a damaged record.
    """
    record = finished_run(folder, fingerprint)
    if record is None:
        check_interrupted(folder / CHECKPOINT, folder / LOG, fingerprint)
    places = [folder / "masks" / f"{name}.png" for name in timeline.video.names()]
    gone = [path for path in places if not path.exists()] if record is not None else []
    return EarlierRun(record, tuple(Manifest(folder).ruined(places, can_be_read)), tuple(gone))


def sure_of(record: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """How sure a run was of each object, by the name of the frame, as its record says; nothing where that is odd."""
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        return {
            str(name): {int(number): float(sure) for number, sure in found.items()}
            for name, found in record["confidence"].items()
        }
    return {}


def update_record(folder: Path, changes: Mapping[str, Any]) -> None:
    """Bring the record of a run up to date, with the list of its files.

    Raises:
        OutputError: it cannot be read or written.
    """
    if (record := read_record(folder)) is not None:
        write_record(folder, {**record, **changes})

"""What a run says of itself in `timeline.json`: the model, versions, what was measured; and whether it is done."""

import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matchcut.errors import OutputError
from matchcut.models.mask_vos import MaskVOS
from matchcut.models.transport_net import TransportNet
from matchcut.tracking.automatic import Segmenter
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


def measured_of(frames: int, started: float, stages: Mapping[str, float]) -> dict[str, Any]:
    """Frames, seconds since `started` (of `time.perf_counter`), seconds a stage, frames a second and peak memory."""
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    return {
        "frames": frames,
        "seconds": round(seconds, 3),
        "frames_a_second": round(frames / seconds, 2),
        "seconds_a_stage": {stage: round(spent, 3) for stage, spent in stages.items()},
        "peak_memory_gib": round(peak, 3),
    }


def finished_run(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The record of a finished run with this fingerprint in a folder; None where there is none.

    Raises:
        OutputError: the folder holds a finished run of something else.
    """
    path = folder / "timeline.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    if record.get("fingerprint") != fingerprint:
        raise OutputError(f"{folder} holds a run of another input, prompt or setting: --overwrite replaces it")
    return record

"""What `Tracker.fill` writes now and then, so that it can go on from there after it was interrupted."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from matchcut.errors import OutputError
from matchcut.files import atomic_path
from matchcut.models.base import Reference
from matchcut.tracking.memory import Chain, Use
from matchcut.tracking.timeline import Timeline

DAMAGED = (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError)
"""What reading a damaged checkpoint raises."""


def pack(values: Tensor) -> bytes:
    """A reference's values, to be written."""
    return safetensors.torch.save({"values": values.cpu().contiguous()})


def unpack(data: bytes | None) -> Tensor | None:
    """What `pack` made of values; None of None."""
    return None if data is None else safetensors.torch.load(data)["values"]


def interrupted_run_of_another(folder: Path) -> OutputError:
    """What is said of a folder with an interrupted run that has another fingerprint."""
    return OutputError(
        f"{folder} holds an interrupted run of another input, prompt or setting: give those again, or --overwrite"
    )


def check_interrupted(checkpoint: Path, log: Path, fingerprint: str) -> None:
    """Before anything is touched: whether it is the run with this fingerprint that was interrupted, if there was one.

    Raises:
        OutputError: it was a run of something else.
    """
    if checkpoint.exists():
        with suppress(*DAMAGED), safetensors.safe_open(checkpoint, "pt") as stored:
            if stored.metadata()["fingerprint"] != fingerprint:
                raise interrupted_run_of_another(checkpoint.parent)
    read_log(log, fingerprint)


def read_log(log: Path, fingerprint: str) -> list[dict[str, Any]]:
    """The lines of a log, the first of which holds its run's fingerprint, as far as they can be read; none where there
    is no log.

    Raises:
        OutputError: it is of a run of something else.
    """
    lines: list[dict[str, Any]] = []
    if log.exists():
        with suppress(ValueError):  # the last line may be cut short
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                found = json.loads(line)
                if not isinstance(found, dict):
                    break
                lines.append(found)
    if lines and lines[0].get("fingerprint") != fingerprint:
        raise interrupted_run_of_another(log.parent)
    return lines


def save_checkpoint(
    path: Path, fingerprint: str, timeline: Timeline, chain: Chain, frame: int, references: Mapping[Use, Reference]
) -> None:
    """Write down the last frame that is done, and the values of the context after it."""
    context = {
        str(use.frame): reference.values.cpu().contiguous()
        for use, reference in references.items()
        if not use.annotated and use.frame != chain.anchor
    }
    state = {
        "fingerprint": fingerprint,
        "chain": json.dumps(chain),
        "frame": str(frame),
        "confidence": json.dumps(timeline.confidence),
    }
    with atomic_path(path, note="name") as temporary:
        temporary.write_bytes(safetensors.torch.save(context, state))


def load_checkpoint(path: Path, fingerprint: str, timeline: Timeline) -> dict[int, Tensor]:
    """Mark what an interrupted `fill` had done and is there, if there was one; the values of its context, by frame. A
    damaged file says nothing.

    Raises:
        OutputError: it was a run of something else.
    """
    if not path.exists():
        return {}
    with suppress(*DAMAGED), safetensors.safe_open(path, "pt") as stored:
        state = stored.metadata()
        if state["fingerprint"] != fingerprint:
            raise interrupted_run_of_another(path.parent)
        at, frame = Chain(*json.loads(state["chain"])), int(state["frame"])
        confidence = {int(f): {int(k): v for k, v in c.items()} for f, c in json.loads(state["confidence"]).items()}
        values = {int(name): stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        for chain in timeline.chains():
            for one in chain.frames():
                if timeline.is_stale(one, chain) and timeline.has_file(one):
                    timeline.mark(one, confidence.get(one, {}), chain)
                if chain == at and one == frame:
                    return values
    return {}

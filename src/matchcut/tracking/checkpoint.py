"""Checkpoints: what `fill` writes now and then, so that it can go on from there after it was interrupted.

A safetensors file whose metadata holds the record of the timeline so far (`Timeline.record`) and whose tensors are what
the run remembered of its last frames.
"""

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from matchcut.errors import OutputError
from matchcut.files import atomic_path
from matchcut.tracking.timeline import Timeline

DAMAGED = (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError)
"""What reading a damaged checkpoint raises."""
EVERY = 25
"""Frames between two checkpoints, at least."""
CHECKPOINTS = 200
"""Of a run, at most: each takes time that grows with the video."""


def pack(values: Tensor, state: Any = None) -> bytes:
    """The values of a reference and the state after its frame, to be kept. `unpack` never unpickles."""
    buffer = io.BytesIO()
    torch.save((values, state), buffer)
    return buffer.getvalue()


def unpack(data: bytes, device: torch.device | str = "cpu") -> tuple[Tensor, Any]:
    """What `pack` packed."""
    values, state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    return values, state


def check_checkpoint(path: Path, fingerprint: str) -> None:
    """Before anything is touched: whether it is the run with this fingerprint that was interrupted, if there was one.

    Raises:
        OutputError: it was a run of something else.
    """
    if path.exists():
        with suppress(*DAMAGED), safetensors.safe_open(path, "pt") as stored:
            if stored.metadata()["fingerprint"] != fingerprint:
                raise OutputError(
                    f"{path.parent} holds an interrupted run of another input, prompt or setting: give those again, or "
                    "--overwrite"
                )


def save_checkpoint(path: Path, fingerprint: str, timeline: Timeline, remembered: dict[int, bytes]) -> None:
    """Write down what a timeline holds, and what was packed of the last frames, by frame."""
    tensors = {str(frame): torch.frombuffer(bytearray(data), dtype=torch.uint8) for frame, data in remembered.items()}
    metadata = {"fingerprint": fingerprint, "record": json.dumps(timeline.record())}
    with atomic_path(path, note="name") as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))


def load_checkpoint(path: Path, fingerprint: str, timeline: Timeline) -> dict[int, bytes]:
    """Take over what an interrupted `fill` had done and is there, if there was one; what was packed of its last frames,
    by frame. A damaged file says nothing.

    Raises:
        OutputError: it was a run of something else.
    """
    check_checkpoint(path, fingerprint)
    if path.exists():
        with suppress(*DAMAGED), safetensors.safe_open(path, "pt") as stored:
            remembered = {int(name): stored.get_tensor(name).numpy().tobytes() for name in stored.keys()}  # noqa: SIM118
            timeline.restore(json.loads(stored.metadata()["record"]))
            return remembered
    return {}

"""What `Tracker.fill` writes now and then, so that it can go on from there after it was interrupted."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from torch import Tensor

from matchcut.errors import OutputError
from matchcut.files import atomic_path
from matchcut.models.base import Reference
from matchcut.tracking.memory import Chain, Use
from matchcut.tracking.timeline import Timeline


def pack(values: Tensor) -> bytes:
    """A reference's values, to be written."""
    return safetensors.torch.save({"values": values.cpu().contiguous()})


def unpack(data: bytes | None) -> Tensor | None:
    """What `pack` made of values; None of None."""
    return None if data is None else safetensors.torch.load(data)["values"]


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
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(context, state))


def load_checkpoint(path: Path, fingerprint: str, timeline: Timeline) -> dict[int, Tensor]:
    """Mark what an interrupted `fill` had done, if there was one; the values of its context, by frame.

    Raises:
        OutputError: it was a run of something else.
    """
    if not path.exists():
        return {}
    with suppress(safetensors.SafetensorError, KeyError, ValueError), safetensors.safe_open(path, "pt") as stored:
        state = stored.metadata()
        if state["fingerprint"] != fingerprint:
            raise OutputError(
                f"{path.parent} holds an interrupted run of another input, prompt or setting: give those again, or "
                "--overwrite"
            )
        at, frame = Chain(*json.loads(state["chain"])), int(state["frame"])
        confidence = {int(f): {int(k): v for k, v in c.items()} for f, c in json.loads(state["confidence"]).items()}
        values = {int(name): stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        for chain in timeline.chains():
            for one in chain.frames():
                if timeline.is_stale(one, chain):
                    timeline.mark(one, confidence.get(one, {}), chain)
                if chain == at and one == frame:
                    return values
    return {}

"""A sequence of a benchmark for models that need no prompt: masks of the primary object, maps of it, or proposals."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matchcut.benchmarks.protocols import Protocol
from matchcut.errors import ModelError, PromptError
from matchcut.masks import write_mask
from matchcut.models.base import GuidedModel
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.instances import annotations_from
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.writer import write_png
from matchcut.weights.store import load_model


def segment_sequence(
    protocol: Protocol, segmenter: Segmenter, timeline: Timeline, wanted: list[Path], log: Path, fingerprint: str
) -> None:
    """Write a file a frame, as the protocol reads it.

    Args:
        timeline: whose masks are the files, where the protocol wants the mask of one object.
        wanted: the file of each frame.
        log: see `Segmenter.fill`.
    """
    if protocol.objects == "one":
        segmenter.fill(timeline, log=log, fingerprint=fingerprint)
        log.unlink(missing_ok=True)
        return
    if protocol.objects == "map":

        def keep(frame: int, soft: NDArray[np.float32]) -> None:
            write_png(wanted[frame], np.rint(255 * soft.clip(0, 1)).astype(np.uint8))

        segmenter.fill(timeline, keep=keep)
        return
    segmenter.fill(timeline)
    guided = load_model()
    if not isinstance(guided, GuidedModel):
        raise ModelError("the default guided model is needed to split a region into objects")
    tracker, tracked = Tracker(guided, device=str(segmenter.device)), Timeline(timeline.video)
    with suppress(PromptError):  # nothing was found: it counts as it is
        for frame, labels in annotations_from(timeline, segmenter.cuts, tracker, "objects").items():
            tracked.annotate(frame, labels)
        tracker.fill(tracked)
        timeline = tracked
    for path, mask in zip(wanted, timeline, strict=True):
        write_mask(path, np.zeros(timeline.size, np.uint8) if mask is None else mask)

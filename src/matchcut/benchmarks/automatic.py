"""A sequence of a benchmark for models that need no prompt: masks of the primary object, maps of it, or proposals."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matchcut.benchmarks.protocols import Protocol
from matchcut.errors import PromptError
from matchcut.masks import write_mask
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.instances import annotations_from
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.writer import write_png
from matchcut.weights.store import load_model


def segment_sequence(
    protocol: Protocol, segmenter: Segmenter, timeline: Timeline, wanted: list[Path], checkpoint: Path
) -> None:
    """Write a file a frame, as the protocol reads it.

    Args:
        timeline: whose masks are the files, where the protocol wants the mask of one object.
        wanted: the file of each frame.
        checkpoint: see `Segmenter.fill`.
    """
    if protocol.objects == "one":
        segmenter.fill(timeline, checkpoint=checkpoint)
        return
    if protocol.objects == "map":

        def keep(frame: int, soft: NDArray[np.float32]) -> None:
            write_png(wanted[frame], np.rint(255 * soft.clip(0, 1)).astype(np.uint8))

        segmenter.fill(timeline, keep=keep)
        return
    segmenter.fill(timeline)
    tracker, tracked = Tracker(load_model(), device=str(segmenter.device)), Timeline(timeline.video)
    with suppress(PromptError):  # nothing was found: it counts as it is
        for frame, labels in annotations_from(timeline, tracker, "objects").items():
            tracked.annotate(frame, labels)
        tracker.fill(tracked)
        timeline = tracked
    for path, mask in zip(wanted, timeline, strict=True):
        write_mask(path, np.zeros(timeline.size, np.uint8) if mask is None else mask)

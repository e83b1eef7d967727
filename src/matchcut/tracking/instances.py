"""From what was found with no prompt to a guided tracker: which frames to hand it, and which objects they show."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.errors import PromptError
from matchcut.masks import LabelMap, object_ids
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Progress, Tracker

After = Literal["track", "objects"]
"""What follows: the surest frames are tracked to all others; the region is split into instances that are tracked."""

EVERY = 40
"""Frames to one that is handed on, about."""
GOOD = 0.8
"""Share of the best frame's confidence below which a frame is not handed on."""
PIECE = 0.05
"""Share of the region below which a piece of it is no object of its own."""
MOST = 20
"""Objects at most, as the protocol of DAVIS-2017 has it."""


def annotations_from(
    timeline: Timeline, tracker: Tracker, after: After, progress: Progress | None = None
) -> dict[int, LabelMap]:
    """The label maps that a guided tracker is given, by frame.

    Args:
        timeline: filled by a `Segmenter`.
        tracker, progress: of `split`, for "objects".

    Raises:
        PromptError: nothing was found in the whole video.
    """
    sure = {frame: next(iter(found.values())) for frame, found in timeline.confidence.items()}
    frames = confident_frames(sure, len(timeline), timeline.noted("cut"))
    if not frames:
        raise PromptError(f"{timeline.video.source}: nothing was found that could be tracked; give a mask or a box")
    if after == "objects":
        return dict([split(timeline, frames, tracker, progress)])
    return {frame: labels for frame in frames if (labels := timeline.labels(frame)) is not None}


def confident_frames(confidence: Mapping[int, float], length: int, cuts: Sequence[int] = ()) -> list[int]:
    """Frames to annotate with what was found there: the surest of each stretch of some 40 frames of each scene.

    Args:
        confidence: by frame, 0 where nothing was found.
        length: frames of the video.
        cuts: frames with which another scene begins.

    Returns:
        Ascending; none where nothing was found in the whole video.
    """
    best = max(confidence.values(), default=0.0)
    chosen = []
    for first, last in pairwise([0, *cuts, length]):
        parts = max(1, round((last - first) / EVERY))
        for low, high in pairwise(np.linspace(first, last, parts + 1).round().astype(int)):
            surest = max(range(low, high), key=lambda one: (confidence.get(one, 0.0), -one), default=None)
            if surest is not None and confidence.get(surest, 0.0) > GOOD * best:
                chosen.append(int(surest))
    return chosen


def pieces(labels: LabelMap) -> LabelMap:
    """The connected pieces of a region (above 0), the largest first as 1, 2, ...; small ones join the nearest."""
    count, numbers, stats, centres = cv2.connectedComponentsWithStats((labels > 0).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = [one + 1 for one in np.argsort(-areas, kind="stable")]
    large = [one for one in order if areas[one - 1] >= PIECE * areas.sum()][:MOST] or order[:1]
    lookup = np.zeros(count, np.uint8)
    for one in order:
        nearest = one if one in large else min(large, key=lambda at: float(np.hypot(*(centres[at] - centres[one]))))
        lookup[one] = 1 + large.index(nearest)
    return np.asarray(lookup[numbers], np.uint8)


def split(
    timeline: Timeline, frames: Sequence[int], tracker: Tracker, progress: Progress | None = None
) -> tuple[int, LabelMap]:
    """The region of a timeline split into instances that stay apart over time: a frame, and its label map to track.

    Of the frames that are sure, one with the usual number of pieces says which pieces there are; they are tracked both
    ways, and those that touch each other in most of the frames that show both were one all along.

    Args:
        timeline: filled by a `Segmenter`.
        frames: as `confident_frames` chose them, at least one.
        tracker: is run once over the video.
        progress: called after each frame of this run.

    Returns:
        The frame, and its objects, the largest as 1.
    """
    shown: dict[int, LabelMap] = {}
    for frame in frames:
        labels = timeline.labels(frame)
        assert labels is not None
        shown[frame] = pieces(labels)
    counts = {frame: len(object_ids(labels)) for frame, labels in shown.items()}
    usual = sorted(counts.values())[len(counts) // 2]
    sure = timeline.confidence
    anchor = max((one for one in frames if counts[one] == usual), key=lambda one: next(iter(sure[one].values())))
    if usual == 1:
        return anchor, shown[anchor]
    with TemporaryDirectory() as folder:  # in memory, masks would grow with the video
        tracked = Timeline(timeline.video, Path(folder), correctable=False)
        tracked.annotate(anchor, shown[anchor])
        tracker.fill(tracked, progress)
        return anchor, _joined(tracked)[shown[anchor]]


def _joined(tracked: Timeline) -> NDArray[np.uint8]:
    """Which object each id becomes (256,), where those that mostly touch each other are one."""
    together: dict[tuple[int, int], list[bool]] = {}
    for labels in tracked:
        assert labels is not None
        ids = object_ids(labels)
        grown = {one: cv2.dilate((labels == one).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0 for one in ids}
        for a, b in combinations(ids, 2):
            together.setdefault((a, b), []).append(bool((grown[a] & (labels == b)).any()))
    root = list(range(256))
    for (a, b), touches in sorted(together.items()):
        if np.mean(touches) > 0.5:
            old, new = max(root[a], root[b]), min(root[a], root[b])
            root = [new if one == old else one for one in root]
    kept = [one for one in tracked.objects() if root[one] == one]
    lookup = np.zeros(256, np.uint8)
    for one in tracked.objects():
        lookup[one] = 1 + kept.index(root[one])
    return lookup

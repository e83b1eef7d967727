"""Means over the frames and objects of a sequence: DAVIS's mean, recall and decay, and SegTrack v2's two mIoUs.

Sources: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4.2, with the bin edges of `db_statistics` in davisvideochallenge/davis2017-evaluation; Zeng et al., "DMM-Net",
ICCV 2019, section 4.1, for SegTrack v2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError


class Statistics(NamedTuple):
    """What `mean_recall_decay` answers; unpacks as (mean, recall, decay)."""

    mean: float
    """Mean over the frames that have a value, in [0, 1]."""
    recall: float
    """Share of all frames strictly above 0.5, in [0, 1]."""
    decay: float
    """Mean of the first quarter less mean of the last, in [-1, 1]: above 0 where a method gets worse."""


def mean_recall_decay(values: Sequence[float] | npt.NDArray[np.floating], reference_fault: bool = False) -> Statistics:
    """Statistics of one object's J or F over a sequence.

    The quarters' edges are round(linspace(1, n, 5) + 1e-10) - 1, and a frame on an edge belongs to both quarters.

    Args:
        values: (N,) in [0, 1], one a scored frame, N >= 1. NaN is a frame without a value: left out of the mean and the
            decay, but, as in the reference, not above 0.5 in the recall.
        reference_fault: hold the edges in 8 bits as the reference does, which makes the decay wrong, or NaN, beyond
            256 frames. Only for comparison with published numbers; no difference up to 256.

    Returns:
        (mean, recall, decay). Mean and decay are NaN where no frame they need has a value.

    Raises:
        ShapeError: the values are not (N,) with N >= 1.
    """
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ShapeError(f"expected one value a frame (N,), N >= 1, got {scores.shape}")
    edges = [int(edge) for edge in np.round(np.linspace(1, scores.size, 5) + 1e-10) - 1]
    if reference_fault:
        edges = [edge % 256 for edge in edges]
    first, last = scores[edges[0] : edges[1] + 1], scores[edges[3] : edges[4] + 1]
    return Statistics(_nanmean(scores), float(np.mean(scores > 0.5)), _nanmean(first) - _nanmean(last))


def mean_per_frame(values: npt.NDArray[np.floating], present: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """J of each frame, the mean over its objects; the mean of these over all videos' frames is SegTrack v2's mIoU*.

    Args:
        values: (T, K), J of K objects in T frames; any value, NaN too, where an object is not present.
        present: boolean (T, K), whether the object is in the frame's truth.

    Returns:
        float64, one a frame that holds an object, in order; other frames are left out.

    Raises:
        ShapeError: the arrays are not (T, K) and boolean (T, K).
    """
    if values.ndim != 2 or present.shape != values.shape or present.dtype != np.bool_:
        raise ShapeError(f"expected (T, K), boolean (T, K), got {values.shape}, {present.dtype} {present.shape}")
    count = present.sum(1)
    total = np.where(present, values, 0).sum(1, dtype=np.float64)
    return np.asarray(total[count > 0] / count[count > 0])


def mean_per_object(values: npt.NDArray[np.floating], present: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """J of each object, the mean over the frames it is in; their mean over all videos' objects is SegTrack v2's mIoU+.

    Takes and raises what `mean_per_frame` does, and answers one value an object that is in any frame, in order.
    """
    return mean_per_frame(values.T, present.T)


def _nanmean(values: npt.NDArray[np.float64]) -> float:
    """np.nanmean, NaN without a warning where there is no value."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")

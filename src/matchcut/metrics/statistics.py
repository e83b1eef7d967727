"""Mean, recall and decay of one object's scores over the frames of a sequence, as DAVIS counts them.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4.2, with the bin edges of `db_statistics` in davisvideochallenge/davis2017-evaluation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError


class Statistics(NamedTuple):
    """The result of `mean_recall_decay`; unpacks as (mean, recall, decay)."""

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


def _nanmean(values: npt.NDArray[np.float64]) -> float:
    """np.nanmean, NaN without a warning where there is no value."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")

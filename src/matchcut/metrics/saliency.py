"""Saliency maps against a binary truth: mean absolute error, precision and recall at 256 thresholds, F-measure.

Sources: Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009 (F, beta^2 = 0.3); Perazzi et al.,
"Saliency Filters", CVPR 2012 (MAE). What they leave open is as in the field's evaluation codes: Fan's MATLAB code for
video (DengPingFan/DAVSOD) and its port lartpang/PySODMetrics.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError
from matchcut.metrics.region import as_bytes, byte_histogram

BETA_SQUARED = 0.3


class Saliency(NamedTuple):
    """Scores of one map, or the mean of several. At threshold t, in 0 to 255, the pixels S >= t are the prediction."""

    mae: float
    """Mean |S - G|, with S and G in [0, 1]."""
    precision: npt.NDArray[np.float64]
    """(256,) in [0, 1]."""
    recall: npt.NDArray[np.float64]
    """(256,) in [0, 1]."""
    f: npt.NDArray[np.float64]
    """(256,) in [0, 1]."""

    @property
    def max_f(self) -> float:
        """The greatest F of all thresholds: of a data set's mean, the number that papers print."""
        return float(self.f.max())


def saliency(truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.uint8]) -> Saliency:
    """Scores of one frame, from one histogram.

    As in the evaluation codes, precision, recall and F are 0 where no pixel is both predicted and true. So precision
    is 0 where nothing is predicted, and recall is 0 where nothing is true: a frame without an object counts as 0 in
    the mean over frames, whatever was predicted. The values are taken as they are; both evaluation codes first stretch
    each map to the full range.

    Args:
        truth: boolean (H, W).
        prediction: uint8 (H, W), the same size: S x 255.

    Returns:
        MAE, and the curves of precision, recall and F.

    Raises:
        ShapeError: the maps are not of these types and one size.
    """
    if prediction.dtype != np.uint8:
        raise ShapeError(f"prediction: expected uint8 (H, W), got {prediction.dtype} {prediction.shape}")
    rows: npt.NDArray[np.uint8] = (as_bytes(truth, prediction.view(np.bool_))[0] != 0).view(np.uint8)
    counts = byte_histogram(rows, prediction, limit=2)  # (background and object, value)
    values = np.arange(256) / 255
    mae = (counts[0] @ values + counts[1] @ (1 - values)) / counts.sum()

    above = counts[:, ::-1].cumsum(1)[:, ::-1]  # pixels of background and object with S >= t
    precision = above[1] / np.maximum(above.sum(0), 1)
    recall = above[1] / max(counts[1].sum(), 1)
    below = BETA_SQUARED * precision + recall
    f = (1 + BETA_SQUARED) * precision * recall / np.where(below > 0, below, 1)
    return Saliency(float(mae), precision, recall, f)


def mean_saliency(scores: Iterable[Saliency]) -> Saliency:
    """The mean of each score and of each threshold's; its `max_f` is the maximum of the mean F, not a mean of maxima.

    Over the frames of a data set; or, as Fan's code for video has it, over each sequence's frames and then over the
    sequences' means.

    Args:
        scores: at least one.

    Raises:
        ShapeError: there is none.
    """
    columns = list(zip(*scores, strict=True))
    if not columns:
        raise ShapeError("expected the scores of at least one frame")
    mae, precision, recall, f = (np.mean(column, 0) for column in columns)
    return Saliency(float(mae), precision, recall, f)

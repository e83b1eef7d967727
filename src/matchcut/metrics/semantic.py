"""Mean IoU over classes, from one confusion matrix over all frames, as on VIP (20 classes of body parts).

Source: Zhou et al., "Adaptive Temporal Encoding Network for Video Instance-level Human Parsing", ACM MM 2018; what it
leaves open is as in the evaluation that label-propagation papers use (`eval_vip.py` in Liusifei/UVC, from TimeCycle).
"""

import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError
from matchcut.metrics.region import as_label_bytes, byte_histogram


def confusion_matrix(
    truth_labels: npt.NDArray[np.uint8], prediction_labels: npt.NDArray[np.uint8], classes: int = 20
) -> npt.NDArray[np.int64]:
    """Confusion matrix of one frame: pixels of class i that are predicted as j; add up the frames' matrices.

    Args:
        truth_labels: uint8 (H, W). Pixels whose label is not below `classes`, 255 say, are left out.
        prediction_labels: the same size; below `classes` where the truth is.
        classes: how many, in [1, 256]; class 0, the background, is one of them.

    Returns:
        int64 (classes, classes), (truth, prediction).

    Raises:
        ShapeError: the maps are not uint8 (H, W) of one size, the number of classes is out of range, or a prediction
            that counts is not below it.
    """
    truth, prediction = as_label_bytes(truth_labels, prediction_labels)
    if not 1 <= classes <= 256:
        raise ShapeError(f"expected 1 to 256 classes, got {classes}")
    counts = byte_histogram(truth, prediction, classes)
    if counts[:, classes:].any():
        wrong = (np.flatnonzero(counts[:, classes:].any(0)) + classes).tolist()
        raise ShapeError(f"prediction_labels: expected labels below {classes}, got {wrong}")
    return counts[:, :classes]


def iou_per_class(confusion: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Intersection over union of each class.

    Args:
        confusion: (C, C), (truth, prediction), as `confusion_matrix` gives it.

    Returns:
        float64 (C,) in [0, 1]. A class that is predicted but never true has 0, and one that is neither has NaN.

    Raises:
        ShapeError: the matrix is not (C, C).
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ShapeError(f"expected a confusion matrix (C, C), got {confusion.shape}")
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def mean_iou(confusion: npt.NDArray[np.integer]) -> float:
    """Mean of `iou_per_class`, the background among the classes; those with NaN are left out. NaN if all are."""
    values = iou_per_class(confusion)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")

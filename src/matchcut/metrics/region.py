"""Region similarity J: intersection over union of masks, as the official DAVIS evaluation counts it.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4.1; the constants are those of davisvideochallenge/davis2017-evaluation.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError


def as_bytes(truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.uint8], ...]:
    """The two masks as bytes, not copied where they are contiguous: 0 is background, any other byte is object.

    A byte need not be 1: Pillow hands out one-bit images as booleans that are stored as 255. Raises ShapeError unless
    both are boolean (H, W) of one size, with at least one pixel.
    """
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
            raise ShapeError(f"{name}: expected a boolean mask (H, W), got {mask.dtype} {mask.shape}")
    if truth.shape != prediction.shape:
        raise ShapeError(f"truth and prediction differ in size: {truth.shape} and {prediction.shape}")
    return np.ascontiguousarray(truth).view(np.uint8), np.ascontiguousarray(prediction).view(np.uint8)


def as_label_bytes(
    truth_labels: npt.NDArray[np.uint8], prediction_labels: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The two label maps, contiguous. Raises ShapeError unless both are uint8 (H, W) of one size, not empty."""
    for name, labels in (("truth_labels", truth_labels), ("prediction_labels", prediction_labels)):
        if labels.ndim != 2 or labels.dtype != np.uint8 or labels.size == 0:
            raise ShapeError(f"{name}: expected uint8 labels (H, W), got {labels.dtype} {labels.shape}")
    if truth_labels.shape != prediction_labels.shape:
        raise ShapeError(f"label maps differ in size: {truth_labels.shape} and {prediction_labels.shape}")
    return np.ascontiguousarray(truth_labels), np.ascontiguousarray(prediction_labels)


def byte_histogram(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], limit: int = 256
) -> npt.NDArray[np.int64]:
    """Joint histogram (limit, 256) of two maps of one size: pixels with value i in the first and j in the second.

    Pixels whose first value is not below `limit` are left out.
    """
    a, b = (np.ascontiguousarray(values).reshape(1, -1) for values in (first, second))
    counts = np.zeros((limit, 256), np.int64)
    part = 1 << 24  # calcHist answers in float32, which counts to 2^24
    for start in range(0, a.size, part):
        maps = [a[:, start : start + part], b[:, start : start + part]]
        counts += cv2.calcHist(maps, [0, 1], None, [limit, 256], [0, limit, 0, 256]).astype(np.int64)
    return counts


def jaccard(truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> float:
    """J of one object in one frame: |truth and prediction| / |truth or prediction|.

    Args:
        truth: boolean (H, W).
        prediction: boolean (H, W), the same size.

    Returns:
        A number in [0, 1]; 1 where both masks are empty.

    Raises:
        ShapeError: the masks are not boolean (H, W) of one size.
    """
    a, b = as_bytes(truth, prediction)
    both = cv2.countNonZero(cv2.min(a, b))  # min and not bitwise_and: right for any non-zero byte
    either = cv2.countNonZero(a) + cv2.countNonZero(b) - both
    return both / either if either else 1.0


def jaccard_per_object(
    truth_labels: npt.NDArray[np.uint8], prediction_labels: npt.NDArray[np.uint8], ids: Sequence[int]
) -> npt.NDArray[np.float64]:
    """J of every object of one frame.

    Args:
        truth_labels: uint8 (H, W). Labels outside `ids`, 0 and void (255) say, count as background.
        prediction_labels: the same size and meaning.
        ids: the K objects' labels, in [1, 255]. An id may be in neither map.

    Returns:
        float64 (K,) in [0, 1], in the order of `ids`; 1 where an object is in neither map.

    Raises:
        ShapeError: the maps are not uint8 (H, W) of one size, or an id is out of range.
    """
    return jaccard_pairs(truth_labels, prediction_labels, ids, ids).diagonal()


def jaccard_pairs(
    truth_labels: npt.NDArray[np.uint8],
    prediction_labels: npt.NDArray[np.uint8],
    truth_ids: Sequence[int],
    prediction_ids: Sequence[int],
) -> npt.NDArray[np.float64]:
    """J of every object of the truth with every one of the prediction, in one frame, from one joint histogram.

    Args:
        truth_labels: uint8 (H, W). Labels outside `truth_ids` count as background.
        prediction_labels: the same size and, with `prediction_ids`, meaning.
        truth_ids: the K objects' labels in the truth, in [1, 255]. An id may be in neither map.
        prediction_ids: the P objects' labels in the prediction, likewise.

    Returns:
        float64 (K, P) in [0, 1]; 1 where an object is in neither map.

    Raises:
        ShapeError: the maps are not uint8 (H, W) of one size, or an id is out of range.
    """
    counts = byte_histogram(*as_label_bytes(truth_labels, prediction_labels))  # (truth, prediction)
    rows, columns = as_label_ids(truth_ids), as_label_ids(prediction_ids)
    both = counts[np.ix_(rows, columns)]
    either = counts.sum(1)[rows, None] + counts.sum(0)[columns] - both
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def as_label_ids(ids: Sequence[int]) -> npt.NDArray[np.intp]:
    """The ids as an array. Raises ShapeError unless all are in [1, 255]."""
    if not all(1 <= i <= 255 for i in ids):
        raise ShapeError(f"ids must be in [1, 255], got {list(ids)}")
    return np.array(ids, np.intp)

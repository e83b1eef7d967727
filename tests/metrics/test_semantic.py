"""Confusion matrix and mean IoU over classes against loops over pixels and classes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matchcut.errors import ShapeError
from matchcut.metrics import confusion_matrix, iou_per_class, mean_iou

CLASSES = 4


@st.composite
def videos(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    truth = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255]))
    prediction = hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1))
    return draw(st.lists(st.tuples(truth, prediction), min_size=1, max_size=3))


@given(videos())
def test_mean_iou_is_the_slow_one(frames):
    confusion = sum(confusion_matrix(truth, prediction, CLASSES) for truth, prediction in frames)
    truth, prediction = (np.concatenate([frame[n].ravel() for frame in frames]) for n in (0, 1))
    truth, prediction = truth[truth != 255], prediction[truth != 255]
    expected = []
    for i in range(CLASSES):
        for j in range(CLASSES):
            assert confusion[i, j] == sum((truth == i) & (prediction == j))
        both, either = sum((truth == i) & (prediction == i)), sum((truth == i) | (prediction == i))
        expected.append(both / either if either else math.nan)
    np.testing.assert_array_equal(iou_per_class(confusion), expected)
    present = [value for value in expected if not math.isnan(value)]
    assert mean_iou(confusion) == pytest.approx(sum(present) / len(present) if present else math.nan, nan_ok=True)


def test_classes_that_do_not_occur():
    """Class 1 is predicted and never true: 0. Class 3 is neither: left out. The background counts."""
    truth, prediction = np.array([[0, 0, 2, 2]], np.uint8), np.array([[0, 1, 2, 2]], np.uint8)
    confusion = confusion_matrix(truth, prediction)
    assert confusion.shape == (20, 20) and confusion.dtype == np.int64
    np.testing.assert_array_equal(iou_per_class(confusion)[:4], [0.5, 0, 1, math.nan])
    assert mean_iou(confusion) == 0.5
    assert math.isnan(mean_iou(np.zeros((20, 20), np.int64)))


def test_counts_beyond_single_precision():
    """Beyond 2^24, float32 would lose the last pixel."""
    truth = np.zeros((4097, 4097), np.uint8)
    assert confusion_matrix(truth, truth)[0, 0] == truth.size


def test_refusals():
    labels = np.zeros((4, 5), np.uint8)
    for wrong in (labels.T, labels.astype(int), labels[:0], labels[None]):
        for pair in ((labels, wrong), (wrong, labels)):
            with pytest.raises(ShapeError):
                confusion_matrix(*pair)
    with pytest.raises(ShapeError, match=r"below 20, got \[21, 255\]"):
        confusion_matrix(np.zeros((1, 3), np.uint8), np.array([[21, 255, 3]], np.uint8))
    ignored = np.full((1, 3), 255, np.uint8)
    assert not confusion_matrix(ignored, np.array([[21, 255, 3]], np.uint8)).any()
    for classes in (0, 257):
        with pytest.raises(ShapeError, match="classes"):
            confusion_matrix(labels, labels, classes)
    for wrong in (np.zeros((2, 3), int), np.zeros(4, int)):
        for measure in (iou_per_class, mean_iou):
            with pytest.raises(ShapeError):
                measure(wrong)

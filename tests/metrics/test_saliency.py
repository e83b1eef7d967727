"""MAE, precision-recall curve and F-measure against one comparison a threshold, as the definitions read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matchcut.errors import ShapeError
from matchcut.metrics import mean_saliency, saliency


def slow_saliency(truth, prediction):
    pixels = [(bool(t), int(p)) for t, p in zip(truth.flat, prediction.flat, strict=True)]
    mae = sum(abs(p / 255 - t) for t, p in pixels) / len(pixels)
    curves = []
    for threshold in range(256):
        both = sum(t and p >= threshold for t, p in pixels)
        precision = both / sum(p >= threshold for _, p in pixels) if both else 0
        recall = both / sum(t for t, _ in pixels) if both else 0
        curves.append((precision, recall, 1.3 * precision * recall / (0.3 * precision + recall) if both else 0))
    return mae, *np.array(curves).T


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    return draw(hnp.arrays(np.bool_, shape)), draw(hnp.arrays(np.uint8, shape))


@settings(max_examples=40)
@given(cases())
def test_saliency_is_the_slow_one(case):
    got = saliency(*case)
    for score, expected in zip(got, slow_saliency(*case), strict=True):
        np.testing.assert_allclose(score, expected, atol=1e-12)
    assert got.max_f == max(got.f)


@settings(max_examples=40)
@given(cases())
def test_saliency_is_right_for_any_memory(case):
    """Strides, and booleans stored as 255, as Pillow gives them, change nothing."""
    truth, prediction = case
    stored = (truth.view(np.uint8) * np.uint8(255)).view(bool)
    strided = np.repeat(np.repeat(prediction, 2, 0), 3, 1)[::2, ::3]
    for score, other in zip(saliency(stored, strided), saliency(truth, prediction), strict=True):
        np.testing.assert_array_equal(score, other)


def test_where_precision_and_recall_are_undefined():
    prediction = np.array([[0, 100]], np.uint8)
    got = saliency(np.array([[False, True]]), prediction)
    np.testing.assert_array_equal(got.precision, [0.5] + [1] * 100 + [0] * 155)  # nothing is predicted above 100
    np.testing.assert_array_equal(got.recall, [1] * 101 + [0] * 155)
    assert got.max_f == pytest.approx(1) and got.f[101] == 0
    without_object = saliency(np.zeros((1, 2), bool), prediction)
    assert not without_object.recall.any() and not without_object.f.any()
    assert without_object.mae == pytest.approx(50 / 255)


def test_the_maximum_comes_after_the_mean():
    truth = np.array([[False, True]])
    frames = [saliency(truth, np.array([[low, high]], np.uint8)) for low, high in ((10, 20), (100, 200))]
    assert [frame.max_f for frame in frames] == pytest.approx([1, 1])
    mean = mean_saliency(iter(frames))
    assert mean.max_f == pytest.approx((1 + frames[1].f[20]) / 2) and mean.max_f < 0.9
    for n, score in enumerate(mean):
        np.testing.assert_allclose(score, (frames[0][n] + frames[1][n]) / 2)


def test_refusals():
    truth, prediction = np.zeros((2, 3), bool), np.zeros((2, 3), np.uint8)
    for wrong in (
        (truth, prediction.astype(float)),
        (truth.view(np.uint8), prediction),
        (truth, prediction[:1]),
        (truth[:0], prediction[:0]),
    ):
        with pytest.raises(ShapeError):
            saliency(*wrong)
    with pytest.raises(ShapeError):
        mean_saliency([])

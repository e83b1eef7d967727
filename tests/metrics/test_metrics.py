"""J, F and their statistics: against slow, obviously right references, and against the official code's numbers."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from matchcut.errors import ShapeError
from matchcut.metrics import (
    boundary,
    boundary_f,
    boundary_f_pairs,
    jaccard,
    jaccard_pairs,
    jaccard_per_object,
    mean_recall_decay,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
EXPECTED, DATA = SHARED / "expected", SHARED / "data"


# Slow references


def slow_jaccard(truth, prediction):
    both = either = 0
    for t, p in zip(truth.ravel(), prediction.ravel(), strict=True):
        both += bool(t) and bool(p)
        either += bool(t) or bool(p)
    return both / either if either else 1.0


def slow_boundary(mask):
    height, width = mask.shape
    out = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                neighbours = [(y, x + 1)]
            if x == width - 1:
                neighbours = [(y + 1, x)]
            if (y, x) != (height - 1, width - 1):
                out[y, x] = any(bool(mask[n]) != bool(mask[y, x]) for n in neighbours)
    return out


def slow_disc(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


def slow_f(truth, prediction, tolerance):
    disc = slow_disc(math.ceil(tolerance * math.hypot(*truth.shape)))
    t, p = slow_boundary(truth), slow_boundary(prediction)
    if not t.any() and not p.any():
        return 1.0
    if not t.any() or not p.any():
        return 0.0
    precision = (p & scipy.ndimage.binary_dilation(t, disc)).sum() / p.sum()
    recall = (t & scipy.ndimage.binary_dilation(p, disc)).sum() / t.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def mask_pairs(draw, longest=14, dtype=np.bool_):
    shape = draw(st.tuples(st.integers(1, longest), st.integers(1, longest)))
    elements = st.sampled_from([0, 0, 1, 2, 3, 255]) if dtype == np.uint8 else None
    return draw(hnp.arrays(dtype, shape, elements=elements)), draw(hnp.arrays(dtype, shape, elements=elements))


def blobs(seed, shape, sigma):
    """Two smooth random masks that partly agree."""
    rng = np.random.default_rng(seed)
    first, second = (scipy.ndimage.gaussian_filter(rng.standard_normal(shape), sigma) for _ in range(2))
    return first > 0, first + 0.4 * second > 0


# Region


@given(mask_pairs())
def test_jaccard_is_the_slow_one(pair):
    assert jaccard(*pair) == slow_jaccard(*pair)


def test_jaccard_of_empty_masks():
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    assert jaccard(empty, empty) == 1
    assert jaccard(empty, full) == jaccard(full, empty) == 0
    assert jaccard(full, full) == 1


@given(mask_pairs(dtype=np.uint8), st.permutations([1, 2, 3, 9]))
def test_jaccard_per_object_is_jaccard_of_each(pair, ids):
    truth, prediction = pair
    expected = [jaccard(truth == i, prediction == i) for i in ids]
    np.testing.assert_array_equal(jaccard_per_object(truth, prediction, ids), expected)
    np.testing.assert_array_equal(jaccard_per_object(truth.T, prediction.T, ids), expected)


def test_jaccard_per_object_corner_cases():
    labels = np.array([[0, 255, 70]], np.uint8)
    np.testing.assert_array_equal(jaccard_per_object(labels, labels, [70, 5]), [1, 1])
    np.testing.assert_array_equal(jaccard_per_object(labels, np.zeros_like(labels), [70, 254]), [0, 1])
    assert jaccard_per_object(labels, labels, []).shape == (0,)
    void = np.full((1, 3), 255, np.uint8)
    np.testing.assert_array_equal(jaccard_per_object(void, void, [1]), [1])


def test_jaccard_per_object_of_a_huge_map():
    """Counts beyond 2^24, where float32 would lose the last pixel."""
    truth = np.ones((4097, 4097), np.uint8)
    prediction = truth.copy()
    prediction[0, 0] = 0
    expected = (truth.size - 1) / truth.size
    assert jaccard_per_object(truth, prediction, [1])[0] == expected
    np.testing.assert_array_equal(jaccard_pairs(truth, prediction, [1, 2], [1, 2]), [[expected, 0], [0, 1]])


# Boundary


@given(mask_pairs())
def test_boundary_is_the_slow_one(pair):
    for mask in pair:
        np.testing.assert_array_equal(boundary(mask), slow_boundary(mask))


@settings(max_examples=200)
@given(mask_pairs(), st.sampled_from([0.0, 0.008, 0.1, 0.2, 0.5, 0.99]))
def test_boundary_f_is_the_slow_one(pair, tolerance):
    assert boundary_f(*pair, tolerance) == pytest.approx(slow_f(*pair, tolerance), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(60, 130), (130, 57), (40, 64), (37, 193)])
def test_boundary_f_of_several_sizes(seed, shape):
    pair = blobs(seed, shape, sigma=1.5 + seed)
    for tolerance in (0.008, 0.03, 0.08):
        assert boundary_f(*pair, tolerance) == pytest.approx(slow_f(*pair, tolerance), abs=1e-12)


def test_boundary_f_of_small_objects_anywhere():
    """The crop to the objects' boxes is right at every border of the frame and away from it."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        pair = np.zeros((2, 40, 90), bool)
        for mask in pair:
            y, x = rng.integers(0, 40), rng.integers(0, 90)
            mask[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = True
        assert boundary_f(*pair, 0.05) == pytest.approx(slow_f(*pair, 0.05), abs=1e-12)


@pytest.mark.parametrize("radius", [*range(20), 31, 64, 70, 150])
def test_near_is_within_the_disc(radius):
    """One pixel at a corner or in the middle against every place around it: near by the squared distance."""
    shape = (75, 140)
    y, x = np.mgrid[: shape[0], : shape[1]]
    tolerance = (radius - 0.5) / math.hypot(*shape) if radius else 0.0
    if tolerance >= 1:
        pytest.skip("larger than the frame")
    for place in ((20, 30), (37, 71), (73, 138)):
        point, everything = np.zeros(shape, bool), (x + y) % 2 == 0
        point[place] = True
        edges, around = np.argwhere(slow_boundary(point)), slow_boundary(everything)
        near = np.zeros(shape, bool)
        for py, px in edges:
            near |= (y - py) ** 2 + (x - px) ** 2 <= radius * radius
        precision, recall = near[around].mean(), 1.0
        expected = 2 * precision * recall / (precision + recall)
        assert boundary_f(point, everything, tolerance) == pytest.approx(expected, abs=1e-12)


def test_boundary_f_of_empty_masks():
    empty, full, some = np.zeros((9, 9), bool), np.ones((9, 9), bool), np.zeros((9, 9), bool)
    some[3:5, 3:5] = True
    assert boundary_f(empty, empty) == boundary_f(full, full) == boundary_f(full, empty) == 1  # no boundary in either
    assert boundary_f(empty, some) == boundary_f(some, empty) == boundary_f(full, some) == 0
    assert boundary_f(some, some) == 1
    far = np.zeros((9, 9), bool)
    far[8, 0] = True
    assert boundary_f(some, far) == 0


# Both, of every pair of objects


def check_pairs(truth, prediction, truth_ids, prediction_ids, tolerance):
    j = [[jaccard(truth == t, prediction == p) for p in prediction_ids] for t in truth_ids]
    f = [[boundary_f(truth == t, prediction == p, tolerance) for p in prediction_ids] for t in truth_ids]
    ids = truth_ids, prediction_ids
    shape = len(truth_ids), len(prediction_ids)
    np.testing.assert_array_equal(jaccard_pairs(truth, prediction, *ids), np.reshape(j, shape))
    np.testing.assert_array_equal(boundary_f_pairs(truth, prediction, *ids, tolerance), np.reshape(f, shape))


@given(
    mask_pairs(dtype=np.uint8),
    st.permutations([1, 2, 3, 9]),
    st.lists(st.sampled_from([1, 2, 3, 7, 255]), max_size=4),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_pairs_are_each_pair_alone(pair, truth_ids, prediction_ids, tolerance):
    check_pairs(*pair, truth_ids, prediction_ids, tolerance)
    check_pairs(pair[0].T, pair[1].T, prediction_ids, truth_ids, tolerance)


@pytest.mark.parametrize("shape", [(60, 130), (37, 193)])
def test_pairs_of_several_sizes(shape):
    rng = np.random.default_rng(0)
    maps = [
        np.argmax([scipy.ndimage.gaussian_filter(rng.standard_normal(shape), 4) for _ in range(5)], 0) for _ in range(2)
    ]
    check_pairs(*(m.astype(np.uint8) for m in maps), [1, 2, 4], [1, 2, 3, 4, 5], 0.03)


def test_pairs_of_objects_anywhere():
    rng = np.random.default_rng(0)
    for _ in range(50):
        maps = np.zeros((2, 40, 90), np.uint8)
        for labels in maps:
            for i in (1, 2):
                y, x = rng.integers(0, 40), rng.integers(0, 90)
                labels[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = i
        check_pairs(*maps, [1, 2], [1, 2, 3], 0.05)


def test_pairs_refusals():
    labels = np.zeros((4, 5), np.uint8)
    for measure in (jaccard_pairs, boundary_f_pairs, lambda a, b, ids, _: jaccard_per_object(a, b, ids)):
        for wrong in (np.zeros((5, 4), np.uint8), np.zeros((4, 5), np.int64), labels[None], labels[:0]):
            for pair in ((labels, wrong), (wrong, labels)):
                with pytest.raises(ShapeError):
                    measure(*pair, [1], [1])
        for ids in ([0], [256], [-1]):
            with pytest.raises(ShapeError, match="ids"):
                measure(labels, labels, ids, [1])
    for measure in (jaccard_pairs, boundary_f_pairs):
        with pytest.raises(ShapeError, match="ids"):
            measure(labels, labels, [1], [0])
    with pytest.raises(ShapeError, match="tolerance"):
        boundary_f_pairs(labels, labels, [1], [1], 1.0)


# Both


@given(mask_pairs())
def test_symmetric_and_right_for_any_memory(pair):
    """Order, strides, and booleans stored as 255, as Pillow gives them, change nothing."""
    truth, prediction = pair
    stored = (prediction.view(np.uint8) * np.uint8(255)).view(bool)
    strided = np.repeat(np.repeat(truth, 2, 0), 3, 1)[::2, ::3]
    for measure in (jaccard, boundary_f):
        expected = measure(truth, prediction)
        assert 0 <= expected <= 1
        assert measure(prediction, truth) == pytest.approx(expected, abs=1e-15)
        assert measure(truth, stored) == measure(strided, stored) == expected
        assert measure(np.asfortranarray(truth), prediction) == expected
    np.testing.assert_array_equal(boundary(stored).view(np.uint8), boundary(prediction).view(np.uint8))


def test_arguments_are_not_written_to():
    pair = blobs(0, (30, 40), 2)
    copies = [mask.copy() for mask in pair]
    for mask in pair:
        mask.flags.writeable = False
    jaccard(*pair), boundary_f(*pair), boundary(pair[0])
    jaccard_per_object(pair[0].view(np.uint8), pair[1].view(np.uint8), [1])
    for mask, copy in zip(pair, copies, strict=True):
        np.testing.assert_array_equal(mask, copy)


def test_refusals():
    mask = np.zeros((4, 5), bool)
    for wrong in (
        np.zeros((5, 4), bool),
        np.zeros((4, 5), np.uint8),
        np.zeros((1, 4, 5), bool),
        np.zeros((0, 5), bool),
    ):
        for measure in (jaccard, boundary_f):
            for pair in ((mask, wrong), (wrong, mask)):
                with pytest.raises(ShapeError):
                    measure(*pair)
    for wrong in (np.zeros((4, 5), np.uint8), np.zeros(4, bool), np.zeros((4, 0), bool)):
        with pytest.raises(ShapeError):
            boundary(wrong)
    for tolerance in (-0.1, 1, 8, math.nan):
        with pytest.raises(ShapeError, match="tolerance"):
            boundary_f(mask, mask, tolerance)


# Statistics


def slow_statistics(values, width=None):
    """The reference, line by line; `width` is the number of values its edges can hold."""
    edges = [round(1 + i * (len(values) - 1) / 4 + 1e-10) - 1 for i in range(5)]
    if width:
        edges = [edge % width for edge in edges]
    quarters = [list(values)[edges[i] : edges[i + 1] + 1] for i in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decay = np.nanmean(quarters[0]) - np.nanmean(quarters[3])
        return np.nanmean(values), sum(v > 0.5 for v in values) / len(values), decay


@given(st.lists(st.floats(0, 1) | st.just(math.nan) | st.just(0.5), min_size=1, max_size=40))
def test_statistics_are_the_slow_ones(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = mean_recall_decay(values)
    np.testing.assert_allclose(got, slow_statistics(values), atol=1e-12)
    np.testing.assert_array_equal(mean_recall_decay(np.array(values), reference_fault=True), got)


@pytest.mark.parametrize("count", [255, 256, 257, 300, 343, 344, 512, 513, 1000])
def test_statistics_of_long_sequences(count):
    values = np.linspace(1, 0, count) ** 2
    np.testing.assert_allclose(mean_recall_decay(values), slow_statistics(values), atol=1e-12)
    faulty = mean_recall_decay(values, reference_fault=True)
    np.testing.assert_allclose(faulty, slow_statistics(values, 256), atol=1e-12)
    assert (faulty.decay == mean_recall_decay(values).decay) == (count <= 256)


def test_recall_is_strict_and_counts_frames_without_a_value():
    assert mean_recall_decay([0.5, 0.5000001, 1.0, 0.0]).recall == 0.5
    assert mean_recall_decay([math.nan, 1.0])[:2] == (1.0, 0.5)
    assert mean_recall_decay([0.7]) == (0.7, 1.0, 0.0)


def test_statistics_refusals():
    for wrong in ([], np.zeros((2, 3)), np.float64(1)):
        with pytest.raises(ShapeError):
            mean_recall_decay(wrong)


# The official code's numbers


def check_object(expected, j, f):
    np.testing.assert_allclose(j, expected["J"], atol=1e-6)
    np.testing.assert_allclose(f, expected["F"], atol=1e-6)
    for letter, values in (("J", j), ("F", f)):
        official = [expected[f"{letter}_{name}"] for name in "MRD"]
        np.testing.assert_allclose(mean_recall_decay(values), official, atol=1e-6)
        np.testing.assert_allclose(mean_recall_decay(values, reference_fault=True), official, atol=1e-6)


@pytest.mark.parametrize(
    "sequence", ["bmx-bumps", "drift-turn"]
)  # all eight agree; these two have small objects and misses
def test_official_davis2016(sequence):
    truth = DATA / "davis2016-dev-480p" / "Annotations" / sequence
    prediction = EXPECTED / "predictions-dev" / sequence
    if not (truth.is_dir() and prediction.is_dir()):
        pytest.skip(f"needs {truth} and {prediction}, which are not part of the repository")
    expected = json.loads((EXPECTED / "davis2016-dev.json").read_text())["sequences"][sequence]
    j, f = [], []
    for frame in expected["frames"]:
        pair = [np.asarray(Image.open(folder / f"{frame}.png")) != 0 for folder in (truth, prediction)]
        j.append(jaccard(*pair))
        f.append(boundary_f(*pair))
    check_object(expected["objects"]["1"], j, f)


@pytest.mark.parametrize(("right", "down"), [(3, 2), (7, 5)])
def test_official_schoolgirls(right, down):
    folder = DATA / "davis2017-multi-240p" / "Annotations" / "schoolgirls"
    golden = EXPECTED / f"schoolgirls-shift-{right}-{down}.json"
    if not (folder.is_dir() and golden.is_file()):
        pytest.skip(f"needs {folder} and {golden}, which are not part of the repository")
    expected = json.loads(golden.read_text())["sequences"]["schoolgirls"]
    ids = [int(i) for i in expected["objects"]]
    assert len(ids) == 7
    j, f = [], []
    for frame in expected["frames"]:
        truth = np.asarray(Image.open(folder / f"{frame}.png"))
        prediction = np.zeros_like(truth)
        prediction[down:, right:] = truth[:-down, :-right]
        j.append(jaccard_per_object(truth, prediction, ids))
        f.append([boundary_f(truth == i, prediction == i) for i in ids])
    for k, i in enumerate(ids):
        check_object(expected["objects"][str(i)], [row[k] for row in j], [row[k] for row in f])

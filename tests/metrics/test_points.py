"""Joints read off heat maps, and PCK, against loops over frames and joints as the published code has them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matchcut.errors import ShapeError
from matchcut.metrics import joint_distances, joint_positions, pck


def slow_positions(heat, size, top):
    out = []
    for joint in heat:
        cells = [(value, y, x) for (y, x), value in np.ndenumerate(joint)]
        best = sorted(cells, key=lambda cell: -cell[0])[:top]
        total = sum(value for value, _, _ in best)
        if total == 0:
            out.append((math.nan, math.nan))
            continue
        x = sum(value * x for value, _, x in best) / total
        y = sum(value * y for value, y, _ in best) / total
        out.append((x * size[1] / joint.shape[1], y * size[0] / joint.shape[0]))
    return np.reshape(out, (len(heat), 2))


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5)),
        elements=st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32),
    ),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.integers(1, 6),
)
def test_positions_are_the_slow_ones(heat, size, top):
    np.testing.assert_allclose(joint_positions(heat, size, top), slow_positions(heat, size, top), atol=1e-6)


def test_position_of_one_peak_and_of_none():
    heat = np.zeros((2, 40, 40), np.float32)
    heat[0, 10, 20] = 0.3
    np.testing.assert_array_equal(joint_positions(heat, (240, 320)), [[160, 60], [math.nan, math.nan]])
    heat[0, 10, 24] = 0.1
    np.testing.assert_allclose(joint_positions(heat, (240, 320))[0], [168, 60], rtol=1e-6)


def slow_distances(truth, prediction, visible):
    out = np.full(truth.shape[:2], math.nan)
    for t in range(truth.shape[0]):
        joints = [n for n in range(truth.shape[1]) if visible[t, n]]
        if not joints:
            continue
        xs, ys = ([truth[t, n, axis] for n in joints] for axis in (0, 1))
        box = 0.6 * math.hypot(max(xs) - min(xs), max(ys) - min(ys))
        for n in joints:
            out[t, n] = math.dist(truth[t, n], prediction[t, n]) / box if box else math.inf
    return out


@st.composite
def videos(draw):
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    points = hnp.arrays(np.float64, (*shape, 2), elements=st.integers(-3, 40).map(float))
    prediction = draw(points)
    lost = draw(hnp.arrays(np.bool_, shape))
    prediction[lost] = draw(st.sampled_from([math.nan, -1.0]))
    return draw(points), prediction


@given(videos())
def test_distances_and_pck_are_the_slow_ones(video):
    truth, prediction = video
    expected = slow_distances(truth, prediction, prediction[..., 0] >= 0)
    got = joint_distances(truth, prediction)
    np.testing.assert_allclose(got, expected, rtol=1e-12)

    alphas = [0.1, 0.5, 1.0, 2.0]
    score = pck(got, alphas)
    for a, alpha in enumerate(alphas):
        shares = []
        for column in got.T:
            counted = [d for d in column if not math.isnan(d)]
            shares.append(sum(d <= alpha for d in counted) / len(counted) if counted else math.nan)
        np.testing.assert_array_equal(score.per_joint[a], shares)
        used = [share for share in shares if not math.isnan(share)]
        assert score.mean[a] == pytest.approx(sum(used) / len(used) if used else math.nan, nan_ok=True)


def test_visible_can_be_given():
    truth = np.array([[[0, 0], [30, 40], [1000, 1000]]], float)
    prediction = np.array([[[3, 0], [30, 40], [0, 0]]], float)
    got = joint_distances(truth, prediction, np.array([[True, True, False]]))
    np.testing.assert_allclose(got, [[0.1, 0, math.nan]])  # the box is that of the first two, 30 x 40: 0.6 x 50 = 30


def test_a_box_of_one_point_is_wrong_however_near():
    truth = np.full((1, 2, 2), 7.0)
    np.testing.assert_array_equal(joint_distances(truth, truth), [[math.inf, math.inf]])


def test_the_mean_is_over_joints_not_over_counts():
    """A joint seen once weighs as much as one seen four times; at most alpha is right; alphas as published."""
    distances = np.array([[0.0, 0.1], [0.9, math.nan], [0.9, math.nan], [0.3, math.nan]])
    score = pck(distances)
    np.testing.assert_array_equal(score.per_joint, [[0.25, 1], [0.25, 1], [0.5, 1], [0.5, 1], [0.5, 1]])
    np.testing.assert_array_equal(score.mean, [0.625, 0.625, 0.75, 0.75, 0.75])


def test_refusals():
    heat = np.ones((2, 3, 4))
    for wrong in (heat[0], heat[:, :0], -heat, heat * math.nan, heat * math.inf):
        with pytest.raises(ShapeError, match="heat"):
            joint_positions(wrong, (10, 10))
    for size, top in (((0, 5), 3), ((5, 0), 3), ((5, 5), 0)):
        with pytest.raises(ShapeError, match="at least 1"):
            joint_positions(heat, size, top)
    points = np.ones((3, 4, 2))
    for wrong in (points[:2], points[0], np.ones((3, 4, 3))):
        with pytest.raises(ShapeError):
            joint_distances(points, wrong)
    with pytest.raises(ShapeError):
        joint_distances(np.ones((3, 4, 3)), np.ones((3, 4, 3)))
    for visible in (np.ones((3, 3), bool), np.ones((3, 4))):
        with pytest.raises(ShapeError, match="visible"):
            joint_distances(points, points, visible)
    for pair in ((points * math.nan, points), (points, points * math.inf)):
        with pytest.raises(ShapeError, match="finite"):
            joint_distances(*pair)
    with pytest.raises(ShapeError, match="distances"):
        pck(np.zeros(3))

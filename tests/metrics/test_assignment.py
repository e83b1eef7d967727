"""Automatic multi-object DAVIS: against every assignment tried, on the masks themselves."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matchcut.errors import ShapeError
from matchcut.metrics import MAX_PROPOSALS, assign_proposals, boundary_f, jaccard


def slow_assign(frames):
    """The reference's task, step by step; all best assignments, each as (proposals, J, F)."""
    count = int(np.where(frames[0][0] == 255, 0, frames[0][0]).max())
    labels = list(range(1, max(int(prediction.max()) for _, prediction in frames) + 1))
    labels += [0] * (count - len(labels))
    scores = {}
    for k in range(1, count + 1):
        for n, label in enumerate(labels):
            pairs = []
            for truth, prediction in frames:
                seen = truth != 255
                mask = (prediction == label) & seen if label else np.zeros(truth.shape, bool)
                pairs.append(((truth == k) & seen, mask))
            scores[k, n] = [jaccard(*pair) for pair in pairs], [boundary_f(*pair) for pair in pairs]
    totals = {}
    for choice in permutations(range(len(labels)), count):
        totals[choice] = sum(np.mean(scores[k + 1, n]) for k, n in enumerate(choice))
    best = max(totals.values())
    return [
        ([labels[n] for n in choice], *([scores[k + 1, n][m] for k, n in enumerate(choice)] for m in (0, 1)))
        for choice, total in totals.items()
        if total > best - 1e-9
    ]


@st.composite
def videos(draw, truths=(0, 0, 1, 2, 3, 255), predictions=(0, 0, 1, 2, 3, 4)):
    shape = draw(st.tuples(st.integers(2, 8), st.integers(2, 8)))
    maps = [hnp.arrays(np.uint8, shape, elements=st.sampled_from(values)) for values in (truths, predictions)]
    return draw(st.lists(st.tuples(*maps), min_size=1, max_size=3))


@settings(max_examples=60)
@given(videos() | videos(predictions=(0, 1)))
def test_assign_is_the_best_of_all(frames):
    got = assign_proposals(iter(frames))
    for proposals, j, f in slow_assign(frames):  # more than one where they tie
        if list(got.proposals) == proposals:
            shape = len(proposals), len(frames)
            np.testing.assert_array_equal(got.j, np.reshape(j, shape))
            np.testing.assert_array_equal(got.f, np.reshape(f, shape))
            break
    else:
        pytest.fail(f"{got.proposals} is not a best assignment")


def squares(*places, size=(40, 60)):
    labels = np.zeros(size, np.uint8)
    for label, y, x in places:
        labels[y : y + 8, x : x + 8] = label
    return labels


def test_labels_need_not_agree():
    truth = squares((1, 2, 2), (2, 2, 30), (3, 25, 30))
    prediction = squares((7, 2, 2), (20, 2, 30), (1, 25, 30), (4, 25, 5))
    got = assign_proposals([(truth, prediction)] * 3)
    np.testing.assert_array_equal(got.proposals, [7, 20, 1])
    np.testing.assert_array_equal(got.j, np.ones((3, 3)))
    np.testing.assert_array_equal(got.f, np.ones((3, 3)))


def test_an_object_left_over_is_scored_against_an_empty_mask():
    """It gets 0 where it is, and 1 where it is not; and no proposal serves two objects."""
    truth, later = squares((1, 2, 2), (2, 2, 30)), squares((1, 2, 2))
    got = assign_proposals([(truth, squares((1, 2, 30))), (later, np.zeros_like(later))])
    np.testing.assert_array_equal(got.proposals, [0, 1])
    np.testing.assert_array_equal(got.j, [[0, 0], [1, 1]])
    np.testing.assert_array_equal(got.f, [[0, 0], [1, 1]])


def test_the_first_frame_says_how_many_objects():
    first, second = squares((2, 2, 2)), squares((2, 2, 2), (3, 25, 30))
    got = assign_proposals([(first, first), (second, squares((2, 2, 2)))])
    np.testing.assert_array_equal(got.j, np.ones((2, 2)))  # object 1 is never there, object 3 is none
    assert got.proposals[1] == 2
    empty = assign_proposals([(np.zeros_like(first), second), (second, second)])
    assert [part.shape for part in empty] == [(0,), (0, 2), (0, 2)]


def test_void_is_ignored():
    """What is predicted there does not count against J or F, and what is not predicted there neither."""
    truth = squares((1, 2, 2))
    prediction = truth.copy()
    prediction[25:30, 10:50] = 1
    assert assign_proposals([(truth, prediction)]).j[0, 0] < 1
    truth[25:30, 10:50] = 255
    got = assign_proposals([(truth, prediction)])
    assert got.j[0, 0] == got.f[0, 0] == 1


def test_refusals():
    labels = squares((1, 2, 2))
    assert assign_proposals([(labels, labels * np.uint8(MAX_PROPOSALS))]).proposals == [MAX_PROPOSALS]
    for label in (MAX_PROPOSALS + 1, 255):
        with pytest.raises(ShapeError, match="frame 1: at most 20 proposals"):
            assign_proposals([(labels, labels), (labels, labels * np.uint8(label))])
    for wrong in ([], [(labels, labels[:-1])], [(labels.astype(int), labels)]):
        with pytest.raises(ShapeError):
            assign_proposals(wrong)

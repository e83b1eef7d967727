"""Segments and references: which frame is filled from where, and what it may look at."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matchcut.models.base import MemoryPolicy
from matchcut.tracking.memory import Segment, Slot, reference_frames, segments

quick = settings(max_examples=200)


@st.composite
def videos(draw, most=40):
    """(length, annotated, entering)."""
    length = draw(st.integers(1, most))
    annotated = sorted(draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=8)))
    entering = [frame for frame in annotated[1:] if draw(st.booleans())]
    return length, annotated, entering


policies = st.builds(
    MemoryPolicy,
    context=st.integers(0, 7),
    every=st.integers(1, 3),
    annotated=st.integers(2, 5),
    start=st.sampled_from(["after", "from", "repeat"]),
)


def in_order(annotated, length, entering=()):
    """(segment, frame) in the order of propagation."""
    return [(segment, frame) for segment in segments(annotated, length, entering) for frame in segment.frames()]


# --- segments


@quick
@given(videos())
def test_each_frame_that_is_not_wholly_annotated_is_in_exactly_one_segment(video):
    length, annotated, entering = video
    filled = [frame for _, frame in in_order(annotated, length, entering)]
    assert len(filled) == len(set(filled))
    assert set(filled) == set(range(length)) - set(annotated) | set(entering)


@quick
@given(videos())
def test_a_segment_walks_from_an_annotated_frame_without_a_gap_and_over_no_other(video):
    length, annotated, entering = video
    for segment in segments(annotated, length, entering):
        frames = list(segment.frames())
        assert segment.anchor in annotated and abs(segment.step) == 1
        assert frames[0] == segment.anchor + segment.step and frames[-1] == segment.last
        assert not set(frames[:-1]) & set(annotated)
        assert segment.last not in annotated or (segment.last in entering and segment.step == 1)


@quick
@given(videos())
def test_an_entering_frame_is_the_end_of_the_segment_of_the_annotated_frame_before(video):
    length, annotated, entering = video
    at = {frame: segment for segment, frame in in_order(annotated, length, entering)}
    for frame in entering:
        before = annotated[annotated.index(frame) - 1]
        assert at[frame] == Segment(before, 1, frame)


@quick
@given(videos())
def test_each_other_frame_comes_from_the_nearest_annotated_one_and_of_two_from_the_earlier(video):
    length, annotated, _ = video
    for segment, frame in in_order(annotated, length):
        nearest = min(annotated, key=lambda one: (abs(one - frame), one))
        assert segment.anchor == nearest


def test_segments_of_known_videos():
    assert segments([0], 5) == [Segment(0, 1, 4)]
    assert segments([4], 5) == [Segment(4, -1, 0)]
    assert segments([2], 5) == [Segment(2, -1, 0), Segment(2, 1, 4)]
    assert segments([0, 4], 6) == [Segment(0, 1, 2), Segment(4, -1, 3), Segment(4, 1, 5)]
    assert segments([0, 4], 6, [4]) == [Segment(0, 1, 4), Segment(4, 1, 5)]
    assert segments([0, 1, 2], 3) == [] and segments([0], 1) == [] and segments([], 5) == []


def test_for_a_model_with_a_state_frames_come_from_the_annotated_one_before():
    assert segments([0, 4], 6, forward=True) == [Segment(0, 1, 3), Segment(4, 1, 5)]
    assert segments([2, 4], 6, forward=True) == [Segment(2, -1, 0), Segment(2, 1, 3), Segment(4, 1, 5)]
    assert segments([0, 4], 6, [4], forward=True) == [Segment(0, 1, 4), Segment(4, 1, 5)]


# --- references


@quick
@given(videos(), policies)
def test_references_lie_behind_the_frame_on_its_anchors_side(video, policy):
    length, annotated, entering = video
    for segment, frame in in_order(annotated, length, entering):
        for use in reference_frames(frame, segment.anchor, segment.step, annotated, policy):
            assert 0 <= use.frame < length
            assert (frame - use.frame) * segment.step > 0, "a reference that propagation has not come to"
            assert use.frame in annotated if use.annotated else (use.frame - segment.anchor) * segment.step >= 0


@quick
@given(videos(), policies)
def test_references_are_annotated_or_computed_when_they_are_needed(video, policy):
    length, annotated, entering = video
    known = set(annotated) - set(entering)
    for segment, frame in in_order(annotated, length, entering):
        for use in reference_frames(frame, segment.anchor, segment.step, annotated, policy):
            # What a backward segment sees of an entering frame is the tracker's business: its other objects come later.
            assert use.frame in known or (use.annotated and segment.step == -1 and use.frame in entering)
        known.add(frame)


@quick
@given(videos(), policies)
def test_memory_is_bounded_and_always_holds_the_anchor_and_the_very_first(video, policy):
    length, annotated, entering = video
    for segment, frame in in_order(annotated, length, entering):
        uses = reference_frames(frame, segment.anchor, segment.step, annotated, policy)
        given_by_hand = [use.frame for use in uses if use.annotated]
        assert len(given_by_hand) <= policy.annotated and len(uses) - len(given_by_hand) <= policy.context
        assert len(set(given_by_hand)) == len(given_by_hand)
        assert segment.anchor in given_by_hand
        assert (annotated[0] if segment.step == 1 else annotated[-1]) in given_by_hand
        side = sorted(
            (one for one in annotated if (segment.anchor - one) * segment.step >= 0), key=segment.step.__mul__
        )
        assert (
            given_by_hand
            == ([side[0]] if len(side) >= policy.annotated else [])
            + side[-policy.annotated :][1 if len(side) >= policy.annotated else 0 :]
        )


def test_one_annotated_frame_is_the_anchor():
    policy = MemoryPolicy(context=1, annotated=1)
    assert Slot(40, True) in reference_frames(42, 40, 1, [0, 20, 40], policy)


@pytest.mark.parametrize("annotated", [1, 2])
def test_the_bound_holds_for_the_smallest_policies(annotated):
    uses = reference_frames(82, 80, 1, list(range(0, 81, 10)), MemoryPolicy(context=2, annotated=annotated))
    assert sum(use.annotated for use in uses) <= max(1, annotated)


@quick
@given(videos(), policies)
def test_a_frame_near_its_anchor_starts_as_the_policy_says(video, policy):
    length, annotated, entering = video
    for segment, frame in in_order(annotated, length, entering):
        context = [
            use.frame
            for use in reference_frames(frame, segment.anchor, segment.step, annotated, policy)
            if not use.annotated
        ]
        ago = abs(frame - segment.anchor)
        remembered = [n for n in range(policy.context, 0, -1) if n <= policy.every or (ago - n) % policy.every == 0]
        if policy.start == "after":
            expected = [frame - segment.step * n for n in remembered if n < ago]
        elif policy.start == "from":
            expected = [frame - segment.step * n for n in remembered if n <= ago]
        else:
            expected = [frame - segment.step * min(n, ago) for n in remembered]
        assert context == expected


@quick
@given(videos(), policies)
def test_what_a_frame_does_not_see_no_later_one_sees(video, policy):
    """The tracker forgets it, and a run that is resumed has no other frames."""
    length, annotated, entering = video
    for segment in segments(annotated, length, entering):
        forgotten, last = set(), set()
        for frame in segment.frames():
            context = {
                use.frame
                for use in reference_frames(frame, segment.anchor, segment.step, annotated, policy)
                if not use.annotated
            }
            forgotten |= last - context
            assert not forgotten & context
            last = context | {frame}


def test_a_sparse_context_is_of_one_length_and_reaches_as_far_back():
    policy = MemoryPolicy(9, every=3, start="repeat")
    context = [[use.frame for use in reference_frames(frame, 0, 1, [0], policy)[1:]] for frame in (2, 20, 21, 22)]
    assert context == [[0, 0, 0, 0, 1], [12, 15, 17, 18, 19], [12, 15, 18, 19, 20], [15, 18, 19, 20, 21]]


@quick
@given(videos(), policies, st.data())
def test_what_a_frame_sees_depends_on_nothing_beyond_its_side(video, policy, data):
    """Annotations on the far side, and how long the segment or the video is, change nothing: streams rely on it."""
    length, annotated, _ = video
    found = segments(annotated, length)
    if not found:
        return
    segment = data.draw(st.sampled_from(found))
    frame = data.draw(st.sampled_from(list(segment.frames())))
    uses = reference_frames(frame, segment.anchor, segment.step, annotated, policy)
    assert reference_frames(frame, segment.anchor, segment.step, tuple(annotated), policy) == uses
    side = [one for one in annotated if (segment.anchor - one) * segment.step >= 0]
    beyond = data.draw(st.sets(st.integers(1, 50)))
    more = sorted({*side, *(segment.anchor + segment.step * far for far in beyond)})
    assert reference_frames(frame, segment.anchor, segment.step, more, policy) == uses


def test_references_of_a_known_frame():
    policy = MemoryPolicy(context=2, annotated=3)
    forward = reference_frames(45, 40, 1, [0, 10, 20, 40, 80], policy)
    assert forward == [Slot(0, True), Slot(20, True), Slot(40, True), Slot(43, False), Slot(44, False)]
    backward = reference_frames(39, 40, -1, [0, 20, 40, 80, 90, 95], policy)
    assert backward == [Slot(95, True), Slot(80, True), Slot(40, True)]
    again = reference_frames(41, 40, 1, [40], MemoryPolicy(context=2, start="repeat"))
    assert again == [Slot(40, True), Slot(40, False), Slot(40, False)]

"""The record of a video: annotations in and out, what becomes stale, and what is written."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scenes import SIZE, film, low, right

from matchcut.errors import MaskError, MatchcutError, OutputError, PromptError
from matchcut.masks import read_mask
from matchcut.tracking.memory import Segment
from matchcut.tracking.timeline import Timeline
from matchcut.video.reader import Video

COUNT = 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of two squares, and its true label maps."""
    path, truth = film(tmp_path_factory.mktemp("clip") / "clip.mkv", COUNT, {1: right, 2: low})
    with Video(path) as video:
        yield video, truth


def painted(*ids, size=SIZE):
    """A label map with a block of each id."""
    labels = np.zeros(size, np.uint8)
    for number in ids:
        at = number % 8 * 8
        labels[4:20, at : at + 6] = number
    return labels


def pretend_to_fill(timeline, confidence=0.5):
    """Every stale frame gets a mask, as a tracker would give it."""
    for segment, first, last, made in timeline.stretches():
        for frame in range(first, last + segment.step, segment.step):
            labels, over = painted(*timeline.objects(segment.anchor)), timeline.annotations.get(frame)
            timeline.put(frame, labels, {1: confidence}, made, laid_over=over)


# --- annotating


@pytest.mark.parametrize("stored", ["memory", "folder"])
def test_annotations_come_back_as_they_were(clip, tmp_path, stored):
    timeline = Timeline(clip[0], tmp_path if stored == "folder" else None)
    assert len(timeline) == COUNT and timeline.annotated == [] and timeline.objects() == []
    assert timeline.stale() == [] and timeline.labels(3) is None and list(timeline) == [None] * COUNT
    for frame, labels in ((7, painted(1, 2)), (3, painted(1, 254, 255)), (-1, painted(1))):
        timeline.annotate(frame, labels)
        np.testing.assert_array_equal(timeline.annotation(frame % COUNT), labels)
        np.testing.assert_array_equal(timeline.labels(frame), labels)
    assert timeline.annotated == [3, 7, COUNT - 1] and timeline.objects() == [1, 2, 254]
    assert timeline.confidence[7] == {1: 1.0, 2: 1.0, 254: 1.0}  # 254 surely not: frame 3 had it, 7 has it not
    timeline.annotate(7, painted(3))
    assert timeline.annotated == [3, 7, COUNT - 1] and timeline.objects() == [1, 3, 254]
    np.testing.assert_array_equal(timeline.labels(7), painted(3))


FORMS = {
    "bool": lambda one: one > 0,
    "0 and 255": lambda one: 255 * one,
    "0 and 65535": lambda one: one.astype(np.uint16) * 65535,
    "whole numbers": lambda one: one.astype(np.int64),
    "floats that are whole": lambda one: one.astype(np.float32),
    "one channel": lambda one: one[..., None],
    "rows of another order": lambda one: one[::-1].copy()[::-1],
    "tensor": torch.from_numpy,
    "bool tensor": lambda one: torch.from_numpy(one)[None] > 0,
    "tensor with a gradient": lambda one: torch.from_numpy(one).float().requires_grad_(),
    "PIL, grey": lambda one: Image.fromarray(255 * one),
    "PIL, colour": lambda one: Image.fromarray(one[..., None] * np.array([0, 200, 0], np.uint8)),
    "PIL, bits": lambda one: Image.fromarray(one > 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_in_any_plain_form_is_taken(clip, form):
    timeline = Timeline(clip[0])
    timeline.annotate(np.int64(2), FORMS[form](painted(1)))
    assert timeline.annotated == [2]
    np.testing.assert_array_equal(timeline.annotation(2), painted(1))


def test_what_is_annotated_stays_when_the_array_changes(clip):
    labels, timeline = painted(1, 255), Timeline(clip[0])
    timeline.annotate(0, labels)
    labels[:] = 7
    np.testing.assert_array_equal(timeline.labels(0), painted(1, 255))


@pytest.mark.parametrize(
    "labels, got",
    [
        (painted(1) * 0.4, "0 to 0.4: make it one first, as mask > 0.5"),
        (painted(1) * np.nan, "float64"),
        (painted(1).astype(np.int16) * -1, "int16, -1 to 0"),
        (painted(1).astype(np.int32) * 300, "int32, 0 to 300"),
        (np.stack([painted(1)] * 3, 2), r"an array of shape \(48, 64, 3\), uint8, 0 to 1; of a picture in colours"),
        (torch.zeros(2, *SIZE), r"a tensor of shape \(2, 48, 64\)"),
        (np.zeros((0, 0)), "none of its pixels"),
        (np.full(SIZE, "a"), r"shape \(48, 64\)"),
        ([[1, 2], [3]], "a list of 2"),
        (None, "None"),
        (1, "int 1"),
    ],
)
def test_what_is_no_mask_is_described(clip, labels, got):
    with pytest.raises(MaskError, match=rf"^the mask for frame 2: expected a label map \(H, W\).*got .*{got}"):
        Timeline(clip[0]).annotate(2, labels)


@pytest.mark.parametrize("frame", ["00002", 2.0, True, None])
def test_a_frame_that_is_no_number_is_refused(clip, frame):
    with pytest.raises(PromptError, match="expected a frame's number, got"):
        Timeline(clip[0]).annotate(frame, painted(1))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, COUNT - 1), st.sets(st.integers(1, 6), min_size=1)), min_size=1, max_size=6))
def test_folder_and_memory_agree(clip, tmp_path_factory, acts):
    folder = tmp_path_factory.mktemp("masks")
    both = Timeline(clip[0]), Timeline(clip[0], folder)
    for frame, ids in acts:
        for timeline in both:
            timeline.annotate(frame, painted(*ids))
    for timeline in both:
        timeline.write_annotations()
        pretend_to_fill(timeline)
    inside, outside = both
    assert inside.stale() == outside.stale() == []
    assert inside.confidence == outside.confidence and inside.objects() == outside.objects()
    for frame, (one, other) in enumerate(zip(inside, outside, strict=True)):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, read_mask(folder / f"{frame:05d}.png"))


def test_what_cannot_be_annotated(clip):
    timeline = Timeline(clip[0])
    with pytest.raises(MaskError, match=r"the mask for frame 2: the mask is 10x10 but the frames are 64x48"):
        timeline.annotate(2, painted(1, size=(40, 40))[:10, :10].copy())
    with pytest.raises(MaskError, match=r"frame 2.*no object"):
        timeline.annotate(2, np.zeros(SIZE, np.uint8))
    with pytest.raises(MatchcutError, match="label map"):
        timeline.annotate(2, np.zeros((*SIZE, 3), np.uint8))
    for frame in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"frame {frame}: the video has frames 0 to {COUNT - 1}"):
            timeline.annotate(frame, painted(1))
    assert timeline.annotated == [] and timeline.labels(2) is None
    with pytest.raises(KeyError):
        timeline.drop(2)
    with pytest.raises(KeyError):
        timeline.annotation(2)
    with pytest.raises(IndexError):
        timeline.labels(COUNT)


def test_a_frame_that_all_objects_have_left_may_be_annotated_once_there_is_an_object(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(0, painted(1))
    timeline.annotate(9, np.zeros(SIZE, np.uint8))
    assert timeline.annotated == [0, 9] and timeline.annotations.entering == set() and timeline.objects() == [1]
    timeline.drop(0)
    with pytest.raises(MaskError, match="no object"):
        timeline.annotate(9, np.zeros(SIZE, np.uint8))


def test_a_folder_that_cannot_be_written_to(clip, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        timeline = Timeline(clip[0], tmp_path / "file" / "masks")
        timeline.annotate(0, painted(1))
        timeline.write_annotations()


# --- objects, entering frames, segments


def test_a_frame_can_show_what_was_annotated_at_or_before_it(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(4, painted(1, 2))
    timeline.annotate(10, painted(5))
    assert [timeline.objects(frame) for frame in (0, 3, 4, 9, 10, 19)] == [[1, 2]] * 4 + [[1, 2, 5]] * 2
    assert timeline.objects() == [1, 2, 5]


def test_only_annotations_of_nothing_but_new_objects_enter(clip):
    timeline = Timeline(clip[0])
    for frame, ids in ((2, [1]), (5, [2, 3]), (8, [3, 4]), (11, []), (14, [6])):
        timeline.annotate(frame, painted(*ids))
    assert timeline.annotations.entering == {5, 14}
    assert [segment for segment, _ in timeline.plan()] == [
        *(Segment(2, -1, 0), Segment(2, 1, 5)),  # up to the frame where 2 and 3 enter
        *(
            Segment(5, 1, 6),
            Segment(8, -1, 7),
            Segment(8, 1, 9),
            Segment(11, -1, 10),
            Segment(11, 1, 14),
            Segment(14, 1, 19),
        ),
    ]
    timeline.annotate(2, painted(1, 2, 3))
    assert timeline.annotations.entering == {14}


def test_an_entering_object_is_laid_over_what_is_found_of_the_others(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(0, painted(1))
    timeline.annotate(6, painted(2))
    found = painted(1)
    found[:, 16:19] = 1  # reaches into the new object, which wins there
    timeline.put(6, found, {1: 0.7}, timeline.plan()[0][1], laid_over=timeline.annotations[6])
    labels = timeline.labels(6)
    assert (labels[painted(2) > 0] == 2).all() and (labels[painted(1) > 0] == 1).all()
    np.testing.assert_array_equal(timeline.annotation(6), painted(2))
    assert timeline.confidence[6] == {1: 0.7, 2: 1.0}


# --- stale frames


def test_everything_is_stale_until_filled_and_an_annotated_frame_never(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(8, painted(1))
    assert timeline.stale() == [frame for frame in range(COUNT) if frame != 8]
    timeline.put(7, painted(1), {1: 0.5}, timeline.plan()[0][1])
    assert 7 not in timeline.stale()
    pretend_to_fill(timeline)
    assert timeline.stale() == []


def test_a_correction_makes_stale_what_it_is_nearest_to(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(0, painted(1))
    pretend_to_fill(timeline)
    timeline.annotate(10, painted(1))
    assert timeline.stale() == [6, 7, 8, 9, *range(11, COUNT)]
    pretend_to_fill(timeline)
    timeline.annotate(16, painted(1))
    backwards_from_10 = [6, 7, 8, 9]  # they see 16 too: it lies behind them
    assert timeline.stale() == [*backwards_from_10, 14, 15, 17, 18, 19]
    pretend_to_fill(timeline)
    timeline.drop(16)  # its own mask is again the one that was found there before
    assert timeline.stale() == [*backwards_from_10, 14, 15, 17, 18, 19]
    pretend_to_fill(timeline)
    timeline.annotate(0, painted(1))
    assert timeline.stale() == []  # the same again changes nothing
    timeline.annotate(0, painted(1, 255))  # all that goes forwards remembers it, what goes backwards does not
    assert timeline.stale() == [1, 2, 3, 4, 5, *range(11, COUNT)]


def test_a_later_annotation_of_one_object_of_several_is_no_entering(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(0, painted(1, 2))
    pretend_to_fill(timeline)
    timeline.annotate(10, painted(2))
    assert timeline.annotations.entering == set() and 5 not in timeline.stale() and 6 in timeline.stale()


def test_an_object_that_enters_leaves_the_frames_before_as_they_are(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(0, painted(1))
    pretend_to_fill(timeline)
    timeline.annotate(10, painted(2))
    assert timeline.stale() == list(range(10, COUNT))  # in 10 itself, 1 is to be found


def test_dropping_an_object_that_entered_leaves_the_frames_before_as_they_are(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(0, painted(1))
    timeline.annotate(10, painted(2))
    pretend_to_fill(timeline)
    timeline.drop(10)
    assert timeline.stale() == list(range(10, COUNT))


def test_dropping_and_saying_again_makes_stale(clip):
    timeline = Timeline(clip[0])
    timeline.annotate(0, painted(1))
    pretend_to_fill(timeline)
    timeline.drop(0)
    assert timeline.annotated == []
    timeline.annotate(0, painted(2))
    assert timeline.stale() == list(range(1, COUNT))


@settings(max_examples=60)
@given(
    st.dictionaries(st.integers(0, COUNT - 1), st.just(1), min_size=1, max_size=5),
    st.integers(0, COUNT - 1),
    st.booleans(),
)
def test_exactly_the_frames_whose_dependencies_changed_are_stale(clip, annotated, act, drop):
    """Of one object, where nothing enters: a mask depends on its segment's direction and the annotations behind it."""

    def depends(timeline):
        return {
            frame: (
                segment.anchor,
                segment.step,
                tuple(a for a in timeline.annotated if (segment.anchor - a) * segment.step >= 0),
            )
            for segment, _ in timeline.plan()
            for frame in segment.frames()
        }

    timeline = Timeline(clip[0])
    for frame in annotated:
        timeline.annotate(frame, painted(1))
    pretend_to_fill(timeline)
    before = depends(timeline)
    if drop:
        act = timeline.annotated[act % len(timeline.annotated)]
        timeline.drop(act)
    else:
        timeline.annotate(act, painted(1, 255))
    after = depends(timeline)
    expected = [f for f, what in after.items() if what != before.get(f) or (act in what[2])]
    assert timeline.stale() == sorted(expected)


# --- what it says and writes


def test_the_weakest_frame_is_where_the_least_sure_object_is_least_sure(clip):
    timeline = Timeline(clip[0])
    assert timeline.weakest() is None
    timeline.annotate(0, painted(1, 2))
    assert timeline.weakest() is None
    _, made = timeline.plan()[0]
    for frame, confidence in ((3, {1: 0.9, 2: 0.5}), (4, {1: 0.4, 2: 0.99}), (5, {1: 0.4, 2: 0.4}), (6, {})):
        timeline.put(frame, painted(1), confidence, made)
    assert timeline.weakest() == 4
    timeline.annotate(4, painted(1, 2))
    assert timeline.weakest() == 5


@pytest.mark.parametrize("stored", ["memory", "folder"])
def test_save_writes_masks_and_a_record(clip, tmp_path, stored):
    video, _ = clip
    (tmp_path / "masks").mkdir()
    timeline = Timeline(video, tmp_path / "masks" if stored == "folder" else None)
    timeline.annotate(2, painted(1, 7))
    pretend_to_fill(timeline, 0.25)
    timeline.save(tmp_path, model="mine")
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [f"{frame:05d}.png" for frame in range(COUNT)]
    for frame in range(COUNT):
        np.testing.assert_array_equal(read_mask(tmp_path / "masks" / f"{frame:05d}.png"), timeline.labels(frame))
    record = json.loads((tmp_path / "timeline.json").read_text())
    assert record["input"] == video.source and record["size"] == list(SIZE) and record["frame_rate"] == 25
    assert record["frames"] == COUNT and record["model"] == "mine" and record["objects"] == [1, 7]
    assert record["annotations"] == [{"frame": 2, "name": "00002", "objects": [1, 7]}]
    assert record["most_needs_correction"] == "00000"
    assert record["confidence"]["00002"] == {"1": 1.0, "7": 1.0} and record["confidence"]["00005"] == {"1": 0.25}
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["masks", "timeline.json"]
    assert record["files"] == [*(f"masks/{index:05d}.png" for index in range(COUNT)), "timeline.json"]


def test_save_of_a_timeline_that_is_not_filled_writes_what_there_is(clip, tmp_path):
    timeline = Timeline(clip[0])
    timeline.annotate(2, painted(1))
    timeline.save(tmp_path / "new" / "folder")
    assert [path.name for path in (tmp_path / "new" / "folder" / "masks").iterdir()] == ["00002.png"]


def test_save_video_draws_the_objects_where_they_are(clip, tmp_path):
    video, truth = clip
    timeline = Timeline(video)
    timeline.annotate(0, truth[0])
    timeline.save_video(tmp_path / "overlay.mp4")
    with Video(tmp_path / "overlay.mp4") as drawn:
        assert len(drawn) == COUNT and drawn.size == SIZE
        changed = np.abs(drawn[0].astype(int) - video[0]).sum(2)
        assert changed[truth[0] == 1].mean() > 3 * changed[truth[0] == 0].mean()
    for path in (tmp_path / "overlay.avi", tmp_path / "nowhere" / "overlay.mp4"):
        with pytest.raises(OutputError):
            timeline.save_video(path)
        assert not path.exists()

"""Masks through real video files with a small model: every way to the same masks, and what is kept on the way."""

import gc
import weakref
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scenes import FIVE, SIZE, CarryModel, ColourModel, Policy, SwapModel, film, iou, lossless, low, right, scene

from matchcut.errors import MaskError, ModelError, OutputError
from matchcut.models.base import GuidedModel, MemoryPolicy
from matchcut.refinement import confidence_of, cubic, guided, linear
from matchcut.tracking import tracker as tracker_module
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.reader import Video

COUNT = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of two squares, and its true label maps."""
    path, truth = film(tmp_path_factory.mktemp("clip") / "clip.mkv", COUNT, {1: right, 2: low})
    with Video(path) as video:
        yield video, truth


def tracked(video, annotations, model=None, **options):
    timeline = Timeline(video)
    for frame, labels in annotations.items():
        timeline.annotate(frame, labels)
    Tracker(model or ColourModel(), device="cpu", **options).fill(timeline)
    return timeline


def only(labels, *ids):
    return np.where(np.isin(labels, ids), labels, 0).astype(np.uint8)


def assert_same(one, other):
    for frame, (a, b) in enumerate(zip(one, other, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"frame {frame}")


def assert_good(timeline, truth, ids, frames=None, least=0.6):
    for frame in frames if frames is not None else range(len(truth)):
        for number in ids:
            assert iou(timeline.labels(frame), truth[frame], number) > least, (frame, number)


# --- filling


@pytest.mark.parametrize("at", [0, 13, COUNT - 1])
def test_fills_forwards_and_backwards_from_any_frame(clip, at):
    video, truth = clip
    timeline = tracked(video, {at: truth[at]})
    assert_good(timeline, truth, (1, 2))
    np.testing.assert_array_equal(timeline.labels(at), truth[at])
    assert timeline.stale() == []


def test_the_model_need_not_know_the_package(clip):
    model = ColourModel()
    assert isinstance(model, GuidedModel) and type(model).__mro__[1:] == (object,)
    steps = []
    timeline = Timeline(clip[0])
    timeline.annotate(0, clip[1][0])
    Tracker(model, device="cpu").fill(timeline, lambda done, total: steps.append((done, total)))
    assert steps == [(done, COUNT - 1) for done in range(1, COUNT)]
    assert model.segmented == COUNT - 1 and model.encoded == COUNT  # features once a frame


def test_what_is_shown_may_be_other_than_what_is_remembered(clip, tmp_path, often):
    video, truth = clip
    plain, swapped = (tracked(video, {0: truth[0]}, model()) for model in (ColourModel, SwapModel))
    for frame in range(1, COUNT):
        np.testing.assert_array_equal(swapped.labels(frame), np.array([0, 2, 1])[plain.labels(frame)])
    broken, _ = interrupted(video, tmp_path / "masks", {0: truth[0]}, 9, SwapModel)
    assert_same(broken, swapped)


def test_each_frame_has_a_confidence_of_each_object(clip):
    video, truth = clip
    timeline = tracked(video, {0: only(truth[0], 1), 12: only(truth[12], 2), 20: truth[20]})
    assert sorted(timeline.confidence) == list(range(COUNT))
    for frame, sure in timeline.confidence.items():
        assert set(timeline.objects(frame)) <= set(sure)
        assert all(0 <= value <= 1 for value in sure.values())
    assert timeline.confidence[20] == {1: 1.0, 2: 1.0}


def test_confidence_names_the_objects_that_a_frame_can_show(clip):
    video, truth = clip
    timeline = tracked(video, {0: only(truth[0], 1), 12: only(truth[12], 2), 20: only(truth[20], 1)})
    assert {frame: sorted(sure) for frame, sure in timeline.confidence.items()} == {
        frame: timeline.objects(frame) for frame in range(COUNT)
    }


def test_an_object_that_is_lost_makes_the_confidence_fall(tmp_path):
    """The square fades into the background: the frame that most needs a correction is one of the faded ones."""
    frames, truth = zip(*(scene(index, {1: lambda i: (i, 10)}) for index in range(20)), strict=True)
    faded = [frame.copy() for frame in frames]
    for index in range(8, 12):
        faded[index][truth[index] == 1] = np.mean([frames[0][truth[0] == 1][0], [105, 105, 105]], axis=0)
    with Video(lossless(tmp_path / "faded.mkv", faded)) as video:
        timeline = tracked(video, {0: truth[0]}, ColourModel(sharpness=20.0))
    assert timeline.weakest() in range(8, 12)


def test_five_objects_take_one_pass(tmp_path):
    path, truth = film(tmp_path / "five.mkv", 12, FIVE)
    one, five = ColourModel(), ColourModel()
    with Video(path) as video:
        tracked(video, {0: only(truth[0], 1)}, one)
        timeline = tracked(video, {0: truth[0]}, five)
        assert_good(timeline, truth, (1, 2, 3, 4, 5))
    assert (five.segmented, five.encoded) == (one.segmented, one.encoded)


def test_ids_need_not_be_consecutive(clip):
    video, truth = clip
    ids = np.array([0, 9, 254], np.uint8)
    timeline = tracked(video, {0: ids[truth[0]]})
    plain = tracked(video, {0: truth[0]})
    for found, expected in zip(timeline, plain, strict=True):
        np.testing.assert_array_equal(found, ids[expected])
    assert set(timeline.confidence[9]) == {9, 254}


def test_nothing_annotated_is_an_error(clip):
    with pytest.raises(MaskError, match="nothing to track"):
        Tracker(ColourModel(), device="cpu").fill(Timeline(clip[0]))


# --- corrections


def test_a_correction_runs_only_stale_frames_again_and_gives_what_a_fresh_run_gives(clip):
    video, truth = clip
    model = ColourModel()
    tracker = Tracker(model, device="cpu")
    timeline = Timeline(video)
    timeline.annotate(0, truth[0])
    tracker.fill(timeline)
    for frame in (20, 28, 9, 0):  # the last is a first frame said again, otherwise
        labels = truth[frame] if frame else only(truth[0], 1)
        timeline.annotate(frame, labels)
        stale, model.segmented = len(timeline.stale()), 0
        assert 0 < stale < COUNT - 1
        tracker.fill(timeline)
        assert model.segmented == stale
        assert_same(timeline, tracked(video, {at: timeline.annotation(at) for at in timeline.annotated}))
    model.segmented = 0
    tracker.fill(timeline)
    assert model.segmented == 0


def test_dropping_a_correction_gives_what_was_there_before(clip):
    video, truth = clip
    timeline = tracked(video, {0: truth[0]})
    before = list(timeline)
    tracker = Tracker(ColourModel(), device="cpu")
    timeline.annotate(14, only(truth[14], 2))
    tracker.fill(timeline)
    assert any(not np.array_equal(a, b) for a, b in zip(before, timeline, strict=True))
    timeline.drop(14)
    tracker.fill(timeline)
    assert_same(timeline, before)
    assert timeline.confidence == tracked(video, {0: truth[0]}).confidence


def test_dropping_a_correction_runs_only_stale_frames_again(clip):
    video, truth = clip
    timeline = tracked(video, {0: truth[0], 14: truth[14]})
    timeline.drop(14)
    stale, model = len(timeline.stale()), ColourModel()
    Tracker(model, device="cpu").fill(timeline)
    assert model.segmented == stale


ACTS = st.lists(st.tuples(st.integers(0, COUNT - 1), st.sampled_from([(1, 2), (1,), (2,)]), st.booleans()), max_size=6)


@settings(max_examples=15)
@given(ACTS, st.sampled_from([Policy(), Policy(0), Policy(1, 2, "from"), Policy(5, 3, "repeat")]), st.booleans())
@example(acts=[(0, (1,), True), (1, (2,), False), (1, (1, 2), False)], policy=Policy(3, 4, "after"), ends=True)
def test_after_any_corrections_only_stale_frames_run_again_and_give_what_a_fresh_run_gives(clip, acts, policy, ends):
    """Each act says what a frame shows, or takes it back where that was said; a run may follow or not."""
    video, truth = clip
    start, model = (0, COUNT - 1)[ends], ColourModel(policy)
    tracker = Tracker(model, device="cpu")
    timeline = tracked(video, {start: truth[start]}, ColourModel(policy))
    for frame, ids, run in [*acts, (start, (1, 2), True)]:
        if frame in timeline.annotated and frame != start:
            timeline.drop(frame)
        else:
            timeline.annotate(frame, only(truth[frame], *ids))
        if run:
            stale, model.segmented = len(timeline.stale()), 0
            tracker.fill(timeline)
            assert model.segmented == stale and timeline.stale() == []
            annotations = {at: timeline.annotation(at) for at in timeline.annotated}
            fresh = tracked(video, annotations, ColourModel(policy))
            assert_same(timeline, fresh)
            assert timeline.confidence == fresh.confidence


@pytest.mark.parametrize("stored", ["memory", "folder"])
def test_a_correction_taken_back_before_it_ran_costs_nothing(clip, tmp_path, stored):
    video, truth = clip
    timeline = Timeline(video, tmp_path if stored == "folder" else None)
    timeline.annotate(0, truth[0])
    model = ColourModel()
    tracker = Tracker(model, device="cpu")
    tracker.fill(timeline)
    before, model.segmented = list(timeline), 0
    for frame in (9, 20):
        timeline.annotate(frame, only(truth[frame], 2))
        timeline.drop(frame)
    assert timeline.stale() == []
    tracker.fill(timeline)
    assert model.segmented == 0
    assert_same(timeline, before)
    if stored == "folder":  # what was kept on the way lies elsewhere
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{frame:05d}.png" for frame in range(COUNT)]


def test_a_run_after_a_drop_that_is_stopped_goes_on_where_it_was(clip):
    video, truth = clip
    timeline = tracked(video, {0: truth[0], 14: only(truth[14], 2)})
    timeline.drop(14)
    with pytest.raises(StoppedError):
        Tracker(ColourModel(), device="cpu").fill(timeline, stop_at(9))
    stale, model = len(timeline.stale()), ColourModel()
    assert 0 < stale < COUNT - 14
    Tracker(model, device="cpu").fill(timeline)
    assert model.segmented == stale
    assert_same(timeline, tracked(video, {0: truth[0]}))


@pytest.mark.parametrize("reason", ["disk full", "not kept"])
@pytest.mark.parametrize("kind", [ColourModel, CarryModel])
def test_where_no_soft_masks_are_kept_the_segment_runs_again_whole(clip, reason, kind):
    video, truth = clip
    timeline = Timeline(video, correctable=reason != "not kept")
    if reason == "disk full":
        timeline._soft._base.execute("PRAGMA max_page_count = 2")  # room for a frame or two
    timeline.annotate(0, truth[0])
    timeline.annotate(14, truth[14])
    Tracker(kind(), device="cpu").fill(timeline)
    timeline.drop(14)
    model = kind()
    Tracker(model, device="cpu").fill(timeline)
    assert model.segmented == COUNT - 1
    assert_same(timeline, tracked(video, {0: truth[0]}, kind()))


# --- objects that enter, leave and come back


def enters(index):
    """Comes into the picture at frame 8."""
    return None if index < 8 else (min(4 * (index - 8) - 12, 30), 28)


def test_an_object_enters_where_it_is_annotated(tmp_path):
    path, truth = film(tmp_path / "enters.mkv", 24, {1: right, 2: enters})
    with Video(path) as video:
        timeline = tracked(video, {0: truth[0], 14: only(truth[14], 2)})
    assert_good(timeline, truth, (1,))
    assert_good(timeline, truth, (2,), range(14, 24))
    assert not any((timeline.labels(frame) == 2).any() for frame in range(14))


def test_an_object_entering_may_be_corrected_and_dropped(clip):
    video, truth = clip
    tracker = Tracker(ColourModel(), device="cpu")
    timeline = tracked(video, {0: only(truth[0], 1), 10: only(truth[10], 2)})
    wrong = only(truth[10], 2)
    wrong[:34] = 0
    for labels in (wrong, only(truth[10], 2)):
        timeline.annotate(10, labels)
        tracker.fill(timeline)
        assert_same(timeline, tracked(video, {0: only(truth[0], 1), 10: labels}))
    assert (timeline.labels(10) == 1).any()
    timeline.drop(10)
    tracker.fill(timeline)
    assert_same(timeline, tracked(video, {0: only(truth[0], 1)}))


ENTERING_BEHIND = "BUG: a backward chain sees an entering frame behind it before the other objects are found there"


def test_an_object_that_enters_later_does_not_disturb_the_others_backwards(clip):
    """At 16 the map says nothing of object 1; taken as background there, it is lost in the frames before 10."""
    video, truth = clip
    timeline = tracked(video, {10: only(truth[10], 1), 16: only(truth[16], 2)})
    assert_good(timeline, truth, (1,))


def test_masks_do_not_depend_on_the_order_of_annotating_where_an_object_enters(clip):
    video, truth = clip
    tracker = Tracker(ColourModel(), device="cpu")
    timeline = tracked(video, {16: only(truth[16], 1), 20: only(truth[20], 2)})
    timeline.annotate(4, truth[4])
    tracker.fill(timeline)
    timeline.drop(4)
    tracker.fill(timeline)
    assert_same(timeline, tracked(video, {16: only(truth[16], 1), 20: only(truth[20], 2)}))


def test_an_object_that_vanishes_comes_back(tmp_path):
    def comes_and_goes(index):
        return None if 8 <= index < 16 else (20, 8 + index % 8)

    path, truth = film(tmp_path / "back.mkv", 24, {1: comes_and_goes, 2: low})
    with Video(path) as video:
        timeline = tracked(video, {0: truth[0]})
    gone = range(8, 16)
    assert not any((timeline.labels(frame) == 1).any() for frame in gone)
    assert_good(timeline, truth, (1,), [frame for frame in range(24) if frame not in gone])
    assert_good(timeline, truth, (2,))
    assert all(timeline.confidence[frame][1] > 0.5 for frame in gone)  # surely absent


# --- streaming


@pytest.mark.parametrize("policy", [Policy(), Policy(0), Policy(2, 2, "from"), Policy(4, 3, "repeat")])
def test_a_stream_gives_what_fill_gives(clip, policy):
    video, truth = clip
    filled = tracked(video, {0: truth[0]}, ColourModel(policy))
    pairs = list(Tracker(ColourModel(policy), device="cpu").stream(iter(video), {0: truth[0]}))
    assert [index for index, _ in pairs] == list(range(COUNT))
    assert_same([labels for _, labels in pairs], filled)


@pytest.mark.parametrize("most", [2, 3, 4])
def test_a_stream_in_which_objects_enter_gives_what_fill_gives(tmp_path, most):
    path, truth = film(tmp_path / "five.mkv", 25, FIVE)
    given_at = {frame: only(truth[frame], number) for frame, number in ((3, 1), (7, 2), (8, 3), (15, 4), (20, 5))}
    with Video(path) as video:
        # Before the first annotated frame only `fill` has masks, and a stream starts there.
        short = Video(path, start=3)
        filled = tracked(short, {frame - 3: labels for frame, labels in given_at.items()}, ColourModel(Policy(3, most)))
        pairs = list(Tracker(ColourModel(Policy(3, most)), device="cpu").stream(iter(video), given_at))
    assert [index for index, _ in pairs] == list(range(3, 25))
    assert_same([labels for _, labels in pairs], filled)


def test_a_correction_in_a_stream_counts_from_its_frame_on(clip):
    video, truth = clip
    annotations = {0: truth[0]}
    plain = dict(Tracker(ColourModel(), device="cpu").stream(iter(video), annotations))
    found = {}
    for index, labels in Tracker(ColourModel(), device="cpu").stream(iter(video), annotations):
        found[index] = labels
        if index == 11:  # while it runs: looked up when the frame comes
            annotations[12] = only(truth[12], 1)
    assert all(np.array_equal(found[frame], plain[frame]) for frame in range(12))
    np.testing.assert_array_equal(found[12], only(truth[12], 1))
    assert (plain[13] == 2).sum() > (found[13] == 2).sum()
    assert all(iou(found[frame], truth[frame], 1) > 0.6 for frame in range(12, COUNT))


def test_a_stream_without_annotations_gives_nothing_and_a_wrong_one_is_refused(clip):
    video, truth = clip
    tracker = Tracker(ColourModel(), device="cpu")
    assert list(tracker.stream(iter(video), {})) == []
    with pytest.raises(MaskError, match=r"the mask for frame 2: the mask is 64x40"):
        list(tracker.stream(iter(video), {2: truth[2][:40].copy()}))


# --- bounded memory


@pytest.mark.parametrize("route", ["fill", "backwards", "stream"])
def test_references_kept_do_not_grow_with_the_video(tmp_path, route):
    alive, most = weakref.WeakSet(), [0]

    class Counting(ColourModel):
        def remember(self, features, masks, annotated=False):
            kept = super().remember(features, masks, annotated)
            alive.add(kept)
            most[0] = max(most[0], len(alive))
            return kept

    frames = 300
    path, truth = film(tmp_path / "long.mkv", frames, {1: lambda index: (index % 16, 4)}, (24, 32))
    policy = Policy(context=4, annotated=3)
    model = Counting(policy)
    given_at = {0: truth[0], **{frame: truth[frame] for frame in (20, 40, 60, 80, 100, 150)}}
    if route == "backwards":
        given_at = {frames - 1: truth[-1]}
    gc.collect()
    with Video(path) as video:
        if route == "stream":
            count = sum(1 for _ in Tracker(model, device="cpu").stream(iter(video), given_at))
            assert count == frames
        else:
            tracked(video, given_at, model)
    assert model.most <= policy.context + policy.annotated
    assert most[0] <= policy.context + policy.annotated + 2


# --- interruption


class StoppedError(Exception):
    pass


def stop_at(step):
    def progress(done, total):
        if done == step:
            raise StoppedError

    return progress


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(tracker_module, "EVERY", 4)


def interrupted(video, folder, annotations, step, make, **options):
    """Masks of a run that is stopped after `step` frames and gone on with by a new process's objects."""
    folder.mkdir(exist_ok=True)
    checkpoint = folder.parent / f"{folder.name}.safetensors"
    for progress in (stop_at(step), None):
        timeline = Timeline(video, folder)
        for frame, labels in annotations.items():
            timeline.annotate(frame, labels)
        model = make()
        if progress is None:
            assert checkpoint.exists() == (step > 4)
            Tracker(model, device="cpu", **options).fill(timeline, checkpoint=checkpoint)
        else:
            with pytest.raises(StoppedError):
                Tracker(model, device="cpu", **options).fill(timeline, progress, checkpoint)
    assert not checkpoint.exists() and timeline.stale() == []
    return timeline, model


@pytest.mark.parametrize("at", [[0], [COUNT - 1], [13], [5, 24], [0, 12, 29]])
@pytest.mark.parametrize("step", [2, 9, 21])
def test_an_interrupted_run_goes_on_to_the_same_masks(clip, tmp_path, often, at, step):
    video, truth = clip
    annotations = {frame: truth[frame] for frame in at}
    unbroken = tracked(video, annotations)
    timeline, model = interrupted(video, tmp_path / "masks", annotations, step, ColourModel)
    assert_same(timeline, unbroken)
    assert timeline.confidence == unbroken.confidence
    assert step < 5 or model.segmented < COUNT - len(at)


@pytest.mark.parametrize("policy", [Policy(0), Policy(1, 2), Policy(3, 4, "from"), Policy(6, 4, "repeat")])
@pytest.mark.parametrize("step", [6, 17])
def test_an_interrupted_run_goes_on_with_any_policy(clip, tmp_path, often, policy, step):
    video, truth = clip
    annotations = {10: truth[10], 24: truth[24]}
    unbroken = tracked(video, annotations, ColourModel(policy))
    timeline, _ = interrupted(video, tmp_path / "masks", annotations, step, lambda: ColourModel(policy))
    assert_same(timeline, unbroken)


@pytest.mark.parametrize("step", [6])
def test_an_interrupted_run_goes_on_before_an_object_enters(clip, tmp_path, often, step):
    video, truth = clip
    annotations = {0: only(truth[0], 1), 10: only(truth[10], 2)}
    timeline, _ = interrupted(video, tmp_path / "masks", annotations, step, ColourModel)
    assert_same(timeline, tracked(video, annotations))


def test_an_interrupted_run_goes_on_after_an_object_entered(clip, tmp_path, often):
    video, truth = clip
    annotations = {0: only(truth[0], 1), 10: only(truth[10], 2)}
    timeline, _ = interrupted(video, tmp_path / "masks", annotations, 20, ColourModel)
    assert_same(timeline, tracked(video, annotations))


def test_an_interrupted_run_goes_on_with_what_the_model_carries(clip, tmp_path, often):
    video, truth = clip
    timeline, _ = interrupted(video, tmp_path / "masks", {0: truth[0]}, 18, CarryModel)
    assert_same(timeline, tracked(video, {0: truth[0]}, CarryModel()))


def test_an_annotation_may_be_dropped_after_a_run_that_was_interrupted(clip, tmp_path, often):
    video, truth = clip
    annotations = {0: truth[0], 14: only(truth[14], 2)}
    timeline, model = interrupted(video, tmp_path / "masks", annotations, 9, ColourModel)
    timeline.drop(14)
    Tracker(model, device="cpu").fill(timeline)
    assert_same(timeline, tracked(video, {0: truth[0]}))


def test_the_same_objects_go_on_after_an_interruption(clip):
    """In one process, without a checkpoint: what was put stays, and the rest is filled."""
    video, truth = clip
    timeline = Timeline(video)
    timeline.annotate(12, truth[12])
    tracker = Tracker(ColourModel(), device="cpu")
    with pytest.raises(StoppedError):
        tracker.fill(timeline, stop_at(15))
    assert 0 < len(timeline.stale()) < COUNT - 1
    tracker.fill(timeline)
    assert_same(timeline, tracked(video, {12: truth[12]}))


def checkpointed(video, truth, folder, **options):
    (folder / "masks").mkdir(exist_ok=True)
    timeline = Timeline(video, folder / "masks")
    timeline.annotate(0, truth[0])
    with pytest.raises(StoppedError):
        tracker = Tracker(ColourModel(), device="cpu", **options)
        tracker.fill(timeline, stop_at(10), folder / "run.safetensors")
    return timeline, folder / "run.safetensors"


@pytest.mark.parametrize("other", ["prompt", "frame", "size", "policy", "video", "model"])
def test_a_checkpoint_of_another_run_is_refused(clip, tmp_path, often, other):
    video, truth = clip
    _, checkpoint = checkpointed(video, truth, tmp_path)
    before = checkpoint.read_bytes()
    if other == "video":
        video = Video(video.source, start=1)
    timeline = Timeline(video)
    timeline.annotate(1 if other == "frame" else 0, only(truth[0], 1) if other == "prompt" else truth[0])
    model = CarryModel() if other == "model" else ColourModel()
    options = {"size": 24} if other == "size" else {"policy": MemoryPolicy(5)} if other == "policy" else {}
    with pytest.raises(OutputError, match=r"interrupted run of another input, prompt or setting"):
        Tracker(model, device="cpu", **options).fill(timeline, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_checkpoint_starts_the_run_anew(clip, tmp_path, often, damage):
    video, truth = clip
    _, checkpoint = checkpointed(video, truth, tmp_path)
    data = checkpoint.read_bytes()
    checkpoint.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"not a checkpoint" * 9}[damage])
    fresh = Timeline(video, tmp_path / "masks")
    fresh.annotate(0, truth[0])
    Tracker(ColourModel(), device="cpu").fill(fresh, checkpoint=checkpoint)
    assert_same(fresh, tracked(video, {0: truth[0]}))


def test_a_checkpoint_may_lie_in_the_way_of_nothing(clip, tmp_path):
    timeline = Timeline(clip[0])
    timeline.annotate(0, clip[1][0])
    Tracker(ColourModel(), device="cpu").fill(timeline, checkpoint=tmp_path / "never.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_in_the_video_comes_out_of_fill(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    from PIL import Image

    for index in range(8):
        Image.fromarray(scene(index, {1: right})[0]).save(folder / f"{index}.png")
    data = (folder / "5.png").read_bytes()
    timeline = Timeline(Video(folder))
    (folder / "5.png").write_bytes(data[: len(data) // 2])
    timeline.annotate(0, scene(0, {1: right})[1])
    tracker = Tracker(ColourModel(), device="cpu")
    with pytest.raises(Exception, match=r"5\.png: cannot be read") as caught:
        tracker.fill(timeline)
    assert type(caught.value).__name__ == "VideoError" and timeline.stale() == [5, 6, 7]
    (folder / "5.png").write_bytes(data)
    tracker.fill(timeline)
    assert timeline.stale() == []


# --- sizes, devices, pieces


@pytest.mark.parametrize("size", [(33, 47), (64, 40), (17, 90), (8, 8), (5, 40)])
def test_masks_have_the_size_of_odd_frames(tmp_path, size):
    labels = np.zeros(size, np.uint8)
    labels[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 3
    frames = [np.where(labels[..., None] > 0, 250, 40).astype(np.uint8).repeat(3, 2)] * 6
    from PIL import Image

    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    with Video(tmp_path) as video:
        timeline = tracked(video, {2: labels}, size=16)
        assert all(one.shape == size and set(np.unique(one)) <= {0, 3} for one in timeline)


@pytest.mark.parametrize(("size", "seen"), [(None, SIZE), (24, (24, 32)), (48, SIZE), (96, (96, 128)), (33, (33, 44))])
def test_frames_are_brought_to_the_working_size(clip, size, seen):
    video, truth = clip
    model = ColourModel()
    timeline = tracked(video, {0: truth[0]}, model, size=size)
    assert model.shapes == {seen} and timeline.labels(5).shape == SIZE


def test_the_model_may_state_its_size_and_the_tracker_another(clip):
    video, truth = clip
    for size, seen in ((None, (24, 32)), (36, (36, 48))):
        model = ColourModel()
        model.spec.size = 24
        tracked(video, {0: truth[0]}, model, size=size)
        assert model.shapes == {seen}


def test_unknown_devices_and_precisions_are_named():
    with pytest.raises(ModelError, match="device 'toaster' cannot be used here"):
        Tracker(ColourModel(), device="toaster")
    with pytest.raises(ModelError, match="unknown precision 'float8'; there are auto, float32, bfloat16"):
        Tracker(ColourModel(), precision="float8")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda' cannot be used here"):
            Tracker(ColourModel(), device="cuda")


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_labels_and_confidence_of_any_soft_masks(objects, height, width, seed, smooth, stretch):
    soft = np.random.default_rng(seed).dirichlet([0.3] * (objects + 1), (height, width)).transpose(2, 0, 1)
    soft = np.ascontiguousarray(soft, np.float32)
    ids = list(range(7, 7 + objects))
    how = cubic if smooth else linear
    labels, sure = how(soft, ids, np.zeros((height * 5, width * 3, 3), np.uint8), stretch=stretch)
    assert labels.shape == (height * 5, width * 3) and labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, *ids}
    assert list(sure) == ids and all(0 <= value <= 1 for value in sure.values())
    same_size, _ = cubic(soft, ids, np.zeros((height, width, 3), np.uint8))
    np.testing.assert_array_equal(same_size, np.array([0, *ids])[soft.argmax(0)])


@pytest.mark.parametrize("size", [(120, 160), (117, 163), (90, 250)])
def test_masks_are_enlarged_along_the_edges_of_the_frame(size):
    """The cells say roughly where two discs are, the frame exactly; what is between pixels and cells shifts nothing."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    truth = np.zeros(size, np.uint8)
    for number, across in ((4, 0.25), (9, 0.7)):
        truth[np.hypot(y - size[0] / 2, x - across * size[1]) < 25] = number
    colours = np.array([[90, 90, 90]] * 4 + [[200, 60, 60]] * 5 + [[60, 60, 200]])
    frame = np.clip(colours[truth] + rng.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)
    cells = [cv2.resize((truth == one).astype(np.float32), (20, 15), interpolation=cv2.INTER_AREA) for one in (0, 4, 9)]
    soft = np.stack(cells)
    assert (guided(soft, [4, 9], frame)[0] != truth).sum() < 0.5 * (cubic(soft, [4, 9], frame)[0] != truth).sum()


def test_confidence_of_sure_and_unsure_masks():
    sure = np.zeros((3, 4, 4), np.float32)
    sure[1, :2], sure[0, 2:] = 1, 1
    assert confidence_of(sure, [1, 2]) == {1: 1.0, 2: 1.0}  # 2 is surely absent
    half = np.full((2, 4, 4), 0.5, np.float32)
    assert confidence_of(half, [1]) == {1: 0.5}


@pytest.mark.parametrize("refined", [linear, cubic, guided])
def test_what_looks_like_ignored_pixels_is_no_object(clip, refined):
    """What is unknown in the annotation votes for nothing, so that nothing has most votes where it goes."""
    video, truth = clip
    labels, model = truth[0].copy(), ColourModel()
    labels[truth[0] == 2] = 255
    model.how = refined
    timeline = tracked(video, {0: labels}, model)
    assert_good(timeline, truth, (1,), range(1, COUNT))
    assert all(set(np.unique(timeline.labels(frame))) <= {0, 1} for frame in range(1, COUNT))


def test_seconds_are_counted_by_stage(clip):
    video, truth = clip
    timeline = Timeline(video)
    timeline.annotate(0, truth[0])
    tracker = Tracker(ColourModel(), device="cpu")
    tracker.fill(timeline)
    assert {"read", "learn", "encode", "match", "refine", "write"} <= set(tracker.seconds)


def test_a_network_is_put_on_the_device_and_in_evaluation_mode(clip):
    video, truth = clip

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner = ColourModel()
            self.drop, self.spec = torch.nn.Dropout(0.9), inner.spec
            self.remember, self.segment, self.refine = inner.remember, inner.segment, inner.refine
            self.fingerprint, self.adapt = inner.fingerprint, lambda annotated, ids: self

        def encode(self, frame):
            return self.inner.encode(SimpleNamespace(image=self.drop(frame.image)))

    assert_same(tracked(video, {0: truth[0]}, Network()), tracked(video, {0: truth[0]}))


def test_stand_ins_of_the_reference_are_enough(clip):
    """A reference needs `features` and `values`, no class of ours."""
    video, truth = clip

    class Loose(ColourModel):
        def remember(self, features, masks, annotated=False):
            return SimpleNamespace(**vars(super().remember(features, masks, annotated)))

    assert_same(tracked(video, {5: truth[5]}, Loose()), tracked(video, {5: truth[5]}))

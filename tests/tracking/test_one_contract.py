"""A model of one's own through every way to masks: all of them give the same."""

import subprocess
import sys
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from forty_lines import Recurrent
from PIL import Image
from scenes import film, low, right

import matchcut
from matchcut.masks import read_mask, write_mask
from matchcut.models.base import GuidedModel
from matchcut.tracking.timeline import Timeline

COUNT = 24
SAMPLE = Path(__file__).parent / "forty_lines.py"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path, truth = film(tmp_path_factory.mktemp("clip") / "clip.mkv", COUNT, {1: right, 2: low})
    return path, truth


def only(labels, *ids):
    return np.where(np.isin(labels, ids), labels, 0).astype(np.uint8)


def given_of(truth):
    """An object at the start, one that enters, and a correction."""
    return {0: only(truth[0], 1), 9: only(truth[9], 2), 15: truth[15]}


def tracker():
    return matchcut.Tracker(Recurrent(), device="cpu", precision="float32")


def annotated(path, annotations, folder=None, **options):
    timeline = Timeline(matchcut.Video(path), folder, **options)
    for frame, labels in annotations.items():
        timeline.annotate(frame, labels)
    return timeline


@pytest.fixture(scope="module")
def filled(clip):
    """The masks of one plain run."""
    timeline = annotated(clip[0], given_of(clip[1]))
    tracker().fill(timeline)
    return list(timeline)


def assert_same(one, other):
    for frame, (a, b) in enumerate(zip(one, other, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"frame {frame}")


def test_it_keeps_the_contract_and_finds_the_objects(clip, filled):
    assert isinstance(Recurrent(), GuidedModel)
    for frame in range(COUNT):
        for number in (1,) if frame < 9 else (1, 2):
            found, truth = filled[frame] == number, clip[1][frame] == number
            assert (found & truth).sum() > 0.6 * (found | truth).sum(), (frame, number)


def test_a_stream_gives_what_fill_gives(clip, filled):
    found = dict(tracker().stream(matchcut.Video(clip[0]), given_of(clip[1])))
    assert_same([found[frame] for frame in range(COUNT)], filled)


@pytest.mark.parametrize("correctable", [True, False])
def test_annotated_one_after_the_other_it_gives_the_same(clip, filled, correctable):
    """Where states are kept, only stale frames run again."""
    path, truth = clip
    seen = []

    class Counting(Recurrent):
        def segment(self, features, references, state, ids):
            seen.append(1)
            return super().segment(features, references, state, ids)

    runner = matchcut.Tracker(Counting(), device="cpu", precision="float32")
    timeline = annotated(path, {0: given_of(truth)[0]}, correctable=correctable)
    for frame in (15, 9):
        runner.fill(timeline)
        timeline.annotate(frame, given_of(truth)[frame])
    stale = timeline.stale()
    assert stale == [*range(9, 15), *range(16, COUNT)]
    seen.clear()
    runner.fill(timeline)
    assert len(seen) == len(stale) if correctable else len(seen) > len(stale)
    assert_same(timeline, filled)
    timeline.drop(15)
    timeline.drop(9)
    runner.fill(timeline)
    fresh = annotated(path, {0: given_of(truth)[0]})
    tracker().fill(fresh)
    assert_same(timeline, fresh)


@pytest.mark.parametrize("near", [2, 12, 23])
def test_beginning_where_the_viewer_looks_gives_the_same(clip, filled, near):
    order = []
    timeline = annotated(clip[0], given_of(clip[1]))
    tracker().fill(timeline, near=near, on_frame=lambda index, labels: order.append((index, labels)))
    assert_same(timeline, filled)
    assert sorted(index for index, _ in order) == [frame for frame in range(COUNT) if frame not in (0, 15)]
    for index, labels in order:
        shown = labels if index != 9 else np.where(given_of(clip[1])[9] > 0, given_of(clip[1])[9], labels)
        np.testing.assert_array_equal(shown, timeline.labels(index))


def test_cancelled_it_leaves_what_is_done_and_goes_on(clip, filled):
    timeline, cancel, runner = annotated(clip[0], given_of(clip[1])), Event(), tracker()
    runner.fill(timeline, lambda done, total: cancel.set() if done == 5 else None, cancel=cancel)
    assert len(timeline.stale()) == COUNT - 2 - 5
    runner.fill(timeline)
    assert_same(timeline, filled)


@pytest.mark.parametrize("after", [13, 18])
def test_killed_and_resumed_in_a_second_process_it_gives_the_same(clip, filled, tmp_path, after):
    np.savez(tmp_path / "masks.npz", **{str(frame): labels for frame, labels in given_of(clip[1]).items()})
    words = [sys.executable, SAMPLE, clip[0], tmp_path / "out", tmp_path / "masks.npz"]
    assert subprocess.run([*words, str(after)]).returncode == -9
    assert len(list((tmp_path / "out" / "masks").glob("[!.]*.png"))) < COUNT
    assert subprocess.run(words).returncode == 0
    assert_same([read_mask(tmp_path / "out" / "masks" / f"{frame:05d}.png") for frame in range(COUNT)], filled)


def test_what_a_run_wrote_is_loaded_and_corrected(clip, filled, tmp_path):
    path, truth = clip
    timeline = annotated(path, {frame: given_of(truth)[frame] for frame in (0, 9)})
    tracker().fill(timeline)
    timeline.save(tmp_path / "out")
    again = Timeline.load(tmp_path / "out")
    assert again.stale() == [] and again.annotated == [0, 9] and again.confidence == timeline.confidence
    assert_same(again, timeline)
    for frame in (0, 9):
        np.testing.assert_array_equal(again.annotation(frame), timeline.annotation(frame))
    again.annotate(15, truth[15])
    assert again.stale() == list(range(16, COUNT))
    tracker().fill(again)
    assert_same(again, filled)


@pytest.mark.parametrize("damage", ["cut", "another size", "another frame's", "gone"])
def test_a_mask_that_is_not_as_it_was_written_is_stale_and_stays_the_users(clip, filled, tmp_path, damage):
    timeline = annotated(clip[0], given_of(clip[1]))
    tracker().fill(timeline)
    timeline.save(tmp_path / "out")
    place = tmp_path / "out" / "masks" / "00005.png"
    if damage == "gone":
        place.unlink()
    elif damage == "another size":
        write_mask(place, np.ones((10, 10), np.uint8))
    else:
        place.write_bytes(place.read_bytes()[:60] if damage == "cut" else place.with_name("00012.png").read_bytes())
    before = {path.name: path.read_bytes() for path in place.parent.iterdir()}
    again = Timeline.load(tmp_path / "out")
    assert again.stale() == [5]
    tracker().fill(again)
    assert_same(again, filled)
    assert {path.name: path.read_bytes() for path in place.parent.iterdir()} == before


def test_after_loading_the_model_of_the_last_run_counts(clip, tmp_path):
    timeline, other = annotated(clip[0], given_of(clip[1])), Recurrent()
    tracker().fill(timeline)
    other.scale.data.mul_(1.5)
    cancel = Event()
    matchcut.Tracker(other, device="cpu", precision="float32").fill(
        timeline, lambda done, total: cancel.set() if done == 4 else None, cancel=cancel
    )
    assert timeline.stale() == [frame for frame in range(5, COUNT) if frame != 15]
    timeline.save(tmp_path / "out")
    assert Timeline.load(tmp_path / "out").stale() == timeline.stale()


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda folder: (folder / "timeline.json").unlink(), "timeline.json: does not exist"),
        (lambda folder: (folder / "timeline.json").write_text(""), "timeline.json: is empty"),
        (lambda folder: (folder / "timeline.json").write_text("{}"), "is no record of a run"),
        (lambda folder: (folder / "masks" / "00000.png").unlink(), "00000.png"),
    ],
)
def test_a_folder_that_holds_no_timeline_is_said(clip, tmp_path, spoil, said):
    timeline = annotated(clip[0], {0: clip[1][0]})
    timeline.save(tmp_path / "out")
    spoil(tmp_path / "out")
    with pytest.raises(matchcut.MatchcutError, match=said):
        Timeline.load(tmp_path / "out")


def test_a_timeline_of_another_video_is_said(clip, tmp_path):
    annotated(clip[0], {0: clip[1][0]}).save(tmp_path / "out")
    with pytest.raises(matchcut.MatchcutError, match="is of another video, or of other frames"):
        Timeline.load(tmp_path / "out", matchcut.Video(clip[0], start=3))
    with pytest.raises(matchcut.MatchcutError, match="expected a Video"):
        Timeline.load(tmp_path / "out", clip[0])


def test_evaluate_gives_what_fill_gives(clip, tmp_path):
    path, truth = clip
    for frame, image in matchcut.Video(path).frames():
        (tmp_path / "JPEGImages" / "squares").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "JPEGImages" / "squares" / f"{frame:05d}.png")
    (tmp_path / "Annotations" / "squares").mkdir(parents=True)
    for frame, labels in enumerate(truth):
        write_mask(tmp_path / "Annotations" / "squares" / f"{frame:05d}.png", labels)
    result = matchcut.evaluate(
        *("folder", tmp_path, tmp_path / "out"), model=Recurrent(), device="cpu", precision="float32"
    )
    assert result is not None and result.summary["J-Mean"] > 0.6
    timeline = annotated(path, {0: truth[0]})
    tracker().fill(timeline)
    masks = tmp_path / "out" / "masks" / "squares"
    assert_same([read_mask(masks / f"{frame:05d}.png") for frame in range(COUNT)], timeline)


def test_other_weights_make_all_masks_stale(clip):
    timeline, other = annotated(clip[0], given_of(clip[1])), Recurrent()
    tracker().fill(timeline)
    other.scale.data.mul_(1.5)
    before = list(timeline)
    runner = matchcut.Tracker(other, device="cpu", precision="float32")
    runner.fill(timeline)
    fresh = annotated(clip[0], given_of(clip[1]))
    runner.fill(fresh)
    assert_same(timeline, fresh)
    assert any(not np.array_equal(a, b) for a, b in zip(before, timeline, strict=True))


def test_an_annotation_made_while_it_runs_leaves_stale_what_was_made_before(clip, filled):
    path, truth = clip
    timeline = annotated(path, {frame: given_of(truth)[frame] for frame in (0, 9)})

    def correct(done, total):
        if done == 18:
            timeline.annotate(15, truth[15])

    runner = tracker()
    runner.fill(timeline, correct)
    assert set(range(16, COUNT)) <= set(timeline.stale())
    runner.fill(timeline)
    assert timeline.stale() == []
    assert_same(timeline, filled)


def test_a_late_annotation_in_a_stream_is_an_error(clip):
    path, truth = clip
    annotations = {0: truth[0]}
    with pytest.raises(matchcut.MatchcutError, match=r"mask for frame 3 was not used: .* gone by: this is frame 6"):
        for index, _ in tracker().stream(matchcut.Video(path), annotations):
            if index == 5:
                annotations[3] = truth[3]
    with pytest.raises(matchcut.MatchcutError, match=r"mask for frame 40 was not used: .* never came"):
        list(tracker().stream(matchcut.Video(path), {0: truth[0], 40: truth[0]}))

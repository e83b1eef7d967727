"""What pixels at edges say, as learned on annotated frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import matchcut
from matchcut.masks import read_mask
from matchcut.metrics import jaccard
from matchcut.models.mask_vos.architecture import STEPS
from matchcut.refinement import guided
from matchcut.refinement.edge_classifier import EdgeClassifier, learn
from matchcut.refinement.upsampling import shrink
from matchcut.tracking.timeline import Timeline

EXAMPLES = Path(__file__).parents[2] / "examples"
GRID = (30, 45)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A thing in patches of two colours with a bar across it, before a ground in patches of two others."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((120, 180), np.uint8)
    left = int(rng.integers(30, 70))
    truth[30:90, left : left + 70] = 3
    truth[54:58] = 0
    which = rng.integers(0, 2, (40, 60)).repeat(3, 0).repeat(3, 1)
    inside, outside = (
        np.array(two)[which] for two in ([[160, 80, 80], [110, 130, 60]], [[80, 80, 160], [60, 130, 110]])
    )
    frame = np.where(truth[..., None] > 0, inside, outside) + rng.normal(0, 8, (*truth.shape, 3))
    return frame.clip(0, 255).astype(np.uint8), truth


def blunt(truth: np.ndarray) -> np.ndarray:
    """Soft masks on cells of four pixels, bent by one, that saw little of the bar."""
    cells = (truth > 0).reshape(30, 4, 45, 4).mean((1, 3))
    cells[13:15] = 0.6 * cells[12]
    inside = cv2.GaussianBlur(np.roll(cells, 1, 1), (0, 0), 1.0)
    return np.stack([1 - inside, inside]).astype(np.float32)


def learned() -> EdgeClassifier:
    found = learn([scene()], [3], GRID)
    assert found is not None
    return found


def test_what_cells_see_badly_is_told_by_its_pixels() -> None:
    frame, truth = scene(1)
    soft = blunt(truth)
    without, _ = guided(soft, [3], frame)
    found, _ = guided(soft, [3], frame, edges=learned(), weight=1.0)
    assert set(np.unique(found)) == {0, 3}
    assert 1 - jaccard(found == 3, truth == 3) < 0.6 * (1 - jaccard(without == 3, truth == 3))
    np.testing.assert_array_equal(without, guided(soft, [3], frame, edges=learned(), weight=0.0)[0])


def test_what_is_sure_stays_and_so_does_what_is_far_from_all_that_was_found() -> None:
    frame, truth = scene(1)
    region = np.full(truth.shape, 0.3, np.float32)
    region[:, :100] = 0.95
    every = (slice(0, 120), slice(0, 180))
    mask, small = np.full(GRID, 0.5, np.float32), shrink(frame, GRID)
    inside = learned().added_to(region, 1 - region, 1.0, frame, every, mask, small)
    assert inside[:, :100].all()  # the ground too: 0.95 are log odds of 2.9
    assert not inside[:, 103:].any()  # 2 pixels are a sixtieth of the height
    mixed = learned().added_to(np.full_like(region, 0.55), np.full_like(region, 0.45), 1.0, frame, every, mask, small)
    assert jaccard(mixed, truth > 0) > 0.8  # where all is unsure, pixels decide


def test_learning_gives_the_same_again_and_depends_on_what_is_annotated() -> None:
    one, again = learned(), learned()
    np.testing.assert_array_equal(one.coefficients, again.coefficients)
    both = learn([scene(), scene(2)], [3], GRID)
    assert both is not None and (both.coefficients != one.coefficients).any()


@pytest.mark.parametrize("labels", [0, 3, 255])
def test_nothing_is_learned_without_an_object_or_without_surroundings(labels: int) -> None:
    frame, truth = scene()
    assert learn([], [3], GRID) is None
    assert learn([(frame, np.full_like(truth, labels))], [3], GRID) is None


def test_ignored_pixels_say_nothing() -> None:
    frame, _ = scene()
    labels = np.zeros(frame.shape[:2], np.uint8)
    labels[20:100, 20:160] = 1
    assert learn([(frame, labels)], [1], GRID) is not None
    edges = cv2.dilate(labels, np.ones((31, 31))) != cv2.erode(labels, np.ones((31, 31)))
    labels[edges] = 255
    assert (labels == 0).any() and (labels == 1).any()
    assert learn([(frame, labels)], [1], GRID) is None


@pytest.mark.filterwarnings("error")
def test_small_objects_and_small_frames_are_learned_from_too() -> None:
    for height, width in ((16, 24), (33, 47)):
        frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        labels = np.zeros((height, width), np.uint8)
        labels[5:8, 5:8] = 1
        found = learn([(frame, labels)], [1], (height // 4, width // 4))
        soft = np.zeros((2, height // 4, width // 4), np.float32)
        soft[1, 1, 1] = 0.6
        soft[0] = 1 - soft[1]
        shown, _ = guided(soft, [1], frame, edges=found, weight=0.25)
        assert shown.shape == labels.shape and set(np.unique(shown)) <= {0, 1}


def test_masks_of_a_stream_are_those_of_a_timeline(tmp_path: Path) -> None:
    video = matchcut.Video(EXAMPLES / "bunny.mp4", end=4)
    first = read_mask(EXAMPLES / "bunny_first.png")
    made = {}
    for learned_of in (False, True):
        steps = STEPS if learned_of else STEPS[:-1]
        tracker = matchcut.Tracker(matchcut.load_model("mask-vos").with_settings(steps=steps, size=128))
        (tmp_path / str(learned_of)).mkdir()
        timeline = Timeline(video, tmp_path / str(learned_of))
        timeline.annotate(0, first)
        tracker.fill(timeline)
        made[learned_of] = [timeline.labels(frame) for frame in range(4)]
        for frame, labels in tracker.stream(video, {0: first}):
            np.testing.assert_array_equal(labels, made[learned_of][frame])
    assert (made[False][3] != made[True][3]).any()


def test_where_an_object_was_annotated_only_later_nothing_is_learned() -> None:
    video = matchcut.Video(EXAMPLES / "bunny.mp4", end=4)
    first = read_mask(EXAMPLES / "bunny_first.png")
    second = np.where(first > 0, 0, first)
    second[:40, :40] = 2
    made = {}
    for learned_of in (False, True):
        steps = STEPS if learned_of else STEPS[:-1]
        tracker = matchcut.Tracker(matchcut.load_model("mask-vos").with_settings(steps=steps, size=128))
        made[learned_of] = [labels for _, labels in tracker.stream(video, {0: first, 2: second})]
    np.testing.assert_array_equal(made[False][0], made[True][0])
    assert (made[False][1] != made[True][1]).any()  # the first alone was learned from

"""Frames with motion and masks: drawn by their numbers alone, flow that turns with the crop, objects pasted."""

import cv2
import numpy as np
import pytest

from matchcut.data.clips import ClipConfig
from matchcut.data.moving import MovingConfig, MovingFrames, find_sequences
from matchcut.errors import DatasetError
from matchcut.masks import write_mask
from matchcut.video.writer import write_png

SIZE = (96, 128)


@pytest.fixture
def root(tmp_path):
    """Two sequences of five frames: a textured square walks right over texture, three pixels a frame."""
    for seed, name in enumerate(("one", "two")):
        rng = np.random.default_rng(seed)
        ground = cv2.resize(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8), SIZE[::-1])
        square = cv2.resize(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), (40, 40))
        for index in range(5):
            frame, mask = ground.copy(), np.zeros(SIZE, np.uint8)
            at = slice(28, 68), slice(30 + 3 * index, 70 + 3 * index)
            frame[at], mask[at] = square, 1
            for folder, write, what in (("JPEGImages", write_png, frame), ("Annotations", write_mask, mask)):
                path = tmp_path / folder / name / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, what)
    return tmp_path


def frames_of(root, tmp_path, moving=None, **changes):
    whole = {"length": 1, "size": SIZE, "side": 96, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
    config = ClipConfig(**{**whole, **changes})
    return MovingFrames(find_sequences(root), config, moving or MovingConfig(), seed=0, cache=tmp_path / "cache")


def test_a_sample_is_a_frame_its_motion_and_its_mask(root, tmp_path):
    samples = frames_of(root, tmp_path)
    assert len(samples) == 2 and samples.describe().endswith(", 10 masks")
    one = samples.draw(0, 0)
    assert one["frames"].shape == one["flow"].shape == (*SIZE, 3)
    inside = cv2.erode(one["labels"], np.ones((9, 9))) > 0
    outside = cv2.dilate(one["labels"], np.ones((17, 17))) == 0
    found = np.median(one["flow"][inside].astype(int), 0)
    assert found.min() < 160 < found.max()  # it moves: a saturated colour
    assert np.median(one["flow"][outside]) > 220  # the ground stands still


def test_a_sample_depends_on_its_numbers_alone(root, tmp_path):
    moving = MovingConfig(still=0.3, pasted=0.5)
    changes = {"scale": (0.4, 1.0), "rotation": 10, "jitter": 0.3, "flip": 0.5}
    first, second = (frames_of(root, tmp_path, moving, **changes) for _ in range(2))
    second.draw(3, 1)
    for epoch, index in ((0, 0), (0, 1), (2, 7)):
        for name, value in first.draw(epoch, index).items():
            np.testing.assert_array_equal(value, second.draw(epoch, index)[name])
    assert any((first.draw(0, 0)["frames"] != first.draw(epoch, 0)["frames"]).any() for epoch in (1, 2))


def test_vectors_are_mirrored_and_turned_with_the_picture(root, tmp_path):
    pair = [np.asarray(cv2.imread(str(root / "JPEGImages" / "one" / f"{at:05d}.png")))[..., ::-1] for at in (0, 1)]
    samples = frames_of(root, tmp_path, MovingConfig(camera=False))
    to_frame = np.array([[1 / SIZE[1], 0, 0], [0, 1 / SIZE[0], 0]])
    mirrored = np.array([[-1 / SIZE[1], 0, 1], [0, 1 / SIZE[0], 0]])
    upside = np.array([[-1 / SIZE[1], 0, 1], [0, -1 / SIZE[0], 1]])
    flow = samples._flow((pair[0], pair[1]), to_frame)
    right, down = np.median(flow[35:60, 35:60], (0, 1))
    assert right > 1.5 and abs(down) < 0.3
    np.testing.assert_allclose(samples._flow((pair[0], pair[1]), mirrored), flow[:, ::-1] * (-1, 1), atol=1e-4)
    np.testing.assert_allclose(samples._flow((pair[0], pair[1]), upside), -flow[::-1, ::-1], atol=1e-4)


def test_still_and_pasted_samples(root, tmp_path):
    still = frames_of(root, tmp_path, MovingConfig(still=1.0)).draw(0, 0)
    assert (still["flow"] == 255).all() and still["labels"].any()
    pasted = frames_of(root, tmp_path, MovingConfig(pasted=1.0))
    shares = [(one["labels"] > 0).mean() for one in (pasted.draw(0, index) for index in range(8))]
    assert np.std(shares) > 0.01 and max(shares) > 0.01  # of other sizes than the 40 x 40 square


def test_what_cannot_be_read_is_named_and_replaced(root, tmp_path):
    for path in (root / "JPEGImages" / "one").iterdir():
        path.write_bytes(b"nothing")
    samples = frames_of(root, tmp_path)
    drawn = [samples.draw(0, index) for index in range(2)]
    names = {name for one in drawn for name in samples.unreadable({"unreadable": one["unreadable"][None]})}
    assert len(names) == 1 and "one" in names.pop()
    assert all(one["labels"].any() for one in drawn)


def test_folders_without_masks_are_refused(tmp_path):
    with pytest.raises(DatasetError):
        find_sequences(tmp_path)
    (tmp_path / "JPEGImages" / "a").mkdir(parents=True)
    (tmp_path / "Annotations" / "a").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no sequence with masks"):
        find_sequences(tmp_path)


@pytest.mark.parametrize("shares", [{"still": 1.2}, {"pasted": -0.1}])
def test_shares_must_be_shares(shares):
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        MovingConfig(**shares)

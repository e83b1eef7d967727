"""Pasted pieces: labels exact to the pixel, pieces that move and are reproducible, shapes and regions as they say."""

import cv2
import numpy as np
import pytest

from matchcut.data.pasting import (
    Motion,
    Piece,
    adapt_colours,
    moving_piece,
    paste,
    region,
    smooth_shape,
    soften,
    superpixels,
    with_limbs,
)

SIZE = (60, 80)
STILL = Motion(size=(0.4, 0.4), shift=0, turn=0, growth=0, bend=0, flip=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def white() -> tuple[np.ndarray, np.ndarray]:
    """A white frame, and the mask of a rectangle of 20 x 20 pixels in it."""
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    return np.full((40, 40, 3), 255, np.uint8), mask


def black(frames: int = 4) -> np.ndarray:
    return np.zeros((frames, *SIZE, 3), np.uint8)


# --- pasting


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_where_the_piece_is_to_the_pixel(seed):
    piece = moving_piece(rng(seed), *white(), 4, SIZE)
    frames, labels = paste(black(), [piece])
    assert np.array_equal(labels == 1, frames[..., 0] > 127) and labels.any()


def test_later_layers_hide_earlier_ones_and_distractors_are_background():
    below, above = (Piece(np.full((2, *SIZE, 3), c, np.uint8), np.zeros((2, *SIZE), np.float32)) for c in (100, 200))
    below.alpha[:, 10:40, 10:40] = 1
    above.alpha[:, 20:50, 20:50] = 1
    frames, labels = paste(black(2), [below, above])
    assert (labels[:, 10:20, 10:40] == 1).all() and (labels[:, 20:50, 20:50] == 2).all()
    assert (frames[labels == 1] == 100).all() and (frames[labels == 2] == 200).all()
    assert (frames[labels == 0] == 0).all()
    same, hidden = paste(black(2), [below, above], [1, 0])
    assert np.array_equal(same, frames) and np.array_equal(hidden, np.where(labels == 1, 1, 0))
    _, other = paste(black(2), [below, above], [7, 3])
    assert set(np.unique(other)) == {0, 3, 7}


def test_the_background_stays_as_it_was_and_is_not_written_to():
    background = rng().integers(0, 255, (3, *SIZE, 3), dtype=np.uint8)
    before = background.copy()
    piece = moving_piece(rng(1), *white(), 3, SIZE)
    frames, _ = paste(background, [piece])
    assert np.array_equal(background, before)
    assert np.array_equal(frames[piece.alpha == 0], before[piece.alpha == 0])
    nothing, labels = paste(background, [])
    assert np.array_equal(nothing, before) and not labels.any()


# --- moving


def test_a_piece_without_motion_keeps_still_and_has_its_size():
    piece = moving_piece(rng(3), *white(), 4, SIZE, STILL)
    assert all(np.array_equal(one, piece.alpha[0]) for one in piece.alpha)
    expected = 0.4**2 * SIZE[0] * SIZE[1]
    wide = moving_piece(rng(3), *white(), 1, (600, 800), STILL).alpha
    assert piece.alpha[0].sum() <= 1.1 * expected
    assert wide.sum() == pytest.approx(0.4**2 * 600 * 800, rel=0.05) or wide[0, [0, -1]].any() or wide[0, :, 0].any()


def test_a_piece_moves_smoothly():
    piece = moving_piece(rng(1), *white(), 8, (200, 200), Motion(size=(0.2, 0.2), shift=0.03))
    centres = np.array([np.argwhere(one > 0.5).mean(0) for one in piece.alpha])
    steps = np.diff(centres, axis=0)
    assert np.abs(steps).max() <= 0.03 * 200 + 2 and np.abs(centres[-1] - centres[0]).max() > 2
    assert np.abs(np.diff(steps, axis=0)).max() < 3  # no jerks


def test_the_same_generator_gives_the_same_piece():
    first, again, other = (moving_piece(rng(seed), *white(), 3, SIZE) for seed in (4, 4, 5))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.alpha, again.alpha)
    assert not np.array_equal(first.alpha, other.alpha)


def test_an_empty_mask_gives_an_empty_layer():
    piece = moving_piece(rng(), white()[0], np.zeros((40, 40), bool), 2, SIZE)
    assert not piece.alpha.any() and piece.frames.shape == (2, *SIZE, 3)
    assert adapt_colours(piece, black(2), 1.0) is piece
    assert np.array_equal(soften(piece, 1.0).alpha, piece.alpha)


# --- looks


def test_softening_blurs_the_edge_and_leaves_the_labels():
    piece = moving_piece(rng(), *white(), 2, SIZE, Motion(size=(0.5, 0.5), turn=0, bend=0))
    soft = soften(piece, 1.0)
    _, before = paste(black(2), [piece])
    frames, after = paste(black(2), [soft])
    assert (before != after).mean() < 0.005
    between = ((frames > 25) & (frames < 230)).mean()
    assert between > 2 * (((f := paste(black(2), [piece])[0]) > 25) & (f < 230)).mean()
    assert soften(piece, 0) is piece


def test_colours_come_to_those_of_the_clip():
    background = np.clip(rng().normal((60, 120, 180), 10, (2, *SIZE, 3)), 0, 255).astype(np.uint8)
    frame, mask = white()
    frame = np.clip(rng(1).normal((200, 80, 90), 20, frame.shape), 0, 255).astype(np.uint8)
    piece = moving_piece(rng(2), frame, mask, 2, SIZE, STILL)
    inside = piece.alpha[0] > 0.5
    whole, half = (adapt_colours(piece, background, share).frames[0][inside].mean(0) for share in (1.0, 0.5))
    np.testing.assert_allclose(whole, (60, 120, 180), atol=4)
    own = piece.frames[0][inside].mean(0)
    np.testing.assert_allclose(half, (own + whole) / 2, atol=2)


# --- shapes


@pytest.mark.parametrize("seed", range(8))
def test_a_smooth_shape_is_one_piece_without_holes(seed):
    shape = smooth_shape(rng(seed), (64, 96))
    assert cv2.connectedComponents(shape.astype(np.uint8))[0] == 2
    assert cv2.connectedComponents((~shape).astype(np.uint8), connectivity=4)[0] == 2
    assert 0.05 < shape.mean() < 0.8 and shape.shape == (64, 96)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A frame with a disc of another colour, and the disc."""
    y, x = np.mgrid[:96, :128]
    disc = (y - 48) ** 2 + (x - 64) ** 2 < 900
    frame = np.where(disc[..., None], (210, 60, 40), (40, 120, 180)).astype(np.float64)
    return np.clip(frame + rng().normal(0, 3, frame.shape), 0, 255).astype(np.uint8), disc


def test_superpixels_cover_the_frame_and_follow_edges():
    frame, disc = scene()
    pieces = superpixels(rng(), frame)
    assert pieces.shape == disc.shape and np.array_equal(np.unique(pieces), np.arange(6 * 8))
    inside = np.bincount(pieces.ravel(), disc.ravel()) / np.bincount(pieces.ravel())
    strays = np.minimum(inside, 1 - inside)[pieces].mean()
    assert strays < 0.03


@pytest.mark.parametrize("seed", range(6))
def test_a_region_is_bounded_by_edges_and_whole(seed):
    frame, disc = scene()
    found = region(rng(seed), frame, (0.08, 0.15))
    assert cv2.connectedComponents(found.astype(np.uint8), connectivity=4)[0] == 2
    assert 0.06 < found.mean() < 0.4
    mixed = (found & disc).sum() / found.sum()
    assert min(mixed, 1 - mixed) < 0.2


def test_a_region_of_a_small_frame_is_all_of_it():
    frame = rng().integers(0, 255, (10, 12, 3), dtype=np.uint8)
    assert region(rng(), frame).all()


@pytest.mark.parametrize("seed", range(4))
def test_limbs_are_thin_and_grow_out_of_the_body(seed):
    body = np.zeros((200, 200), bool)
    body[80:120, 80:120] = True
    grown = with_limbs(np.random.default_rng(seed), body)
    assert grown[body].all() and grown.sum() > body.sum()
    assert cv2.connectedComponents(grown.astype(np.uint8))[0] == 2  # the background and one piece
    core = cv2.morphologyEx(grown.astype(np.uint8), cv2.MORPH_OPEN, np.ones((11, 11), np.uint8))
    assert core.sum() < 1.3 * body.sum()
    assert not with_limbs(np.random.default_rng(seed), np.zeros((20, 20), bool)).any()

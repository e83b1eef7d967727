"""Overlays and cut-outs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making_videos import noisy

from matchcut.errors import ShapeError
from matchcut.masks import davis_palette
from matchcut.video.overlay import cutout, draw_overlay


def scene():
    labels = np.zeros((120, 160), np.uint8)
    labels[10:60, 10:80] = 1
    labels[70:110, 90:150] = 200
    labels[:8, 150:] = 255
    return np.full((120, 160, 3), 90, np.uint8), labels


def test_objects_are_tinted_and_the_rest_is_untouched():
    frame, labels = scene()
    before = frame.copy()
    out = draw_overlay(frame, labels, ids=False, contour=0)
    assert np.array_equal(frame, before) and out is not frame
    for label in (1, 200):
        expected = np.rint(90 * 0.5 + davis_palette()[label] * 0.5)
        assert np.abs(out[labels == label].astype(int) - expected).max() <= 1
    assert np.array_equal(out[labels == 0], frame[labels == 0])
    faint = out[labels == 255].astype(int)
    assert (faint > 90).all() and (faint < 110).all() and (np.ptp(faint, axis=-1) == 0).all()


def test_contours_lie_inside_and_numbers_are_drawn():
    frame, labels = scene()
    tinted = draw_overlay(frame, labels, ids=False, contour=0)
    outlined = draw_overlay(frame, labels, ids=False, contour=2)
    changed = (tinted != outlined).any(-1)
    assert changed[10, 10] and changed[11, 40] and not changed[13, 40] and not changed[labels == 0].any()
    numbered = draw_overlay(frame, labels, contour=0)
    changed = (tinted != numbered).any(-1)
    assert changed[25:45, 35:55].any() and not changed[labels == 0].any()
    assert numbered[changed].max() > 240 and numbered[changed].min() < 40  # light digits, dark edge


def test_an_empty_mask_changes_nothing():
    frame = noisy(0)
    assert np.array_equal(draw_overlay(frame, np.zeros(frame.shape[:2], np.uint8)), frame)


def test_alpha():
    frame, labels = scene()
    assert np.array_equal(draw_overlay(frame, labels * (labels < 255), alpha=0, contour=0, ids=False), frame)
    whole = draw_overlay(frame, labels, alpha=1, contour=0, ids=False)
    assert (whole[20, 20] == davis_palette()[1]).all()


@settings(max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 99),
    contour=st.integers(0, 5),
    values=st.sampled_from([(0, 1), (0, 254), (1, 255), (0, 0, 0, 0, 7, 77, 177), tuple(range(256))]),
)
def test_any_label_map_can_be_drawn(height, width, seed, contour, values):
    labels = np.random.default_rng(seed).choice(np.array(values, np.uint8), (height, width))
    frame = noisy(seed, (height, width))
    out = draw_overlay(frame, labels, contour=contour)
    assert out.shape == frame.shape and out.dtype == np.uint8
    whole = cutout(frame, labels)
    assert np.array_equal(whole[..., 3] > 0, (labels > 0) & (labels < 255))


def test_cutout():
    frame, labels = scene()
    assert np.array_equal(cutout(frame, labels)[..., 3], np.where((labels > 0) & (labels < 255), 255, 0))
    assert np.array_equal(cutout(frame, labels)[..., :3], frame)


def test_wrong_arrays():
    frame, labels = scene()
    for bad in [
        (frame[..., 0], labels),
        (frame.astype(float), labels),
        (frame, labels[:5]),
        (frame, labels.astype(int)),
    ]:
        for function in (draw_overlay, cutout):
            with pytest.raises(ShapeError):
                function(*bad)
    with pytest.raises(ShapeError, match="alpha"):
        draw_overlay(frame, labels, alpha=2)

"""Optical flow: what it finds, the camera's part of it, its picture, cuts, and files of every form."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from matchcut.errors import VideoError
from matchcut.flow import fields as flows
from matchcut.flow.fields import (
    STILL,
    camera_flow,
    dis_flow,
    draw_flow,
    is_cut,
    motion_of,
    read_flow,
    resize_flow,
    write_flow,
)

SIZE = (120, 160)


def texture(seed=0, size=SIZE):
    noise = np.random.default_rng(seed).integers(0, 255, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def moved(frame, matrix):
    return cv2.warpPerspective(frame, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


def test_dis_finds_a_shift_and_takes_any_size():
    frame = texture()
    found = dis_flow(frame, moved(frame, np.array([[1, 0, 3.0], [0, 1, -2.0], [0, 0, 1]])))
    assert found.shape == (*SIZE, 2) and found.dtype == np.float32
    np.testing.assert_allclose(np.median(found, (0, 1)), (3, -2), atol=0.2)
    small = np.random.default_rng(0).integers(0, 256, (2, 400, 400, 3), dtype=np.uint8)
    for height, width in ((7, 5), (16, 200), (24, 100), (24, 400), (31, 300)):  # OpenCV's own ends the process on some
        assert not dis_flow(*small[:, :height, :width]).any()


def test_the_cameras_part_is_that_of_most_pixels():
    """A camera that turns and zooms, and an object of a sixth of the picture on its own way."""
    matrix = np.array([[1.02, 0.01, 2.0], [-0.01, 1.02, -1.0], [2e-5, 0, 1]])
    points = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), 2).astype(np.float64)
    camera = (cv2.perspectiveTransform(points.reshape(1, -1, 2), matrix).reshape(points.shape) - points).astype(
        np.float32
    )
    flow = camera.copy()
    flow[40:90, 60:110] += (6, 4)
    np.testing.assert_allclose(camera_flow(flow), camera, atol=0.1)
    left = flow - camera_flow(flow)
    assert np.abs(left[:30]).max() < 0.1 and np.allclose(left[50:80, 70:100], (6, 4), atol=0.1)


def test_where_no_homography_fits_the_camera_stands_still():
    assert not camera_flow(np.zeros((4, 4, 2), np.float32)).any()
    wild = np.random.default_rng(0).normal(0, 200, (*SIZE, 2)).astype(np.float32)
    assert np.isfinite(camera_flow(wild)).all()


def test_the_picture_is_white_where_nothing_moves_and_turns_with_the_direction():
    flow = np.zeros((*SIZE, 2), np.float32)
    assert (draw_flow(flow) == 255).all()
    assert motion_of(flow) < STILL
    flow[:60, :80], flow[:60, 80:], flow[60:, :80] = (9, 0), (-9, 0), (0, 9)
    drawn = draw_flow(flow)
    colours = [tuple(drawn[y, x]) for y, x in ((30, 40), (30, 120), (90, 40), (90, 120))]
    assert len(set(colours)) == 4 and colours[3] == (255, 255, 255)
    assert drawn[30, 40, 0] > 200 > drawn[30, 40, 2]  # to the right is red, as in the field's pictures
    faint = draw_flow(flow * 1e-3)  # noise is not drawn as motion
    assert faint.min() > 245
    np.testing.assert_array_equal(draw_flow(flow, 18)[30, 40] > drawn[30, 40], (False, True, True))  # half as saturated


def test_a_cut_is_where_neither_colours_nor_places_agree():
    first, dark = texture(1), (texture(2) // 4).astype(np.uint8)
    assert is_cut(first, dark)
    assert not is_cut(first, moved(first, np.array([[1, 0, 12.0], [0, 1, 3.0], [0, 0, 1]])))
    assert not is_cut(first, first)


def test_no_cut_within_a_real_sequence_and_one_between_two(data):
    from matchcut.video.reader import Video

    bus, dance = (Video(data / "davis2016-dev-480p" / "JPEGImages" / one) for one in ("bus", "dance-jump"))
    for video in (bus, dance):
        frames = [video[index] for index in range(0, 40)]
        assert not any(is_cut(one, other) for one, other in pairwise(frames))
    assert is_cut(cv2.resize(bus[5], (320, 180)), cv2.resize(dance[5], (320, 180)))


def some_flow(size=SIZE):
    return np.random.default_rng(3).normal(0, 4, (*size, 2)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".flo", ".npz"])
def test_written_flow_is_read_again(tmp_path, suffix):
    flow = some_flow()
    write_flow(tmp_path / f"a{suffix}", flow)
    np.testing.assert_allclose(read_flow(tmp_path / f"a{suffix}", SIZE), flow, atol=0 if suffix == ".flo" else 0.02)
    half = read_flow(tmp_path / f"a{suffix}", (60, 80))
    assert half.shape == (60, 80, 2)
    np.testing.assert_allclose(half.mean(), resize_flow(flow, (60, 80)).mean(), atol=0.01)


def test_arrays_and_pictures_are_read(tmp_path):
    flow = some_flow()
    np.save(tmp_path / "a.npy", flow.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_flow(tmp_path / "a.npy", SIZE), flow)
    kitti = np.dstack([np.ones(SIZE, np.uint16), np.rint(flow[..., ::-1] * 64 + 2**15).astype(np.uint16)])
    cv2.imwrite(str(tmp_path / "b.png"), kitti)
    np.testing.assert_allclose(read_flow(tmp_path / "b.png", SIZE), flow, atol=1 / 64)
    cv2.imwrite(str(tmp_path / "c.png"), draw_flow(flow)[..., ::-1])
    np.testing.assert_array_equal(read_flow(tmp_path / "c.png", SIZE), draw_flow(flow))


def test_what_is_no_flow_is_refused_in_a_line(tmp_path):
    (tmp_path / "a.flo").write_bytes(b"abcd" * 5)
    (tmp_path / "b.flo").write_bytes(b"PI")
    (tmp_path / "c.npz").write_bytes(b"no zip")
    np.save(tmp_path / "d.npy", np.zeros((3, 4)))
    np.save(tmp_path / "e.npy", np.array([{}], object))
    np.save(tmp_path / "f.npy", np.full((8, 8, 2), np.nan, np.float32))
    (tmp_path / "g.png").write_bytes(b"\x89PNG")
    write_flow(tmp_path / "h.flo", some_flow())
    (tmp_path / "h.flo").write_bytes((tmp_path / "h.flo").read_bytes()[:999])
    np.save(tmp_path / "i.npy", np.zeros((0, 0, 2), np.float32))
    write_flow(tmp_path / "k.npz", some_flow())
    whole = bytearray((tmp_path / "k.npz").read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 40] = b"?" * 40  # zlib's own error, not the archive's
    (tmp_path / "k.npz").write_bytes(whole)
    with (tmp_path / "l.npz").open("wb") as file:  # each under the other's name
        np.save(file, some_flow())
    with (tmp_path / "m.npy").open("wb") as file:
        np.savez(file, some_flow())
    for name in (
        *(f"{one}.npy" for one in "defim"),
        *(f"{one}.npz" for one in "ckl"),
        *(f"{one}.flo" for one in "abh"),
        "g.png",
        "missing.flo",
    ):
        with pytest.raises(VideoError, match="make it again") as caught:
            read_flow(tmp_path / name, SIZE)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_the_wheel_goes_once_around():
    wheel = flows._wheel()
    assert wheel.shape == (55, 3) and len(np.unique(wheel, axis=0)) == 55
    assert np.abs(np.diff(np.concatenate([wheel, wheel[:1]]), axis=0)).max() < 0.26

"""Integer pictures of every depth that files have, made here byte by byte where no library writes them."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from matchcut.pictures import ValueRange, is_deep, open_picture, stored_values

RANDOM = np.random.default_rng(0)


def stored(path: Path) -> np.ndarray:
    with open_picture(path) as image:
        return stored_values(image)


def write_tiff(path: Path, pixels: np.ndarray, order: str) -> Path:
    """A grey TIFF, one strip, of any type of number."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    form = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = [(256, pixels.shape[1]), (257, pixels.shape[0]), (258, pixels.dtype.itemsize * 8), (259, 1), (262, 1)]
    tags += [(273, 8), (277, 1), (278, pixels.shape[0]), (279, len(data)), (339, form)]
    packed = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(order + "H", len(tags)) + packed + bytes(4))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_a_tiff_of_any_integers_is_read_as_it_is(tmp_path, kind, order):
    pixels = RANDOM.integers(-100 if kind in ("i2", "i4", "i8") else 0, 127, (9, 14)).astype(kind)
    read = stored(write_tiff(tmp_path / "a.tif", pixels, order))
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype.isnative and read.dtype.kind in "iu"


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_floating_point_is_told(tmp_path, kind):
    with pytest.raises(ValueError, match="floating-point"):
        stored(write_tiff(tmp_path / "a.tif", RANDOM.random((9, 14)).astype(kind), "<"))


@pytest.mark.parametrize("top", [1, 3, 100, 255, 256, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_keeps_its_own_scale(tmp_path, top, plain):
    pixels = RANDOM.integers(0, top + 1, (9, 14))
    if plain:
        data = f"P2\n14 9\n{top}\n{' '.join(map(str, pixels.ravel()))}\n".encode()
    else:
        data = f"P5\n14 9\n{top}\n".encode() + pixels.astype(">u2" if top > 255 else "u1").tobytes()
    (tmp_path / "a.pgm").write_bytes(data)
    np.testing.assert_array_equal(stored(tmp_path / "a.pgm"), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_stay_sixteen_bits_in_grey_and_colour(tmp_path, suffix, channels):
    pixels = RANDOM.integers(0, 4096, (9, 14, channels)).astype(np.uint16).squeeze()
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels[..., ::-1] if channels == 3 else pixels)
    with open_picture(tmp_path / f"a{suffix}") as image:
        assert is_deep(image)
        np.testing.assert_array_equal(stored_values(image), pixels)


def test_eight_bits_and_one_bit_are_not_deep(tmp_path):
    on = RANDOM.random((9, 14)) > 0.5
    Image.fromarray(on).save(tmp_path / "a.png")
    with open_picture(tmp_path / "a.png") as image:
        assert not is_deep(image)
        np.testing.assert_array_equal(stored_values(image), on)
    assert stored(tmp_path / "a.png").dtype == np.uint8


def test_a_clip_is_brought_to_8_bits_by_one_scale():
    eight = RANDOM.integers(0, 256, (9, 14))
    dark, bright = ValueRange.of(eight[:4] // 4 * 16), ValueRange(0, 4095)
    both = dark.union(bright)
    assert both.bits == 12
    np.testing.assert_array_equal(both.to_8_bits((eight * 16).astype(np.uint16)), eight)  # 12 bits in 16
    np.testing.assert_array_equal(ValueRange(0, 255).to_8_bits(eight.astype(np.int32)), eight)  # 8 bits in 32
    np.testing.assert_array_equal(ValueRange(0, 65535).to_8_bits((eight * 257).astype(np.uint16)), eight)
    signed = ValueRange(-1024, 3071)  # as of tomography
    np.testing.assert_array_equal(signed.to_8_bits(np.array([[-1024, -1008, 3071]], np.int16)), [[0, 1, 255]])

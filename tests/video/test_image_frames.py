"""Folders, globs and single pictures as videos."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from making_videos import SIZE, coloured, noisy
from PIL import Image

from matchcut.errors import VideoError
from matchcut.folders import IMAGES
from matchcut.video.images import read_image
from matchcut.video.reader import Video


def folder(path, count=12, suffix="png"):
    path.mkdir(exist_ok=True)
    for index in range(count):
        Image.fromarray(coloured(index)).save(path / f"{index}.{suffix}")
    return path


def test_folder_in_natural_order(tmp_path):
    video = Video(folder(tmp_path / "shot"))
    (tmp_path / "shot" / "._0.png").write_bytes(b"what macOS leaves")
    (tmp_path / "shot" / "readme.txt").write_text("no frame")
    for video in (Video(tmp_path / "shot"), Video(str(tmp_path / "shot" / "*.png"))):
        assert video.name == "shot" and video.size == SIZE and video.frame_rate == 24
        assert video.names() == [str(index) for index in range(12)]
        assert all(np.array_equal(frame, coloured(index)) for index, frame in enumerate(video))
        assert [index for index, _ in video.frames(-1, -1)] == list(range(12))[::-1]
        assert np.array_equal(video[10], coloured(10)) and np.array_equal(video[-1], coloured(11))


def test_selection(tmp_path):
    video = Video(folder(tmp_path / "shot"), start=1, end=-1, stride=4)
    assert video.names() == ["1", "5", "9"] and video.frame_rate == 6
    with pytest.raises(VideoError, match="12 to 20 selects none"):
        Video(tmp_path / "shot", start=12, end=20)


@pytest.mark.parametrize("extension", sorted(IMAGES))
def test_every_extension_and_a_single_picture(tmp_path, extension):
    path = tmp_path / f"one{extension.upper()}"
    lossless = (
        {"quality": 100}
        if extension in (".jpg", ".jpeg", ".avif")
        else {"lossless": True}
        if extension == ".webp"
        else {}
    )
    Image.fromarray(coloured(9)).save(path, **lossless)
    video = Video(path)
    assert len(video) == 1 and video.names() == ["one"] and video.name == "one"
    assert np.abs(video[0].astype(int) - coloured(9)).max() <= (3 if "jp" in extension or extension == ".avif" else 0)


def test_kinds_of_picture(tmp_path):
    grey = noisy(1)[..., 0]
    rgba = np.dstack((noisy(2), grey))
    indexed = Image.fromarray(coloured(3)).quantize(4)
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    deep_colour = np.dstack((deep, deep[::-1], deep[:, ::-1]))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    indexed.save(tmp_path / "indexed.png")
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    Image.fromarray(coloured(3)).convert("CMYK").save(tmp_path / "ink.jpg", quality=100)
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "deep_colour.png"), deep_colour[..., ::-1])
    grey_rgb = np.repeat(grey[..., None], 3, 2)
    for name, expected, error in [
        ("grey.png", grey_rgb, 0),
        ("rgba.png", rgba[..., :3], 0),
        ("indexed.png", np.array(indexed.convert("RGB")), 0),
        ("bits.png", np.where(grey_rgb > 100, 255, 0), 0),
        ("ink.jpg", coloured(3), 4),
        ("grey.jpg", grey_rgb, 6),
        ("deep.png", np.repeat((deep >> 8)[..., None], 3, 2), 0),
        ("deep_colour.png", deep_colour >> 8, 1),
    ]:
        image = read_image(tmp_path / name)
        assert image.dtype == np.uint8 and image.shape == (*SIZE, 3), name
        assert np.abs(image.astype(int) - expected).max() <= error, name
    assert len(list(Video(str(tmp_path / "*.png")))) == 6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    from PIL import ImageOps

    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:16, :16] = 255
    picture[32:, :16, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(picture).save(path, exif=exif, quality=100)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    video = Video(path)
    assert video.size == expected.shape[:2] == video[0].shape[:2]
    assert np.abs(video[0].astype(int) - expected).max() <= 2


def test_mixed_sizes_name_both_files(tmp_path):
    shot = folder(tmp_path / "shot", 3)
    Image.fromarray(noisy(0, (10, 20))).save(shot / "7.png")
    with pytest.raises(VideoError, match=r"0\.png is 64x48, .*7\.png is 20x10"):
        Video(shot)


def test_one_name_for_two_frames(tmp_path):
    shot = folder(tmp_path / "shot", 2)
    Image.fromarray(coloured(1)).save(shot / "1.jpg")
    with pytest.raises(VideoError, match="two frames have one name"):
        Video(shot)
    assert len(Video(str(shot / "*.png"))) == 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_a_damaged_picture_is_named(tmp_path, suffix):
    shot = tmp_path / "shot"
    shot.mkdir()
    for index in range(3):
        Image.fromarray(noisy(index)).save(shot / f"{index}.{suffix}")
    path = shot / f"1.{suffix}"
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(VideoError, match=rf"1\.{suffix}: cannot be read"):
        list(Video(shot))
    path.write_bytes(b"no picture")
    with pytest.raises(VideoError, match=rf"1\.{suffix}: cannot be read"):
        Video(shot)


def test_nothing_to_read(tmp_path):
    for source, reason in [(tmp_path, "no images in this folder"), (tmp_path / "*.png", "matches no image")]:
        with pytest.raises(VideoError, match=reason):
            Video(source)


def test_a_folder_whose_name_looks_like_a_glob(tmp_path):
    assert len(Video(folder(tmp_path / "shot[1]", 2))) == 2


def test_importing_the_reader_loads_no_video_library():
    code = "import sys, matchcut.video.reader; print({'av', 'cv2', 'PIL', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

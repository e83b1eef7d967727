"""Image files of several pictures: each is a frame, in any order asked for."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from making_videos import SIZE, noisy
from PIL import Image

from matchcut.errors import VideoError
from matchcut.video import frames as frames_module
from matchcut.video.reader import Video

COUNT = 6


def pictures(frames=None):
    return [Image.fromarray(one) for one in (frames or [noisy(index) for index in range(COUNT)])]


def save(path, images, **options):
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


def moving():
    """Frames of which an animation stores only what changes."""
    frames = [noisy(0) for _ in range(COUNT)]
    for index, frame in enumerate(frames):
        frame[index * 4 : index * 4 + 6, 10:20] = 255
    return frames


def assert_frames(video, expected):
    assert len(video) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(video, expected, strict=True))
    for index in (5, 0, 3, 2, 4, 4, 1, -1):
        assert np.array_equal(video[index], expected[index]), index
    for index, frame in video.frames(-1, -1):
        assert np.array_equal(frame, expected[index])
    for (a, one), (b, other) in zip(video.frames(), video.frames(-1, -1), strict=True):
        assert np.array_equal(one, expected[a]) and np.array_equal(other, expected[b])


@pytest.mark.parametrize(
    ("name", "options", "rate"),
    [
        ("stack.tif", {}, 24),
        ("stack.tiff", {"compression": "tiff_lzw"}, 24),
        ("anim.webp", {"lossless": True, "duration": 40}, 25),
        ("anim.webp", {"lossless": True, "duration": [40, 40, 40, 40, 40, 200]}, 15),
        ("anim.png", {"duration": 100}, 10),
        ("still_first.png", {"duration": 50, "default_image": True}, 20),
    ],
)
def test_every_picture_is_a_frame(tmp_path, name, options, rate, monkeypatch):
    frames = moving()
    images = pictures(frames)
    if "default_image" in options:  # stands in where animations are not shown, and is not of it
        images = [Image.fromarray(noisy(99)), *images]
    video = Video(save(tmp_path / name, images, **options))
    assert video.size == SIZE and video.frame_rate == Fraction(rate) and video.name == name.split(".")[0]
    assert video.names() == [f"{index:05d}" for index in range(COUNT)]
    assert_frames(video, frames)
    monkeypatch.setattr(frames_module, "BLOCK_BYTES", 1)  # backwards, four at a time
    assert [index for index, _ in Video(tmp_path / name, stride=1).frames(-1, -1)] == [5, 4, 3, 2, 1, 0]
    assert_frames(video, frames)
    assert_frames(Video(tmp_path / name), frames)


def test_the_only_file_of_a_folder(tmp_path):
    shot = tmp_path / "shot"
    shot.mkdir()
    save(shot / "all.tif", pictures())
    for source in (shot, f"{shot}/*.tif", [shot / "all.tif"]):
        assert len(Video(source)) == COUNT
    Image.fromarray(noisy(1)).save(shot / "one.tif")
    with pytest.raises(VideoError, match=r"all\.tif: holds 6 pictures, and lies among other frames"):
        Video(shot)


def test_pictures_that_go_with_another_are_no_frames(tmp_path):
    """Levels of a pyramid, the second picture of a camera's JPEG: each such file is one frame."""
    shot = tmp_path / "shot"
    shot.mkdir()
    for index in range(3):
        image = Image.fromarray(noisy(index))
        save(shot / f"{index}.tif", [image, image.resize((32, 24)), image.resize((16, 12))])
    assert len(Video(shot)) == 3 and len(Video(shot / "0.tif")) == 1
    save(tmp_path / "camera.jpg", pictures()[:2], format="MPO")
    assert len(Video(tmp_path / "camera.jpg")) == 1
    image = Image.fromarray(noisy(0))
    save(tmp_path / "mixed.tif", [image, image, image.resize((16, 12))])
    with pytest.raises(VideoError, match="picture 0 is 64x48, picture 2 is 16x12"):
        Video(tmp_path / "mixed.tif")


def test_one_scale_for_all_deep_pictures(tmp_path):
    """12 bits in 16, and 8 bits in 32: as the same pictures in 8 bits, the dark ones too."""
    frames = [(noisy(index)[..., 0] // (index + 1)).astype(np.uint8) for index in range(COUNT)]
    grey = [np.repeat(one[..., None], 3, 2) for one in frames]
    cv2.imwritemulti(str(tmp_path / "twelve.tif"), [one.astype(np.uint16) * 16 for one in frames])
    save(tmp_path / "wide.tif", [Image.fromarray(one.astype(np.int32)) for one in frames])
    for name in ("twelve.tif", "wide.tif"):
        assert_frames(Video(tmp_path / name), grey)
    for kind, factor in ((np.uint16, 16), (np.int32, 1)):
        shot = tmp_path / kind.__name__
        shot.mkdir()
        for index, one in enumerate(frames):
            Image.fromarray(one.astype(kind) * factor).save(shot / f"{index}.tif")
        assert_frames(Video(shot), grey)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp", "a.avif"])
def test_damaged_files_end_in_one_line(tmp_path, name):
    data = save(tmp_path / name, pictures()).read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for at in random.integers(20, len(data), 12):
        (tmp_path / name).write_bytes(data[:at])
        try:
            assert len(list(Video(tmp_path / name))) <= COUNT
        except VideoError as error:
            refused += 1
            assert name in str(error) and "\n" not in str(error)
    assert refused

"""Writing: what is read back, and nothing left behind by a failure."""

from fractions import Fraction

import av
import numpy as np
import pytest
from making_videos import coloured, noisy
from PIL import Image

from matchcut.errors import OutputError
from matchcut.video.reader import Video
from matchcut.video.writer import VideoWriter, write_png


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1)])
def test_mp4_read_back(tmp_path, size):
    path = tmp_path / "out.mp4"
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 30, 90)]
    frames = [np.full((*size, 3), colour, np.uint8) for colour in colours]
    with VideoWriter(path, frame_rate=Fraction(30000, 1001)) as writer:
        for frame in frames:
            writer.write(frame)
    video = Video(path)
    assert len(video) == writer.count == 6
    assert video.frame_rate == Fraction(30000, 1001)
    assert video.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    for frame, back in zip(frames, video, strict=True):
        assert np.abs(back.astype(int) - frame[0, 0]).max() <= 8
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a browser can start before it has all
    assert [found.name for found in tmp_path.iterdir()] == ["out.mp4"]


def test_alpha_survives(tmp_path):
    path = tmp_path / "cutout.mov"
    alpha = np.zeros((33, 45), np.uint8)
    alpha[8:20, 10:30] = 255
    with VideoWriter(path, frame_rate=25, alpha=True) as writer:
        for index in range(3):
            writer.write(np.dstack((coloured(index, (33, 45)), alpha)))
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgba") for frame in file.decode(video=0)]
        assert file.streams.video[0].codec_context.name == "prores"
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        assert np.abs(frame[..., 3].astype(int) - alpha).max() <= 1
        assert np.abs(frame[..., :3].astype(int) - coloured(index, (33, 45))).max() <= 6
    assert len(Video(path)) == 3 and Video(path).size == (33, 45)


@pytest.mark.parametrize("written", [0, 1, 5])
def test_a_failure_leaves_nothing_and_spares_what_was_there(tmp_path, written):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the last one")
    with pytest.raises(RuntimeError, match="my own"), VideoWriter(path) as writer:
        for index in range(written):
            writer.write(noisy(index))
        raise RuntimeError("my own")
    assert [found.name for found in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"the last one"


def test_refusals(tmp_path):
    frame = noisy(0)
    for name, options in [("a.avi", {}), ("a.mov", {}), ("a.mp4", {"alpha": True}), ("a.mp4", {"frame_rate": 0})]:
        with pytest.raises(OutputError):
            VideoWriter(tmp_path / name, **options)
    for wrong in (frame[:20], frame.astype(float), frame[..., 0], np.dstack((frame, frame[..., 0]))):
        with pytest.raises(OutputError, match="frame 1"), VideoWriter(tmp_path / "a.mp4") as writer:
            writer.write(frame)
            writer.write(wrong)
    with pytest.raises(OutputError, match="no frame"), VideoWriter(tmp_path / "a.mp4"):
        pass
    with pytest.raises(OutputError, match="cannot write"), VideoWriter(tmp_path / "no" / "a.mp4"):
        pass
    with pytest.raises(OutputError, match="with"):
        VideoWriter(tmp_path / "a.mp4").write(frame)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    def full(self, packets):
        raise OSError(28, "No space left on device")

    writer = VideoWriter(tmp_path / "a.mp4")
    with pytest.raises(OutputError, match="no space left"), writer:
        writer._container = type(
            "Full", (), {"mux": full, "add_stream": writer._container.add_stream, "close": writer._container.close}
        )()
        for index in range(80):
            writer.write(noisy(index))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_png(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, *([channels] if channels else [])), dtype=np.uint8)
    write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as back:
        assert np.array_equal(np.array(back), image)
    for wrong in (image.astype(float), image[:0], np.zeros((4, 4, 2), np.uint8)):
        with pytest.raises(OutputError):
            write_png(tmp_path / "b.png", wrong)
    with pytest.raises(OutputError):
        write_png(tmp_path / "none" / "b.png", image)
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]

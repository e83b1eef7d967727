"""Streams: standard input through a real pipe, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest
from making_videos import SIZE, encode, noisy

from matchcut.errors import VideoError
from matchcut.video.reader import Video

PROGRAM = """
import sys
from matchcut.errors import MatchcutError
from matchcut.video.reader import Video
try:
    video = Video("-", **eval(sys.argv[1]))
    print(video.name, video.size, video.seekable, float(video.frame_rate))
    for index, frame in video.frames():
        print(video.frame_name(index), frame.shape, int(frame.sum()))
    for refused in (lambda: len(video), lambda: video[0], video.names, video.frames, lambda: video.frames(0, -1)):
        try:
            refused()
            print("not refused")
        except MatchcutError as error:
            print("refused", error)
except MatchcutError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def y4m(tmp_path_factory):
    path = tmp_path_factory.mktemp("y4m") / "a.y4m"
    return encode(path, [noisy(i) for i in range(8)], codec="wrapped_avframe").read_bytes(), list(Video(path))


def piped(data, **options):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, repr(options)], input=data, capture_output=True, check=True, timeout=300
    )
    return done.stdout.decode().splitlines()


def test_y4m_on_standard_input(y4m):
    data, frames = y4m
    lines = piped(data)
    assert lines[0] == f"stdin {SIZE} False 25.0"
    assert lines[1:9] == [f"{i:05d} {frame.shape} {int(frame.sum())}" for i, frame in enumerate(frames)]
    assert len(lines) == 14 and all(line.startswith("refused") for line in lines[9:])
    assert "only once" in lines[12] and "forwards only" in lines[13]


def test_selection_of_a_stream(y4m):
    data, frames = y4m
    lines = piped(data, start=1, end=7, stride=3)
    assert lines[0].endswith(str(float(np.float64(25) / 3)))
    assert lines[1:3] == [f"{i:05d} {frames[i].shape} {int(frames[i].sum())}" for i in (1, 4)]
    assert lines[3].startswith("refused")


def test_a_stream_that_breaks_off(y4m):
    data, _ = y4m
    lines = piped(data[: len(data) * 6 // 10])
    assert sum("(48, 64, 3)" in line for line in lines) in (4, 5)
    assert lines[-1].startswith(("TruncatedVideoError", "refused"))


@pytest.mark.parametrize("data", [b"", b"this is no Y4M\n" * 9])
def test_no_stream(data):
    lines = piped(data)
    assert len(lines) == 1 and lines[0].startswith("VideoError standard input") and "Y4M" in lines[0]


def test_a_start_behind_the_end(y4m):
    assert "ended before frame 50" in piped(y4m[0], start=50)[0]


def test_streams_that_cannot_be_opened():
    for source in ("987", "http://127.0.0.1:9/none.mp4"):
        with pytest.raises(VideoError, match="cannot be opened"):
            Video(source)
    with pytest.raises(VideoError, match="select no frame"):
        Video("-", start=5, end=2)

"""What can be given as a video: names of every kind, URLs of files, lists, arrays; and what cannot."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from making_videos import SIZE, coloured, encode, lossless, noisy
from PIL import Image

from matchcut.errors import MatchcutError, VideoError
from matchcut.video.reader import Video
from matchcut.video.writer import VideoWriter

NAMES = (
    *("a:b.mkv", "concat:x.mkv", "12:30.mkv", "file:y.mkv", "100%.mkv", "a%20b.mkv", "s%03d.mkv", "x#1.mkv", "x?y.mkv"),
    *("a[1].mkv", "-lead.mkv", "two\nlines.mkv", " sp ace.mkv", "~tmp.mkv", os.fsdecode(b"\xe9t\xe9.mkv"), "動画.mkv"),
)


def folder(path, count=3):
    path.mkdir()
    for index in range(count):
        Image.fromarray(coloured(index)).save(path / f"{index}.png")
    return path


def test_any_name_is_opened_and_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = lossless(tmp_path / "plain.avi", 2).read_bytes()
    for name in NAMES:
        Path(name).write_bytes(data)
        assert len(list(Video(name))) == 2, name
        assert Video(name).source == name
    Path("a:b").mkdir()
    with VideoWriter("a:b/out.mp4") as writer:
        writer.write(coloured(0))
    assert len(Video("a:b/out.mp4")) == 1


def test_urls_of_files_are_percent_decoded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = lossless(tmp_path / "my clip#1.mkv", 2)
    latin = lossless(tmp_path / os.fsdecode(b"\xe9.mkv"), 3)
    folder(tmp_path / "two words")
    for url, count, source in (
        (f"file://{tmp_path}/my%20clip%231.mkv", 2, path),
        (f"file://localhost{tmp_path}/my%20clip%231.mkv", 2, path),
        (f"FILE:{tmp_path}/my%20clip#1.mkv", 2, path),
        ("file:my%20clip%231.mkv", 2, Path(path.name)),
        (Path("file:my clip#1.mkv"), 2, Path(path.name)),
        (f"file://{tmp_path}/%E9.mkv", 3, latin),
        ("file:two%20words", 3, Path("two words")),
        ("file:two%20words/*.png", 3, Path("two words/*.png")),
    ):
        video = Video(url)
        assert len(video) == count and video.source == str(source), url
        assert video.stamp()  # an input that is replaced is seen
    with pytest.raises(VideoError, match=r"/not there\.mkv: no such file"):
        Video("file:///not%20there.mkv")


@pytest.mark.parametrize("name", ["x" * 300, "x\0y", "~nobody-of-this-name/x.mp4", "file:", "http:x.mp4"])
def test_names_of_nothing(name):
    with pytest.raises(VideoError, match=r"no such file|name too long") as caught:
        Video(name)
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_nowhere_among_frames_is_named(tmp_path):
    shot = folder(tmp_path / "shot")
    (shot / "readme.txt").symlink_to("nowhere")
    (shot / "._4.png").symlink_to("nowhere")
    (shot / "5.png").mkdir()
    assert len(Video(shot)) == 3  # none of these is a frame
    (shot / "1.png").rename(tmp_path / "1.png")
    (shot / "1.png").symlink_to("../1.png")
    assert np.array_equal(Video(shot)[1], coloured(1))
    (tmp_path / "1.png").unlink()
    for source in (shot, f"{shot}/*.png", [shot / "0.png", shot / "1.png"], shot / "1.png"):
        with pytest.raises(VideoError, match=r"1\.png: is a link that leads nowhere \(\.\./1\.png\)"):
            Video(source)
    (shot / "1.png").unlink()
    (shot / "1.png").symlink_to("1.png")
    for source in (shot, shot / "1.png"):
        with pytest.raises(VideoError, match=r"1\.png: is a link that leads to itself"):
            Video(source)


def test_what_is_no_file_or_empty_among_frames_is_named(tmp_path):
    shot = folder(tmp_path / "shot")
    (shot / "1.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"1\.png: is an empty file"):
        Video(shot)
    (shot / "1.png").unlink()
    os.mkfifo(shot / "1.png")
    with pytest.raises(VideoError, match=r"1\.png: is no file"):
        Video(shot)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path):
    shot = folder(tmp_path / "shot")
    (shot / "1.png").chmod(0)
    with pytest.raises(VideoError, match=r"1\.png: cannot be opened \(Permission denied\)"):
        Video(shot)
    shot.chmod(0)
    with pytest.raises(MatchcutError, match="shot: cannot be listed"):
        Video(shot)


def test_arrays_and_lists(tmp_path):
    frames = [coloured(i) for i in range(4)]
    shot = folder(tmp_path / "shot", 4)
    bgr = np.stack(frames)[..., ::-1].copy()
    for source in (
        np.stack(frames),
        bgr[..., ::-1],
        frames,
        tuple(frames),
        [Image.fromarray(one) for one in frames],
        [shot / "0.png", str(shot / "1.png"), f"file:{shot}/2.png", shot / "3.png"],
    ):
        video = Video(source)
        assert len(video) == 4 and video.size == SIZE and video.frame_rate == 24
        assert all(np.array_equal(one, other) for one, other in zip(video, frames, strict=True))
        assert [index for index, _ in Video(source, start=1, stride=2).frames(-1, -1)] == [1, 0]
        video[2][:] = 0  # a copy
        assert np.array_equal(video[2], frames[2])
    assert Video(frames).names() == ["00000", "00001", "00002", "00003"] and Video(frames).name == "frames"
    assert Video([str(shot / "2.png")]).names() == ["2"]


def test_frames_are_writable_and_contiguous(tmp_path):
    clip = encode(tmp_path / "a.mp4", [noisy(i, (46, 62)) for i in range(3)])
    shot = folder(tmp_path / "shot")
    frozen = np.stack([noisy(0), noisy(1)])
    frozen.setflags(write=False)
    raw = encode(tmp_path / "raw.mov", [noisy(i) for i in range(3)], codec="rawvideo", pixels="rgb24")
    for source in (clip, shot, frozen, raw):
        video = Video(source)
        for frame in video:
            assert frame.flags.writeable and frame.flags.c_contiguous and frame.dtype == np.uint8
        before = video[1].copy()
        video[1][:] = 0
        assert np.array_equal(video[1], before)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"expected RGB frames .* got an array of shape \(3, 20, 30\)"),
        (np.zeros((3, 20, 30, 3)), r"frame 0: expected RGB .* float64"),
        ([noisy(0), noisy(1, (20, 20))], "frame 1 is 20x20"),
        ([noisy(0), "1.png"], "frame 1: expected RGB"),
        ([[1, 2], [3]], "frame 0: expected RGB"),
        ([], "no frame"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no frame"),
        (np.array(5), "expected RGB frames"),
        (iter([noisy(0)]), "Tracker.stream"),
        (None, "NoneType"),
        (b"clip.mp4", "bytes"),
    ],
)
def test_what_is_no_video_is_refused_in_a_line(source, reason):
    with pytest.raises(VideoError, match=reason) as caught:
        Video(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.avi", "a.mov", "a.mkv"])
def test_tags_that_are_no_utf8(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "TITLETITLE"
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noisy(index), format="rgb24")))
        file.mux(stream.encode())
    data = path.read_bytes()
    assert b"TITLETITLE" in data
    path.write_bytes(data.replace(b"TITLETITLE", "テスト動画".encode("shift_jis")))
    assert len(list(Video(path))) == 3


def several(path, *streams, default=None):
    """A file of several video streams, each (codec, pixels, size, number of frames)."""
    with av.open(str(path), "w") as file:
        made = []
        for at, (codec, pixels, size, _) in enumerate(streams):
            stream = file.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, pixels
            stream.disposition = av.stream.Disposition.default if at == default else 0
            made.append(stream)
        for index in range(max(one[3] for one in streams)):
            for stream, (_, _, size, count) in zip(made, streams, strict=True):
                if index < count:
                    file.mux(stream.encode(av.VideoFrame.from_ndarray(noisy(index, size), format="rgb24")))
        for stream in made:
            file.mux(stream.encode())
    return path


SMALL, LARGE = (32, 48), (64, 96)


@pytest.mark.parametrize(
    ("name", "streams", "default", "size"),
    [
        ("largest.ts", [("mpeg2video", "yuv420p", SMALL, 6), ("mpeg2video", "yuv420p", LARGE, 6)], None, LARGE),
        ("default.mkv", [("mpeg4", "yuv420p", LARGE, 6), ("mpeg4", "yuv420p", SMALL, 6)], 1, SMALL),
        ("preview.mov", [("mjpeg", "yuvj420p", LARGE, 6), ("libx264", "yuv420p", SMALL, 6)], 0, SMALL),
        ("still.mov", [("libx264", "yuv420p", LARGE, 1), ("libx264", "yuv420p", SMALL, 6)], 0, SMALL),
        ("pictures.avi", [("mjpeg", "yuvj420p", SMALL, 6)], None, SMALL),
    ],
)
def test_the_stream_that_is_the_video(tmp_path, name, streams, default, size):
    video = Video(several(tmp_path / name, *streams, default=default))
    assert video.size == size and len(list(video)) == len(video) == 6


def test_a_video_of_an_unknown_codec_is_told_from_sound(tmp_path):
    path = encode(tmp_path / "a.avi", [noisy(0)], codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZQXW"))
    with pytest.raises(VideoError, match="no video stream of a known form"):
        Video(path)

"""Video files: every way to reach a frame gives the frame that plain decoding gives."""

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making_videos import SIZE, coloured, cut, decoded, encode, lossless, noisy, set_matrix, sound

from matchcut.errors import TruncatedVideoError, VideoError
from matchcut.video import frames as frames_module
from matchcut.video.reader import Video

COUNT = 30
KINDS = {
    "b_frames.mp4": {},
    "b_frames.mkv": {},
    "b_frames.ts": {},
    "b_frames.avi": {},
    "raw.h264": {},
    "flash.flv": {},
    "faststart.mp4": {"container": {"movflags": "faststart"}},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "interlaced.ts": {"options": {"x264-params": "interlaced=1"}},
    "hevc10.mp4": {"codec": "libx265", "pixels": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "program.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "grey.mkv": {"codec": "ffv1", "pixels": "gray"},
    "full_chroma.mp4": {"pixels": "yuv444p"},
    "alpha.mov": {"codec": "qtrle", "pixels": "argb"},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
    "variable.mp4": {"pts": [40 * i + 300 * (i // 5) + i * i for i in range(COUNT)]},
    "variable.mkv": {"pts": [3 * i * i + 20 * i for i in range(COUNT)], "codec": "ffv1", "pixels": "bgr0"},
}


def written(path, **kind):
    if "codec" in kind and kind["codec"] not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {kind['codec']}")
    return encode(path, [noisy(i) for i in range(COUNT)], **kind)


def same(a, b):
    assert len(a) == len(b)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def assert_one_truth(video, expected):
    """Sequential, random, backwards and strided reading all give `expected`."""
    assert len(video) == len(expected)
    same(list(video), expected)
    for index in (len(expected) - 1, 0, 9, 8, 9, 7, 12, 3, -2):
        assert np.array_equal(video[index], expected[index]), index
    pairs = list(video.frames(-1, -1))
    assert [index for index, _ in pairs] == list(range(len(expected)))[::-1]
    same([frame for _, frame in pairs][::-1], expected)
    same([frame for _, frame in video.frames(5, 3)], expected[5::3])
    same([frame for _, frame in video.frames(12, -7)], expected[12::-7])


@pytest.mark.parametrize("name", KINDS)
def test_every_access_gives_what_plain_decoding_gives(tmp_path, name):
    path = written(tmp_path / name, **KINDS[name])
    with Video(path) as video:
        assert video.size == SIZE and video.seekable and video.name == path.stem
        assert_one_truth(video, decoded(path))
    with Video(path, allow_truncated=True) as video:
        assert_one_truth(video, decoded(path))


def test_backwards_in_blocks_smaller_than_a_group_of_pictures(tmp_path, monkeypatch):
    path = written(tmp_path / "long.mp4", gop=100)
    monkeypatch.setattr(frames_module, "BLOCK_BYTES", 5 * SIZE[0] * SIZE[1] * 3)
    assert_one_truth(Video(path), decoded(path))


def test_an_edit_list_hides_its_frames(tmp_path):
    path, edited = written(tmp_path / "a.mp4"), tmp_path / "edited.mp4"
    with av.open(str(path)) as source, av.open(str(edited), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - 512 * 6, packet.dts - 512 * 6, copy
                out.mux(packet)
    expected = decoded(edited)
    assert len(expected) == COUNT - 6
    assert_one_truth(Video(edited), expected)


def test_a_recording_that_starts_inside_a_group_of_pictures(tmp_path):
    data = written(tmp_path / "a.ts").read_bytes()
    late = tmp_path / "late.ts"
    late.write_bytes(data[: 188 * 3] + data[188 * (len(data) // 188 // 3) :])
    assert_one_truth(Video(late), decoded(late))


@pytest.mark.parametrize("size", [(47, 63), (49, 34), (2, 2), (33, 200)])
def test_odd_sizes(tmp_path, size):
    frames = [noisy(i, size) for i in range(4)]
    video = Video(encode(tmp_path / "odd.mkv", frames, codec="ffv1", pixels="bgr0"))
    assert video.size == size
    same(list(video), frames)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),  # a phone held upright: clockwise
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    ],
)
def test_rotation_of_the_display_matrix_is_applied(tmp_path, matrix, turned):
    path = set_matrix(written(tmp_path / "phone.mp4"), *matrix)
    video = Video(path)
    same(list(video), [turned(frame) for frame in decoded(path)])
    assert video.size == video[0].shape[:2]


def test_frame_rates(tmp_path):
    assert Video(lossless(tmp_path / "a.mkv", 10)).frame_rate == 25
    assert Video(tmp_path / "a.mkv", stride=2).frame_rate == 12.5
    slow = Video(lossless(tmp_path / "b.mkv", 11, pts=[i * i * 10 for i in range(11)]))
    assert float(slow.frame_rate) == pytest.approx(10, rel=0.05)


def test_names_are_original_numbers(tmp_path):
    video = Video(lossless(tmp_path / "a.mkv", 20), start=4, stride=5)
    assert video.names() == ["00004", "00009", "00014", "00019"]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    count=st.integers(1, 24),
    start=st.integers(-26, 26),
    end=st.none() | st.integers(-26, 26),
    stride=st.integers(1, 6),
    gop=st.integers(1, 12),
    gaps=st.lists(st.integers(1, 90), min_size=24, max_size=24),
    data=st.data(),
)
def test_a_selection_is_a_slice(tmp_path, count, start, end, stride, gop, gaps, data):
    pts = np.cumsum(gaps)[:count].tolist()
    path = lossless(tmp_path / "video.mkv", count, gop=gop, pts=pts)
    chosen = list(range(count))[start:end:stride]
    if not chosen:
        with pytest.raises(VideoError, match="selects none"):
            Video(path, start=start, end=end, stride=stride)
        return
    video = Video(path, start=start, end=end, stride=stride)
    assert len(video) == len(chosen)
    same(list(video), [coloured(i) for i in chosen])
    for index in data.draw(st.lists(st.integers(-len(chosen), len(chosen) - 1), max_size=5)):
        assert np.array_equal(video[index], coloured(chosen[index]))
    first = data.draw(st.integers(0, len(chosen) - 1))
    step = data.draw(st.sampled_from([-4, -1, 1, 3]))
    pairs = list(video.frames(first, step))
    assert [index for index, _ in pairs] == list(range(len(chosen)))[first::step]
    same([frame for _, frame in pairs], [coloured(i) for i in chosen[first::step]])


def test_wrong_indices(tmp_path):
    video = Video(lossless(tmp_path / "a.mkv", 5))
    for index in (5, -6):
        with pytest.raises(IndexError, match="it has 5"):
            video[index]
        with pytest.raises(IndexError):
            video.frame_name(index)
    with pytest.raises(IndexError):
        video.frames(6)
    with pytest.raises(ValueError, match="step"):
        video.frames(0, 0)
    assert list(video.frames(5)) == []
    with pytest.raises(VideoError, match="stride of 0"):
        Video(tmp_path / "a.mkv", stride=0)


def test_iterators_and_random_access_do_not_disturb_each_other(tmp_path):
    video = Video(lossless(tmp_path / "a.mkv", 12))
    for (a, first), (b, second) in zip(video.frames(), video.frames(11, -1), strict=True):
        assert np.array_equal(first, coloured(a)) and np.array_equal(second, coloured(b))
        assert np.array_equal(video[(a * 5) % 12], coloured((a * 5) % 12))
    video[3][:] = 0
    assert np.array_equal(video[3], coloured(3))


@pytest.mark.parametrize("name", ["faststart.mp4", "fragments.mp4", "b_frames.mkv", "flash.flv", "b_frames.avi"])
def test_a_truncated_file_is_an_error_unless_allowed(tmp_path, name):
    whole = written(tmp_path / name, **KINDS[name])
    path = cut(whole)
    with pytest.raises(TruncatedVideoError, match=r"ended after \d+ of \d+ frames.*--allow-truncated"):
        list(Video(path))
    video = Video(path, allow_truncated=True)
    assert 5 < len(video) < COUNT
    frames = list(video)
    assert_one_truth(video, frames)
    same(frames[:10], decoded(whole)[:10])
    same(list(Video(path, end=10)), frames[:10])  # what is asked for is there: no error


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.mkv", "b_frames.avi", "vp9.webm"])
@pytest.mark.parametrize("keep", [0.7, 0.9, 0.97])
def test_a_cut_never_passes_unseen(tmp_path, name, keep):
    kind = dict(KINDS[name])
    if name.endswith("mp4"):
        kind["container"] = {"movflags": "faststart"}
    path = cut(written(tmp_path / name, **kind), keep)
    with pytest.raises(TruncatedVideoError):
        Video(path)


def test_a_transport_stream_ends_where_it_was_cut(tmp_path):
    path = cut(written(tmp_path / "a.ts"))
    video, expected = Video(path), decoded(path)
    assert len(video) == len(expected)
    same(list(video)[:-1], expected[:-1])  # what stands in for the lost half of the last is the decoder's affair


def test_sound_that_is_longer_than_the_picture_is_no_truncation(tmp_path):
    path = tmp_path / "both.mkv"
    with av.open(str(path), "w") as file:
        picture, tone = file.add_stream("libx264", rate=25), file.add_stream("aac", rate=8000)
        picture.height, picture.width, picture.pix_fmt = *SIZE, "yuv420p"
        for index in range(10):
            file.mux(picture.encode(av.VideoFrame.from_ndarray(noisy(index), format="rgb24")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 40000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        for stream in (picture, tone):
            file.mux(stream.encode(samples if stream is tone else None))
        file.mux(tone.encode())
    assert len(list(Video(path))) == len(Video(path)) == 10


def test_damage_in_the_middle(tmp_path):
    path = lossless(tmp_path / "a.mkv", 20, gop=1)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    data[packets[10].pos + 8 : packets[10].pos + packets[10].size] = b"\xff" * (packets[10].size - 8)
    path.write_bytes(data)
    lenient = Video(path, allow_truncated=True)
    assert len(list(lenient)) == len(lenient)
    try:
        assert len(list(Video(path))) == 20  # the decoder conceals it
    except TruncatedVideoError as error:
        assert "of 20" in str(error)


def test_things_that_are_no_video(tmp_path):
    (tmp_path / "notes.txt").write_text("hello world\n" * 50)
    (tmp_path / "notes.mp4").write_text("hello world\n" * 50)
    (tmp_path / "empty.mp4").touch()
    headless = cut(written(tmp_path / "end_moov.mp4"))
    for path, reason in [
        (tmp_path / "notes.txt", "is not a video"),
        (tmp_path / "notes.mp4", "does not decode"),
        (tmp_path / "empty.mp4", "empty file"),
        (tmp_path / "missing.mp4", "no such file"),
        (sound(tmp_path / "song.m4a"), "no video stream"),
        (headless, "does not decode"),
    ]:
        with pytest.raises(VideoError, match=reason) as caught:
            Video(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as file:
        tone = file.add_stream("aac", rate=8000)
        cover = file.add_stream("mjpeg")
        cover.height, cover.width, cover.pix_fmt = *SIZE, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        file.mux(cover.encode(av.VideoFrame.from_ndarray(noisy(0), format="rgb24")))
        file.mux(tone.encode(samples))
        file.mux(tone.encode())
        file.mux(cover.encode())
    with pytest.raises(VideoError, match="no video stream"):
        Video(path)


def test_a_change_of_size_is_named(tmp_path):
    path = tmp_path / "a.ts"
    first, second = (written_size(tmp_path / f"{at}.ts", size) for at, size in enumerate([SIZE, (32, 32)]))
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(VideoError, match="32x32 where the first is 64x48"):
        list(Video(path))


def written_size(path, size):
    return encode(path, [noisy(i, size) for i in range(6)])

"""What a written video takes over from the one it is made of: sound in time with the picture, colours, times."""

from fractions import Fraction

import av
import numpy as np
import pytest
from making_videos import SIZE, coloured, encode, noisy

from matchcut.video.reader import Video
from matchcut.video.writer import VideoWriter

SECONDS, RATE = 3, 10
CLICKS = (0.5, 1.5, 2.5)


def with_sound(path, picture, sound, form, *, sample_rate=48000, tracks=1, late=0):
    """A video of 3 s at 10 frames a second, with a click in the middle of every second."""
    samples = np.zeros((1, SECONDS * sample_rate), np.float32)
    for at in CLICKS:
        first = round(at * sample_rate)
        samples[0, first : first + 480] = 0.8 * np.sin(np.arange(480) / 4)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(picture, rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        tones = [file.add_stream(sound, rate=sample_rate, layout="mono") for _ in range(tracks)]
        for tone in tones:
            tone.codec_context.format = form
        resampler = av.AudioResampler(form, "mono", sample_rate)
        for index in range(SECONDS * RATE):
            shown = av.VideoFrame.from_ndarray(coloured(index), format="rgb24")
            shown.pts, shown.time_base = index + late * RATE, Fraction(1, RATE)
            file.mux(stream.encode(shown))
            part = samples[:, index * sample_rate // RATE : (index + 1) * sample_rate // RATE]
            for tone in tones:
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = sample_rate, (index + late * RATE) * sample_rate // RATE
                frame.time_base = Fraction(1, sample_rate)
                for made in resampler.resample(frame):
                    file.mux(tone.encode(made))
        for one in (stream, *tones):
            file.mux(one.encode())
    return path


def heard(path, track=0):
    """(codec, seconds at which clicks begin, seconds of sound) of one sound track."""
    times, loud = [], []
    with av.open(str(path)) as file:
        stream = file.streams.audio[track]
        for frame in file.decode(stream):
            values = np.abs(frame.to_ndarray()[0].astype(float))[
                :: 1 if frame.format.is_planar else frame.layout.nb_channels
            ]
            times.append(float(frame.pts * frame.time_base) + np.arange(len(values)) / frame.sample_rate)
            loud.append(values)
        name = stream.codec_context.name
    time, value = np.concatenate(times), np.concatenate(loud)
    hot = time[value > value.max() / 2]
    return name, [float(at) for at, before in zip(hot, [-1, *hot], strict=False) if at - before > 0.3], time[-1]


def copied(video, path):
    with VideoWriter(path, source=video, alpha=path.suffix == ".mov") as writer:
        for frame in video:
            writer.write(np.dstack((frame, frame[..., 0])) if writer.alpha else frame)
    return writer


@pytest.mark.parametrize(
    ("name", "picture", "sound", "form", "mp4", "mov"),
    [
        ("a.mp4", "mpeg4", "aac", "fltp", "aac", "aac"),
        ("a.avi", "mpeg4", "pcm_s16le", "s16", "aac", "pcm_s16le"),
        ("a.mov", "mpeg4", "pcm_s24le", "s32", "aac", "pcm_s24le"),
        ("a.mkv", "mpeg4", "flac", "s16", "flac", "pcm_s16le"),
        ("a.ts", "mpeg2video", "mp2", "s16", "aac", "pcm_s24le"),
    ],
)
def test_the_sound_of_the_frames_comes_along(tmp_path, name, picture, sound, form, mp4, mov):
    path = with_sound(tmp_path / name, picture, sound, form)
    for suffix, codec in ((".mp4", mp4), (".mov", mov)):
        out = tmp_path / f"out{suffix}"
        assert copied(Video(path), out).note is None
        kind, clicks, end = heard(out)
        assert kind == codec and clicks == pytest.approx(CLICKS, abs=0.02) and end == pytest.approx(3, abs=0.1)
        copied(Video(path, start=12, end=28), out)  # from 1.2 s to 2.8 s
        _, clicks, end = heard(out)
        assert clicks == pytest.approx((0.3, 1.3), abs=0.02) and end == pytest.approx(1.6, abs=0.1)
        assert len(Video(out)) == 16


def test_every_track_and_a_clock_that_does_not_begin_at_zero(tmp_path):
    path = with_sound(tmp_path / "a.mkv", "mpeg4", "aac", "fltp", tracks=2, late=100)
    copied(Video(path, start=10), tmp_path / "out.mp4")
    for track in range(2):
        assert heard(tmp_path / "out.mp4", track)[1] == pytest.approx((0.5, 1.5), abs=0.02)


def test_where_frames_are_left_out_there_is_no_sound_and_it_is_said(tmp_path):
    path = with_sound(tmp_path / "a.mp4", "mpeg4", "aac", "fltp")
    writer = copied(Video(path, stride=3), tmp_path / "out.mp4")
    assert writer.note == "out.mp4 has no sound, since frames between are left out"
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert not file.streams.audio and float(file.duration / av.time_base) == pytest.approx(3, abs=0.11)


def test_sound_that_cannot_be_read_costs_no_picture(tmp_path):
    path = with_sound(tmp_path / "a.mkv", "mpeg4", "flac", "s16")
    with av.open(str(path)) as file:
        places = [(one.pos, one.size) for one in file.demux(audio=0) if one.size]
    data = bytearray(path.read_bytes())
    for at, size in places[5:]:
        data[at + 8 : at + size] = b"\xff" * (size - 8)
    path.write_bytes(data)
    writer = copied(Video(path), tmp_path / "out.mov")  # where FLAC must be decoded
    assert len(Video(tmp_path / "out.mov")) == 30 and "lacks sound" in (writer.note or "")


def test_a_video_without_sound_or_a_folder_has_none(tmp_path):
    writer = copied(Video(encode(tmp_path / "a.mp4", [noisy(i) for i in range(4)])), tmp_path / "out.mp4")
    assert writer.note is None
    writer = copied(Video([noisy(i) for i in range(4)]), tmp_path / "out.mp4")
    assert writer.note is None and Video(tmp_path / "out.mp4").frame_rate == 24


def test_frames_are_shown_when_they_were(tmp_path):
    pts = [0, 40, 80, 400, 440, 1000, 1040]
    path = encode(tmp_path / "a.mkv", [coloured(i) for i in range(7)], codec="ffv1", pixels="bgr0", pts=pts)
    for name, selection in (("out.mp4", {}), ("out.mov", {"start": 2}), ("out.mp4", {"start": 1, "stride": 2})):
        chosen = pts[selection.get("start", 0) :: selection.get("stride", 1)]
        copied(Video(path, **selection), tmp_path / name)
        with av.open(str(tmp_path / name)) as file:
            shown = [float(frame.time) * 1000 for frame in file.decode(video=0)]
        assert shown == pytest.approx([one - chosen[0] for one in chosen], abs=1)


def tagged(path, matrix, primaries, transfer, span, pixels="yuv420p", codec="libx264"):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options={"crf": "4"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = matrix, primaries, transfer
        context.color_range = span
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), (200, 60 + index, 30), np.uint8), format="rgb24")
            how = {"dst_colorspace": {6: 5}.get(matrix, matrix), "dst_color_range": span}
            file.mux(stream.encode(frame.reformat(format=pixels, **how)))
        file.mux(stream.encode())
    return path


def tags(path):
    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
    return frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range


@pytest.mark.parametrize(
    ("given", "pixels"),
    [
        ((1, 1, 1, 1), "yuv420p"),
        ((6, 6, 6, 1), "yuv420p"),  # BT.601 of a DVD
        ((5, 5, 6, 2), "yuv420p"),  # full range
        ((9, 9, 16, 1), "yuv420p10le"),  # HDR
    ],
)
def test_colours_are_read_and_marked_as_the_source_marks_them(tmp_path, given, pixels):
    video = Video(tagged(tmp_path / "a.mp4", *given, pixels))
    assert np.abs(video[0].astype(int) - (200, 60, 30)).max() <= 3
    for suffix, span in ((".mp4", given[3]), (".mov", 1)):  # ProRes knows no full range
        out = tmp_path / f"out{suffix}"
        copied(video, out)
        assert tags(out) == (*given[:3], span)
        assert np.abs(Video(out)[0].astype(int) - (200, 60, 30)).max() <= 4


def test_colours_that_are_not_marked_become_bt709(tmp_path):
    for name, pixels, codec in (("a.mp4", "yuv420p", "libx264"), ("a.mkv", "bgr0", "ffv1")):
        video = Video(
            encode(tmp_path / name, [np.full((*SIZE, 3), (200, 60, 30), np.uint8)] * 2, pixels=pixels, codec=codec)
        )
        copied(video, tmp_path / "out.mp4")
        assert tags(tmp_path / "out.mp4") == (1, 1, 1, 1)
        assert np.abs(Video(tmp_path / "out.mp4")[0].astype(int) - video[0]).max() <= 4

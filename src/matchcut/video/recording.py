"""Time stamps, colour tags and sound of a video file, for a video that is made of its frames."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from matchcut.errors import VideoError
from matchcut.video.decoding import open_container

UNSPECIFIED = 2
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""Of the matrices between RGB and YCbCr that FFmpeg can convert by, its number and its scaler's: BT.709, FCC, BT.470BG,
SMPTE 170M (both BT.601), SMPTE 240M, BT.2020."""
COPIED = {".mp4": {"aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"}, ".mov": {"aac", "mp3", "ac3", "eac3", "alac"}}
"""Sound that goes into a file as it is, since what plays the file plays it."""
RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
SKEW = 2  # seconds by which streams of one file may lie apart
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


@dataclass(frozen=True)
class ColourTags:
    """Colour tags: the code points of H.273 (and of FFmpeg, whose range is 1 limited, 2 full)."""

    matrix: int = 1
    primaries: int = 1
    transfer: int = 1
    range: int = 1

    @classmethod
    def of(cls, frame: Any) -> "ColourTags":
        """The tags for a video made of a decoded frame: as it states them, BT.709 where it states nothing."""
        matrix, primaries, transfer = int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc)
        if matrix in MATRICES and not frame.format.is_rgb:
            return cls(matrix, primaries, transfer, 2 if frame.color_range == 2 else 1)
        return cls(1, *(1 if one in (0, UNSPECIFIED, 3) else one for one in (primaries, transfer)))


@dataclass(frozen=True)
class Recording:
    """The part of a video file that some frames of it make up."""

    path: Path
    colours: ColourTags
    stamps: list[int]
    """When each frame is shown, in units of `time_base`, on the file's own clock."""
    end: int
    """When the last one is no longer shown."""
    time_base: Fraction
    complete: bool
    """Whether no frame between the first and the last is left out."""

    def stamp(self, count: int) -> int:
        """When frame `count` is shown, from the first on."""
        beyond = count - len(self.stamps)
        at = self.stamps[count] if beyond < 0 else self.end + beyond
        return at - self.stamps[0]


class Sound:
    """The sound of a recording on its way into a file that is being written.

    Copied packet by packet where the file can hold it, else encoded anew: AAC in `.mp4`, PCM in `.mov`.
    """

    def __init__(self, recording: Recording, container: Any, suffix: str) -> None:
        """Add a stream to `container` for each one of sound; nothing is written yet."""
        self.recording, self.container, self.suffix = recording, container, suffix
        self.start = recording.stamps[0] * recording.time_base
        self.length = recording.end * recording.time_base - self.start
        self.lost = False
        """Whether some of the sound could not be kept."""
        self._tracks: dict[int, _Copied | _Encoded] = {}
        self._source: Any = None
        self._packets: Iterator[Any] = iter(())
        self._held: Any = None
        try:
            self._open()
        except (VideoError, av.FFmpegError, ValueError, OSError):
            self.lost = True
            self.close()

    def _open(self) -> None:
        self._source = open_container(self.recording.path)
        for stream in self._source.streams.audio:
            codec = stream.codec_context
            if codec is None or not codec.sample_rate:
                self.lost = True
            elif codec.codec.canonical_name in COPIED[self.suffix]:
                self._tracks[stream.index] = _Copied(self.container.add_stream_from_template(stream), self.start)
            else:
                self._tracks[stream.index] = _Encoded(self.container, stream, self.suffix, self.start, self.length)
        if not self._tracks:
            self.close()
            return
        if self.start > 1:
            with suppress(av.FFmpegError):  # else it is read from the beginning
                self._source.seek(int((self.start - 1) * av.time_base), backward=True)
        self._packets = self._source.demux([self._source.streams[index] for index in self._tracks])

    def until(self, seconds: Fraction | None) -> Iterator[Any]:
        """The packets to write up to a time of the video in seconds; with None all that are left."""
        while (packet := self._next()) is not None:
            at = Fraction(0) if packet.pts is None else packet.pts * packet.time_base - self.start
            if at > self.length + SKEW:
                break
            if seconds is not None and at > seconds:
                self._held = packet
                return
            if at < self.length:
                yield from self._made(packet, self._tracks[packet.stream_index])
        if seconds is None:
            for track in self._tracks.values():
                yield from self._made(None, track)

    def _next(self) -> Any:
        held, self._held = self._held, None
        try:
            while held is None and (packet := next(self._packets, None)) is not None:
                held = packet if packet.size else None
        except (av.FFmpegError, OSError):
            self.lost = True
        return held

    def _made(self, packet: Any, track: "_Copied | _Encoded") -> list[Any]:
        try:
            return [*track.of(packet)]
        except (av.FFmpegError, ValueError, OSError):
            if packet is None or packet.pts is None or packet.pts * packet.time_base >= self.start:
                self.lost = True  # what comes before may begin within a frame of sound
            return []

    def close(self) -> None:
        """Close the recording; what comes later is silent."""
        self._tracks, self._packets, self._held = {}, iter(()), None
        if self._source is not None:
            self._source.close()
            self._source = None


class _Copied:
    def __init__(self, target: Any, start: Fraction) -> None:
        self.target, self.start = target, start

    def of(self, packet: Any) -> Iterator[Any]:
        if packet is None or packet.pts is None:
            return
        offset = round(self.start / packet.time_base)
        if packet.pts + (packet.duration or 0) <= offset:
            return
        packet.pts -= offset
        packet.dts = packet.pts if packet.dts is None else packet.dts - offset
        packet.stream = self.target
        yield packet


class _Encoded:
    def __init__(self, container: Any, source: Any, suffix: str, start: Fraction, length: Fraction) -> None:
        deep = source.format.bytes > 2
        name, form = ("aac", "fltp") if suffix == ".mp4" else ("pcm_s24le", "s32") if deep else ("pcm_s16le", "s16")
        rate = source.rate if source.rate in RATES else 48000
        layout = LAYOUTS.get(source.channels, "stereo")
        self.source, self.target = source, container.add_stream(name, rate=rate, layout=layout)
        self.target.codec_context.format = form
        self.steps = [
            ("atrim", {"start": f"{float(start):.6f}", "duration": f"{float(length):.6f}"}),
            ("asetpts", {"expr": f"PTS-{float(start):.6f}/TB"}),
            ("aresample", {"async": "1"}),  # fills gaps
            ("aformat", {"sample_fmts": form, "sample_rates": str(rate), "channel_layouts": layout}),
            ("abuffersink", {}),
        ]
        self.graph: Any = None
        self.taken: tuple[Any, ...] = ()

    def of(self, packet: Any) -> Iterator[Any]:
        for frame in self.source.decode(packet):
            form = (frame.sample_rate, frame.format.name, frame.layout.name, frame.time_base)
            if form != self.taken:  # at the beginning, and where a broadcast changes it
                yield from self._flushed()
                self.taken, self.graph = form, self._graph(*form)
            self.graph.push(frame)
            yield from self._encoded()
        if packet is None:
            yield from self._flushed()
            yield from self.target.encode(None)

    def _graph(self, rate: int, form: str, layout: str, time_base: Fraction) -> Any:
        graph = av.filter.Graph()
        begin = graph.add_abuffer(sample_rate=rate, format=form, layout=layout, time_base=time_base)
        graph.link_nodes(begin, *(graph.add(kind, **given) for kind, given in self.steps)).configure()
        return graph

    def _flushed(self) -> Iterator[Any]:
        if self.graph is not None:
            self.graph.push(None)
            yield from self._encoded()

    def _encoded(self) -> Iterator[Any]:
        while True:
            try:
                frame = self.graph.pull()
            except (av.BlockingIOError, EOFError):
                return
            yield from self.target.encode(frame)

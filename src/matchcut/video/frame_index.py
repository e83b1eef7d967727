"""Frame index of a video file: time stamps and key frames, without decoding where that is safe.

A demux pass reads every packet's time stamp (about 40 ms a thousand packets): the frames, the key frames, the length.
Where packets are known not to be frames one to one (fields, hidden frames, no time stamps, a recording that starts
inside a group of pictures) the file is decoded once instead, which is slower and always right.
"""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av

from matchcut.video.decoding import decode, open_container, video_stream

ONE_PACKET_ONE_FRAME = {"h264", "hevc", "av1", "vp9", "ffv1", "prores", "mjpeg", "dnxhd", "png", "qtrle", "rawvideo"}
INDEXED_FORMATS = {"mov", "matroska", "mpegts", "flv"}
SOUGHT_FORMATS = INDEXED_FORMATS | {"avi"}  # in others a seek may pass a wrong time stamp: they decode from the start


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one file in the order they are shown."""

    total: int
    """Frames that are there."""
    stated: int
    """Frames that should be there: `total`, or more for a truncated or damaged file."""
    pts: list[int] | None
    """Time stamp of each frame in stream units, increasing; None: frames can only be counted from the first."""
    keys: list[int]
    """Frames where decoding can start, increasing, the first of them 0."""
    seeks: list[int]
    """For each of `keys` the time stamp to seek to."""
    skip: tuple[int | None, int | None] | None = None
    """(pts, dts) of a last packet that was cut: fed to the decoder it would cost the frames before it."""
    safe: int = 0
    """Frames whose index is certain: behind a cut, a frame that was to come between two others can be missing."""


@dataclass
class PacketScan:
    """The result of a demux pass: the packets of the video stream, and what the container states."""

    packets: list[tuple[int | None, int | None, bool]]  # pts, dts, key; of those that are shown, in file order
    skip: tuple[int | None, int | None] | None
    stated: int
    rate: Fraction | None
    time_base: Fraction
    by_pts: bool
    can_seek: bool
    clean: bool

    def index(self) -> FrameIndex:
        """The frames as the packets give them; only for a clean file."""
        # Matroska finds a key frame by when it is shown, the others by when it is decoded.
        shown = sorted(
            (pts, pts if self.by_pts or dts is None else dts, key) for pts, dts, key in self.packets if pts is not None
        )
        total = len(shown)
        keys = [at for at, (_, _, key) in enumerate(shown) if key]
        seeks = [shown[at][1] for at in keys]
        if not keys or keys[0] != 0:
            keys, seeks = [0, *keys], [shown[0][0] if shown else 0, *seeks]
        last = max((dts for _, dts, _ in self.packets if dts is not None), default=0)
        safe = total if self.stated <= total else bisect_right([pts for pts, _, _ in shown], last)
        return FrameIndex(total, max(total, self.stated), [pts for pts, _, _ in shown], keys, seeks, self.skip, safe)


def scan_packets(path: Path) -> PacketScan:
    """Read the packets of a file without decoding them.

    Raises:
        VideoError: not a video.
    """
    with open_container(path) as container:
        stream = video_stream(container, path)
        form = container.format.name.split(",")[0]
        entries = list(stream.index_entries) if form == "mov" else []
        duration = container.duration / av.time_base if container.duration else 0.0
        time_base, rate = stream.time_base, stream.average_rate
        if rate is not None and rate <= 0:
            rate = None
        packets: list[tuple[int | None, int | None, bool]] = []
        corrupt, end, hidden, first_is_key, rising, last_dts = False, 0.0, 0, False, True, None
        try:
            for packet in container.demux() if form == "flv" else container.demux(stream):
                if packet.size == 0:
                    continue
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index != stream.index:
                    continue
                if not packets and not hidden:
                    first_is_key = packet.is_keyframe
                if packet.dts is not None:
                    rising = rising and (last_dts is None or packet.dts > last_dts)
                    last_dts = packet.dts
                corrupt = packet.is_corrupt
                if packet.is_discard:
                    hidden += 1
                else:
                    packets.append((packet.pts, packet.dts, packet.is_keyframe))
        except av.FFmpegError:
            pass  # a read error ends the file where it happens; what is stated shows that
        skip = packets.pop()[:2] if corrupt and packets and form != "mpegts" else None
        there = len(packets)
        stated = there + (skip is not None)
        promised = max((entry.pos + entry.size for entry in entries), default=0) or _promised_size(path)
        short = promised > path.stat().st_size or (form == "flv" and end + 0.5 < duration)
        if short:
            missing = (
                len(entries) - hidden if entries else stream.frames or round(there * duration / (end or duration or 1))
            )
            stated = max(there + 1, missing)
        pts = [value for value, _, _ in packets]
        known = [value for value in pts if value is not None]
        one_to_one = form in INDEXED_FORMATS and stream.codec_context.name in ONE_PACKET_ONE_FRAME
        unique = len(known) == len(pts) == len(set(known))
        clean = one_to_one and unique and rising and first_is_key and bool(known)
        if clean and not hidden:
            clean = min(known) == known[0]  # frames shown before the first key frame may not decode
    return PacketScan(packets, skip, stated, rate, time_base, form == "matroska", form in SOUGHT_FORMATS, clean)


def decoded_index(path: Path, scan: PacketScan, *, lenient: bool) -> FrameIndex:
    """The frames of a file by decoding all of it once: about 1 ms a frame at 720p."""
    pts: list[int | None] = []
    keys: list[int] = []
    damaged = False
    with open_container(path) as container:
        stream = video_stream(container, path)
        try:
            for frame in decode(container, stream, scan.skip, lenient=lenient):
                if frame.key_frame:
                    keys.append(len(pts))
                pts.append(frame.pts)
        except av.FFmpegError:
            damaged = True
    total = len(pts)
    # Packets are not frames here, so only what the container itself states beyond its packets, or an error, is missing.
    missing = max(scan.stated - len(scan.packets), int(damaged))
    known = [value for value in pts if value is not None]
    if len(known) == total and all(a < b for a, b in pairwise(known)):
        keys = ([] if keys[:1] == [0] else [0]) + keys if scan.can_seek else [0]
        seeks = [known[at] for at in keys] if known else [0]
        return FrameIndex(total, total + missing, known, keys, seeks, scan.skip, total)
    return FrameIndex(total, total + missing, None, [0], [0], scan.skip, total)


def _promised_size(path: Path) -> int:
    """The file size in bytes that a Matroska, WebM or AVI header states; 0 where it states none."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little") if head[4:8] != b"\xff" * 4 else 0
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return 0
    header, start = _ebml_size(head, 4)
    at = start + header
    if head[at : at + 4] != b"\x18\x53\x80\x67":  # the segment, which holds everything else
        return 0
    size, start = _ebml_size(head, at + 4)
    return start + size if size else 0


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """(size, where the content starts) of the EBML element whose size field is at `at`; size 0 where it is unknown."""
    if at >= len(data) or data[at] == 0:
        return 0, at
    length = 9 - data[at].bit_length()
    bits = 7 * length
    value = int.from_bytes(data[at : at + length], "big") & ((1 << bits) - 1)
    return (0 if value == (1 << bits) - 1 else value), at + length

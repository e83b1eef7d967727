"""Frames that come once: Y4M on standard input, cameras, network streams."""

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import VideoReformatter

from matchcut.errors import VideoError
from matchcut.masks import Frame
from matchcut.video.decoding import (
    decode,
    decode_in_parallel,
    open_av,
    orientation_of,
    to_rgb,
    truncated_stream,
    video_stream,
)

CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


class StreamFrames:
    """Every `stride`-th frame of a stream from number `start` up to `end`, read once and in order."""

    def __init__(self, source: str, *, start: int, end: int | None, stride: int, lenient: bool) -> None:
        """Open the stream and wait for its first selected frame.

        Raises:
            VideoError: it cannot be opened, or ends before that frame.
        """
        self.source = "standard input" if source == "-" else source
        self._end, self._stride, self._lenient = end, stride, lenient
        self._reformatter = VideoReformatter()
        self._used = False
        self._container = _open(source, self.source)
        try:
            decode_in_parallel(self._container)
            stream = video_stream(self._container, self.source)
            self._frames = self._numbered(stream)
            first = next((pair for pair in self._frames if pair[0] >= start), None)
        except BaseException:
            self._container.close()
            raise
        if first is None:
            self._container.close()
            raise VideoError(f"{self.source}: ended before frame {start}; is it Y4M, and was anything sent?")
        self._first = first
        self._orientation = orientation_of(first[1])
        self.frame_rate: Fraction = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.size: tuple[int, int] = self._rgb(first[1]).shape[:2]

    def read(self) -> Iterator[Frame]:
        """The selected frames, (H, W, 3) uint8 RGB.

        Raises:
            VideoError: read before, or the stream changes its size.
            TruncatedVideoError: the stream breaks, unless truncated ones are allowed.
        """
        if self._used:
            raise VideoError(f"{self.source}: a stream can be read only once; record it to a file first")
        self._used = True
        return self._selected()

    def _selected(self) -> Iterator[Frame]:
        wanted, held = self._first
        yield self._rgb(held)
        wanted += self._stride
        if self._end is not None and wanted >= self._end:
            return
        for number, frame in self._frames:
            if number < wanted:
                continue
            yield self._rgb(frame)
            wanted += self._stride
            if self._end is not None and wanted >= self._end:
                return

    def close(self) -> None:
        """Close the stream."""
        self._container.close()

    def _rgb(self, frame: Any) -> Frame:
        image = to_rgb(frame, self._orientation, self._reformatter)
        size = getattr(self, "size", image.shape[:2])
        if image.shape[:2] != size:
            raise VideoError(f"{self.source}: the stream changed its size; restart it")
        return image

    def _numbered(self, stream: Any) -> Iterator[tuple[int, Any]]:
        number = 0
        try:
            for frame in decode(self._container, stream, None, lenient=self._lenient):
                yield number, frame
                number += 1
        except (av.FFmpegError, OSError) as error:
            if not self._lenient:
                raise truncated_stream(self.source, number) from error


class _ReadOnly:
    """A pipe as PyAV needs it: a file that does not claim to seek."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, count: int) -> bytes:
        data: bytes = self.file.read(count)
        return data


def _open(source: str, shown: str) -> Any:
    try:
        if source == "-":
            return open_av(_ReadOnly(sys.stdin.buffer), format="yuv4mpegpipe")
        if source.isdecimal() or source.startswith("/dev/video"):
            device = f"/dev/video{source}" if source.isdecimal() and sys.platform == "linux" else source
            return open_av(device, format=CAMERAS.get(sys.platform, "v4l2"))
        return open_av(Path(source) if "://" not in source else source, timeout=(10.0, 30.0))
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = "raw Y4M is expected, as ffmpeg -f yuv4mpegpipe writes it" if source == "-" else "check the address"
        raise VideoError(f"{shown}: cannot be opened ({reason}); {what}") from error

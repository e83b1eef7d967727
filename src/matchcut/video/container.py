"""Video files: frames by index, each exactly the one that sequential decoding gives."""

from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import VideoReformatter

from matchcut.errors import VideoError
from matchcut.masks import Frame
from matchcut.video.decoding import decode, open_container, orientation_of, to_rgb, truncated, video_stream
from matchcut.video.frame_index import FrameIndex, decoded_index, scan_packets
from matchcut.video.frames import FramesOfFile
from matchcut.video.recording import ColourTags, Recording


class FileFrames(FramesOfFile):
    """Frames of one video file by their original index. Not for use by several threads at once."""

    def __init__(self, path: Path, *, allow_truncated: bool = False) -> None:
        """Open `path` and list its frames.

        With `allow_truncated` the file is decoded once, so that `total` is the number of frames that really come.

        Raises:
            VideoError: not a video, no video stream, or no frame that decodes.
        """
        super().__init__(path)
        self.lenient = allow_truncated
        first = _first_frame(path)
        scan = scan_packets(path)
        if allow_truncated or first.interlaced_frame or not scan.clean:
            self.index = decoded_index(path, scan, lenient=allow_truncated)
        else:
            self.index = scan.index()
        if self.index.total == 0:
            raise VideoError(f"{path}: no frame of this video decodes; is it complete?")
        self.total = self.index.total if allow_truncated else self.index.stated
        self.frame_rate = _average_rate(self.index, scan.rate, scan.time_base)
        self.time_base = scan.time_base
        self.colours = ColourTags.of(first)
        self.orientation = orientation_of(first)
        self.size = _turned_size((first.height, first.width), self.orientation)
        self._position = {value: at for at, value in enumerate(self.index.pts)} if self.index.pts is not None else None

    def check(self, last: int) -> None:
        """Raise TruncatedVideoError unless the frame `last` is surely there."""
        if last >= self.index.safe:
            raise truncated(self.path, self.index.total, self.index.stated)

    def cursor(self) -> "_Cursor":
        """The file, opened anew."""
        return _Cursor(self)

    def decoded_from(self, index: int) -> int:
        """The key frame that decoding starts from to reach frame `index`."""
        return self.index.keys[self.key_before(index)]

    def recording(self, indices: range) -> Recording:
        """Time stamps, colours and sound of the frames of `indices`, in rising order, for a video made of them."""
        pts = self.index.pts
        time_base = 1 / self.frame_rate if pts is None else self.time_base
        stamps = list(indices) if pts is None else [pts[index] for index in indices]
        behind = indices[-1] + 1
        frame = round(1 / self.frame_rate / time_base)
        end = stamps[-1] + frame if pts is None or behind >= len(pts) else pts[behind]
        return Recording(self.path, self.colours, stamps, end, time_base, indices.step == 1)

    def key_before(self, index: int) -> int:
        """The place in `index.keys` of the key frame before a frame."""
        return bisect_right(self.index.keys, index) - 1

    def position(self, frame: Any, counted: int) -> int | None:
        """The index of a decoded frame; None for one that is not shown. `counted` frames came before it."""
        return counted if self._position is None else self._position.get(frame.pts)


class _Cursor:
    """An open decoder that reads forwards, and seeks only where that is shorter or the only way."""

    def __init__(self, source: FileFrames) -> None:
        self.source = source
        self.container: Any = None
        self.frames: Iterator[Any] | None = None
        self.next = 0  # index of the frame the decoder gives next
        self.last: tuple[int, Any] | None = None
        self.reformatter = VideoReformatter()

    def frame(self, index: int) -> Frame:
        image = to_rgb(self._decoded(index), self.source.orientation, self.reformatter)
        if image.shape[:2] != self.source.size:
            height, width = self.source.size
            raise VideoError(
                f"{self.source.path}: frame {index} is {image.shape[1]}x{image.shape[0]} where the first is "
                f"{width}x{height}; convert the video to one size"
            )
        return image

    def _decoded(self, index: int) -> Any:
        if self.last is not None and self.last[0] == index:
            return self.last[1]
        key = self.source.key_before(index)
        near = self.frames is not None and self.next <= index and self.source.index.keys[key] <= self.next
        # The decoder as it stands, else the key frame, else (some containers seek too far) ones before it, else all.
        starts = ([None] if near else []) + [*range(key, max(0, key - 3), -1), 0]
        for start in starts:
            if start is not None:
                self._start(start)
            frame = self._advance(index)
            if frame is not None:
                self.last = (index, frame)
                return frame
        raise truncated(self.source.path, min(index, self.source.index.total), self.source.index.stated)

    def _start(self, key: int) -> None:
        index = self.source.index
        self.frames = self.last = None
        if self.container is None or key == 0:
            self.close()
            self.container = open_container(self.source.path)
        stream = video_stream(self.container, self.source.path)
        if key > 0:
            self.container.seek(index.seeks[key], stream=stream, backward=True)
        self.frames = decode(self.container, stream, index.skip, from_key=key > 0, lenient=self.source.lenient)
        self.next = index.keys[key]

    def _advance(self, index: int) -> Any:
        assert self.frames is not None
        counted = self.next
        try:
            for frame in self.frames:
                at = self.source.position(frame, counted)
                counted += 1
                if at is None or at < index:
                    continue
                self.next = at + 1
                if at == index:
                    return frame
                break
        except av.FFmpegError:
            pass
        self.frames = None
        return None

    def close(self) -> None:
        self.frames = None
        self.last = None
        if self.container is not None:
            self.container.close()
            self.container = None


def _turned_size(size: tuple[int, int], orientation: tuple[int, bool]) -> tuple[int, int]:
    return (size[1], size[0]) if orientation[0] % 2 else size


def _first_frame(path: Path) -> Any:
    with open_container(path) as container:
        stream = video_stream(container, path)
        for frame in decode(container, stream, None, lenient=True):
            return frame
    raise VideoError(f"{path}: no frame of this video decodes; is it complete?")


def _average_rate(index: FrameIndex, stated: Fraction | None, time_base: Fraction) -> Fraction:
    """The stated frame rate, unless the time stamps differ: the stated one may be that of the shortest frames."""
    if index.pts is None or index.total < 5:
        return stated or Fraction(25)
    measured = Fraction(index.total - 1, index.pts[-1] - index.pts[0]) / time_base
    if stated is not None and abs(measured / stated - 1) < 0.02:
        return stated
    return measured.limit_denominator(1001)

"""Video: the frames of a file, folder, glob or stream under one interface."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from matchcut.errors import VideoError
from matchcut.masks import Frame
from matchcut.video.frames import Frames
from matchcut.video.sources import is_stream, open_frames, source_of, stream_name

if TYPE_CHECKING:
    from matchcut.video.recording import Recording

STAMPED = 1 << 16
"""Bytes at each end of a file by which it is known."""


class Video:
    """Frames of a file, folder, glob or stream: decoded when asked for, addressed by index, never all in memory.

    `source` is a video file (anything PyAV decodes), an image file (all of its pictures), a folder of images or a glob
    (natural sort), a `file:` URL of one of these, a list of image files (as they come), an array (T, H, W, 3) or a list
    of arrays (H, W, 3), uint8 RGB, `-` (raw Y4M on standard input), or a camera or stream URL (`0`, `/dev/video0`,
    `rtsp://...`). `start`, `end` and `stride` select frames as a slice does, by original index; a video's indices are
    then those of the selection.

    A frame is uint8 RGB (H, W, 3), turned as the file's rotation or EXIF asks; the sample aspect ratio is ignored,
    alpha dropped. More than 8 bits become 8: in a video by its own depth, in image files by the highest bit that the
    clip uses, by one scale for all (12 bits in 16 come as 12). Random access is exact, with B-frames and variable frame
    rates too. Standard input, cameras and network streams are not `seekable`: they have no length and are iterated
    once.

    A file that holds fewer frames than its container states, or that stops decoding, raises TruncatedVideoError: at
    once where the container shows it and a selected frame is missing, else when the missing frame is read. With
    `allow_truncated` it does not, and the length is the number of frames that really come, for which opening decodes
    the file once. A container that states no size (MPEG-TS, a raw stream) simply ends where it was cut.

    One Video serves one thread at a time; iterators of one Video do not disturb each other.

    Attributes:
        source: what was opened: a path, a URL, "-", of a list of files their folder, "arrays".
        name: a stem for the output folder; "stdin" for `-`.
        size: (H, W) of every frame in pixels.
        frame_rate: average frames a second, divided by `stride`; 24 for images and arrays that state none.
        seekable: whether it has a length and random access.

    Raises:
        VideoError: no such file, not a video, no frame, frames of several sizes, or an empty selection.
        TruncatedVideoError: see above.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path] | Sequence[Frame] | np.ndarray[Any, Any],
        *,
        start: int = 0,
        end: int | None = None,
        stride: int = 1,
        allow_truncated: bool = False,
    ) -> None:
        what = source_of(source)
        self._files = what if isinstance(what, list) else None
        self.source = what if isinstance(what, str) else str(what[0].parent) if isinstance(what, list) else "arrays"
        if stride < 1:
            raise VideoError(f"{self.source}: a stride of {stride} selects nothing; give 1 or more")
        self._frames: Frames | None = None
        self._stream: Any = None
        self._selection = range(0)
        if isinstance(what, str) and is_stream(what):
            from matchcut.video.stream import StreamFrames

            if start < 0 or (end is not None and end <= start):
                raise VideoError(f"{self.source}: start {start} and end {end} select no frame of a stream")
            self.name = stream_name(self.source)
            self._stream = StreamFrames(self.source, start=start, end=end, stride=stride, lenient=allow_truncated)
            self._first_number, self._stride = start, stride
            self.size: tuple[int, int] = self._stream.size
            self.frame_rate = Fraction(self._stream.frame_rate) / stride
        else:
            self.name, self._frames = open_frames(what, allow_truncated)
            self._selection = range(self._frames.total)[slice(start, end, stride)]
            if not self._selection:
                last = "the end" if end is None else end
                total = self._frames.total
                self._frames.close()
                raise VideoError(f"{self.source}: has {total} frames; {start} to {last} selects none of them")
            self._frames.check(self._selection[-1])
            self.size = self._frames.size
            self.frame_rate = Fraction(self._frames.frame_rate) / stride

    @property
    def seekable(self) -> bool:
        """Whether the video has a length and random access."""
        return self._frames is not None

    @property
    def selection(self) -> tuple[int, int, int]:
        """Start, end and stride of the frames that were selected."""
        return self._selection.start, self._selection.stop, self._selection.step

    def __len__(self) -> int:
        """Number of selected frames.

        Raises:
            VideoError: a stream, whose length is not known.
        """
        self._addressed("has no known length")
        return len(self._selection)

    def __getitem__(self, index: int) -> Frame:
        """Frame `index` of the selection, uint8 RGB (H, W, 3); negative ones count from the end.

        Raises:
            IndexError: there is no such frame.
            VideoError: a stream, or a frame that cannot be read.
        """
        frames = self._addressed("cannot be read by index")
        try:
            original = self._selection[index]
        except IndexError:
            raise IndexError(f"{self.source}: no frame {index}; it has {len(self._selection)}") from None
        return frames.get(original)

    def __iter__(self) -> Iterator[Frame]:
        """Every selected frame in turn."""
        return (frame for _, frame in self.frames())

    def frames(self, start: int = 0, step: int = 1) -> Iterator[tuple[int, Frame]]:
        """(index, frame) from index `start` on, every `step`-th; each frame is decoded about once.

        `step` may be negative, which walks backwards in bounded memory; `start=-1, step=-1` is the whole video
        reversed. `start == len(video)` gives nothing, for a caller that goes on behind the last frame.

        Raises:
            IndexError: no frame `start`.
            ValueError: `step` is 0.
            VideoError: a stream that was read before or is to be read backwards, or a frame that cannot be read.
        """
        if step == 0:
            raise ValueError("step must not be 0")
        if self._frames is None:
            if step < 0 or start < 0:
                raise VideoError(f"{self.source}: a stream is read forwards only; record it to a file first")
            return islice(enumerate(self._stream.read()), start, None, step)
        total = len(self._selection)
        if not -total <= start <= total:
            raise IndexError(f"{self.source}: no frame {start}; it has {total}")
        start = start + total if start < 0 else start
        if start == total:
            return iter(())
        indices = range(total)[start::step]
        return zip(indices, self._frames.read(self._selection[start::step]), strict=True)

    def frame_name(self, index: int) -> str:
        """The name of frame `index` in outputs: the stem of its image file, or its original number in 5 digits."""
        if self._frames is None:
            return f"{self._first_number + index * self._stride:05d}"
        return self._frames.name(self._selection[index])

    def recording(self) -> "Recording | None":
        """Time stamps, colours and sound of the selected frames, where they are of a video file; else None."""
        from matchcut.video.container import FileFrames

        return self._frames.recording(self._selection) if isinstance(self._frames, FileFrames) else None

    @cached_property
    def files(self) -> list[Path]:
        """The files that the selected frames lie in, in order; none of a stream."""
        frames = self._frames
        found = dict.fromkeys(frames.file(index) for index in self._selection) if frames is not None else {}
        return [file for file in found if file is not None]

    def stamp(self) -> str:
        """A hash of what the input is when it is first asked for: of its files names, sizes, and the first and last
        64 KiB, whenever they were written and wherever they lie; of arrays the first and the last frame.

        Raises:
            VideoError: one is no longer there.
        """
        return self._stamp

    @cached_property
    def _stamp(self) -> str:
        whole = hashlib.blake2b(digest_size=16)
        try:
            for path in self.files:
                with path.open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    whole.update(f"{path.name} {size}\n".encode(errors="surrogateescape"))
                    for start in {0, max(size - STAMPED, 0)}:
                        file.seek(start)
                        whole.update(file.read(STAMPED))
        except OSError as error:
            raise VideoError(f"{error.filename}: is no longer there ({error.strerror}); restore it") from error
        if not self.files and self.seekable:
            for index in (0, len(self) - 1):
                whole.update(self[index].tobytes())
        return whole.hexdigest()

    def names(self) -> list[str]:
        """The names of all frames.

        Raises:
            VideoError: a stream, whose length is not known.
        """
        return [self.frame_name(index) for index in range(len(self))]

    def file_name(self, index: int) -> str:
        """The name of the image file that is frame `index`; of a frame that is no file of its own, its `frame_name`."""
        from matchcut.video.images import ImageFrames

        frames = self._frames
        return frames.file(self._selection[index]).name if isinstance(frames, ImageFrames) else self.frame_name(index)

    def close(self) -> None:
        """Close the files it holds open; frames of a file can still be asked for and open it again."""
        for held in (self._frames, self._stream):
            if held is not None:
                held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size
        length = f"{len(self)} frames" if self.seekable else "a stream"
        return f"Video({self.source!r}: {length} of {width}x{height} at {float(self.frame_rate):.3g}/s)"

    def _addressed(self, problem: str) -> Frames:
        if self._frames is None:
            raise VideoError(f"{self.source}: a stream {problem}; iterate over it, or record it to a file first")
        return self._frames

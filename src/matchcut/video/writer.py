"""Writing videos and cut-out pictures, each whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.errors import OutputError
from matchcut.files import atomic_path, output_error
from matchcut.video.decoding import open_av
from matchcut.video.recording import MATRICES, ColourTags, Sound

if TYPE_CHECKING:
    from matchcut.video.reader import Video

Image = NDArray[np.uint8]


class VideoWriter:
    """Encodes frames to one video file, which appears under its name only when the `with` block ends without error.

        with VideoWriter("out/overlay.mp4", source=video) as writer:
            for frame in video:
                writer.write(frame)

    The suffix decides: `.mp4` is H.264 (yuv420p, crf 19, preset veryfast, faststart), of frames uint8 RGB (H, W, 3); an
    odd height or width is made even by repeating the last row or column, as yuv420p needs. `.mov` with `alpha` is
    ProRes 4444 of images uint8 RGBA (H, W, 4) of any size, its alpha straight.

    With `source`, the `Video` whose frames are written, in their order, each is shown when it is there, colours are
    marked as there (BT.709 where it says nothing), and the sound of a video file comes along: as it is, or encoded anew
    where the form cannot hold it (AAC in `.mp4`, PCM in `.mov`). Where frames between are left out there is no sound.

    `path`, `count` (frames written) and `note` (what of the sound is not kept and why, else None) can be read at any
    time.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_rate: Fraction | float | None = None,
        alpha: bool = False,
        source: "Video | None" = None,
    ) -> None:
        """Check the form; nothing is written before the block is entered and the first frame comes.

        Args:
            frame_rate: of the source where it is None, else 24.

        Raises:
            OutputError: a suffix that does not go with `alpha`, or a frame rate that is not positive.
        """
        self.path = Path(path)
        self.count = 0
        self.alpha = alpha
        wanted = ".mov" if alpha else ".mp4"
        if self.path.suffix.lower() != wanted:
            kind = "video with alpha" if alpha else "video"
            raise OutputError(f"cannot write {self.path}: a {kind} is written as {wanted}; change the suffix")
        if frame_rate is None:
            frame_rate = Fraction(24) if source is None else source.frame_rate
        self.frame_rate = Fraction(frame_rate).limit_denominator(1001)
        if self.frame_rate <= 0:
            raise OutputError(f"cannot write {self.path}: a frame rate of {frame_rate} is not positive")
        self._recording = None if source is None else source.recording()
        self._colours = ColourTags() if self._recording is None else self._recording.colours
        self._sound: Sound | None = None
        self.note: str | None = None
        self._file: AbstractContextManager[None] | None = None
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        self._file = self._opened()
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.__exit__(kind, error, trace)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """The file, from its first byte until it has its name, or is removed."""
        with atomic_path(self.path) as temporary:
            try:
                with _writing(self.path):
                    options = {} if self.alpha else {"movflags": "faststart"}
                    self._container = open_av(temporary, "w", options=options)
                yield
                with _writing(self.path):
                    self._finish()
            finally:  # what goes wrong in closing an unfinished file is less news than why
                self._end_sound()
                with suppress(av.FFmpegError, OSError, ValueError):
                    if self._container is not None:
                        self._container.close()

    def write(self, frame: Image) -> None:
        """Add one frame: uint8 (H, W, 3) RGB, or (H, W, 4) RGBA with `alpha`.

        Raises:
            OutputError: of another shape or type than the first, or the disk is full.
        """
        channels = 4 if self.alpha else 3
        size = frame.shape[:2]
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != channels or not frame.size:
            raise OutputError(
                f"cannot write {self.path}: frame {self.count} is {frame.dtype} {frame.shape}, "
                f"not uint8 (H, W, {channels})"
            )
        if self._container is None:
            raise OutputError(f"cannot write {self.path}: use the writer in a `with` block")
        if self._size not in (None, size):
            raise OutputError(f"cannot write {self.path}: frame {self.count} is {size}, the first was {self._size}")
        with _writing(self.path):
            if self._size is None:
                self._start(size)
            self._encode(frame)
        self.count += 1

    def _encode(self, frame: Image) -> None:
        if not self.alpha:
            frame = _even(frame)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba" if self.alpha else "rgb24")
        picture = picture.reformat(
            format=self._stream.pix_fmt,
            dst_colorspace=MATRICES[self._colours.matrix],
            dst_color_range=self._range,
        )
        picture.colorspace = self._colours.matrix
        picture.color_primaries, picture.color_trc = self._colours.primaries, self._colours.transfer
        picture.pts = self.count if self._recording is None else self._recording.stamp(self.count)
        picture.time_base = self._time_base
        if self._sound is not None:
            self._container.mux(list(self._sound.until(picture.pts * picture.time_base)))
        self._container.mux(self._stream.encode(picture))

    def _finish(self) -> None:
        if not self.count:
            raise OutputError(f"cannot write {self.path}: no frame was given")
        if self._sound is not None:
            self._container.mux(list(self._sound.until(None)))
        self._container.mux(self._stream.encode())
        container, self._container = self._container, None
        container.close()

    def _start(self, size: tuple[int, int]) -> None:
        height, width = size
        if self.alpha:
            stream = self._container.add_stream("prores_ks", rate=self.frame_rate, options={"profile": "4444"})
            stream.pix_fmt = "yuva444p10le"
        else:
            options = {"crf": "19", "preset": "veryfast"}
            stream = self._container.add_stream("libx264", rate=self.frame_rate, options=options)
            stream.pix_fmt = "yuv420p"
            height, width = height + height % 2, width + width % 2
        stream.height, stream.width = height, width
        codec = stream.codec_context
        codec.thread_type = "AUTO"
        codec.time_base = self._time_base
        codec.colorspace, codec.color_range = self._colours.matrix, self._range
        codec.color_primaries, codec.color_trc = self._colours.primaries, self._colours.transfer
        if self._recording is not None and self._recording.complete:
            self._sound = Sound(self._recording, self._container, self.path.suffix.lower())
        self._stream, self._size = stream, size

    @property
    def _time_base(self) -> Fraction:
        return 1 / self.frame_rate if self._recording is None else self._recording.time_base

    @property
    def _range(self) -> int:
        return 1 if self.alpha else self._colours.range  # ProRes knows but the limited one

    def _end_sound(self) -> None:
        if self._recording is not None and not self._recording.complete:
            self.note = f"{self.path.name} has no sound, since frames between are left out"
        elif self._sound is not None and self._sound.lost:
            self.note = f"{self.path.name} lacks sound of its source, which could not be read to the end or written"
        if self._sound is not None:
            self._sound.close()
            self._sound = None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of FFmpeg and of the system, as one of ours."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error
    except (av.FFmpegError, ValueError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def write_png(path: str | os.PathLike[str], image: Image) -> None:
    """Write an image, uint8 RGBA (H, W, 4), RGB (H, W, 3) or grey (H, W), as PNG, atomically.

    Raises:
        OutputError: another shape or type, or the file cannot be written.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise OutputError(f"cannot write {path}: an image of {image.dtype} {image.shape} is no uint8 picture")
    order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[channels]
    done, data = cv2.imencode(".png", image if order is None else cv2.cvtColor(image, order))
    if not done:
        raise OutputError(f"cannot write {path}: the image does not encode as PNG")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _even(frame: Image) -> Image:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return frame

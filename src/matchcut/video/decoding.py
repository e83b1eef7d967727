"""Decoding with PyAV: open, choose the video stream, decode, rotate, convert to RGB."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from matchcut.errors import TruncatedVideoError, VideoError
from matchcut.masks import Frame

NOT_VIDEO = {"tty", "bin", "xbin", "adf", "idf"}  # FFmpeg draws any text file as a video of a terminal
PICTURES = {"mjpeg", "png", "bmp", "gif"}  # codecs whose frames are whole pictures


def truncated_stream(source: object, there: int) -> TruncatedVideoError:
    """The error of a stream that breaks off."""
    return TruncatedVideoError(
        f"{source}: the stream broke off after {there} frames; --allow-truncated goes on with what is there"
    )


def truncated(source: object, there: int, stated: int) -> TruncatedVideoError:
    """The error of a video that ends, or cannot be decoded, before its last frame."""
    return TruncatedVideoError(
        f"{source}: the video ended after {there} of {stated} frames (cut short or damaged); "
        "--allow-truncated goes on with what is there"
    )


def video_stream(container: Any, source: object) -> Any:
    """The best video stream of a container.

    Pictures that go with a file (covers, thumbnails) and streams without a decoder are passed over. A single picture
    and a row of pictures (previews, as cameras add them) give way to others; then the default one is taken, then the
    largest, then the first.

    Raises:
        VideoError: there is none.
    """
    streams = [one for one in container.streams.video if not _is_side_picture(one)]
    known = [one for one in streams if one.codec_context is not None]
    if known:
        return max(known, key=_prominence)
    if streams:
        raise VideoError(f"{source}: has no video stream of a known form; convert it to H.264 first")
    raise VideoError(f"{source}: has no video stream (sound alone?); give a video or a folder of frames")


def _is_side_picture(stream: Any) -> bool:
    kind = type(stream.disposition)
    return bool(stream.disposition & (kind.attached_pic | kind.timed_thumbnails))


def _prominence(stream: Any) -> tuple[bool, bool, bool, int]:
    codec = stream.codec_context
    default = bool(stream.disposition & type(stream.disposition).default)
    return stream.frames != 1, codec.name not in PICTURES, default, codec.width * codec.height


def orientation_of(frame: Any) -> tuple[int, bool]:
    """(quarter turns counter-clockwise, mirrored left-right before turning) that a frame's display matrix asks for.

    Angles that are no quarter turn are ignored.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    matrix = np.frombuffer(bytes(data), dtype=np.int32)[[0, 1, 3, 4]].astype(np.int64)
    # x' = a x + c y, y' = b x + d y, with y downwards
    a, b, c, d = (int(np.sign(value)) if abs(value) > 1 << 15 else 0 for value in matrix)
    turns = {(1, 0): 0, (0, -1): 1, (-1, 0): 2, (0, 1): 3}
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return turns.get((a, b), 0), mirrored


def to_rgb(frame: Any, orientation: tuple[int, bool], reformatter: VideoReformatter) -> Frame:
    """A decoded frame as (H, W, 3) uint8 RGB, upright, to keep. Alpha and the sample aspect ratio are ignored."""
    converted = reformatter.reformat(frame, format="rgb24")
    image = converted.to_ndarray().astype(np.uint8, copy=converted is frame)  # the decoder's own may be used again
    turns, mirrored = orientation
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns))


def open_av(source: str | Path | Any, mode: Literal["r", "w"] = "r", **options: Any) -> Any:
    """`av.open` of an address, a file by its path or a file object, whatever its name and its tags hold.

    A path is told from an address, since FFmpeg takes what stands before a colon in a name for a protocol. Tags of old
    cameras and editors are seldom UTF-8.

    Raises:
        av.FFmpegError, OSError, ValueError: as `av.open`.
    """
    return av.open(f"file:{source}" if isinstance(source, Path) else source, mode, metadata_errors="replace", **options)


def open_container(path: Path) -> Any:
    """The PyAV container of a video file, to decode with all cores.

    Raises:
        VideoError: not a video file, or one without what is needed to decode it.
    """
    try:
        container = open_av(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path}: does not decode as a video ({reason}); is it complete, and a video?") from error
    if container.format.name in NOT_VIDEO:
        container.close()
        raise VideoError(f"{path}: is not a video; give a video file, a folder of frames, a glob or -")
    decode_in_parallel(container)
    return container


def decode_in_parallel(container: Any) -> None:
    """Let FFmpeg choose threads by frame or by slice; must come before anything is decoded."""
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.thread_type = "AUTO"


def decode(
    container: Any,
    stream: Any,
    skip: tuple[int | None, int | None] | None,
    *,
    from_key: bool = False,
    lenient: bool = False,
) -> Iterator[Any]:
    """Decoded frames of one stream, in the order they are shown.

    `skip` is the (pts, dts) of a cut packet to leave out, `from_key` leaves out what comes before the first key frame
    (some containers seek there), `lenient` goes on behind packets that do not decode.

    Raises:
        av.FFmpegError: a packet does not decode, unless `lenient`.
    """
    for packet in container.demux(stream):
        if packet.size:
            if from_key and not packet.is_keyframe:
                continue
            from_key = False
            if skip is not None and packet.is_corrupt and (packet.pts, packet.dts) == skip:
                continue
        try:
            yield from packet.decode()
        except av.FFmpegError:
            if not lenient:
                raise

"""Small real videos for the tests."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (48, 64)


def coloured(index, size=SIZE):
    """A frame whose every pixel tells its index: uint8 (H, W, 3)."""
    return np.broadcast_to(np.array([index * 7 % 256, index * 13 % 256, index], np.uint8), (*size, 3)).copy()


def noisy(index, size=SIZE):
    return np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)


def encode(
    path, frames, *, codec="libx264", pixels="yuv420p", gop=8, pts=None, options=None, container=None, rate=25
) -> Path:
    """Write frames; `pts` in milliseconds gives a variable frame rate."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = gop
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for at, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24" if frame.shape[2] == 3 else "rgba")
            if pts is not None:
                picture.pts, picture.time_base = pts[at], Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def lossless(path, count, *, gop=8, pts=None) -> Path:
    return encode(path, [coloured(i) for i in range(count)], codec="ffv1", pixels="bgr0", gop=gop, pts=pts)


def decoded(path):
    """Every frame by plain sequential decoding, the reference."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def sound(path, container_options=None) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def set_matrix(path, a, b, c, d):
    """Patch the display matrix in an MP4's track header: x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut(path, share=0.6) -> Path:
    """A copy with only the first `share` of its bytes."""
    data = path.read_bytes()
    short = path.with_name("cut_" + path.name)
    short.write_bytes(data[: int(len(data) * share)])
    return short

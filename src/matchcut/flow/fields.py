"""Optical flow: from two frames, from files, without the camera's own motion, and drawn as a picture.

A flow is (H, W, 2) float32: where each pixel of a frame lies in the other frame, as (right, down) in pixels from where
it is. DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016) is OpenCV's and needs no weights.
"""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.errors import VideoError
from matchcut.files import atomic_path
from matchcut.masks import Frame
from matchcut.video.images import read_image

Flow = NDArray[np.float32]

FILES = (".flo", ".npz", ".npy", ".png")
"""Suffixes of the files that flow is read from."""
STILL = 0.004
"""A pixel that moves by less, as a share of the frame's short side, counts as still; pictures are no more sensitive."""
_FLO = 202021.25  # the first number of every .flo file (Baker et al., "A Database and Evaluation Methodology", 2011)
_GRID = 12  # pixels between the points that a camera's motion is estimated from
_CUT_COLOURS, _CUT_PLACES = 0.4, 24.0  # see `is_cut`


def dis_flow(first: Frame, second: Frame) -> Flow:
    """Flow from one RGB frame to another of the same size by DIS, at OpenCV's "fast" preset."""
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (first, second)]
    if min(grey[0].shape) < 32:  # on smaller frames OpenCV's DIS may end the process
        return np.zeros((*grey[0].shape, 2), np.float32)
    opencv: Any = cv2  # whose types do not know it
    engine = opencv.DISOpticalFlow_create(opencv.DISOPTICAL_FLOW_PRESET_FAST)
    found: Flow = engine.calc(grey[0], grey[1], None)
    return found


def camera_flow(flow: Flow) -> Flow:
    """Camera motion: the flow of a homography fitted by RANSAC; zero where none fits."""
    height, width = flow.shape[:2]
    ys, xs = (one.ravel() for one in np.mgrid[_GRID // 2 : height : _GRID, _GRID // 2 : width : _GRID])
    points = np.stack([xs, ys], 1).astype(np.float32)
    if len(points) < 8:
        return np.zeros_like(flow)
    moved = points + flow[ys, xs]
    near = max(0.5, STILL * min(height, width))
    matrix, _ = cv2.findHomography(points, moved, cv2.USAC_MAGSAC, near, maxIters=500)
    if matrix is None or not np.isfinite(matrix).all():
        return np.zeros_like(flow)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    m = matrix.astype(np.float32)
    below = m[2, 0] * columns + m[2, 1] * rows + m[2, 2]
    if below.min() <= 0.1:  # no camera turns so far between two frames: the fit went wrong
        return np.zeros_like(flow)
    x = (m[0, 0] * columns + m[0, 1] * rows + m[0, 2]) / below - columns
    y = (m[1, 0] * columns + m[1, 1] * rows + m[1, 2]) / below - rows
    return np.stack([x, y], 2)


def motion_of(flow: Flow) -> float:
    """Speed: the 99th percentile over pixels, as a share of the short side; below `STILL` nothing moves."""
    speed = np.hypot(flow[..., 0], flow[..., 1])
    return float(np.percentile(speed[::2, ::2], 99)) / float(min(flow.shape[:2]))


def draw_flow(flow: Flow, largest: float | None = None) -> Frame:
    """The field's colour wheel (Baker et al., 2011): direction is hue, speed saturation, still pixels are white.

    Args:
        largest: the speed in pixels that is fully saturated; None takes the fastest hundredth of the pixels, or what
            counts as still, so that noise is not drawn as motion.
    """
    largest = largest or max(motion_of(flow), STILL) * min(flow.shape[:2])
    x, y = flow[..., 0] / largest, flow[..., 1] / largest
    radius = np.hypot(x, y)[..., None]
    wheel = _wheel()
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = place.astype(np.int32)
    share = (place - lower)[..., None].astype(np.float32)
    colour = (1 - share) * wheel[lower] + share * wheel[(lower + 1) % len(wheel)]
    colour = np.where(radius <= 1, 1 - radius * (1 - colour), 0.75 * colour)
    return (255 * colour).astype(np.uint8)


def _wheel() -> NDArray[np.float32]:
    """(55, 3) the colours of the wheel, in [0, 1]: from red over yellow, green, cyan, blue and magenta back."""
    steps = (15, 6, 4, 11, 13, 6)
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float32)
    parts = [
        a + (b - a) * np.arange(n, dtype=np.float32)[:, None] / n
        for (a, b), n in zip(pairwise(corners), steps, strict=True)
    ]
    return np.concatenate(parts)


def resize_flow(flow: Flow, size: tuple[int, int]) -> Flow:
    """A flow in another size (H, W), its vectors scaled alike."""
    height, width = flow.shape[:2]
    if (height, width) == size:
        return flow
    how = cv2.INTER_AREA if size[0] < height else cv2.INTER_LINEAR
    resized = cv2.resize(flow, size[::-1], interpolation=how)
    return np.asarray(resized * np.array([size[1] / width, size[0] / height], np.float32), np.float32)


def is_cut(first: Frame, second: Frame) -> bool:
    """Shot boundary detection: whether neither the colour histograms nor the pixels of two frames in a row agree."""
    small = [cv2.resize(one, (64, 36), interpolation=cv2.INTER_AREA) for one in (first, second)]
    hists = []
    for one in small:
        hsv = cv2.cvtColor(one, cv2.COLOR_RGB2HSV)
        hist = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 8], [0, 180, 0, 256, 0, 256])
        hists.append(cv2.normalize(hist, None, 1.0, 0.0, cv2.NORM_L1))  # type: ignore[call-overload]
    colours = cv2.compareHist(hists[0], hists[1], cv2.HISTCMP_BHATTACHARYYA)
    places = float(np.abs(small[0].astype(np.float32) - small[1]).mean())
    return colours > _CUT_COLOURS and places > _CUT_PLACES


def read_flow(path: Path, size: tuple[int, int]) -> Flow | Frame:
    """A flow of a frame of `size` (H, W) from a file: its numbers, or the picture that somebody has drawn of it.

    `.flo`; `.npy`, or `.npz` with one array, (H, W, 2) or (2, H, W) in pixels; `.png` of 16 bits as KITTI has it,
    (u, v, valid) with (value - 2^15) / 64, or of 8 bits, a picture by the colour wheel. Another size is brought to
    `size`.

    Raises:
        VideoError: missing, damaged, or of another form.
    """
    try:
        found = _read(path)
        if not found.size:
            raise ValueError("it is empty")
    except Exception as error:  # a damaged file can raise anything in its reader
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VideoError(f"{path}: cannot be read as optical flow ({reason}); make it again") from error
    if found.dtype == np.uint8:
        how = cv2.INTER_AREA if size[0] < found.shape[0] else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(found, size[::-1], interpolation=how), np.uint8)
    if not np.isfinite(found).all():
        raise VideoError(f"{path}: holds values that are not finite; make it again")
    return resize_flow(found.astype(np.float32), size)


def _read(path: Path) -> NDArray[np.float32] | Frame:
    suffix = path.suffix.lower()
    if suffix == ".flo":
        data = path.read_bytes()
        tag, width, height = struct.unpack("<fii", data[:12])
        if tag != _FLO or min(width, height) < 1:
            raise ValueError("it does not begin as a .flo file does")
        return np.frombuffer(data, "<f4", 2 * width * height, 12).reshape(height, width, 2).astype(np.float32)
    if suffix == ".png":
        deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3:
            made = (deep[..., 2:0:-1].astype(np.float32) - 2**15) / 64  # OpenCV has the channels the other way round
            return np.where(deep[..., :1] > 0, made, 0).astype(np.float32)
        try:
            return read_image(path)
        except VideoError as error:
            raise ValueError(str(error)) from error
    stored = np.load(path)  # pickles are refused
    if suffix == ".npz":
        if len(stored.files) != 1:
            raise ValueError(f"expected one array, it holds {len(stored.files)}")
        stored = stored[stored.files[0]]
    if stored.ndim == 3 and stored.shape[0] == 2 and stored.shape[2] != 2:
        stored = stored.transpose(1, 2, 0)
    if stored.ndim != 3 or stored.shape[2] != 2 or stored.dtype.kind != "f":
        raise ValueError(f"expected floating point (H, W, 2), got {stored.dtype} {stored.shape}")
    return np.asarray(stored, np.float32)


def write_flow(path: Path, flow: Flow) -> None:
    """Write a flow as `.flo`, or as `.npz` in half precision, which takes a third of the room.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        if path.suffix == ".flo":
            head = struct.pack("<fii", _FLO, flow.shape[1], flow.shape[0])
            temporary.write_bytes(head + np.ascontiguousarray(flow, "<f4").tobytes())
        else:
            with temporary.open("wb") as file:
                np.savez_compressed(file, flow=flow.astype(np.float16))

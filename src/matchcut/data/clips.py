"""Clips to learn from: which frames, and how they are cropped, flipped, shaken and coloured, all frames jointly.

What is drawn is a function of (seed, epoch, index) alone: neither workers, nor processes, nor a run that was resumed
change it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.data.footage import Footage, FrameReader
from matchcut.errors import DatasetError
from matchcut.masks import Frame

Maps = NDArray[np.float32]
"""(..., 2, 3): affine maps of points (x, y)."""

_ORDER, _CLIP = 1, 2  # what random numbers are for; not 0, as to NumPy the seeds (7,) and (7, 0) are the same
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class ClipConfig:
    """How clips are drawn."""

    length: int = 5
    """Frames of a clip."""
    stride: tuple[int, int] = (1, 1)
    """Smallest and largest distance between its frames, drawn a clip; less where the video is too short."""
    size: tuple[int, int] = (256, 256)
    """(H, W) of the crops in pixels."""
    side: int = 320
    """Short side in pixels to which larger frames are brought first."""
    views: int = 1
    """Crops of the same frames, each transformed on its own: 2 for learning what stays the same."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Share of the frame's area that a crop covers."""
    ratio: tuple[float, float] = (0.75, 1.3333)
    """Width by height of the crop in the frame, over that of `size`."""
    flip: float = 0.5
    """Probability of a view being mirrored left to right."""
    rotation: float = 0.0
    """Largest turn of a view in degrees."""
    shake: float = 0.0
    """Each frame on its own is shifted, scaled (shares of the crop) and turned (radians) by up to this."""
    jitter: float = 0.0
    """Brightness, contrast and saturation of a view are changed by up to this share."""
    clips: int = 0
    """Clips an epoch; 0: one a video."""
    cache: bool = False
    """Keep the decoded frames of image files on disk too; it changes no number."""

    def __post_init__(self) -> None:
        low, high = self.stride
        if self.length < 1 or self.views < 1 or min(self.size) < 1 or self.side < 1 or self.clips < 0:
            raise ValueError("length, views, size and side must be 1 or more, clips 0 or more")
        if not 1 <= low <= high:
            raise ValueError(f"stride {list(self.stride)}: expected two whole numbers of 1 or more, the smaller first")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)}: expected two shares above 0 and up to 1, the smaller first")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {list(self.ratio)}: expected two numbers above 0, the smaller first")
        if not (0 <= self.flip <= 1 and 0 <= self.jitter <= 1 and 0 <= self.shake < 1 and 0 <= self.rotation <= 180):
            raise ValueError("flip and jitter must be 0 to 1, shake 0 to below 1, rotation 0 to 180")


class VideoSamples:
    """What samples of videos have in common, whatever is drawn: `len` of them an epoch, each drawn by (epoch, index).

    Videos are taken in an order that is drawn anew each epoch, all once before one comes again, whatever their lengths;
    an index may exceed the length of the epoch, which goes on in this manner.
    """

    order_stream = _ORDER
    """What tells the random numbers of the order from others."""

    def __init__(self, videos: Sequence[Footage], config: ClipConfig, *, seed: int, cache: Path) -> None:
        self.videos, self.config, self.seed = videos, config, seed
        self._reader = FrameReader(videos, config.side, cache, keep_images=config.cache)
        self._order: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.config.clips or len(self.videos)

    def describe(self) -> str:
        """One line that differs where the videos do."""
        names = "\n".join(f"{one.name} {one.total}" for one in self.videos)
        total = sum(one.total for one in self.videos)
        return f"{len(self.videos)} videos, {total} frames, list {crc32(names.encode()):08x}"

    def unreadable(self, batch: Mapping[str, Any]) -> list[str]:
        """The names of the frames that drawing a batch met and could not read."""
        pairs = np.asarray(batch["unreadable"]).reshape(-1, 2).tolist()
        return [self.videos[video].frame_name(frame) for video, frame in pairs if video >= 0]

    def _video(self, epoch: int, index: int) -> int:
        turn, place = divmod(index, len(self.videos))
        if self._order is None or self._order[0] != (epoch, turn):
            order = np.random.default_rng((self.seed, epoch, turn, self.order_stream)).permutation(len(self.videos))
            self._order = ((epoch, turn), order)
        return int(self._order[1][place])


class Clips(VideoSamples):
    """Clips of some videos. Where a frame cannot be read, the nearest readable one of the video stands in; where none
    can, the next video."""

    def __init__(
        self, videos: Sequence[Footage], config: ClipConfig, *, seed: int, cache: Path, others: int = 0
    ) -> None:
        super().__init__(videos, config, seed=seed, cache=cache)
        self.others = others
        """Frames of other videos that come with each clip, to cut pieces out of."""

    def draw(self, epoch: int, index: int) -> dict[str, NDArray[Any]]:
        """Clip `index` of an epoch. V views, T frames:

        - `frames` (V, T, H, W, 3) uint8 RGB.
        - `maps` (V, T, 2, 3) float32: from a point (x, y) of the crop, in pixels, the corner of the first one being
          (0, 0) and its centre (0.5, 0.5), to the frame, whose corners are (0, 0) and (1, 1). Outside that the crop
          shows the frame mirrored at its border.
        - `video` () int64 and `indices` (T,) int64: which video of `videos`, which of its frames.
        - `unreadable` (T, 2) int64: video and frame of some that could not be read; -1 where there are none.
        - `seed` () int64: for random numbers of this clip's own.
        - `others` (N, H, W, 3) uint8, where `others` is not 0: crops of other videos, of its own if it is the only one.

        Raises:
            DatasetError: no frame of any video can be read.
            OutputError: the cache of decoded frames cannot be written.
        """
        random = np.random.default_rng((self.seed, epoch, index, _CLIP))
        first = self._video(epoch, index)
        failed: list[tuple[int, int]] = []
        for video in (*range(first, len(self.videos)), *range(first)):
            wanted = choose_frames(random, self.videos[video].total, self.config.length, self.config.stride)
            frames = {frame: self._nearest(video, frame, failed) for frame in sorted(set(wanted))}
            read = [found for frame in wanted if (found := frames[frame]) is not None]
            if len(read) == len(wanted):
                break
        else:
            raise DatasetError(f"{self.videos[0].name} and all others: not one frame can be read; check the files")
        pictures = [pixels for _, pixels in read]
        views = [draw_view(random, self.config, pictures) for _ in range(self.config.views)]
        seed = int(random.integers(1 << 31))
        more = {}
        if self.others:
            more["others"] = np.stack([self._of_another(random, video, failed, pictures) for _ in range(self.others)])
        unreadable = np.full((self.config.length, 2), -1)
        for at, one in enumerate(failed[: self.config.length]):
            unreadable[at] = one
        return {
            "frames": np.stack([crops for crops, _ in views]),
            "maps": np.stack([maps for _, maps in views]),
            "video": np.array(video),
            "indices": np.array([frame for frame, _ in read]),
            "unreadable": unreadable,
            "seed": np.array(seed),
            **more,
        }

    def _of_another(
        self, random: np.random.Generator, video: int, failed: list[tuple[int, int]], instead: Sequence[Frame]
    ) -> Frame:
        """A crop of any frame of any other video; of the clip itself where that video cannot be read."""
        other = int(random.integers(max(1, len(self.videos) - 1)))
        other += other >= video and len(self.videos) > 1
        found = self._nearest(other, int(random.integers(self.videos[other].total)), failed)
        crops, _ = draw_view(random, self.config, [instead[0] if found is None else found[1]])
        crop: Frame = crops[0]
        return crop

    def _nearest(self, video: int, frame: int, failed: list[tuple[int, int]]) -> tuple[int, Frame] | None:
        """The readable frame nearest to `frame`, the later of two, and its index; those that fail go to `failed`."""
        total = self.videos[video].total
        for distance in range(total):
            for near in (frame + distance, frame - distance)[: 2 if distance else 1]:
                if 0 <= near < total:
                    pixels = self._reader.read(video, near)
                    if pixels is not None:
                        return near, pixels
                    if (video, near) not in failed:
                        failed.append((video, near))
        return None


def choose_frames(random: np.random.Generator, total: int, length: int, stride: tuple[int, int]) -> list[int]:
    """Indices of a clip's frames, increasing: equally far apart, by `stride` or what the video has room for.

    A video shorter than the clip is shown whole, some frames several times; of one frame there are `length` copies.
    """
    if length == 1:
        return [int(random.integers(total))]
    step = min(int(random.integers(stride[0], stride[1] + 1)), (total - 1) // (length - 1))
    if step < 1:
        return [int(one) for one in np.linspace(0, total - 1, length).round()]
    start = int(random.integers(total - step * (length - 1)))
    return [start + step * at for at in range(length)]


def draw_view(random: np.random.Generator, config: ClipConfig, frames: Sequence[Frame]) -> tuple[Frame, Maps]:
    """One transformed view of a clip: crops (T, H, W, 3) uint8 and maps (T, 2, 3), as `Clips.draw` says."""
    maps = draw_maps(random, config, frames[0].shape[:2], len(frames))
    crops = np.stack([warp(frame, one, config.size) for frame, one in zip(frames, maps, strict=True)])
    if config.jitter:
        crops = jitter(random, crops, config.jitter)
    return crops, maps.astype(np.float32)


def draw_maps(
    random: np.random.Generator, config: ClipConfig, frame: tuple[int, ...], count: int
) -> NDArray[np.float64]:
    """`count` maps (count, 2, 3) of a view from the crop to a frame of (H, W) pixels: alike but for the shaking."""
    (height, width), (rows, columns) = config.size, frame
    area = random.uniform(*config.scale) * rows * columns
    ratio = width / height * np.exp(random.uniform(*np.log(config.ratio)))
    box = np.array([min(np.sqrt(area * ratio), columns), min(np.sqrt(area / ratio), rows)])  # width, height
    centre = box / 2 + random.uniform(size=2) * (np.array([columns, rows]) - box)
    turn = np.deg2rad(config.rotation) * random.uniform(-1, 1)
    mirror = -1.0 if random.uniform() < config.flip else 1.0
    shakes = config.shake * random.uniform(-1, 1, (count, 4))  # x, y, scale, turn
    maps = np.empty((count, 2, 3))
    for one, (x, y, scale, more) in zip(maps, shakes, strict=True):
        cosine, sine = np.cos(turn + more), np.sin(turn + more)
        stretch = np.diag(box / (width, height) * (1 + scale) * (mirror, 1))
        one[:, :2] = np.array([[cosine, -sine], [sine, cosine]]) @ stretch
        one[:, 2] = centre + box * (x, y) - one[:, :2] @ (width / 2, height / 2)
    maps /= np.array([[columns], [rows]])
    return maps


def warp(frame: NDArray[Any], to_frame: NDArray[Any], size: tuple[int, int], *, nearest: bool = False) -> NDArray[Any]:
    """The crop of (H, W) of a frame, a label map or a field of vectors that a map (2, 3) shows, which leads from its
    points to the frame (see `Clips.draw`).

    Bilinear and mirrored at the frame's border; or, for label maps, the nearest pixel, and 0 outside the frame.
    """
    matrix = np.asarray(to_frame, dtype=np.float64) * [[frame.shape[1]], [frame.shape[0]]]
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5  # OpenCV counts from the centre of the first pixel
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    border = cv2.BORDER_CONSTANT if nearest else cv2.BORDER_REFLECT
    crop = cv2.warpAffine(frame, matrix, size[::-1], flags=how | cv2.WARP_INVERSE_MAP, borderMode=border)
    return crop.astype(frame.dtype, copy=False)


def jitter(random: np.random.Generator, frames: Frame, strength: float) -> Frame:
    """Brightness, contrast (about the first frame's mean grey) and saturation changed alike in all (T, H, W, 3)."""
    brightness, contrast, saturation = 1 + strength * random.uniform(-1, 1, 3)
    mean = float(frames[0].reshape(-1, 3).mean(0) @ _LUMA)
    colour = saturation * np.eye(3) + (1 - saturation) * _LUMA
    matrix = np.column_stack([brightness * contrast * colour, np.full(3, brightness * (1 - contrast) * mean)])
    # One linear map of the three channels, rounded and cut to 0-255 at the end only.
    changed = cv2.transform(frames.reshape(-1, 1, 3), matrix)
    return changed.reshape(frames.shape).astype(np.uint8, copy=False)

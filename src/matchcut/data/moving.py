"""Frames with their motion and the mask of what moves, to learn to find it: real ones, and made-up ones.

As for clips, what is drawn is a function of (seed, epoch, index) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.data.clips import ClipConfig, VideoSamples, draw_maps, jitter, warp
from matchcut.data.footage import Footage
from matchcut.data.pasting import BoolMask, Motion, adapt_colours, moving_piece, paste, soften
from matchcut.data.readers import read_dataset
from matchcut.data.sequence import Sequence as MaskedSequence
from matchcut.data.sequence import read_truth
from matchcut.errors import DatasetError
from matchcut.flow.fields import Flow, camera_flow, dis_flow, draw_flow
from matchcut.masks import Frame

_ORDER, _SAMPLE = 11, 12  # what random numbers are for


@dataclass(frozen=True)
class MovingConfig:
    """How a sample is made beyond what `ClipConfig` says of its crop; `stride` is the distance of its two frames."""

    still: float = 0.0
    """Share of samples that show no motion, so that the network learns to do without; 1: it never sees any."""
    pasted: float = 0.0
    """Share of samples in which the object of one video moves over a frame of another whose own stands still."""
    camera: bool = True
    """Take the camera's own motion off the flow."""

    def __post_init__(self) -> None:
        if not (0 <= self.still <= 1 and 0 <= self.pasted <= 1):
            raise ValueError(f"still {self.still} and pasted {self.pasted}: expected shares from 0 to 1")


def find_sequences(*roots: Path) -> list[MaskedSequence]:
    """All sequences with masks below some folders in the layout of DAVIS-2016 (its train split, where there are lists):
    JPEGImages and Annotations, with or without a level 480p; above 0 is the object.

    Raises:
        DatasetError: none, or one of the folders is not in that layout.
    """
    found = []
    for root in roots:
        for one in read_dataset("davis2016", root, "train"):
            if any(name in one.images for name in one.truths):
                found.append(one)
    if not found:
        raise DatasetError(
            f"{', '.join(map(str, roots))}: no sequence with masks; give a folder with JPEGImages and Annotations in it"
        )
    return found


class MovingFrames(VideoSamples):
    """Single frames, the flow to the next one and the mask: of each sequence, any frame that has a mask."""

    order_stream = _ORDER

    def __init__(
        self, sequences: Sequence[MaskedSequence], config: ClipConfig, moving: MovingConfig, *, seed: int, cache: Path
    ) -> None:
        videos = [Footage(one.name, tuple(one.images.values()), len(one.images)) for one in sequences]
        super().__init__(videos, config, seed=seed, cache=cache)
        self.sequences, self.moving = list(sequences), moving
        self._names = [list(one.images) for one in sequences]
        self._masked = [
            [at for at, name in enumerate(names) if name in one.truths]
            for names, one in zip(self._names, sequences, strict=True)
        ]

    def describe(self) -> str:
        """One line that differs where the data do."""
        return f"{super().describe()}, {sum(map(len, self._masked))} masks"

    def draw(self, epoch: int, index: int) -> dict[str, NDArray[Any]]:
        """Sample `index` of an epoch:

        - `frames` (H, W, 3) uint8 RGB.
        - `flow` (H, W, 3) uint8: the picture of the flow to another frame.
        - `labels` (H, W) uint8: 1 where the object is.
        - `unreadable` (2,) int64: sequence and frame of one that could not be read; -1 where there is none.

        Raises:
            DatasetError: no frame can be read, or a mask is damaged.
        """
        rng = np.random.default_rng((self.seed, epoch, index, _SAMPLE))
        failed = np.full(2, -1)
        video = self._video(epoch, index)
        pair, mask = self._pair(rng, video, failed)
        if rng.random() < self.moving.pasted:
            pair, mask = self._pasted(rng, pair[0], mask, failed)
        maps = draw_maps(rng, self.config, mask.shape, 1)[0]
        size = self.config.size
        crop = warp(pair[0], maps, size)
        if self.config.jitter:
            crop = jitter(rng, crop[None], self.config.jitter)[0]
        still = rng.random() < self.moving.still
        flow = np.zeros((*size, 2), np.float32) if still else self._flow(pair, maps)
        return {
            "frames": crop,
            "flow": draw_flow(flow),
            "labels": warp(mask.astype(np.uint8), maps, size, nearest=True),
            "unreadable": failed,
        }

    def _pair(self, rng: np.random.Generator, video: int, failed: NDArray[Any]) -> tuple[tuple[Frame, Frame], BoolMask]:
        """A frame with its mask, and the frame that its flow leads to: a later one, or an earlier one at the end."""
        for offset in range(len(self.videos)):
            one = (video + offset) % len(self.videos)
            total = self.videos[one].total
            at = int(rng.choice(self._masked[one]))
            distance = int(rng.integers(self.config.stride[0], self.config.stride[1] + 1))
            other = at + distance if at + distance < total else max(at - distance, 0)
            frames = [self._reader.read(one, frame) for frame in (at, other)]
            for frame, read in zip((at, other), frames, strict=True):
                if read is None:
                    failed[:] = one, frame
            if frames[0] is None or frames[1] is None:
                continue
            truth = read_truth(self.sequences[one], self._names[one][at])
            mask = cv2.resize(truth, frames[0].shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
            return (frames[0], frames[1]), mask
        raise DatasetError(f"{self.videos[0].name} and all others: not one frame can be read; check the files")

    def _pasted(
        self, rng: np.random.Generator, frame: Frame, mask: BoolMask, failed: NDArray[Any]
    ) -> tuple[tuple[Frame, Frame], BoolMask]:
        """The object of a frame over that of another video, both under a moving camera, the object on its own way."""
        (other, _), _ = self._pair(rng, int(rng.integers(len(self.videos))), failed)
        size = other.shape[:2]
        moved = _shifted(rng, other)
        path = Motion(size=(0.15, 0.6), shift=0.06, turn=3.0, growth=0.03, bend=0.02)
        piece = moving_piece(rng, frame, mask, 2, (size[0], size[1]), path)
        background = np.stack([other, moved])
        piece = soften(adapt_colours(piece, background, rng.uniform(0, 0.7)), rng.uniform(0, 1.2))
        mixed, labels = paste(background, [piece])
        return (mixed[0], mixed[1]), labels[0] > 0

    def _flow(self, pair: tuple[Frame, Frame], maps: NDArray[np.float64]) -> Flow:
        """The flow of a pair as the crop shows it: its vectors turn, grow and are mirrored with the picture."""
        flow = dis_flow(*pair)
        if self.moving.camera:
            flow = flow - camera_flow(flow)
        linear = np.linalg.inv(maps[:, :2] * [[flow.shape[1]], [flow.shape[0]]])
        crop = warp(flow, maps, self.config.size)
        return np.asarray(crop @ linear.T, np.float32)


def _shifted(rng: np.random.Generator, frame: Frame) -> Frame:
    """A frame as a camera that moved a little sees it."""
    height, width = frame.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float32)
    shift = rng.uniform(-0.03, 0.03, 2) * min(height, width) * rng.random()
    bent = corners + shift + rng.uniform(-0.01, 0.01, (4, 2)) * min(height, width)
    matrix = cv2.getPerspectiveTransform(corners, bent.astype(np.float32))
    return np.asarray(cv2.warpPerspective(frame, matrix, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)

"""Edge classifier: foreground or background of pixels near edges, by logistic regression learned on annotated frames.

Cells of features see badly what is thinner than they are; annotated frames are exact to the pixel. Of each, masks are
made as blunt and bent as carried ones are, and from these and from what is seen around a pixel is learned what it is:
logistic regression on random features (Rahimi and Recht, "Random Features for Large-Scale Kernel Machines", NIPS 2007),
in less than a second, on the annotated frames of this video alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from matchcut.masks import IGNORE, Frame, LabelMap, resize_labels
from matchcut.refinement.colours import colours_of, log_odds_of, look_up
from matchcut.refinement.upsampling import guided_upsample, shrink

Floats = NDArray[np.float32]

UNSURE = 0.02
"""Pixels are learned from whose masks are between this and 1 - this."""
REACH = 1 / 60
"""And no further than this from what was found, as a share of the frame's height."""
LIMIT = 2.0
"""No pixel speaks louder, in log odds: what looks like nothing in the annotated frames could say anything."""
LINES = 720
"""Taller frames are shrunk to this to learn from: time grows with pixels, and no more of them are learned from."""
EXAMPLES, PIXELS = 10, 40_000
"""Masks that are made of the annotated frames, and pixels of them that are learned from, in all."""
HIDDEN = 64
"""Random features."""
RIDGE = 1e-3
"""Weight of the squared coefficients."""
TOLERANCE, STEPS = 1e-4, 30
"""Of the loss's slope; and steps at most."""


@dataclass(frozen=True)
class EdgeClassifier:
    """Logistic regression on random features of pixels, learned on the annotated frames of one video."""

    colours: Floats
    """See `log_odds_of`."""
    coefficients: Floats
    """(K,) of the features."""

    def added_to(
        self,
        region: Floats,
        rest: Floats,
        weight: float,
        frame: Frame,
        box: tuple[slice, slice],
        mask: Floats,
        small: Frame,
    ) -> NDArray[np.bool_]:
        """Whether each pixel of a box is an object's, once `weight` times what is seen there counts in its log odds.

        Args:
            region: (H', W') soft mask of all objects together.
            rest: (H', W') of the background.
            frame: (H, W, 3), of which `box` is a part.
            mask: (h, w) as `region`, of the whole frame on the grid of cells.
            small: (h, w, 3) the frame on that grid.
        """
        inside = region > rest
        turn = float(np.exp(weight * LIMIT))  # what is surer stays what it is
        asked = (region * turn > rest) & (region < turn * rest) & _near(inside, len(frame))
        if asked.any():
            given = np.log(region[asked] / rest[asked])
            features = _features(_describe(frame, box, given, mask, small, self.colours, asked))
            with torch.autocast("cpu", enabled=False):
                said = (torch.from_numpy(features) @ torch.from_numpy(self.coefficients)).numpy()
            inside[asked] = given + weight * said.clip(-LIMIT, LIMIT) > 0
        return np.asarray(inside)


def learn(
    annotated: Sequence[tuple[Frame, LabelMap]], ids: Sequence[int], grid: tuple[int, int]
) -> EdgeClassifier | None:
    """The classifier of some annotated frames (H, W, 3) and their label maps, of whose objects those in `ids` count;
    None where there is none of them, or nothing else. Ignored pixels (255) say nothing. The same for the same input.

    Args:
        grid: (h, w) of the soft masks.
    """
    small = [_at_most(LINES, *one) for one in annotated]
    seen = [(frame, labels, found) for frame, labels in small if (found := colours_of(frame, labels, ids))]
    colours = log_odds_of(found for _, _, found in seen)
    if colours is None:
        return None
    rng = np.random.default_rng(0)
    parts: list[tuple[Floats, Floats, Floats]] = []
    for number in range(EXAMPLES):
        frame, labels, _ = seen[number % len(seen)]
        parts += _example(rng, frame, labels, ids, grid, colours)
    if not parts:
        return None
    described, given, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
    with torch.autocast("cpu", enabled=False):
        return EdgeClassifier(colours, _regression(_features(described), given, truth))


def _at_most(lines: int, frame: Frame, labels: LabelMap) -> tuple[Frame, LabelMap]:
    """A frame and its label map with no more lines than that."""
    height, width = labels.shape
    if height <= lines:
        return frame, labels
    size = (lines, max(1, round(width * lines / height)))
    return shrink(frame, size), resize_labels(labels, size)


def _example(
    rng: np.random.Generator, frame: Frame, labels: LabelMap, ids: Sequence[int], grid: tuple[int, int], colours: Floats
) -> list[tuple[Floats, Floats, Floats]]:
    """Descriptions (n, D) of pixels that are unsure in a mask made of a label map, the log odds (n,) that it gives
    them, and what they are (n,)."""
    objects = np.isin(labels, ids)
    mask = _blunt(rng, objects, grid)
    small = shrink(frame, grid)
    found = guided_upsample(mask, frame, small)
    if found is None:
        return []
    box, region = found
    unsure = (region > UNSURE) & (region < 1 - UNSURE) & (labels[box] != IGNORE)
    asked = unsure & _near(region > 0.5, len(frame))
    places = np.flatnonzero(asked)
    keep = rng.permutation(places)[: PIXELS // EXAMPLES]
    if not len(keep):
        return []
    asked = np.zeros(region.shape, np.bool_)
    asked.ravel()[keep] = True
    given = np.log(region[asked] / (1 - region[asked]))
    described = _describe(frame, box, given, mask, small, colours, asked)
    described[:, :9] += np.tile(rng.uniform(-0.1, 0.1, 3), 3)  # light changes
    return [(described, given, objects[box][asked].astype(np.float32))]


def _blunt(rng: np.random.Generator, objects: NDArray[np.bool_], grid: tuple[int, int]) -> Floats:
    """A soft mask (h, w) as the match gives it: of cells or, in part, of cells twice as large, blurred, and bent."""
    (height, width), exact = grid, objects.astype(np.float32)
    cells = cv2.resize(exact, (width, height), interpolation=cv2.INTER_AREA)
    large = cv2.resize(exact, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    share = rng.uniform()
    mask = share * cv2.resize(large, (width, height), interpolation=cv2.INTER_LINEAR) + (1 - share) * cells
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 1.2))
    coarse = int(rng.choice([6, 12, 24]))
    bends = rng.normal(size=(max(2, height // coarse), max(2, width // coarse), 2)) * rng.uniform(0, 1.5)
    bend: Any = cv2.resize(bends.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    bent = cv2.remap(mask, x + bend[..., 0], y + bend[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
    return np.asarray(bent, np.float32)


def _near(inside: NDArray[np.bool_], height: int) -> NDArray[np.bool_]:
    side = 2 * round(REACH * height) + 1
    return np.asarray(cv2.dilate(inside.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _describe(
    frame: Frame,
    box: tuple[slice, slice],
    given: Floats,
    mask: Floats,
    small: Frame,
    colours: Floats,
    asked: NDArray[np.bool_],
) -> Floats:
    """(n, D) of the pixels of a box that are asked: their colour and those around, near and further; how often these
    were an object's; the log odds (n,) that are given, and the mask (h, w) around; and how rough it is there."""
    picture, scale = frame[box], frame.shape[0] / 480
    near = cv2.blur(picture, (_odd(5 * scale),) * 2)
    own, around = (one[asked].astype(np.float32) * (2 / 255) - 0.9 for one in (picture, near))
    said = look_up(colours, picture) / 3
    further = cv2.GaussianBlur(small, (0, 0), 1.1).astype(np.float32) * (2 / 255) - 0.9
    blurred = [cv2.GaussianBlur(mask, (0, 0), sigma) - 0.5 for sigma in (1.0, 2.3)]
    cells = _sample(np.dstack([further, *blurred]).astype(np.float32), asked, box, frame.shape[:2])
    columns = [
        *(own, around, cells[:, :3]),
        *(said[asked][:, None], cv2.blur(said, (_odd(7 * scale),) * 2)[asked][:, None]),
        given[:, None] / 4,
        *(cells[:, 3:], np.abs(own - around).sum(1, keepdims=True)),
    ]
    return np.concatenate(columns, 1)


def _sample(grid: Floats, asked: NDArray[np.bool_], box: tuple[slice, slice], size: tuple[int, ...]) -> Floats:
    """(n, C) of the pixels of a box that are asked, bilinearly, from cells (h, w, C) of a frame of a size (H, W)."""
    rows, columns = asked.nonzero()
    y, x = (
        ((at + part.start + 0.5) * (cells / pixels) - 0.5).astype(np.float32)
        for at, part, cells, pixels in zip((rows, columns), box, grid.shape[:2], size, strict=True)
    )
    wide = 1024  # OpenCV wants pictures of less than 32,768 pixels a side
    y, x = (np.pad(one, (0, -len(one) % wide)).reshape(-1, wide) for one in (y, x))
    parts = [
        cv2.remap(
            np.ascontiguousarray(grid[..., first : first + 4]), x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
        )
        for first in range(0, grid.shape[2], 4)
    ]
    joined = np.dstack(parts)
    return np.asarray(joined.reshape(-1, grid.shape[2])[: len(rows)], np.float32)


def _features(described: Floats) -> Floats:
    """(n, K): random ones, what they are of, and a constant 1."""
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(size=(described.shape[1], HIDDEN)).astype(np.float32))
    shifts = torch.from_numpy(rng.uniform(-1, 1, HIDDEN).astype(np.float32))
    # Not by NumPy, whose threads go on waiting for work and so take time from torch's.
    with torch.autocast("cpu", enabled=False):
        hidden = torch.addmm(shifts, torch.from_numpy(described), weights).relu_()
    return np.concatenate([hidden.numpy(), described, np.ones((len(described), 1), np.float32)], 1)


def _regression(features: Floats, given: Floats, truth: Floats) -> Floats:
    """Coefficients (K,) of what is to be added to log odds (n,) that are given, so that they tell the truth (n,).

    Newton's method: the loss is convex. In torch, whose threads the caller has limited; NumPy's would wait for each
    other beside a busy program, for seconds.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-2
    mean[-1], spread[-1] = 0, 1  # the constant, which takes up what the others' means were
    even = torch.from_numpy((features - mean) / spread)
    start, answer = torch.from_numpy(given), torch.from_numpy(truth)
    ridge = RIDGE * torch.eye(even.shape[1], dtype=torch.float64)

    def logits(coefficients: Tensor) -> Tensor:
        return start + even @ coefficients.float()

    def loss(coefficients: Tensor) -> float:
        error = F.binary_cross_entropy_with_logits(logits(coefficients), answer)
        return float(error + RIDGE / 2 * coefficients @ coefficients)

    found = torch.zeros(even.shape[1], dtype=torch.float64)
    lost = loss(found)
    for _ in range(STEPS):
        odds = logits(found).sigmoid()
        slope = (even.T @ (odds - answer)).double() / len(even) + RIDGE * found
        if slope.norm() < TOLERANCE:
            break
        curvature = ((even * (odds * (1 - odds))[:, None]).T @ even).double() / len(even) + ridge
        step = torch.linalg.solve(curvature, slope)
        while (less := loss(found - step)) > lost and step.norm() > TOLERANCE:
            step = step / 2
        if less >= lost:
            break
        found, lost = found - step, less
    solved = found.numpy() / spread
    solved[-1] -= solved @ mean
    return np.asarray(solved, np.float32)


def _odd(size: float) -> int:
    return 2 * round((size - 1) / 2) + 1

"""Training masks that are exact to the pixel without a label: pieces of one clip pasted over another, moving.

Pseudo masks from clusters of features have the coarse edges of their grid, and a decoder trained on them learns coarse
edges. Where a piece is pasted, we know to the pixel what belongs to it. What is cut out may be a pseudo object of
another clip, a union of its superpixels, or a smooth random shape; what moves it are smooth random paths.

All randomness comes from the generator that is given, so that a clip can be made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from matchcut.masks import Frame, LabelMap

BoolMask = NDArray[np.bool_]
Alpha = NDArray[np.float32]


COMPACT = 60.0
"""What a region's own size of distance from its middle costs, in levels of colour."""


@dataclass(frozen=True)
class Motion:
    """How a piece moves over a clip: a random place, then a smooth path. All but `size` are the most there can be."""

    size: tuple[float, float] = (0.2, 0.6)
    """Least and most of the piece's size at first: square root of its box's area, as a share of the frame's."""
    shift: float = 0.08
    """Between two frames, as a share of the frame's shorter side."""
    turn: float = 6.0
    """Between two frames, in degrees."""
    growth: float = 0.06
    """Between two frames, as a share of the size."""
    bend: float = 0.03
    """How far points of the piece wander by themselves, as a share of the piece's size: what is not rigid."""
    flip: float = 0.5
    """Chance that the piece is mirrored."""


MOTION = Motion()


@dataclass(frozen=True)
class Piece:
    """A piece as it lies over each frame of a clip."""

    frames: Frame
    """(T, H, W, 3)."""
    alpha: Alpha
    """(T, H, W) in [0, 1], 0 where there is nothing of it."""


def paste(background: Frame, pieces: Sequence[Piece], numbers: Sequence[int] | None = None) -> tuple[Frame, LabelMap]:
    """Lay pieces over a clip, each over those before it.

    Args:
        background: (T, H, W, 3).
        pieces: of the same size.
        numbers: the label of each, 1, 2, ... where None. With 0 a piece is a distractor: it hides what it covers and
            is background itself, so that to be pasted does not make an object.

    Returns:
        The clip (T, H, W, 3), and its label maps uint8 (T, H, W): a pixel is the piece's that gives it most.
    """
    numbers = list(range(1, len(pieces) + 1)) if numbers is None else numbers
    mixed = background.copy()
    labels = np.zeros(background.shape[:3], np.uint8)
    for piece, number in zip(pieces, numbers, strict=True):
        box = _box(piece.alpha)
        alpha = piece.alpha[box]
        below = mixed[box].astype(np.float32)
        mixed[box] = np.rint(below + alpha[..., None] * (piece.frames[box] - below))
        labels[box][alpha > 0.5] = number
    return mixed, labels


def moving_piece(
    rng: np.random.Generator, frame: Frame, mask: BoolMask, length: int, size: tuple[int, int], motion: Motion = MOTION
) -> Piece:
    """A piece cut out of a frame (h, w, 3) by its mask (h, w), on a path of its own over `length` frames of a size
    (H, W). An empty mask gives an empty piece."""
    height, width = size
    piece = Piece(np.zeros((length, height, width, 3), np.uint8), np.zeros((length, height, width), np.float32))
    rows, columns = mask.nonzero()
    if not len(rows):
        return piece
    middle = np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2])
    extent = float(np.sqrt((np.ptp(columns) + 1) * (np.ptp(rows) + 1)))
    share = rng.uniform(*motion.size)
    scale = share * float(np.sqrt(height * width)) / extent * np.exp(_path(rng, length, motion.growth))
    turn = np.deg2rad(_path(rng, length, motion.turn))
    reach = motion.shift * min(height, width)
    place = np.stack([_path(rng, length, reach), _path(rng, length, reach)], 1)
    place += rng.uniform(0.15, 0.85, 2) * (width, height)
    mirror = -1.0 if rng.random() < motion.flip else 1.0
    wander = _wander(rng, length, size, motion.bend * share * float(np.sqrt(height * width)))
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    corners = np.array(
        [(x, y) for x in (columns.min() - 1, columns.max() + 1) for y in (rows.min() - 1, rows.max() + 1)]
    )
    alpha = mask.astype(np.float32)
    for index in range(length):
        # From a pixel of the result back to the source.
        cos, sin = np.cos(turn[index]) / scale[index], np.sin(turn[index]) / scale[index]
        back = np.array([[mirror * cos, mirror * sin], [-sin, cos]])
        ends = (corners - middle) @ np.linalg.inv(back).T + place[index]
        spare = 1 + float(np.abs(wander[index]).max())
        low = np.clip(ends.min(0) - spare, 0, (width, height)).astype(int)
        high = np.clip(np.ceil(ends.max(0) + spare), 0, (width, height)).astype(int)
        if (low >= high).any():
            continue
        box = (slice(low[1], high[1]), slice(low[0], high[0]))
        at = (grid[box] + wander[index][box] - place[index].astype(np.float32)) @ back.T.astype(np.float32)
        at += middle.astype(np.float32)
        x, y = at[..., 0].copy(), at[..., 1].copy()
        piece.frames[index][box] = cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        piece.alpha[index][box] = cv2.remap(alpha, x, y, cv2.INTER_LINEAR)
    return piece


def soften(piece: Piece, sigma: float) -> Piece:
    """A piece with its edge blurred, so that a sharp step is no sign of what was pasted. Labels stay where they were
    but for thin parts and corners.

    Args:
        sigma: of the Gaussian, in pixels; 0 changes nothing.
    """
    if sigma <= 0:
        return piece
    return Piece(piece.frames, np.stack([np.asarray(cv2.GaussianBlur(one, (0, 0), sigma)) for one in piece.alpha]))


def adapt_colours(piece: Piece, background: Frame, share: float) -> Piece:
    """A piece with the mean and spread of its colours brought towards those of the clip it is laid over, as the first
    frame in which it is seen shows them; the same change in all frames.

    Args:
        share: 0 leaves them, 1 gives the clip's.
    """
    shown = [index for index, alpha in enumerate(piece.alpha) if (alpha > 0.5).any()]
    if not shown or share == 0:
        return piece
    first = shown[0]
    mask = (piece.alpha[first] > 0.5).astype(np.uint8)
    mean, spread = (one.ravel() for one in cv2.meanStdDev(piece.frames[first], mask=mask))
    to_mean, to_spread = (one.ravel() for one in cv2.meanStdDev(background[first]))
    gain = 1 + share * (np.clip(to_spread / (spread + 1), 0.5, 2.0) - 1)
    level = mean + share * (to_mean - mean)
    values = np.clip(np.rint((np.arange(256)[:, None] - mean) * gain + level), 0, 255).astype(np.uint8)  # (256, 3)
    box = _box(piece.alpha)
    changed = piece.frames.copy()
    changed[box] = values[changed[box], np.arange(3)]
    return Piece(changed, piece.alpha)


def smooth_shape(rng: np.random.Generator, size: tuple[int, int], corners: int = 8) -> BoolMask:
    """A random shape (H, W) with a smooth outline in the middle of a frame: no hole, in one piece.

    Args:
        corners: how many radii are drawn; more make it more ragged.
    """
    height, width = size
    radii = rng.uniform(0.35, 1.0, corners)
    waves = np.fft.rfft(radii)
    fine = np.fft.irfft(np.concatenate([waves, np.zeros(129 - len(waves))]), 256) * 256 / corners
    angles = np.arange(256) * 2 * np.pi / 256
    fine = np.clip(fine, 0.15, None) / fine.max() * 0.48
    outline = np.stack([(0.5 + fine * np.cos(angles)) * width, (0.5 + fine * np.sin(angles)) * height], 1)
    drawn = np.zeros(size, np.uint8)
    cv2.fillPoly(drawn, [np.rint(outline).astype(np.int32)], 1)
    return drawn > 0


def with_limbs(rng: np.random.Generator, mask: BoolMask, most: int = 5) -> BoolMask:
    """A mask (H, W) with up to `most` thin, bent, tapering limbs grown from within it: what legs, tails and poles are
    to a body, and what neither superpixels nor smooth shapes have."""
    rows, columns = mask.nonzero()
    if not len(rows):
        return mask
    side = float(np.sqrt(len(rows)))
    drawn = mask.astype(np.uint8)
    for _ in range(int(rng.integers(1, most + 1))):
        root = int(rng.integers(len(rows)))
        steps, length, width = 12, side * rng.uniform(0.5, 1.5), side * rng.uniform(0.02, 0.12)
        first, last = rng.uniform(-0.25, 0.25, 2)
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(np.linspace(first, last, steps))
        path = np.stack([np.cos(heading), np.sin(heading)], 1).cumsum(0) * length / steps
        points = np.rint(path + np.array([columns[root], rows[root]])).astype(int)
        for at, (start, end) in enumerate(pairwise(points)):
            thickness = max(1, round(width * (1 - 0.6 * at / steps)))
            cv2.line(drawn, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), 1, thickness)
    return drawn > 0


def region(
    rng: np.random.Generator, frame: Frame, share: tuple[float, float] = (0.03, 0.25), cell: int = 16
) -> BoolMask:
    """A union of neighbouring superpixels of a frame (H, W, 3) that look alike: bounded by edges of the picture, in one
    piece and without holes.

    It grows from a random superpixel by the one beside it that is most like it in colour and nearest to its middle.

    Args:
        share: least and most of the frame's area that the region is grown to.
        cell: pixels between two seeds.
    """
    segments = superpixels(rng, frame, cell)
    count = int(segments.max()) + 1
    areas = np.bincount(segments.ravel(), minlength=count)
    colours = np.stack(
        [np.bincount(segments.ravel(), frame[..., one].ravel(), count) / np.maximum(areas, 1) for one in range(3)], 1
    )
    beside = np.zeros((count, count), bool)
    for a, b in ((segments[1:], segments[:-1]), (segments[:, 1:], segments[:, :-1])):
        beside[a, b] = beside[b, a] = True
    ys, xs = np.indices(segments.shape)
    middles = np.stack([np.bincount(segments.ravel(), at.ravel(), count) / np.maximum(areas, 1) for at in (ys, xs)], 1)
    goal = rng.uniform(*share) * segments.size
    chosen = np.zeros(count, bool)
    chosen[segments[rng.integers(frame.shape[0]), rng.integers(frame.shape[1])]] = True
    while areas[chosen].sum() < goal:
        around = beside[chosen].any(0) & ~chosen
        if not around.any():
            break
        weights = areas[chosen, None] / areas[chosen].sum()
        unlike = np.linalg.norm(colours - (weights * colours[chosen]).sum(0), axis=1)
        far = np.linalg.norm(middles - (weights * middles[chosen]).sum(0), axis=1) / np.sqrt(goal)
        chosen[np.where(around, unlike + COMPACT * far, np.inf).argmin()] = True
    outlines, _ = cv2.findContours(chosen[segments].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(segments.shape, np.uint8)
    cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return filled > 0


def superpixels(rng: np.random.Generator, frame: Frame, cell: int = 16) -> NDArray[np.int32]:
    """Numbers 0, 1, ... of the superpixels of a frame, (H, W): basins of a watershed on the picture's gradient, from a
    jittered grid of seeds `cell` pixels apart."""
    height, width = frame.shape[:2]
    if min(height, width) < 3:
        return np.zeros((height, width), np.int32)
    seeds = np.zeros((height, width), np.int32)
    number = 0
    for y in range(cell // 2, max(height, cell // 2 + 1), cell):
        for x in range(cell // 2, max(width, cell // 2 + 1), cell):
            dy, dx = rng.integers(-(cell // 4), cell // 4 + 1, 2)
            number += 1
            # Watershed takes the frame's outermost pixels for lines, seeds or not.
            seeds[np.clip(y + dy, 1, height - 2), np.clip(x + dx, 1, width - 2)] = number
    smooth = cv2.GaussianBlur(frame, (0, 0), 1.0)
    basins = cv2.watershed(np.ascontiguousarray(smooth), seeds)
    # Watershed leaves lines between basins (and the frame's border) as -1: each such pixel goes to a basin beside it.
    grown = cv2.dilate(basins.astype(np.float32), np.ones((3, 3), np.uint8))
    while (grown < 1).any():
        grown = cv2.dilate(grown, np.ones((3, 3), np.uint8))
    return np.asarray(np.where(basins > 0, basins, grown).astype(np.int32) - 1, np.int32)


def _box(alpha: Alpha) -> tuple[slice, slice, slice]:
    """Of (T, H, W), the least box of all frames that holds what is not 0."""
    most = alpha.max(0, initial=0)
    x, y, width, height = cv2.boundingRect((most > 0).astype(np.uint8))
    return slice(None), slice(y, y + height), slice(x, x + width)


def _path(rng: np.random.Generator, length: int, most: float) -> NDArray[np.float64]:
    """(length,) a smooth walk from 0 whose steps are at most `most`: a velocity that changes slowly."""
    ends = rng.uniform(-most, most, 2)
    return np.concatenate([[0.0], np.cumsum(np.linspace(ends[0], ends[1], max(length - 1, 0)))])


def _wander(rng: np.random.Generator, length: int, size: tuple[int, int], most: float) -> NDArray[np.float32]:
    """(length, H, W, 2) smooth fields of displacement in pixels, that turn from one into another over the clip."""
    ends = rng.uniform(-most, most, (2, 4, 4, 2)).astype(np.float32)
    first, last = (cv2.resize(one, size[::-1], interpolation=cv2.INTER_CUBIC) for one in ends)
    at = np.linspace(0, 1, max(length, 1), dtype=np.float32)[:length, None, None, None]
    return np.asarray(first + at * (last - first), np.float32)

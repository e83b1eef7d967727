"""Pictures of Mask-VOS's training: what matches what, pseudo masks, and predictions."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from matchcut.masks import Frame, LabelMap
from matchcut.training.objectives.mask_vos.correspondence import TEMPERATURE
from matchcut.video.overlay import draw_overlay

QUERIES = ((0.35, 0.25), (0.5, 0.5), (0.65, 0.75))
"""Where the cells lie whose affinities are drawn, (y, x) as shares of the frame."""


def draw_sheet(frames: Frame, clusters: LabelMap, objects: LabelMap, *, columns: int = 5) -> Frame:
    """A picture as in Figures S1-S4: frames of a clip, below them their clusters, below those the pseudo masks.

    Args:
        frames: (T, H, W, 3); of these, `columns` evenly spaced ones are drawn.
        clusters, objects: (T, h, w), enlarged to the frames.

    Returns:
        RGB uint8 (3 * H, columns * W, 3).
    """
    size = (frames.shape[2], frames.shape[1])
    rows = []
    for index in np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int):
        frame = frames[index]
        kind, mask = (cv2.resize(one[index], size, interpolation=cv2.INTER_NEAREST) for one in (clusters, objects))
        drawn = draw_overlay(frame, kind + np.uint8(1), alpha=0.7, contour=0, ids=False)
        rows.append(np.concatenate([frame, drawn, draw_overlay(frame, mask, ids=False)]))
    return np.concatenate(rows, 1)


def draw_affinities(first: Frame, last: Frame, keys: Tensor) -> Frame:
    """A row a clip: its last frame, in which some cells are marked, and for each of these the first frame, the brighter
    the more it matches there (softmax at the temperature of the losses, by its largest value).

    Args:
        first, last: (B, H, W, 3).
        keys: (B, 2, C, h, w) of both, L2-normalised.

    Returns:
        RGB uint8 (B * H, (1 + cells) * W, 3).
    """
    height, width = first.shape[1:3]
    rows, columns = keys.shape[3:]
    drawn = []
    for before, after, (one, other) in zip(first, last, keys.detach().float(), strict=True):
        marked, shown = after.copy(), []
        grey = cv2.cvtColor(before, cv2.COLOR_RGB2GRAY)[..., None] * np.float32(0.4)
        for y, x in ((int(down * rows), int(across * columns)) for down, across in QUERIES):
            at = int((x + 0.5) * width / columns), int((y + 0.5) * height / rows)
            cv2.circle(marked, at, max(3, height // 40), (255, 255, 0), -1)
            weights = ((other[:, y, x, None, None] * one).sum(0) / TEMPERATURE).flatten().softmax(0)
            heat = (weights / weights.max()).view(rows, columns).cpu().numpy()
            large = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
            shown.append((grey * (1 - large) + np.array([255, 160, 0], np.float32) * large).astype(np.uint8))
        drawn.append(np.concatenate([marked, *shown], 1))
    return np.concatenate(drawn)


def draw_predictions(frames: Frame, labels: LabelMap, predictions: Sequence[Tensor]) -> Frame:
    """A row a clip: its first frame with the mask that is given, its last with the true one, then with each prediction.

    Args:
        frames: (B, T, H, W, 3).
        labels: (B, T, H, W).
        predictions: scores of the last frames, (B, 1 + N, h, w) each.

    Returns:
        RGB uint8 (B * H, (2 + predictions) * W, 3).
    """
    size = (frames.shape[2], frames.shape[3])
    found = [F.interpolate(one.float(), size=size, mode="bilinear").argmax(1).cpu().numpy() for one in predictions]
    rows = []
    for clip, given, *masks in zip(frames, labels, *found, strict=True):
        last = [draw_overlay(clip[-1], one.astype(np.uint8), ids=False) for one in (given[-1], *masks)]
        rows.append(np.concatenate([draw_overlay(clip[0], given[0], ids=False), *last], 1))
    return np.concatenate(rows)

"""Joints read off soft label maps, and PCK (percentage of correct key points), as on JHMDB.

Sources: Jhuang et al., "Towards Understanding Action Recognition", ICCV 2013 (data); Yang and Ramanan, "Articulated
Human Detection with Flexible Mixtures of Parts", PAMI 2013 (PCK). The constants are those of the evaluation that
label-propagation papers use: `eval_pck.py` and `process_pose` in ajabri/videowalk (CRW), from Liusifei/UVC.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError

BOX_SHARE = 0.6


def joint_positions(heat: npt.NDArray[np.floating], size: tuple[int, int], top: int = 3) -> npt.NDArray[np.float64]:
    """Joint positions from heat maps: the mean place of the `top` highest cells, weighted by their heat.

    As published, cell (row, column) lies at pixel (column x width / W, row x height / H), half a cell up and to the
    left of its middle; of equal cells the first in reading order are taken (there it is left open).

    Args:
        heat: (N, H, W), finite and >= 0, one map a joint, without the background's.
        size: the frame's (height, width) in pixels.
        top: how many cells, >= 1.

    Returns:
        float64 (N, 2): x and y in pixels, from 0; NaN for a joint without heat (-1 in the published code).

    Raises:
        ShapeError: the heat is not (N, H, W), finite and >= 0, or the size or `top` is below 1.
    """
    if heat.ndim != 3 or 0 in heat.shape[1:] or not (np.isfinite(heat).all() and (heat >= 0).all()):
        raise ShapeError(f"expected finite heat >= 0 (N, H, W), got {heat.dtype} {heat.shape}")
    if min(*size, top) < 1:
        raise ShapeError(f"size and top must be at least 1, got {size} and {top}")
    _, height, width = heat.shape
    flat = heat.reshape(len(heat), height * width).astype(np.float64)
    places = np.argsort(-flat, axis=1, kind="stable")[:, :top]  # (N, top)
    weights = np.take_along_axis(flat, places, 1)
    total = weights.sum(1, keepdims=True)
    weights = np.where(total > 0, weights / np.where(total > 0, total, 1), np.nan)
    y, x = np.divmod(places, width)
    return np.stack([(x * weights).sum(1) * size[1] / width, (y * weights).sum(1) * size[0] / height], 1)


def joint_distances(
    truth: npt.NDArray[np.floating],
    prediction: npt.NDArray[np.floating],
    visible: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float64]:
    """Distance of each joint from the truth, in units of 0.6 x the diagonal of the visible joints' box in that frame.

    The box is the truth's. As published, and unlike the word, visible is a joint that the prediction holds, the
    truth's visibility is not asked, and a joint that got lost is left out, not counted as wrong.

    Args:
        truth: (T, N, 2), x and y in pixels, from 0 (JHMDB's files count from 1). Joints outside the frame are used.
        prediction: (T, N, 2), the same.
        visible: boolean (T, N), the joints that count; by default those whose predicted x is >= 0 (so neither NaN nor
            the published -1).

    Returns:
        float64 (T, N), NaN where a joint does not count; infinite where the box is a single point.

    Raises:
        ShapeError: the shapes do not agree, or a joint that counts is not finite.
    """
    if truth.ndim != 3 or truth.shape[2] != 2 or truth.shape != prediction.shape:
        raise ShapeError(f"expected two arrays (T, N, 2), got {truth.shape} and {prediction.shape}")
    if visible is None:
        visible = prediction[..., 0] >= 0
    if visible.dtype != np.bool_ or visible.shape != truth.shape[:2]:
        raise ShapeError(f"visible: expected boolean {truth.shape[:2]}, got {visible.dtype} {visible.shape}")
    seen = visible[..., None]
    if not np.isfinite(np.where(seen, truth + prediction, 0)).all():
        raise ShapeError("a joint that counts has a coordinate that is not finite")
    if not truth.size:
        return np.zeros(truth.shape[:2])
    low, high = np.where(seen, truth, np.inf).min(1), np.where(seen, truth, -np.inf).max(1)  # (T, 2)
    box = BOX_SHARE * np.linalg.norm(np.where(high > low, high - low, 0), axis=1)[:, None]  # (T, 1)
    distances = np.linalg.norm(np.where(seen, prediction - truth, np.nan), axis=2)
    return np.where(visible & (box == 0), np.inf, distances / np.where(box > 0, box, 1))


class Pck(NamedTuple):
    """The result of `pck`, for A thresholds."""

    mean: npt.NDArray[np.float64]
    """(A,) mean over the joints that count in at least one frame, in [0, 1]; NaN where there is none."""
    per_joint: npt.NDArray[np.float64]
    """(A, N) share of a joint's frames that are right, in [0, 1]; NaN for a joint that counts in none."""


def pck(distances: npt.NDArray[np.floating], alphas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5)) -> Pck:
    """Share of the frames where a joint is right, its distance at most alpha; each joint alone, then their mean.

    Args:
        distances: (T, N) as `joint_distances` gives them; all frames that count, of all videos, one after another.
            Frame 0 of each video, the given one, is for the caller to leave out.
        alphas: the A thresholds.

    Returns:
        Mean and per joint.

    Raises:
        ShapeError: the distances are not (T, N).
    """
    if distances.ndim != 2:
        raise ShapeError(f"expected distances (T, N), got {distances.shape}")
    counted = (~np.isnan(distances)).sum(0)  # (N,)
    right = np.stack([(distances <= alpha).sum(0) for alpha in alphas]) if len(alphas) else np.zeros((0, len(counted)))
    per_joint = np.where(counted > 0, right / np.maximum(counted, 1), np.nan)
    used = per_joint[:, counted > 0]
    return Pck(used.mean(1) if used.shape[1] else np.full(len(used), np.nan), per_joint)

"""Automatic multi-object DAVIS: which proposal stands for which object, and J and F of the two.

Source: Caelles et al., "The 2019 DAVIS Challenge on VOS: Unsupervised Multi-Object Segmentation", 2019; what it leaves
open is as in the `unsupervised` task of davisvideochallenge/davis2017-evaluation.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from matchcut.errors import ShapeError
from matchcut.metrics.boundary import boundary_f_pairs
from matchcut.metrics.region import as_label_bytes, jaccard_pairs

MAX_PROPOSALS = 20
VOID = 255


class ProposalAssignment(NamedTuple):
    """The result of `assign_proposals`: for each of K objects, in the order of their labels 1 to K, over T frames."""

    proposals: npt.NDArray[np.intp]
    """(K,) the label of each object's proposal; 0 for an empty mask, where there are more objects than proposals."""
    j: npt.NDArray[np.float64]
    """(K, T) in [0, 1]."""
    f: npt.NDArray[np.float64]
    """(K, T) in [0, 1]."""


def assign_proposals(frames: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]) -> ProposalAssignment:
    """Assign proposals to objects one to one, for the greatest sum of (mean J + mean F) / 2, and score them.

    As in the reference: every frame counts, the first and the last too. The objects are 1 to the greatest label of the
    first frame's truth, even those that are not seen in it; other labels are background. The proposals are 1 to the
    greatest label of all predictions, and filled up with empty masks to the number of objects. Where the truth is void
    (255), truth and prediction are background. Only the order differs: objects, where the reference lists the scores
    by proposal if there are more proposals than objects, under the objects' names.

    Args:
        frames: truth and prediction of each frame, uint8 (H, W) of one size; read once, in order, one at a time.

    Returns:
        The proposals' labels and the scores.

    Raises:
        ShapeError: there is no frame, a frame's maps are not uint8 (H, W) of one size, or a prediction holds a label
            above 20, 255 included: the reference ends there.
    """
    from scipy.optimize import linear_sum_assignment  # here, as it takes longer to load than all metrics together

    objects = highest = 0
    j, f = [], []
    for number, maps in enumerate(frames):
        truth, prediction = as_label_bytes(*maps)
        highest = max(highest, int(prediction.max()))
        if highest > MAX_PROPOSALS:
            raise ShapeError(f"frame {number}: at most {MAX_PROPOSALS} proposals are allowed, got label {highest}")
        seen = (truth != VOID).view(np.uint8)
        truth, prediction = truth * seen, prediction * seen
        if number == 0:
            objects = int(truth.max())
        ids = range(1, objects + 1), range(1, max(objects, MAX_PROPOSALS) + 1)
        j.append(jaccard_pairs(truth, prediction, *ids).T)
        f.append(boundary_f_pairs(truth, prediction, *ids).T)
    if not j:
        raise ShapeError("expected at least one frame")

    count = max(objects, highest)
    j_all, f_all = np.stack(j, 2)[:count], np.stack(f, 2)[:count]  # (P, K, T), as in the reference, for equal ties
    rows, columns = linear_sum_assignment(-(j_all.mean(2) + f_all.mean(2)) / 2)
    order = np.argsort(columns)
    rows, columns = rows[order], columns[order]
    return ProposalAssignment(np.where(rows < highest, rows + 1, 0), j_all[rows, columns], f_all[rows, columns])

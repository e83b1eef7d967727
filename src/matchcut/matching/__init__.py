"""Matching operators: each takes tensors and returns a `Match`. They need nothing of the rest of the package."""

from matchcut.matching.affinity import Affinity, affinity, join
from matchcut.matching.assignment import ALGORITHM_1, LISTING_1, Assignment, assign, greedy, hungarian
from matchcut.matching.base import Match
from matchcut.matching.deform import DeformableConv, DeformableStack, OffsetField, deform, deform_conv2d
from matchcut.matching.factorised import (
    LongShortSinkhorn,
    LongSinkhorn,
    ShortSinkhorn,
    long_short_sinkhorn,
    long_sinkhorn,
    short_sinkhorn,
)
from matchcut.matching.refine import near_edges, refine
from matchcut.matching.regions import masks_to_boxes, pool, pool_boxes, soft_iou
from matchcut.matching.transport import Transport, sinkhorn, sinkhorn_from_cost

__all__ = [
    "ALGORITHM_1",
    "LISTING_1",
    "Affinity",
    "Assignment",
    "DeformableConv",
    "DeformableStack",
    "LongShortSinkhorn",
    "LongSinkhorn",
    "Match",
    "OffsetField",
    "ShortSinkhorn",
    "Transport",
    "affinity",
    "assign",
    "deform",
    "deform_conv2d",
    "greedy",
    "hungarian",
    "join",
    "long_short_sinkhorn",
    "long_sinkhorn",
    "masks_to_boxes",
    "near_edges",
    "pool",
    "pool_boxes",
    "refine",
    "short_sinkhorn",
    "sinkhorn",
    "sinkhorn_from_cost",
    "soft_iou",
]

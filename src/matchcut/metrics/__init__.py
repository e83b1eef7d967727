"""Scores of masks against the truth, equal to the official evaluation codes'."""

from matchcut.metrics.assignment import MAX_PROPOSALS, ProposalAssignment, assign_proposals
from matchcut.metrics.boundary import boundary, boundary_f, boundary_f_pairs
from matchcut.metrics.points import Pck, joint_distances, joint_positions, pck
from matchcut.metrics.region import jaccard, jaccard_pairs, jaccard_per_object
from matchcut.metrics.saliency import Saliency, mean_saliency, saliency
from matchcut.metrics.semantic import confusion_matrix, iou_per_class, mean_iou
from matchcut.metrics.statistics import Statistics, mean_recall_decay

__all__ = [
    "MAX_PROPOSALS",
    "Pck",
    "ProposalAssignment",
    "Saliency",
    "Statistics",
    "assign_proposals",
    "boundary",
    "boundary_f",
    "boundary_f_pairs",
    "confusion_matrix",
    "iou_per_class",
    "jaccard",
    "jaccard_pairs",
    "jaccard_per_object",
    "joint_distances",
    "joint_positions",
    "mean_iou",
    "mean_recall_decay",
    "mean_saliency",
    "pck",
    "saliency",
]

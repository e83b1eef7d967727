"""Scores of masks against the truth, equal to the official evaluation codes'."""

from matchcut.metrics.boundary import boundary, boundary_f
from matchcut.metrics.region import jaccard, jaccard_per_object
from matchcut.metrics.statistics import Statistics, mean_recall_decay

__all__ = ["Statistics", "boundary", "boundary_f", "jaccard", "jaccard_per_object", "mean_recall_decay"]

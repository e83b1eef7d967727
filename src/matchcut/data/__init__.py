"""Benchmarks in their published layouts: what is there, how its truth is read, and what is wrong with it."""

from matchcut.data.checks import check, check_dataset
from matchcut.data.readers import DATASETS, SPLITS, read_dataset
from matchcut.data.sequence import ObjectInfo, Sequence, is_seen, prompts, read_joints, read_truth

__all__ = [
    "DATASETS",
    "SPLITS",
    "ObjectInfo",
    "Sequence",
    "check",
    "check_dataset",
    "is_seen",
    "prompts",
    "read_dataset",
    "read_joints",
    "read_truth",
]

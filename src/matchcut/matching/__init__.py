"""Matching operators: each takes tensors and returns a `Match`. They need nothing of the rest of the package."""

from matchcut.matching.affinity import Affinity, affinity
from matchcut.matching.base import Match

__all__ = ["Affinity", "Match", "affinity"]

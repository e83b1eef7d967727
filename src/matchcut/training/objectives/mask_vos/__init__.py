"""Mask-VOS's training: correspondence without labels, and decoding masks on synthetic clips."""

from matchcut.training.objectives.mask_vos.objective import MaskVOSObjective

__all__ = ["MaskVOSObjective"]

"""Mask-VOS: pixels matched to pixels, and a decoder learned from video without labels (Li et al., CVPR 2023)."""

from matchcut.models.mask_vos.architecture import ARCHITECTURES, MaskVOSArchitecture, MaskVOSSettings
from matchcut.models.mask_vos.network import MaskReference, MaskVOS, build, build_mask_vos

__all__ = [
    "ARCHITECTURES",
    "MaskReference",
    "MaskVOS",
    "MaskVOSArchitecture",
    "MaskVOSSettings",
    "build",
    "build_mask_vos",
]

"""Mask-VOS: pixels matched to pixels, and a decoder learned from video without labels (Li et al., CVPR 2023)."""

from matchcut.models.mask_vos.form import FORMS, MaskVOSForm, MaskVOSSettings
from matchcut.models.mask_vos.network import MaskReference, MaskVOS, build, build_mask_vos

__all__ = ["FORMS", "MaskReference", "MaskVOS", "MaskVOSForm", "MaskVOSSettings", "build", "build_mask_vos"]

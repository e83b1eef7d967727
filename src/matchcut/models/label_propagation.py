"""Label propagation: a pretrained backbone's features carry the first frame's labels along. No training.

The common ground of the guided systems, and the way any backbone is judged by researchers: keys are L2-normalised
features, the memory holds annotated frames and the last few, and each query cell takes the mean of the labels of the
cells most similar to it (`matchcut.matching.affinity`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.errors import ModelError
from matchcut.masks import Frame
from matchcut.matching import affinity
from matchcut.models.backbones import Backbone
from matchcut.models.base import GuidedModel, MemoryPolicy, ModelInput, ModelSpec, Prediction, Reference, fingerprint_of
from matchcut.models.resampling import join_maps
from matchcut.models.search_region import near_objects
from matchcut.refinement import Refined, Soft, cubic, linear


@dataclass(frozen=True)
class PropagationSettings:
    """The settings of a label-propagation protocol. Distances are in cells of the feature grid."""

    policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    size: int | None = 480
    """Short side of the frames, in pixels."""
    top_k: int = 10
    temperature: float = 0.07
    radius: float | None = 12
    """Reach of the window over context frames."""
    annotated_radius: float | None = None
    """Reach of the window over annotated frames; None leaves it unrestricted."""
    window: Literal["disc", "square"] = "disc"
    near: int | None = None
    """Cells further than this, on either axis, from where an object was in the context are background without a look;
    None looks everywhere. An object that was nowhere, or shrank much, is looked for everywhere."""
    shrink: Literal["area", "bilinear", "nearest"] = "area"
    """How a mask is brought to the feature grid."""
    enlarge: Literal["linear", "cubic"] = "linear"
    """How a soft mask is brought to the size of the frame before the largest is taken."""
    stretch: bool = False
    """Stretch each enlarged soft mask to [0, 1]."""


PRESETS: dict[str, PropagationSettings] = {
    # Jabri et al., "Space-Time Correspondence as a Contrastive Random Walk", NeurIPS 2020, and its test script.
    "crw": PropagationSettings(MemoryPolicy(20, start="repeat"), temperature=0.05, shrink="bilinear"),
    # Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, and its DAVIS script,
    # which windows the first frame too.
    "dino": PropagationSettings(
        MemoryPolicy(7), top_k=5, temperature=0.1, annotated_radius=12, window="square", shrink="nearest", stretch=True
    ),
    # Xu and Wang, "Rethinking Self-supervised Correspondence Learning", ICCV 2021: its range of 24 is a diameter.
    "vfs": PropagationSettings(MemoryPolicy(20, start="from"), annotated_radius=12, shrink="bilinear"),
    # Li et al., "Unified Mask Embedding and Correspondence Learning", CVPR 2023: the memory of Algorithm S1.
    "mask-vos": PropagationSettings(MemoryPolicy(5), temperature=0.05),
}
"""The published protocols, by the names of systems.md section 0."""


class LabelPropagation(nn.Module, GuidedModel):
    """A guided model with no parameters of its own: a backbone and the settings of a protocol.

    Args:
        backbone: gives one or several feature maps; several are joined on one grid, each normalised and weighted
            first.
        settings: of the propagation, or the name of one of PRESETS.
        grid: stride of the grid of cells that are matched; the backbone's own where None.
        mix: the weight of each of the backbone's feature maps; None is 1 for each.

    Raises:
        ModelError: an unknown preset, or weights that do not fit the backbone's stages.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: PropagationSettings | str = "mask-vos",
        *,
        grid: int | None = None,
        mix: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(settings, str):
            if settings not in PRESETS:
                raise ModelError(f"unknown preset {settings!r}; there are {', '.join(PRESETS)}")
            settings = PRESETS[settings]
        self.backbone, self.settings = backbone, settings
        self.grid = grid or backbone.stride
        self.spec = ModelSpec(
            policy=settings.policy,
            size=settings.size,
            multiple=math.lcm(self.grid, backbone.stride),
            grid=self.grid,
            mask_grid=self.grid,
        )
        self.mix = mix or (1.0,) * len(backbone.stages)
        if len(self.mix) != len(backbone.stages):
            raise ModelError(f"mix: expected {len(backbone.stages)} weights, one a stage, got {len(self.mix)}")

    def fingerprint(self) -> str:
        """A hash of weights and settings, and of which features are matched."""
        backbone = self.backbone
        seen = (backbone.name, backbone.stages, backbone.stride, self.grid, self.mix, self.settings)
        return fingerprint_of(self, *seen)

    def encode(self, frame: ModelInput) -> Tensor:
        """Keys of a frame (1, C, h, w), L2-normalised float32, on the grid of cells."""
        return self.embed(frame.image)

    def embed(self, image: Tensor) -> Tensor:
        """As `encode`, of images (B, 3, H, W) in [0, 1]."""
        size = (-(-image.shape[2] // self.grid), -(-image.shape[3] // self.grid))
        return join_maps(self.backbone(image), size, self.mix).contiguous(memory_format=torch.channels_last)

    def remember(self, features: Tensor, masks: Tensor, annotated: bool = False) -> Reference:
        """Keep the keys and the labels (B, 1 + N, h, w) on the grid of the keys."""
        size = features.shape[2:]
        if masks.shape[2:] != size:
            how: dict[str, Any] = {"mode": self.settings.shrink}
            if how["mode"] == "bilinear":
                how["align_corners"] = False
            masks = F.interpolate(masks, size=size, **how)
        return Reference(features, masks, annotated)

    def segment(self, features: Tensor, references: Sequence[Reference], state: Any, ids: Sequence[int]) -> Prediction:
        """Soft masks (B, 1 + N, h, w) on the grid of the keys: the labels of the references, carried over."""
        settings = self.settings
        where = near_objects([(one.values, one.annotated) for one in references], settings.near)
        match = affinity(
            features,
            [reference.features for reference in references],
            top_k=settings.top_k,
            temperature=settings.temperature,
            radius=[settings.annotated_radius if one.annotated else settings.radius for one in references],
            window=settings.window,
            where=where,
        )
        masks = match.apply(torch.stack([reference.values for reference in references], 2))
        if where is not None:
            masks[:, 0] = torch.where(where, masks[:, 0], 1.0)
        return Prediction(masks)

    def refine(self, soft: Soft, ids: Sequence[int], image: Frame) -> Refined:
        """Enlarged as the protocol has it."""
        how = cubic if self.settings.enlarge == "cubic" else linear
        return how(soft, ids, image, stretch=self.settings.stretch)

    def with_settings(self, **changes: Any) -> "LabelPropagation":
        """The same backbone with some settings changed."""
        return LabelPropagation(self.backbone, replace(self.settings, **changes), grid=self.grid, mix=self.mix)


STAGES, STRIDE, GRID = (1, 2, 3), 16, 8
SETTINGS = PropagationSettings(MemoryPolicy(14), 432, temperature=0.055, radius=11, near=11, enlarge="cubic")
"""What is matched of the packaged backbone, and how, where no preset is named."""


def build(
    load: Callable[[str | None, tuple[int, ...], int], Backbone],
    *,
    preset: str | None = None,
    backbone: str | None = None,
    stages: tuple[int, ...] | None = None,
    stride: int | None = None,
    matched: tuple[Backbone, int] | None = None,
) -> LabelPropagation:
    """Label propagation by names.

    Args:
        load: gives the backbone of that name, the packaged one where None, with weights, its stages and its stride.
        preset: a name of PRESETS.
        backbone, stages, stride: see `matchcut.load_model`.
        matched: a backbone that is loaded already, and its grid.

    Raises:
        ModelError: an unknown preset.
    """
    settings = SETTINGS if preset is None else preset
    if matched is not None:
        return LabelPropagation(matched[0], settings, grid=matched[1])
    if backbone is None:
        net, grid = load(None, stages or STAGES, stride or STRIDE), GRID if stride is None else None
    else:
        # What the protocols take: a ResNet's third stage (CRW), a ViT's last block (DINO).
        usual = (3,) if "resnet" in backbone or "efficientnet" in backbone else (-1,)
        net, grid = load(backbone, stages or usual, stride or 8), None
    return LabelPropagation(net, settings, grid=grid)

"""TransportNet's training: masks and their edges, from frames and the flow to the next.

Zhang et al., ICCV 2021, Section 3.3 and 4.1 (Eq. 11). Beyond the paper, where a recipe asks for it: frames that show no
motion, objects pasted into other videos, and a Dice loss beside the cross-entropy.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.data.moving import MovingConfig, MovingFrames, find_sequences
from matchcut.errors import TrainingError
from matchcut.masks import Frame
from matchcut.models.transport_net import (
    ARCHITECTURES,
    Matching,
    TransportNet,
    TransportNetSettings,
    build_transport_net,
)
from matchcut.training.config import TrainConfig, parse
from matchcut.training.objectives.base import Batch, Losses, Objective, Say
from matchcut.training.views import to_images
from matchcut.video.overlay import draw_overlay
from matchcut.weights.records import WEIGHTS
from matchcut.weights.store import packaged_backbone


@dataclass(frozen=True)
class TransportNetTraining:
    """What `[settings]` of a recipe may say."""

    architecture: str = "small"
    """By its name in `matchcut.models.transport_net.ARCHITECTURES`; what follows changes it."""
    matching: Matching = "long-short"
    matched: tuple[int, ...] = (2, 3, 4)
    residual: bool = False
    place: float = 0.0
    edge: float = 1.0
    """Weight of the edges' cross-entropy, lambda of Eq. 11; 0 leaves out the head."""
    dice_weight: float = 0.0
    """Of the mask's Dice loss, beside its cross-entropy."""
    start: Literal["imagenet", "scratch"] = "imagenet"
    """Of the backbones."""
    norms: Literal["frozen", "trained"] = "frozen"
    """Statistics of the backbones' batch norms."""
    still: float = 0.0
    pasted: float = 0.0
    camera: bool = True
    """See `MovingConfig`."""
    appearance: str = ""
    motion: str = ""
    """Other backbones than the architecture's: any CNN of timm with strides 4 to 32."""
    size: int = TransportNetSettings.size
    square: bool = TransportNetSettings.square
    """How what is trained is to be run: see `TransportNetSettings`."""

    def __post_init__(self) -> None:
        if min(self.edge, self.dice_weight) < 0:
            raise ValueError("edge and dice_weight must be 0 or more")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.architecture!r}; there are {', '.join(ARCHITECTURES)}")


class TransportNetObjective(Objective):
    """See the module; its settings are `TransportNetTraining`."""

    network: TransportNet

    def __init__(self, config: TrainConfig, roots: Sequence[Path], cache: Path, say: Say) -> None:
        self.settings = settings = parse(TransportNetTraining, config.settings, "recipe: [settings]")
        if config.data.length != 1 or config.data.views != 1:
            raise TrainingError("transport-net learns from single frames: set data.length = 1 and data.views = 1")
        moving = MovingConfig(settings.still, settings.pasted, settings.camera)
        self.samples = MovingFrames(find_sequences(*roots), config.data, moving, seed=config.seed, cache=cache)
        self.network = initial_transport_net(settings)

    def about_network(self) -> dict[str, Any]:
        """The architecture, and what the backbones take off their input."""
        backbone = self.network.backbone
        numbers = {"mean": backbone.mean.flatten().tolist(), "std": backbone.std.flatten().tolist()}
        run = {name: getattr(self.settings, name) for name in ("size", "square", "camera")}
        return {"model": "transport-net", "architecture": asdict(self.network.architecture), "settings": run, **numbers}

    def loss(self, batch: Batch, epoch: int) -> Losses:
        """Cross-entropy of the mask and, weighted, of its edge (Eq. 11)."""
        settings, truth = self.settings, batch["labels"].float()[:, None]
        if settings.norms == "frozen":
            self.network.backbone.eval()
            self.network.motion.eval()
        logits, edges = self.network(to_images(batch["frames"]), to_images(batch["flow"]))
        with torch.autocast(truth.device.type, enabled=False):
            large = _enlarged(logits.float(), truth)
            parts = {"mask": F.binary_cross_entropy_with_logits(large, truth)}
            total = parts["mask"]
            if edges is not None:
                parts["edge"] = F.binary_cross_entropy_with_logits(_enlarged(edges.float(), truth), sobel_edges(truth))
                total = total + settings.edge * parts["edge"]
            soft = large.sigmoid()
            if settings.dice_weight > 0:
                both = (soft * truth).sum((1, 2, 3))
                parts["dice"] = (1 - (2 * both + 1) / (soft.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + 1)).mean()
                total = total + settings.dice_weight * parts["dice"]
        found = soft.detach() > 0.5
        parts["iou"] = (found & (truth > 0)).sum() / (found | (truth > 0)).sum().clamp(min=1)
        return total, parts

    def pictures(self, batch: Batch, epoch: int) -> dict[str, Frame]:
        """A row a sample: the frame, its flow, what was found and the truth."""
        logits, _ = self.network(to_images(batch["frames"]), to_images(batch["flow"]))
        found = (_enlarged(logits.float(), batch["labels"][:, None]) > 0)[:, 0].to(torch.uint8)
        rows = []
        for frame, flow, *masks in zip(batch["frames"], batch["flow"], found, batch["labels"], strict=True):
            image = frame.cpu().numpy()
            shown = [draw_overlay(image, one.cpu().numpy(), ids=False) for one in masks]
            rows.append(np.concatenate([image, flow.cpu().numpy(), *shown], 1))
        return {"predictions": np.concatenate(rows[:6])}


def initial_transport_net(settings: TransportNetTraining) -> TransportNet:
    """The untrained network that settings ask for; ImageNet's weights come from an installed package or from timm.

    Raises:
        ModelError: they cannot be had, or the architecture does not fit its backbones.
    """
    asked = {name: getattr(settings, name) for name in ("matching", "matched", "residual", "place")}
    asked |= {name: getattr(settings, name) for name in ("appearance", "motion") if getattr(settings, name)}
    architecture = replace(ARCHITECTURES[settings.architecture], **asked, edge=settings.edge > 0)
    packaged = WEIGHTS["efficientnet-lite0-imagenet"]
    if settings.start == "imagenet" and {architecture.appearance, architecture.motion} == {packaged.backbone}:
        appearance, motion = (packaged_backbone(packaged, architecture.stages, 32) for _ in range(2))
        return TransportNet(appearance, motion, architecture)
    return build_transport_net(architecture, pretrained=settings.start == "imagenet")


def sobel_edges(masks: Tensor) -> Tensor:
    """Where the Sobel operator finds an edge of masks (B, 1, H, W) of 0 and 1: the same shape, 0 and 1."""
    kernel = masks.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([kernel, kernel.t()])[:, None]
    found = F.conv2d(F.pad(masks, (1, 1, 1, 1), mode="replicate"), kernels)
    return (found.abs().sum(1, keepdim=True) > 0).to(masks.dtype)


def _enlarged(values: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(values, size=like.shape[2:], mode="bilinear", align_corners=False)

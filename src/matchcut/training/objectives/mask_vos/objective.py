"""Mask-VOS's training: correspondence without labels, and decoding masks on synthetic clips.

Li et al., "Unified Mask Embedding and Correspondence Learning for Self-Supervised Video Segmentation", CVPR 2023,
supplement B, G and Table S2: correspondence alone at first; from an epoch on pseudo masks, made anew every few epochs,
add the segmentation loss. Relative to the paper: only the clusters of a video are kept, and its pseudo masks made of
them for each clip; pieces pasted over clips are a second source of masks, exact to the pixel; a Dice loss may join the
cross-entropy; how many rounds of refinement are trained is drawn anew each step, so that each can be used.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.data.clips import Clips
from matchcut.data.footage import FrameReader, find_videos
from matchcut.errors import TrainingError
from matchcut.masks import Frame
from matchcut.models.backbones import Backbone
from matchcut.models.mask_vos import MaskVOS, build_mask_vos
from matchcut.models.mask_vos.architecture import ARCHITECTURES
from matchcut.models.mask_vos.decoders import DeepMaskEncoder, FrameFeatures
from matchcut.training.config import TrainConfig, parse
from matchcut.training.distributed import from_others
from matchcut.training.losses import dice_loss, segmentation_loss
from matchcut.training.objectives.base import Batch, Losses, Objective, Say
from matchcut.training.objectives.mask_vos.clustering import CLUSTERS, Clusters, cluster_video, deep_keys, unit_keys
from matchcut.training.objectives.mask_vos.correspondence import anchors_of, long_term_loss, short_term_loss
from matchcut.training.objectives.mask_vos.flip_distillation import flips_loss
from matchcut.training.objectives.mask_vos.pictures import draw_affinities, draw_predictions, draw_sheet
from matchcut.training.objectives.mask_vos.pseudo_masks import OBJECTS, clip_pseudo_masks
from matchcut.training.objectives.mask_vos.settings import MaskVOSTraining
from matchcut.training.objectives.mask_vos.synthetic_clips import (
    SOURCES,
    bend,
    cycle_clips,
    fade,
    pasted_clip,
    perturb_some,
)
from matchcut.training.views import grid_between, to_images
from matchcut.weights.records import WEIGHTS
from matchcut.weights.store import packaged_backbone

CROSS_VIEW = 0.1
"""Weight of the long-term loss's second part, over that of the first."""


class MaskVOSObjective(Objective):
    """See the module; its settings are `MaskVOSTraining`."""

    network: MaskVOS

    def __init__(self, config: TrainConfig, roots: Sequence[Path], cache: Path, say: Say) -> None:
        self.settings = parse(MaskVOSTraining, config.settings, "recipe: [settings]")
        self.settings.check(config.data, config.batch_size)
        videos, problems = find_videos(*roots)
        for problem in problems:
            say(f"left out: {problem}")
        if single := sum(one.total == 1 for one in videos):
            say(f"{single} of {len(videos)} videos have a single frame: they show no motion")
        pasted = "masks" in self.settings.terms and self.settings.pasted > 0 and self.settings.cycle < 1
        self.samples = Clips(videos, config.data, seed=config.seed, cache=cache, others=SOURCES * pasted)
        self._reader = FrameReader(videos, config.data.side, cache, keep_images=config.data.cache)
        self.network = initial_mask_vos(self.settings.architecture, self.settings.start, self.settings.backbone)
        self.teacher: Backbone | None = None
        """Of the mean over flips: the backbone as it was when training began."""
        self.clusters: dict[int, Clusters] = {}
        """Of each video, by its place in the list."""

    def about_network(self) -> dict[str, Any]:
        """The architecture, and what the backbone takes off its input."""
        backbone = self.network.backbone
        numbers = {"mean": backbone.mean.flatten().tolist(), "std": backbone.std.flatten().tolist()}
        return {"model": "mask-vos", "architecture": asdict(self.network.architecture), **numbers}

    # --- teacher and pseudo masks

    def start_epoch(self, epoch: int, say: Say) -> None:
        """Keep the backbone as it is at first, for its mean over flips; cluster all videos anew, when it is time to."""
        settings = self.settings
        if "flips" in settings.terms and self.teacher is None:
            self.teacher = self._copy_of_backbone()
        since = epoch - settings.masks_from
        if "masks" not in settings.terms or settings.pasted == 1 or since < 0 or since % settings.masks_every:
            return
        self.network.eval()
        transport = settings.clusters == "transport"
        for video, footage in enumerate(self.samples.videos):
            found = cluster_video(self.network.backbone, self._reader, video, footage, CLUSTERS, transport=transport)
            self.clusters[video] = found
        say(f"epoch {epoch + 1}: clusters of {len(self.clusters)} videos made by {settings.clusters}")

    def state_dict(self) -> dict[str, Any]:
        """The clusters, of which pseudo masks follow, and the teacher."""
        return {
            "teacher": {} if self.teacher is None else self.teacher.state_dict(),
            "centres": {video: one.centres.cpu() for video, one in self.clusters.items()},
            "biases": {video: one.biases.cpu() for video, one in self.clusters.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        device = next(self.network.parameters()).device
        if state["teacher"]:
            self.teacher = self._copy_of_backbone()
            self.teacher.load_state_dict(state["teacher"])
        self.clusters = {
            video: Clusters(centres.to(device), state["biases"][video].to(device))
            for video, centres in state["centres"].items()
        }

    def _copy_of_backbone(self) -> Backbone:
        return copy.deepcopy(self.network.backbone).eval().requires_grad_(False)

    # --- the loss

    def loss(self, batch: Batch, epoch: int) -> Losses:
        """The sum of the terms that are on; and its parts, unweighted."""
        settings, parts = self.settings, dict[str, Tensor]()
        if settings.norms == "frozen":
            self.network.backbone.eval()
            if isinstance(self.network.mask_encoder, DeepMaskEncoder):
                self.network.mask_encoder.backbone.eval()
        total, maps = torch.zeros((), device=batch["frames"].device), None
        if settings.corresponds:
            images = to_images(batch["frames"][:, 0])
            maps = self.network.backbone(images.flatten(0, 1))
            total = total + self._correspondence(batch, images, maps, parts)
        if self.teacher is not None:
            parts["flips"] = flips_loss(self.network, self.teacher, to_images(batch["frames"][:, 0, 0]))
            total = total + parts["flips"]
        if "masks" in settings.terms and epoch >= settings.masks_from:
            total = total + self._segmentation(batch, maps, parts)
        if not total.requires_grad:
            raise TrainingError("no loss depends on what is trained: with these rates, leave out terms")
        return total, parts

    def _keys(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """(B, T, C, h, w) of images (B, T, 3, H, W), of which the backbone's maps may be at hand."""
        flat = images.flatten(0, 1)
        keys: Tensor = self.network.keys(maps or self.network.backbone(flat), flat)
        return torch.unflatten(keys, 0, images.shape[:2])

    def _correspondence(self, batch: Batch, images: Tensor, maps: list[Tensor], parts: dict[str, Tensor]) -> Tensor:
        """The long-term and short-term terms, of the first views' images and their backbone's maps."""
        total = images.new_zeros(())
        keys = self._keys(images, maps)
        with torch.no_grad():
            second = self._keys(to_images(batch["frames"][:, 1]))
        first, other = (batch["maps"][:, view, 0] for view in (0, 1))
        place = grid_between(first, (keys.shape[3], keys.shape[4]), (images.shape[3], images.shape[4]), other)
        if "long-term" in self.settings.terms:
            elsewhere = from_others(anchors_of(keys).flatten(0, 1))
            parts["long"], parts["cross"] = long_term_loss(keys, second, place, others=elsewhere)
            total = total + (parts["long"] + CROSS_VIEW * parts["cross"])
        if "short-term" in self.settings.terms:
            parts["short"] = short_term_loss(keys, second, place)
            total = total + parts["short"]
        return total

    def _segmentation(self, batch: Batch, maps: list[Tensor] | None, parts: dict[str, Tensor]) -> Tensor:
        """The segmentation loss of masks propagated through synthetic clips.

        Args:
            maps: the backbone's of the first views, where they were made for the correspondence.
        """
        settings = self.settings
        # What the whole batch has in common is alike in all processes; all else is drawn by each clip's own seed.
        common = np.random.default_rng(np.random.randint(1 << 31))
        cycle = common.random() < settings.cycle
        rounds = int(common.integers(settings.rounds + 1))
        clips, length = batch["frames"].shape[0], batch["frames"].shape[2]
        count = min(settings.mask_clips or clips, clips)
        chosen = torch.arange(count) * (clips // count)
        taken = {name: rows[chosen.to(rows.device)] for name, rows in batch.items()}
        rngs = [np.random.default_rng(seed) for seed in taken["seed"].tolist()]
        if maps is not None and not cycle:  # gathered at once: a gather's gradient is as large as what it takes from
            rows = (chosen[:, None] * length + torch.tensor(_shown(length))).flatten().to(batch["frames"].device)
            maps = [one[rows].unflatten(0, (count, -1)) for one in maps]  # (M, T, C, h, w)
            if "flips" in settings.terms:
                maps = [one.detach() for one in maps]
        if cycle:
            frames, labels = cycle_clips(rngs, taken["frames"][:, 0])
        else:
            frames, labels = self._synthetic_clips(rngs, taken, None if maps is None else maps[-1])

        # What has no object teaches nothing, and counts as a loss of 0. One clip is kept in any case: processes that
        # train together must use the same parameters.
        there = labels[:, 0].flatten(1).any(1).cpu()
        share = int(there.sum()) / count
        kept = there.nonzero()[:, 0] if share else torch.tensor([0])
        frames, labels, rngs = frames[kept], labels[kept], [rngs[one] for one in kept.tolist()]
        features = None
        if maps is not None and not cycle and settings.pasted == 0:  # these frames are as they were
            features = [
                self.network.features([one[kept, at] for one in maps], to_images(frames[:, at]))
                for at in range(frames.shape[1])
            ]

        shown = self.propagate(frames, labels, rounds, rngs, features, cycle=cycle)
        pairs = [(logits, labels[:, at]) for at, (_, decoded) in enumerate(shown, 1) for logits in decoded]
        losses = {"masks": [segmentation_loss(*pair, edge_weight=settings.edge_weight) for pair in pairs]}
        if settings.dice_weight > 0:
            losses["dice"] = [dice_loss(*pair) for pair in pairs]
        parts |= {name: share * torch.stack(each).mean() for name, each in losses.items()}
        carried, decoded = shown[-1]
        with torch.no_grad():
            parts["iou_carried"], parts["iou"] = (
                share * clip_iou(one, labels[:, -1]) for one in (carried, decoded[-1])
            )
        parts["objects"] = parts["masks"].new_tensor(share)
        return parts["masks"] + settings.dice_weight * parts["dice"] if "dice" in parts else parts["masks"]

    def _synthetic_clips(
        self, rngs: Sequence[np.random.Generator], batch: Batch, deepest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Clips of up to three frames (M, T, H, W, 3) with labels (M, T, H, W), on the batch's device: pasted pieces or
        pseudo masks.

        Args:
            deepest: (M, T, C, h, w) features of these frames, where they are at hand.
        """
        settings = self.settings
        clips = batch["frames"][:, 0, _shown(batch["frames"].shape[2])].cpu().numpy()
        made = []
        for one, (rng, frames, video) in enumerate(zip(rngs, clips, batch["video"].tolist(), strict=True)):
            labels = None
            if rng.random() >= settings.pasted:
                keys = deep_keys(self.network.backbone, frames) if deepest is None else unit_keys(deepest[one])
                _, labels = clip_pseudo_masks(keys, self.clusters[video], frames)
            if labels is None or (settings.pasted > 0 and not labels[0].any()):
                frames, labels = pasted_clip(rng, frames, batch["others"][one].cpu().numpy())
            made.append((frames, labels))
        device = batch["frames"].device
        images, truth = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*made, strict=True))
        return images, truth

    def _encode(self, images: Tensor) -> list[FrameFeatures]:
        """Of images (B, T, 3, H, W) those of each time, (B, ...)."""
        flat = images.flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "flips" not in self.settings.terms):
            maps = self.network.backbone(flat)
        encoded = self.network.features(maps, flat).map(lambda one: one.unflatten(0, images.shape[:2]))
        return [encoded.map(lambda one, at=at: one[:, at]) for at in range(images.shape[1])]  # type: ignore[misc]

    def propagate(
        self,
        frames: Tensor,
        labels: Tensor,
        rounds: int,
        rngs: Sequence[np.random.Generator] | None = None,
        features: list[FrameFeatures] | None = None,
        cycle: bool = False,
    ) -> list[tuple[Tensor, list[Tensor]]]:
        """Masks of the first frame of clips (M, T, H, W, 3) propagated through the others: of each the mask that was
        carried and the logits of each round. The third frame sees the first's masks and those carried to the second.

        Args:
            rngs: of each clip, to perturb what is carried and remembered as the settings say; None leaves it.
            features: of the frames, where they are encoded already.
            cycle: each frame sees only the one before, and only the last is decoded.
        """
        features = features or self._encode(to_images(frames))
        share = 0.0 if rngs is None else self.settings.perturb
        first = F.one_hot(labels[:, 0].long(), 1 + OBJECTS).permute(0, 3, 1, 2).float()
        references = [self.network.remember(features[0], first, annotated=True)]
        shown: list[tuple[Tensor, list[Tensor]]] = []
        for at, one in enumerate(features[1:], 1):
            carried, last = self.network.read(one, references), at == len(features) - 1
            if rngs is not None and share > 0:
                carried = carried._replace(given=perturb_some(rngs, carried.given, share, bend, fade))
            decoded = self.network.decode_rounds(one, carried, rounds) if last or not cycle else []
            shown.append((carried.large, decoded))
            if not last:
                soft = carried.large.detach()
                if rngs is not None and share > 0:
                    soft = perturb_some(rngs, soft, share, bend)
                references = [*([] if cycle else references), self.network.remember(one, soft)]
        return shown

    # --- pictures

    def pictures(self, batch: Batch, epoch: int) -> dict[str, Frame]:
        """What cells of the last frame match in the first; clusters and pseudo masks as in Figures S1-S4; and masks
        propagated: given, true, carried, and of each number of rounds."""
        settings, drawn = self.settings, dict[str, Frame]()
        few = {name: rows[:4] for name, rows in batch.items()}
        clips = few["frames"][:, 0]
        keys = self._keys(to_images(clips[:, [0, -1]])).float()
        drawn["affinities"] = draw_affinities(clips[:, 0].cpu().numpy(), clips[:, -1].cpu().numpy(), keys)
        if "masks" not in settings.terms or epoch < settings.masks_from:
            return drawn
        if self.clusters:
            frames = clips[0].cpu().numpy()
            keys = deep_keys(self.network.backbone, frames)
            clusters, objects = clip_pseudo_masks(keys, self.clusters[int(batch["video"][0])], frames)
            drawn["pseudo_masks"] = draw_sheet(frames, clusters, objects)
        images, labels = self._synthetic_clips([np.random.default_rng(seed) for seed in few["seed"].tolist()], few)
        found = [self.propagate(images, labels, rounds)[-1] for rounds in range(settings.rounds + 1)]
        columns = [found[0][0], *(decoded[-1] for _, decoded in found)]
        drawn["predictions"] = draw_predictions(images.cpu().numpy(), labels.cpu().numpy(), columns)
        return drawn


def initial_mask_vos(architecture: str, start: str, backbone: str = "") -> MaskVOS:
    """An untrained network, with another backbone where one is named; ImageNet's weights come from a package that is
    installed, or from timm.

    Raises:
        ModelError: they cannot be had.
    """
    spec = replace(ARCHITECTURES[architecture], backbone=backbone) if backbone else ARCHITECTURES[architecture]
    packaged = WEIGHTS["efficientnet-lite0-imagenet"]
    if start == "imagenet" and packaged.backbone == spec.backbone and spec.mask_encoder is None:
        return MaskVOS(packaged_backbone(packaged, spec.stages, spec.stride), spec)
    return build_mask_vos(spec, pretrained=start == "imagenet")


def clip_iou(scores: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of all objects of scores (B, 1 + N, h, w), where the largest counts, with labels
    (B, H, W): the mean over the batch; 1 of what has no object and of which none is found."""
    found = F.interpolate(scores.float(), size=labels.shape[1:], mode="bilinear").argmax(1)
    inside = ((found == labels) & (labels > 0)).sum((1, 2))
    either = ((found > 0) | (labels > 0)).sum((1, 2))
    return torch.where(either > 0, inside / either.clamp(min=1), 1.0).mean()


def _shown(length: int) -> list[int]:
    """Which frames of a clip carry masks: three, the first, the middle and the last."""
    return [round(at) for at in np.linspace(0, length - 1, min(length, 3))]

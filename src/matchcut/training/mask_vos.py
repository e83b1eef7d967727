"""Mask-VOS's training: correspondence without labels, and masks that are carried and decoded, on made-up truth.

Li et al., "Unified Mask Embedding and Correspondence Learning for Self-Supervised Video Segmentation", CVPR 2023,
supplement B, G and Table S2: correspondence alone at first; from an epoch on pseudo masks, made anew every few epochs,
add the segmentation loss. Relative to the paper: only the clusters of a video are kept, and its pseudo masks made of
them for each clip; pieces pasted over clips are a second source of masks, exact to the pixel; a soft overlap may join
the cross-entropy; how many rounds of refinement are trained is drawn anew each step, so that each can be used.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from matchcut.data.clips import Clips
from matchcut.data.footage import FrameReader, find_videos
from matchcut.data.pasting import region
from matchcut.errors import TrainingError
from matchcut.models.backbones import Backbone
from matchcut.models.mask_vos import MaskVOS, build_mask_vos
from matchcut.models.mask_vos.decoders import DeepMaskEncoder, FrameFeatures
from matchcut.models.mask_vos.form import FORMS
from matchcut.training.config import TrainConfig, parse
from matchcut.training.distributed import from_others
from matchcut.training.flips import flips_loss
from matchcut.training.losses import (
    anchors_of,
    level_channel,
    long_term_loss,
    overlap_loss,
    reconstruction_loss,
    rgb_to_lab,
    segmentation_loss,
    short_term_loss,
)
from matchcut.training.mask_vos_settings import MaskVOSTraining
from matchcut.training.objectives import OBJECTIVES, Batch, Losses, Objective, Say
from matchcut.training.pictures import draw_affinities, draw_sheet
from matchcut.training.practice import (
    OBJECTS,
    OTHERS,
    clip_clusters,
    cluster_video,
    deep_keys,
    fade,
    now_and_then,
    pasted_clip,
    spoil,
    unit_keys,
)
from matchcut.training.pseudo_masks import Clusters
from matchcut.training.views import grid_between, to_images
from matchcut.video.overlay import draw_overlay
from matchcut.weights.records import WEIGHTS
from matchcut.weights.store import packaged_backbone

Frames = NDArray[np.uint8]


class MaskVOSObjective(Objective):
    """See the module; its settings are `MaskVOSTraining`."""

    network: MaskVOS

    def __init__(self, config: TrainConfig, roots: Sequence[Path], cache: Path, say: Say) -> None:
        self.settings = parse(MaskVOSTraining, config.settings, "recipe: [settings]")
        self.settings.check(config.data, config.batch_size)
        videos, problems = find_videos(*roots)
        for problem in problems:
            say(f"left out: {problem}")
        pasted = self.settings.masks > 0 and self.settings.pasted > 0 and self.settings.there_and_back < 1
        if single := sum(one.total == 1 for one in videos):
            say(f"{single} of {len(videos)} videos have a single frame: they show no motion")
        self.samples = Clips(videos, config.data, seed=config.seed, cache=cache, others=OTHERS * pasted)
        self._reader = FrameReader(videos, config.data.side, cache, keep_images=config.data.cache)
        self.network = make_network(self.settings.form, self.settings.start, self.settings.backbone)
        self.teacher: Backbone | None = None
        """Of the mean over flips: the backbone as it was when training began."""
        self.clusters: dict[int, Clusters] = {}
        """Of each video, by its place in the list."""

    def about_network(self) -> dict[str, Any]:
        """The form, and what the backbone takes off its input."""
        backbone = self.network.backbone
        numbers = {"mean": backbone.mean.flatten().tolist(), "std": backbone.std.flatten().tolist()}
        return {"model": "mask-vos", "form": asdict(self.network.form), **numbers}

    # --- teacher and pseudo masks

    def start_epoch(self, epoch: int, say: Say) -> None:
        """Keep the backbone as it is at first, for its mean over flips; cluster all videos anew, when it is time to."""
        settings = self.settings
        if settings.flips > 0 and self.teacher is None:
            self.teacher = self._copy_of_backbone()
        since = epoch - settings.masks_from
        if settings.masks == 0 or settings.pasted == 1 or since < 0 or since % settings.masks_every:
            return
        self.network.eval()
        transport = settings.clusters == "transport"
        for video, footage in enumerate(self.samples.videos):
            found = cluster_video(
                self.network.backbone, self._reader, video, footage, settings.count, transport=transport
            )
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
        if state.get("teacher"):
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
        """The weighted sum of the terms that are on; the terms themselves, unweighted."""
        settings, parts = self.settings, dict[str, Tensor]()
        if settings.norms == "frozen":
            self._freeze_norms()
        total, maps = torch.zeros((), device=batch["frames"].device), None
        if settings.corresponds:
            images = to_images(batch["frames"][:, 0])
            if max(settings.long_term, settings.short_term) > 0:
                maps = self.network.backbone(images.flatten(0, 1))
            total = total + self._correspondence(batch, images, maps, parts)
        if self.teacher is not None:
            images = to_images(batch["frames"][:, 0, 0])
            parts["flips"] = flips_loss(self.network, self.teacher, images)
            total = total + settings.flips * parts["flips"]
        if settings.masks > 0 and epoch >= settings.masks_from:
            total = total + settings.masks * self._masks(batch, maps, parts)
        if not total.requires_grad:
            raise TrainingError("no loss depends on what is trained: with these rates, set long_term and the like to 0")
        return total, parts

    def _freeze_norms(self) -> None:
        self.network.backbone.eval()
        if isinstance(self.network.mask_encoder, DeepMaskEncoder):
            self.network.mask_encoder.backbone.eval()

    def _encode(self, images: Tensor) -> list[FrameFeatures]:
        """Of images (B, T, 3, H, W) those of each time, (B, ...)."""
        flat = images.flatten(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.masks_train_backbone):
            maps = self.network.backbone(flat)
        encoded = self.network.features(maps, flat).map(lambda one: one.unflatten(0, images.shape[:2]))
        return [encoded.map(lambda one, at=at: one[:, at]) for at in range(images.shape[1])]  # type: ignore[misc]

    def _keys(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """(B, T, C, h, w) of images (B, T, 3, H, W), of which the backbone's maps may be at hand."""
        flat = images.flatten(0, 1)
        keys: Tensor = self.network.keys(maps or self.network.backbone(flat), flat)
        return torch.unflatten(keys, 0, images.shape[:2])

    def _correspondence(
        self, batch: Batch, images: Tensor, maps: list[Tensor] | None, parts: dict[str, Tensor]
    ) -> Tensor:
        settings = self.settings
        total = images.new_zeros(())
        if maps is not None:
            keys = self._keys(images, maps)
            with torch.no_grad():
                second = self._keys(to_images(batch["frames"][:, 1]))
            first, other = (batch["maps"][:, view, 0] for view in (0, 1))
            cells, size = (keys.shape[3], keys.shape[4]), (images.shape[3], images.shape[4])
            place = grid_between(first, cells, size, other)
            if settings.long_term > 0:
                elsewhere = from_others(anchors_of(keys).flatten(0, 1))
                parts["long"], parts["cross"] = long_term_loss(keys, second, place, others=elsewhere)
                total = total + settings.long_term * (parts["long"] + settings.cross_view * parts["cross"])
            if settings.short_term > 0:
                parts["short"] = short_term_loss(keys, second, place)
                total = total + settings.short_term * parts["short"]
        if settings.reconstruction > 0:
            which = batch["seed"] % 3
            keys = self._keys(level_channel(images, which))
            parts["colour"] = reconstruction_loss(keys, rgb_to_lab(images), which)
            total = total + settings.reconstruction * parts["colour"]
        return total

    def _masks(self, batch: Batch, maps: list[Tensor] | None, parts: dict[str, Tensor]) -> Tensor:
        # What the whole batch has in common is alike in all processes; all else is drawn by each clip's own seed.
        common = np.random.default_rng(np.random.randint(1 << 31))
        back = common.random() < self.settings.there_and_back
        rounds = int(common.integers(self.settings.rounds + 1))
        clips, length = batch["frames"].shape[0], batch["frames"].shape[2]
        count = min(self.settings.mask_clips or clips, clips)
        chosen = torch.arange(count) * (clips // count)
        taken = {name: rows[chosen.to(rows.device)] for name, rows in batch.items()}
        rngs = [np.random.default_rng(seed) for seed in taken["seed"].tolist()]
        at_hand = None
        if maps is not None and not back:  # gathered at once: a gather's gradient is as large as what it takes from
            rows = (chosen[:, None] * length + torch.tensor(_shown(length))).flatten().to(batch["frames"].device)
            at_hand = [one[rows].unflatten(0, (count, -1)) for one in maps]
            if not self.settings.masks_train_backbone:
                at_hand = [one.detach() for one in at_hand]
        if back:
            frames, labels = self._there_and_back(rngs, taken)
        else:
            frames, labels = self._practice(rngs, taken, None if at_hand is None else at_hand[-1])

        # What has no object teaches nothing, and counts as a loss of 0. One clip is kept in any case: processes that
        # train together must use the same parameters.
        there = labels[:, 0].flatten(1).any(1).cpu()
        share = int(there.sum()) / count
        kept = there.nonzero()[:, 0] if share else torch.tensor([0])
        frames, labels, rngs = frames[kept], labels[kept], [rngs[one] for one in kept.tolist()]
        features = None
        if at_hand is not None and self.settings.pasted == 0:
            features = [
                self.network.features([one[kept, at] for one in at_hand], to_images(frames[:, at]))
                for at in range(frames.shape[1])
            ]

        shown = self.carry(frames, labels, rounds, rngs, features, forget=back)
        pairs = [(logits, labels[:, at]) for at, (_, decoded) in enumerate(shown, 1) for logits in decoded]
        losses = {"masks": [segmentation_loss(*pair, edges=self.settings.edges) for pair in pairs]}
        if self.settings.overlap > 0:
            losses["overlap"] = [overlap_loss(*pair) for pair in pairs]
        parts |= {name: share * torch.stack(each).mean() for name, each in losses.items()}
        carried, decoded = shown[-1]
        with torch.no_grad():
            parts["iou_carried"], parts["iou"] = (share * overlap(one, labels[:, -1]) for one in (carried, decoded[-1]))
        parts["objects"] = parts["masks"].new_tensor(share)
        return parts["masks"] + self.settings.overlap * parts.get("overlap", parts["masks"].new_zeros(()))

    def _practice(
        self, rngs: Sequence[np.random.Generator], batch: Batch, deepest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Clips of up to three frames (M, T, H, W, 3) with labels (M, T, H, W), on the batch's device.

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
                labels = clip_clusters(keys, self.clusters[video], frames, snap=settings.snap).objects
            if labels is None or (settings.pasted > 0 and not labels[0].any()):
                frames, labels = pasted_clip(rng, frames, batch["others"][one].cpu().numpy())
            made.append((frames, labels))
        device = batch["frames"].device
        images, truth = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*made, strict=True))
        return images, truth

    def _there_and_back(self, rngs: Sequence[np.random.Generator], batch: Batch) -> tuple[Tensor, Tensor]:
        """The first frame of each clip, the last, and the first again (M, 3, H, W, 3), with one or two regions of the
        first (M, 3, H, W)."""
        images = batch["frames"][:, 0, [0, -1, 0]]
        drawn = []
        for rng, frame in zip(rngs, images[:, 0].cpu().numpy(), strict=True):
            labels = np.zeros(frame.shape[:2], np.uint8)
            for number in range(1, 1 + int(rng.integers(1, OBJECTS + 1))):
                labels[region(rng, frame)] = number
            drawn.append(labels)
        return images, torch.from_numpy(np.stack(drawn)).to(images.device)[:, None].expand(-1, 3, -1, -1)

    def carry(
        self,
        frames: Tensor,
        labels: Tensor,
        rounds: int,
        rngs: Sequence[np.random.Generator] | None = None,
        features: list[FrameFeatures] | None = None,
        forget: bool = False,
    ) -> list[tuple[Tensor, list[Tensor]]]:
        """Masks of the first frame of clips (M, T, H, W, 3) carried through the others: of each the mask that was
        carried and the logits of each round. The third frame sees the first's masks and those carried to the second.

        Args:
            rngs: of each clip, to spoil what is carried and remembered as the settings say; None leaves it.
            features: of the frames, where they are encoded already.
            forget: each frame sees only the one before, and only the last is decoded.
        """
        features = features or self._encode(to_images(frames))
        first = F.one_hot(labels[:, 0].long(), 1 + OBJECTS).permute(0, 3, 1, 2).float()
        references = [self.network.remember(features[0], first, annotated=True)]
        shown: list[tuple[Tensor, list[Tensor]]] = []
        for one in features[1:]:
            carried = self.network.read(one, references)
            if rngs is not None and self.settings.spoil > 0:
                carried = carried._replace(given=now_and_then(rngs, carried.given, self.settings.spoil, spoil, fade))
            last = len(shown) == len(features) - 2
            shown.append(
                (carried.large, self.network.decode_rounds(one, carried, rounds) if last or not forget else [])
            )
            if not last:
                soft = carried.large.detach()
                if rngs is not None and self.settings.spoil > 0:
                    soft = now_and_then(rngs, soft, self.settings.spoil, spoil)
                references = [*([] if forget else references), self.network.remember(one, soft)]
        return shown

    # --- pictures

    def pictures(self, batch: Batch, epoch: int) -> dict[str, Frames]:
        """What cells of the last frame match in the first; clusters and pseudo masks as in Figures S1-S4; and masks
        carried: given, coarse, and by each mode."""
        settings, drawn = self.settings, dict[str, Frames]()
        clips = batch["frames"][:4, 0]
        keys = self._keys(to_images(clips[:, [0, -1]])).float()
        drawn["affinities"] = draw_affinities(clips[:, 0].cpu().numpy(), clips[:, -1].cpu().numpy(), keys)
        if settings.masks == 0 or epoch < settings.masks_from:
            return drawn
        if self.clusters:
            frames = batch["frames"][0, 0].cpu().numpy()
            clusters = self.clusters[int(batch["video"][0])]
            found = clip_clusters(deep_keys(self.network.backbone, frames), clusters, frames, snap=settings.snap)
            drawn["pseudo_masks"] = draw_sheet(frames, found.clusters, found.objects)
        few = {name: rows[:4] for name, rows in batch.items()}
        frames_, labels = self._practice([np.random.default_rng(seed) for seed in few["seed"].tolist()], few)
        columns = []
        for rounds in range(settings.rounds + 1):
            coarse, decoded = self.carry(frames_, labels, rounds)[-1]
            columns += [coarse, decoded[-1]] if rounds == 0 else [decoded[-1]]
        rows = []
        for one in range(len(frames_)):
            last = frames_[one, -1].cpu().numpy()
            shown = [draw_overlay(frames_[one, 0].cpu().numpy(), labels[one, 0].cpu().numpy(), ids=False)]
            shown.append(draw_overlay(last, labels[one, -1].cpu().numpy(), ids=False))
            for soft in columns:
                large = F.interpolate(soft[one : one + 1].float(), size=last.shape[:2], mode="bilinear")
                shown.append(draw_overlay(last, large[0].argmax(0).cpu().numpy().astype(np.uint8), ids=False))
            rows.append(np.concatenate(shown, 1))
        drawn["predictions"] = np.concatenate(rows)
        return drawn


def make_network(form: str, start: str, backbone: str = "") -> MaskVOS:
    """The network of a form, with another backbone where one is named; ImageNet's weights come from a package that is
    installed, or from timm.

    Raises:
        ModelError: they cannot be had.
    """
    spec = replace(FORMS[form], backbone=backbone) if backbone else FORMS[form]
    packaged = WEIGHTS["efficientnet-lite0-imagenet"]
    if start == "imagenet" and packaged.backbone == spec.backbone and spec.mask_encoder is None:
        return MaskVOS(packaged_backbone(packaged, spec.stages, spec.stride), spec)
    return build_mask_vos(spec, pretrained=start == "imagenet")


def overlap(scores: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of all objects of scores (B, 1 + N, h, w), where the largest counts, with labels
    (B, H, W): the mean over the batch; 1 of what has no object and of which none is found."""
    found = F.interpolate(scores.float(), size=labels.shape[1:], mode="bilinear").argmax(1)
    inside = ((found == labels) & (labels > 0)).sum((1, 2))
    either = ((found > 0) | (labels > 0)).sum((1, 2))
    return torch.where(either > 0, inside / either.clamp(min=1), 1.0).mean()


def _shown(length: int) -> list[int]:
    """Which frames of a clip carry masks: three, the first, the middle and the last."""
    return [round(at) for at in np.linspace(0, length - 1, min(length, 3))]


OBJECTIVES["mask-vos"] = MaskVOSObjective

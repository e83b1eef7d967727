"""Mask-VOS's training: correspondence without labels, and masks that are carried and decoded, on made-up truth.

Li et al., "Unified Mask Embedding and Correspondence Learning for Self-Supervised Video Segmentation", CVPR 2023,
supplement B, G and Table S2: correspondence alone at first; from an epoch on pseudo masks, made anew every few epochs,
add the segmentation loss. Relative to the paper: only the clusters of a video are kept, and its pseudo masks made of
them for each clip; pieces pasted over clips are a second source of masks, exact to the pixel; a soft overlap may join
the cross-entropy; how many rounds of refinement are trained is drawn anew each step, so that each can be used.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from matchcut.data.clips import ClipConfig, Clips
from matchcut.data.footage import FrameReader, find_videos
from matchcut.data.pasting import region
from matchcut.errors import TrainingError
from matchcut.models.decoders import DeepMaskEncoder, FrameFeatures
from matchcut.models.mask_vos import MaskVOS, build_mask_vos
from matchcut.models.mask_vos_form import FORMS
from matchcut.training.config import TrainConfig, parse
from matchcut.training.losses import (
    level_channel,
    long_term_loss,
    overlap_loss,
    reconstruction_loss,
    rgb_to_lab,
    segmentation_loss,
    short_term_loss,
)
from matchcut.training.objectives import OBJECTIVES, Batch, Losses, Objective, Say
from matchcut.training.practice import OBJECTS, clip_clusters, cluster_video, fade, pasted_clip, spoil
from matchcut.training.pseudo_masks import Clusters, draw_sheet
from matchcut.training.views import grid_between, to_images
from matchcut.video.overlay import draw_overlay
from matchcut.weights.specs import WEIGHTS
from matchcut.weights.store import packaged_backbone

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskVOSTraining:
    """What `[settings]` of a recipe may say. Weights of losses: 0 leaves one out, and costs no time."""

    form: str = "small"
    """Of the network, by its name in `matchcut.models.mask_vos_form.FORMS`."""
    start: Literal["imagenet", "scratch"] = "imagenet"
    """Of the backbones."""
    norms: Literal["frozen", "trained"] = "frozen"
    """Statistics of the backbones' batch norms; to begin from scratch they must be trained."""
    long_term: float = 1.0
    """Weight of the assignment to anchors of the whole batch."""
    cross_view: float = 0.1
    """Weight of its second part, over that of the first."""
    short_term: float = 0.0
    """Weight of the assignment to anchors of the frame before."""
    reconstruction: float = 0.0
    """Weight of colours made from those of the frame before."""
    masks: float = 1.0
    """Weight of the segmentation loss."""
    edges: float = 0.0
    """How many times more than others pixels at edges count in it."""
    overlap: float = 0.0
    """Weight, over that of its cross-entropy, of its second part, the soft overlap of each object, however small."""
    masks_from: int = 0
    """Epochs of correspondence alone."""
    masks_every: int = 10
    """Epochs between two updates of the pseudo masks."""
    mask_clips: int = 4
    """Clips of a batch, of each process, that the segmentation loss takes; 0: all."""
    pasted: float = 0.5
    """Share of these that get pasted pieces, the others pseudo masks; and so do clips in which no object is found,
    unless it is 0."""
    clusters: Literal["k-means", "transport"] = "k-means"
    count: int = 7
    """Clusters a video."""
    snap: bool = True
    """Move pseudo masks to the edges of the picture."""
    rounds: int = 2
    """Rounds of refinement trained at most."""
    there_and_back: float = 0.0
    """Share of steps in which a region of a frame is carried to the last frame and back, and only then decoded: what
    real motion leaves of it, with a truth that needs no label."""
    spoil: float = 0.0
    """Share of steps in which the masks remembered of the second frame are spoilt, as those of a long video are in the
    end, and, drawn on their own, in which those are, or fade, that the annotated frame alone gives."""

    def __post_init__(self) -> None:
        if (
            min(
                self.long_term,
                self.cross_view,
                self.short_term,
                self.reconstruction,
                self.masks,
                self.edges,
                self.overlap,
            )
            < 0
        ):
            raise ValueError("weights of losses must be 0 or more")
        if self.form not in FORMS:
            raise ValueError(f"unknown form {self.form!r}; there are {', '.join(FORMS)}")
        if min(self.masks_from, self.mask_clips, self.rounds) < 0 or self.masks_every < 1 or self.count < 2:
            raise ValueError("masks_from, mask_clips and rounds must be 0 or more, masks_every 1, count 2 or more")
        shares = {"pasted": self.pasted, "spoil": self.spoil, "there_and_back": self.there_and_back}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share}: expected a share from 0 to 1")
        if not self.corresponds and (self.masks == 0 or self.masks_from > 0):
            raise ValueError("nothing would be trained at first: all terms of correspondence are 0; masks_from must be")

    @property
    def corresponds(self) -> bool:
        """Whether any term of correspondence is on."""
        return max(self.long_term, self.short_term, self.reconstruction) > 0

    def check(self, data: ClipConfig) -> None:
        """That the clips are what the terms need.

        Raises:
            TrainingError: they are not.
        """
        if max(self.long_term, self.short_term) > 0 and (data.views != 2 or data.shake > 0):
            raise TrainingError("long_term and short_term need clips of data.views = 2 and data.shake = 0")
        if data.length < 2 and max(self.short_term, self.reconstruction, self.masks) > 0:
            raise TrainingError("short_term, reconstruction and masks need clips of data.length = 2 or more")


class MaskVOSObjective(Objective):
    """See the module; its settings are `MaskVOSTraining`."""

    network: MaskVOS

    def __init__(self, config: TrainConfig, roots: Sequence[Path], cache: Path, say: Say) -> None:
        self.settings = parse(MaskVOSTraining, config.settings, "settings")
        self.settings.check(config.data)
        videos, problems = find_videos(*roots)
        for problem in problems:
            say(f"left out: {problem}")
        self.samples = Clips(videos, config.data, seed=config.seed, cache=cache)
        self._reader = FrameReader(videos, config.data.side, cache, keep_images=config.data.cache)
        self.network = make_network(self.settings.form, self.settings.start)
        self.clusters: dict[int, Clusters] = {}
        """Of each video, by its place in the list."""

    def about_network(self) -> dict[str, Any]:
        """The form, and what the backbone takes off its input."""
        backbone = self.network.backbone
        numbers = {"mean": backbone.mean.flatten().tolist(), "std": backbone.std.flatten().tolist()}
        return {"model": "mask-vos", "form": asdict(self.network.form), **numbers}

    # --- pseudo masks

    def start_epoch(self, epoch: int, say: Say) -> None:
        """Cluster all videos anew, when it is time to."""
        settings = self.settings
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
        """The clusters, of which pseudo masks follow."""
        return {
            "centres": {video: one.centres.cpu() for video, one in self.clusters.items()},
            "biases": {video: one.biases.cpu() for video, one in self.clusters.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        device = next(self.network.parameters()).device
        self.clusters = {
            video: Clusters(centres.to(device), state["biases"][video].to(device))
            for video, centres in state["centres"].items()
        }

    # --- the loss

    def loss(self, batch: Batch, epoch: int) -> Losses:
        """The weighted sum of the terms that are on; the terms themselves, unweighted."""
        settings, parts = self.settings, dict[str, Tensor]()
        if settings.norms == "frozen":
            self._freeze_norms()
        total, encoded = torch.zeros((), device=batch["frames"].device), None
        if max(settings.long_term, settings.short_term) > 0:
            encoded = self._encode(to_images(batch["frames"][:, 0]))
        if settings.corresponds:
            total = total + self._correspondence(batch, encoded, parts)
        if settings.masks > 0 and epoch >= settings.masks_from:
            total = total + settings.masks * self._masks(batch, encoded, parts)
        if not total.requires_grad:
            raise TrainingError("no loss depends on what is trained: with these rates, set long_term and the like to 0")
        return total, parts

    def _freeze_norms(self) -> None:
        self.network.backbone.eval()
        if isinstance(self.network.mask_encoder, DeepMaskEncoder):
            self.network.mask_encoder.backbone.eval()

    def _encode(self, images: Tensor) -> list[FrameFeatures]:
        """Of images (B, T, 3, H, W) those of each time, (B, ...)."""
        encoded = self.network.encode(images.flatten(0, 1)).map(lambda one: one.unflatten(0, images.shape[:2]))
        return [encoded.map(lambda one, at=at: one[:, at]) for at in range(images.shape[1])]  # type: ignore[misc]

    def _keys(self, images: Tensor) -> Tensor:
        """(B, T, C, h, w) of images (B, T, 3, H, W)."""
        return torch.stack([one.keys for one in self._encode(images)], 1)

    def _correspondence(self, batch: Batch, encoded: list[FrameFeatures] | None, parts: dict[str, Tensor]) -> Tensor:
        settings, images = self.settings, to_images(batch["frames"][:, 0])
        precise = torch.autocast(images.device.type, enabled=False)  # similarities are divided by 0.05
        total = images.new_zeros(())
        if encoded is not None:
            keys = torch.stack([one.keys for one in encoded], 1)
            with torch.no_grad():
                second = self._keys(to_images(batch["frames"][:, 1]))
            first, other = (batch["maps"][:, view, 0] for view in (0, 1))
            cells, size = (keys.shape[3], keys.shape[4]), (images.shape[3], images.shape[4])
            place = grid_between(first, cells, size, other)
            with precise:
                if settings.long_term > 0:
                    parts["long"], parts["cross"] = long_term_loss(keys, second, place)
                    total = total + settings.long_term * (parts["long"] + settings.cross_view * parts["cross"])
                if settings.short_term > 0:
                    parts["short"] = short_term_loss(keys, second, place)
                    total = total + settings.short_term * parts["short"]
        if settings.reconstruction > 0:
            with precise:
                levelled, which = level_channel(images)
                colours = rgb_to_lab(images)
            keys = self._keys(levelled)
            with precise:
                parts["colour"] = reconstruction_loss(keys, colours, which)
            total = total + settings.reconstruction * parts["colour"]
        return total

    def _masks(self, batch: Batch, encoded: list[FrameFeatures] | None, parts: dict[str, Tensor]) -> Tensor:
        rng = np.random.default_rng(np.random.randint(1 << 31))  # NumPy's own is seeded by the step
        back = rng.random() < self.settings.there_and_back
        frames, labels = (self._there_and_back if back else self._practice)(rng, batch)
        rounds = int(rng.integers(self.settings.rounds + 1))
        features = None
        if encoded is not None and self.settings.pasted == 0 and not back:  # these are the frames encoded before
            features = [encoded[at].map(lambda one: one[: len(frames)]) for at in _shown(len(encoded))]
        shown = self.carry(frames, labels, rounds, rng, features, forget=back)
        pairs = [(logits, labels[:, at]) for at, (_, decoded) in enumerate(shown, 1) for logits in decoded]
        parts["masks"] = total = torch.stack(
            [segmentation_loss(*pair, edges=self.settings.edges) for pair in pairs]
        ).mean()
        if self.settings.overlap > 0:
            parts["overlap"] = torch.stack([overlap_loss(*pair) for pair in pairs]).mean()
            total = total + self.settings.overlap * parts["overlap"]
        carried, decoded = shown[-1]
        with torch.no_grad():
            parts["iou_carried"], parts["iou"] = (overlap(one, labels[:, -1]) for one in (carried, decoded[-1]))
        return total

    def _practice(self, rng: np.random.Generator, batch: Batch) -> tuple[Tensor, Tensor]:
        """Clips of up to three frames (M, T, H, W, 3) with labels (M, T, H, W), on the batch's device."""
        settings = self.settings
        clips = batch["frames"][:, 0, _shown(batch["frames"].shape[2])].cpu().numpy()
        videos = batch["video"].tolist()
        made = []
        for one in range(settings.mask_clips or len(clips))[: len(clips)]:
            frames, labels = clips[one], None
            if rng.random() >= settings.pasted:
                clusters = self.clusters[videos[one]]
                labels = clip_clusters(self.network.backbone, clusters, frames, snap=settings.snap).objects
            if labels is None or (settings.pasted > 0 and not labels[0].any()):
                others = [clips[other] for other in range(len(clips)) if other != one] or [frames]
                frames, labels = pasted_clip(rng, frames, others)
            made.append((frames, labels))
        device = batch["frames"].device
        images, truth = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*made, strict=True))
        return images, truth

    def _there_and_back(self, rng: np.random.Generator, batch: Batch) -> tuple[Tensor, Tensor]:
        """The first frame of each clip, the last, and the first again (M, 3, H, W, 3), with one or two regions of the
        first (M, 3, H, W)."""
        count = self.settings.mask_clips or len(batch["frames"])
        images = batch["frames"][:count, 0, [0, -1, 0]]
        drawn = []
        for frame in images[:, 0].cpu().numpy():
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
        rng: np.random.Generator | None = None,
        features: list[FrameFeatures] | None = None,
        forget: bool = False,
    ) -> list[tuple[Tensor, list[Tensor]]]:
        """Masks of the first frame of clips (M, T, H, W, 3) carried through the others: of each the mask that was
        carried and the logits of each round. The third frame sees the first's masks and those carried to the second.

        Args:
            rng: spoil what is carried and remembered, as the settings say; None leaves it.
            features: of the frames, where they are encoded already.
            forget: each frame sees only the one before, and only the last is decoded.
        """
        features = features or self._encode(to_images(frames))
        first = F.one_hot(labels[:, 0].long(), 1 + OBJECTS).permute(0, 3, 1, 2).float()
        references = [self.network.remember(features[0], first, annotated=True)]
        shown: list[tuple[Tensor, list[Tensor]]] = []
        for one in features[1:]:
            carried = self.network.read(one, references)
            if rng is not None and rng.random() < self.settings.spoil:
                carried = carried._replace(given=(spoil if rng.random() < 0.5 else fade)(rng, carried.given))
            last = len(shown) == len(features) - 2
            shown.append(
                (carried.large, self.network.decode_rounds(one, carried, rounds) if last or not forget else [])
            )
            if not last:
                soft = carried.large.detach()
                if rng is not None and rng.random() < self.settings.spoil:
                    soft = spoil(rng, soft)
                references = [*([] if forget else references), self.network.remember(one, soft)]
        return shown

    # --- pictures

    def pictures(self, batch: Batch, epoch: int) -> dict[str, Frames]:
        """Clusters and pseudo masks as in Figures S1-S4; and masks carried: given, coarse, and by each mode."""
        settings, drawn = self.settings, dict[str, Frames]()
        if settings.masks == 0 or epoch < settings.masks_from:
            return drawn
        if self.clusters:
            frames = batch["frames"][0, 0].cpu().numpy()
            clusters = self.clusters[int(batch["video"][0])]
            found = clip_clusters(self.network.backbone, clusters, frames, snap=settings.snap)
            drawn["pseudo_masks"] = draw_sheet(frames, found.clusters, found.objects)
        frames_, labels = self._practice(np.random.default_rng(epoch), {name: rows[:4] for name, rows in batch.items()})
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


def make_network(form: str, start: str) -> MaskVOS:
    """The network of a form; ImageNet's weights for its backbones come from an installed package or from timm.

    Raises:
        ModelError: they cannot be had.
    """
    spec = FORMS[form]
    packaged = WEIGHTS["efficientnet-lite0-imagenet"]
    if start == "imagenet" and packaged.backbone == spec.backbone and spec.mask_encoder is None:
        return MaskVOS(packaged_backbone(packaged, spec.stages, spec.stride), spec)
    return build_mask_vos(form, pretrained=start == "imagenet")


def overlap(scores: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union of all objects of scores (B, 1 + N, h, w), where the largest counts, with labels
    (B, H, W)."""
    found = F.interpolate(scores.float(), size=labels.shape[1:], mode="bilinear").argmax(1)
    inside = ((found == labels) & (labels > 0)).sum()
    return inside / ((found > 0) | (labels > 0)).sum().clamp(min=1)


def _shown(length: int) -> list[int]:
    """Which frames of a clip carry masks: three, the first, the middle and the last."""
    return [round(at) for at in np.linspace(0, length - 1, min(length, 3))]


OBJECTIVES["mask-vos"] = MaskVOSObjective

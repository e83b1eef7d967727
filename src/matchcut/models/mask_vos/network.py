"""Mask-VOS: masks carried by matching, and a learned embedding of them decoded with the frame's own features.

Li et al., "Unified Mask Embedding and Correspondence Learning for Self-Supervised Video Segmentation", CVPR 2023,
Algorithm S1: keys are matched (Eq. 6) by our windowed top-k affinity; values of the mask encoder (Eq. 7) and soft masks
(Eq. 8) are carried over the match; R rounds encode the frame with its mask of the round before and decode (Eq. 9).
Relative to the paper: the decoder corrects the mask it is given (`residual`), near its edges alone; the final
probability is the mean of the decoder's and the carried one, as in the public code, but only the carried one is
remembered; the decoder also sees res4, and the mask encoder all other objects and what the annotated frames alone say;
edges are matched anew on the finer grid.
"""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.errors import ModelError
from matchcut.masks import Frame
from matchcut.matching import Affinity, affinity, join, near_edges, refine
from matchcut.models.backbones import Backbone, channels_of
from matchcut.models.base import (
    AnnotatedFrame,
    GuidedModel,
    ModelInput,
    ModelSpec,
    Prediction,
    Reference,
    fingerprint_of,
)
from matchcut.models.mask_vos.architecture import ARCHITECTURES, MaskVOSArchitecture, MaskVOSSettings
from matchcut.models.mask_vos.decoders import (
    DeepMaskEncoder,
    FrameFeatures,
    LightMaskEncoder,
    MaskDecoder,
    aggregate,
    mask_channels,
    mixed,
)
from matchcut.models.mask_vos.target_model import Evidence, evidence_of, target_score
from matchcut.models.resampling import enlarge, finer, halve, join_maps, to_grid
from matchcut.models.search_region import RECENT, boxes_of, where_to_look
from matchcut.refinement import Refined, Soft, cubic, guided
from matchcut.refinement.edge_classifier import EdgeClassifier, learn

SURE = 1e-3
"""A mask that the decoder corrects counts as no surer than this."""
NOWHERE = -10.0
"""The logit of an object where it is not looked for."""
NEAR = 6
"""Cells further than this from where an object was, and twice as far as objects moved between the last frames, are
background without a look; windows over these frames reach as far."""
EDGE = 5
"""Fine cells so near to an edge of the coarse mask are matched on the finer grid, and they alone are decoded."""
FINER = 0.75
"""Share of what is matched on the finer grid at edges; the rest is the coarse mask, which drifts less."""
MARGIN = 4
"""An object is decoded in the box of where the coarse mask has it and so many cells around."""
TARGET = 2.0
"""Weight of the target model's score in the logits of what is shown."""
EDGES = 0.25
"""Weight of the edge classifier's log odds."""


@dataclass(frozen=True)
class MaskReference(Reference):
    """A reference whose `values` are soft masks on the finer grid; the rest is made from features and values."""

    cells: Tensor
    """(B, 1 + N, h, w) the values on the grid of cells."""
    rows: Tensor
    """(B, h * w, 1 + (1 + N) + N * V) of each cell: whether its mask is known, the mask, the mask encoder's values."""
    evidence: Evidence | None = None
    """For the target model, where there is one."""


class Carried(NamedTuple):
    """What the references say of a frame, by the match of their keys with its own."""

    coarse: Tensor
    """(B, 1 + N, h, w) soft masks on the grid of cells."""
    large: Tensor
    """(B, 1 + N, H', W') the same on the finer grid."""
    given: Tensor
    """(B, N, h, w) the objects' masks that the annotated references alone give."""
    embedded: Tensor
    """(B, N, V, h, w) values of the mask encoder."""
    edges: Tensor
    """(B, H', W') bool, where masks have their edges: what was matched on the finer grid, and what is decoded."""


class MaskVOS(nn.Module, GuidedModel):
    """The guided model, and the network that is trained.

    Args:
        backbone: gives res2, res3 and res4 (any number of feature maps from two on), the finest first. Its later
            stages are cut off, since nothing would train them.
        architecture: of the rest; its first fields say which backbone it is meant for.
        settings: of inference.
        mask_backbone: the paper's mask encoder, of one stage; None builds the one of the architecture, untrained.

    Raises:
        ModelError: too few stages, or a architecture that does not fit them.
    """

    def __init__(
        self,
        backbone: Backbone,
        architecture: MaskVOSArchitecture,
        settings: MaskVOSSettings | None = None,
        mask_backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        channels = channels_of(backbone)
        if len(channels) < 2 or not architecture.matched or not {*architecture.matched} <= {*range(len(channels))}:
            raise ModelError(
                f"expected a backbone of two stages or more, and matched among them, got stages {backbone.stages} and "
                f"matched {architecture.matched}"
            )
        backbone.cut()
        self.backbone, self.architecture = backbone, architecture
        self.grid = architecture.grid
        self._edges: EdgeClassifier | None = None
        self._set(settings or MaskVOSSettings())
        coarse, fine = architecture.widths
        joined = sum(channels[one] for one in architecture.matched)
        self.key = nn.Conv2d(joined, architecture.key or joined, 1, bias=False)
        nn.init.orthogonal_(self.key.weight) if architecture.key else nn.init.dirac_(self.key.weight)
        self.to_cells = nn.ModuleList(nn.Conv2d(one, coarse, 1) for one in channels[1:])
        self.to_fine = nn.Conv2d(channels[0], fine, 1)
        self.norms = nn.ModuleList((nn.GroupNorm(1, coarse), nn.GroupNorm(1, fine)))
        self.mask_encoder: LightMaskEncoder | DeepMaskEncoder
        if architecture.mask_encoder is None:
            self.mask_encoder = LightMaskEncoder(architecture.widths, architecture.value)
        else:
            deep = mask_backbone or Backbone(architecture.mask_encoder, (3,), architecture.grid)
            deep.cut()
            self.mask_encoder = DeepMaskEncoder(deep, architecture.value)
        self.decoder = MaskDecoder(architecture.widths, architecture.value, architecture.light)
        if architecture.residual:
            nn.init.normal_(self.decoder.logit.weight, std=1e-3)
            nn.init.zeros_(self.decoder.logit.bias)  # type: ignore[arg-type]

    def with_settings(self, **changes: Any) -> "MaskVOS":
        """The same network, its parameters shared, with some settings changed."""
        other = copy.copy(self)
        other._set(replace(self.settings, **changes))
        return other

    def _set(self, settings: MaskVOSSettings) -> None:
        self.settings = settings
        self.spec = ModelSpec(
            policy=settings.policy,
            size=settings.size,
            multiple=max(self.grid, self.backbone.stride),
            parallel=True,
            grid=self.grid,
            mask_grid=self.grid // 2,
        )

    def backbones(self) -> list[Backbone]:
        """Those whose input is normalised as the weights' file states."""
        return [self.backbone]

    def matched(self) -> tuple[Backbone, int]:
        """For label propagation: the backbone with the stages that make the keys, and the grid."""
        self.backbone.stages = tuple(self.backbone.stages[one] for one in self.architecture.matched)
        return self.backbone, self.grid

    def fingerprint(self) -> str:
        """A hash of architecture, settings and weights."""
        return fingerprint_of(self, self.architecture, self.settings)

    @torch.no_grad()
    def adapt(self, annotated: Sequence[AnnotatedFrame], ids: Sequence[int]) -> "MaskVOS":
        """With an edge classifier that is learned on the annotated frames."""
        if not annotated or not {"guided", "edges"} <= {*self.settings.steps}:
            return self
        height, width = (2 * side for side in self._cells(annotated[0].frame.image))
        other = copy.copy(self)
        other._edges = learn([(one.pixels, one.labels) for one in annotated], ids, (height, width))
        return other

    def refine(self, soft: Soft, ids: Sequence[int], image: Frame) -> Refined:
        """Enlarged along the edges of the frame, where the edge classifier has its say."""
        if "guided" in self.settings.steps:
            return guided(soft, ids, image, edges=self._edges, weight=EDGES)
        return cubic(soft, ids, image)

    def encode(self, frame: ModelInput) -> FrameFeatures:
        """Keys and skips of a frame; H / grid and W / grid are rounded up."""
        return self.embed(frame.image)

    def embed(self, image: Tensor) -> FrameFeatures:
        """As `encode`, of images (B, 3, H, W) in [0, 1]."""
        return self.features(self.backbone(image), image)

    def keys(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """(B, C, h, w) float32, L2-normalised: what is matched, from the backbone's feature maps of images."""
        with torch.autocast(image.device.type, enabled=False):
            joined = join_maps([maps[one] for one in self.architecture.matched], self._cells(image))
            return F.normalize(self.key(joined), dim=1).contiguous(memory_format=torch.channels_last)

    def features(self, maps: list[Tensor], image: Tensor) -> FrameFeatures:
        """As `embed`, from the backbone's feature maps of the images."""
        size = self._cells(image)
        twice = tuple(2 * side for side in size)
        deep = [to_grid(to(one), size) for to, one in zip(self.to_cells, maps[1:], strict=True)]
        fine = to_grid(self.to_fine(maps[0]), twice)
        image_kept = image if isinstance(self.mask_encoder, DeepMaskEncoder) else None
        weights = self.architecture.details
        with torch.autocast(image.device.type, enabled=False):
            details = None if weights is None else join_maps(maps, twice, weights)
        return FrameFeatures(
            self.keys(maps, image),
            F.relu(self.norms[0](functools.reduce(torch.add, deep))),
            F.relu(self.norms[1](fine)),
            None if details is None else details.contiguous(memory_format=torch.channels_last),
            image_kept,
        )

    def _cells(self, image: Tensor) -> tuple[int, ...]:
        return tuple(-(-side // self.grid) for side in image.shape[2:])

    def remember(self, features: FrameFeatures, masks: Tensor, annotated: bool = False) -> MaskReference:
        """Keep the soft masks (B, 1 + N, h, w) of any resolution on the finer grid, and what the mask encoder makes of
        them."""
        with _as_encoded(features):
            values = to_grid(masks, features.fine.shape[2:])
            embedded = self.mask_encoder(features, mask_channels(values)).float()
        cells = F.avg_pool2d(values, 2) if annotated else halve(values)
        evidence = None
        if "target" in self.settings.steps and features.details is not None and not self.training:
            evidence = evidence_of(features.details, values)
        return MaskReference(features, values, annotated, cells, _rows(cells, embedded), evidence)

    def read(
        self,
        features: FrameFeatures,
        references: Sequence[MaskReference],
        where: Tensor | None = None,
        reach: float = 0,
    ) -> Carried:
        """What the references know of a frame.

        What they do not know (soft masks that sum to less than 1) carries nothing.

        Args:
            where: (B, h, w) bool, the cells that are matched; elsewhere all is background. All where None.
            reach: of the window over the last of the context, where that is more than `settings.radius`.
        """
        settings, annotated = self.settings, [one for one in references if one.annotated]
        context = [one for one in references if not one.annotated]
        references = [*annotated, *context]
        # Apart, and then joined, since the decoder asks what the annotated frames alone give.
        parts = [self._match(features, part, where, reach) for part in (annotated, context) if part]
        match = parts[0] if len(parts) == 1 else join(*parts, top_k=settings.top_k, temperature=settings.temperature)
        count = references[0].cells.shape[1]
        rows = torch.stack([one.rows for one in references], 1)  # (B, T, h * w, C)
        values = rows.flatten(1, 2).transpose(1, 2).unflatten(2, match.reference_shape)
        carried = match.apply(values)
        known = carried[:, :1].clamp(min=1e-4)
        embedded = (carried[:, 1 + count :] / known).unflatten(1, (count - 1, self.architecture.value))
        coarse = carried[:, 1 : 1 + count] / known
        alone = coarse
        if annotated and context:
            alone = parts[0].apply(torch.stack([one.cells for one in annotated], 2))
            alone = alone / alone.sum(1, keepdim=True).clamp(min=1e-4)
        if where is not None:
            coarse[:, 0] = torch.where(where, coarse[:, 0], 1.0)
        large = enlarge(coarse, features.fine.shape[2:])
        edges = torch.ones_like(large[:, 0], dtype=torch.bool)
        if "finer" in settings.steps and count > 1:
            edges = near_edges(large, EDGE)
            large = self._matched_finer(features, references, large, match, edges)
        return Carried(coarse, large, alone[:, 1:], embedded, edges)

    def _match(
        self, features: FrameFeatures, references: Sequence[MaskReference], where: Tensor | None, reach: float
    ) -> Affinity:
        settings = self.settings
        radius = [None if one.annotated else settings.radius for one in references]
        for place, one in enumerate(references):
            if settings.radius is not None and not one.annotated and place >= len(references) - RECENT:
                radius[place] = max(settings.radius, reach)
        return affinity(
            features.keys,
            [one.features.keys for one in references],
            top_k=settings.top_k,
            temperature=settings.temperature,
            radius=radius,
            where=where,
        )

    def _matched_finer(
        self,
        features: FrameFeatures,
        references: Sequence[MaskReference],
        large: Tensor,
        match: Affinity,
        edges: Tensor,
    ) -> Tensor:
        """The enlarged masks (B, 1 + N, H', W') with their edges matched anew on the finer grid."""
        settings = self.settings
        if features.details is None:
            return large
        details = [one.features.details for one in references if one.features.details is not None]
        refined = refine(
            match, features.details, details, edges, top_k=settings.top_k, temperature=settings.temperature
        )
        found = refined.apply(torch.stack([one.values for one in references], 2))
        known = found.sum(1, keepdim=True)
        mixed = FINER * found / known.clamp(min=0.5) + (1 - FINER) * large
        return torch.where(known > 0.5, mixed, large)

    def decode(self, features: FrameFeatures, carried: Carried, soft_masks: Tensor, *, encoded: bool = True) -> Tensor:
        """One round: logits (B, N, H', W') of each object on its own, from what was carried and the masks
        (B, 1 + N, H', W') of the round before. Round 0 does without the mask encoder (`encoded` False)."""
        masks = self._masks(soft_masks, carried.given)
        return self._decode(features, carried.embedded, masks, carried.edges, encoded)

    def _masks(self, soft_masks: Tensor, given: Tensor) -> Tensor:
        return mask_channels(soft_masks, enlarge(given, soft_masks.shape[2:]))

    def _decode(self, features: FrameFeatures, embedded: Tensor, masks: Tensor, edges: Tensor, encoded: bool) -> Tensor:
        own = self.mask_encoder(features, masks) if encoded else embedded
        logits: Tensor = self.decoder(features, embedded, own)
        if not self.architecture.residual:
            return logits.float()
        # Half: by odds, `aggregate` doubles the logit of a single object.
        return logits.float() * edges[:, None] + masks[:, :, 0].float().clamp(SURE, 1 - SURE).logit() / 2

    def forward(
        self, features: FrameFeatures, references: Sequence[MaskReference], rounds: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The masks that were carried (B, 1 + N, H', W'), and what `decode_rounds` makes of them."""
        carried = self.read(features, references)
        return carried.large, self.decode_rounds(features, carried, self.settings.rounds if rounds is None else rounds)

    def decode_rounds(self, features: FrameFeatures, carried: Carried, rounds: int) -> list[Tensor]:
        """For training: the logits over {background, objects} (B, 1 + N, H', W') of each round; round 0's alone where
        `rounds` is 0."""
        soft, logits = carried.large, []
        for _ in range(max(1, rounds)):
            logits.append(aggregate(self.decode(features, carried, soft, encoded=rounds > 0)))
            soft = logits[-1].softmax(1)
        return logits

    def segment(
        self, features: FrameFeatures, references: Sequence[MaskReference], state: Any, ids: Sequence[int]
    ) -> Prediction:
        """Soft masks (B, 1 + N, H', W') of a frame on the finer grid: what was carried is remembered, so that no
        mistake of the decoder can grow, and what was decoded is shown."""
        where, reach = where_to_look([(one.cells, one.annotated) for one in references], NEAR)
        carried = self.read(features, references, where, reach)
        return Prediction(carried.large, shown=functools.partial(self._shown, features, references, carried))

    def _shown(self, features: FrameFeatures, references: Sequence[MaskReference], carried: Carried) -> Tensor:
        shown = carried.large
        if shown.shape[1] == 1:
            return shown
        if self.settings.blend < 1:
            shown = mixed(shown, self._decoded(features, carried), 1 - self.settings.blend)
        return self._like_target(features, references, shown, carried.edges)

    def _decoded(self, features: FrameFeatures, carried: Carried) -> Tensor:
        """Soft masks (B, 1 + N, H', W') after all rounds."""
        boxes, decoded = boxes_of(carried.coarse, MARGIN), carried.large
        if decoded.shape[1] == 1:
            return decoded
        with _as_encoded(features):
            for _ in range(max(1, self.settings.rounds)):
                decoded = aggregate(self._decode_boxes(features, carried, decoded, boxes)).softmax(1)
        return decoded

    def _like_target(
        self, features: FrameFeatures, references: Sequence[MaskReference], shown: Tensor, edges: Tensor
    ) -> Tensor:
        """Soft masks (B, 1 + N, H', W') to which the target model had its say: at edges, in the objects' log odds."""
        known = [(one.annotated, one.evidence) for one in references if one.evidence is not None]
        if features.details is None or not known:
            return shown
        annotated, context = ([one for given, one in known if given == which] for which in (True, False))
        logits = shown.clamp(min=1e-12).log()
        logits[:, 1:] += TARGET * target_score(features.details, annotated, context, edges)[:, None]
        return logits.softmax(1) * shown.sum(1, keepdim=True)

    def _decode_boxes(
        self, features: FrameFeatures, carried: Carried, soft: Tensor, boxes: list[tuple[slice, slice] | None]
    ) -> Tensor:
        masks = self._masks(soft, carried.given)
        logits = soft.new_full((*carried.embedded.shape[:2], *features.fine.shape[2:]), NOWHERE)
        for index, box in enumerate(boxes):
            if box is None:
                continue
            inside, one = features.crop(*box), slice(index, index + 1)
            part = carried.embedded[(slice(None), one, slice(None), *box)]
            mask = masks[(slice(None), one, slice(None), *finer(box))]
            edges = carried.edges[(slice(None), *finer(box))]
            logits[(slice(None), one, *finer(box))] = self._decode(inside, part, mask, edges, self.settings.rounds > 0)
        return logits


def build(architecture: Mapping[str, Any], settings: Mapping[str, Any]) -> MaskVOS:
    """The network of a file of weights, by the architecture and the settings of inference that it states."""
    stated = MaskVOSArchitecture(**architecture)
    return MaskVOS(Backbone(stated.backbone, stated.stages, stated.stride), stated, MaskVOSSettings(**settings))


def build_mask_vos(
    architecture: MaskVOSArchitecture | str, settings: MaskVOSSettings | None = None, *, pretrained: bool = False
) -> MaskVOS:
    """The network of an architecture, or of the name of one of ARCHITECTURES.

    Args:
        pretrained: let timm load ImageNet's weights into both backbones; random ones otherwise.

    Raises:
        ModelError: an unknown architecture or backbone, or weights that cannot be had.
    """
    if isinstance(architecture, str):
        if architecture not in ARCHITECTURES:
            raise ModelError(f"unknown architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
        architecture = ARCHITECTURES[architecture]
    backbone = Backbone(architecture.backbone, architecture.stages, architecture.stride, pretrained)
    mask_backbone = None
    if architecture.mask_encoder is not None:
        mask_backbone = Backbone(architecture.mask_encoder, (3,), architecture.grid, pretrained)
    return MaskVOS(backbone, architecture, settings, mask_backbone)


def _rows(cells: Tensor, embedded: Tensor) -> Tensor:
    """What a match carries over, cell by cell: nothing of what is not known."""
    known = cells.sum(1, keepdim=True)
    values = (embedded * known[:, None]).flatten(1, 2)
    return torch.cat([known, cells, values], 1).flatten(2).transpose(1, 2).contiguous()


@contextmanager
def _as_encoded(features: FrameFeatures) -> Iterator[None]:
    """Compute in the precision in which the frame was encoded; while training, in that of the loop."""
    if torch.is_grad_enabled():
        yield
        return
    dtype = features.cells.dtype
    with torch.autocast(features.cells.device.type, dtype, enabled=dtype != torch.float32):
        yield

"""TransportNet: appearance features matched to motion features by optimal transport; finds the moving object unasked.

Zhang et al., "Deep Transport Network for Unsupervised Video Object Segmentation", ICCV 2021. Two streams, one on the
frame and one on the optical flow drawn as a picture; after some of their stages the long-short Sinkhorn layers (Eq. 7
to 10) carry both over their match; a decoder joins them from the deepest stage up, and says where the object and where
its edge is. What the paper leaves open is in `TransportNetArchitecture`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.errors import ModelError
from matchcut.matching.factorised import (
    GroupedTransport,
    LongShortSinkhorn,
    LongShortTransport,
    LongSinkhorn,
    ShortSinkhorn,
    block_of,
    long_sinkhorn,
    short_sinkhorn,
)
from matchcut.models.backbones import Backbone, channels_of
from matchcut.models.base import AutomaticModel, ModelInput, ModelSpec, fingerprint_of

Matching = Literal["none", "full", "long", "short", "long-short"]


@dataclass(frozen=True)
class TransportNetArchitecture:
    """Which network: what its weights need to be loaded."""

    appearance: str = "resnet101"
    """The backbone of the frame's stream, any CNN of timm."""
    motion: str = "resnet50"
    """That of the flow's."""
    stages: tuple[int, ...] = (1, 2, 3, 4)
    """Of both, the finest first: strides 4, 8, 16 and 32, the paper's Res2 to Res5."""
    matched: tuple[int, ...] = (2, 3, 4)
    """After which of these the streams are matched; elsewhere they are only concatenated."""
    matching: Matching = "long-short"
    """The layer: the rows of the paper's Table 3."""
    groups: int = 8
    """P of the paper."""
    epsilon: float = 0.05
    iterations: int = 10
    place: float = 0.0
    """Weight, at first, of a code of each cell's place in the scores, a number that is learned; 0: appearance and
    motion alone decide, as in the paper. With it, matching begins near to leaving all where it is."""
    residual: bool = False
    """Add what was carried to what was there; the paper replaces it."""
    width: int = 256
    """Channels of the decoder."""
    project: int = 0
    """Channels to which both streams are brought before they are matched, by a 1x1 convolution each; 0: as they are,
    which two backbones of the same channels allow."""
    edge: bool = True
    """The head that is trained on the object's edges."""


@dataclass(frozen=True)
class TransportNetSettings:
    """How the network is run."""

    size: int = 320
    """Short side, in pixels, of the frames that it sees."""
    square: bool = False
    """Bring frames to size x size, as the paper does with 512 x 512, whatever their shape."""
    camera: bool = True
    """Take the camera's own motion off the flow that it is shown."""
    blind: bool = False
    """Show it no motion: what the frame alone tells."""


ARCHITECTURES: dict[str, TransportNetArchitecture] = {
    "paper": TransportNetArchitecture(),
    "small": TransportNetArchitecture(
        "tf_efficientnet_lite0", "tf_efficientnet_lite0", width=48, project=48, iterations=5
    ),
}
"""The paper's pair of backbones, and a pair for the CPU."""


class TransportNet(nn.Module, AutomaticModel):
    """The network, and an automatic model.

    Args:
        appearance, motion: backbones that give the architecture's stages. What these do not need is cut out of them.
        architecture: of the rest.
        settings: of inference.

    Raises:
        ModelError: a architecture that does not fit the backbones.
    """

    def __init__(
        self,
        appearance: Backbone,
        motion: Backbone,
        architecture: TransportNetArchitecture,
        settings: TransportNetSettings | None = None,
    ) -> None:
        super().__init__()
        for one in (appearance, motion):
            if one.is_vit:
                raise ModelError(f"{one.name}: has features of one stride alone; expected a CNN with those of four")
            one.cut()
        if not {*architecture.matched} <= {*architecture.stages}:
            raise ModelError(f"matched {architecture.matched}: expected some of the stages {architecture.stages}")
        channels = list(zip(channels_of(appearance), channels_of(motion), strict=True))
        self.backbone, self.motion, self.architecture = appearance, motion, architecture
        self._set(settings or TransportNetSettings())
        self.bring = nn.ModuleDict()
        self.layers = nn.ModuleDict()
        lateral = []
        for stage, pair in zip(architecture.stages, channels, strict=True):
            if architecture.project:
                self.bring[str(stage)] = nn.ModuleList(_projection(one, architecture.project) for one in pair)
                pair = (architecture.project, architecture.project)
            if stage in architecture.matched and architecture.matching != "none":
                if pair[0] != pair[1]:
                    raise ModelError(
                        f"stage {stage}: {appearance.name} has {pair[0]} channels and {motion.name} {pair[1]}, which "
                        "cannot be matched; set project to bring both to as many"
                    )
                self.layers[str(stage)] = _layer(architecture)
            lateral.append(sum(pair))
        self.decoder = Decoder(lateral, architecture.width)
        self.mask = nn.Conv2d(architecture.width, 1, 3, padding=1)
        self.edge = nn.Conv2d(architecture.width, 1, 3, padding=1) if architecture.edge else None
        with torch.no_grad():
            self.mask.bias.fill_(-1.0)  # type: ignore[union-attr]  # a quarter of a frame is the object, or less

    def with_settings(self, **changes: Any) -> "TransportNet":
        """The same network, its parameters shared, with some settings changed."""
        other = copy.copy(self)
        other._set(replace(self.settings, **changes))
        return other

    def _set(self, settings: TransportNetSettings) -> None:
        self.settings = settings
        self.spec = ModelSpec(size=settings.size, square=settings.square, camera=settings.camera, multiple=32)

    def backbones(self) -> list[Backbone]:
        """Those whose input is normalised as the weights' file states."""
        return [self.backbone, self.motion]

    def fingerprint(self) -> str:
        """A hash of architecture, settings and weights."""
        return fingerprint_of(self, self.architecture, self.settings)

    def streams(self, image: Tensor, flow: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features of both streams a stage, the finest first, as they go into the layers: (B, C, h, w) each."""
        found = []
        for stage, *pair in zip(self.architecture.stages, self.backbone(image), self.motion(flow), strict=True):
            if self.architecture.project:
                to: Any = self.bring[str(stage)]
                pair = [to[0](pair[0]), to[1](pair[1])]
            found.append((pair[0], pair[1]))
        return found

    def forward(self, image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the mask and of its edge, (B, 1, H / 4, W / 4); None where there is no edge head.

        Args:
            image: (B, 3, H, W) in [0, 1].
            flow: (B, 3, H, W) in [0, 1], the optical flow from this frame as a picture (`video.flow.draw_flow`).
        """
        joined = []
        for stage, pair in zip(self.architecture.stages, self.streams(image, flow), strict=True):
            if str(stage) in self.layers:
                pair = self._matched(str(stage), *pair)
            joined.append(torch.cat(pair, 1))
        decoded = self.decoder(joined)
        return self.mask(decoded), None if self.edge is None else self.edge(decoded)

    def _matched(self, stage: str, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        layer: Any = self.layers[stage]
        block = block_of(layer.groups)
        if block[0] > appearance.shape[2] or block[1] > appearance.shape[3]:  # a small frame: groups of fewer cells
            layer = copy.copy(layer)
            layer.groups = (min(block[0], appearance.shape[2]), min(block[1], appearance.shape[3]))
        with torch.autocast(appearance.device.type, enabled=False):
            pair = appearance.float(), motion.float()
            carried = layer(*pair)
            if self.architecture.residual:
                return pair[0] + carried[0], pair[1] + carried[1]
            return carried[0], carried[1]

    def segment(self, frame: ModelInput) -> Tensor:
        """The probability of the primary object, (1, 1, H / 4, W / 4) in [0, 1]."""
        return self.probability(frame.image, frame.side["flow"])

    def probability(self, image: Tensor, flow: Tensor) -> Tensor:
        """As `segment`, of images and flow (B, 3, H, W)."""
        if self.settings.blind:
            flow = torch.ones_like(flow)
        logits: Tensor = self(image, flow)[0]
        return logits.float().sigmoid()


class Decoder(nn.Module):
    """From the deepest features up, twice as fine each time, joined with the next (paper, Section 3.3, after U-Net).

    Args:
        channels: of the features, the finest first.
        width: of all that is decoded.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        deepest = len(channels) - 1
        self.blocks = nn.ModuleList(
            _block(one + (width if at < deepest else 0), width) for at, one in enumerate(channels)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, C, h, w) a stage, the finest first, to (B, width, H, W) of the finest."""
        decoded = self.blocks[-1](features[-1])
        for block, one in zip(list(self.blocks)[-2::-1], features[-2::-1], strict=True):
            larger = F.interpolate(decoded, size=one.shape[2:], mode="bilinear", align_corners=False)
            decoded = block(torch.cat([one.to(larger.dtype), larger], 1))
        out: Tensor = decoded
        return out


def _block(inside: int, outside: int) -> nn.Sequential:
    """Two 3x3 convolutions; norms that no other item of the batch has a part in."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1, bias=False), nn.GroupNorm(8, outside), nn.ReLU()]
    return nn.Sequential(*layers)


def _projection(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), nn.GroupNorm(1, outside))


class PlacedSinkhorn(nn.Module):
    """The layers of the paper with a cell's place in the scores: cosine + weight x likeness of places, weight learned.

    Features of two networks are alike by chance at first, so that the plans of Eq. 7 and 9 spread each cell's mass over
    nearly all others of its group, and what is carried is their mean. Here a cell's mass stays near it until a better
    place is learned.
    """

    def __init__(self, architecture: TransportNetArchitecture) -> None:
        super().__init__()
        self.matching, self.groups = (
            architecture.matching,
            1 if architecture.matching == "full" else architecture.groups,
        )
        self.settings: dict[str, Any] = {
            "epsilon": architecture.epsilon,
            "iterations": architecture.iterations,
            "normalise": False,
        }
        self.weight = nn.Parameter(torch.tensor(architecture.place))

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Y_a and Y_m, (B, C, H, W) each."""
        match = self.match(appearance, motion)
        if isinstance(match, LongShortTransport):
            return match.streams()
        carried = match.apply(torch.cat([appearance, motion], 1)).chunk(2, 1)
        return carried[0], carried[1]

    def match(self, appearance: Tensor, motion: Tensor) -> GroupedTransport | LongShortTransport:
        """The match by which `forward` carries."""
        pair = appearance, motion
        if self.matching == "short":
            return short_sinkhorn(*self._with_places(*pair), groups=self.groups, **self.settings)
        far = long_sinkhorn(*self._with_places(*pair), groups=self.groups, **self.settings)
        if self.matching != "long-short":
            return far
        carried = far.apply(torch.cat(pair, 1)).chunk(2, 1)
        near = short_sinkhorn(*self._with_places(*carried), groups=self.groups, **self.settings)
        return LongShortTransport(far, near, (carried[0], carried[1]))

    def _with_places(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        code = place_code(appearance.shape[2], appearance.shape[3], appearance.device).expand(
            len(appearance), -1, -1, -1
        )
        return (
            torch.cat([F.normalize(appearance, dim=1), self.weight * code], 1),
            torch.cat([F.normalize(motion, dim=1), code], 1),
        )


def place_code(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """(1, 16, H, W): unit vectors whose products fall with the distance of cells, from 1 at the same place."""
    waves = 2 * torch.pi / torch.tensor([3.0, 7.0, 17.0, 41.0], device=device)
    rows, columns = (waves[:, None] * torch.arange(size, device=device) for size in (height, width))
    down = torch.cat([rows.sin(), rows.cos()])[:, :, None].expand(-1, -1, width)
    across = torch.cat([columns.sin(), columns.cos()])[:, None].expand(-1, height, -1)
    return F.normalize(torch.cat([down, across]), dim=0)[None]


def _layer(architecture: TransportNetArchitecture) -> nn.Module:
    if architecture.place:
        return PlacedSinkhorn(architecture)
    settings: dict[str, Any] = {"epsilon": architecture.epsilon, "iterations": architecture.iterations}
    if architecture.matching == "full":
        return LongSinkhorn(1, **settings)
    kinds = {"long": LongSinkhorn, "short": ShortSinkhorn, "long-short": LongShortSinkhorn}
    return kinds[architecture.matching](architecture.groups, **settings)


def build(architecture: Mapping[str, Any], settings: Mapping[str, Any]) -> TransportNet:
    """The network of a file of weights, by the architecture and the settings of inference that it states."""
    return build_transport_net(TransportNetArchitecture(**architecture), TransportNetSettings(**settings))


def build_transport_net(
    architecture: TransportNetArchitecture | str,
    settings: TransportNetSettings | None = None,
    *,
    pretrained: bool = False,
) -> TransportNet:
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
    appearance, motion = (
        Backbone(name, architecture.stages, 32, pretrained) for name in (architecture.appearance, architecture.motion)
    )
    return TransportNet(appearance, motion, architecture, settings)

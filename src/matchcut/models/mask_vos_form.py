"""What a Mask-VOS network is made of, and how it is used: the forms there are, and the settings of inference."""

from dataclasses import dataclass, field
from typing import Literal

from matchcut.models.base import MemoryPolicy


@dataclass(frozen=True)
class MaskVOSForm:
    """What a network is made of: with the weights, all there is to know to build it again."""

    backbone: str
    """A timm model."""
    stages: tuple[int, ...] = (1, 2, 3)
    """Its features res2, res3, res4: the first gives the skip to the finer grid, the others that to the cells."""
    stride: int = 8
    grid: int = 8
    """Pixels a cell; masks come out on a grid twice as fine."""
    matched: tuple[int, ...] = (2,)
    """Which of the stages make the keys, by their place in `stages`; several are each normalised first."""
    key: int | None = 128
    """Channels of the keys; None has as many as the stages matched, and starts as label propagation with them."""
    value: int = 512
    widths: tuple[int, int] = (256, 64)
    """Channels of mask encoder and decoder on the grid of cells and on the finer one."""
    mask_encoder: str | None = None
    """A timm model that encodes [frame, mask]; None has the light one."""
    details: tuple[float, ...] | None = None
    """Weights of the stages in what is matched on the finer grid; None leaves that out, as the paper does."""
    light: bool = False
    """Depthwise convolutions in the decoder."""
    residual: bool = True
    """The decoder corrects the mask of the round before, so that it starts as good as the coarse one; the paper's gives
    the mask anew."""


FORMS: dict[str, MaskVOSForm] = {
    "resnet18": MaskVOSForm("resnet18", mask_encoder="resnet18"),
    "resnet50": MaskVOSForm("resnet50", mask_encoder="resnet18"),
    "resnet18-light": MaskVOSForm("resnet18", value=32, widths=(64, 32), light=True),
    "small": MaskVOSForm(
        "tf_efficientnet_lite0",
        stride=16,
        matched=(0, 1, 2),
        key=None,
        value=32,
        widths=(64, 32),
        details=(2.0, 1.0, 1.0),
        light=True,
    ),
}
"""The paper's two, ResNet-18 with light masks, and the small one whose keys start as the default label propagation."""


@dataclass(frozen=True)
class MaskVOSSettings:
    """The settings of inference. Distances are in cells of the grid."""

    policy: MemoryPolicy = field(default_factory=lambda: MemoryPolicy(21, every=3, start="repeat"))
    """CRW's: while the context is short, the annotated frame fills it, so that early masks hardly drift."""
    size: int | None = 432
    """Short side of the frames, in pixels."""
    top_k: int = 10
    temperature: float = 0.055
    radius: float | None = 11
    """Reach of the window (a disc) over context frames; over the last of them more where objects move fast (`near`)."""
    annotated_radius: float | None = None
    """Reach of the window over annotated frames; None leaves it unrestricted."""
    near: int | None = 6
    """Cells further than this from where an object was, and twice as far as objects moved between the last frames, are
    background without a look; windows over these frames reach as far. None: all cells are matched."""
    edge: int | None = 5
    """Fine cells so near to an edge of the coarse mask are matched on the finer grid, and they alone are decoded; None
    decodes all, and matches none."""
    finer: float = 0.75
    """Share of what is matched on the finer grid at edges; the rest is the coarse mask, which drifts less."""
    rounds: int = 1
    """Rounds of refinement, R; 0 decodes what was carried. The paper has 2."""
    blend: float = 0.5
    """Weight of what was carried in the mask that is shown; 1 leaves the decoder out."""
    feedback: float = 0.0
    """Weight of what was decoded in the mask that is remembered; with 0 no mistake of the decoder can grow."""
    margin: int | None = 4
    """An object is decoded in the box of where the coarse mask has it and so many cells around; None: everywhere."""
    target: float = 2.0
    """Weight of the target model's score in the logits of what is shown; 0 leaves that model out, as the paper does."""
    enlarge: Literal["linear", "cubic", "guided"] = "guided"
    pixels: float = 0.25
    """Weight of what pixels at edges say, as learned on the annotated frames, where `enlarge` is "guided"; 0: none."""

    def __post_init__(self) -> None:
        shares = (self.blend, self.feedback, self.finer)
        if self.rounds < 0 or not all(0 <= one <= 1 for one in shares):
            raise ValueError(
                f"expected rounds >= 0 and blend, feedback and finer in [0, 1], got {self.rounds} and {shares}"
            )

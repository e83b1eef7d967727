"""The architectures of Mask-VOS, and its settings of inference."""

from dataclasses import dataclass, field

from matchcut.models.base import MemoryPolicy


@dataclass(frozen=True)
class MaskVOSArchitecture:
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


ARCHITECTURES: dict[str, MaskVOSArchitecture] = {
    "resnet18": MaskVOSArchitecture("resnet18", mask_encoder="resnet18"),
    "resnet50": MaskVOSArchitecture("resnet50", mask_encoder="resnet18"),
    "resnet18-light": MaskVOSArchitecture("resnet18", value=32, widths=(64, 32), light=True),
    "small": MaskVOSArchitecture(
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


STEPS = ("finer", "target", "guided", "edges")


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
    """Reach of the window (a disc) over context frames; over the last of them more where objects move fast. Annotated
    frames are searched whole."""
    rounds: int = 1
    """Rounds of refinement, R; 0 decodes what was carried. The paper has 2."""
    blend: float = 0.5
    """Weight of what was carried in the mask that is shown; 1 leaves the decoder out."""
    steps: tuple[str, ...] = STEPS
    """Of what the paper does not have: "finer", matching at edges anew on the finer grid; "target", the linear
    foreground/background classifier of cells; "guided", upsampling along the edges of the frame; and "edges", there,
    the classifier of pixels that is learned on the annotated frames."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or not 0 <= self.blend <= 1 or not {*self.steps} <= {*STEPS}:
            raise ValueError(
                f"expected rounds >= 0, blend in [0, 1] and steps of {', '.join(STEPS)}, got {self.rounds}, "
                f"{self.blend} and {self.steps}"
            )

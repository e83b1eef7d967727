"""What a recipe may say of Mask-VOS's training."""

from dataclasses import dataclass
from typing import Literal

from matchcut.data.clips import ClipConfig
from matchcut.errors import TrainingError
from matchcut.models.mask_vos.architecture import ARCHITECTURES


@dataclass(frozen=True)
class MaskVOSTraining:
    """`[settings]` of a recipe."""

    architecture: str = "small"
    """By its name in `matchcut.models.mask_vos.architecture.ARCHITECTURES`."""
    backbone: str = ""
    """Another one than the architecture's: any of timm with its strides."""
    start: Literal["imagenet", "scratch"] = "imagenet"
    """Of the backbones."""
    norms: Literal["frozen", "trained"] = "frozen"
    """Statistics of the backbones' batch norms; to begin from scratch they must be trained."""
    terms: tuple[Literal["long-term", "short-term", "flips", "masks"], ...] = ("long-term", "masks")
    """Of the loss; they count alike. long-term: cells are assigned to anchors of the whole batch. short-term: to
    anchors of the frame before. flips: the backbone learns its own mean over a frame's flips, and nothing else.
    masks: the segmentation loss."""
    edge_weight: float = 0.0
    """How many times more than others pixels at edges count in the segmentation loss."""
    dice_weight: float = 0.0
    """Of the Dice loss, beside the cross-entropy of the segmentation loss."""
    masks_from: int = 0
    """Epochs without masks."""
    masks_every: int = 10
    """Epochs between two updates of the clusters that pseudo masks are made of."""
    mask_clips: int = 4
    """Clips of a batch, of each process, that the segmentation loss takes, every second or third and so on; 0: all."""
    pasted: float = 0.5
    """Share of these that get pasted pieces, the others pseudo masks; and so do clips in which no object is found,
    unless it is 0."""
    clusters: Literal["k-means", "transport"] = "k-means"
    rounds: int = 2
    """Rounds of refinement trained at most."""
    cycle: float = 0.0
    """Share of steps in which a region of a frame is propagated to the last frame and back, and only then decoded: what
    real motion leaves of it, with a truth that needs no label."""
    perturb: float = 0.0
    """Share of clips of which the masks remembered of the second frame are perturbed, as those of a long video are in
    the end, and, drawn on their own, of which those are, or fade, that the annotated frame alone gives."""

    def __post_init__(self) -> None:
        if min(self.edge_weight, self.dice_weight) < 0:
            raise ValueError("edge_weight and dice_weight must be 0 or more")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.architecture!r}; there are {', '.join(ARCHITECTURES)}")
        if min(self.masks_from, self.mask_clips, self.rounds) < 0 or self.masks_every < 1:
            raise ValueError("masks_from, mask_clips and rounds must be 0 or more, masks_every 1 or more")
        for name, share in {"pasted": self.pasted, "perturb": self.perturb, "cycle": self.cycle}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share}: expected a share from 0 to 1")
        if set(self.terms) <= {"masks"} and (not self.terms or self.masks_from > 0):
            raise ValueError("nothing would be trained at first: name other terms, or set masks_from to 0")

    @property
    def corresponds(self) -> bool:
        """Whether a term of correspondence is on."""
        return "long-term" in self.terms or "short-term" in self.terms

    def check(self, data: ClipConfig, batch_size: int) -> None:
        """That the clips and batches are what the terms need.

        Raises:
            TrainingError: they are not.
        """
        if self.corresponds and (data.views != 2 or data.shake > 0):
            raise TrainingError("long-term and short-term need clips of data.views = 2 and data.shake = 0")
        if data.length < 2 and ("short-term" in self.terms or "masks" in self.terms):
            raise TrainingError("short-term and masks need clips of data.length = 2 or more")
        if "masks" in self.terms and 0 < self.mask_clips < batch_size and batch_size % self.mask_clips:
            raise TrainingError(f"batch_size {batch_size} is no whole multiple of mask_clips, {self.mask_clips}")

"""What a recipe may say of Mask-VOS's training."""

from dataclasses import dataclass
from typing import Literal

from matchcut.data.clips import ClipConfig
from matchcut.errors import TrainingError
from matchcut.models.mask_vos.form import FORMS


@dataclass(frozen=True)
class MaskVOSTraining:
    """What `[settings]` of a recipe may say. Weights of losses: 0 leaves one out, and costs no time."""

    form: str = "small"
    """Of the network, by its name in `matchcut.models.mask_vos.form.FORMS`."""
    backbone: str = ""
    """Another one than the form's: any of timm with the form's strides."""
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
    flips: float = 0.0
    """Weight of how far the backbone is from its mean over a frame's flips, as it was at the start (see
    `matchcut.training.flips`)."""
    masks: float = 1.0
    """Weight of the segmentation loss."""
    masks_train_backbone: bool = True
    """Whether that loss reaches the backbone; else it takes its features as they are."""
    edges: float = 0.0
    """How many times more than others pixels at edges count in it."""
    overlap: float = 0.0
    """Weight, over that of its cross-entropy, of its second part, the soft overlap of each object, however small."""
    masks_from: int = 0
    """Epochs of correspondence alone."""
    masks_every: int = 10
    """Epochs between two updates of the pseudo masks."""
    mask_clips: int = 4
    """Clips of a batch, of each process, that the segmentation loss takes, every second or third and so on; 0: all."""
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
    """Share of clips of which the masks remembered of the second frame are spoilt, as those of a long video are in the
    end, and, drawn on their own, of which those are, or fade, that the annotated frame alone gives."""

    def __post_init__(self) -> None:
        if (
            min(
                self.long_term,
                self.cross_view,
                self.short_term,
                self.reconstruction,
                self.flips,
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
        if not self.corresponds and self.flips == 0 and (self.masks == 0 or self.masks_from > 0):
            raise ValueError(
                "nothing would be trained at first: flips and all terms of correspondence are 0; masks_from must be"
            )

    @property
    def corresponds(self) -> bool:
        """Whether any term of correspondence is on."""
        return max(self.long_term, self.short_term, self.reconstruction) > 0

    def check(self, data: ClipConfig, batch_size: int) -> None:
        """That the clips and batches are what the terms need.

        Raises:
            TrainingError: they are not.
        """
        if max(self.long_term, self.short_term) > 0 and (data.views != 2 or data.shake > 0):
            raise TrainingError("long_term and short_term need clips of data.views = 2 and data.shake = 0")
        if data.length < 2 and max(self.short_term, self.reconstruction, self.masks) > 0:
            raise TrainingError("short_term, reconstruction and masks need clips of data.length = 2 or more")
        if self.masks > 0 and 0 < self.mask_clips < batch_size and batch_size % self.mask_clips:
            raise TrainingError(f"batch_size {batch_size} is no whole multiple of mask_clips, {self.mask_clips}")

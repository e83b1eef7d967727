"""What a model must offer to be driven by the tracker: a structural protocol, so a user's own model imports nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from matchcut.models.contract import check_policy


@dataclass(frozen=True)
class MemoryPolicy:
    """Which frames a guided model remembers while it goes through a video. Bounded whatever the video's length."""

    context: int = 7
    """How many frames back it remembers, from the one at hand to the annotated frame it is propagated from."""
    annotated: int = 4
    """Annotated frames remembered at most: the one propagated from, the very first, and the nearest of the others."""
    start: Literal["after", "from", "repeat"] = "after"
    """Near an annotated frame, the context holds only frames after it (DINO), that frame too (VFS), or that frame
    again and again until it is full (CRW)."""
    every: int = 1
    """Of frames further back than this, only each so many-th is remembered, counted from that annotated frame: with 3,
    a context of 21 is 9 frames, and reaches as far back."""

    def __post_init__(self) -> None:
        check_policy(self, "MemoryPolicy")


@dataclass(frozen=True)
class Reference:
    """What the memory keeps of a frame: its features, and what is carried over from it."""

    features: Any
    values: Tensor
    """(B, 1 + objects, h, w) at the model's own resolution, background first."""
    annotated: bool
    """Whether a person gave this frame's mask, or the model made it."""


@runtime_checkable
class GuidedModel(Protocol):
    """A model that carries given masks through a video.

    Images are (B, 3, H, W) float in [0, 1], RGB, of any size; the model normalises them itself. Soft masks are
    (B, 1 + objects, h, w), background first, summing to 1 over objects; h and w are the model's choice, and the
    tracker enlarges them to the frame.

    A model may also state `size`, the short side in pixels of the frames it wants; `multiple`, what both sides are a
    multiple of; `enlarge`, "linear", "cubic" or "guided"; and `stretch`, whether each enlarged soft mask is stretched
    to [0, 1] before the largest is taken; `grid` and `mask_grid`, pixels of a cell that is matched and of one of its
    soft masks; and `side_by_side`, whether `segment` and `remember` take about half of a frame's time, so that on a CPU
    the rest is done beside them, of the next frame and of the last.
    """

    policy: MemoryPolicy

    def encode(self, image: Tensor) -> Any:
        """Features of a frame: computed once a frame, whatever the number of objects."""

    def remember(self, features: Any, soft_masks: Tensor, *, annotated: bool = False) -> Reference:
        """What the memory keeps of a frame. `soft_masks` may have any resolution; values that a reference already
        holds are kept as they are, so that a run that was stopped goes on unchanged."""

    def segment(
        self, features: Any, references: list[Reference], carry: Any = None
    ) -> tuple[Tensor, Any, *tuple[Callable[[], Tensor], ...]]:
        """Soft masks of a frame, from references that all hold the same objects; and what to hand to the next call. A
        third value makes the soft masks to be shown, where these are not those to be remembered: it is called once, it
        may be in another thread and while later frames are matched."""


@runtime_checkable
class AutomaticModel(Protocol):
    """A model that finds the primary moving object of a frame with no prompt.

    It may also state `size`, the short side in pixels of the frames it wants; `square`, whether they are squashed to
    size x size; `multiple`, what both sides are to be a multiple of; and `camera`, whether the camera's own motion is
    taken off the flow (it is where this is not stated).
    """

    def segment(self, image: Tensor, flow: Tensor) -> Tensor:
        """The probability of the object (B, 1, h, w) in [0, 1], at a resolution of the model's choice.

        Args:
            image: (B, 3, H, W) in [0, 1], RGB.
            flow: (B, 3, H, W) in [0, 1]: optical flow to the next frame, as a picture by the colour wheel.
        """

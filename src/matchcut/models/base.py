"""The contract of a model: what the tracker asks of it, all declared here.

The protocols are structural: a user's own model may import nothing of ours. One that subclasses `GuidedModel` inherits
what most models do alike (`fingerprint`, `adapt`, `remember`, `refine`) and has only `spec`, `encode` and `segment` to
write.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.masks import Frame, LabelMap
from matchcut.models.contract import check_policy
from matchcut.refinement import Refined, Soft, cubic


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


SideData = Callable[[int, str, Frame], Any]
"""Makes side data of a frame from its index, its name and its pixels (H, W, 3), uint8: proposals, say. It is called in
the thread that reads frames ahead."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is known of a model before it runs."""

    policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    """Which frames a guided model remembers."""
    size: int | None = None
    """Short side, in pixels, of the frames that it wants; None takes them as they are."""
    multiple: int = 1
    """Both sides are brought to a multiple of this, in pixels."""
    square: bool = False
    """Of an automatic model: frames are squashed to `size` x `size`."""
    camera: bool = True
    """Of an automatic model: the camera's own motion is taken off its optical flow."""
    state: bool = False
    """Whether it hands a state from frame to frame. Then frames between two annotated ones are all propagated from the
    earlier one, and the state goes on across annotated frames."""
    side: Mapping[str, SideData] = field(default_factory=dict)
    """Side data that it wants of each frame, by name, and what makes them."""
    parallel: bool = False
    """Whether `segment` and `remember` take about half of a frame's time: then, on a CPU, the next frame is encoded and
    the last one refined beside them."""
    grid: int = 8
    """Pixels of a cell of its features."""
    mask_grid: int = 8
    """Pixels of a cell of its soft masks."""


@dataclass(frozen=True)
class ModelInput:
    """A frame as a model gets it."""

    image: Tensor
    """(1, 3, H, W) float in [0, 1], RGB, at the working size; the model normalises it itself."""
    index: int
    name: str
    side: Mapping[str, Any]
    """Its side data, by the names of `ModelSpec.side`; "flow" for an automatic model: (1, 3, H, W) in [0, 1], the
    optical flow to the next frame, as a picture by the colour wheel."""


@dataclass(frozen=True)
class AnnotatedFrame:
    """An annotated frame, for `GuidedModel.adapt`."""

    frame: ModelInput
    pixels: Frame
    """(H, W, 3) uint8, RGB, at the frame's own size."""
    labels: LabelMap
    """(H, W)."""
    ids: Sequence[int]
    """The objects that were known here: one that is annotated later only may be in the background."""


@dataclass(frozen=True)
class Reference:
    """What the memory keeps of a frame: its features, and the values that are carried over from it."""

    features: Any
    values: Tensor
    """(1, 1 + N, h, w) soft masks at the model's own resolution, background first. They alone are kept for corrections
    and checkpoints: `remember` must make the same reference of the features and these."""
    annotated: bool
    """Whether a person gave this frame's mask, or the model made it."""


@dataclass(frozen=True)
class Prediction:
    """What a guided model finds in a frame."""

    masks: Tensor
    """(1, 1 + N, h, w) soft masks to be remembered, background first, that sum to 1 over objects; h and w are the
    model's choice."""
    state: Any = None
    """For the next frame: tensors, numbers and strings, or lists, tuples and dicts of them."""
    shown: Callable[[], Tensor] | None = None
    """Makes the soft masks to be shown, where they are others than `masks`. It is called once, it may be in another
    thread and while later frames are matched."""


@runtime_checkable
class GuidedModel(Protocol):
    """A model that carries given masks through a video."""

    spec: ModelSpec

    def encode(self, frame: ModelInput) -> Any:
        """Features of a frame: computed once a frame, whatever the number of objects."""

    def segment(self, features: Any, references: Sequence[Any], state: Any, ids: Sequence[int]) -> Prediction:
        """The soft masks of a frame.

        Args:
            features: of the frame.
            references: of the memory, annotated frames first, then the context, the oldest first. All hold the same
                objects.
            state: of the `Prediction` of the frame before, which may have had fewer objects; None at first.
            ids: of the N objects, ascending; an object keeps its id when others enter.
        """

    def fingerprint(self) -> str:
        """What tells this model from others, its weights and settings included: a mask that was made by a model of
        another fingerprint is stale. By default a hash of the class and its source code, of `spec` and, of an
        `nn.Module`, of its weights: a model with other settings, or code elsewhere, adds them."""
        return fingerprint_of(self, source_of(type(self)))

    def adapt(self, annotated: Sequence[AnnotatedFrame], ids: Sequence[int]) -> Self:
        """The model for one propagation, learned on the annotated frames that it remembers, with gradients if it likes:
        a copy, since others may use this one. By default nothing is learned.

        Args:
            annotated: the annotated frames that the memory holds.
            ids: of the objects of the track.
        """
        return self

    def remember(self, features: Any, masks: Tensor, annotated: bool = False) -> Any:
        """What the memory keeps of a frame: a `Reference`, or what has `values` as it has. By default features that are
        a tensor (1, C, h, w), and the soft masks at their resolution.

        Args:
            masks: (1, 1 + N, H', W') of any resolution; where it is the model's own, they are kept as they are.
        """
        return Reference(features, F.interpolate(masks, size=features.shape[2:], mode="area"), annotated)

    def refine(self, soft: Soft, ids: Sequence[int], image: Frame) -> Refined:
        """The label map of a frame (H, W) and how sure each object is, from the soft masks that are shown
        (1 + N, h, w). By default enlarged by `matchcut.refinement.cubic`; `linear` and `guided` stand beside it."""
        return cubic(soft, ids, image)


@runtime_checkable
class AutomaticModel(Protocol):
    """A model that finds the primary moving object of a frame with no prompt."""

    spec: ModelSpec

    def segment(self, frame: ModelInput) -> Tensor:
        """The probability of the object (1, 1, h, w) in [0, 1], at a resolution of the model's choice."""

    def fingerprint(self) -> str:
        """As `GuidedModel.fingerprint`."""
        return fingerprint_of(self, source_of(type(self)))


def source_of(kind: type) -> str:
    """The source code of a class; nothing where it is not at hand, as of one typed into an interpreter."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def fingerprint_of(model: Any, *settings: object) -> str:
    """A hash of a model's class, its `spec`, some settings and, of an `nn.Module`, its weights."""
    spec = {name: value for name, value in vars(model.spec).items() if name != "side"}
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    digest = hashlib.sha256(repr((name, spec, sorted(model.spec.side), settings)).encode())
    if isinstance(model, nn.Module):
        for key, value in (*model.named_parameters(), *model.named_buffers()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

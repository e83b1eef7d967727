"""Propagation: one run of a guided model through frames, from an annotated one, with the memory that it needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matchcut.masks import Frame, one_hot
from matchcut.models.base import AnnotatedFrame, GuidedModel, MemoryPolicy
from matchcut.models.contract import (
    check_adapted,
    check_finite,
    check_prediction,
    check_refined,
    check_remembered,
    check_shares,
    check_soft,
    check_state,
)
from matchcut.refinement import Refined
from matchcut.tracking.checkpoint import pack, unpack
from matchcut.tracking.memory import Slot, reference_frames


class Annotated(NamedTuple):
    """An annotated frame that a propagation may remember."""

    features: Any
    seen: AnnotatedFrame


@dataclass
class Segmented:
    """A frame that was matched: its masks, yet to be shown and refined. Either may be done in another thread."""

    model: GuidedModel
    ids: list[int]
    index: int
    _masks: Tensor
    _shown: Callable[[], Tensor] | None

    def now(self) -> "Segmented":
        """The same, with the masks to be shown made already."""
        if self._shown is not None:
            with torch.inference_mode():
                self._shown = partial(_same, self._shown())
        return self

    def masks(self) -> NDArray[np.float32]:
        """The soft masks that are remembered (1 + N, h, w)."""
        masks: NDArray[np.float32] = self._masks[0].float().cpu().numpy()
        check_finite(self.model, masks, f"segment, frame {self.index}")
        return masks

    def soft(self) -> NDArray[np.float32]:
        """The soft masks to be shown (1 + N, h, w). To be called once."""
        where = f"segment, frame {self.index}"
        with torch.inference_mode():
            soft = self._masks if self._shown is None else self._shown()
            check_soft(self.model, soft, 1 + len(self.ids), where)
            shown: NDArray[np.float32] = soft[0].float().cpu().numpy()
        check_finite(self.model, shown, where)
        check_shares(self.model, shown, where)
        return shown

    def refine(self, soft: NDArray[np.float32], image: Frame) -> Refined:
        """The label map of the frame (H, W) and how sure each object is, from what `soft` gave."""
        found = self.model.refine(soft, self.ids, image)
        check_refined(self.model, found, image.shape[:2], self.ids)
        return found


class Propagation:
    """One run through frames from an annotated one, a step a frame.

    Args:
        model: the guided model; what it learns on the annotated frames is learned here.
        policy: which frames are remembered.
        anchor: the annotated frame.
        step: 1 forwards, -1 backwards.
        annotated: the annotated frames that it may remember, the anchor among them, by index.
        ids: of the objects that it carries.
        state: after the frame before, of the run that went before.
        first: where it begins, if not right after the anchor: then the context before is to be given to `recall`.
    """

    def __init__(
        self,
        model: GuidedModel,
        policy: MemoryPolicy,
        anchor: int,
        step: int,
        annotated: Mapping[int, Annotated],
        ids: Sequence[int],
        state: Any = None,
        first: int | None = None,
    ) -> None:
        self.policy, self.anchor, self.step = policy, anchor, step
        self.ids, self.state = list(ids), state
        self._annotated = list(annotated)
        self._references: dict[Slot, Any] = {}
        # Frames in which an object that was annotated later may have been are not learned from.
        known = [one.seen for one in annotated.values() if set(ids) <= set(one.seen.ids)]
        with torch.inference_mode(False), torch.enable_grad():
            self.model = model.adapt(known, self.ids)
        check_adapted(model, self.model)
        for slot in self._slots(anchor + step if first is None else first):
            if slot.frame in annotated and (slot.annotated or slot.frame == anchor):
                self._references[slot] = self._remember(*annotated[slot.frame], slot.annotated)

    def segment(self, index: int, features: Any) -> Segmented:
        """Match the next frame, of which these are the features; it joins the memory."""
        with torch.inference_mode():
            references = [self._references[slot] for slot in self._slots(index)]
            found = self.model.segment(features, references, self.state, self.ids)
            check_prediction(self.model, found, 1 + len(self.ids), index)
            self._references[Slot(index, False)] = kept = self.model.remember(features, found.masks, False)
            check_remembered(self.model, kept, 1 + len(self.ids))
        check_state(self.model, found.state, index)
        self.state = found.state
        self._keep([*self._slots(index + self.step), Slot(index, False)])
        return Segmented(self.model, self.ids, index, found.masks, found.shown)

    def start_with(self, features: Any, soft: Tensor) -> None:
        """Remember soft maps (1, 1 + N, H, W) as those of the anchor, in place of a label map."""
        for slot in self._slots(self.anchor + self.step):
            with torch.inference_mode():
                self._references[slot] = kept = self.model.remember(features, soft, slot.annotated)
            check_remembered(self.model, kept, soft.shape[1])

    def pack(self, index: int) -> bytes:
        """What is needed to go on after the frame that was segmented last."""
        return pack(self._references[Slot(index, False)].values, self.state)

    def checkpoint(self, index: int) -> dict[int, bytes]:
        """The same of all frames that are remembered as context, but for the anchor, by frame."""
        context = {s.frame: one for s, one in self._references.items() if not s.annotated and s.frame != self.anchor}
        return {frame: pack(one.values, self.state if frame == index else None) for frame, one in context.items()}

    def recall(self, packed: Mapping[int, bytes], features: Callable[[int], Any], device: torch.device) -> None:
        """Remember frames as `pack` left them, the latest of which also gives the state.

        Args:
            features: of a frame.
        """
        for frame, data in sorted(packed.items(), key=lambda one: self.step * one[0]):
            values, self.state = unpack(data, device)
            with torch.inference_mode():
                self._references[Slot(frame, False)] = self.model.remember(features(frame), values, False)

    def _slots(self, index: int) -> list[Slot]:
        return reference_frames(index, self.anchor, self.step, self._annotated, self.policy)

    def _keep(self, slots: Iterable[Slot]) -> None:
        wanted = set(slots)
        self._references = {slot: one for slot, one in self._references.items() if slot in wanted}

    def _remember(self, features: Any, seen: AnnotatedFrame, annotated: bool) -> Any:
        soft = torch.from_numpy(one_hot(seen.labels, self.ids))[None].to(seen.frame.image.device)
        if not set(self.ids) <= set(seen.ids):
            soft[:, 0] = 0  # an object annotated later may have been here: what is not an object is unknown
        with torch.inference_mode():
            kept = self.model.remember(features, soft, annotated)
        check_remembered(self.model, kept, 1 + len(self.ids))
        return kept


def _same(value: Any) -> Any:
    return value

"""Which frames serve as memory for a frame: pure functions of frame indices.

Each frame that nobody annotated is propagated from one annotated frame, its *anchor*: the nearest before or after it.
So frames fall into *segments*, each of which starts at an anchor and goes forwards or backwards until the next anchor
is nearer. Streaming, corrections, backward passes and long videos are all segments.
"""

from collections.abc import Container, Sequence
from typing import NamedTuple

from matchcut.models.base import MemoryPolicy


class Slot(NamedTuple):
    """A slot of the memory: a frame, and whether it is there as an annotated frame or as context."""

    frame: int
    annotated: bool


class Segment(NamedTuple):
    """Frames propagated from one anchor, in the order of propagation: `anchor` + `step`, ..., `last`."""

    anchor: int
    step: int
    last: int

    def frames(self) -> range:
        return range(self.anchor + self.step, self.last + self.step, self.step)


def segments(
    annotated: Sequence[int], length: int, entering: Container[int] = (), *, forward: bool = False
) -> list[Segment]:
    """The segments that fill a video of `length` frames whose `annotated` frames are known (ascending), in an order in
    which each finds what it needs.

    A frame as far from the annotated frame before it as from the one after it belongs to the one before. At an
    `entering` frame only new objects were annotated: the segment before runs up to it, to find the others there.

    Args:
        forward: all frames between two annotated ones belong to the one before, as for a model that hands a state on.
    """
    result = []
    for index, anchor in enumerate(annotated):
        before = annotated[index - 1] if index else None
        after = annotated[index + 1] if index + 1 < len(annotated) else None
        first = 0 if before is None else anchor if forward or anchor in entering else (before + anchor) // 2 + 1
        last = length - 1
        if after is not None:
            last = after if after in entering else after - 1 if forward else (anchor + after) // 2
        if first < anchor:
            result.append(Segment(anchor, -1, first))
        if last > anchor:
            result.append(Segment(anchor, 1, last))
    return result


def reference_frames(frame: int, anchor: int, step: int, annotated: Sequence[int], policy: MemoryPolicy) -> list[Slot]:
    """The memory for a frame that is propagated from an anchor, a step of 1 or -1 a frame: annotated frames first, then
    context, the oldest first.

    Annotated frames count only on the anchor's side of the frame, the anchor included: so a later annotation changes
    no frame that lies nearer to an earlier one, and a stream, which cannot know the future, gives the same masks.
    """
    side = [one for one in annotated if (anchor - one) * step >= 0]
    nearest = sorted(side, key=lambda one: abs(one - anchor))
    farthest = nearest[-1:]  # the very first one: what the object looked like when all began
    kept = nearest[: max(1, policy.annotated - 1)]
    kept += [one for one in farthest if one not in kept and len(kept) < policy.annotated]
    slots = [Slot(one, True) for one in sorted(kept, key=lambda one: step * one)]
    start = anchor if policy.start != "after" else anchor + step
    away = abs(frame - anchor)
    kept_ago = [ago for ago in range(policy.context, 0, -1) if ago <= policy.every or (away - ago) % policy.every == 0]
    context = [frame - step * ago for ago in kept_ago]
    if policy.start == "repeat":
        context = [one if (one - start) * step >= 0 else start for one in context]
    return slots + [Slot(one, False) for one in context if (one - start) * step >= 0]

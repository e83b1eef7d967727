"""The frames of a video with their motion: optical flow that is computed, precomputed or kept, and where scenes end."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matchcut.errors import VideoError
from matchcut.files import make_folder
from matchcut.flow.fields import (
    FILES,
    STILL,
    Flow,
    camera_flow,
    dis_flow,
    draw_flow,
    is_cut,
    motion_of,
    read_flow,
    write_flow,
)
from matchcut.folders import files_in
from matchcut.masks import Frame

Pair = tuple[Frame, Frame]
"""A frame as it is, and as the network sees it."""
FlowOf = Callable[[Frame, Frame], Flow]
"""From one frame to another, both RGB (H, W, 3) uint8 of one size, to (H, W, 2) float32 in pixels."""


@dataclass(frozen=True)
class Moving:
    """A frame with its motion."""

    frame: Frame
    """(H, W, 3) as it is."""
    small: Frame
    """(h, w, 3) as the network sees it."""
    flow: Frame
    """(h, w, 3) its optical flow, drawn; white where nothing moves."""
    still: bool
    """Whether nothing moves, or the motion cannot be known: a single frame, or one between two cuts."""
    cut: bool
    """Whether a scene begins with this frame."""


class FlowSource:
    """Where optical flow comes from: computed, or precomputed files; kept on disk where asked for.

    Args:
        compute: DIS by default.
        folder: of precomputed flow, `<frame name>.flo`, .npz, .npy or .png, each to the next frame (of the last, if it
            is there, to the one before). Frames whose file is missing get computed flow, and are named in `missing`.
        cache: folder where computed flow is kept, by what it was computed of, and taken from if it is there.

    Raises:
        VideoError: no such folder, or it holds no flow.
    """

    def __init__(self, compute: FlowOf = dis_flow, folder: Path | None = None, cache: Path | None = None) -> None:
        self.compute, self.cache = compute, cache
        self.name: str = str(folder) if folder else getattr(compute, "name", getattr(compute, "__name__", "own"))
        self.identity = self.name, str(getattr(compute, "weights", ""))
        """What the flow depends on besides frames and files."""
        self.files: dict[str, Path] = {}
        self.missing: list[str] = []
        if folder is not None:
            self.files = {path.stem: path for path in files_in(folder, FILES)}
            if not self.files:
                raise VideoError(f"{folder}: holds no optical flow; expected <frame name>{', '.join(FILES)}")
        if cache is not None:
            make_folder(cache)

    def of(
        self, name: str, first: Frame, second: Frame, *, file: bool = True, camera: bool = True
    ) -> tuple[Frame, bool]:
        """The picture of the flow of the frame called `name`, and whether nothing moves in it.

        Args:
            file: whether a precomputed file of this frame leads to `second`.
            camera: take the camera's own motion off.

        Raises:
            VideoError: its file is damaged.
        """
        found: Flow | Frame
        if file and name in self.files:
            found = read_flow(self.files[name], (first.shape[0], first.shape[1]))
        else:
            if file and self.files and name not in self.missing:
                self.missing.append(name)
            found = self._computed(name, first, second)
        if found.dtype == np.uint8:
            return found.astype(np.uint8), False  # drawn by somebody: how fast it is cannot be known
        flow = found.astype(np.float32)
        if camera:
            flow = flow - camera_flow(flow)
        return draw_flow(flow), motion_of(flow) < STILL

    def _computed(self, name: str, first: Frame, second: Frame) -> Flow | Frame:
        """In the half precision in which it is kept, so that it is the same whether it was kept or not."""
        if self.cache is None:
            return self.compute(first, second).astype(np.float16).astype(np.float32)
        what = hashlib.sha256(repr((self.identity, first.shape)).encode() + first.tobytes() + second.tobytes())
        kept = self.cache / f"{name}-{what.hexdigest()[:16]}.npz"
        if not kept.exists():
            write_flow(kept, self.compute(first, second))
        return read_flow(kept, (first.shape[0], first.shape[1]))


def with_motion(
    frames: Iterable[tuple[int, Pair]], name: Callable[[int], str], source: FlowSource, *, camera: bool = True
) -> Iterator[tuple[int, Moving]]:
    """Each frame with the flow to the next; of the last of a scene, to the one before.

    Args:
        frames: each as it is and as the network sees it.
        name: of a frame, by its index.
        camera: take the camera's own motion off.
    """
    before: Pair | None = None
    held: tuple[int, Pair] | None = None
    for index, after in _with_end(frames):
        if held is not None:
            at, pair = held
            ends = after is None or is_cut(pair[1], after[1])
            other = before if ends else after
            drawn, still = np.full_like(pair[1], 255), True
            if other is not None:
                # A file at the end of a scene leads over the cut; of the last frame there mostly is none.
                file = not ends or (after is None and name(at) in source.files)
                drawn, still = source.of(name(at), pair[1], other[1], file=file, camera=camera)
            yield at, Moving(*pair, drawn, still, before is None)
            before = None if ends else pair
        if after is not None:
            held = (index, after)


def _with_end(frames: Iterable[tuple[int, Pair]]) -> Iterator[tuple[int, Pair | None]]:
    yield from frames
    yield -1, None

"""What a run leaves behind besides masks: overlay video, cut-outs, COCO; and the folder it all goes to."""

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from matchcut.errors import OutputError
from matchcut.files import atomic_path, make_folder, output_error
from matchcut.masks import LabelMap, boxes, encode_rle, object_ids
from matchcut.video.overlay import cutout, draw_overlay
from matchcut.video.writer import VideoWriter, write_png

if TYPE_CHECKING:
    from matchcut.video.reader import Video

Frame = NDArray[np.uint8]
Cutout = Literal["png", "mov"]

CHECKPOINT = ".resume.safetensors"
LOG = ".resume.jsonl"
OWN = ("masks", "cutout", "timeline.json", "overlay.mp4", "cutout.mov", "coco.json", CHECKPOINT, LOG)
"""What a run writes into its folder."""


def open_folder(folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Make the folder of a run, or clear what an earlier run left in it where `overwrite` says so.

    Raises:
        OutputError: it is a file, cannot be written to, or holds something already.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: give a folder with -o")
    make_folder(folder)
    if overwrite and not resume:
        _clear(folder)
    try:
        held = sorted(one.name for one in folder.iterdir())
    except OSError as error:
        raise output_error(folder, error) from error
    if held and not resume and not overwrite:
        raise OutputError(
            f"{folder} is not empty (it holds {held[0]}): --overwrite replaces an earlier run, --resume goes on with it"
        )
    make_folder(folder / "masks")
    with atomic_path(
        folder / "masks" / ".probe"
    ):  # says now, and not after the first frame, that nothing can be written
        pass
    (folder / "masks" / ".probe").unlink()


def _clear(folder: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    try:
        for name in OWN:
            path = folder / name
            if path.is_dir():
                for file in path.glob("*.png"):
                    file.unlink()
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `timeline.json`."""
    with atomic_path(folder / "timeline.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


class Outputs:
    """Written frame by frame, in order: `overlay.mp4`, `cutout/` or `cutout.mov`, `coco.json`. A context manager.

    Args:
        folder: exists.
        size: (H, W) of the frames.
        source: the video whose sound and colours the written videos take over.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        frame_rate: Fraction,
        *,
        overlay: bool = False,
        cutout: Cutout | None = None,
        coco: bool = False,
        source: "Video | None" = None,
    ) -> None:
        self.folder, self.size, self.cutout = folder, size, cutout
        how: Any = {"frame_rate": frame_rate, "source": source}
        self.overlay = VideoWriter(folder / "overlay.mp4", **how) if overlay else None
        self.mov = VideoWriter(folder / "cutout.mov", alpha=True, **how) if cutout == "mov" else None
        self.coco: dict[str, list[dict[str, Any]]] | None = (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]} if coco else None
        )

    @property
    def wanted(self) -> bool:
        """Whether there is anything to write."""
        return self.overlay is not None or self.cutout is not None or self.coco is not None

    @property
    def said(self) -> list[str]:
        """What a user should know of the files, once they are written."""
        return [writer.note for writer in (self.overlay, self.mov) if writer is not None and writer.note]

    def __enter__(self) -> Self:
        if self.cutout == "png":
            make_folder(self.folder / "cutout")
        for writer in (self.overlay, self.mov):
            if writer is not None:
                writer.__enter__()
        return self

    def add(self, name: str, frame: Frame, labels: LabelMap) -> None:
        """The next frame, its name and its label map."""
        if self.overlay is not None:
            self.overlay.write(draw_overlay(frame, labels))
        if self.cutout is not None:
            cut = cutout(frame, labels)
            if self.mov is not None:
                self.mov.write(cut)
            else:
                write_png(self.folder / "cutout" / f"{name}.png", cut)
        if self.coco is not None:
            self._add_coco(self.coco, name, labels)

    def _add_coco(self, coco: dict[str, list[dict[str, Any]]], name: str, labels: LabelMap) -> None:
        height, width = labels.shape
        image = len(coco["images"]) + 1
        coco["images"].append({"id": image, "file_name": name, "height": height, "width": width})
        ids = object_ids(labels)
        tight = boxes(labels, ids)
        for one, rle in encode_rle(labels, ids).items():
            x0, y0, x1, y1 = tight[one]
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "track_id": one,
                    "segmentation": rle,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int((labels == one).sum()),
                    "iscrowd": 0,
                }
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self.overlay, self.mov):
            if writer is not None:
                writer.__exit__(kind, error, trace)
        if error is None and self.coco is not None:
            with atomic_path(self.folder / "coco.json") as temporary:
                temporary.write_text(json.dumps(self.coco))

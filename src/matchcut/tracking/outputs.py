"""What a run leaves behind besides masks: its record, overlay video, cut-outs, COCO."""

import json
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from PIL import Image

from matchcut.errors import OutputError
from matchcut.files import atomic_path, make_folder
from matchcut.manifest import Manifest
from matchcut.masks import Frame, LabelMap, encode_rle, object_ids, tight_boxes
from matchcut.video.images import UNREADABLE
from matchcut.video.overlay import cutout, draw_overlay
from matchcut.video.writer import VideoWriter, write_png

if TYPE_CHECKING:
    from matchcut.video.reader import Video

Cutout = Literal["png", "mov"]

RECORD = "timeline.json"
CHECKPOINT = ".resume.safetensors"
KIND = "a tracking run"


def read_of(video: "Video") -> list[Path]:
    """What is read of a video: its files, and the folders that are looked through for them."""
    if Path(video.source).is_file():
        return video.files
    return [*video.files, *dict.fromkeys(file.parent for file in video.files)]


def can_be_read(path: Path) -> bool:
    """Whether an image or a JSON file is whole."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        else:
            with Image.open(path) as image:
                image.load()
    except UNREADABLE:
        return False
    return True


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `timeline.json` holds; None where there is none.

    Raises:
        OutputError: it cannot be read, or is no record.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = "is empty" if path.is_file() and not path.stat().st_size else f"cannot be read ({error})"
        raise OutputError(f"{path}: {why}; remove it, and --resume makes it anew") from error
    if not isinstance(record, dict):
        raise OutputError(f"{path}: is no record of a run; remove it, and --resume makes it anew")
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `timeline.json`, with the list of the files that the run wrote."""
    with atomic_path(folder / RECORD) as temporary:
        whole = {**record, "files": sorted({*Manifest(folder).files(), RECORD})}
        temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


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
        self.folder, self.size, self.cutout, self.source = folder, size, cutout, source
        how: Any = {"frame_rate": frame_rate, "source": source}
        self.overlay = VideoWriter(folder / "overlay.mp4", **how) if overlay else None
        self.mov = VideoWriter(folder / "cutout.mov", alpha=True, **how) if cutout == "mov" else None
        self.coco: dict[str, list[dict[str, Any]]] | None = (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]} if coco else None
        )

    @property
    def wanted(self) -> list[str]:
        """What there is to write, if anything."""
        kinds = {"overlay": self.overlay, "cut-outs": self.cutout, "COCO": self.coco}
        return [kind for kind, made in kinds.items() if made is not None]

    @property
    def said(self) -> list[str]:
        """What a user should know of the files, once they are written."""
        return [writer.note for writer in (self.overlay, self.mov) if writer is not None and writer.note]

    def names(self, frames: Iterable[str]) -> list[str]:
        """The paths in the folder of what will be written for frames of these names."""
        pictures = [f"cutout/{name}.png" for name in frames] if self.cutout == "png" else []
        written = {"overlay.mp4": self.overlay, "cutout.mov": self.mov, "coco.json": self.coco}
        return [*pictures, *(name for name, made in written.items() if made is not None)]

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
        file_name = name if self.source is None else self.source.file_name(image - 1)  # frames come in order
        coco["images"].append({"id": image, "file_name": file_name, "height": height, "width": width})
        ids = object_ids(labels)
        tight = tight_boxes(labels, ids)
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
                temporary.write_text(json.dumps(self.coco), encoding="utf-8")

"""Tracking: from a video and a prompt to masks, as a timeline or in a folder."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from matchcut.errors import MaskError, PromptError
from matchcut.folders import IMAGES, files_in
from matchcut.masks import MAX_OBJECTS, Frame, LabelMap, check_mask, object_ids, read_masks
from matchcut.models.base import GuidedModel
from matchcut.tracking.inputs import Boxes, Mask, as_annotations, as_boxes, as_label_map
from matchcut.tracking.prompts import box_to_mask, check_box, combine
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Progress, Tracker
from matchcut.video.reader import Video
from matchcut.weights.store import model_of

Source = str | Path | Sequence[Any] | NDArray[Any] | Video
"""What a `Video` takes, or a `Video`."""
Prompt = Mask | Mapping[Any, Mask] | None
"""A mask, masks by frame (its number or name), or the path of a file or a folder of masks."""


def track(
    source: Source,
    mask: Prompt = None,
    *,
    boxes: Boxes = (),
    model: str | GuidedModel | None = None,
    preset: str | None = None,
    size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Timeline:
    """Carry the mask of a video's objects to every frame.

    Args:
        source: a video file, folder of frames, glob or `Video`; or what a `Video` takes besides: a list of image files,
            frames (T, H, W, 3) uint8.
        mask: what the first frame shows, a file or a label map (H, W) (`matchcut.tracking.inputs.as_label_map` says
            what is taken for one); a folder of masks named after their frames; or masks by frame, by its number or its
            name.
        boxes: instead of a mask, a box (left, top, right, bottom) in pixels an object on the first frame; or one alone.
        model: a name of `list_models()`, or any guided model; None is the default.
        preset: of a model by name, see `load_model`.
        size, device, precision: see `Tracker`.
        progress: called with frames done and frames to do.

    Returns:
        The filled timeline; `save` writes the masks, `save_video` the overlay.

    Raises:
        MatchcutError: the input, the prompt or the model cannot be used; the message says why.
    """
    video = source if isinstance(source, Video) else Video(source)
    annotations = annotations_of(video, mask, boxes)
    tracker = Tracker(model_of(model, preset=preset), size=size, device=device, precision=precision)
    timeline = Timeline(video)
    for frame, labels in annotations.items():
        timeline.annotate(frame, labels)
    tracker.fill(timeline, progress)
    return timeline


def annotations_of(
    video: Video,
    mask: Prompt,
    boxes: Boxes = (),
    *,
    frame: int = 0,
    threshold: float | None = None,
    image: Frame | None = None,
) -> dict[int, LabelMap]:
    """Label maps by frame index from any form a prompt can have, each checked against the video.

    Args:
        frame: the frame that a single mask or the boxes are of.
        threshold: see `read_masks`.
        image: the picture of that frame, where the video cannot be sought.

    Raises:
        MaskError, PromptError: the prompt does not fit the video; the message says why.
    """
    around = as_boxes(boxes)
    if (mask is None) == (not around) or (isinstance(mask, Mapping) and not mask):
        raise PromptError("nothing to track: give either a mask or boxes of the first frame")
    if len(around) > MAX_OBJECTS:
        raise PromptError(f"{len(around)} boxes are more than the {MAX_OBJECTS} objects that a label map can hold")
    if video.seekable and not 0 <= frame < len(video):
        raise PromptError(f"frame {frame} is not in the video, which has frames 0 to {len(video) - 1}")
    if around:
        checked = [check_box(box, video.size) for box in around]
        image = video[frame] if image is None else image
        return {frame: combine([box_to_mask(image, box) for box in checked])}
    if isinstance(mask, Mapping):
        given = as_annotations(mask, video)
        for index, labels in given.items():
            check_mask_or_empty(labels, video.size, f"the mask for frame {index}")
    elif not isinstance(mask, str | PathLike):
        given = {frame: as_label_map(mask, threshold=threshold)}  # type: ignore[arg-type]
        check_mask_or_empty(given[frame], video.size, "the mask")
    else:
        path = Path(mask)
        files = _mask_files(video, path) if path.is_dir() else {frame: path}
        given = dict(zip(files, read_masks(files.values(), threshold=threshold), strict=True))
        for index, labels in given.items():
            check_mask_or_empty(labels, video.size, str(files[index]))
    if not any(object_ids(labels) for labels in given.values()):
        check_mask(
            next(iter(given.values())), video.size, str(mask) if isinstance(mask, str | PathLike) else "the mask"
        )
    return given


def check_mask_or_empty(labels: LabelMap, size: tuple[int, int], where: str) -> None:
    """As `check_mask`, but a map without objects may pass: a frame on which all have left."""
    if labels.shape != tuple(size) or object_ids(labels):
        check_mask(labels, size, where)


def _mask_files(video: Video, folder: Path) -> dict[int, Path]:
    """The mask files of a folder, by the frame whose name they have, in the order of the frames."""
    frames = {name: index for index, name in enumerate(video.names())}
    files = files_in(folder, IMAGES)
    if not files:
        raise MaskError(f"{folder} holds no masks: expected PNGs named after their frames, as {next(iter(frames))}.png")
    strangers = [one.name for one in files if one.stem not in frames]
    if strangers:
        raise MaskError(
            f"{folder / strangers[0]}: no frame has this name ({len(strangers)} such masks); frames are named "
            f"{video.frame_name(0)} to {video.frame_name(len(video) - 1)}"
        )
    given: dict[int, Path] = {}
    for one in sorted(files, key=lambda one: frames[one.stem]):
        if (other := given.setdefault(frames[one.stem], one)) is not one:
            raise MaskError(f"{one}: a second mask of this frame beside {other.name}: remove one")
    return given

"""Every benchmark by name, and a plain folder of frames and masks."""

from collections.abc import Callable, Iterable
from pathlib import Path

from matchcut.data.davis import davis2016, davis2017, davis2017_automatic
from matchcut.data.listing import folders, images_in, sequence_of, singles
from matchcut.data.motion import fbms, segtrack_v2, visal, youtube_objects
from matchcut.data.propagation import jhmdb, vip
from matchcut.data.sequence import Sequence
from matchcut.data.youtube_vos import youtube_vos
from matchcut.errors import DatasetError, VideoError
from matchcut.folders import IMAGES, VIDEOS, files_in
from matchcut.video.reader import Video


def folder(root: Path, split: str) -> list[Sequence]:
    """A user's own videos: frames in `frames`, `images` or `JPEGImages`, masks in `masks` or `Annotations`.

    Each holds pictures, and the root is one sequence, or a folder a sequence. Instead of frames there may be one video
    file in the root. A mask bears the name of its frame (in a video its index in 5 digits); not every frame needs
    one. Masks are of any form that `masks.read_masks` takes; objects may enter later.

    Raises:
        DatasetError: no frames, or a video that cannot be opened.
    """
    ground = next((root / one for one in ("masks", "Annotations") if (root / one).is_dir()), root / "masks")
    place = next((root / one for one in ("frames", "images", "JPEGImages") if (root / one).is_dir()), None)
    problems: list[str] = []
    if place is None:
        images = _video_frames(root)
    elif files_in(place, IMAGES):
        images = images_in(place, problems)
    else:
        return [sequence_of(one.name, one, ground / one.name, "mask", enters_later=True) for one in folders(place)]
    masks, name = singles(images_in(ground, problems)), root.resolve().name
    return [Sequence(name, images, masks, "mask", enters_later=True, problems=tuple(problems))]


def _video_frames(root: Path) -> dict[str, Path]:
    found = files_in(root, VIDEOS)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "neither"
        raise DatasetError(f"{root}: expected a folder frames, or one video file, beside masks; there is {names}")
    try:
        with Video(found[0]) as video:
            return dict.fromkeys(video.names(), found[0])
    except VideoError as error:
        raise DatasetError(str(error)) from error


DATASETS: dict[str, Callable[[Path, str], list[Sequence]]] = {
    "davis2016": davis2016,
    "davis2017": davis2017,
    "davis2017-automatic": davis2017_automatic,
    "youtube-vos-2018": youtube_vos,
    "youtube-vos-2019": youtube_vos,
    "segtrack-v2": segtrack_v2,
    "fbms": fbms,
    "visal": visal,
    "youtube-objects": youtube_objects,
    "vip": vip,
    "jhmdb": jhmdb,
    "folder": folder,
}

_DAVIS2017 = ("val", "train", "test-dev", "test-challenge")
_YOUTUBE_VOS = ("valid", "valid_all_frames", "train", "train_all_frames", "test", "test_all_frames")
SPLITS: dict[str, tuple[str, ...]] = {
    "davis2016": ("val", "train", "trainval"),
    "davis2017": _DAVIS2017,
    "davis2017-automatic": _DAVIS2017,
    "youtube-vos-2018": _YOUTUBE_VOS,
    "youtube-vos-2019": _YOUTUBE_VOS,
    "segtrack-v2": ("all",),
    "fbms": ("test", "train"),
    "visal": ("all",),
    "youtube-objects": ("all",),
    "vip": ("val", "train", "test"),
    "jhmdb": ("test", "test2", "test3", "train", "train2", "train3"),
    "folder": ("all",),
}
"""The splits of each benchmark; the first is the one that papers report."""


def read_dataset(
    name: str, root: Path, split: str | None = None, sequences: Iterable[str] | None = None
) -> list[Sequence]:
    """The sequences of a split (by default the first of `SPLITS`), or those named, in the order of its list.

    Nothing is decoded.

    Raises:
        DatasetError: no such benchmark, split, sequence, root or list, or a list that names nothing. What is wrong with
            single sequences is not raised but found by `check`.
    """
    if name not in DATASETS:
        raise DatasetError(f"no dataset is called '{name}'; choose one of: {', '.join(DATASETS)}")
    split = SPLITS[name][0] if split is None else split
    if split not in SPLITS[name]:
        raise DatasetError(f"{name} has no split '{split}'; choose one of: {', '.join(SPLITS[name])}")
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; give the root of {name}")
    found = DATASETS[name](root, split)
    if sequences is None:
        return found
    wanted, names = list(sequences), [one.name for one in found]
    if unknown := [one for one in dict.fromkeys(wanted) if one not in names]:
        raise DatasetError(f"no sequence {', '.join(unknown)} in this split; there are: {', '.join(names)}")
    return [one for one in found if one.name in wanted]

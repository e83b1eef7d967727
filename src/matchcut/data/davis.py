"""DAVIS-2016 and DAVIS-2017.

Layouts: the published archives as davisvideochallenge/davis2017-evaluation (`davis2017/davis.py`) and fperazzi/davis
read them.
"""

from dataclasses import replace
from pathlib import Path

from matchcut.data.listing import folders, read_list, sequence_of, singles
from matchcut.data.sequence import Form, Sequence
from matchcut.errors import DatasetError

RESOLUTIONS = ("480p", "Full-Resolution")


def davis2016(root: Path, split: str) -> list[Sequence]:
    """DAVIS-2016 (Perazzi et al., CVPR 2016): one object, a mask a frame, above 0 is the object.

    `ImageSets/480p/<split>.txt` with a line `/JPEGImages/480p/<seq>/<frame>.jpg /Annotations/480p/<seq>/<frame>.png` a
    frame (its own archive), or `ImageSets/2016/<split>.txt` with the names of sequences (the DAVIS-2017 archive).
    Without `ImageSets` every sequence of `Annotations` is taken, whatever the split. The level `480p` may be absent.

    Raises:
        DatasetError: no such list, an empty or a malformed one, no sequence.
    """
    lists = root / "ImageSets"
    if (lists / "480p").is_dir():
        return _listed(root, lists / "480p" / f"{split}.txt")
    names = read_list(lists / "2016" / f"{split}.txt") if lists.is_dir() else None
    return _sequences(root, "Annotations", names, "binary", dense=True)


def davis2017(root: Path, split: str) -> list[Sequence]:
    """DAVIS-2017, guided (Pont-Tuset et al., 2017): palette masks of ids, in test-dev and -challenge the first only.

    `ImageSets/2017/<split>.txt` with the names of sequences; `JPEGImages` and `Annotations` with a level `480p` or
    `Full-Resolution` (480p if both are there) or none. Without `ImageSets` every sequence of `Annotations`.

    Raises:
        DatasetError: no such list, an empty one, no sequence.
    """
    return _davis2017(root, split, "Annotations", "2017")


def davis2017_automatic(root: Path, split: str) -> list[Sequence]:
    """DAVIS-2017, automatic (Caelles et al., 2019): as guided, masks in `Annotations_unsupervised`, 255 is void.

    The lists of test-dev and test-challenge are those in `ImageSets/2019`.

    Raises:
        DatasetError: no such list, an empty one, no sequence.
    """
    return _davis2017(root, split, "Annotations_unsupervised", "2019" if split.startswith("test") else "2017")


def _davis2017(root: Path, split: str, truths: str, year: str) -> list[Sequence]:
    lists = root / "ImageSets"
    names = read_list(lists / year / f"{split}.txt") if lists.is_dir() else None
    return _sequences(root, truths, names, "ids", dense=not split.startswith("test"))


def _sequences(root: Path, truths: str, names: list[str] | None, form: Form, *, dense: bool) -> list[Sequence]:
    images_at, truths_at = _level(root / "JPEGImages"), _level(root / truths)
    made = []
    for name in names if names is not None else [folder.name for folder in folders(truths_at)]:
        one = sequence_of(name, images_at / name, truths_at / name, form, dense=dense)
        made.append(replace(one, problems=(*one.problems, *_gaps(images_at / name, one.images))))
    return made


def _level(folder: Path) -> Path:
    """The folder, or its level of a resolution if it has one."""
    return next((folder / level for level in RESOLUTIONS if (folder / level).is_dir()), folder)


def _gaps(folder: Path, images: dict[str, Path]) -> list[str]:
    """A line if numbers are missing: frames are numbered from 0 without a gap."""
    numbers = {int(name) for name in images if name.isdecimal()}
    missing = [f"{number:05d}" for number in range(max(numbers, default=-1) + 1) if number not in numbers]
    more = ", ..." if len(missing) > 5 else ""
    return [f"{folder}: frames {', '.join(missing[:5])}{more} are missing; restore them"] if missing else []


def _listed(root: Path, path: Path) -> list[Sequence]:
    """Sequences from a list of pairs: exactly the frames that it names."""
    images: dict[str, dict[str, Path]] = {}
    truths: dict[str, dict[str, Path]] = {}
    for line in read_list(path):
        parts = line.split()
        if len(parts) < 2:
            raise DatasetError(f"{path}: the line '{line}' is not a pair of an image and a mask; restore the list")
        image, truth = (root / part.lstrip("/") for part in parts[:2])
        images.setdefault(image.parent.name, {})[image.stem] = image
        truths.setdefault(image.parent.name, {})[truth.stem] = truth
    return [Sequence(name, images[name], singles(truths[name]), "binary", dense=True) for name in images]

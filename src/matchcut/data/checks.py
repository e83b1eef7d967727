"""What is wrong with a benchmark on this disk, all of it at once."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from matchcut.data.readers import read_dataset
from matchcut.data.sequence import Sequence, read_file, read_joints
from matchcut.errors import DatasetError, MatchcutError
from matchcut.folders import VIDEOS
from matchcut.masks import LabelMap, object_ids
from matchcut.video.images import image_size
from matchcut.video.reader import Video

Size = tuple[int, int]


def check_dataset(
    name: str, root: Path, split: str | None = None, sequences: Iterable[str] | None = None
) -> list[Sequence]:
    """`read_dataset`, where nothing is wrong with what it reads.

    Raises:
        DatasetError: all that is wrong, a line each.
    """
    found = read_dataset(name, root, split, sequences)
    if problems := check(found):
        raise DatasetError("\n".join(problems))
    return found


def check(sequences: list[Sequence]) -> list[str]:
    """Everything that is wrong with these sequences, a line each that names the file and what to do; empty if nothing.

    Frames and truths that are missing or have no counterpart, sizes that differ, files that cannot be read, ids that
    may not be there, sequences without a frame or an object. Of images only the headers are read; masks are decoded.
    """
    if not sequences:
        return ["no sequence to read; check the root and the split"]
    names = [sequence.name for sequence in sequences]
    twice = [f"{name}: listed twice; remove one" for name in sorted({n for n in names if names.count(n) > 1})]
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        found = pool.map(lambda sequence: list(_problems(sequence)), sequences)
        return twice + [line for lines in found for line in lines]


def _problems(sequence: Sequence) -> Iterator[str]:
    yield from sequence.problems
    images, truths = sequence.images, sequence.truths
    if not images and not sequence.problems:
        yield f"{sequence.name}: has no frame; restore its images"
    if images and not truths:
        yield f"{sequence.name}: has no ground truth; restore its masks"
    if sequence.dense and truths:
        yield from (f"{images[name]}: its ground truth is missing; restore it" for name in images if name not in truths)
    sizes: dict[str, Size] = {}
    yield from _image_problems(images, sizes)
    if sequence.form == "joints":
        yield from _joint_problems(sequence)
        return
    for name, files in truths.items():
        if images and name not in images:
            yield f"{files[0]}: there is no frame of this name; restore the image, or remove this file"
    yield from _truth_problems(sequence, sizes)


def _image_problems(images: dict[str, Path], sizes: dict[str, Size]) -> Iterator[str]:
    """What is wrong with images; fills `sizes` with the (H, W) of every frame that can be read."""
    by_path: dict[Path, Size] = {}
    first: Path | None = None
    for name, path in images.items():
        if path not in by_path:
            if not path.exists():
                yield f"{path}: missing; restore it"
                continue
            try:
                by_path[path] = _frame_size(path)
            except MatchcutError as error:
                yield str(error)
                continue
        sizes[name] = by_path[path]
        first = first or path
        if by_path[path] != by_path[first]:
            yield f"{path}: is {_shown(by_path[path])}, but {first.name} is {_shown(by_path[first])}; replace it"


def _truth_problems(sequence: Sequence, sizes: dict[str, Size]) -> Iterator[str]:
    whole = bool(sequence.truths)
    known: set[int] = set()
    limit: tuple[int, Path] | None = None
    for name, files in sequence.truths.items():
        for number, path in enumerate(files, start=1):
            try:
                labels = read_file(path, sequence.form, sequence.reader)
            except MatchcutError as error:
                whole = False
                yield str(error)
                continue
            if name in sizes and labels.shape != sizes[name]:
                yield f"{path}: is {_shown(labels.shape)}, but its frame is {_shown(sizes[name])}; replace one of them"
            ids = _ids(labels, number if sequence.form == "grey" else None)
            known.update(ids)
            if sequence.objects:
                if strangers := ids - sequence.objects.keys():
                    yield f"{path}: holds ids {_list(strangers)}, but {_list(sequence.objects)} are allowed; replace it"
            elif sequence.form == "ids" and not sequence.enters_later:
                if limit is None and ids:
                    limit = max(ids), path
                if limit and (strangers := {one for one in ids if one > limit[0]}):
                    yield f"{path}: holds ids {_list(strangers)}, which the first mask, {limit[1].name}, lacks; mend it"
    if whole and not known:
        yield f"{sequence.name}: no mask holds an object; replace its masks by the published ones"
    if whole and sequence.enters_later and known:
        for one in sorted(sequence.objects.keys() - known):
            yield f"{sequence.name}: object {one} of meta.json stands in no mask; restore the mask where it enters"


def _joint_problems(sequence: Sequence) -> Iterator[str]:
    if not sequence.truths:
        return
    try:
        frames = len(read_joints(sequence))
    except DatasetError as error:
        yield str(error)
        return
    if sequence.images and frames > len(sequence.images):
        folder = next(iter(sequence.images.values())).parent
        yield f"{folder}: holds {len(sequence.images)} frames, but there are joints for {frames}; restore the others"


def _frame_size(path: Path) -> Size:
    if path.suffix.lower() not in VIDEOS:
        return image_size(path)
    with Video(path) as video:
        return video.size


def _ids(labels: LabelMap, number: int | None) -> set[int]:
    """The ids in a file; of a file that holds one object, the object's own number."""
    ids = set(object_ids(labels))
    return ids if number is None or not ids else {number}


def _shown(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def _list(ids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(ids)))

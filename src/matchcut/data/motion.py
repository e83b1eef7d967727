"""SegTrack v2, FBMS, ViSal and YouTube-Objects: the benchmarks of moving and salient objects."""

from itertools import pairwise
from pathlib import Path

from matchcut.data.listing import folders, images_in, number_of, pair_numbers, singles
from matchcut.data.sequence import ObjectInfo, Sequence
from matchcut.errors import DatasetError
from matchcut.folders import counts, files_in, folders_in


def segtrack_v2(root: Path, split: str) -> list[Sequence]:
    """SegTrack v2 (Li et al., ICCV 2013): a mask file an object and frame.

    `JPEGImages/<seq>/<frame>` and `GroundTruth/<seq>/<frame>`, or `GroundTruth/<seq>/<object>/<frame>` where there are
    several, all of them any of png, bmp, jpg, also mixed in one folder; files are paired by stem. Source:
    Graviti-AI/tensorbay-python-sdk, `opendataset/SegTrack2`; antonilo/unsupervised_detection.

    Raises:
        DatasetError: no sequence.
    """
    made = []
    for folder in folders(root / "GroundTruth"):
        problems: list[str] = []
        images = images_in(root / "JPEGImages" / folder.name, problems)
        inner = [one for one in folders_in(folder) if one.name.isdecimal()]
        places = sorted(inner, key=lambda one: int(one.name)) or [folder]
        masks = [images_in(place, problems) for place in places]
        named = {stem for one in masks for stem in one}
        stems = [stem for stem in images if stem in named] + sorted(named - images.keys())
        truths = {
            stem: tuple(one.get(stem, place / f"{stem}.png") for one, place in zip(masks, places, strict=True))
            for stem in stems
        }
        made.append(
            Sequence(folder.name, images, truths, "grey", dense=True, enters_later=True, problems=tuple(problems))
        )
    return made


def fbms(root: Path, split: str) -> list[Sequence]:
    """FBMS-59 (Ochs et al., PAMI 2014): about every 20th frame annotated, the regions merged to one foreground.

    `Trainingset` or `Testset`, `<seq>/<frame>.jpg` and `<seq>/GroundTruth/*`: `<frame>_gt.ppm` (regions in colours;
    black and white are background; `*PROB*` are not masks), `<frame>.pgm` (0 is background), or png (FBMS-3D). If there
    is `inst/<split>/<seq>/<frame>.png`, those are taken. Files are paired by number. A `*Def.dat` beside the masks
    names those that must be there. Source: achalddave/segment-any-moving, `utils/fbms.py` (Def.dat);
    antonilo/unsupervised_detection and ISCAS007/torchseg (names, background); sabarim/3DC-Seg (`inst`).

    Raises:
        DatasetError: the folder of the split is missing or holds no sequence.
    """
    wanted = {"train": "trainingset", "test": "testset"}.get(split, split)
    place = next((one for one in folders_in(root) if one.name.lower() == wanted), None)
    if place is None:
        raise DatasetError(f"{root}: has no folder {wanted.capitalize()}; check that the root is what was unpacked")
    made = []
    for folder in folders(place):
        problems: list[str] = []
        images = images_in(folder, problems)
        ground = root / "inst" / split / folder.name
        ground = ground if ground.is_dir() else folder / "GroundTruth"
        masks = _masks(ground, problems)
        there = {number_of(path.stem) for path in masks}
        for name in _defined(ground):
            if number_of(Path(name).stem) not in there:
                problems.append(f"{ground / name}: missing, but the Def.dat there names it; restore it")
        made.append(Sequence(folder.name, images, pair_numbers(masks, images), "colours", problems=tuple(problems)))
    return made


def _masks(folder: Path, problems: list[str]) -> list[Path]:
    """The masks of a GroundTruth folder, of the one kind that counts there."""
    for suffix in (".ppm", ".pgm", ".png"):
        if found := [path for path in files_in(folder, {suffix}) if "PROB" not in path.name]:
            return found
    problems.append(f"{folder}: holds no mask (ppm, pgm, png); restore them")
    return []


def _defined(folder: Path) -> list[str]:
    """The mask files that a `*Def.dat` names: the lines after `File name:`."""
    names = []
    for path in files_in(folder, {".dat"}):
        if not path.stem.endswith("Def"):
            continue
        lines = [line.strip() for line in path.read_text(encoding="latin-1").splitlines()]
        names += [name for key, name in pairwise(lines) if key == "File name:"]
    return names


def visal(root: Path, split: str) -> list[Sequence]:
    """ViSal (Wang et al., TIP 2015): one foreground, above half; 193 of the frames of 17 videos annotated.

    `ViSal/<seq>/<frame>` (or `JPEGImages/<seq>`), and the masks under the names of the frames, either all in
    `GroundTruth` or in `GroundTruth/<seq>`; jpg, bmp or png. Source: sabarim/3DC-Seg, `datasets/visal`.

    Raises:
        DatasetError: no sequence.
    """
    place = next((root / one for one in ("ViSal", "JPEGImages") if (root / one).is_dir()), root / "ViSal")
    ground = root / "GroundTruth"
    read = []
    for folder in folders(place):
        problems: list[str] = []
        read.append((folder, images_in(folder, problems), problems))
    flat: dict[str, Path] = {}
    if not any((ground / folder.name).is_dir() for folder, _, _ in read):
        flat = images_in(ground, read[0][2])
        strays = [path for stem, path in flat.items() if not any(stem in images for _, images, _ in read)]
        read[0][2].extend(f"{path}: no frame has this name; restore the image, or remove this file" for path in strays)
    made = []
    for folder, images, problems in read:
        masks = {stem: flat[stem] for stem in images if stem in flat} if flat else {}
        if not flat and ground.is_dir():
            masks = images_in(ground / folder.name, problems)
        made.append(Sequence(folder.name, images, singles(masks), "grey", problems=tuple(problems)))
    return made


def youtube_objects(root: Path, split: str) -> list[Sequence]:
    """YouTube-Objects (Prest et al., CVPR 2012) with the masks of Jain and Grauman (ECCV 2014), `youtube_masks`.

    `<class>/data/<video>/shots/<shot>/labels/00001.jpg` (JPEG; above half is the object), at the root or in its
    `youtube_masks`, and the frames `images/frame0001.jpg` beside `labels`, or `frame0001.jpg` in the same shot under
    `v1`. Files are paired by number. A sequence is `<class>_<video>_<shot>`; its object has the class as category.
    Source: shelhamer/clockwork-fcn, `datasets/youtube.py`; the OnAVOS code of P. Voigtlaender.

    Raises:
        DatasetError: no sequence.
    """
    base = root / "youtube_masks" if (root / "youtube_masks").is_dir() else root
    found = base.glob("*/data/*/shots/*/labels")
    labels = sorted(path for path in found if all(counts(part) for part in path.relative_to(base).parts))
    if not labels:
        raise DatasetError(f"{base}: no <class>/data/<video>/shots/<shot>/labels is there; check the root")
    made = []
    for folder in labels:
        problems: list[str] = []
        shot = folder.parent
        beside, apart = shot / "images", root / "v1" / shot.relative_to(base)
        images = images_in(beside if beside.is_dir() or not apart.is_dir() else apart, problems)
        truths = pair_numbers(images_in(folder, problems).values(), images)
        category = shot.relative_to(base).parts[0]
        name = f"{category}_{shot.parent.parent.name}_{shot.name}"
        made.append(Sequence(name, images, truths, "grey", objects={1: ObjectInfo(category)}, problems=tuple(problems)))
    return made

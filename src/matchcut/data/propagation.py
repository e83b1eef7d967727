"""VIP and JHMDB: the benchmarks of label propagation beside DAVIS."""

from pathlib import Path

from matchcut.data.listing import images_in, read_list, sequence_of
from matchcut.data.sequence import ObjectInfo, Sequence
from matchcut.errors import DatasetError
from matchcut.folders import files_in

# Ids 1 to 19 in the order of the benchmark, 0 is background.
VIP_CLASSES = (  # noqa: SIM905
    "hat hair sun-glasses upper-clothes dress coat socks pants gloves scarf skirt torso-skin face right-arm left-arm "
    "right-leg left-leg right-shoe left-shoe"
).split()


def vip(root: Path, split: str) -> list[Sequence]:
    """VIP (Zhou et al., ACM MM 2018), `VIP_Fine`: ids are the 19 classes of body parts and clothes.

    `lists/<split>_videos.txt` with a video a line, `Images/<video>/<frame>.jpg`,
    `Annotations/Category_ids/<video>/<frame>.png` for every frame; the root is VIP_Fine or the folder that holds it.
    Source: Liusifei/UVC, `test_mask_vip.py` and `eval_vip.py`.

    Raises:
        DatasetError: no such list, or an empty one.
    """
    root = root / "VIP_Fine" if (root / "VIP_Fine").is_dir() else root
    classes = {number: ObjectInfo(name) for number, name in enumerate(VIP_CLASSES, start=1)}
    images_at, truths_at = root / "Images", root / "Annotations" / "Category_ids"
    names = [line.split("/")[-1] for line in read_list(root / "lists" / f"{split}_videos.txt")]
    return [sequence_of(name, images_at / name, truths_at / name, "ids", dense=True, objects=classes) for name in names]


def jhmdb(root: Path, split: str) -> list[Sequence]:
    """JHMDB (Jhuang et al., ICCV 2013): 15 joints a frame. Splits `train` and `test` are those of its split 1; `test2`,
    `train3` and so on those of the others.

    `splits/<class>_test_split<k>.txt`, a line `<video>.avi 1` (train) or `2` (test) a video;
    `Rename_Images/<class>/<video>/<frame>.png`; `joint_positions/<class>/<video>/joint_positions.mat`. Source:
    ajabri/videowalk, `code/data/jhmdb.py` and `eval_pck.py`; DuckerDuck/guided-crw, `gen_jhmbd.py`.

    Raises:
        DatasetError: no list, an empty or a malformed one.
    """
    flag, fold = ("2" if split.startswith("test") else "1"), split.lstrip("abcdefghijklmnopqrstuvwxyz") or "1"
    ending = f"_test_split{fold}.txt"
    lists = [path for path in files_in(root / "splits", {".txt"}) if path.name.endswith(ending)]
    if not lists:
        raise DatasetError(f"{root / 'splits'}: no <class>_test_split{fold}.txt is there; check the root")
    made = []
    for path in lists:
        group = path.name.removesuffix(ending)
        for line in read_list(path):
            parts = line.rsplit(maxsplit=1)
            if len(parts) != 2 or parts[1] not in ("0", "1", "2"):
                raise DatasetError(f"{path}: the line '{line}' is not a video and 1 or 2; restore the list")
            if parts[1] != flag:
                continue
            name = parts[0].removesuffix(".avi")
            problems: list[str] = []
            images = images_in(root / "Rename_Images" / group / name, problems)
            joints = root / "joint_positions" / group / name / "joint_positions.mat"
            truths: dict[str, tuple[Path, ...]] = dict.fromkeys(images, (joints,))
            made.append(Sequence(name, images, truths, "joints", problems=tuple(problems)))
    if not made:
        raise DatasetError(f"{root / 'splits'}: no video is marked {flag}, {split}; restore the lists")
    return made

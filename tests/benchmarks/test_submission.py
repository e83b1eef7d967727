"""Submissions for YouTube-VOS: what goes into the zip, and everything that keeps masks from being one."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from matchcut.benchmarks.submission import submission_problems, wanted_frames, write_submission
from matchcut.data import read_dataset
from matchcut.errors import DatasetError, OutputError
from matchcut.masks import davis_palette, write_mask

SIZE = (12, 16)  # (H, W)
FRAMES = ("00000", "00005", "00010", "00015")


def labels(*ids):
    made = np.zeros(SIZE, np.uint8)
    for index, number in enumerate(ids):
        made[3 * index : 3 * index + 3, 4:12] = number
    return made


@pytest.fixture
def root(tmp_path):
    """Two videos. In `0a1b` 2 is on the second frame, 5 enters on the third; nothing is asked for on the first."""
    base = tmp_path / "ytvos" / "valid"
    videos = {
        "0a1b": {"2": {"category": "dog", "frames": FRAMES[1:]}, "5": {"category": "cat", "frames": FRAMES[2:]}},
        "ff00": {"1": {"category": "dog", "frames": FRAMES[:2]}},
    }
    for name in videos:
        (base / "JPEGImages" / name).mkdir(parents=True)
        (base / "Annotations" / name).mkdir(parents=True)
        for frame in FRAMES:
            Image.new("RGB", SIZE[::-1]).save(base / "JPEGImages" / name / f"{frame}.jpg")
    write_mask(base / "Annotations/0a1b/00005.png", labels(2))
    write_mask(base / "Annotations/0a1b/00010.png", labels(2, 5))
    write_mask(base / "Annotations/ff00/00000.png", labels(1))
    (base / "meta.json").write_text(
        json.dumps({"videos": {name: {"objects": objects} for name, objects in videos.items()}})
    )
    return tmp_path / "ytvos"


@pytest.fixture
def sequences(root):
    return read_dataset("youtube-vos-2019", root, "valid")


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "masks"
    for name in ("0a1b", "ff00"):
        (folder / name).mkdir(parents=True)
    write_mask(folder / "0a1b/00005.png", labels(2))
    write_mask(folder / "0a1b/00010.png", labels(2, 5))
    write_mask(folder / "0a1b/00015.png", labels())
    write_mask(folder / "ff00/00000.png", labels(1))
    write_mask(folder / "ff00/00005.png", labels(1))
    return folder


def test_the_zip_holds_what_is_asked_for_and_nothing_else(sequences, masks, tmp_path):
    write_mask(masks / "0a1b/00000.png", labels())  # a frame of the video that is not asked for
    write_submission(sequences, masks, tmp_path / "new" / "submission.zip")
    with zipfile.ZipFile(tmp_path / "new" / "submission.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "Annotations/0a1b/00005.png",
            "Annotations/0a1b/00010.png",
            "Annotations/0a1b/00015.png",
            "Annotations/ff00/00000.png",
            "Annotations/ff00/00005.png",
        ]
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED and entry.date_time == (1980, 1, 1, 0, 0, 0)
            path = masks / entry.filename.removeprefix("Annotations/")
            assert archive.read(entry) == path.read_bytes()
        with archive.open("Annotations/0a1b/00010.png") as file, Image.open(file) as image:
            assert image.mode == "P" and image.getpalette() == davis_palette().ravel().tolist()
            assert np.array_equal(np.array(image), labels(2, 5))


def test_the_same_masks_give_the_same_bytes(sequences, masks, tmp_path):
    write_submission(sequences, masks, tmp_path / "a.zip")
    for path in masks.rglob("*.png"):
        path.touch()
    write_submission(sequences, masks, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_frames_come_in_order_whatever_meta_json_has(sequences):
    assert [wanted_frames(video) for video in sequences] == [list(FRAMES[1:]), list(FRAMES[:2])]


def rgb(path):
    Image.new("RGB", SIZE[::-1]).save(path)


def grey(path):
    Image.fromarray(labels(2)).save(path)


def other_palette(path):
    image = Image.fromarray(labels(2))
    image.putpalette([value for i in range(256) for value in (i, i, i)])
    image.save(path)


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


def jpeg_by_another_name(path):
    Image.new("L", SIZE[::-1]).save(path, "JPEG")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "00005.png: missing"),
        (rgb, "00005.png: PNG of mode RGB, not a palette PNG"),
        (grey, "00005.png: PNG of mode L, not a palette PNG"),
        (jpeg_by_another_name, "00005.png: JPEG of mode L, not a palette PNG"),
        (other_palette, "00005.png: its palette is not that of DAVIS"),
        (cut, "00005.png: damaged"),
        (lambda path: write_mask(path, labels(2)[:, :-1]), "00005.png: is 15x12, but its frame is 16x12"),
        (lambda path: write_mask(path, labels(2, 3)), "00005.png: holds ids 3, but meta.json has 2, 5"),
        (lambda path: write_mask(path, labels(2, 255)), "00005.png: holds ids 255, but meta.json has 2, 5"),
        (lambda path: write_mask(path, labels(2, 5)), "00005.png: holds ids 5, which enter later"),
        (lambda path: write_mask(path.with_name("5.png"), labels()), "5.png: not the mask of a frame of the video"),
        (lambda path: write_mask(path.with_name("00007.png"), labels()), "00007.png: not the mask of a frame"),
        (lambda path: path.with_suffix(".jpg").write_bytes(b""), "00005.jpg: not the mask of a frame"),
        (lambda path: (path.parents[1] / "0c0c").mkdir(), "0c0c: no video of the split has this name"),
    ],
)
def test_each_problem_is_found_and_no_zip_is_written(sequences, masks, tmp_path, change, said):
    assert submission_problems(sequences, masks) == []
    change(masks / "0a1b/00005.png")
    (problem,) = submission_problems(sequences, masks)
    assert said in problem
    with pytest.raises(DatasetError, match="1 problem; no submission was written"):
        write_submission(sequences, masks, tmp_path / "submission.zip")
    assert not (tmp_path / "submission.zip").exists()


def test_all_problems_are_listed_together(sequences, masks, tmp_path):
    (masks / "0a1b/00005.png").unlink()
    rgb(masks / "0a1b/00010.png")
    for path in (masks / "ff00").iterdir():
        path.unlink()
    (masks / "ff00").rmdir()
    with pytest.raises(DatasetError) as caught:
        write_submission(sequences, masks, tmp_path / "submission.zip")
    first, *lines = str(caught.value).splitlines()
    assert "3 problems" in first and len(lines) == 3
    assert "00005.png: missing" in lines[0] and "mode RGB" in lines[1] and "ff00: missing, with 2 masks" in lines[2]


def test_an_object_may_be_where_it_is_no_longer_listed(root, masks):
    path = root / "valid/meta.json"
    meta = json.loads(path.read_text())
    meta["videos"]["0a1b"]["objects"]["2"]["frames"] = ["00005"]
    path.write_text(json.dumps(meta))
    assert submission_problems(read_dataset("youtube-vos-2019", root, "valid"), masks) == []


def test_a_palette_that_pillow_cut_short_is_the_same_palette(sequences, masks):
    image = Image.fromarray(labels(2))
    image.putpalette(davis_palette()[:3].tobytes())
    image.save(masks / "0a1b/00005.png")
    assert submission_problems(sequences, masks) == []


def test_hidden_files_do_not_matter_and_a_missing_folder_does(sequences, masks, tmp_path):
    (masks / ".DS_Store").write_bytes(b"")
    (masks / "0a1b/.DS_Store").write_bytes(b"")
    assert submission_problems(sequences, masks) == []
    assert submission_problems(sequences, tmp_path / "none") == [f"{tmp_path / 'none'}: no such folder"]


def test_a_split_without_meta_frames_cannot_be_submitted(masks, tmp_path):
    (tmp_path / "own/frames").mkdir(parents=True)
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "own/frames/00000.png")
    (problem, *_) = submission_problems(read_dataset("folder", tmp_path / "own"), masks)
    assert "meta.json lists no frame" in problem


def test_a_zip_that_cannot_be_written_is_an_output_error(sequences, masks, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_submission(sequences, masks, tmp_path / "file" / "submission.zip")

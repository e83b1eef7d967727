"""Mask-VOS's figure and tables, made from small sequences of a square that walks over noise."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from matchcut.errors import DatasetError, PromptError
from matchcut.masks import write_mask
from matchcut.reproduce import reproduce
from matchcut.reproduce.mask_vos import PAPER_S1

SIZE = (64, 64)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two sequences in the layout of DAVIS-2016."""
    place = tmp_path_factory.mktemp("davis")
    noise = np.random.default_rng(0).integers(90, 130, (*SIZE, 3), dtype=np.uint8)
    for name, step in (("still", 0), ("walk", 4)):
        for at in range(4):
            frame, labels = noise.copy(), np.zeros(SIZE, np.uint8)
            square = (slice(20, 44), slice(10 + step * at, 40 + step * at))
            frame[square], labels[square] = (220, 40, 40), 255
            for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
                (place / part / name).mkdir(parents=True, exist_ok=True)
                path = place / part / name / f"{at:05d}.{suffix}"
                Image.fromarray(frame if suffix == "jpg" else labels).save(path)
    return place


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_figure_s5_scores_every_round_and_shows_it(root, tmp_path):
    said = []
    picture, scores = reproduce("mask-vos", "figure-s5", tmp_path / "out", say=said.append, root=root)
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = table(scores)
    assert [row["what"] for row in rows[::3]] == [
        "coarse",
        "matched finer",
        "round 0",
        "round 1",
        "round 2",
        "along edges",
        "target model",
        "pixels",
    ]
    assert {row["object"] for row in rows} == {"still_1", "walk_1", "all"}
    assert all(float(row["J"]) > 70 for row in rows)
    # A second run takes what is there.
    before = (tmp_path / "out" / "round-2" / "runs" / "walk.json").stat().st_mtime_ns
    reproduce("mask-vos", "figure-s5", tmp_path / "out", say=said.append, root=root)
    assert (tmp_path / "out" / "round-2" / "runs" / "walk.json").stat().st_mtime_ns == before


def test_a_palette_makes_it_several_objects(root, tmp_path):
    for part in ("JPEGImages", "Annotations"):
        (tmp_path / part / "walk").mkdir(parents=True)
    for at in range(3):
        (tmp_path / "JPEGImages/walk" / f"{at:05d}.jpg").symlink_to(root / "JPEGImages/walk" / f"{at:05d}.jpg")
        labels = np.array(Image.open(root / "Annotations/walk" / f"{at:05d}.png")) // 255
        labels[20:44, 30:] *= 2
        write_mask(tmp_path / "Annotations/walk" / f"{at:05d}.png", labels)
    _, scores = reproduce("mask-vos", "figure-s5", tmp_path / "out", say=lambda line: None, root=tmp_path)
    assert {row["object"] for row in table(scores)} == {"walk_1", "walk_2", "all"}


def test_table_s2_trains_and_scores_its_rows(root, tmp_path):
    only = ("initial features", "long term", "L_Seg: pasted pieces")
    given = {"root": root, "data": [root], "epochs": 1, "only": only, "size": 64, "precision": "float32"}
    (path,) = reproduce("mask-vos", "table-s2", tmp_path, say=lambda line: None, **given)
    rows = table(path)
    modes = [(row["terms"], row["mode"]) for row in rows if row["mode"]]
    assert modes == [(only[0], "matched"), (only[1], "matched"), (only[2], "matched"), (only[2], "decoded")]
    assert all(float(row["J&F"]) > 50 for row in rows)
    assert [bool(row["minutes an epoch"]) for row in rows[:4]] == [False, True, True, True]
    # Frozen features match as the initial ones do, but for the rounding of their moving average.
    assert all(abs(float(rows[2][key]) - float(rows[0][key])) < 0.5 for key in ("J", "F"))


def test_the_mask_stage_of_table_s2_in_bfloat16(root, tmp_path):
    few = tmp_path / "few"  # on some processors it is slow
    for part in ("JPEGImages", "Annotations"):
        (few / part / "walk").mkdir(parents=True)
        for path in sorted((root / part / "walk").iterdir())[:3]:  # the first and the last are not scored
            (few / part / "walk" / path.name).symlink_to(path)
    name = "L_Seg: pasted pieces"
    given = {"root": few, "data": [root], "epochs": 1, "only": [name], "size": 64, "precision": "bfloat16"}
    (path,) = reproduce("mask-vos", "table-s2", tmp_path / "out", say=lambda line: None, **given)
    assert all(float(row["J&F"]) > 50 for row in table(path))
    folder = tmp_path / "out" / "lseg-pasted-pieces"
    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["recipe"])["precision"] == "bfloat16"
    assert '"bfloat16"' in (folder / "decoded" / "runs" / "walk.json").read_text()


@pytest.mark.parametrize(
    ("what", "given", "words"),
    [
        ("figure-s5", {}, "--root"),
        ("table-s2", {"root": "."}, "--data"),
        ("figure-s5", {"root": ".", "epochs": 3}, "takes no --epochs"),
        ("table-s2", {"root": ".", "data": ["."], "only": ["longterm"]}, "there are: initial features"),
    ],
)
def test_what_is_not_given_or_not_known_is_said(tmp_path, what, given, words):
    with pytest.raises(PromptError, match=words):
        reproduce("mask-vos", what, tmp_path / "out", **given)


def test_a_root_without_sequences_is_said(tmp_path):
    with pytest.raises(DatasetError, match="Annotations"):
        reproduce("mask-vos", "figure-s5", tmp_path / "out", root=tmp_path)
    assert not (tmp_path / "out").exists()


def test_table_s1_scores_body_parts_beside_label_propagation(root, tmp_path):
    place = tmp_path / "vip"
    for folder in ("lists", "Images/videos1", "Annotations/Category_ids/videos1"):
        (place / folder).mkdir(parents=True)
    (place / "lists" / "val_videos.txt").write_text("videos1\n")
    for at in range(4):
        name = f"{25 * at + 1:012d}"
        Image.open(root / "JPEGImages/walk" / f"{at:05d}.jpg").save(place / "Images/videos1" / f"{name}.jpg")
        labels = np.array(Image.open(root / "Annotations/walk" / f"{at:05d}.png")) // 255
        write_mask(place / "Annotations/Category_ids/videos1" / f"{name}.png", 4 * labels)
    (path,) = reproduce("mask-vos", "table-s1", tmp_path / "out", say=lambda line: None, root=place)
    rows = {row["method"]: float(row["mIoU"]) for row in table(path)}
    assert list(rows) == ["label propagation", "Mask-VOS, matched", "Mask-VOS, decoded", *PAPER_S1]
    assert all(value > 70 for name, value in rows.items() if name not in PAPER_S1)

"""Scores equal the official ones, in files as people have them; all that is wrong is told at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

import matchcut
from matchcut import cli
from matchcut.benchmarks.protocols import PROTOCOLS
from matchcut.benchmarks.results import table
from matchcut.benchmarks.score import score
from matchcut.data import DATASETS, SPLITS
from matchcut.errors import DatasetError, MaskError, MatchcutError
from matchcut.masks import read_mask, write_mask
from matchcut.metrics import boundary_f, jaccard, pck, saliency

FIXTURES = Path(__file__).parent / "fixtures"
PARTS = (("M", "Mean"), ("R", "Recall"), ("D", "Decay"))


@pytest.fixture(scope="session")
def expected(data):
    return data.parent / "expected"


def save(path, values, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        image.putpalette([value for i in range(256) for value in (i, 0, 255 - i)])
    (image.convert(mode) if mode not in ("P", "L") else image).save(path)
    return path


def square(*places, size=(12, 16), value=1):
    made = np.zeros(size, np.uint8)
    for number, (y, x) in enumerate(places, start=value):
        made[y : y + 4, x : x + 4] = number
    return made


def check_object(row, wanted, tolerance=1e-6):
    for measure in "JF":
        assert row.values[measure] == pytest.approx(wanted[measure], abs=tolerance)
        for short, part in PARTS:
            assert row.summary[f"{measure}-{part}"] == pytest.approx(wanted[f"{measure}_{short}"], abs=tolerance)


# --- equal to the official code


def test_davis2016_development_set(expected, data):
    result = score("davis2016", data / "davis2016-dev-480p", expected / "predictions-dev")
    wanted = json.loads((expected / "davis2016-dev.json").read_text())
    assert [row.sequence for row in result.objects] == sorted(wanted["sequences"])
    for row in result.objects:
        one = wanted["sequences"][row.sequence]
        assert list(row.frames) == one["frames"]
        check_object(row, one["objects"]["1"])
    for measure in "JF":
        for short, part in PARTS:
            assert result.summary[f"{measure}-{part}"] == pytest.approx(
                wanted["global_mean"][f"{measure}_{short}"], abs=1e-6
            )
    lines = table(result).splitlines()
    means = wanted["global_mean"]
    numbers = [(means["J_M"] + means["F_M"]) / 2, *(means[f"{m}_{k}"] for m in "JF" for k in "MRD")]
    assert lines[1].split() == ["J&F-Mean", *(f"{m}-{part}" for m in "JF" for _, part in PARTS)]
    assert lines[2].split() == [f"{number:.3f}" for number in numbers]
    rows = {line.split()[0]: line.split()[1:] for line in lines[6:]}
    for name, one in wanted["sequences"].items():
        assert rows[f"{name}_1"] == [f"{one['objects']['1'][key]:.3f}" for key in ("J_M", "F_M")]


@pytest.mark.parametrize(("right", "down"), [(3, 2), (7, 5)])
def test_davis2017_objects(expected, data, tmp_path, right, down):
    root = data / "davis2017-multi-240p"
    for path in (root / "Annotations/schoolgirls").iterdir():
        truth = read_mask(path)
        moved = np.zeros_like(truth)
        moved[down:, right:] = truth[:-down, :-right]
        (tmp_path / "schoolgirls").mkdir(exist_ok=True)
        write_mask(tmp_path / "schoolgirls" / path.name, moved)
    result = score("davis2017", root, tmp_path)
    wanted = json.loads((expected / f"schoolgirls-shift-{right}-{down}.json").read_text())
    one = wanted["sequences"]["schoolgirls"]
    assert [row.object for row in result.objects] == [1, 2, 3, 4, 5, 6, 7]
    for row in result.objects:
        assert list(row.frames) == one["frames"]
        check_object(row, one["objects"][str(row.object)])


def test_drawn_masks_equal_plain_loops():
    result = score("davis2017", FIXTURES, FIXTURES / "predictions")
    wanted = json.loads((FIXTURES / "expected.json").read_text())
    assert [row.name for row in result.objects] == ["shapes_1", "shapes_2", "shapes_3"]
    for row in result.objects:
        check_object(row, wanted[str(row.object)], 1e-12)
    assert result.split == "val" and result.missing == () and "first" in result.protocol


def test_the_reference_fault_is_by_name_only(tmp_path):
    for index in range(302):
        truth = square((2, 3))
        save(tmp_path / "root/Annotations/long" / f"{index:05d}.png", truth)
        save(tmp_path / "masks/long" / f"{index:05d}.png", truth if index < 200 else square((3, 3)))
    right, faulty = (
        score("davis2016", tmp_path / "root", tmp_path / "masks", reference_fault=fault) for fault in (False, True)
    )
    assert right.summary["J-Mean"] == faulty.summary["J-Mean"]
    assert right.summary["J-Decay"] == pytest.approx(0.4) and faulty.summary["J-Decay"] != pytest.approx(0.4)


# --- other protocols


def test_every_benchmark_has_a_protocol():
    assert set(DATASETS) <= set(PROTOCOLS)
    for protocol in PROTOCOLS.values():
        assert protocol.dataset in DATASETS and protocol.split == SPLITS[protocol.dataset][0] and protocol.source
        assert protocol.paragraph().count("\n") == 0


def test_proposals_may_have_any_ids_and_void_is_ignored(tmp_path):
    for index in range(3):
        truth = square((0, index), (6, 8))
        prediction = np.where(truth == 1, 5, np.where(truth == 2, 3, 0))
        truth[10:] = 255
        prediction[11:] = 9
        save(tmp_path / "Annotations_unsupervised/one" / f"{index:05d}.png", truth)
        save(tmp_path / "masks/one" / f"{index:05d}.png", prediction)
    result = score("davis2017-automatic", tmp_path, tmp_path / "masks")
    assert [len(row.frames) for row in result.objects] == [3, 3]
    assert result.summary["J&F-Mean"] == 1.0
    save(tmp_path / "masks/one/00001.png", square((0, 0), value=21))
    with pytest.raises(MaskError, match=r"00001.png: holds proposal 21; ids are 1 to 20"):
        score("davis2017-automatic", tmp_path, tmp_path / "masks")


def youtube_vos(root, categories=("dog", "squirrel")):
    frames = ["00000", "00005", "00010", "00015"]
    truths = [
        square(),
        square((0, 0), value=2),
        square((0, 1), value=2) + square((6, 6), value=5),
        square((7, 7), value=5),
    ]
    for frame, truth in zip(frames, truths, strict=True):
        save(root / "valid/JPEGImages/0a1b" / f"{frame}.png", truth)
        save(root / "valid/Annotations/0a1b" / f"{frame}.png", truth)
    objects = {
        "2": {"category": categories[0], "frames": frames[1:]},
        "5": {"category": categories[1], "frames": frames[2:]},
    }
    (root / "valid/meta.json").write_text(json.dumps({"videos": {"0a1b": {"objects": objects}}}))
    (root / "train").mkdir()
    train = {"videos": {"x": {"objects": {"1": {"category": "dog", "frames": ["00000"]}}}}}
    (root / "train/meta.json").write_text(json.dumps(train))


def test_youtube_vos_counts_objects_after_they_enter(tmp_path):
    youtube_vos(tmp_path)
    save(tmp_path / "masks/0a1b/00010.png", square((0, 1), value=2))  # 5 enters here, and does not count yet
    save(tmp_path / "masks/0a1b/00015.png", square((7, 9), value=5))
    result = score("youtube-vos-2019", tmp_path, tmp_path / "masks")
    assert {row.name: row.frames for row in result.objects} == {"0a1b_2": ("00010", "00015"), "0a1b_5": ("00015",)}
    third = 8 / 24
    f = boundary_f(square((7, 7)) > 0, square((7, 9)) > 0)
    assert result.summary == pytest.approx(
        {"G": (2 + third + f) / 4, "J-Seen": 1.0, "J-Unseen": third, "F-Seen": 1.0, "F-Unseen": f}
    )


def test_truth_that_only_the_server_has_is_said(tmp_path):
    youtube_vos(tmp_path)
    (tmp_path / "valid/Annotations/0a1b/00015.png").unlink()
    save(tmp_path / "masks/0a1b/00010.png", square((0, 1), value=2))
    with pytest.raises(DatasetError, match="1 frames have no truth here; where it is not public, only the server"):
        score("youtube-vos-2018", tmp_path, tmp_path / "masks")


def test_segtrack_has_two_means(tmp_path):
    for index in range(3):  # object 2 is only in the last frame, where object 1 is half found
        frame = f"{index:05d}.png"
        save(tmp_path / "JPEGImages/birds" / frame, square())
        save(tmp_path / "GroundTruth/birds/1" / frame, square((0, 0)) * 255, "L")
        save(tmp_path / "GroundTruth/birds/2" / frame, square((6, 6)) * 255 * (index == 2), "L")
        save(tmp_path / "masks/birds" / frame, square((0, 0)) if index < 2 else square((0, 2)))
    result = score("segtrack-v2", tmp_path, tmp_path / "masks")
    third = 8 / 24
    assert result.summary == pytest.approx({"mIoU*": (1 + 1 + (third + 0) / 2) / 3, "mIoU+": ((2 + third) / 3 + 0) / 2})
    assert np.isnan(result.objects[1].values["J"][:2]).all()


def test_saliency_maps(tmp_path):
    rng = np.random.default_rng(0)
    maps = []
    for index in range(3):
        save(tmp_path / "ViSal/cat" / f"{index}.png", square())
        save(tmp_path / "GroundTruth/cat" / f"{index}.png", square((2, 2)) * 255, "L")
        maps.append(rng.integers(0, 256, (12, 16), dtype=np.uint8))
        save(tmp_path / "masks/cat" / f"{index}.png", maps[-1], "L")
    result = score("visal", tmp_path, tmp_path / "masks")
    each = [saliency(square((2, 2)) > 0, one) for one in maps]
    assert result.summary["MAE"] == pytest.approx(np.mean([one.mae for one in each]))
    assert result.summary["F-Measure-Max"] == pytest.approx(np.mean([one.f for one in each], 0).max())
    assert len(result.curves["precision"]) == 256
    for index in range(3):  # values of a grey file that was meant as ids would pass for an empty map
        save(tmp_path / "masks/cat" / f"{index}.png", square((2, 2)), "L")
    with pytest.raises(MaskError, match="grey values are 0 and 1 everywhere"):
        score("visal", tmp_path, tmp_path / "masks")
    for index in range(3):
        save(tmp_path / "masks/cat" / f"{index}.png", square((2, 2)))
    assert score("visal", tmp_path, tmp_path / "masks").summary["MAE"] == 0


def test_vip_and_jhmdb(tmp_path):
    save(tmp_path / "Images/v/1.png", square())
    save(tmp_path / "Annotations/Category_ids/v/1.png", square((0, 0), (6, 6)))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val_videos.txt").write_text("v\n")
    save(tmp_path / "masks/v/1.png", square((0, 0)))
    background = (192 - 32) / (192 - 16)
    assert score("vip", tmp_path, tmp_path / "masks").summary["mIoU"] == pytest.approx((background + 1 + 0) / 3)
    save(tmp_path / "masks/v/1.png", square((0, 0), value=20))
    with pytest.raises(MaskError, match="holds label 20"):
        score("vip", tmp_path, tmp_path / "masks")

    root = tmp_path / "jhmdb"
    (root / "splits").mkdir(parents=True)
    (root / "splits/golf_test_split1.txt").write_text("swing.avi 2\n")
    positions = np.random.default_rng(0).uniform(20, 80, (2, 15, 4))
    (root / "joint_positions/golf/swing").mkdir(parents=True)
    scipy.io.savemat(root / "joint_positions/golf/swing/joint_positions.mat", {"pos_img": positions})
    for index in range(4):
        save(root / "Rename_Images/golf/swing" / f"{index:05d}.png", square())
    joints = (positions.transpose(2, 1, 0) - 1).tolist()
    joints[2] = [[x + 15, y] for x, y in joints[2]]
    joints[3][0] = None
    (root / "out").mkdir()
    (root / "out/swing.json").write_text(json.dumps(joints))
    result = score("jhmdb", root, root / "out")
    moved = 15 / (0.6 * np.linalg.norm(np.ptp(positions[:, :, 2], axis=1)))
    distances = np.array([[0.0] * 15, [moved] * 15, [np.nan] + [0.0] * 14])
    assert list(result.summary.values()) == pytest.approx(pck(distances).mean)
    assert result.objects[0].frames == ("00001", "00002", "00003")


def test_fbms_youtube_objects_and_a_folder(tmp_path):
    base = tmp_path / "fbms/Testset/cats"
    for index in (1, 21):
        save(base / f"cats{index:02d}.jpg", square(), "RGB")
        save(base / "GroundTruth" / f"{index:03d}_gt.png", square((0, 0), (6, 6)) * 90, "L")
        save(tmp_path / "fbms/out/cats" / f"cats{index:02d}.png", square((0, 0)) * 200, "L")
    result = score("fbms", tmp_path / "fbms", tmp_path / "fbms/out")
    assert result.summary["J-Mean"] == 0.5 and result.objects[0].name == "cats"

    shot = tmp_path / "yto/dog/data/0001/shots/001"
    save(shot / "images/frame0001.jpg", square(), "RGB")
    save(shot / "labels/00001.jpg", square((0, 0), size=(32, 32)) * 0 + 255, "L")
    save(tmp_path / "yto/out/dog_0001_001/frame0001.png", np.full((32, 32), 255), "L")
    assert score("youtube-objects", tmp_path / "yto", tmp_path / "yto/out").summary == {"J-Mean": 1, "J-Mean dog": 1}

    own = tmp_path / "own"
    for index in range(3):
        save(own / "frames" / f"{index:05d}.jpg", square(), "RGB")
        save(own / "masks" / f"{index:05d}.png", square((0, 0)))
        save(own / "run/masks" / f"{index:05d}.png", square((0, 0)))  # as `matchcut track` leaves it
    result = score("folder", own, own / "run")
    assert result.summary["J&F-Mean"] == 1 and result.objects[0].frames == ("00001", "00002")


def test_colours_of_a_folder_are_scored_as_the_same_objects(tmp_path):
    table = np.array([(0, 0, 0), (61, 61, 245), (250, 50, 83)], np.uint8)
    first, later = square((0, 0), (6, 6)), square((6, 6), value=2)  # object 1 leaves
    for index, labels in enumerate((first, later, first)):
        save(tmp_path / "frames" / f"{index}.png", square(), "RGB")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(table[labels]).save(tmp_path / "masks" / f"{index}.png")
        save(tmp_path / "out" / f"{index}.png", labels)
    assert score("folder", tmp_path, tmp_path / "out").summary["J&F-Mean"] == 1


def test_predictions_of_any_case_with_clutter_beside_them(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            save(tmp_path / "JPEGImages" / name / f"{index:05d}.png", square(), "RGB")
            save(tmp_path / "Annotations" / name / f"{index:05d}.png", square((0, 0)))
            save(tmp_path / "out" / name / f"{index:05d}.PNG", square((0, 0)))
        for clutter in ("Thumbs.db", "._00001.png", ".DS_Store", "desktop.ini"):
            (tmp_path / "out" / name / clutter).write_bytes(b"x")
    (tmp_path / "out/@eaDir").mkdir()
    assert score("davis2017", tmp_path, tmp_path / "out").summary["J&F-Mean"] == 1
    save(tmp_path / "out/a/00001.png", square())
    if not (tmp_path / "out/a/00001.png").samefile(tmp_path / "out/a/00001.PNG"):
        with pytest.raises(MaskError, match="a second prediction of this frame beside"):
            score("davis2017", tmp_path, tmp_path / "out")


# --- bad input


@pytest.fixture
def damaged(tmp_path):
    for name in ("shapes", "whole"):
        for folder in ("Annotations", "predictions"):
            for path in (FIXTURES / folder / "shapes").iterdir():
                save(tmp_path / folder / name / path.name, np.array(Image.open(path)))
    bad = tmp_path / "predictions/shapes"
    (bad / "00001.png").unlink()
    save(bad / "00002.png", np.zeros((30, 45)))
    save(bad / "00003.png", square(value=4, size=(60, 90)) + 4)
    save(bad / "00004.png", np.zeros((60, 90)), "RGB")
    data = (bad / "00005.png").read_bytes()
    (bad / "00005.png").write_bytes(data[: len(data) - 40])
    (bad / "00006.png").write_text("not an image")
    return tmp_path


WRONG = (
    "00001.png: the prediction is missing",
    "00002.png: is 45x30, but its truth is 90x60",
    "00003.png: holds object 4, but the truth's are 1, 2, 3",
    "00004.png: is RGB; a palette",
    "00005.png: cannot be read",
    "00006.png: cannot be read",
)


def test_all_that_is_wrong_is_listed_together(damaged):
    with pytest.raises(MaskError) as raised:
        score("davis2017", damaged, damaged / "predictions")
    lines = str(raised.value).splitlines()
    assert lines[0] == "nothing was scored: 6 files cannot be used" and len(lines) == 8
    assert "--sequences" in lines[-1] and "--missing empty" in lines[-1]
    assert all(any(one in line for line in lines) for one in WRONG)


def test_predictions_of_some_sequences_are_told_how_to_be_scored(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            save(tmp_path / "JPEGImages" / name / f"{index:05d}.png", square(), "RGB")
            save(tmp_path / "Annotations" / name / f"{index:05d}.png", square((0, 0)))
            if name == "a":
                save(tmp_path / "out" / name / f"{index:05d}.png", square((0, 0)))
    with pytest.raises(MaskError) as raised:
        score("davis2017", tmp_path, tmp_path / "out")
    assert "--sequences" in str(raised.value) and "--missing empty" in str(raised.value)
    assert score("davis2017", tmp_path, tmp_path / "out", sequences=["a"]).summary["J&F-Mean"] == 1
    assert score("davis2017", tmp_path, tmp_path / "out", missing="empty").summary["J&F-Mean"] == 0.5


def command(monkeypatch, capsys, *words):
    """The command line, in this process: (exit status, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["matchcut", "score", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return (left.value.code, *capsys.readouterr())


def test_the_command_exits_with_2_and_prints_no_table(damaged, monkeypatch, capsys):
    words = ("davis2017", "--root", damaged, "--masks", damaged / "predictions")
    status, out, error = command(monkeypatch, capsys, *words)
    assert status == 2 and out == "" and all(one in error for one in WRONG)
    status, out, _ = command(monkeypatch, capsys, *words, "--sequences", "whole")
    assert status == 0 and "whole_3" in out and "shapes" not in out
    status, _, error = command(monkeypatch, capsys, *words, "--sequences", "whole", "nothing")
    assert status == 2 and "no sequence nothing in this split; there are: shapes, whole" in error


def test_missing_predictions_may_count_as_empty(damaged, monkeypatch, capsys):
    whole = damaged / "predictions/whole"
    (whole / "00004.png").unlink()
    (whole / "00000.png").unlink()  # does not count, so nothing is said
    words = ("davis2017", "--root", damaged, "--masks", damaged / "predictions", "--sequences", "whole")
    assert command(monkeypatch, capsys, *words)[0] == 2
    status, out, _ = command(monkeypatch, capsys, *words, "--missing", "empty")
    assert status == 0 and "1 missing predictions count as empty: whole/00004" in out
    result = score("davis2017", damaged, damaged / "predictions", sequences=["whole"], missing="empty")
    assert result.missing == ("whole/00004",) and result.objects[0].values["J"][3] == 0


def test_a_damaged_truth_and_a_damaged_prediction_are_told_together(damaged):
    (damaged / "Annotations/whole/00003.png").write_bytes(b"")
    (damaged / "predictions/whole/00005.png").unlink()
    with pytest.raises(DatasetError) as raised:
        score("davis2017", damaged, damaged / "predictions")
    for one in (*WRONG, "Annotations/whole/00003.png", "whole/00005.png: the prediction is missing"):
        assert one in str(raised.value)


def test_wrong_names_say_what_there_is(tmp_path):
    with pytest.raises(DatasetError, match="no benchmark is called 'davis'; choose one of: davis2016, "):
        score("davis", tmp_path, tmp_path)
    with pytest.raises(DatasetError, match="has no split 'test'"):
        score("davis2016", tmp_path, tmp_path, split="test")
    with pytest.raises(MaskError, match="no such folder"):
        score("davis2017", FIXTURES, tmp_path / "none")
    with pytest.raises(MatchcutError, match="missing is 'error' or 'empty'"):
        score("davis2017", FIXTURES, FIXTURES / "predictions", missing="skip")


def test_many_lines_of_one_kind_are_counted(tmp_path):
    for index in range(30):
        save(tmp_path / "Annotations/a" / f"{index:05d}.png", square((0, 0)))
        save(tmp_path / "masks/a" / f"{index:05d}.png", square((0, 0), size=(6, 8)))
    with pytest.raises(MaskError) as raised:
        score("davis2016", tmp_path, tmp_path / "masks")
    assert "28 files" in str(raised.value) and "... and 18 more like these" in str(raised.value)


# --- files of all kinds, and what is loaded


@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_any_kind_of_mask_file_gives_the_same(tmp_path, mode):
    rng = np.random.default_rng(1)
    truths = [rng.random((40, 51)) > 0.5 for _ in range(4)]
    for index, truth in enumerate(truths):
        value = {"P": 3, "L": 255, "1": 255}[mode]
        save(tmp_path / "Annotations/a" / f"{index}.png", truth * value, mode)
        save(tmp_path / "masks/a" / f"{index}.png", np.roll(truth, 1, 0) * value, mode)
    values = score("davis2016", tmp_path, tmp_path / "masks").objects[0].values
    assert values["J"] == tuple(jaccard(truth, np.roll(truth, 1, 0)) for truth in truths[1:-1])
    assert values["F"] == tuple(boundary_f(truth, np.roll(truth, 1, 0)) for truth in truths[1:-1])


def test_scoring_loads_no_torch():
    code = (
        "import sys, matchcut\n"
        "matchcut.score('davis2017', sys.argv[1], sys.argv[1] + '/predictions')\n"
        "print([name for name in ('torch', 'torchvision', 'timm', 'numba', 'scipy', 'av') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(FIXTURES)], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "[]", done.stderr
    assert matchcut.score is score

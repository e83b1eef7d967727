"""Reports: the official tool's files to the letter, what comes back from `report.json`, and two results compared."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchcut.benchmarks import report
from matchcut.benchmarks.report import check_comparable, frame_differences, read_report, write_report
from matchcut.benchmarks.results import ObjectScores, Result
from matchcut.errors import DatasetError, OutputError
from matchcut.manifest import MANIFEST
from matchcut.masks import write_mask

FRAMES = ("00001", "00002", "00003")
NAN = float("nan")


def scores(sequence, number, j, f, frames=FRAMES):
    summary = {}
    for name, values in (("J", j), ("F", f)):
        summary |= {f"{name}-Mean": float(np.mean(values)), f"{name}-Recall": 1.0, f"{name}-Decay": -0.0004}
    return ObjectScores(sequence, number, frames, {"J": tuple(j), "F": tuple(f)}, summary)


def result(tmp_path, *objects, benchmark="davis2017", masks="ours", **other):
    objects = objects or (
        scores("bike-packing", 1, (0.5, 0.6, 0.7), (0.1, 0.2, 0.3)),
        scores("bike-packing", 2, (0.25, 0.25, 0.25), (1.0, 1.0, 1.0)),
        scores("blackswan", 1, (0.9, 0.9, 0.9), (0.95, 0.95, 0.95)),
    )
    names = ("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    means = {name: float(np.mean([one.summary.get(name, NAN) for one in objects])) for name in names}
    made = Result(
        benchmark=benchmark,
        split="val",
        protocol="Every frame but the first and the last.",
        summary={"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2, **means},
        objects=tuple(objects),
        curves={},
        missing=("blackswan/00002",),
        masks=tmp_path / masks,
        root=tmp_path / "no-root",
        seconds=1.25,
        versions={"matchcut": "0.1.0", "numpy": "2.4.6"},
    )
    return replace(made, **other)


def files_in(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix() for path in files}


# --- the official files


def test_csv_files_are_the_official_ones_to_the_letter(tmp_path):
    out = tmp_path / "out"
    write_report(result(tmp_path), out, draw=False)
    assert (out / "global_results-val.csv").read_bytes() == (
        b"J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay\n0.650,0.583,1.000,-0.000,0.717,1.000,-0.000\n"
    )
    assert (out / "per-sequence_results-val.csv").read_bytes() == (
        b"Sequence,J-Mean,F-Mean\nbike-packing_1,0.600,0.200\nbike-packing_2,0.250,1.000\nblackswan_1,0.900,0.950\n"
    )


def test_csv_files_hold_what_the_official_code_answers_on_real_masks(tmp_path, data):
    expected = json.loads((data.parent / "expected" / "davis2016-dev.json").read_text())
    keys = {f"{name}-{word}": f"{name}_{word[0]}" for name in "JF" for word in ("Mean", "Recall", "Decay")}
    objects = []
    for sequence, record in expected["sequences"].items():
        for number, one in record["objects"].items():
            values = {name: tuple(one[name]) for name in "JF"}
            summary = {ours: one[theirs] for ours, theirs in keys.items()}
            objects.append(ObjectScores(sequence, int(number), tuple(record["frames"]), values, summary))
    made = result(tmp_path, *objects, benchmark="davis2016")
    write_report(made, tmp_path / "out", draw=False)
    row = (tmp_path / "out/global_results-val.csv").read_text().splitlines()[1]
    assert row == "0.744,0.755,0.938,0.104,0.734,0.881,0.256"
    rows = (tmp_path / "out/per-sequence_results-val.csv").read_text().splitlines()
    assert rows[:3] == ["Sequence,J-Mean,F-Mean", "bmx-bumps_1,0.434,0.640", "breakdance-flare_1,0.724,0.816"]
    assert len(rows) == 9
    assert read_report(tmp_path / "out") == made  # every value, to the last bit


def test_other_benchmarks_have_their_own_columns_and_nan_is_empty(tmp_path):
    objects = (
        ObjectScores("cat, one", "", ("1",), {"MAE": (0.125,)}, {"MAE": 0.125, "max-F": 0.5}),
        ObjectScores("lion", "", ("1",), {"MAE": (NAN,)}, {"MAE": NAN, "max-F": 0.25}),
    )
    made = result(tmp_path, *objects, benchmark="visal", split="all", summary={"MAE": 0.125, "max-F": NAN})
    write_report(made, tmp_path / "out", draw=False)
    assert (tmp_path / "out/global_results-all.csv").read_text() == "MAE,max-F\n0.125,\n"
    rows = (tmp_path / "out/per-sequence_results-all.csv").read_text()
    assert rows == 'Sequence,MAE,max-F\n"cat, one",0.125,0.500\nlion,,0.250\n'


# --- report.json


def test_a_report_comes_back_as_it_was(tmp_path):
    thirds = scores("bus", 3, (1 / 3, 0.1 + 0.2, 1e-17), (0.0, 1.0, 2 / 3))
    made = result(tmp_path, thirds, scores("bus", "", (1.0,) * 3, (1.0,) * 3), curves={"precision": (0.1, 1 / 7)})
    write_report(made, tmp_path / "out", draw=False)
    assert read_report(tmp_path / "out") == made
    assert read_report(tmp_path / "out" / "report.json") == made


def test_nan_is_null_in_json_and_nan_again_when_read(tmp_path):
    made = result(tmp_path, scores("bus", 1, (0.5, NAN, 1.0), (NAN, NAN, NAN)))
    write_report(made, tmp_path / "out", draw=False)
    text = (tmp_path / "out/report.json").read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["objects"][0]["values"] == {"J": [0.5, None, 1.0], "F": [None, None, None]}
    assert record["protocol"] == made.protocol and record["missing"] == ["blackswan/00002"]
    (one,) = read_report(tmp_path / "out").objects
    assert one.values["J"][0] == 0.5 and math.isnan(one.values["J"][1]) and math.isnan(one.summary["F-Mean"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record.pop("format"), "not a report of this version"),
        (lambda record: record.pop("objects"), "a damaged report"),
        (lambda record: record["objects"][0]["values"]["J"].pop(), "not one value a frame"),
        (lambda record: record["objects"][0].update(object=None), "object is None"),
        (lambda record: record.update(summary=[1]), "a damaged report"),
    ],
)
def test_a_damaged_report_is_refused(tmp_path, change, said):
    write_report(result(tmp_path), tmp_path / "out", draw=False)
    path = tmp_path / "out/report.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DatasetError, match=said):
        read_report(path)


def test_no_report_or_half_of_one_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no report can be read there"):
        read_report(tmp_path)
    write_report(result(tmp_path), tmp_path / "out", draw=False)
    path = tmp_path / "out/report.json"
    path.write_text(path.read_text()[:300])
    with pytest.raises(DatasetError, match="not a report"):
        read_report(path)


# --- the folder


def test_what_is_written_is_what_is_answered(tmp_path):
    out = tmp_path / "out"
    written = write_report(result(tmp_path), out, result(tmp_path, masks="theirs"))
    assert {path.relative_to(out).as_posix() for path in written} == files_in(out)
    assert files_in(out) == {
        "global_results-val.csv",
        "per-sequence_results-val.csv",
        "plots/sequences.png",
        "plots/over-time/bike-packing.png",
        "plots/over-time/blackswan.png",
        "compare.csv",
        "compare-frames.csv",
        "compare.json",
        "plots/compare.png",
        "report.json",
    }
    assert written[-1].name == "report.json"
    for path in out.rglob("*.png"):
        with Image.open(path) as image:
            image.load()


def test_nothing_of_an_earlier_run_stays_and_nothing_else_goes(tmp_path):
    out = tmp_path / "out"
    write_report(result(tmp_path), out, result(tmp_path, masks="theirs"))
    (out / "masks").mkdir()
    for kept in ("masks/00000.png", "notes.csv", "results.csv"):
        (out / kept).write_text("mine")
    only = result(tmp_path, scores("bus", 1, (1.0,) * 3, (1.0,) * 3), split="train")
    written = write_report(only, out)
    names = {path.relative_to(out).as_posix() for path in written}
    assert files_in(out) == names | {"masks/00000.png", "notes.csv", "results.csv"}
    assert "plots/over-time/bus.png" in names and not (out / "global_results-val.csv").exists()


def test_a_run_that_fails_leaves_no_report_to_read(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_report(result(tmp_path), out, draw=False)

    def fail(*_):
        raise OutputError("no space left")

    monkeypatch.setattr(report, "save", fail)
    with pytest.raises(OutputError, match="no space left"):
        write_report(result(tmp_path), out)
    with pytest.raises(DatasetError, match="no report can be read there"):
        read_report(out)


def test_names_cannot_lead_out_of_the_folder(tmp_path):
    out = tmp_path / "a" / "out"
    made = result(tmp_path, scores("../../../up", 1, (1.0,) * 3, (1.0,) * 3), split="../val")
    for path in write_report(made, out):
        assert path.resolve().is_relative_to(out.resolve())
    assert not list(tmp_path.glob("*.png")) and files_in(tmp_path) == {f"a/out/{name}" for name in files_in(out)}


# --- two results


def test_comparing_writes_both_values_and_the_difference(tmp_path):
    ours = result(tmp_path)
    theirs = result(
        tmp_path,
        scores("bike-packing", 1, (0.5, 0.1, 0.7), (0.1, 0.2, 0.3)),
        scores("bike-packing", 2, (0.25, 0.25, NAN), (1.0, 1.0, 0.125)),
        scores("blackswan", 1, (0.9, 0.9, 0.9), (0.95, 0.95, 0.95)),
        masks="theirs",
    )
    out = tmp_path / "out"
    write_report(ours, out, theirs, draw=False)
    assert (out / "compare-frames.csv").read_text() == (
        "Sequence,Object,Frame,Measure,A,B,A-B\n"
        "bike-packing,2,00003,F,1.000,0.125,0.875\n"
        "bike-packing,1,00002,J,0.600,0.100,0.500\n"
    )
    rows = (out / "compare.csv").read_text().splitlines()
    assert rows[0] == "Sequence,J-Mean A,J-Mean B,J-Mean A-B,F-Mean A,F-Mean B,F-Mean A-B"
    assert rows[1] == "bike-packing_1,0.600,0.433,0.167,0.200,0.200,0.000"
    assert rows[2] == "bike-packing_2,0.250,,,1.000,0.708,0.292"
    record = json.loads((out / "compare.json").read_text())
    assert record["A"] == str(tmp_path / "ours") and record["B"] == str(tmp_path / "theirs")
    assert record["summary"]["F-Mean"] == pytest.approx([0.716666, 0.619444, 0.097222], abs=1e-5)
    assert record["summary"]["J-Mean"][1] is None


def test_equal_results_differ_nowhere(tmp_path):
    assert frame_differences(result(tmp_path), result(tmp_path)) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"benchmark": "davis2016"}, "of benchmark 'davis2017', the other of 'davis2016'"),
        ({"split": "train"}, "of split 'val', the other of 'train'"),
        ({"objects": (scores("bus", 1, (1.0,) * 3, (1.0,) * 3),)}, "only one of the two results has bike-packing 1,"),
    ],
)
def test_results_of_different_things_are_refused_before_anything_is_removed(tmp_path, other, said):
    out = tmp_path / "out"
    write_report(result(tmp_path), out, draw=False)
    with pytest.raises(DatasetError, match=said):
        write_report(result(tmp_path), out, result(tmp_path, **other))
    assert read_report(out) == result(tmp_path)


def test_results_of_different_frames_are_refused(tmp_path):
    a = result(tmp_path, scores("bus", 1, (1.0,) * 3, (1.0,) * 3))
    b = result(tmp_path, scores("bus", 1, (1.0,) * 2, (1.0,) * 2, FRAMES[:2]))
    with pytest.raises(DatasetError, match="of bus_1, 3 frames are scored in one result and 2 in the other"):
        check_comparable(a, b)


def benchmark_on_disk(root):
    """A plain folder of 5 frames, and two folders of predictions: one right, one that misses object 2 at the end."""
    truth = np.zeros((60, 90), np.uint8)
    truth[10:30, 10:40], truth[30:50, 50:80] = 1, 2
    for name in ("clip/frames", "clip/masks", "right/clip", "wrong/clip"):
        (root / name).mkdir(parents=True)
    for index in range(5):
        image = np.full((60, 90, 3), 40 * index, np.uint8)
        Image.fromarray(image).save(root / f"clip/frames/{index:05d}.png")
        write_mask(root / f"clip/masks/{index:05d}.png", truth)
        write_mask(root / f"right/clip/{index:05d}.png", truth)
        if index < 4:  # the last is missing, and counts as empty
            write_mask(root / f"wrong/clip/{index:05d}.png", truth)
    frames = tuple(f"{index:05d}" for index in range(1, 5))
    right = [scores("clip", number, (1.0,) * 4, (1.0,) * 4, frames) for number in (1, 2)]
    wrong = [scores("clip", number, (1.0, 1.0, 1.0, 0.0), (1.0,) * 4, frames) for number in (1, 2)]
    common = {"benchmark": "folder", "split": "all", "root": root / "clip"}
    return (
        result(root, *right, masks="right", **common),
        result(root, *wrong, masks="wrong", **common),
    )


def test_the_frames_that_differ_most_are_shown_over_the_image(tmp_path):
    right, wrong = benchmark_on_disk(tmp_path)
    first, second = report._pictures(right, wrong, frame_differences(right, wrong))
    assert first.title == "clip 1, frame 00004: J 1.000 in A, 0.000 in B" and second.title.startswith("clip 2, frame")
    truth, a, b = first.pictures
    assert truth.shape == (60, 90, 3) and np.array_equal(truth, a)
    assert np.array_equal(b, np.full((60, 90, 3), 160, np.uint8))  # the bare image
    assert not np.array_equal(truth, b)
    written = write_report(right, tmp_path / "out", wrong)
    assert (tmp_path / "out/plots/compare-frames.png") in written


@pytest.mark.parametrize("gone", ["clip", "clip/frames"])
def test_without_images_there_is_no_sheet_and_no_error(tmp_path, gone):
    right, wrong = benchmark_on_disk(tmp_path)
    Path(tmp_path / gone).rename(tmp_path / "moved")
    written = write_report(right, tmp_path / "out", wrong)
    assert "compare.png" in {path.name for path in written}
    assert "compare-frames.png" not in {path.name for path in written}

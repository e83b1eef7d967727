"""TransportNet's tables and Figure 4, made from small sequences of a disc that moves over texture."""

import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from safetensors import safe_open

from matchcut.data.clips import ClipConfig
from matchcut.errors import DatasetError, OutputError, PromptError
from matchcut.masks import write_mask
from matchcut.models.transport_net import ARCHITECTURES, TransportNetArchitecture
from matchcut.reproduce import reproduce
from matchcut.reproduce.transport_net_scores import SMALL, table_3
from matchcut.video.writer import write_png

SIZE = (96, 160)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two sequences in the layout of DAVIS-2016."""
    place = tmp_path_factory.mktemp("davis")
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for seed, name in enumerate(("left", "right")):
        rng = np.random.default_rng(seed)
        ground, disc = (
            cv2.resize(rng.integers(0, 255, (12, 20, 3), dtype=np.uint8), SIZE[::-1]) // part for part in (2, 1)
        )
        for at in range(4):
            inside = np.hypot(y - 48, x - 50 - 6 * at) < 22
            frame = np.where(inside[..., None], np.roll(disc, 6 * at, 1), ground).astype(np.uint8)
            for part, write, what in (("JPEGImages", write_png, frame), ("Annotations", write_mask, inside)):
                path = place / part / name / f"{at:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, what.astype(np.uint8))
    return place


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def quiet(line):
    """Says nothing."""


def test_table_1_has_the_rivals_beside_it(root, tmp_path):
    (path,) = reproduce("transport-net", "table-1", tmp_path, say=quiet, root=root)
    rows = {row["method"]: row for row in table(path)}
    assert list(rows)[-1] == "TransportNet, as published" and rows["TransportNet, as published"]["J"] == "84.5"
    assert float(rows["flow magnitude above half"]["J"]) > 20
    assert all(0 <= float(row[one]) <= 100 for row in rows.values() for one in ("J", "F"))


def test_table_1_is_the_same_in_either_precision(root, tmp_path):
    few = tmp_path / "few"
    for part in ("JPEGImages", "Annotations"):
        (few / part / "left").mkdir(parents=True)
        for path in sorted((root / part / "left").iterdir())[:3]:  # first and last are not scored
            (few / part / "left" / path.name).symlink_to(path)
    found = []
    for precision in ("float32", "bfloat16"):
        how = {"root": few, "only": ["TransportNet"], "precision": precision}
        (path,) = reproduce("transport-net", "table-1", tmp_path / precision, say=quiet, **how)
        found.append(float(table(path)[0]["J"]))
        run = (tmp_path / precision / "transportnet" / "runs" / "left.json").read_text()
        assert f'"{precision}"' in run
    assert found[0] == pytest.approx(found[1], abs=2)


def test_table_2_scores_maps(root, tmp_path):
    (path,) = reproduce("transport-net", "table-2", tmp_path, say=quiet, root=root)
    ours, published = table(path)
    assert 0 < float(ours["MAE"]) < 1 and 0 < float(ours["F-max"]) <= 100
    assert published == {"method": "as published", "MAE": "0.013", "F-max": "92.8"}


def test_table_3_trains_each_row_the_same_but_for_what_it_names(root, tmp_path, monkeypatch):
    monkeypatch.setitem(
        ARCHITECTURES,
        "tiny",
        TransportNetArchitecture("test_resnet", "test_resnet", width=16, project=16, iterations=2),
    )
    recipe = replace(
        SMALL,
        batch_size=2,
        workers=0,
        data=ClipConfig(length=1, size=(96, 160), side=96, clips=2),
        settings={"architecture": "tiny", "start": "scratch", "norms": "trained", "size": 96},
    )
    only = ["no matching", "long-short, Res5", "long-short, no edge loss", "long-short, added", "frame alone"]
    how = {"root": root, "data": [root], "epochs": 1, "say": quiet, "recipe": recipe}
    (path,) = table_3(tmp_path, only=only, **how)
    rows = table(path)
    assert [row["layer"] for row in rows] == only
    assert [row["J as published"] for row in rows] == ["80.4", "83.3", "84.3", "", ""]
    before = (tmp_path / "no-matching-0" / "weights.safetensors").stat().st_mtime_ns
    (path,) = table_3(tmp_path, only=only[:1], **how)  # trains no more
    assert table(path) == rows  # those of the call before stay
    (path,) = table_3(tmp_path / "halved", only=only[:1], precision="bfloat16", **how)
    with safe_open(path.parent / "no-matching-0" / "weights.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["recipe"])["precision"] == "bfloat16"
    assert (tmp_path / "no-matching-0" / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(PromptError, match="no row nothing; there are: no matching; full"):
        table_3(tmp_path, only=["nothing"], **how)


def test_figure_4_draws_arrows_to_the_strongest_matches(root, tmp_path):
    picture, numbers = reproduce("transport-net", "figure-4", tmp_path, say=quiet, root=root)
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = table(numbers)
    assert len(rows) == 2 * 2 * 3  # sequences, points, arrows
    assert {row["layer"] for row in rows} == {"long", "short"}
    for row in rows:
        assert 0 < float(row["share of its mass"]) <= 1
        if row["layer"] == "short":  # within a block of 2 x 4 neighbours
            assert int(row["row"]) // 2 == int(row["to row"]) // 2
            assert int(row["column"]) // 4 == int(row["to column"]) // 4
        else:  # at the same place of another block
            assert (int(row["row"]) - int(row["to row"])) % 2 == 0


def test_a_folder_of_no_benchmark_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="neither DAVIS-2016"):
        reproduce("transport-net", "table-1", tmp_path / "out", say=quiet, root=tmp_path)


def test_overwriting_begins_anew_and_touches_nothing_of_the_users(root, tmp_path):
    out, row = tmp_path / "out", "flow magnitude above half"
    how = {"say": quiet, "root": root, "only": [row]}
    (path,) = reproduce("transport-net", "table-1", out, **how)
    before = table(path)
    masks = out / "flow-magnitude-above-half" / "masks" / "left"
    times = {one: one.stat().st_mtime_ns for one in masks.iterdir()}
    (out / "mine.txt").write_text("mine")
    reproduce("transport-net", "table-1", out, **how)
    assert {one: one.stat().st_mtime_ns for one in masks.iterdir()} == times  # gone on with: nothing was to do
    reproduce("transport-net", "table-1", out, overwrite=True, **how)
    assert all(one.stat().st_mtime_ns > time for one, time in times.items())
    assert table(path) == before and (out / "mine.txt").read_text() == "mine"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"table-1\.csv: is in the way"):
        reproduce("transport-net", "table-1", out, overwrite=True, **how)
    assert path.read_text() == "mine"

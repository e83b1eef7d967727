"""benchmarks/segmentation_loss.py, which measures what the mask stage of training costs, on a recipe cut down."""

import importlib
import sys
from pathlib import Path

import cv2
import pytest
from toy import write_videos

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RECIPE = """
objective = "mask-vos"
epochs = 4
batch_size = 2
[data]
length = 3
size = [32, 32]
side = 64
views = 2
[settings]
start = "scratch"
masks_from = 2
mask_clips = 0
pasted = 0.0
"""


def test_it_runs_in_either_precision(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = ("--recipe", "recipe.toml", "--data", "videos", "--steps", "2", "--precision", precision)
    monkeypatch.setattr(sys, "argv", ["segmentation_loss.py", *words])
    monkeypatch.chdir(tmp_path)
    write_videos(tmp_path / "videos", 9, 5)
    threads = cv2.getNumThreads()
    try:
        importlib.import_module("segmentation_loss").main()
    finally:
        cv2.setNumThreads(threads)
    said = capsys.readouterr().out
    assert said.count("clusters of 2 videos made by k-means") == 2
    rows = [[cell.strip() for cell in line.split("|")] for line in said.splitlines() if line.startswith("| L_Corr")]
    assert [row[1] for row in rows] == ["L_Corr", "L_Corr + L_Seg"]
    assert float(rows[1][3]) > 1  # masks cost something

"""Runs in processes of their own: killed at any moment, and several that train together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import write_recipe, write_videos

from matchcut.manifest import MANIFEST
from matchcut.training.config import read_config
from matchcut.training.loop import train

TOY = str(Path(__file__).with_name("toy.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def rows(out: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_a_second", "waiting")} for row in found]


def test_a_run_killed_at_any_moment_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    data = write_videos(tmp_path / "data", 9, 5)
    recipe = write_recipe(tmp_path, workers=1, epochs="15")
    train(read_config(recipe), data, tmp_path / "whole", device="cpu")
    out = tmp_path / "run"
    command = [sys.executable, TOY, str(recipe), str(data), str(out), "--resume"]
    for lines, later in ((9, 0.013), (23, 0.004)):  # with a checkpoint every step, most moments are within writing one
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        time.sleep(later)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    told: list[str] = []
    train(read_config(recipe), data, out, resume=True, device="cpu", say=told.append)
    assert ", 0 of" not in told[0] and "60 of 60" not in told[0]
    assert rows(out) == rows(tmp_path / "whole")
    one, other = (load_file(folder / "weights.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [path.name for path in out.glob(".*")] == [MANIFEST]


def compare_two_processes_with_one(tmp_path: Path, data: Path, two: Path, one: Path, close: float) -> str:
    """Train by one recipe in two processes and by the other in one: what is logged, and what comes out, is the same.

    Returns:
        What the two said.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", TOY]
    arguments = [str(two), str(data), str(tmp_path / "two")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("step 6/6") == 1  # one of the two tells
    train(read_config(one), data, tmp_path / "one", device="cpu")
    ours, theirs = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(ours, theirs, strict=True):
        assert a == {name: pytest.approx(value, rel=close) for name, value in b.items()}
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=close, atol=close / 10)
    return done.stdout


def test_two_processes_have_the_losses_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    """In float32, where sums of other orders differ by 1e-6 or so a step; without noise and batch norm, which are a
    process's own. The late head is unused in the first epoch."""
    data = write_videos(tmp_path / "data", 9, 5, 7)
    for frame in (2, 6):
        (data / "video0" / f"{frame:05d}.jpg").write_bytes(b"no picture")
    settings = "noise = 0, norm = false"
    two = write_recipe(tmp_path, settings=settings)
    (tmp_path / "single").mkdir()
    one = write_recipe(tmp_path / "single", settings=settings, batch_size="4")
    said = compare_two_processes_with_one(tmp_path, data, two, one, 1e-4)
    assert said.count("cannot be read; it is skipped") == 2  # whichever process met it
    assert "2 frames could not be read and were skipped" in said


MASK_VOS = """
architecture = "resnet18-light", backbone = "test_resnet", start = "scratch", dice_weight = 0.5, edge_weight = 4,
terms = ["long-term", "short-term", "masks"], pasted = 0.7, perturb = 0.5, cycle = 0.3, mask_clips = """


def test_so_they_have_with_all_terms_of_mask_vos(tmp_path: Path) -> None:
    """Anchors of the long-term term are those of both; what is pasted, perturbed or taken round a cycle is each clip's
    own or common to all. By short steps: rounding tips a ReLU here and there, and Adam's long steps would carry that
    on."""
    data = write_videos(tmp_path / "data", 9, 5, 7)
    paths = []
    for name, batch, clips in (("double", "2", "1"), ("single", "4", "2")):
        (tmp_path / name).mkdir()
        changes = {"batch_size": batch, "optimiser": "{ rate = 3e-5, clip = 1.0 }"}
        changes["data"] = "{ length = 3, size = [48, 64], side = 48, views = 2, clips = 8 }"
        settings = (MASK_VOS + clips).replace("\n", " ")
        paths.append(write_recipe(tmp_path / name, settings, **changes, objective='"mask-vos"'))
    compare_two_processes_with_one(tmp_path, data, *paths, 1e-4)

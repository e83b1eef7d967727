"""The loop: what it writes, what it says when it cannot go on, and that only the recipe changes a number."""

import json
import multiprocessing
import os
import pickle
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Toy, write_recipe, write_videos

from matchcut.errors import DatasetError, OutputError, TrainingError
from matchcut.files import atomic_path
from matchcut.manifest import MANIFEST, noted_in
from matchcut.training.checkpoint import checkpoints, read_latest
from matchcut.training.config import TrainConfig, read_config
from matchcut.training.failures import explained
from matchcut.training.loop import train
from matchcut.training.objectives import OBJECTIVES

LAST = 12  # 3 epochs of 8 clips, 2 a step


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), 9, 5, 7)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return read_config(write_recipe(tmp_path))


def whole_run(videos: Path, folder: Path, **changes: Any) -> Path:
    train(replace(read_config(write_recipe(folder)), **changes), videos, folder / "run", device="cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def unbroken(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of the plain recipe."""
    return whole_run(videos, tmp_path_factory.mktemp("unbroken"))


@pytest.fixture(scope="module")
def halved(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in bfloat16."""
    return whole_run(videos, tmp_path_factory.mktemp("halved"), precision="bfloat16")


def losses(out: Path) -> list[dict[str, float]]:
    """What was logged, without how fast it went."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_a_second", "waiting")} for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    """The same losses and weights, to the bit."""
    assert losses(one) == losses(other)
    first, second = load_file(one / "weights.safetensors"), load_file(other / "weights.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def interrupted_at(step: int) -> Any:
    """A `say` that stops the run right after a step was logged, before its checkpoint."""

    def say(line: str) -> None:
        if f"step {step}/" in line:
            raise KeyboardInterrupt

    return say


# --- what it writes


def test_a_run_writes_weights_checkpoints_log_curves_and_pictures(unbroken: Path) -> None:
    rows = losses(unbroken)
    assert [row["step"] for row in rows] == list(range(1, LAST + 1))
    assert [row["epoch"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert all("late" not in row for row in rows[:4]) and all("late" in row for row in rows[4:])
    assert rows[4]["loss"] == pytest.approx(rows[4]["near"] + rows[4]["late"], rel=1e-5)
    assert np.mean([row["near"] for row in rows[8:]]) < np.mean([row["near"] for row in rows[:4]])
    assert [path.name for path in checkpoints(unbroken)] == ["checkpoint-00000012.pt", "checkpoint-00000011.pt"]
    board = EventAccumulator(str(unbroken / "tensorboard")).Reload()
    assert {"loss", "near", "late", "gradient", "rate", "images_a_second", "waiting"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss")] == list(range(1, LAST + 1))
    assert board.Tags()["images"] == ["first"]
    shown = sorted(path.name for path in (unbroken / "pictures").iterdir())
    assert shown == ["first-0002.png", "first-0003.png"]
    with Image.open(unbroken / "pictures" / "first-0002.png") as picture:
        assert picture.size == (8, 8)


def test_the_weights_carry_their_recipe_and_are_the_average(unbroken: Path) -> None:
    with safe_open(unbroken / "weights.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["recipe"])["optimiser.rate"] == 0.01
        assert file.metadata()["step"] == str(LAST)
    state = torch.load(checkpoints(unbroken)[0], weights_only=True)
    weights = load_file(unbroken / "weights.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in state["average"].items())
    assert any(not torch.equal(weights[name], value) for name, value in state["network"].items())


def test_progress_is_told_with_losses_and_pace(videos: Path, config: TrainConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    train(config, videos, tmp_path / "run", device="cpu", say=lines.append)
    assert lines[0].startswith("3 videos, 21 frames") and "3 epochs of 4 steps, 0 of 12 are done" in lines[0]
    assert lines[5].startswith("epoch 2/3 step 5/12  loss ")
    for part in ("(late ", "near ", "rate ", "images/s", "waiting ", "h left"):
        assert part in lines[5]


def test_in_bfloat16_it_learns_as_in_float32(unbroken: Path, halved: Path) -> None:
    assert any(one != other for one, other in zip(losses(unbroken), losses(halved), strict=True))
    for one, other in zip(losses(unbroken), losses(halved), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.01)
        assert other["gradient"] == pytest.approx(one["gradient"], rel=0.05)
    kept = [load_file(run / "weights.safetensors") for run in (unbroken, halved)]
    assert all(kept[1][name].dtype == one.dtype for name, one in kept[0].items())  # float32, as the recipe says


# --- what may not change a number


@pytest.mark.parametrize("change", [{"workers": 2}, {"save_minutes": 9.0}, {"pictures_every": 1}], ids=str)
def test_workers_saving_and_pictures_change_no_number(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path, change: Mapping[str, Any]
) -> None:
    train(replace(config, **change), videos, tmp_path / "run", device="cpu")
    assert_same_run(tmp_path / "run", unbroken)


@pytest.mark.parametrize(
    "step", [1, 4, 5, 7, 12]
)  # before the first checkpoint, an epoch's end, its start, inside, last
@pytest.mark.parametrize(("precision", "whole"), [("float32", "unbroken"), ("bfloat16", "halved")])
def test_a_run_that_is_resumed_is_the_unbroken_one(
    videos: Path, config: TrainConfig, precision: Any, whole: str, tmp_path: Path, step: int, request: Any
) -> None:
    out, config = tmp_path / "run", replace(config, precision=precision)
    with pytest.raises(KeyboardInterrupt):
        train(config, videos, out, device="cpu", say=interrupted_at(step))
    torch.rand(3), np.random.rand()
    lines: list[str] = []
    train(config, videos, out, resume=True, device="cpu", say=lines.append)
    assert f"{step - 1} of 12 are done" in lines[0]
    assert_same_run(out, request.getfixturevalue(whole))
    assert torch.load(checkpoints(out)[0], weights_only=True)["objective"]["made"] == [0, 1, 2]


def test_resuming_is_exact_between_two_progress_lines_without_average(
    videos: Path, tmp_path: Path, precision: str
) -> None:
    changes: Any = {"precision": precision, "average": 0.0, "log_every": 3, "accumulate": 2}
    config = replace(read_config(write_recipe(tmp_path)), **changes)
    train(config, videos, tmp_path / "whole", device="cpu")
    calls = 0

    class Stopped(Toy):
        def loss(self, batch: Any, epoch: int) -> Any:
            nonlocal calls
            calls += 1
            if calls == 10:  # in the middle of the fifth step
                raise KeyboardInterrupt
            return super().loss(batch, epoch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(OBJECTIVES, "toy", Stopped)
        train(config, videos, tmp_path / "run", device="cpu")
    train(config, videos, tmp_path / "run", resume=True, device="cpu")
    assert [row["step"] for row in losses(tmp_path / "whole")] == [3, 6]
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("precision", "slow"), [("bfloat16", True), ("bfloat16", False), ("float32", True)])
def test_a_precision_that_is_slow_here_is_named(
    config: TrainConfig, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, slow: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not slow, raising=False)
    said: list[str] = []
    train(replace(config, precision=precision, epochs=1), videos, tmp_path / "run", device="cpu", say=said.append)
    assert any('precision = "float32" is faster' in line for line in said) == (precision == "bfloat16" and slow)


def test_a_finished_run_stays_as_it_is(videos: Path, config: TrainConfig, tmp_path: Path) -> None:
    train(config, videos, tmp_path / "run", device="cpu")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("[!.]*") if path.is_file()}
    lines: list[str] = []
    train(config, videos, tmp_path / "run", resume=True, device="cpu", say=lines.append)
    assert len(lines) == 1 and "12 of 12 are done" in lines[0]
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("[!.]*") if path.is_file()} == before


def test_gradients_of_several_batches_are_as_of_one(videos: Path, tmp_path: Path) -> None:
    config = read_config(write_recipe(tmp_path, settings="noise = 0, norm = false"))
    train(replace(config, batch_size=4), videos, tmp_path / "one", device="cpu")
    train(replace(config, batch_size=2, accumulate=2), videos, tmp_path / "two", device="cpu")
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["gradient"] == pytest.approx(one["gradient"], rel=1e-3)


# --- where another run lies


def test_a_folder_with_a_run_is_not_written_over(videos: Path, config: TrainConfig, unbroken: Path) -> None:
    with pytest.raises(OutputError, match=r"is not empty .* --overwrite replaces an earlier run, --resume goes on"):
        train(config, videos, unbroken, device="cpu")


def test_overwrite_begins_anew_and_keeps_what_is_the_users(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, videos, out, device="cpu", say=interrupted_at(6))
    latest, mine = checkpoints(out)[0], out / "checkpoint-00000004-mine.pt"
    mine.write_bytes(latest.read_bytes())
    (out / "tensorboard" / "mine").write_text("mine")
    train(replace(config, seed=3), videos, out, overwrite=True, device="cpu")
    assert len(list((out / "tensorboard").glob("events*"))) == 1 and len(checkpoints(out)) == 2
    assert losses(out)[0]["loss"] != losses(unbroken)[0]["loss"] and len(losses(out)) == LAST
    for name in ("weights.safetensors", "checkpoint-00000001.pt", "log.jsonl"):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        (tmp_path / "theirs" / name).write_text("mine")
        for how in ("overwrite", "resume"):
            with pytest.raises(OutputError, match=f"{name}: is in the way"):
                train(config, videos, tmp_path / "theirs", device="cpu", **{how: True})
        (tmp_path / "theirs" / name).unlink()
    assert mine.exists() and (out / "tensorboard" / "mine").exists()


def test_a_run_does_not_lie_on_what_it_learns_from(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(videos, target_is_directory=True)
    for out in (videos, videos / "video0", videos / "run", tmp_path / "link" / "run"):
        with pytest.raises(OutputError, match="all of which is learned from"):
            train(config, videos, out, device="cpu")
    weights = unbroken / "weights.safetensors"
    before = weights.read_bytes()
    for how in ("overwrite", "resume"):
        with pytest.raises(OutputError, match=r"weights\.safetensors would lie on"):
            train(replace(config, weights=str(weights)), videos, unbroken, device="cpu", **{how: True})
    assert weights.read_bytes() == before and not (videos / "run").exists()


def test_a_log_with_odd_lines_is_gone_on_with(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config, videos, tmp_path / "run", device="cpu", say=interrupted_at(6))
    with (tmp_path / "run" / "log.jsonl").open("ab") as file:
        file.write(b"\0\xff\n[]\n{}\n{")
    train(config, videos, tmp_path / "run", resume=True, device="cpu")
    assert_same_run(tmp_path / "run", unbroken)


def test_a_run_that_never_began_leaves_its_folder_free(videos: Path, config: TrainConfig, tmp_path: Path) -> None:
    root = write_videos(tmp_path / "videos", 3)
    for path in (root / "video0").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="not one frame can be read"):
        train(config, root, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").touch()  # of one that has begun, and told nothing yet
    with pytest.raises(OutputError, match="is not empty"):
        train(config, videos, tmp_path / "run", device="cpu")


def test_keys_that_change_no_number_may_differ_when_resuming(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config, videos, tmp_path / "run", device="cpu", say=interrupted_at(6))
    train(replace(config, workers=1, save_minutes=5.0), videos, tmp_path / "run", resume=True, device="cpu")
    assert_same_run(tmp_path / "run", unbroken)


def test_a_checkpoint_of_another_recipe_or_of_other_data_is_refused(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    other = replace(config, optimiser=replace(config.optimiser, rate=0.02), batch_size=1)
    with pytest.raises(TrainingError) as caught:
        train(other, videos, unbroken, resume=True, device="cpu")
    text = str(caught.value)
    assert "batch_size was 2, is 1; optimiser.rate was 0.01, is 0.02" in text and "\n" not in text
    more = write_videos(tmp_path / "more", 9, 5, 7, 2)
    with pytest.raises(TrainingError, match=r"data was '3 videos.*is '4 videos"):
        train(config, more, unbroken, resume=True, device="cpu")


def test_a_checkpoint_of_another_network_is_refused(
    videos: Path, config: TrainConfig, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wider(Toy):
        def __init__(self, config: TrainConfig, *others: Any) -> None:
            super().__init__(replace(config, settings={"width": 5}), *others)

    monkeypatch.setitem(OBJECTIVES, "toy", Wider)
    with pytest.raises(TrainingError, match="is of another network: size mismatch") as caught:
        train(config, videos, unbroken, resume=True, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, videos, out, device="cpu", say=interrupted_at(8))
    latest = checkpoints(out)[0]
    latest.write_bytes(latest.read_bytes()[:5000])
    (out / ".matchcut-0123abcd.pt").write_bytes(b"half a file")
    lines: list[str] = []
    train(config, videos, out, resume=True, device="cpu", say=lines.append)
    assert lines[0].startswith(f"{latest}: cannot be read as a checkpoint") and "6 of 12" in lines[1]
    assert_same_run(out, unbroken)
    assert [path.name for path in out.glob(".*")] == [MANIFEST]


def test_nothing_is_unpickled(videos: Path, config: TrainConfig, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "owned",))

    out = tmp_path / "run"
    out.mkdir()
    evil, path = {"format": "matchcut training 1", "step": Evil()}, out / "checkpoint-00000001.pt"
    torch.save(evil, tmp_path / "zip.pt")
    torch.save(evil, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(evil))
    for harmful in ("zip.pt", "old.pt", "plain.pt"):
        with noted_in(out), atomic_path(path, note="name") as temporary:
            temporary.write_bytes((tmp_path / harmful).read_bytes())
        with pytest.raises(TrainingError, match=r"cannot be read as a checkpoint .*never unpickled") as caught:
            train(config, videos, out, resume=True, device="cpu")
        assert str(caught.value).isprintable()
        with pytest.raises(TrainingError, match="cannot be read as weights"):
            train(replace(config, weights=str(tmp_path / harmful)), videos, tmp_path / "new", device="cpu")
    for other in ({"weights": torch.zeros(2)}, {"format": "matchcut training 1"}):
        with noted_in(out), atomic_path(path, note="name") as temporary:
            torch.save(other, temporary)
        with pytest.raises(TrainingError, match="is no checkpoint of a training run"):
            train(config, videos, out, resume=True, device="cpu")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_damaged_anywhere_is_told_in_one_line(tmp_path: Path) -> None:
    path, random = tmp_path / "checkpoint-00000001.pt", np.random.default_rng(0)
    for new in (True, False):
        torch.save({"format": "", "network": {"weight": torch.rand(3)}}, path, _use_new_zipfile_serialization=new)
        good = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            bad = good.copy()
            bad[random.integers(0, len(bad), 5)] = random.integers(0, 256, 5)
            path.write_bytes(bad.tobytes())
            with pytest.raises(TrainingError):
                read_latest(tmp_path, print)


def test_a_run_can_start_from_the_weights_of_another(
    videos: Path, config: TrainConfig, unbroken: Path, tmp_path: Path
) -> None:
    frozen = replace(config.optimiser, rates={"head": 0.0}, rate=1e-3)
    config = replace(config, average=0.0, optimiser=frozen, weights=str(unbroken / "weights.safetensors"))
    train(config, videos, tmp_path / "run", device="cpu")
    before, after = (load_file(one / "weights.safetensors") for one in (unbroken, tmp_path / "run"))
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["late.weight"], after["late.weight"])
    wider = replace(config, settings={"width": 5})
    with pytest.raises(TrainingError, match="is of another network: size mismatch"):
        train(wider, videos, tmp_path / "wider", device="cpu")
    with pytest.raises(TrainingError, match="cannot be read as weights"):
        train(replace(config, weights=str(tmp_path / "no")), videos, tmp_path / "no-run", device="cpu")


# --- what stops a run


@pytest.mark.parametrize(
    ("fault", "what"), [("nan", "the loss is nan"), ("gradient", "the norm of the gradients is nan")]
)
def test_what_is_not_finite_stops_the_run(videos: Path, tmp_path: Path, fault: str, what: str) -> None:
    config = read_config(write_recipe(tmp_path, settings=f'fault = "{fault}"'))
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=f"epoch 2/3 step 5/12: {what}; the latest checkpoint is kept") as caught:
        train(config, videos, out, device="cpu")
    assert "\n" not in str(caught.value)
    state = torch.load(checkpoints(out)[0], weights_only=True)
    assert state["step"] == 4 and all(value.isfinite().all() for value in state["network"].values())


@pytest.mark.parametrize(
    ("batch_size", "setting"), [(2, r"lower batch_size \(now 2\) and raise accumulate"), (1, r"lower data.size \(now")]
)
def test_too_little_memory_names_the_setting_to_lower(
    videos: Path, tmp_path: Path, batch_size: int, setting: str
) -> None:
    config = replace(read_config(write_recipe(tmp_path, settings='fault = "memory"')), batch_size=batch_size)
    with pytest.raises(TrainingError, match=f"out of memory with this batch: .*{setting}"):
        train(config, videos, tmp_path / "run", device="cpu")


def test_a_worker_that_dies_names_the_settings_to_lower(
    videos: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Toy):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            draw, parent = self.samples.draw, os.getpid()

            def dying(epoch: int, index: int) -> Any:
                if epoch == 1 and os.getpid() != parent:
                    os.kill(os.getpid(), signal.SIGKILL)
                return draw(epoch, index)

            self.samples.draw = dying  # type: ignore[method-assign]

    monkeypatch.setitem(OBJECTIVES, "toy", Dying)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def body() -> None:
        try:
            train(replace(config, workers=1), videos, tmp_path / "run", device="cpu")
        except TrainingError as error:
            theirs.send(str(error))

    # In a process of its own: torch's handler of dead workers raises wherever the main thread is, in pytest's own too.
    process = context.Process(target=body)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a forked copy of OpenCV's threads, which an earlier test may have begun, hangs
    process.start()
    cv2.setNumThreads(threads)
    theirs.close()
    said = ours.recv()
    process.join()
    assert re.search(r"process that reads data died .* lower workers \(now 1\)", said)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_over_a_batch_is_told_alike(config: TrainConfig, error: Exception) -> None:
    said = r"process that reads data died \(.+\), .* lower workers \(now 0\)"
    with pytest.raises(TrainingError, match=said), explained(config):
        raise error


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_frames_are_named_once_and_counted(config: TrainConfig, tmp_path: Path, workers: int) -> None:
    root = write_videos(tmp_path / "videos", 3, 3)
    for path in (root / "video0" / "00001.jpg", root / "video1" / "00002.jpg"):
        path.write_bytes(path.read_bytes()[:200])
    lines: list[str] = []
    train(replace(config, workers=workers), root, tmp_path / "run", device="cpu", say=lines.append)
    named = [line for line in lines if line.endswith("cannot be read; it is skipped")]
    assert sorted(named) == sorted({*named}) and len(named) == 2
    assert lines[-1] == "2 frames could not be read and were skipped"


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_data_stay_one_line(config: TrainConfig, tmp_path: Path, workers: int) -> None:
    root = write_videos(tmp_path / "videos", 2)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="not one frame can be read") as caught:
        train(replace(config, workers=workers), root, tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no video"):
        train(config, tmp_path / "empty", tmp_path / "other", device="cpu")


def test_an_unknown_objective_names_those_there_are(videos: Path, config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"unknown objective 'tow'; there are .*toy"):
        train(replace(config, objective="tow"), videos, tmp_path / "run", device="cpu")

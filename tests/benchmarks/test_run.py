"""Models evaluated with the real command on small layouts of the benchmarks: squares that walk over noise."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import scipy.io
from PIL import Image

import matchcut
from matchcut import cli
from matchcut.benchmarks.report import read_report
from matchcut.benchmarks.score import score
from matchcut.errors import MatchcutError, ModelError
from matchcut.files import write_csv
from matchcut.manifest import MANIFEST, Manifest, noted_in
from matchcut.masks import object_ids, read_mask, write_mask

SIZE = (64, 96)
FAST = {"size": 48, "device": "cpu"}
WORDS = ("--size", "48", "--device", "cpu")


def picture(index, size=SIZE):
    """A red and a blue square on grey noise: (frame, labels)."""
    frame = np.random.default_rng(0).integers(90, 130, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.uint8)
    across = 2 * (index % 30)
    for number, (x, y), colour in ((1, (4 + across, 6), (220, 40, 40)), (2, (66 - across, 36), (40, 60, 230))):
        frame[y : y + 22, x : x + 22] = colour
        labels[y : y + 22, x : x + 22] = number
    return frame, labels


def image(path, index, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(index, size)[0]).save(path)


def mask(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, labels.astype(np.uint8))


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def davis(root, frames=(("bear", 5), ("bus", 4)), year="2016"):
    for name, count in frames:
        for index in range(count):
            image(root / "JPEGImages/480p" / name / f"{index:05d}.jpg", index)
            labels = picture(index)[1]
            truth = 255 * (labels == 1) if year == "2016" else labels
            mask(root / "Annotations/480p" / name / f"{index:05d}.png", truth)
    text(root / "ImageSets" / year / "val.txt", *(name for name, _ in frames))
    return root


def vip(root):
    text(root / "lists/val_videos.txt", "videos1")
    for index in range(4):
        image(root / "Images/videos1" / f"{25 * index + 1:012d}.jpg", index)
        labels = picture(index)[1]
        mask(root / "Annotations/Category_ids/videos1" / f"{25 * index + 1:012d}.png", np.array([0, 4, 13])[labels])
    return root


def places(index):
    """15 joints on the red square, (2, 15), x and y from 0."""
    x, y = np.meshgrid(np.linspace(0, 21, 5), np.linspace(0, 21, 3))
    return np.stack([x.ravel() + 4 + 2 * index, y.ravel() + 6])


def jhmdb(root, step=1):
    text(root / "splits/catch_test_split1.txt", "ball (1)_catch.avi 2", "other_catch.avi 1")
    for index in range(4):
        image(root / "Rename_Images/catch/ball (1)_catch" / f"{index + 1:05d}.png", step * index)
    folder = root / "joint_positions/catch/ball (1)_catch"
    folder.mkdir(parents=True)
    positions = 1 + np.stack([places(step * index) for index in range(4)], axis=2)
    scipy.io.savemat(folder / "joint_positions.mat", {"pos_img": positions})
    return root


def youtube_vos(root):
    """No object on the first frame, then 2 enters, then 5; and a video of one object."""
    base, frames = root / "valid", [f"{5 * index:05d}" for index in range(5)]
    for name in ("0a1b", "ff00"):
        for index, frame in enumerate(frames):
            image(base / "JPEGImages" / name / f"{frame}.jpg", index)
    truth = [np.array([0, 2, 5])[picture(index)[1]] for index in range(5)]
    mask(base / "Annotations/0a1b/00000.png", truth[0] * 0)
    mask(base / "Annotations/0a1b/00005.png", truth[1] * (truth[1] == 2))
    mask(base / "Annotations/0a1b/00010.png", truth[2])
    mask(base / "Annotations/ff00/00000.png", picture(0)[1] == 1)
    objects = {
        "0a1b": {"2": {"category": "dog", "frames": frames[1:]}, "5": {"category": "cat", "frames": frames[2:]}},
        "ff00": {"1": {"category": "dog", "frames": frames}},
    }
    videos = {name: {"objects": one} for name, one in objects.items()}
    text(base / "meta.json", json.dumps({"videos": videos}))
    return root


def film(root):
    """Our own layout: a video file and masks, the first on frame 2."""
    root.mkdir()
    with av.open(str(root / "walk.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "bgr0"
        for index in range(6):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index)[0], format="rgb24")))
        file.mux(stream.encode())
    for index in (2, 5):
        mask(root / "masks" / f"{index:05d}.png", picture(index)[1])
    return root


def segtrack(root):
    for index in range(3):
        image(root / "JPEGImages/drift" / f"drift_{index}.png", index)
        for number in (1, 2):
            truth = np.repeat((picture(index)[1] == number)[..., None] * np.uint8(255), 3, 2)
            path = root / "GroundTruth/drift" / f"{number}" / f"drift_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(truth).save(path)
    return root


def tree(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def stems(folder):
    return sorted(path.stem for path in folder.iterdir())


def same(one, other):
    """Whether two results are equal, NaN too, but for the time that scoring took."""
    return repr(dataclasses.replace(one, seconds=0)) == repr(dataclasses.replace(other, seconds=0))


@pytest.fixture
def run(monkeypatch, capfd):
    """Call the command in this process: (exit status, standard output, standard error)."""

    def call(*words, fast=True):
        monkeypatch.setattr(sys, "argv", ["matchcut", "evaluate", *map(str, words), *(WORDS if fast else ())])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capfd.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call


def refused(result, *words):
    assert result.code == 2 and result.out == "", result
    assert len(result.err.splitlines()) == 1 and result.err.startswith("matchcut: "), result.err
    for word in words:
        assert word in result.err, result.err


# --- each benchmark


@pytest.mark.parametrize(
    ("benchmark", "make", "sequences", "measure", "least", "precision"),
    [
        ("davis2016", davis, {"bear": 5, "bus": 4}, "J&F-Mean", 0.35, "float32"),
        ("davis2017", lambda root: davis(root, year="2017"), {"bear": 5, "bus": 4}, "J&F-Mean", 0.35, "bfloat16"),
        ("vip", vip, {"videos1": 4}, None, 0.35, "float32"),
        ("segtrack-v2", segtrack, {"drift": 3}, None, 0.35, "bfloat16"),
        ("folder", film, {"film": 6}, "J&F-Mean", 0.35, "auto"),
    ],
)
def test_masks_of_every_frame_and_scores_of_the_files(tmp_path, benchmark, make, sequences, measure, least, precision):
    root, out, said = make(tmp_path / "film"), tmp_path / "out", []
    result = matchcut.evaluate(benchmark, root, out, say=said.append, precision=precision, **FAST)
    assert stems(out / "masks") == stems(out / "runs") == sorted(sequences)
    assert len(said) == len(sequences)
    for name, count in sequences.items():
        files = sorted((out / "masks" / name).iterdir())
        assert len(files) == count and all(read_mask(path).shape == SIZE for path in files)
    assert same(result, score(benchmark, root, out))
    assert result.summary[measure or next(iter(result.summary))] > least


def test_before_the_first_mask_of_a_video_there_is_nothing(tmp_path):
    matchcut.evaluate("folder", film(tmp_path / "film"), tmp_path / "out", **FAST)
    folder = tmp_path / "out/masks/film"
    assert stems(folder) == [f"{index:05d}" for index in range(6)]
    assert [object_ids(read_mask(folder / f"{index:05d}.png")) for index in (0, 1, 2)] == [[], [], [1, 2]]
    np.testing.assert_array_equal(read_mask(folder / "00002.png"), picture(2)[1])


@pytest.mark.parametrize(("step", "preset", "size"), [(0, None, 240), (1, "crw", 240)])
def test_jhmdb_joints_are_where_they_were(tmp_path, step, preset, size):
    """On a still video with no bias of half a cell; on a walk they follow."""
    root, out = jhmdb(tmp_path / "jhmdb", step), tmp_path / "out"
    result = matchcut.evaluate("jhmdb", root, out, size=size, device="cpu", preset=preset)
    found = np.array(json.loads((out / "masks/ball (1)_catch.json").read_text()), float)
    assert found.shape == (4, 15, 2)
    np.testing.assert_allclose(found[0], places(0).T)
    assert same(result, score("jhmdb", root, out))
    wanted = np.stack([places(step * index).T for index in range(4)])
    if step == 0:
        assert result.summary["PCK@0.2"] == 1
        assert np.abs((found - wanted)[1:].mean((0, 1))).max() < 0.5  # pixels; half a cell would be 1.1
    else:
        assert result.summary["PCK@0.5"] > 0.5
    record = json.loads((out / "runs/ball (1)_catch.json").read_text())
    assert record["frames"] == 4 and record.get("preset") == preset


@pytest.mark.parametrize(("benchmark", "size", "context"), [("vip", 560, 4), ("jhmdb", 320, 7), ("davis2016", 480, 20)])
def test_published_sizes_and_contexts(benchmark, size, context):
    from matchcut.benchmarks.protocols import PROTOCOLS
    from matchcut.benchmarks.run import Choice

    tracker = Choice(preset="crw").tracker(PROTOCOLS[benchmark])
    assert (tracker.size, tracker.policy.context, tracker.policy.start) == (size, context, "repeat")
    assert Choice(preset="crw", size=64).tracker(PROTOCOLS[benchmark]).size == 64
    default = Choice().tracker(PROTOCOLS[benchmark])
    assert default.size == 432


def test_youtube_vos_to_the_zip_that_the_server_takes(run, tmp_path):
    root, out = youtube_vos(tmp_path / "ytvos"), tmp_path / "out"
    result = run("youtube-vos-2019", "--root", root, "-o", out, "--submission", "youtube-vos")
    assert result.code == 0 and "not scored: the truth is not public" in result.out
    assert not (out / "report.json").exists()
    frames = [f"{5 * index:05d}" for index in range(5)]
    assert stems(out / "masks/0a1b") == stems(out / "masks/ff00") == frames
    found = [object_ids(read_mask(out / "masks/0a1b" / f"{frame}.png")) for frame in frames]
    assert found == [[], [2], [2, 5], [2, 5], [2, 5]]
    with zipfile.ZipFile(out / "submission.zip") as archive:
        wanted = [("0a1b", frame) for frame in frames[1:]] + [("ff00", frame) for frame in frames]
        assert archive.namelist() == [f"Annotations/{name}/{frame}.png" for name, frame in wanted]
    assert matchcut.evaluate("youtube-vos-2019", root, tmp_path / "again", **FAST) is None
    assert tree(tmp_path / "again/masks") == tree(out / "masks")


# --- going on


@pytest.fixture
def long(tmp_path):
    return davis(tmp_path / "davis", (("ant", 60), ("bee", 60), ("cat", 4)))


def start(*words, **options):
    command = [sys.executable, Path(__file__).parents[1] / "slow_cli.py", "evaluate", *map(str, words), *WORDS]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts with & does not hear it
    pipes: dict = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, preexec_fn=heard, **pipes, **options)


def until(count, folder, process):
    """Wait until a run has written some masks."""
    while process.poll() is None:
        if folder.is_dir() and sum(1 for _ in folder.glob("[0-9]*.png")) >= count:
            return
        time.sleep(0.002)


def children(process):
    found = []
    with contextlib.suppress(OSError):  # one that has just ended
        for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text():
                found.append(one)
    return found


def gone(ids, seconds=20):
    """Whether these processes end in time; what is left waits for its parent only."""
    for _ in range(seconds * 50):
        states = [Path(f"/proc/{one}/stat") for one in ids]
        if not [one for one in states if one.exists() and one.read_text().rsplit(")", 1)[1].split()[0] != "Z"]:
            return True
        time.sleep(0.02)
    return False


def masks_of(out):
    return {name: data for name, data in tree(out / "masks").items() if not Path(name).name.startswith(".")}


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_killed_and_stopped_it_goes_on_to_the_very_same_masks(run, long, tmp_path):
    """One process killed, then two killed, then two stopped by hand, then one to the end."""
    out = tmp_path / "out"
    words = ("davis2016", "--root", long, "-o", out)
    with start(*words) as process:
        until(30, out / "masks/bee", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert stems(out / "masks/ant") == [f"{index:05d}" for index in range(60)]
    before = {path: path.stat().st_mtime_ns for path in (out / "masks").glob("*/[0-9]*.png")}
    assert 90 <= len(before) < 120
    (out / "masks/bee/.matchcut-0123abcd.png").write_bytes(b"half")

    shutil.copytree(out, tmp_path / "one")
    assert run("davis2016", "--root", long, "-o", tmp_path / "one", "--resume").code == 0
    assert run("davis2016", "--root", long, "-o", tmp_path / "unbroken").code == 0
    assert tree(tmp_path / "one/masks") == tree(tmp_path / "unbroken/masks")
    assert same(
        dataclasses.replace(read_report(tmp_path / "one"), masks=Path()),
        dataclasses.replace(read_report(tmp_path / "unbroken"), masks=Path()),
    )

    for end in (signal.SIGKILL, signal.SIGINT):
        shutil.rmtree(out / "masks/ant")  # so that there are two sequences to be done
        with start(*words, "--resume", "--processes", "2", start_new_session=True) as process:
            while process.poll() is None and len(workers := children(process)) < 2:
                time.sleep(0.01)
            until(3, out / "masks/ant", process)
            process.send_signal(end)
            said = process.communicate()[1]
        assert gone(workers), "a process is left"
        assert process.returncode == (130 if end == signal.SIGINT else -end)
    assert said.splitlines()[-1] == "matchcut: stopped; run the same command with --resume to go on"
    assert "Traceback" not in said
    assert run(*words, "--resume").code == 0
    assert masks_of(out) == masks_of(tmp_path / "unbroken")
    kept = [path for path, at in before.items() if path.parent.name == "bee" and path.stat().st_mtime_ns == at]
    assert len(kept) >= 24, "it started anew"


def test_two_processes_give_the_masks_of_one(tmp_path):
    root, said = davis(tmp_path / "davis", (("ant", 4), ("bee", 6), ("cat", 3)), "2017"), []
    one = matchcut.evaluate("davis2017", root, tmp_path / "one", **FAST)
    two = matchcut.evaluate("davis2017", root, tmp_path / "two", processes=2, say=said.append, **FAST)
    assert tree(tmp_path / "one/masks") == tree(tmp_path / "two/masks")
    assert Manifest(tmp_path / "one").files() == Manifest(tmp_path / "two").files()
    assert {f"masks/{name}" for name in tree(tmp_path / "two/masks")} < set(Manifest(tmp_path / "two").files())
    assert one.summary == two.summary
    assert [line.split()[0] for line in said] == ["1/3", "2/3", "3/3"]


def test_a_finished_sequence_is_not_run_again(run, tmp_path):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    words = ("davis2016", "--root", root, "-o", out)
    assert run(*words, "--sequences", "bus").code == 0
    before = {path: path.stat().st_mtime_ns for path in (out / "masks/bus").iterdir()}
    refused(run(*words), "is not empty", "--overwrite", "--resume")
    result = run(*words, "--resume")
    assert result.code == 0
    assert [line.split()[:2] for line in result.err.splitlines()] == [["1/2", "bus:"], ["2/2", "bear:"]]
    assert "done before" in result.err.splitlines()[0]
    assert before == {path: path.stat().st_mtime_ns for path in (out / "masks/bus").iterdir()}
    assert [one.sequence for one in read_report(out).objects] == ["bear", "bus"]
    (out / "masks/bus/00002.png").unlink()  # what is lost is made again
    held = tree(out / "masks")
    assert run(*words, "--resume").code == 0
    assert tree(out / "masks").keys() - held.keys() == {"bus/00002.png"}


def test_another_setting_or_input_is_refused_and_changes_nothing(run, tmp_path):
    """Whatever the order: bear comes first, and was not run yet."""
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    words = ("davis2016", "--root", root, "-o", out, "--resume")
    assert run(*words, "--sequences", "bus").code == 0
    record = json.loads((out / "runs/bus.json").read_text())
    held = tree(out)
    for other in (("--preset", "dino"), ("--size", "64")):
        refused(run(*words, *WORDS, *other, fast=False), "holds a run of bus", "another input, model or setting")
        assert tree(out) == held
    record.pop("seconds")  # as an interrupted one
    (out / "runs/bus.json").write_text(json.dumps(record))
    refused(run(*words, "--preset", "dino"), "holds a run of bus")
    image(root / "JPEGImages/480p/bus/00003.jpg", 9)
    refused(run(*words), "holds a run of bus", "--overwrite")
    (out / "runs/bus.json").write_text("{")  # a damaged record says nothing
    assert run(*words).code == 0


# --- what else lies in the folder


def test_only_masks_of_this_run_are_scored(run, tmp_path):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    truths = root / "Annotations/480p"
    for place in (out / "bear", out / "Annotations/bear", out / "masks/gnu"):
        shutil.copytree(truths / "bear", place)
    fresh = matchcut.evaluate("davis2016", root, tmp_path / "fresh", **FAST)
    for option in ("--overwrite", "--resume"):
        result = run("davis2016", "--root", root, "-o", out, option)
        assert result.code == 0
        assert read_report(out).summary == pytest.approx(fresh.summary, abs=1e-12)
        assert read_report(out).masks == out / "masks"
    assert tree(out / "bear") == tree(truths / "bear") == tree(out / "masks/gnu")


def test_overwrite_clears_what_a_run_wrote_and_nothing_else(run, tmp_path):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    words = ("davis2016", "--root", root, "-o", out)
    assert run(*words).code == 0
    mine = ("thesis.txt", "masks/bus/notes.txt", "masks/mine/00000.png", "plots/mine.svg", "runs/mine.txt")
    for name in mine:
        text(out / name, "mine")
    with noted_in(out):
        write_csv(out / "submission.zip", ["of", "other", "masks"], [])
    assert run(*words, "--overwrite", "--sequences", "bear", "--preset", "mask-vos").code == 0
    held = tree(out)
    assert all(held[name] == b"mine\n" for name in mine)
    assert "masks/bus/00000.png" not in held and "runs/bus.json" not in held and "submission.zip" not in held
    assert "plots/over-time/bus.png" not in held
    assert json.loads(held["runs/bear.json"])["preset"] == "mask-vos"
    assert [one.sequence for one in read_report(out).objects] == ["bear"]


@pytest.mark.parametrize("option", [(), ("--overwrite",), ("--resume",)])
def test_an_output_in_which_the_truth_lies_is_refused(run, tmp_path, option):
    """With its masks replaced by predictions, a benchmark would score them against themselves."""
    root = film(tmp_path / "film")
    davis(tmp_path / "davis")
    before = tree(tmp_path)
    for benchmark, place, out in (
        ("folder", root, root),
        ("folder", root, root / "masks/.."),
        ("folder", root, tmp_path),
        ("davis2016", tmp_path / "davis", tmp_path / "davis"),
        ("davis2016", tmp_path / "davis", tmp_path / "davis/Annotations"),
    ):
        refused(run(benchmark, "--root", place, "-o", out, *option), "is read, and lies in", "another folder")
    assert tree(tmp_path) == before


def test_masks_and_plots_of_the_users_are_not_written_over(run, tmp_path):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    words = ("davis2016", "--root", root, "-o", out)
    for name in ("masks/bus/00001.png", "runs/bus.json"):
        text(out / name, "mine")
        for option in ("--overwrite", "--resume"):
            refused(run(*words, option), f"{name}: is in the way")
        assert tree(out) == {name: b"mine\n"}
        (out / name).unlink()
    assert run(*words, "--overwrite").code == 0
    mask(out / "masks/bus/00001.png", picture(9)[1])
    text(out / "plots/mine.png", "mine")
    before = tree(out)
    refused(run(*words, "--overwrite"), "masks/bus/00001.png: is in the way")
    assert tree(out) == before


def test_a_damaged_mask_is_named_and_made_anew(run, tmp_path):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    words = ("davis2016", "--root", root, "-o", out)
    assert run(*words).code == 0
    before = tree(out / "masks")
    (out / "masks/bus/00002.png").write_bytes(b"")
    (out / "masks/bear/00001.png").write_bytes(before["bear/00001.png"][:50])
    (out / "runs/bear.json").write_text("{")
    result = run(*words, "--resume")
    assert result.code == 0 and "done before" not in result.err
    for name in ("masks/bus/00002.png", "masks/bear/00001.png", "runs/bear.json"):
        assert f"{out / name} was damaged; it is made anew" in result.err
    assert tree(out / "masks") == before


def test_a_sequence_with_the_longest_name_is_run_and_gone_on_with(run, tmp_path, monkeypatch):
    root, out, name = davis(tmp_path / "davis", (("s" * 249, 3),)), tmp_path / "out", "s" * 249
    monkeypatch.setattr("matchcut.tracking.tracker.EVERY", 1)
    assert run("davis2016", "--root", root, "-o", out).code == 0
    assert len(stems(out / "masks" / name)) == 3


# --- score into a folder


def test_a_report_replaces_an_earlier_one_only_where_asked(tmp_path, monkeypatch, run):
    def scored(*words):
        monkeypatch.setattr(sys, "argv", ["matchcut", "score", "davis2016", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0

    root, out, theirs = davis(tmp_path / "davis"), tmp_path / "out", tmp_path / "theirs"
    shutil.copytree(root / "Annotations/480p", theirs)
    words = ("--root", root, "--masks", theirs, "-o")
    assert scored(*words, out) == 0 and read_report(out).summary["J-Mean"] == 1
    text(out / "plots/mine.png", "mine")
    text(out / "compare.csv", "mine")
    held = tree(out)
    assert scored(*words, out) == 2 and tree(out) == held
    assert scored(*words, out, "--overwrite", "--sequences", "bear") == 0
    after = tree(out)
    assert "plots/over-time/bus.png" in held and "plots/over-time/bus.png" not in after
    assert after["plots/mine.png"] == after["compare.csv"] == b"mine\n"
    assert scored(*words, out, "--overwrite", "--compare", out) == 2 and tree(out) == after
    text(out / "report.json", "mine")
    assert scored(*words, out, "--overwrite") == 2 and tree(out) == {**after, "report.json": b"mine\n"}
    # a report beside masks of a run leaves them
    assert run("davis2016", "--root", root, "-o", tmp_path / "run").code == 0
    masks = tree(tmp_path / "run/masks")
    assert scored("--root", root, "--masks", tmp_path / "run", "-o", tmp_path / "run", "--overwrite") == 0
    assert tree(tmp_path / "run/masks") == masks


def test_an_interrupted_run_leaves_no_old_report(run, tmp_path, monkeypatch):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    words = ("davis2016", "--root", root, "-o", out)
    assert run(*words).code == 0

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(matchcut.Tracker, "fill", stop)
    result = run(*words, "--overwrite")
    assert result.code == 130
    assert result.err == "matchcut: stopped; run the same command with --resume to go on\n"
    assert sorted(tree(out)) == ["runs/bear.json"]


def test_compare(run, tmp_path):
    root = davis(tmp_path / "davis")
    words = ("davis2016", "--root", root)
    assert run(*words, "-o", tmp_path / "a", "--preset", "mask-vos").code == 0
    assert run(*words, "-o", tmp_path / "b", "--compare", tmp_path / "a").code == 0
    assert {"compare.csv", "compare-frames.csv", "compare.json"} <= set(os.listdir(tmp_path / "b"))  # noqa: PTH208
    for other, message in (
        (tmp_path / "none", "no report can be read"),
        (tmp_path / "c", "is -o itself"),
    ):
        refused(run(*words, "-o", tmp_path / "c", "--compare", other), message)
    davis(root, year="2017")
    refused(run("davis2017", "--root", root, "-o", tmp_path / "c", "--compare", tmp_path / "a"), "is of davis2016 val")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("benchmark", "precision"), [("davis2016-automatic", "float32"), ("davis2016-saliency", "bfloat16")]
)
def test_a_model_that_needs_no_prompt_is_run_and_gone_on_with(run, tmp_path, benchmark, precision):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    words = (benchmark, "--root", root, "-o", out, "--precision", precision, "--device", "cpu", "--size", "96")
    assert run(*words, fast=False).code == 0
    for name, frames in (("bear", 5), ("bus", 4)):
        assert len(list((out / "masks" / name).glob("*.png"))) == frames
        assert json.loads((out / "runs" / f"{name}.json").read_text())["model"] == "transport-net"
        assert not (out / "runs" / f"{name}.jsonl").exists()
    again = run(*words, "--resume", fast=False)
    assert again.code == 0 and again.err.count("done before") == 2


# --- what cannot be done


def test_what_cannot_be_done_is_one_line_and_leaves_nothing(run, tmp_path):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    held = tree(tmp_path)
    (tmp_path / "file").write_text("mine")
    for words, messages in (
        (("davis2016", "--root", root), ["-o FOLDER"]),
        (("davis2016-automatic", "--root", root, "-o", out, "--model", "mask-vos"), ["carries masks", "guided"]),
        (("davis2016", "--root", root, "-o", out, "--model", "transport-net"), ["needs no prompt"]),
        (("davis2015", "--root", root, "-o", out), ["davis2016, davis2016-automatic"]),
        (("davis2016", "--root", root, "-o", out, "--split", "test"), ["no split 'test'", "val, train"]),
        (("davis2016", "--root", root, "-o", out, "--sequences", "bus", "gnu"), ["no sequence gnu", "bear, bus"]),
        (("davis2016", "bus", "--root", root, "-o", out), ["what is bus?", "--sequences"]),
        (("davis2016", "--root", tmp_path / "no", "-o", out), ["no such folder"]),
        (("davis2016", "--root", root, "-o", out, "--submission", "youtube-vos"), ["youtube-vos benchmarks"]),
        (("youtube-vos-2019", "--root", root, "-o", out, "--submission", "davis"), ["expected youtube-vos"]),
        (("davis2016", "--root", root, "-o", out, "--model", "dmm"), ["unknown model"]),
        (("davis2016", "--root", root, "-o", out, "--preset", "crv"), ["did you mean crw"]),
        (("davis2016", "--root", root, "-o", tmp_path / "file"), ["is a file"]),
        (("davis2016", "--root", root, "-o", tmp_path / "file/below"), ["cannot write"]),
    ):
        refused(run(*words), *messages)
    assert tree(tmp_path) == {**held, "file": b"mine"} and not out.exists()
    model = matchcut.load_model()
    with pytest.raises(ModelError, match="load the model by its name"):
        matchcut.evaluate("davis2016", root, out, model=model, processes=2)
    assert not out.exists()


def test_a_folder_without_write_permission(run, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    if os.access(tmp_path / "out", os.W_OK):
        pytest.skip("this user may write everywhere (root)")
    refused(run("davis2016", "--root", davis(tmp_path / "davis"), "-o", tmp_path / "out"), "cannot write")


def damaged(root):
    """A benchmark with four faults, and what is said of each."""
    davis(root, (("ant", 3), ("bee", 3), ("cat", 3)))
    (root / "Annotations/480p/ant/00001.png").unlink()
    image(root / "JPEGImages/480p/bee/00002.jpg", 2, (32, 48))
    for index in range(3):
        mask(root / "Annotations/480p/cat" / f"{index:05d}.png", np.zeros(SIZE))
    path = root / "Annotations/480p/bee/00001.png"
    path.write_bytes(path.read_bytes()[:60])
    return "its ground truth is missing", "is 48x32", "cat: no mask holds an object", "bee/00001.png: cannot be read"


@pytest.mark.parametrize("check", [False, True])
def test_all_that_is_wrong_with_a_benchmark_is_said_at_once(run, tmp_path, check):
    words = damaged(tmp_path / "davis")
    options = ("--check",) if check else ("-o", tmp_path / "out")
    result = run("davis2016", "--root", tmp_path / "davis", *options, fast=False)
    assert result.code == 2 and result.out == "" and "Traceback" not in result.err
    for word in words:
        assert word in result.err
    assert not (tmp_path / "out").exists()


def test_check(run, tmp_path):
    result = run("davis2016-automatic", "--root", davis(tmp_path / "davis"), "--check", fast=False)
    assert result.code == 0 and result.out == "davis2016-automatic: 2 sequences, 9 frames, nothing is wrong\n"
    assert result.err == ""


def test_a_damaged_frame_is_one_line_and_the_rest_can_be_gone_on_with(run, tmp_path):
    root, out = davis(tmp_path / "davis"), tmp_path / "out"
    path = root / "JPEGImages/480p/bus/00002.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    result = run("davis2016", "--root", root, "-o", out)
    assert result.code == 2 and result.err.splitlines()[-1].startswith(f"matchcut: {path}: cannot be read")
    path.write_bytes(whole)
    (out / "runs/bus.json").unlink()  # of another input
    assert run("davis2016", "--root", root, "-o", out, "--resume").code == 0


def test_a_worker_that_fails_says_why(tmp_path):
    root = davis(tmp_path / "davis")
    path = root / "JPEGImages/480p/bus/00002.jpg"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(MatchcutError, match=r"00002.jpg: cannot be read"):
        matchcut.evaluate("davis2016", root, tmp_path / "out", processes=2, **FAST)

"""The command as users type it: what it writes, how it goes on after a kill, and one line for any bad input."""

import errno
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from matchcut import files
from matchcut.cli import shared as cli_shared
from matchcut.errors import OutputError
from matchcut.manifest import MANIFEST
from matchcut.masks import davis_palette, read_mask, write_mask
from matchcut.tracking.timeline import Timeline
from matchcut.video.reader import Video

COUNT, SIZE = 12, (64, 96)
FAST = ("--size", "48", "--device", "cpu")


def picture(index, size=SIZE):
    """A red and a blue square that walk over grey noise: (frame, labels)."""
    frame = np.random.default_rng(0).integers(90, 130, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.uint8)
    across = index % 30
    for number, (x, y), colour in ((1, (4 + 2 * across, 6), (220, 40, 40)), (2, (66 - 2 * across, 36), (40, 60, 230))):
        frame[y : y + 22, x : x + 22] = colour
        labels[y : y + 22, x : x + 22] = number
    return frame, labels


def film(path, count=COUNT, codec="ffv1", pixels="bgr0"):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
        stream.codec_context.gop_size = 4
        for index in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index)[0], format="rgb24")))
        file.mux(stream.encode())
    return path


def y4m(count=COUNT):
    """The video as `ffmpeg -f yuv4mpegpipe` writes it."""
    data = f"YUV4MPEG2 W{SIZE[1]} H{SIZE[0]} F25:1 Ip A1:1 C444\n".encode()
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(picture(index)[0], format="rgb24").reformat(format="yuv444p")
        data += b"FRAME\n" + frame.to_ndarray().tobytes()
    return data


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A video file, a folder of its frames, masks of its first frame."""
    root = tmp_path_factory.mktemp("inputs")
    film(root / "walk.mkv")
    (root / "frames").mkdir()
    for index in range(COUNT):
        Image.fromarray(picture(index)[0]).save(root / "frames" / f"shot_{index}.png")
    write_mask(root / "first.png", picture(0)[1])
    return root


@pytest.fixture
def track(run):
    def call(*words, **options):
        return run("track", *words, *FAST, **options)

    return call


def refused(result, *words, bar=False):
    """Exit status 2 and one line that holds the words; with `bar`, behind what the progress bar showed."""
    assert result.code == 2, result
    lines = result.err.splitlines()[-1 if bar else 0 :]
    assert len(lines) == 1 and lines[0].startswith("matchcut: "), result.err
    assert result.out == ""
    for word in words:
        assert word in lines[0], lines[0]


def tree(folder):
    """Every file below a folder, by its path, but for the list of them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)


FIVE_DIGITS = [f"{index:05d}.png" for index in range(COUNT)]


def assert_follows(folder, ids=(1, 2), stems=FIVE_DIGITS, least=0.35):
    assert names(folder) == sorted(stems)
    for index, name in enumerate(stems):
        found, truth = read_mask(folder / name), picture(index)[1]
        assert found.shape == SIZE and set(np.unique(found)) <= {0, *ids}
        for number in ids:
            a, b = found == number, truth == number
            assert (a & b).sum() / (a | b).sum() > least, (name, number)


# --- what it writes


def test_a_mask_file(track, inputs, tmp_path, precision):
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    result = track(*words, "--precision", precision)
    assert result.code == 0 and "Traceback" not in result.err
    assert f"{COUNT} frames in" in result.out and "frames a second" in result.out
    assert str(tmp_path / "out" / "masks") in result.out and str(tmp_path / "out" / "timeline.json") in result.out
    assert names(tmp_path / "out") == ["masks", "timeline.json"]
    assert_follows(tmp_path / "out" / "masks")
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / "00000.png"), picture(0)[1])
    with Image.open(tmp_path / "out" / "masks" / "00003.png") as image:
        assert image.mode == "P" and image.getpalette()[:9] == davis_palette()[:3].ravel().tolist()
    record = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert record["input"] == str(inputs / "walk.mkv") and record["size"] == list(SIZE)
    assert record["frames"] == COUNT and record["frame_rate"] == 25 and record["objects"] == [1, 2]
    assert (
        record["model"] == "mask-vos" and record["weights"] == "mask-vos-small" and len(record["weights_sha256"]) == 64
    )
    assert record["working_size"] == 48 and record["device"] == "cpu"
    assert record["precision"] == precision
    assert record["annotations"] == [{"frame": 0, "name": "00000", "objects": [1, 2]}]
    assert {"python", "matchcut", "torch", "timm", "av", "numpy"} <= set(record["versions"])
    assert list(record["confidence"]) == [name[:5] for name in FIVE_DIGITS]
    assert all(set(sure) == {"1", "2"} for sure in record["confidence"].values())
    assert record["most_needs_correction"] in record["confidence"]
    assert record["frames_a_second"] > 0 and record["seconds"] > 0 and record["peak_memory_gib"] > 0
    assert {"encode", "match", "write"} <= set(record["seconds_a_stage"])


def test_everything_it_can_write(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = ("--overlay", "--cutout", "png", "--coco")
    result = track(inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out, *words)
    assert result.code == 0
    assert all(str(out / name) in result.out for name in ("overlay.mp4", "cutout", "coco.json"))
    assert names(out) == ["coco.json", "cutout", "masks", "overlay.mp4", "timeline.json"]
    with Video(out / "overlay.mp4") as overlay:
        assert len(overlay) == COUNT and overlay.size == SIZE and overlay.frame_rate == 25
    assert names(out / "cutout") == FIVE_DIGITS
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [name[:5] for name in FIVE_DIGITS]
    for index, name in enumerate(FIVE_DIGITS):
        labels = read_mask(out / "masks" / name)
        with Image.open(out / "cutout" / name) as image:
            assert image.mode == "RGBA"
            cut = np.array(image)
        np.testing.assert_array_equal(cut[..., 3] > 0, labels > 0)
        inner = cut[..., 3] == 255
        np.testing.assert_array_equal(cut[inner][:, :3], picture(index)[0][inner])
        for one in (one for one in coco["annotations"] if one["image_id"] == index + 1):
            mask = coco_masks.decode(one["segmentation"]) > 0
            np.testing.assert_array_equal(mask, labels == one["track_id"])
            x, y, width, height = one["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum() == one["area"]


def test_a_cutout_film(track, inputs, tmp_path):
    out = tmp_path / "out"
    assert track(inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out, "--cutout", "mov").code == 0
    assert names(out) == ["cutout.mov", "masks", "timeline.json"]
    with av.open(str(out / "cutout.mov")) as file:
        frames = [frame.to_ndarray(format="rgba") for frame in file.decode(video=0)]
    assert len(frames) == COUNT
    np.testing.assert_array_equal(frames[0][..., 3] > 128, picture(0)[1] > 0)


def test_boxes_give_an_object_each(track, inputs, tmp_path):
    words = ("--box", "4,6,26,28", "--box", "66,36,88,58")
    assert track(inputs / "walk.mkv", *words, "-o", tmp_path / "out").code == 0
    assert_follows(tmp_path / "out" / "masks")


def test_a_box_of_a_later_frame(track, inputs, tmp_path):
    result = track(inputs / "walk.mkv", "--box", "14,6,36,28", "--frame", "5", "-o", tmp_path / "out")
    assert result.code == 0
    assert_follows(tmp_path / "out" / "masks", (1,))
    assert json.loads((tmp_path / "out" / "timeline.json").read_text())["annotations"][0]["frame"] == 5


def masks_folder(folder, stems):
    """One object is annotated first, the other two frames later, then both."""
    folder.mkdir()
    for index, ids in ((0, [1]), (4, [2]), (9, [1, 2])):
        labels = picture(index)[1]
        write_mask(folder / f"{stems(index)}.png", np.where(np.isin(labels, ids), labels, 0).astype(np.uint8))
    return folder


def test_a_folder_of_masks_for_a_folder_of_frames(track, inputs, tmp_path):
    masks = masks_folder(tmp_path / "given", "shot_{}".format)
    assert track(inputs / "frames", "--masks", masks, "--coco", "-o", tmp_path / "out").code == 0
    out = tmp_path / "out" / "masks"
    stems = [f"shot_{index}.png" for index in range(COUNT)]
    assert names(out) == sorted(stems)
    shown = [set(np.unique(read_mask(out / name)).tolist()) - {0} for name in stems]
    assert shown[:4] == [{1}] * 4 and shown[4] == shown[9] == {1, 2}
    assert all({1} <= one <= {1, 2} for one in shown[4:])
    np.testing.assert_array_equal(read_mask(out / "shot_9.png"), picture(9)[1])
    record = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert [(one["frame"], one["objects"]) for one in record["annotations"]] == [(0, [1]), (4, [2]), (9, [1, 2])]
    assert list(record["confidence"]) == [name[:-4] for name in stems]
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == stems  # the frames' own files


def test_a_glob(track, inputs, tmp_path):
    result = track(inputs / "frames" / "shot_[0-4].png", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    assert result.code == 0
    assert_follows(tmp_path / "out" / "masks", stems=[f"shot_{index}.png" for index in range(5)])


def test_start_end_and_stride_keep_the_original_numbers(track, inputs, tmp_path):
    write_mask(tmp_path / "third.png", picture(3)[1])
    words = ("--start", "3", "--end", "10", "--stride", "3", "--overlay")
    assert track(inputs / "walk.mkv", "--mask", tmp_path / "third.png", "-o", tmp_path / "out", *words).code == 0
    assert names(tmp_path / "out" / "masks") == ["00003.png", "00006.png", "00009.png"]
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / "00003.png"), picture(3)[1])
    with Video(tmp_path / "out" / "overlay.mp4") as overlay:
        assert len(overlay) == 3 and float(overlay.frame_rate) == pytest.approx(25 / 3, rel=0.01)


def test_several_inputs_have_a_folder_each(track, inputs, tmp_path):
    film(tmp_path / "short.mkv", 4)
    words = (inputs / "walk.mkv", tmp_path / "short.mkv", inputs / "frames", "--mask", inputs / "first.png")
    result = track(*words, "-o", tmp_path / "out")
    assert result.code == 0 and names(tmp_path / "out") == ["frames", "short", "walk"]
    assert_follows(tmp_path / "out" / "walk" / "masks")
    assert_follows(tmp_path / "out" / "short" / "masks", stems=FIVE_DIGITS[:4])
    assert result.out.count("frames in") == 3


def test_several_inputs_with_a_box_each(track, inputs, tmp_path):
    film(tmp_path / "short.mkv", 3)
    boxes = ("--box", "4,6,26,28", "--box", "66,36,88,58")
    assert track(inputs / "walk.mkv", tmp_path / "short.mkv", *boxes, "--end", "3", "-o", tmp_path / "out").code == 0
    for name, number in (("walk", 1), ("short", 2)):
        found = read_mask(tmp_path / "out" / name / "masks" / "00000.png")
        assert set(np.unique(found)) == {0, 1}
        a, b = found > 0, picture(0)[1] == number
        assert (a & b).sum() / (a | b).sum() > 0.5
    refused(
        track(inputs / "walk.mkv", tmp_path / "short.mkv", *boxes, *boxes[:2], "-o", tmp_path / "other"),
        "--box was given 3 times for 2 inputs: give one, or one each",
    )


def test_the_closing_lines_name_the_passes_and_the_frame_to_correct(track, inputs, tmp_path):
    words = ("--mask", inputs / "first.png", "--start", "0", "--end", "6", "--overlay")
    result = track(inputs / "walk.mkv", *words, "-o", tmp_path / "out")
    assert result.code == 0
    record = json.loads((tmp_path / "out" / "timeline.json").read_text())
    passes = record["seconds_a_pass"]
    assert list(passes) == ["starting", "tracking", "writing overlay"] and min(passes.values()) >= 0
    assert sum(passes.values()) == pytest.approx(record["seconds"], abs=0.01)
    lines = result.out.splitlines()
    assert lines[0].startswith("6 frames in ") and all(
        f"{name} {spent:.1f} s" in lines[0] for name, spent in passes.items()
    )
    assert "walk: tracking" in result.err and "walk: writing overlay" in result.err
    weakest = record["most_needs_correction"]
    said = "\n".join(lines[-3:])
    assert f"frame {weakest} is the least sure" in said and f"FOLDER/{weakest}.png" in said and "00000.png" in said
    # What is typed after it does what it says.
    (tmp_path / "given").mkdir()
    shutil.copy(tmp_path / "out" / "masks" / "00000.png", tmp_path / "given")
    write_mask(tmp_path / "given" / f"{weakest}.png", picture(int(weakest))[1])
    typed = [word.replace("FOLDER", str(tmp_path / "given")) for word in shlex.split(lines[-1])]
    assert typed[:2] == ["matchcut", "track"]
    again = track(*typed[2:])
    assert again.code == 0 and f"{tmp_path / 'given'}/" in again.out.splitlines()[-2]
    corrected = json.loads((tmp_path / "out-corrected" / "timeline.json").read_text())
    assert corrected["frames"] == 6 and [one["name"] for one in corrected["annotations"]] == ["00000", weakest]


def test_several_inputs_with_a_mask_each(track, inputs, tmp_path):
    film(tmp_path / "short.mkv", 3)
    one = np.where(picture(0)[1] == 2, 2, 0).astype(np.uint8)
    write_mask(tmp_path / "one.png", one)
    masks = ("--mask", inputs / "first.png", "--mask", tmp_path / "one.png")
    assert track(inputs / "walk.mkv", tmp_path / "short.mkv", *masks, "-o", tmp_path / "out").code == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "short" / "masks" / "00000.png"), one)


def test_standard_input_in_a_pipe(inputs, tmp_path):
    words = ["track", "-", "--mask", str(inputs / "first.png"), "-o", str(tmp_path / "out"), "--coco", *FAST]
    done = subprocess.run([sys.executable, "-m", "matchcut.cli", *words], input=y4m(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_follows(tmp_path / "out" / "masks")
    record = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert record["input"] == "-" and record["frames"] == COUNT
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == COUNT


def test_standard_input_with_a_box(track, tmp_path):
    assert track("-", "--box", "4,6,26,28", "-o", tmp_path / "out", stdin=y4m(5)).code == 0
    assert_follows(tmp_path / "out" / "masks", (1,), FIVE_DIGITS[:5])


def test_presets_and_models(track, run, inputs, tmp_path):
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "--end", "4", "--precision", "float32")
    assert track(*words, "--preset", "vfs", "-o", tmp_path / "out").code == 0
    record = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert record["preset"] == "vfs" and record["precision"] == "float32"


def test_a_threshold_reads_an_anti_aliased_mask(track, inputs, tmp_path):
    words = (inputs / "walk.mkv", "--mask", soft_mask(tmp_path / "soft.png"), "--end", "3", "-o", tmp_path / "out")
    refused(track(*words), "--threshold")
    assert track(*words, "--threshold", "0.5").code == 0
    assert set(np.unique(read_mask(tmp_path / "out" / "masks" / "00000.png"))) == {0, 1}


def test_models_are_listed_by_the_names_that_are_typed(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    listed = run("models")
    assert listed.code == 0 and max(map(len, listed.out.splitlines())) <= 40
    assert {"label-propagation", "tf_efficientnet_lite0,", "Apache-2.0", "DAVIS-2016"} <= set(listed.out.split())


def test_stopped_while_libraries_load(track, inputs, tmp_path, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("matchcut.cli.masks.starting", stop)
    result = track(inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    assert result.code == 130 and result.err == "matchcut: stopped\n" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["track", "segment", "evaluate"])
def test_help_shows_options_in_groups(run, command):
    shown = run(command, "--help").out
    groups = [one for one in ("Prompt", "Model", "Range", "Output") if f"─ {one} ─" in shown]
    assert groups == [one for one in ("Prompt", "Model", "Range", "Output") if one != "Prompt" or command == "track"]


# --- going on, and doing again


def command(*words, cli=("-m", "matchcut.cli")):
    return [sys.executable, *cli, "track", *map(str, words), *FAST]


def until(count, folder, process):
    """Wait until a run has written some masks."""
    while process.poll() is None:
        if folder.is_dir() and sum(1 for _ in folder.glob("[0-9]*.png")) >= count:
            return
        time.sleep(0.002)


def comparable(folder):
    """What two runs must agree on: all but the measured times."""
    measured = ("seconds", "seconds_a_pass", "seconds_a_stage", "frames_a_second", "peak_memory_gib")
    held = tree(folder)
    record = json.loads(held.pop("timeline.json"))
    return held, {key: value for key, value in record.items() if key not in measured}


@pytest.mark.parametrize(("at", "threads"), [(0, 2), (49, 1)])
def test_a_killed_run_goes_on_to_the_very_same_files(track, tmp_path, at, threads):
    film(tmp_path / "long.mkv", 50)
    write_mask(tmp_path / "mask.png", picture(at)[1])
    words = (tmp_path / "long.mkv", "--mask", tmp_path / "mask.png", "--frame", at, "--coco", "-o")
    killed = command(*words, tmp_path / "killed", cli=[str(Path(__file__).with_name("slow_cli.py"))])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(killed, stderr=subprocess.DEVNULL, env=environment) as process:
        until(30, tmp_path / "killed" / "masks", process)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    left = sorted((tmp_path / "killed" / "masks").glob("[0-9]*.png"))
    assert 30 <= len(left) < 50 and not (tmp_path / "killed" / "timeline.json").exists()
    assert (tmp_path / "killed" / ".resume.safetensors").exists()
    assert all(read_mask(path).shape == SIZE for path in left)  # what is written is whole
    refused(track(*words, tmp_path / "killed"), "is not empty", "--overwrite", "--resume")
    before = {path.name: path.stat().st_mtime_ns for path in left}
    torch.set_num_threads(threads)
    result = track(*words, tmp_path / "killed", "--resume")
    torch.set_num_threads(1)
    assert result.code == 0
    kept = [name for name in before if (tmp_path / "killed" / "masks" / name).stat().st_mtime_ns == before[name]]
    assert len(kept) >= 24, "it started anew"
    assert track(*words, tmp_path / "unbroken").code == 0
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "unbroken")


def test_an_interrupted_run_of_something_else_is_refused(track, inputs, tmp_path):
    film(tmp_path / "long.mkv", 40)
    out = tmp_path / "out"
    words = (tmp_path / "long.mkv", "--mask", inputs / "first.png", "-o", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_shared.Bar, "update", interrupt_at(30))
        assert track(*words).code != 0
    before = tree(out)
    assert ".resume.safetensors" in before
    write_mask(tmp_path / "other.png", np.where(picture(0)[1] == 1, 1, 0).astype(np.uint8))
    for other in (
        (*words, "--preset", "dino"),
        (*words, "--end", "35"),
        (tmp_path / "long.mkv", "--mask", tmp_path / "other.png", "--frame", "0", "-o", out),
    ):
        refused(track(*other, "--resume"), "interrupted run of another input", "--overwrite", bar=True)
    assert track(*words, "--resume").code == 0
    assert len(names(out / "masks")) == 40


def test_a_refused_run_changes_nothing(track, inputs, tmp_path):
    film(tmp_path / "long.mkv", 40)
    out = tmp_path / "out"
    words = (tmp_path / "long.mkv", "--mask", inputs / "first.png", "-o", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_shared.Bar, "update", interrupt_at(30))
        track(*words)
    before = tree(out)
    refused(track(*words, "--frame", "7", "--resume"), "interrupted run of another", bar=True)
    assert tree(out) == before


def interrupt_at(step):
    def update(self, done, total):
        if done == step:
            raise KeyboardInterrupt

    return update


def test_stopped_by_hand_it_says_how_to_go_on(track, inputs, tmp_path, precision):
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "--precision", precision, "-o", tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_shared.Bar, "update", interrupt_at(5))
        result = track(*words)
    assert result.code == 130 and "Traceback" not in result.err
    assert result.err.splitlines()[-1] == "matchcut: stopped; run the same command with --resume to go on"
    assert not [name for name in tree(tmp_path / "out") if name.rpartition("/")[2].startswith(".0")]
    assert track(*words, "--resume").code == 0
    assert_follows(tmp_path / "out" / "masks")


def test_a_finished_run_has_nothing_to_do(track, inputs, tmp_path):
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    assert track(*words).code == 0
    before = tree(tmp_path / "out")
    result = track(*words, "--resume")
    assert result.code == 0 and "finished" in result.out
    assert tree(tmp_path / "out") == before


def test_a_finished_run_in_which_an_object_enters_has_nothing_to_do(track, inputs, tmp_path):
    words = (inputs / "walk.mkv", "--masks", masks_folder(tmp_path / "given", "{:05d}".format), "-o", tmp_path / "out")
    assert track(*words).code == 0
    before = tree(tmp_path / "out")
    result = track(*words, "--resume")
    assert result.code == 0 and "finished" in result.out
    assert tree(tmp_path / "out") == before


def test_what_is_newly_asked_of_a_finished_run_is_made(track, inputs, tmp_path):
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    assert track(*words).code == 0
    before = tree(tmp_path / "out")
    assert track(*words, "--resume", "--overlay", "--coco").code == 0
    after = tree(tmp_path / "out")
    assert set(after) - set(before) == {"overlay.mp4", "coco.json"}
    record, earlier = (json.loads(one.pop("timeline.json")) for one in (after, before))
    assert before.items() <= after.items()
    assert record["files"] == sorted([*earlier.pop("files"), "overlay.mp4", "coco.json"])
    assert earlier == {key: value for key, value in record.items() if key != "files"}
    assert json.loads(after["coco.json"])["annotations"]


def test_a_finished_run_of_something_else_is_not_gone_on_with(track, inputs, tmp_path):
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    assert track(*words).code == 0
    before = tree(tmp_path / "out")
    refused(track(*words, "--resume", "--end", "5"), "a run of another input", "--overwrite", bar=True)
    assert tree(tmp_path / "out") == before


def test_overwrite_removes_our_own_files_only(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out)
    assert track(*words, "--overlay", "--coco", "--cutout", "png").code == 0
    for stranger in ("notes.txt", "masks/notes.txt", "cutout/notes.txt"):
        (out / stranger).write_text("mine")
    refused(track(*words), "is not empty")
    result = track(*words, "--overwrite", "--start", "6")
    assert result.code == 0
    assert sorted(tree(out)) == [
        *("cutout/notes.txt", *[f"masks/{name}" for name in FIVE_DIGITS[6:]]),
        *("masks/notes.txt", "notes.txt", "timeline.json"),
    ]


# --- nothing of the user's is lost


@pytest.fixture
def project(inputs, tmp_path):
    """Frames, a mask made by hand for each, and a file of the name of one of ours."""
    root = tmp_path / "project"
    shutil.copytree(inputs / "frames", root / "frames")
    (root / "masks").mkdir()
    for index in range(COUNT):
        write_mask(root / "masks" / f"shot_{index}.png", picture(index)[1])
    (root / "coco.json").write_text("mine")
    return root


@pytest.mark.parametrize("option", [None, "--overwrite", "--resume"])
def test_a_project_is_not_written_over(track, inputs, project, tmp_path, option):
    options = [option] if option else []
    (tmp_path / "link").symlink_to(project, target_is_directory=True)
    before = tree(project)
    for mask, out in (
        (project / "masks/shot_0.png", project),
        (project / "masks/shot_0.png", tmp_path / "link"),
        (tmp_path / "link/masks/shot_0.png", project / "frames/.."),
    ):
        refused(track(project / "frames", "--mask", mask, "-o", out, *options), "masks/shot_0.png", "which is read")
    masks = ("--masks", project / "masks", "-o", project)
    refused(track(project / "frames", *masks, *options), "which is read", "another folder")
    inside = ("--mask", inputs / "first.png", "-o", project / "frames")
    refused(track(project / "frames", *inside, *options), "would lie in", "frames, which is read")
    words = (project / "frames", "--mask", inputs / "first.png", "-o", project, *options)  # nothing of it is read
    refused(track(*words), "is in the way" if option else "is not empty")
    assert tree(project) == before


def test_saving_from_python_writes_over_nothing_either(inputs, project):
    timeline = Timeline(Video(project / "frames"))
    timeline.annotate(0, picture(0)[1])
    before = tree(project)
    with pytest.raises(OutputError, match=r"shot_0\.png: is in the way"):
        timeline.save(project)
    for folder in (project / "frames", project / "frames/../frames"):
        with pytest.raises(OutputError, match="which is read"):
            Timeline(timeline.video, folder)
    video = shutil.copy(inputs / "walk.mkv", project / "walk.mp4")
    with pytest.raises(OutputError, match="would lie on"):
        Timeline(Video(video)).save_video(project / "frames/../walk.mp4")
    assert tree(project).items() >= before.items()
    (project / "new").mkdir()
    timeline.save(project / "new")
    timeline.annotate(0, np.where(picture(0)[1] == 1, 1, 0).astype(np.uint8))
    timeline.save(project / "new")  # what was saved before is replaced
    assert set(np.unique(read_mask(project / "new/masks/shot_0.png"))) == {0, 1}


def test_a_mask_mended_by_hand_is_not_removed(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out)
    assert track(*words).code == 0
    write_mask(out / "masks/00003.png", picture(4)[1])
    before = tree(out)
    refused(track(*words, "--overwrite"), "masks/00003.png: is in the way", "changed since", "move it")
    result = track(*words, "--resume")
    assert result.code == 0 and "finished" in result.out and tree(out) == before
    (out / "masks/00005.png").unlink()  # to make it anew, those before it would be written again
    refused(track(*words, "--resume"), "masks/00003.png: is in the way")


def test_a_folder_of_an_older_version_is_refused(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out)
    assert track(*words).code == 0
    (out / MANIFEST).unlink()
    before = tree(out)
    refused(track(*words, "--overwrite"), "is in the way", "of an older version", "another folder")
    assert tree(out) == before


def test_frames_beside_which_something_changes_are_the_same_input(track, inputs, tmp_path):
    frames = tmp_path / "frames"
    shutil.copytree(inputs / "frames", frames)
    words = (frames, "--mask", inputs / "first.png", "-o", frames / "out")
    assert track(*words).code == 0
    (frames / ".DS_Store").write_bytes(b"Bud1")
    (frames / "notes.txt").write_text("mine")
    result = track(*words, "--resume")
    assert result.code == 0 and "finished" in result.out
    Image.fromarray(picture(3)[0]).save(frames / "shot_2.png")
    refused(track(*words, "--resume"), "a run of another input")


def test_a_damaged_record_is_one_line(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out)
    assert track(*words, "--end", "3").code == 0
    for content, said in (("", "is empty"), ("{", "cannot be read"), ("[]", "is no record"), ("null", "is no record")):
        (out / "timeline.json").write_text(content)
        refused(track(*words, "--end", "3", "--resume"), f"timeline.json: {said}", "remove it, and --resume")
    (out / "timeline.json").unlink()
    assert track(*words, "--end", "3", "--resume").code == 0
    (out / "timeline.json").write_text("")  # as a power cut leaves it: nothing in it is anybody's
    assert track(*words, "--end", "3", "--overwrite").code == 0


def test_a_damaged_mask_is_named_and_made_anew(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out, "--coco")
    assert track(*words).code == 0
    before = comparable(out)
    data = (out / "masks/00007.png").read_bytes()
    (out / "masks/00003.png").write_bytes(b"")
    (out / "masks/00007.png").write_bytes(data[: len(data) // 2])
    (out / "masks/00009.png").unlink()
    result = track(*words, "--resume")
    assert result.code == 0 and "finished" not in result.out
    assert [line.split()[1:4:2] for line in result.out.splitlines() if "anew" in line] == [
        [str(out / "masks" / name), how]
        for name, how in (("00003.png", "damaged;"), ("00007.png", "damaged;"), ("00009.png", "gone;"))
    ]
    assert comparable(out) == before


def test_damage_in_an_interrupted_run_is_made_good(track, inputs, tmp_path):
    film(tmp_path / "long.mkv", 40)
    words = (tmp_path / "long.mkv", "--mask", inputs / "first.png")
    assert track(*words, "-o", tmp_path / "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_shared.Bar, "update", interrupt_at(30))
        track(*words, "-o", tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "other")
    for out, checkpoint in ((tmp_path / "out", None), (tmp_path / "other", b"odd")):
        (out / "masks/00005.png").write_bytes(b"")
        (out / "masks/00027.png").write_bytes(b"odd")
        if checkpoint:
            (out / ".resume.safetensors").write_bytes(checkpoint)
        result = track(*words, "-o", out, "--resume")
        assert result.code == 0 and result.out.count("was damaged; it was made anew") == 2
        assert tree(out / "masks") == tree(tmp_path / "whole/masks")


def test_a_run_stopped_while_the_overlay_is_made_need_not_track_again(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out, "--overlay", "--cutout", "png")
    with pytest.MonkeyPatch.context() as patch:

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr("matchcut.tracking.outputs.cutout", stop)
        assert track(*words).code == 130
    assert names(out) == ["cutout", "masks", "timeline.json"]
    result = track(*words, "--resume")
    assert result.code == 0 and "finished" in result.out and len(names(out / "cutout")) == COUNT
    assert {"overlay.mp4", "cutout/00003.png"} <= set(json.loads((out / "timeline.json").read_text())["files"])


def test_what_a_stream_would_write_over_is_said(track, inputs, tmp_path):
    out = tmp_path / "out"
    words = ("-", "--mask", inputs / "first.png", "-o", out)
    assert track(*words, stdin=y4m(5)).code == 0
    assert len(json.loads((out / "timeline.json").read_text())["files"]) == 6
    result = track(*words, stdin=y4m(3))
    refused(result, "is not empty", "--overwrite replaces", bar=True)
    assert "--resume" not in result.err
    assert track(*words, "--overwrite", stdin=y4m(3)).code == 0 and len(names(out / "masks")) == 3
    write_mask(out / "masks/00004.png", picture(4)[1])
    refused(track(*words, "--overwrite", stdin=y4m(5)), "masks/00004.png: is in the way", bar=True)
    assert len(names(out / "masks")) == 4


def test_frames_with_the_longest_names(track, inputs, tmp_path):
    stem = "f" * 250
    (tmp_path / "long").mkdir()
    for index in range(2):
        shutil.copy(inputs / f"frames/shot_{index}.png", tmp_path / "long" / f"{stem}{index}.png")
    words = (tmp_path / "long", "--mask", inputs / "first.png", "-o", tmp_path / "out", "--cutout", "png")
    assert track(*words).code == 0
    for place in ("masks", "cutout"):
        assert names(tmp_path / "out" / place) == [f"{stem}{index}.png" for index in range(2)]


# --- bad input


def soft_mask(path):
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    edge = np.clip(20.5 - np.hypot(yy - 32, xx - 48), 0, 1)
    Image.fromarray((edge * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def bad(inputs, tmp_path):
    """A folder with all that is wrong."""
    root = tmp_path / "bad"
    root.mkdir()
    (root / "text.mp4").write_text("not a video " * 99)
    (root / "empty.mp4").write_bytes(b"")
    (root / "nothing").mkdir()
    (root / "mixed").mkdir()
    Image.fromarray(picture(0)[0]).save(root / "mixed" / "a.png")
    Image.fromarray(picture(0)[0][:40]).save(root / "mixed" / "b.png")
    for name in ("linked", "stacked"):
        (root / name).mkdir()
        Image.fromarray(picture(0)[0]).save(root / name / "0.png")
    (root / "linked" / "1.png").symlink_to(root / "gone.png")
    pages = [Image.fromarray(picture(index)[0]) for index in range(2)]
    pages[0].save(root / "stacked" / "1.tif", save_all=True, append_images=pages[1:])
    write_mask(root / "small.png", picture(0)[1][:40].copy())
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "none.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(root / "photo.png")
    many = np.zeros((*SIZE, 3), np.uint8)
    numbers = np.arange(16 * 24).reshape(16, 24).repeat(4, 0).repeat(4, 1)
    many[..., 0], many[..., 1], many[..., 2] = numbers // 256 * 9, numbers % 256, 200
    Image.fromarray(many).save(root / "many.png")
    Image.fromarray(numbers.astype(np.uint16)).save(root / "high.png")
    soft_mask(root / "soft.png")
    (root / "strangers").mkdir()
    write_mask(root / "strangers" / "00000.png", picture(0)[1])
    write_mask(root / "strangers" / "first.png", picture(0)[1])
    (root / "unlike").mkdir()
    write_mask(root / "unlike" / "00000.png", picture(0)[1])
    write_mask(root / "unlike" / "00003.png", picture(0)[1][:40].copy())
    (root / "background").mkdir()
    write_mask(root / "background" / "00000.png", picture(0)[1] * 0)
    (root / "file").write_text("")
    return root


CLIP, MASK, BAD = "{inputs}/walk.mkv", ("--mask", "{inputs}/first.png"), "{bad}"
WRONG = {
    "missing video": ((f"{BAD}/no.mp4", *MASK), ("no.mp4: no such file or folder",)),
    "empty glob": ((f"{BAD}/*.jpg", *MASK), ("matches no image",)),
    "not a video": ((f"{BAD}/text.mp4", *MASK), ("text.mp4", "does not decode as a video")),
    "empty file": ((f"{BAD}/empty.mp4", *MASK), ("empty.mp4: is an empty file",)),
    "empty folder": ((f"{BAD}/nothing", *MASK), ("no images in this folder",)),
    "mixed sizes": ((f"{BAD}/mixed", *MASK), ("frames differ in size", "96x64", "96x40")),
    "link that leads nowhere": ((f"{BAD}/linked", *MASK), ("1.png: is a link that leads nowhere", "gone.png")),
    "stack among frames": ((f"{BAD}/stacked", *MASK), ("1.tif: holds 2 pictures",)),
    "start behind the end": ((CLIP, *MASK, "--start", "12"), ("has 12 frames; 12 to the end selects none",)),
    "missing mask": ((CLIP, "--mask", f"{BAD}/no.png"), ("no.png", "No such file")),
    "missing folder of masks": ((CLIP, "--masks", f"{BAD}/no"), ("No such file",)),
    "mask of another size": ((CLIP, "--mask", f"{BAD}/small.png"), ("small.png", "96x40 but the frames are 96x64")),
    "mask without object": ((CLIP, "--mask", f"{BAD}/none.png"), ("none.png", "no object")),
    "anti-aliased mask": ((CLIP, "--mask", f"{BAD}/soft.png"), ("soft.png", "anti-aliased", "--threshold")),
    "photo as mask": ((CLIP, "--mask", f"{BAD}/photo.png"), ("photo.png", "not a label map", "--threshold")),
    "too many colours": ((CLIP, "--mask", f"{BAD}/many.png"), ("many.png", "384 colours", "254")),
    "too high ids": ((CLIP, "--mask", f"{BAD}/high.png"), ("high.png", "383", "254")),
    "text as mask": ((CLIP, "--mask", f"{BAD}/text.mp4"), ("not an image",)),
    "stranger's mask": ((CLIP, "--masks", f"{BAD}/strangers"), ("first.png: no frame has this name", "00000 to 00011")),
    "empty folder of masks": ((CLIP, "--masks", f"{BAD}/nothing"), ("holds no masks", "00000.png")),
    "folder with a small mask": (
        (CLIP, "--masks", f"{BAD}/unlike"),
        ("unlike/00003", "96x40 but the frames are 96x64"),
    ),
    "folder without object": ((CLIP, "--masks", f"{BAD}/background"), ("no object",)),
    "frame outside": ((CLIP, *MASK, "--frame", "12"), ("frame 12 is not in the video", "0 to 11")),
    "box outside": ((CLIP, "--box", "0,0,97,20"), ("box 0,0,97,20 reaches outside the frame of 96x64",)),
    "box before the frame": ((CLIP, "--box=-4,0,20,20"), ("reaches outside",)),
    "empty box": ((CLIP, "--box", "20,20,20,40"), ("box 20,20,20,40 is empty",)),
    "box of three numbers": ((CLIP, "--box", "1,2,3"), ("--box 1,2,3: expected left,top,right,bottom",)),
    "box of words": ((CLIP, "--box", "left,top,right,bottom"), ("expected left,top,right,bottom",)),
    "second box outside": ((CLIP, "--box", "4,6,26,28", "--box", "0,0,9,65"), ("0,0,9,65",)),
    "no prompt": ((CLIP,), ("--mask FILE", "--masks FOLDER", "--box")),
    "mask and box": ((CLIP, *MASK, "--box", "1,2,30,40"), ("give one of --mask",)),
    "mask and masks": ((CLIP, *MASK, "--masks", f"{BAD}/strangers"), ("give one of --mask",)),
    "masks for other inputs": ((CLIP, *MASK, *MASK), ("--mask was given 2 times for 1 input",)),
    "one name twice": ((CLIP, CLIP, *MASK), ("two inputs are named walk",)),
    "unknown model": ((CLIP, *MASK, "--model", "label-propagatoin"), ("did you mean label-propagation",)),
    "unknown preset": ((CLIP, *MASK, "--preset", "dinoo"), ("unknown preset 'dinoo'", "dino")),
    "unknown backbone": ((CLIP, *MASK, "--backbone", "resnet5O"), ("resnet5O", "resnet50")),
    "unknown device": ((CLIP, *MASK, "--device", "toaster"), ("device 'toaster' cannot be used here",)),
    "unknown precision": ((CLIP, *MASK, "--precision", "half"), ("unknown precision 'half'", "bfloat16")),
    "empty model": ((CLIP, *MASK, "--model", ""), ("an empty word after --model", "variable of the shell")),
    "empty mask": ((CLIP, "--mask", ""), ("an empty word after --mask",)),
    "empty input": (("", *MASK), ("an empty word after track",)),
    "empty value": ((CLIP, "--mask="), ("nothing after --mask=",)),
    "huge size": ((CLIP, *MASK, "--size", "1000000000"), ("size: expected", "got 1000000000")),
    "two ways": ((CLIP, *MASK, "--overwrite", "--resume"), ("--overwrite and --resume contradict each other",)),
    "no model of this kind": ((CLIP, *MASK, "--model", "transport-net"), ("TransportNet needs no prompt",)),
    "no weights": (
        (CLIP, *MASK, "--weights", f"{BAD}/text.mp4"),
        ("text.mp4: cannot be read as weights", "safetensors"),
    ),
    "no weights of a backbone": (
        (CLIP, *MASK, "--backbone", "resnet18", "--weights", f"{BAD}/text.mp4"),
        ("text.mp4 is no file of weights", ".safetensors", ".pth"),
    ),
    "unknown tag": ((CLIP, *MASK, "--backbone", "resnet18.none"), ("unknown backbone 'resnet18.none'", "a1_in1k")),
    "folder as weights": ((CLIP, *MASK, "--weights", f"{BAD}/nothing"), ("nothing: is a folder",)),
    "unknown cut-out": ((CLIP, *MASK, "--cutout", "gif"), ("--cutout gif", "png", "mov")),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_is_one_line_and_leaves_nothing(run, inputs, bad, tmp_path, what):
    words, said = WRONG[what]
    words = [word.format(inputs=inputs, bad=bad) for word in words]
    device = () if "--device" in words else ("--device", "cpu")
    refused(run("track", *words, *device, "-o", tmp_path / "out"), *said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("box", ["nan,0,9,9", "0,0,inf,9"])
def test_a_box_of_no_numbers_is_one_line(track, inputs, tmp_path, box):
    refused(track(inputs / "walk.mkv", "--box", box, "-o", tmp_path / "out"), "box")


@pytest.mark.parametrize("count", [255, 256])
def test_more_boxes_than_ids_are_one_line(track, inputs, tmp_path, count):
    boxes = [
        word for at in range(count) for word in ("--box", f"{at % 90},{at // 90 * 8},{at % 90 + 3},{at // 90 * 8 + 3}")
    ]
    refused(track(inputs / "walk.mkv", *boxes, "--end", "2", "-o", tmp_path / "out"), "254")


def test_a_device_that_is_not_there(run, inputs, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    words = ("track", inputs / "walk.mkv", "--mask", inputs / "first.png", "--device", "cuda", "-o", tmp_path / "out")
    refused(run(*words), "device 'cuda' cannot be used here")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad_mask", ["small.png", "none.png"])
def test_a_bad_prompt_for_standard_input_leaves_nothing(track, bad, tmp_path, bad_mask):
    refused(track("-", "--mask", bad / bad_mask, "-o", tmp_path / "out", stdin=y4m(2)), bad_mask)
    assert not (tmp_path / "out").exists()


def test_a_later_frame_of_standard_input_is_refused(track, inputs, tmp_path):
    words = ("-", "--mask", inputs / "first.png", "--frame", "3", "-o", tmp_path / "out")
    refused(track(*words, stdin=y4m(5)), "frame")


@pytest.mark.parametrize("data", [b"", b"no video at all", y4m(1)[:40]])
def test_standard_input_that_is_no_video(track, inputs, tmp_path, data):
    refused(track("-", "--mask", inputs / "first.png", "-o", tmp_path / "out", stdin=data), "standard input")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_masks_for_standard_input(track, bad, tmp_path):
    result = track("-", "--masks", bad / "strangers", "-o", tmp_path / "out", stdin=y4m(2))
    refused(result, "stream", bar=True)


def test_a_bad_second_input_is_said_before_the_first_is_tracked(track, inputs, bad, tmp_path):
    film(tmp_path / "second.mkv", 3)
    masks = ("--mask", inputs / "first.png", "--mask", bad / "small.png")
    refused(track(inputs / "walk.mkv", tmp_path / "second.mkv", *masks, "-o", tmp_path / "out"), "small.png")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_video_that_ends_early(track, inputs, tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    with av.open(str(whole), "w", options={"movflags": "faststart"} if suffix == "mp4" else {}) as file:
        stream = file.add_stream("libx264" if suffix == "mp4" else "ffv1", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p" if suffix == "mp4" else "bgr0"
        for index in range(COUNT):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index)[0], format="rgb24")))
        file.mux(stream.encode())
    cut = tmp_path / f"cut.{suffix}"
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 19 // 20])
    words = (cut, "--mask", inputs / "first.png", "-o", tmp_path / "out")
    result = track(*words)
    refused(result, f"cut.{suffix}: the video ended after ", " of ", "--allow-truncated")
    assert not (tmp_path / "out").exists()
    there = int(result.err.split("ended after ")[1].split()[0])
    assert 0 < there < COUNT
    if suffix == "mp4":
        assert f"{there} of {COUNT} frames" in result.err
    assert track(*words, "--allow-truncated").code == 0
    masks = names(tmp_path / "out" / "masks")
    assert 0 < len(masks) <= there + 1 and masks == FIVE_DIGITS[: len(masks)]


def test_standard_input_that_breaks_off(track, inputs, tmp_path):
    data = y4m(6)[:-3000]
    words = ("-", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    result = track(*words, stdin=data)
    assert result.code in (0, 2) and "Traceback" not in result.err
    assert all(read_mask(path).shape == SIZE for path in (tmp_path / "out" / "masks").iterdir())


# --- folders that cannot be written to


def test_a_folder_that_holds_something(track, inputs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    refused(track(*words), "is not empty (it holds thesis.txt)", "--overwrite", "--resume")
    assert names(tmp_path / "out") == ["thesis.txt"]


@pytest.mark.parametrize("below", [(), ("below",), ("far", "below")])
def test_a_folder_that_cannot_be_made(track, inputs, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    out = tmp_path.joinpath("file", *below)
    refused(
        track(inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", out), str(out), "file" if not below else ""
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_write_permission(track, inputs, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    if os.access(tmp_path / "out", os.W_OK):
        pytest.skip("this user may write everywhere (root)")
    refused(track(inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out"), "cannot write")


def test_no_space_left_while_masks_are_written(track, inputs, tmp_path):
    """The system call that makes a file fails after a while."""
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    make, left = files._new_file, [6]

    def full(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return make(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_new_file", full)
        result = track(*words)
    assert result.code == 2 and "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("matchcut: no space left on the device while writing ")
    left_there = names(tmp_path / "out" / "masks")
    assert left_there and all(read_mask(tmp_path / "out" / "masks" / name).shape == SIZE for name in left_there)
    assert track(*words, "--resume").code == 0
    assert_follows(tmp_path / "out" / "masks")


def on_a_small_disk(disk, size, *words):
    """Run the command where `disk` has room for `size` only; skips where users may not mount one."""
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs tmpfs {disk}"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a user may not mount a small disk here")
    mount = f'mount -t tmpfs -o size={size} tmpfs {disk} && "$@"; code=$?; find {disk} -name ".*.png"; exit $code'
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", *command(*words)], capture_output=True, text=True, check=False
    )


def test_a_disk_that_runs_full(inputs, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    words = (inputs / "walk.mkv", "--mask", inputs / "first.png", "-o", disk / "out")
    done = on_a_small_disk(disk, "32k", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("matchcut: no space left on the device while writing ")
    assert done.stdout == ""  # no temporary file was left


def test_a_disk_that_runs_full_at_a_checkpoint(inputs, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    film(tmp_path / "long.mkv", 40)
    words = (tmp_path / "long.mkv", "--mask", inputs / "first.png", "-o", disk / "out")
    page = os.sysconf("SC_PAGE_SIZE")
    done = on_a_small_disk(disk, 26 * page, *words)  # room for the masks 0 to 25, and the checkpoint comes behind them
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("matchcut: no space left on the device while writing ")


# --- terminals


def environment(**more):
    return {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **more}


def test_any_path_can_be_said_in_any_encoding(inputs, tmp_path):
    out = tmp_path / "视频" / "出"
    out.parent.mkdir()
    shutil.copy(inputs / "walk.mkv", out.parent / "剪辑.mkv")
    words = command(out.parent / "剪辑.mkv", "--mask", inputs / "first.png", "-o", out, "--end", "2")
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=environment(PYTHONIOENCODING="cp1252"),
        encoding="cp1252",
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "\\u51fa" in done.stdout and "\\u526a\\u8f91: tracking" in done.stderr
    assert names(out / "masks") == FIVE_DIGITS[:2]


def test_a_name_of_any_bytes_can_be_said(run, tmp_path):
    result = run("track", os.fsdecode(bytes(tmp_path / "\udcff.mp4")), "--mask", "none.png", "-o", tmp_path / "out")
    refused(result, r"\udcff.mp4: no such file")


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        ("reader gone", ("models",)),
        ("reader gone", ("track", "--help")),
        ("no output", ("track", "--help")),
        ("nothing open", ("track", "--help")),
    ],
)
def test_output_that_nobody_reads_is_no_error(closed, words):
    shell = {"reader gone": '"$@" | head -c 1; exit ${PIPESTATUS[0]}', "no output": '"$@" >&-'}
    script = shell.get(closed, '"$@" >&- 2>&- <&-')
    done = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-m", "matchcut.cli", *words],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == b""


def test_a_run_goes_on_when_nobody_reads_its_lines(inputs, tmp_path):
    film(tmp_path / "short.mkv", 2)
    words = command(inputs / "walk.mkv", tmp_path / "short.mkv", "--mask", inputs / "first.png", "-o", tmp_path / "out")
    with subprocess.Popen([*words, "--end", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdout.close()
    assert process.returncode == 0
    assert [names(tmp_path / "out" / name / "masks") for name in ("short", "walk")] == [FIVE_DIGITS[:2]] * 2


def test_output_that_cannot_be_written_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "matchcut.cli", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2 and done.stderr.startswith("matchcut: standard output cannot be written to (")
    assert len(done.stderr.splitlines()) == 1


def test_who_watches_is_told_that_it_starts_and_a_refusal_is_one_line(project):
    """The first before the libraries are loaded; the second whatever still loads in the background as it ends."""
    words = command(project / "frames", "--mask", project / "masks/shot_0.png", "-o", project)
    ours, theirs = os.openpty()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, check=False)
    os.close(theirs)
    said = os.read(ours, 4096).decode().splitlines()
    os.close(ours)
    assert done.returncode == 2 and done.stdout == b""
    assert said[0] == "matchcut: starting" and len(said) == 2 and said[1].startswith("matchcut: "), said


# --- usage


@pytest.mark.parametrize(
    "words",
    [
        ("track",),
        ("track", "clip.mp4"),
        ("track", "clip.mp4", "-o", "out", "--size", "none"),
        ("track", "clip.mp4", "-o", "out", "--size", "8"),
        ("track", "clip.mp4", "-o", "out", "--stride", "0"),
        ("track", "clip.mp4", "-o", "out", "--frame", "-1"),
        ("track", "clip.mp4", "-o", "out", "--no-such-option"),
        ("trakc",),
    ],
)
def test_usage_errors_exit_with_2(run, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.code == 2 and "Traceback" not in result.err and names(tmp_path) == []


def test_help_says_what_there_is(run):
    for words in (("--help",), ("track", "-h")):
        result = run(*words)
        assert result.code == 0 and "track" in result.out and result.err == ""


def test_help_loads_no_torch():
    check = "import sys; sys.argv = ['matchcut', '--help']\nfrom matchcut import cli\n"
    check += "try: cli.main()\nexcept SystemExit: pass\n"
    check += "assert not {'torch', 'av', 'cv2', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- reproduce


@pytest.mark.parametrize("words", [("dmm-net", "figure-9"), ("dmmnet", "figure-5")])
def test_reproduce_lists_what_there_is(run, tmp_path, words):
    result = run("reproduce", *words, "-o", tmp_path / "out")
    refused(result, f"reproduce {' '.join(words)}: unknown", "dmm-net: figure-5", "transport-net: table-1")
    assert not (tmp_path / "out").exists()


def test_reproduce_says_what_has_no_precision_and_which_there_are(run, tmp_path):
    words = ("reproduce", "dmm-net", "figure-5", "-o", tmp_path / "out", "--precision", "float32")
    refused(run(*words), "takes no --precision")
    words = ("reproduce", "mask-vos", "figure-s5", "-o", tmp_path / "out", "--root", tmp_path, "--precision", "half")
    refused(run(*words), "unknown precision 'half'")
    assert not (tmp_path / "out").exists()


def test_reproduce_writes_a_picture_and_a_table(run, tmp_path):
    result = run("reproduce", "transport-net", "sinkhorn", "-o", tmp_path / "out")
    assert result.code == 0 and names(tmp_path / "out") == ["sinkhorn.csv", "sinkhorn.png"]
    assert str(tmp_path / "out" / "sinkhorn.png") in result.out
    assert run("reproduce", "transport-net", "sinkhorn", "-o", tmp_path / "out").code == 0  # in place of the first
    (tmp_path / "out" / "sinkhorn.csv").write_text("mine")
    refused(run("reproduce", "transport-net", "sinkhorn", "-o", tmp_path / "out"), "sinkhorn.csv: is in the way")


# --- train


RECIPE = """
objective = "mask-vos"
epochs = 1
batch_size = 1
workers = 0
data = { length = 2, size = [32, 32], side = 64 }
optimiser = { rates = { backbone = 0, key = 0 } }
settings = { start = "scratch", terms = ["masks"], pasted = 1.0 }
"""


def test_train_writes_weights_that_track_uses(run, inputs, tmp_path, precision):
    (tmp_path / "recipe.toml").write_text(RECIPE + f'precision = "{precision}"\n')
    words = ("train", tmp_path / "recipe.toml", "--data", inputs / "frames", "-o", tmp_path / "run", "--device", "cpu")
    result = run(*words)
    weights = tmp_path / "run" / "weights.safetensors"
    assert result.code == 0 and "1 epochs of 1 steps" in result.out and f"weights   {weights}" in result.out
    refused(run(*words), "is not empty", "--overwrite", "--resume")
    assert run(*words, "--resume").code == 0
    asked = ("--mask", inputs / "first.png", "-o", tmp_path / "out", "--model", "mask-vos", *FAST)
    assert run("track", inputs / "walk.mkv", *asked, "--weights", weights, "--precision", precision).code == 0
    record = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert (record["model"], record["weights"]) == ("mask-vos", "weights.safetensors")
    assert record["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert names(tmp_path / "out" / "masks") == FIVE_DIGITS


def test_train_refuses_what_it_cannot_use(run, inputs, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("epochs", "epoch"))
    words = ("-o", tmp_path / "run", "--device", "cpu", "--data")
    refused(run("train", tmp_path / "recipe.toml", *words, inputs), "unknown key 'epoch'; did you mean epochs?")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    refused(run("train", tmp_path / "recipe.toml", *words, tmp_path / "none"), "none: no such folder")
    refused(run("train", tmp_path / "nothing.toml", *words, inputs), "nothing.toml: cannot be read as a recipe")


def test_settings_of_label_propagation_are_refused_for_mask_vos(run, inputs, tmp_path):
    words = ("--mask", inputs / "first.png", "-o", tmp_path / "out", "--model", "mask-vos", "--preset", "crw")
    refused(run("track", inputs / "walk.mkv", *words), "mask-vos: preset, backbone, stages and stride")
    assert not (tmp_path / "out").exists()

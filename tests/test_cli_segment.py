"""`matchcut segment` as users type it: what it writes, what it says of a video, and one line for bad input."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from matchcut.cli import shared as cli_shared
from matchcut.masks import read_mask
from matchcut.video.flow import write_flow
from matchcut.video.writer import VideoWriter, write_png

SIZE, COUNT = (96, 160), 6
FAST = ("--device", "cpu", "--size", "128")


def ground(seed, size=SIZE):
    noise = np.random.default_rng(seed).integers(0, 255, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def frames(step=5, seed=0, size=SIZE, count=COUNT):
    """A textured disc that moves over texture."""
    y, x = np.mgrid[: size[0], : size[1]]
    made = []
    for index in range(count):
        frame, inside = ground(seed, size), np.hypot(y - 48, x - 50 - step * index) < 24
        frame[inside] = np.roll(ground(seed + 7, size), step * index, 1)[inside]
        made.append(frame)
    return made


def film(path, pictures):
    with VideoWriter(path, frame_rate=10) as writer:
        for one in pictures:
            writer.write(one)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "walk.mp4"
    film(path, frames())
    return path


@pytest.fixture
def segment(run):
    def call(*words):
        result = run("segment", *words)
        return result.code, result.out, result.err

    return call


def record(folder):
    return json.loads((folder / "timeline.json").read_text())


def test_masks_a_record_and_all_else_it_can_write(segment, clip, tmp_path, precision):
    out = tmp_path / "out"
    code, said, _ = segment(clip, "-o", out, *FAST, "--overlay", "--cutout", "png", "--coco", "--precision", precision)
    assert code == 0 and "frames a second" in said and "overlay" in said
    masks = sorted(path.name for path in (out / "masks").iterdir())
    assert masks == [f"{index:05d}.png" for index in range(COUNT)]
    shown = [read_mask(out / "masks" / name) for name in masks]
    assert all(one.shape == SIZE and set(np.unique(one)) <= {0, 1} for one in shown)
    about = record(out)
    assert about["model"] == "transport-net" and len(about["confidence"]) == COUNT and about["flow"] == "dis_flow"
    assert about["objects"] == [1] and about["annotations"] == []
    assert about["weights_sha256"] and about["notes"] == {}
    assert (out / "overlay.mp4").exists() and (out / "coco.json").exists()
    assert len(list((out / "cutout").iterdir())) == COUNT
    assert not (out / ".resume.jsonl").exists()


def test_a_still_video_is_said_to_be_one(segment, tmp_path):
    for index in range(3):
        write_png(tmp_path / f"{index}.png", ground(0))
    code, said, _ = segment(tmp_path, "-o", tmp_path / "out", *FAST)
    assert code == 0 and "nothing moves in this video" in said
    assert record(tmp_path / "out")["notes"]["still"] == ["0", "1", "2"]
    assert all(sure["1"] <= 0.5 for sure in record(tmp_path / "out")["confidence"].values())


def test_one_frame(segment, tmp_path):
    write_png(tmp_path / "only.png", ground(0))
    code, said, _ = segment(tmp_path / "only.png", "-o", tmp_path / "out", *FAST)
    assert code == 0 and "a single frame shows no motion" in said and (tmp_path / "out" / "masks" / "only.png").exists()


def test_cuts_are_said(segment, tmp_path):
    film(tmp_path / "two.mp4", [*frames(), *(one // 4 for one in frames(seed=3))])
    code, said, _ = segment(tmp_path / "two.mp4", "-o", tmp_path / "out", *FAST)
    assert code == 0 and "2 scenes: cuts before 00006" in said
    assert record(tmp_path / "out")["notes"]["cut"] == ["00006"]


def test_precomputed_flow_with_a_gap(segment, clip, tmp_path):
    (tmp_path / "flow").mkdir()
    for index in (0, 1, 2, 4):  # of the last frame there is none to the next, which nobody needs to be told
        write_flow(tmp_path / "flow" / f"{index:05d}.flo", np.zeros((*SIZE, 2), np.float32))
    code, said, _ = segment(clip, "-o", tmp_path / "out", *FAST, "--flow", tmp_path / "flow")
    assert code == 0 and "1 frames had no precomputed flow (00003)" in said
    assert record(tmp_path / "out")["notes"]["flow"] == ["00003"]


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_by_hand_it_goes_on_to_the_same_files(segment, clip, tmp_path, monkeypatch, request, threads):
    assert segment(clip, "-o", tmp_path / "whole", *FAST)[0] == 0
    if threads == 2:
        request.getfixturevalue("two_threads")

    def interrupt(self, done, total):
        if done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli_shared.Bar, "update", interrupt)
        code, _, said = segment(clip, "-o", tmp_path / "out", *FAST)
    assert code == 130 and "--resume" in said
    code, _, said = segment(clip, "-o", tmp_path / "out", *FAST)
    assert code == 2 and "not empty" in said
    assert segment(clip, "-o", tmp_path / "out", *FAST, "--resume")[0] == 0
    for path in (tmp_path / "whole" / "masks").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "masks" / path.name).read_bytes()
    assert record(tmp_path / "out")["confidence"] == record(tmp_path / "whole")["confidence"]
    code, said, _ = segment(clip, "-o", tmp_path / "out", *FAST, "--resume", "--overlay")
    assert code == 0 and "holds this run, finished" in said and (tmp_path / "out" / "overlay.mp4").exists()
    code, _, said = segment(clip, "-o", tmp_path / "out", "--device", "cpu", "--size", "96", "--resume")
    assert code == 2 and "another input" in said


def test_a_damaged_mask_of_an_interrupted_run_is_named_and_made_anew(segment, clip, tmp_path, monkeypatch):
    assert segment(clip, "-o", tmp_path / "whole", *FAST)[0] == 0

    def interrupt(self, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli_shared.Bar, "update", interrupt)
        assert segment(clip, "-o", tmp_path / "out", *FAST)[0] == 130
    (tmp_path / "out" / "masks" / "00001.png").write_bytes(b"")
    code, said, _ = segment(clip, "-o", tmp_path / "out", *FAST, "--resume")
    assert code == 0 and f"{tmp_path / 'out' / 'masks' / '00001.png'} was damaged; it was made anew" in said
    for path in (tmp_path / "whole" / "masks").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "masks" / path.name).read_bytes()
    assert record(tmp_path / "out")["confidence"] == record(tmp_path / "whole")["confidence"]


@pytest.mark.parametrize("how", [(), ("--track",)])
def test_masks_of_the_users_are_not_written_over(segment, clip, tmp_path, how):
    mine = tmp_path / "out" / "masks" / "00002.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for option in ("--overwrite", "--resume"):
        code, said, error = segment(clip, "-o", tmp_path / "out", *FAST, option, *how)
        assert code == 2 and said == "" and f"{mine}: is in the way" in error
    for index in range(COUNT):
        write_flow(mine.with_name(f"{index:05d}.npz"), np.zeros((*SIZE, 2), np.float32))
    mine.unlink()
    flow = ("--flow", mine.parent)
    code, said, error = segment(clip, "-o", tmp_path / "out", *FAST, "--overwrite", *flow, *how)
    assert code == 2 and "masks, which is read" in error
    assert len(list(mine.parent.iterdir())) == COUNT and not (tmp_path / "out" / "timeline.json").exists()


@pytest.mark.parametrize(("how", "precision"), [("--track", "bfloat16"), ("--objects", "float32")])
def test_what_was_found_is_tracked(segment, clip, tmp_path, how, precision):
    code, _, error = segment(clip, "-o", tmp_path / "out", *FAST, how, "--precision", precision)
    if code == 2:  # the small network may find nothing in made-up pictures, and says so
        assert "nothing was found that could be tracked" in error
        return
    about = record(tmp_path / "out")
    assert code == 0 and about["handed_on"] and about["annotations"] and len(about["confidence"]) == COUNT
    assert len(list((tmp_path / "out" / "masks").iterdir())) == COUNT


@pytest.mark.parametrize(
    "words, message",
    [
        (("--flow", "pwc"), "unknown optical flow 'pwc'"),
        (("--flow", "raft-small", "--flow-weights", "none.pth"), "raft-small"),
        (("--model", "mask-vos"), "track with it"),
        (("--model", "transportnet"), "did you mean transport-net"),
        (("--weights", "none.safetensors"), "none.safetensors"),
        (("--cutout", "gif"), 'expected "png" or "mov"'),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(segment, clip, tmp_path, words, message):
    code, said, error = segment(clip, "-o", tmp_path / "out", *words)
    assert code == 2 and said == "" and len(error.splitlines()) == 1
    assert error.startswith("matchcut: ") and message in error
    assert not (tmp_path / "out").exists()


def test_two_frame_sizes_are_refused(segment, tmp_path):
    for index, size in enumerate(((64, 96), (64, 97))):
        Image.fromarray(ground(0, (64, 96))).resize(size[::-1]).save(tmp_path / f"{index}.png")
    code, _, error = segment(tmp_path, "-o", tmp_path / "out")
    assert code == 2 and "differ in size" in error


def test_raft_runs_from_a_local_file(tmp_path):
    import torch
    from torchvision.models.optical_flow import raft_small

    from matchcut.models.raft import Raft

    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    flow = Raft("raft-small", tmp_path / "raft.pth")(*frames(count=2))
    assert flow.shape == (*SIZE, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()

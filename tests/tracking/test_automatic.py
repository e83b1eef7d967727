"""A video segmented with no prompt: motion across frames, cuts, stillness, flow from disk, and runs that go on."""

from contextlib import nullcontext

import cv2
import numpy as np
import pytest
import torch

from matchcut.errors import ModelError, OutputError, VideoError
from matchcut.flow.fields import write_flow
from matchcut.flow.source import FlowSource, with_motion
from matchcut.masks import object_ids
from matchcut.models.base import AutomaticModel, ModelSpec
from matchcut.models.catalogue import AUTOMATIC
from matchcut.tracking import automatic
from matchcut.tracking.annotations import Provenance
from matchcut.tracking.automatic import Segmenter, overlap_confidence
from matchcut.tracking.instances import confident_frames, pieces, split
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.reader import Video
from matchcut.video.writer import write_png
from matchcut.weights.store import load_model

SIZE, COUNT = (96, 128), 8


class Saturation(AutomaticModel):
    """What is coloured in the picture of the flow moves."""

    def __init__(self, camera=True):
        self.spec = ModelSpec(size=96, multiple=32, camera=camera)

    def segment(self, frame):
        flow = frame.side["flow"]
        return torch.nn.functional.avg_pool2d(((1 - flow.min(1, keepdim=True).values) > 0.4).float(), 4)


def ground(seed, size=SIZE, light=1.0):
    noise = np.random.default_rng(seed).integers(0, 255, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return (cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC) * light).astype(np.uint8)


def walk(folder, count=COUNT, step=4, size=SIZE, seed=0, first=0, light=1.0):
    """A textured square that walks over texture; its masks."""
    folder.mkdir(parents=True, exist_ok=True)
    square, masks = ground(seed + 50, (40, 40)), []
    for index in range(count):
        frame, x = ground(seed, size, light), 8 + step * index
        frame[30:70, x : x + 40] = square
        mask = np.zeros(size, np.uint8)
        mask[30:70, x : x + 40] = 1
        write_png(folder / f"{first + index:05d}.png", frame)
        masks.append(mask)
    return masks


def iou(labels, truth):
    return ((labels > 0) & (truth > 0)).sum() / ((labels > 0) | (truth > 0)).sum()


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every second frame."""
    monkeypatch.setattr(automatic, "EVERY", 2)


def stop_at(step):
    def progress(done, total):
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_what_moves_is_found_in_every_frame(tmp_path):
    masks = walk(tmp_path / "v")
    timeline, kept = Timeline(Video(tmp_path / "v")), {}
    segmenter = Segmenter(Saturation(), device="cpu", precision="float32")
    done = []
    keep = lambda index, soft: kept.update({index: soft})  # noqa: E731
    segmenter.fill(timeline, lambda at, total: done.append((at, total)), keep=keep)
    assert done == [(index, COUNT) for index in range(1, COUNT + 1)]
    assert all(iou(timeline.labels(index), masks[index]) > 0.3 for index in range(COUNT))  # the last by flow backwards
    assert all(0 < timeline.confidence[index][1] <= 1 for index in range(COUNT))
    assert timeline.notes == {}
    assert set(kept) == set(range(COUNT)) and kept[0].shape == SIZE and kept[0].max() <= 1


def test_frames_of_any_size_and_of_one(tmp_path):
    walk(tmp_path / "odd", 3, size=(75, 131))
    timeline = Timeline(Video(tmp_path / "odd"))
    segmenter = Segmenter(Saturation(), device="cpu")
    segmenter.fill(timeline)
    assert all(timeline.labels(index).shape == (75, 131) for index in range(3))
    walk(tmp_path / "one", 1)
    timeline = Timeline(Video(tmp_path / "one"))
    segmenter.fill(timeline)
    assert timeline.noted("still") == [0] and not timeline.labels(0).any()


def test_a_still_video_is_known_for_one_and_nothing_is_sure(tmp_path):
    walk(tmp_path / "v", 4, step=0)

    class Bright(Saturation):
        def segment(self, frame):
            return torch.full((1, 1, 24, 32), 0.9)

    timeline, segmenter = Timeline(Video(tmp_path / "v")), Segmenter(Bright(), device="cpu")
    segmenter.fill(timeline)
    assert timeline.noted("still") == [0, 1, 2, 3]
    assert all(timeline.confidence[index][1] <= 0.5 for index in range(4))


def test_motion_is_not_taken_across_a_cut(tmp_path):
    walk(tmp_path / "v", 4, light=0.3)
    walk(tmp_path / "v", 4, seed=9, first=4)
    asked = []

    def compute(first, second):
        asked.append(float(abs(first.astype(float) - second).mean()))
        return np.zeros((*first.shape[:2], 2), np.float32)

    timeline = Timeline(Video(tmp_path / "v"))
    segmenter = Segmenter(Saturation(), device="cpu", flow=FlowSource(compute))
    segmenter.fill(timeline)
    assert timeline.noted("cut") == [4] and len(asked) == 8 and max(asked) < 25


def test_each_frame_leads_to_the_next_and_a_last_one_back():
    frames = [(index, (np.full((40, 40, 3), 20 * index, np.uint8),) * 2) for index in range(4)]
    led = []

    def compute(first, second):
        led.append((int(first[0, 0, 0]) // 20, int(second[0, 0, 0]) // 20))
        return np.zeros((40, 40, 2), np.float32)

    found = list(with_motion(iter(frames), str, FlowSource(compute)))
    assert led == [(0, 1), (1, 2), (2, 3), (3, 2)]
    assert [(index, one.cut) for index, one in found] == [(0, True), (1, False), (2, False), (3, False)]


def test_precomputed_flow_is_taken_and_what_is_missing_is_named(tmp_path):
    walk(tmp_path / "v", 4)
    (tmp_path / "flow").mkdir()
    for index in (0, 1):  # 2 is missing, and of 3, the last, there mostly is none
        flow = np.zeros((*SIZE, 2), np.float32)
        flow[:, :64] = (5, 0)
        write_flow(tmp_path / "flow" / f"{index:05d}.flo", flow)
    segmenter = Segmenter(Saturation(camera=False), device="cpu", flow=FlowSource(folder=tmp_path / "flow"))
    timeline = Timeline(Video(tmp_path / "v"))
    segmenter.fill(timeline)
    assert timeline.noted("flow") == [2]
    assert timeline.labels(0)[:, :60].all() and not timeline.labels(0)[:, 68:].any()
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="holds no optical flow"):
        FlowSource(folder=tmp_path / "empty")
    (tmp_path / "flow" / "00001.flo").write_bytes(b"PIEH")
    with pytest.raises(VideoError, match=r"00001\.flo"):
        segmenter.fill(Timeline(Video(tmp_path / "v")))


def test_flow_is_kept_where_asked_for(tmp_path):
    walk(tmp_path / "v", 4)
    count = []

    def compute(first, second):
        count.append(1)
        return np.full((*first.shape[:2], 2), 2, np.float32)

    for _ in range(2):
        source = FlowSource(compute, cache=tmp_path / "kept")
        Segmenter(Saturation(), device="cpu", flow=source).fill(Timeline(Video(tmp_path / "v")))
    assert len(count) == 4 and len(list((tmp_path / "kept").iterdir())) == 4


def test_kept_flow_is_that_of_the_same_frames_and_method_and_changes_nothing(tmp_path):
    walk(tmp_path / "v", 4)

    class Times:
        def __init__(self, weights):
            self.name, self.weights = "own", weights

        def __call__(self, first, second):
            shade = first.astype(np.float32)[..., :2].mean((0, 1)) / 30 + 0.01234 * self.weights
            return np.broadcast_to(shade, (*first.shape[:2], 2)).astype(np.float32)

    frames = {end: [Video(tmp_path / "v")[at] for at in range(end)] for end in (3, 4)}
    for weights in (1, 2):
        for end in (3, 4):  # the flow of frame 2 leads back where it is the last
            plain, kept = (
                FlowSource(Times(weights)),
                FlowSource(Times(weights), cache=tmp_path / "kept"),
            )
            for _ in range(2):
                for at in range(end):
                    pair = frames[end][at], frames[end][at + 1 if at + 1 < end else at - 1]
                    one, two = (source.of(f"{at:05d}", *pair, camera=False) for source in (plain, kept))
                    np.testing.assert_array_equal(one[0], two[0])
    assert len(list((tmp_path / "kept").iterdir())) == 2 * 5


def test_a_precomputed_flow_that_leads_over_a_cut_is_not_taken(tmp_path):
    walk(tmp_path / "v", 3, light=0.3)
    walk(tmp_path / "v", 3, seed=9, first=3)
    (tmp_path / "flow").mkdir()
    for index in range(6):
        write_flow(tmp_path / "flow" / f"{index:05d}.flo", np.full((*SIZE, 2), index, np.float32))
    asked = []

    def compute(first, second):
        asked.append(1)
        return np.zeros((*first.shape[:2], 2), np.float32)

    source = FlowSource(compute, folder=tmp_path / "flow")
    Segmenter(Saturation(camera=False), device="cpu", flow=source).fill(Timeline(Video(tmp_path / "v")))
    assert len(asked) == 1 and not source.missing  # of frame 2, the last of its scene; the very last has its file


def test_a_run_of_other_settings_is_not_gone_on_with(tmp_path, often):
    (tmp_path / "masks").mkdir()
    walk(tmp_path / "v", 4)
    timeline = Timeline(Video(tmp_path / "v"), tmp_path / "masks", correctable=False)
    with pytest.raises(KeyboardInterrupt):
        Segmenter(Saturation(), device="cpu").fill(timeline, stop_at(3), tmp_path / "checkpoint")
    with pytest.raises(OutputError, match="interrupted run of another input, prompt or setting"):
        Segmenter(Saturation(), device="cpu", size=64).fill(timeline, checkpoint=tmp_path / "checkpoint")


def test_what_the_masks_depend_on_is_in_the_fingerprint():
    found = set()
    network = load_model(AUTOMATIC)
    for model in (network, network.with_settings(blind=True)):
        for weights in ("a", "b"):
            compute = lambda first, second: None  # noqa: E731
            compute.name, compute.weights = "raft-small", weights
            found.add(Segmenter(model, device="cpu", flow=FlowSource(compute)).fingerprint())
    assert len(found) == 4


def test_flow_that_was_missing_is_still_named_after_an_interruption(tmp_path, often):
    (tmp_path / "masks").mkdir()
    walk(tmp_path / "v")
    (tmp_path / "flow").mkdir()
    for index in range(2, COUNT):
        write_flow(tmp_path / "flow" / f"{index:05d}.flo", np.full((*SIZE, 2), 3, np.float32))

    for progress in (stop_at(5), None):
        timeline = Timeline(Video(tmp_path / "v"), tmp_path / "masks", correctable=False)
        segmenter = Segmenter(Saturation(camera=False), device="cpu", flow=FlowSource(folder=tmp_path / "flow"))
        with pytest.raises(KeyboardInterrupt) if progress else nullcontext():
            segmenter.fill(timeline, progress, tmp_path / "checkpoint")
    assert timeline.noted("flow") == [0, 1]


def test_an_interrupted_run_goes_on_with_the_same_masks(tmp_path, often):
    walk(tmp_path / "v")
    whole = Timeline(Video(tmp_path / "v"))
    Segmenter(Saturation(), device="cpu").fill(whole)

    seen, stop = [], stop_at(5)
    for progress in (stop, lambda done, total: seen.append(done)):
        (tmp_path / "masks").mkdir(exist_ok=True)
        timeline = Timeline(Video(tmp_path / "v"), tmp_path / "masks", correctable=False)
        segmenter = Segmenter(Saturation(), device="cpu")
        if progress is stop:
            with pytest.raises(KeyboardInterrupt):
                segmenter.fill(timeline, progress, tmp_path / "checkpoint")
        else:
            segmenter.fill(timeline, progress, tmp_path / "checkpoint")
    assert seen == [1, 2, 3, 4]  # the last checkpoint was after the fourth
    for index in range(COUNT):
        np.testing.assert_array_equal(timeline.labels(index), whole.labels(index))
    assert timeline.confidence == whole.confidence


def test_models_of_the_other_kind_are_refused():
    with pytest.raises(ModelError, match="carries masks that are given"):
        Segmenter(load_model("label-propagation"))
    with pytest.raises(ModelError, match="needs no prompt"):
        Tracker(Saturation())
    with pytest.raises(ModelError, match="whole number of 32 to"):
        Segmenter(Saturation(), size=8)


@pytest.mark.parametrize(
    "segment, said",
    [
        (None, r"Mine is not an automatic model: expected a method segment\(frame\), got none"),
        (lambda self, image, flow: image, r"Mine.segment: expected to be called as segment\(frame\), got: "),
        (
            lambda self, frame: frame.image,
            r"Mine.segment: expected the probability \(1, 1, h, w\).*got a tensor of shape",
        ),
        (lambda self, frame: None, "got None"),
        (lambda self, frame: 9 * frame.side["flow"][:, :1] + 1, r"in \[0, 1\], got .* to 10 \(of logits"),
        (lambda self, frame: frame.side["flow"][:, :1] * torch.nan, "got nan to nan"),
    ],
)
def test_a_model_that_does_not_keep_the_contract_is_said(tmp_path, segment, said):
    walk(tmp_path / "v", 2)
    mine = type("Mine", (Saturation,), {"segment": segment})()
    with pytest.raises(ModelError, match=said):
        Segmenter(mine, device="cpu").fill(Timeline(Video(tmp_path / "v")))


def test_confidence_is_the_overlap_with_the_mask():
    assert overlap_confidence(np.zeros((4, 4), np.float32)) == 0
    sharp = np.zeros((4, 4), np.float32)
    sharp[1:3] = 1
    assert overlap_confidence(sharp) == 1
    assert overlap_confidence(np.where(sharp > 0, 0.8, 0.2).astype(np.float32)) == pytest.approx(6.4 / (8 + 1.6))


# --- what is handed to the guided tracker


def test_the_surest_frame_of_each_stretch_and_scene():
    sure = {index: 0.5 + 0.001 * index for index in range(100)}
    assert confident_frames(sure, 100) == [49, 99]
    assert confident_frames(sure, 100, [90]) == [44, 89, 99]
    assert confident_frames(dict.fromkeys(range(5), 0.0), 5) == []
    assert confident_frames({0: 0.9, 1: 0.2}, 2) == [0]


def test_pieces_of_a_region():
    labels = np.zeros((40, 60), np.uint8)
    labels[5:25, 5:25], labels[5:15, 40:55], labels[27:29, 6:8] = 1, 1, 1
    found = pieces(labels)
    assert found[10, 10] == 1 and found[8, 45] == 2 and found[28, 7] == 1  # a crumb is of its neighbour
    assert ((found > 0) == (labels > 0)).all()


def test_many_pieces_of_one_size_are_one_object():
    labels = np.zeros((100, 100), np.uint8)
    for at in range(25):
        y, x = divmod(at, 5)
        labels[20 * y : 20 * y + 10, 20 * x : 20 * x + 10] = 1
    np.testing.assert_array_equal(pieces(labels), labels)
    assert not pieces(np.zeros((4, 4), np.uint8)).any()


def test_what_stays_apart_is_two_objects_and_what_touches_is_one(tmp_path):
    """Two squares: in one video they walk apart, in the other they lie one upon the other but in a single frame."""
    for name, gaps in (("apart", (30,) * 6), ("together", (0, 0, 0, 20, 0, 0))):
        colours = ground(50, (30, 30)), ground(51, (30, 30), 0.6)
        masks = []
        for index, gap in enumerate(gaps):
            frame, mask = np.full((*SIZE, 3), 128, np.uint8), np.zeros(SIZE, np.uint8)
            for colour, x in zip(colours, (10 + index, 40 + gap + index), strict=True):
                frame[30:60, x : x + 30], mask[30:60, x : x + 30] = colour, 1
            (tmp_path / name).mkdir(exist_ok=True)
            write_png(tmp_path / name / f"{index:05d}.png", frame)
            masks.append(mask)
        video = Video(tmp_path / name)
        timeline = Timeline(video)
        for index, mask in enumerate(masks):
            timeline.put(index, mask, {1: 0.9}, Provenance("by hand"))
        tracker = Tracker(load_model("label-propagation"), device="cpu", size=192)
        frame, labels = split(timeline, [3], tracker)
        assert frame == 3 and object_ids(labels) == ([1, 2] if name == "apart" else [1])
        assert ((labels > 0) == (masks[3] > 0)).all()

"""The functions that most users call, with the real model on small real files."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import matchcut
from matchcut.api import annotations_of
from matchcut.errors import MaskError, MatchcutError, ModelError, PromptError, VideoError
from matchcut.masks import read_mask, write_mask
from matchcut.models.base import MemoryPolicy

COUNT, SIZE = 8, (64, 96)


def picture(index, size=SIZE):
    """A red and a blue square that walk over grey noise: (frame, labels)."""
    frame = np.random.default_rng(0).integers(90, 130, (*size, 3), dtype=np.uint8)
    labels = np.zeros(size, np.uint8)
    for number, (x, y), colour in ((1, (4 + 2 * index, 6), (220, 40, 40)), (2, (60 - 2 * index, 36), (40, 60, 230))):
        frame[y : y + 22, x : x + 22] = colour
        labels[y : y + 22, x : x + 22] = number
    return frame, labels


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A folder of frames f0.png, f1.png, ..."""
    folder = tmp_path_factory.mktemp("frames") / "walk"
    folder.mkdir()
    for index in range(COUNT):
        Image.fromarray(picture(index)[0]).save(folder / f"f{index}.png")
    return folder


def track(*args, **options):
    return matchcut.track(*args, size=64, device="cpu", **options)


def assert_follows(timeline, ids=(1, 2), least=0.4):
    for index in range(COUNT):
        found, truth = timeline.labels(index), picture(index)[1]
        for number in ids:
            a, b = found == number, truth == number
            assert (a & b).sum() / (a | b).sum() > least, (index, number)


def test_a_mask_in_every_form_gives_the_same_masks(frames, tmp_path):
    labels = picture(0)[1]
    write_mask(tmp_path / "first.png", labels)
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks" / "f0.png", labels)
    expected = list(track(frames, labels))
    assert_follows(track(matchcut.Video(frames), str(tmp_path / "first.png")))
    for mask in (tmp_path / "first.png", tmp_path / "masks", {0: labels}):
        for one, other in zip(track(str(frames), mask), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_boxes_give_an_object_each(frames):
    timeline = track(frames, boxes=[(4, 6, 26, 28), (60.2, 36, 82, 58.3)])
    assert timeline.objects() == [1, 2]
    assert_follows(timeline)


def test_a_folder_of_masks_brings_objects_in_later(frames, tmp_path):
    for index, number in ((0, 1), (3, 2)):
        labels = picture(index)[1]
        write_mask(tmp_path / f"f{index}.png", np.where(labels == number, labels, 0).astype(np.uint8))
    timeline = track(frames, tmp_path)
    assert timeline.annotated == [0, 3] and timeline.objects() == [1, 2] and timeline.annotations.entering == {3}
    assert not any((timeline.labels(index) == 2).any() for index in range(3))
    assert (timeline.labels(3) == 1).any() and (timeline.labels(7) == 2).any()


def test_masks_of_a_folder_in_any_picture_files_with_one_table_of_colours(frames, tmp_path):
    colours = np.array([(0, 0, 0), (250, 50, 83), (61, 61, 245)], np.uint8)
    for name, ids in (("f0.PNG", [1, 2]), ("f3.tiff", [1]), ("f7.webp", [1, 2])):
        labels = picture(int(name[1]))[1]
        image = Image.fromarray(colours[np.where(np.isin(labels, ids), labels, 0)])
        image.save(tmp_path / name, **({"lossless": True} if name == "f7.webp" else {}))
    for name in ("Thumbs.db", "._f1.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"of some system")
    (tmp_path / "@eaDir").mkdir()
    given = annotations_of(matchcut.Video(frames), tmp_path)
    assert list(given) == [0, 3, 7]
    number = int(given[3].max())
    for index, labels in given.items():
        np.testing.assert_array_equal(labels == number, picture(index)[1] == 1)
    (tmp_path / "f3.png").write_bytes((tmp_path / "f0.PNG").read_bytes())
    with pytest.raises(MaskError, match=r"a second mask of this frame beside f3\."):
        annotations_of(matchcut.Video(frames), tmp_path)


def test_progress_and_a_loaded_model(frames):
    steps = []
    model = matchcut.load_model(preset="dino")
    timeline = track(frames, picture(0)[1], model=model, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, COUNT - 1) for done in range(1, COUNT)]
    assert timeline.stale() == []


@pytest.mark.parametrize("preset", ["crw", "dino", "vfs", "mask-vos"])
def test_each_preset_follows(frames, preset):
    assert_follows(track(frames, picture(0)[1], preset=preset), least=0.25)


def test_stream_and_fill_agree_with_the_real_model_and_so_do_stages_side_by_side(frames, request):
    video, labels = matchcut.Video(frames), picture(0)[1]
    tracker = matchcut.Tracker(matchcut.load_model(), size=64, device="cpu")
    streamed, filled = [one for _, one in tracker.stream(iter(video), {0: labels})], track(video, labels)
    request.getfixturevalue("two_threads")
    for one, other, beside in zip(streamed, filled, track(video, labels), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, beside)


def test_what_cannot_be_tracked_is_said(frames, tmp_path):
    labels = picture(0)[1]
    for arguments, options, kind, message in (
        ((frames,), {}, PromptError, "give either a mask or boxes"),
        ((frames, labels), {"boxes": [(0, 0, 9, 9)]}, PromptError, "give either a mask or boxes"),
        ((tmp_path / "no.mp4", labels), {}, VideoError, "no such file"),
        ((frames, tmp_path / "no.png"), {}, MaskError, "No such file"),
        ((frames, labels[:9].copy()), {}, MaskError, "96x9 but the frames are 96x64"),
        ((frames, labels * 0), {}, MaskError, "no object"),
        ((frames, {0: labels[:9]}), {}, MaskError, "the mask for frame 0: the mask is 96x9"),
        ((frames, labels / 7), {}, MaskError, "the mask: expected a label map"),
        ((frames, {"g0": labels}), {}, PromptError, "no frame is named 'g0'; they are named f0 to f7"),
        ((frames, {0: labels, "f0": labels}), {}, PromptError, "frame 0 has two masks"),
        ((frames,), {"boxes": (1, 2, 3)}, PromptError, "boxes: expected .left, top, right, bottom."),
        ((3, labels), {}, VideoError, "a video of type int"),
        ((np.zeros((2, 64, 96, 3)), labels), {}, VideoError, "frame 0: expected RGB .H, W, 3., uint8, got an array"),
        ((frames,), {"boxes": [(0, 0, 97, 9)]}, PromptError, "reaches outside"),
        ((frames, labels), {"model": "label-propagatoin"}, ModelError, "did you mean label-propagation"),
        ((frames, labels), {"preset": "dyno"}, ModelError, "did you mean dino"),
        ((frames, labels), {"precision": "half"}, ModelError, "unknown precision"),
        ((frames, tmp_path), {}, MaskError, "holds no masks: expected PNGs named after their frames, as f0.png"),
    ):
        with pytest.raises(kind, match=message):
            track(*arguments, **options)


def test_no_annotation_at_all_is_said(frames):
    with pytest.raises(MatchcutError):
        track(frames, {})


@pytest.mark.parametrize(
    "form",
    [
        lambda files, stack: [str(one) for one in files],
        lambda files, stack: files,
        lambda files, stack: stack,
        lambda files, stack: list(stack),
        lambda files, stack: torch.from_numpy(stack),
        lambda files, stack: torch.from_numpy(stack).permute(0, 3, 1, 2),
        lambda files, stack: [Image.fromarray(one) for one in stack],
    ],
    ids=["names", "paths", "array", "arrays", "tensor", "tensor, channels first", "PIL"],
)
def test_frames_in_every_form_give_the_same_masks(frames, form):
    files = sorted(frames.iterdir())[:2]
    stack = np.stack([picture(index)[0] for index in range(2)])
    expected = list(track(matchcut.Video(frames, end=2), picture(0)[1]))
    for one, other in zip(track(form(files, stack), picture(0)[1]), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_masks_by_the_names_of_frames(frames, tmp_path):
    write_mask(tmp_path / "five.png", picture(5)[1])
    masks = {"f0": torch.from_numpy(picture(0)[1]), np.int64(3): picture(3)[1] > 0, "f5.png": tmp_path / "five.png"}
    given = annotations_of(matchcut.Video(frames), masks)
    assert list(given) == [0, 3, 5]
    for index in (0, 5):
        np.testing.assert_array_equal(given[index], picture(index)[1])
    np.testing.assert_array_equal(given[3], picture(3)[1] > 0)


def test_settings_that_make_no_sense_are_said(frames):
    labels, guided, automatic = (
        picture(0)[1],
        matchcut.load_model("label-propagation"),
        matchcut.load_model("transport-net"),
    )
    for options, message in (
        ({"model": object()}, "object is not a guided model"),
        ({"model": guided, "preset": "crw"}, "preset: of a model that is loaded by its name"),
        ({"model": guided, "preset": "no-such"}, "preset: of a model that is loaded by its name"),
        ({"model": automatic}, "TransportNet needs no prompt"),
        ({"model": "transport-net"}, "TransportNet needs no prompt"),
        ({"model": "mask-vos", "preset": "crw"}, "mask-vos: preset, .* come with its weights"),
    ):
        with pytest.raises(ModelError, match=message):
            track(frames, labels, **options)
    for options, kind, message in (
        ({"model": guided}, ModelError, "LabelPropagation carries masks that are given"),
        ({"after": "tracks"}, PromptError, "after: expected 'track', 'objects' or None, got 'tracks'"),
    ):
        with pytest.raises(kind, match=message):
            matchcut.segment(frames, device="cpu", **options)


def test_one_box_needs_no_list(frames):
    assert track(frames, boxes=(4, 6, 26, 28)).objects() == [1]


def test_boxes_may_be_an_array(frames):
    assert track(frames, boxes=np.array([(4, 6, 26, 28), (60, 36, 82, 58)])).objects() == [1, 2]


def test_a_mask_for_a_frame_that_is_not_there_is_said(frames):
    with pytest.raises(MatchcutError, match="99"):
        track(frames, {99: picture(0)[1]})


def test_annotations_of(frames, tmp_path):
    video, labels = matchcut.Video(frames), picture(0)[1]
    assert list(annotations_of(video, labels, frame=3)) == [3]
    for frame in (COUNT, -1):
        with pytest.raises(PromptError, match=f"frame {frame} is not in the video, which has frames 0 to {COUNT - 1}"):
            annotations_of(video, labels, frame=frame)
    write_mask(tmp_path / "f2.png", labels)
    write_mask(tmp_path / "f5.png", labels * 0)
    assert list(annotations_of(video, tmp_path)) == [2, 5]
    write_mask(tmp_path / "first.png", labels)
    with pytest.raises(
        MaskError, match=r"first\.png: no frame has this name \(1 such masks\); frames are named f0 to f7"
    ):
        annotations_of(video, tmp_path)


def test_saved_results_read_back(frames, tmp_path):
    timeline = track(frames, picture(0)[1])
    timeline.save(tmp_path)
    timeline.save_video(tmp_path / "overlay.mp4")
    assert sorted(path.stem for path in (tmp_path / "masks").iterdir()) == [f"f{index}" for index in range(COUNT)]
    np.testing.assert_array_equal(read_mask(tmp_path / "masks" / "f4.png"), timeline.labels(4))
    assert len(matchcut.Video(tmp_path / "overlay.mp4")) == COUNT


@settings(max_examples=25)
@given(st.data())
def test_any_small_video_can_be_tracked(tmp_path_factory, data):
    """Random frames, masks and settings: no crash, no id that nobody gave, full size, the prompt kept."""
    height, width, count = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    folder = tmp_path_factory.mktemp("random")
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    ids = data.draw(st.lists(st.integers(1, 254), min_size=1, max_size=4, unique=True))
    with_ignore = data.draw(st.booleans())
    labels = rng.choice(np.array([0, *ids, *([255] if with_ignore else [])], np.uint8), (height, width))
    labels[0, 0] = ids[0]
    at = data.draw(st.integers(0, count - 1))
    model = matchcut.load_model("label-propagation").with_settings(
        policy=MemoryPolicy(
            data.draw(st.integers(0, 3)),
            data.draw(st.integers(1, 3)),
            data.draw(st.sampled_from(["after", "from", "repeat"])),
        ),
        radius=data.draw(st.sampled_from([None, 1, 2.5, 12])),
        annotated_radius=data.draw(st.sampled_from([None, 1, 12])),
        window=data.draw(st.sampled_from(["disc", "square"])),
        top_k=data.draw(st.integers(1, 40)),
        shrink=data.draw(st.sampled_from(["area", "bilinear", "nearest"])),
        enlarge=data.draw(st.sampled_from(["linear", "cubic"])),
        stretch=data.draw(st.booleans()),
    )
    timeline = matchcut.track(folder, {at: labels}, model=model, size=32, device="cpu")
    np.testing.assert_array_equal(timeline.labels(at), labels)
    for frame, found in enumerate(timeline):
        assert found.shape == (height, width) and found.dtype == np.uint8
        assert frame == at or set(np.unique(found).tolist()) <= {0, *ids}
        assert all(0 <= value <= 1 for value in timeline.confidence[frame].values())

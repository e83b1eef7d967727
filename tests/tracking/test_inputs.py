"""What people pass for frames, masks and boxes: taken where it is plain, described where it is not."""

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import ColourModel, film, low, right

from matchcut.errors import MatchcutError, PromptError, VideoError
from matchcut.tracking.inputs import as_boxes, as_frame_index
from matchcut.tracking.tracker import Tracker
from matchcut.video.reader import Video

COUNT = 6


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of two squares, and its true label maps."""
    path, truth = film(tmp_path_factory.mktemp("clip") / "clip.mkv", COUNT, {1: right, 2: low})
    with Video(path) as video:
        yield video, truth


@pytest.mark.parametrize(
    "form",
    [
        lambda one: one[..., ::-1].copy()[..., ::-1],  # BGR to RGB, as OpenCV users have it
        lambda one: one[:, ::-1].copy()[:, ::-1],
        torch.from_numpy,
        lambda one: torch.from_numpy(one).permute(2, 0, 1),
        Image.fromarray,
        lambda one: np.frombuffer(one.tobytes(), np.uint8).reshape(one.shape),  # read-only
    ],
    ids=["BGR", "mirrored", "tensor", "tensor, channels first", "PIL", "read-only"],
)
@pytest.mark.filterwarnings("error")
def test_a_stream_takes_frames_and_masks_in_any_plain_form(clip, form):
    video, truth = clip
    first = np.where(truth[0] == 1, truth[0], 0).astype(np.uint8)
    expected = list(Tracker(ColourModel(), device="cpu").stream(iter(video), {0: first}))
    mask = 255 * first
    found = list(Tracker(ColourModel(), device="cpu").stream((form(one) for one in video), {np.int64(0): mask}))
    assert [index for index, _ in found] == list(range(COUNT))
    for (_, labels), (_, one) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(labels, one)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda one: one / 255, r"float64, 0.* give \(255 \* frame\)"),
        (lambda one: one[..., 0], r"shape \(48, 64\).*COLOR_GRAY2RGB"),
        (lambda one: np.dstack([one, one[..., :1]]), r"shape \(48, 64, 4\).*frame\[..., :3\]"),
        (lambda one: "00002.png", "got str '00002.png'"),
        (lambda one: None, "got NoneType None"),
        (lambda one: one[:40], "is 64x40 but those before it are 64x48"),
    ],
)
def test_a_stream_says_what_is_no_frame(clip, spoil, said):
    video, truth = clip
    frames = (spoil(one) if index == 2 else one for index, one in enumerate(video))
    with pytest.raises(VideoError, match=rf"^frame 2\b.*{said}"):
        list(Tracker(ColourModel(), device="cpu").stream(frames, {0: truth[0]}))


@pytest.mark.parametrize("annotations", [{"00000": None}, {0.0: None}, None, 3])
def test_a_stream_says_what_are_no_annotations(clip, annotations):
    with pytest.raises(PromptError, match=r"expected .* got"):
        list(Tracker(ColourModel(), device="cpu").stream(iter(clip[0]), annotations))


def test_what_a_stream_yields_may_be_drawn_on(clip):
    video, truth = clip
    expected = list(Tracker(ColourModel(), device="cpu").stream(iter(video), {0: truth[0], 4: truth[4]}))
    drawn = Tracker(ColourModel(), device="cpu").stream(iter(video), {0: truth[0], 4: truth[4]})
    for (_, labels), (_, one) in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(labels, one)
        labels[:] = 9


@pytest.mark.parametrize(
    "given",
    [
        (1, 2, 30, 40),
        [(1, 2, 30, 40)],
        np.array([1, 2, 30, 40]),
        np.array([[1, 2, 30, 40]]),
        torch.tensor([1, 2, 30, 40]),
    ],
)
def test_boxes_in_any_plain_form(given):
    assert as_boxes(given) == [(1, 2, 30, 40)]


@pytest.mark.parametrize("given", [None, (), [], np.zeros((0, 4)), np.zeros(0)])
def test_no_boxes(given):
    assert as_boxes(given) == []


@pytest.mark.parametrize(
    "given", ["1,2,3,4", [1, 2, 3], [(1, 2, 3)], [(1, 2, 3, 4), (1, 2)], 5, {1: (1, 2, 3, 4)}, "abcd"]
)
def test_what_are_no_boxes(given):
    with pytest.raises(
        PromptError, match=r"boxes: expected \(left, top, right, bottom\) in pixels, one an object, got "
    ):
        as_boxes(given)


@pytest.mark.parametrize("key", [3, np.int32(3), torch.tensor(3), "00003", "00003.png"])
def test_a_frame_by_its_number_or_name(clip, key):
    assert as_frame_index(key, clip[0]) == 3


@pytest.mark.parametrize("key", [COUNT, -1, 3.0, True, None, "3", "00006", (3,)])
def test_what_is_no_frame_of_the_video(clip, key):
    with pytest.raises(
        MatchcutError, match=r"00000 to 00005|0 to 5|expected a frame's number from 0, or its name, got"
    ):
        as_frame_index(key, clip[0])

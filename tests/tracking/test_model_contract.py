"""Models that do not keep the contract: one line with the class, the method, what is expected and what was got."""

from types import SimpleNamespace

import pytest
import torch
from scenes import ColourModel, Kept, film, low, right

from matchcut.errors import ModelError
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.video.reader import Video

COUNT = 6


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of two squares, and its true label maps."""
    path, truth = film(tmp_path_factory.mktemp("clip") / "clip.mkv", COUNT, {1: right, 2: low})
    with Video(path) as video:
        yield video, truth


def model_with(**parts):
    """The colour model with some of its parts replaced, or taken out by None."""

    class Mine(ColourModel):
        pass

    for name, part in parts.items():
        setattr(Mine, name, part)
    return Mine() if "policy" not in parts else type("Mine", (Mine,), {"__init__": lambda self: None})()


@pytest.mark.parametrize(
    "parts, said",
    [
        ({"encode": None}, r"Mine is not a guided model: expected a method encode\(image\), got none"),
        (
            {"remember": None},
            r"Mine is not a guided model: expected a method remember\(features, soft_masks, annotated",
        ),
        ({"segment": None}, r"expected a method segment\(features, references, carry\)"),
        ({"segment": lambda self, features: None}, r"Mine.segment: expected to be called as segment\(features, ref"),
        ({"remember": lambda self, features, masks: None}, "Mine.remember: expected to be called as .* 'annotated'"),
        ({"policy": None}, r"Mine.policy: expected a MemoryPolicy with context >= 0, got None, which has no context"),
        ({"policy": SimpleNamespace(context=3, annotated=0, start="after")}, "annotated >= 1, got annotated 0"),
        (
            {"policy": SimpleNamespace(context=3, annotated=4, start="befor")},
            "Mine.policy.start: .*'repeat', got 'befor'",
        ),
        ({"policy": SimpleNamespace(context=3, annotated=4)}, "Mine.policy.start: .* got None"),
        ({"enlarge": "bicubic"}, "Mine.enlarge: expected 'linear', 'cubic', 'guided', got 'bicubic'"),
        ({"size": 48.5}, "Mine.size: expected a whole number of pixels >= 8, got 48.5"),
        ({"multiple": 0}, "Mine.multiple: expected a whole number of pixels >= 1, got 0"),
    ],
)
def test_a_model_that_lacks_something_is_refused_at_once(parts, said):
    with pytest.raises(ModelError, match=said):
        Tracker(model_with(**parts), device="cpu")


@pytest.mark.parametrize(
    "model, said",
    [
        (ColourModel, r"ColourModel is a class: expected a model of it, ColourModel\(...\)"),
        ("mask-vos", r"expected a guided model, got 'mask-vos': load_model\('mask-vos'\) makes one"),
        (None, r"expected a guided model, got None"),
        (object(), "object is not a guided model"),
        (SimpleNamespace(segment=lambda image, flow: image), "needs no prompt and carries no masks: segment with it"),
    ],
)
def test_what_is_no_model_is_refused_at_once(model, said):
    with pytest.raises(ModelError, match=said):
        Tracker(model, device="cpu")


@pytest.mark.parametrize("options", [{"size": "48"}, {"size": 7}, {"size": 48.0}, {"policy": "all"}])
def test_settings_that_are_none_are_refused(options):
    with pytest.raises(ModelError, match="expected"):
        Tracker(ColourModel(), device="cpu", **options)


def changed(change):
    """`segment` of the colour model, what it returns changed."""
    return lambda self, *given: change(*ColourModel.segment(self, *given))


def without_values(self, features, soft_masks, *, annotated=False):
    return features


@pytest.mark.parametrize(
    "parts, said",
    [
        (
            {"segment": changed(lambda soft, carry: (soft[:, 1:], carry))},
            r"Mine.segment, frame 1: expected soft masks \(1, 3, h, w\), the background and then 2 objects, "
            r"got a tensor of shape \(1, 2, 12, 16\)",
        ),
        (
            {"segment": changed(lambda soft, carry: (soft[0], carry))},
            r"frame 1: .* got a tensor of shape \(3, 12, 16\)",
        ),
        ({"segment": changed(lambda soft, carry: (soft.numpy(), carry))}, r"got an array of shape \(1, 3, 12, 16\)"),
        (
            {"segment": changed(lambda soft, carry: soft)},
            r"Mine.segment, frame 1: expected \(soft masks, .*got a tensor",
        ),
        ({"segment": changed(lambda soft, carry: (soft,))}, "got a tuple of 1"),
        ({"segment": changed(lambda soft, carry: (soft, carry, soft))}, "expected a function .*got a tensor"),
        ({"segment": changed(lambda soft, carry: (soft, carry, lambda: soft[:, 1:]))}, r"frame 1: .* \(1, 2, 12, 16\)"),
        ({"segment": changed(lambda soft, carry: (soft * torch.nan, carry))}, "576 of 576 values NaN or infinite"),
        ({"remember": without_values}, "Mine.remember: expected an object whose `values` are the soft masks"),
        (
            {"remember": lambda self, features, masks, annotated=False: Kept(features, masks[:, 1:], annotated)},
            r"Mine.remember, values: expected soft masks \(1, 3, h, w\)",
        ),
    ],
)
@pytest.mark.parametrize("route", ["fill", "stream"])
def test_what_a_model_returns_wrong_is_said(clip, route, parts, said):
    video, truth = clip
    with pytest.raises(ModelError, match=said):
        if route == "fill":
            timeline = Timeline(video)
            timeline.annotate(0, truth[0])
            Tracker(model_with(**parts), device="cpu").fill(timeline)
        else:
            list(Tracker(model_with(**parts), device="cpu").stream(iter(video), {0: truth[0]}))

"""Models that do not keep the contract: one line with the class, the method, what is expected and what was got."""

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from scenes import ColourModel, Kept, Policy, film, low, prediction, right, spec_of

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


def model_with(spec=MappingProxyType({}), **parts):
    """The colour model with some of its parts replaced, or taken out by None, and what its spec says."""

    class Mine(ColourModel):
        pass

    for name, part in parts.items():
        setattr(Mine, name, part)
    model = Mine()
    model.spec = spec_of(**spec) if spec is not None else None
    return model


@pytest.mark.parametrize(
    "parts, said",
    [
        ({"encode": None}, r"Mine is not a guided model: expected a method encode\(frame\), got none"),
        ({"remember": None}, r"Mine is not a guided model: expected a method remember\(features, masks, annotated\)"),
        ({"adapt": None}, r"expected a method adapt\(annotated, ids\), got none \(one that subclasses GuidedModel"),
        ({"fingerprint": None}, r"expected a method fingerprint\(\)"),
        ({"segment": None}, r"expected a method segment\(features, references, state, ids\)"),
        ({"segment": lambda self, features: None}, r"Mine.segment: expected to be called as segment\(features, ref"),
        ({"remember": lambda self, features: None}, "Mine.remember: expected to be called as"),
        ({"spec": None}, "Mine.spec: expected a ModelSpec, got None without policy"),
        ({"spec": {"policy": "all"}}, r"Mine.spec.policy: expected a MemoryPolicy with context >= 0, got 'all', which"),
        ({"spec": {"policy": Policy(annotated=0)}}, "annotated >= 1, got annotated 0"),
        ({"spec": {"policy": Policy(start="befor")}}, "Mine.spec.policy.start: .*'repeat', got 'befor'"),
        ({"spec": {"size": 48.5}}, "Mine.spec.size: expected a whole number of pixels >= 8, got 48.5"),
        ({"spec": {"multiple": 0}}, "Mine.spec.multiple: expected a whole number of pixels >= 1, got 0"),
        ({"spec": {"side": {"proposals": 3}}}, "Mine.spec.side: expected functions by name, got {'proposals': 3}"),
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
        (SimpleNamespace(segment=lambda frame: frame), "needs no prompt and carries no masks: segment with it"),
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
    return lambda self, *given: change(ColourModel.segment(self, *given).masks)


@pytest.mark.parametrize(
    "parts, said",
    [
        (
            {"segment": changed(lambda soft: prediction(soft[:, 1:]))},
            r"Mine.segment, frame 1: expected soft masks \(1, 3, h, w\), the background and then 2 objects, "
            r"got a tensor of shape \(1, 2, 12, 16\)",
        ),
        ({"segment": changed(lambda soft: prediction(soft[0]))}, r"frame 1: .* got a tensor of shape \(3, 12, 16\)"),
        ({"segment": changed(lambda soft: prediction(soft.numpy()))}, r"got an array of shape \(1, 3, 12, 16\)"),
        (
            {"segment": changed(lambda soft: soft)},
            r"Mine.segment, frame 1: expected a Prediction\(masks, state, shown\), got a tensor .* without masks",
        ),
        ({"segment": changed(lambda soft: (soft, None))}, "got one tuple without masks"),
        ({"segment": changed(lambda soft: prediction(soft, shown=soft))}, "expected shown to be a function .*a tensor"),
        (
            {"segment": changed(lambda soft: prediction(soft, shown=lambda: soft[:, 1:]))},
            r"frame 1: .* \(1, 2, 12, 16\)",
        ),
        ({"segment": changed(lambda soft: prediction(soft * torch.nan))}, "576 of 576 values NaN or infinite"),
        (
            {"remember": lambda self, features, masks, annotated=False: features},
            "Mine.remember: expected an object whose `values` are the soft masks",
        ),
        (
            {"remember": lambda self, features, masks, annotated=False: Kept(features, masks[:, 1:], annotated)},
            r"Mine.remember, values: expected soft masks \(1, 3, h, w\)",
        ),
        ({"refine": lambda self, soft, ids, image: soft[0]}, r"Mine.refine: expected a label map \(48, 64\) uint8"),
        (
            {"refine": lambda self, soft, ids, image: (np.full((48, 64), 7, np.uint8), dict.fromkeys(ids, 1.0))},
            "Mine.refine: expected the objects 1, 2, got 7 too",
        ),
        (
            {"refine": lambda self, soft, ids, image: (np.zeros((48, 64), np.uint8), {1: 1.0, 2: np.nan})},
            r"Mine.refine: expected a confidence in \[0, 1\] of each object, got \{1: 1.0, 2: nan\}",
        ),
        ({"segment": changed(lambda soft: prediction(3 * soft))}, "sum to 1 over background and objects, got .* to 3"),
        ({"segment": changed(lambda soft: prediction(soft.long()))}, "expected soft masks of floats, got torch.int64"),
        ({"segment": changed(lambda soft: prediction(soft, {1: {2}}))}, "expected a state of tensors, .* got one set"),
        (
            {"adapt": lambda self, annotated, ids: None},
            "Mine.adapt: expected a model, itself or a copy of it, got None",
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


def test_a_fingerprint_that_is_none_is_said(clip):
    with pytest.raises(ModelError, match=r"Mine\.fingerprint: expected a string, got ''"):
        Tracker(model_with(fingerprint=lambda self: ""), device="cpu").fingerprint()

"""The shipped models in float32 and in bfloat16: close to each other, and each the same by every way through it."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import matchcut
from matchcut.masks import read_mask
from matchcut.models.mask_vos.target_model import evidence_of, target_score
from matchcut.models.resampling import enlarge, halve
from matchcut.tracking.automatic import Segmenter
from matchcut.tracking.timeline import Timeline
from matchcut.tracking.tracker import Tracker
from matchcut.weights.store import load_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COUNT = 3
GUIDED = ["mask-vos", "label-propagation"]


def run(model: str, precision: str) -> Timeline:
    timeline = Timeline(matchcut.Video(EXAMPLES / "bunny.mp4", end=COUNT))
    timeline.annotate(0, read_mask(EXAMPLES / "bunny_first.png"))
    Tracker(load_model(model), size=96, device="cpu", precision=precision).fill(timeline)  # type: ignore[arg-type]
    return timeline


filled = functools.cache(run)
"""Most tests here compare something with it, and on some processors bfloat16 is slow."""


@pytest.mark.parametrize("model", GUIDED)
def test_masks_and_confidence_in_bfloat16_are_those_in_float32_but_for_some_pixels(model: str) -> None:
    made = {precision: filled(model, precision) for precision in ("float32", "bfloat16")}
    differ = 0.0
    for frame in range(1, COUNT):
        one, other = (timeline.labels(frame) for timeline in made.values())
        assert one is not None and other is not None
        assert ((one > 0) & (other > 0)).sum() / ((one > 0) | (other > 0)).sum() > 0.99
        sure = [timeline.confidence[frame][1] for timeline in made.values()]
        assert sure[0] == pytest.approx(sure[1], abs=0.005)
        differ += float((one != other).mean())
    assert differ > 0  # they are two precisions


@pytest.mark.parametrize("model", GUIDED)
def test_a_stream_gives_what_fill_gives(model: str, precision: str) -> None:
    timeline = filled(model, precision)
    tracker = Tracker(load_model(model), size=96, device="cpu", precision=precision)  # type: ignore[arg-type]
    first = read_mask(EXAMPLES / "bunny_first.png")
    for frame, labels in tracker.stream(timeline.video, {0: first}):
        np.testing.assert_array_equal(labels, timeline.labels(frame))


@pytest.mark.parametrize("model", GUIDED)
def test_autocast_around_a_tracker_changes_nothing(model: str, precision: str) -> None:
    alone = filled(model, precision)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(model, precision)
    for frame in range(1, COUNT):
        np.testing.assert_array_equal(inside.labels(frame), alone.labels(frame))


def test_what_is_found_unasked_in_bfloat16_is_what_is_found_in_float32() -> None:
    found: dict[str, list[NDArray[np.float32]]] = {}
    for precision in ("float32", "bfloat16"):
        soft = found.setdefault(precision, [])
        timeline = Timeline(matchcut.Video(EXAMPLES / "bunny.mp4", end=COUNT))
        segmenter = Segmenter(load_model("transport-net"), size=96, device="cpu", precision=precision)  # type: ignore[arg-type]
        segmenter.fill(timeline, keep=lambda frame, one, soft=soft: soft.append(one.copy()))  # type: ignore[misc]
    one, other = (np.stack(soft) for soft in found.values())
    assert one.max() > 0.9  # something is found
    assert 0 < np.abs(one - other).mean() < 0.006 and ((one > 0.5) != (other > 0.5)).mean() < 0.01


# --- what stays float32 under autocast


def test_memory_under_autocast_does_not_blur_what_comes_back_to_it() -> None:
    """As a network is trained."""
    cells = torch.rand(1, 2, 12, 20, generator=torch.Generator().manual_seed(0)).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        again = halve(enlarge(cells, (24, 40)))
    assert again.dtype == torch.float32 and torch.equal(again, halve(enlarge(cells, (24, 40))))


def test_the_target_model_is_the_same_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(1, 8, 20, 20, generator=generator), dim=1)
    masks = torch.zeros(1, 2, 20, 20)
    masks[:, 1, 5:14, 6:15] = 1
    masks[:, 0] = 1 - masks[:, 1]
    plain = target_score(features, [evidence_of(features, masks)], [])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(target_score(features, [evidence_of(features, masks)], []), plain)

"""Mask-VOS: against label propagation and the algorithm spelt out, by relations, and in the tracker."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.errors import ModelError
from matchcut.matching import affinity, near_edges
from matchcut.models.backbones import Backbone, fold_batch_norms
from matchcut.models.base import GuidedModel, MemoryPolicy
from matchcut.models.label_propagation import LabelPropagation, PropagationSettings
from matchcut.models.mask_vos import MaskReference, MaskVOS, build_mask_vos, network
from matchcut.models.mask_vos.architecture import ARCHITECTURES, MaskVOSSettings
from matchcut.models.mask_vos.decoders import aggregate, mask_channels
from matchcut.models.resampling import enlarge, halve, join_maps
from matchcut.models.search_region import FARTHEST, UNKNOWN, WIDEST, boxes_of, near_objects, where_to_look
from matchcut.tracking.tracker import Tracker

SIZE = (64, 96)

PLAIN = {"policy": MemoryPolicy(5), "temperature": 0.05, "radius": 12, "steps": ()}
FINER = ("finer",)


@pytest.fixture(scope="module")
def small() -> MaskVOS:
    torch.manual_seed(0)
    return build_mask_vos("small").eval()


def picture(seed: int = 0, size: tuple[int, int] = SIZE, batch: int = 1) -> Tensor:
    """Coarse noise under fine noise: every place looks different."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(batch, 3, size[0] // 8, size[1] // 8, generator=generator), size)
    return (coarse + torch.rand(batch, 3, *size, generator=generator)) / 2


def masks(objects: int = 2, size: tuple[int, int] = SIZE, batch: int = 1) -> Tensor:
    """Rectangles beside each other, and background."""
    labels = torch.zeros(batch, *size, dtype=torch.int64)
    width = size[1] // (objects + 2)
    for index in range(objects):
        left = width * (index + 1)
        labels[:, size[0] // 4 : size[0] // 2 + 8 * (index % 3), left : left + width - 4] = index + 1
    return F.one_hot(labels, objects + 1).permute(0, 3, 1, 2).float()


def shown_by(model: MaskVOS, features: object, references: list[MaskReference]) -> Tensor:
    ids = range(1, references[0].values.shape[1])
    return model.segment(features, references, None, ids).shown()


@torch.no_grad()
def scene(model: MaskVOS, objects: int = 2) -> tuple[object, list[MaskReference]]:
    """Features of a frame, and of an annotated frame and one of the context."""
    references = [model.remember(model.embed(picture(seed)), masks(objects), annotated=seed == 1) for seed in (1, 2)]
    return model.embed(picture(3)), references


# --- matching: the same as label propagation


def test_it_starts_as_label_propagation_with_the_same_features(small):
    plain = LabelPropagation(
        small.backbone, PropagationSettings(MemoryPolicy(5), temperature=0.05, radius=12), grid=8, mix=(1.0, 1.0, 1.0)
    )
    with torch.no_grad():
        torch.testing.assert_close(small.embed(picture()).keys, plain.embed(picture()), rtol=1e-5, atol=1e-6)
        features, references = scene(small)
        coarse = small.with_settings(**PLAIN).read(features, references).coarse
        same = [plain.remember(one.features.keys, one.cells, annotated=one.annotated) for one in references]
        expected = plain.segment(features.keys, same, None, [1, 2]).masks
    torch.testing.assert_close(coarse, expected, rtol=1e-4, atol=1e-5)


def test_blend_one_leaves_the_coarse_mask_and_zero_the_decoders(small, monkeypatch):
    monkeypatch.setattr(network, "MARGIN", None)
    small = small.with_settings(steps=FINER)
    features, references = scene(small)
    with torch.no_grad():
        large, rounds = small(features, references)
        half = shown_by(small, features, references)
        decoded = shown_by(small.with_settings(blend=0.0), features, references)
        only = shown_by(small.with_settings(blend=1.0), features, references)
    torch.testing.assert_close(only, large)
    torch.testing.assert_close(decoded, rounds[-1].softmax(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half, (large + decoded) / 2, rtol=1e-4, atol=1e-5)


# --- Algorithm S1


def anew(model: MaskVOS) -> MaskVOS:
    """The paper's: a decoder that gives the mask anew."""
    other = model.with_settings()
    other.architecture = replace(model.architecture, residual=False)
    return other


def test_it_starts_with_the_coarse_mask(small):
    features, references = scene(small, 1)
    with torch.no_grad():
        large, rounds = small(features, references)
    torch.testing.assert_close(rounds[-1].softmax(1), large, rtol=0, atol=0.03)
    assert not torch.allclose(anew(small)(features, references, 2)[1][-1].softmax(1), large, atol=0.1)


def test_rounds_are_those_of_algorithm_s1(small):
    features, references = scene(small)
    with torch.no_grad():
        carried = small.read(features, references)
        soft, given = carried.large, enlarge(carried.given, carried.large.shape[2:])
        small, embedded = anew(small), carried.embedded
        for _ in range(2):
            own = small.mask_encoder(features, mask_channels(soft, given))
            soft = aggregate(small.decoder(features, embedded, own)).softmax(1)
        _, rounds = small(features, references, 2)
        first = aggregate(small.decoder(features, embedded, embedded))
        _, zero = small(features, references, 0)
    assert len(rounds) == 2 and len(zero) == 1
    torch.testing.assert_close(rounds[1].softmax(1), soft)
    torch.testing.assert_close(zero[0], first)


@pytest.mark.parametrize("objects", [1, 2, 5])
def test_aggregation_is_by_odds_with_the_product_as_background(objects):
    logits = 3 * torch.randn(2, objects, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(objects))
    p = torch.cat([(1 - logits.sigmoid()).prod(1, keepdim=True), logits.sigmoid()], 1)
    odds = p / (1 - p)
    torch.testing.assert_close(
        aggregate(logits).softmax(1).double(), odds / odds.sum(1, keepdim=True), rtol=1e-4, atol=1e-5
    )


def test_aggregation_is_finite_where_all_is_sure():
    logits = torch.tensor([[[[-80.0, 80.0]], [[-80.0, 80.0]]]], requires_grad=True)
    aggregated = aggregate(logits)
    aggregated.softmax(1).sum().backward()
    assert torch.isfinite(aggregated).all() and torch.isfinite(logits.grad).all()
    assert aggregated.argmax(1).flatten().tolist()[0] == 0 and aggregated.argmax(1).flatten().tolist()[1] > 0


# --- objects


def test_memory_does_not_blur_what_comes_back_to_it():
    cells = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells = cells / cells.sum(1, keepdim=True).clamp(min=1)  # some are not known whole
    torch.testing.assert_close(halve(enlarge(cells, (14, 18))), cells, atol=1e-12, rtol=0)
    crisp = (torch.rand(1, 1, 8, 8) > 0.5).double()
    assert (halve(crisp) >= 0).all() and (halve(crisp) <= 1).all()


def test_objects_are_treated_alike(small):
    features, references = scene(small, 3)
    order = torch.tensor([0, 3, 1, 2])
    turned = [small.remember(one.features, one.values[:, order], annotated=one.annotated) for one in references]
    with torch.no_grad():
        expected = shown_by(small, features, references)
        found = shown_by(small, features, turned)
    torch.testing.assert_close(found, expected[:, order], rtol=1e-4, atol=1e-5)


def test_a_batch_is_a_loop_over_its_items(small, monkeypatch):
    monkeypatch.setattr(network, "MARGIN", None)
    images, given = picture(5, batch=2), masks(2, batch=2)
    given[1] = given[1].flip(2)
    model = small
    with torch.no_grad():
        features = model.embed(images)
        together = shown_by(model, features, [model.remember(features, given, annotated=True)])
        for index in range(2):
            one = model.embed(images[index : index + 1])
            alone = shown_by(model, one, [model.remember(one, given[index : index + 1], annotated=True)])
            torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objects", [0, 1, 2, 7])
def test_soft_masks_are_probabilities_at_a_quarter(small, objects):
    features, references = scene(small, objects)
    with torch.no_grad():
        soft = shown_by(small, features, references)
    assert soft.shape == (1, 1 + objects, SIZE[0] // 4, SIZE[1] // 4)
    assert soft.min() >= 0
    torch.testing.assert_close(soft.sum(1), torch.ones_like(soft[:, 0]), rtol=1e-4, atol=1e-4)


def test_only_edges_are_decoded_and_what_is_remembered_is_what_was_carried(small, monkeypatch):
    monkeypatch.setattr(network, "NEAR", None)
    monkeypatch.setattr(network, "MARGIN", None)
    small = copy.deepcopy(small).with_settings(steps=FINER)
    _, references = scene(small, 1)  # several may change each other wherever they are unsure
    with torch.no_grad():
        features = small.embed(picture(1))  # the annotated frame, so that there are edges
        nn.init.normal_(small.decoder.logit.weight, std=3.0)
        carried = small.read(features, references)
        found = small.with_settings(blend=0.0).segment(features, references, None, [1])
        shown = found.shown()
        everywhere = shown_by(small.with_settings(blend=0.0, steps=()), features, references)
    edges = near_edges(F.interpolate(carried.coarse, scale_factor=2, mode="bilinear"), network.EDGE)
    assert torch.equal(carried.edges, edges) and 0.05 < edges.float().mean() < 0.95
    torch.testing.assert_close(found.masks, carried.large)
    changed = (shown - carried.large).abs().amax(1) > 0.01  # further off, `SURE` may move a little
    assert not changed[~edges].any() and changed[edges].any()
    assert ((everywhere - carried.large).abs().amax(1) > 0.01)[~edges].any()


def test_an_object_is_decoded_in_its_box_as_in_the_whole_frame(small, monkeypatch):
    features, references = scene(small)
    with torch.no_grad():
        monkeypatch.setattr(network, "MARGIN", None)
        whole = shown_by(small, features, references)
        monkeypatch.setattr(network, "MARGIN", 100)
        wide = shown_by(small, features, references)
    torch.testing.assert_close(whole, wide)
    soft = torch.zeros(1, 4, 20, 30)
    soft[0, 1, 5:8, 10:12] = 1
    soft[0, 3, 0, 29] = 0.5
    assert boxes_of(soft, 2) == [(slice(3, 10), slice(8, 14)), None, (slice(0, 3), slice(27, 30))]


def test_an_object_that_is_nowhere_stays_nowhere(small):
    features, references = scene(small)
    gone = [small.remember(one.features, F.pad(one.values, (0, 0, 0, 0, 0, 1)), annotated=True) for one in references]
    with torch.no_grad():
        soft = shown_by(small, features, gone)
    assert soft[:, 3].max() < 1e-3


def test_the_target_model_moves_edges_of_what_is_shown_and_nothing_else(small, monkeypatch):
    monkeypatch.setattr(network, "NEAR", None)
    _, references = scene(small, 2)
    with torch.no_grad():
        features = small.embed(picture(1))
        edges = small.read(features, references).edges
        shown = {}
        for weight in (0.0, 2.0, 1e3):
            monkeypatch.setattr(network, "TARGET", weight)
            found = small.segment(features, references, None, [1, 2])
            shown[weight] = found.shown()
            torch.testing.assert_close(found.masks, small.read(features, references).large)
    for soft in shown.values():
        torch.testing.assert_close(soft.sum(1), torch.ones_like(soft[:, 0]))
    region = {weight: soft[:, 1:].sum(1) for weight, soft in shown.items()}
    moved = (region[2.0] - region[0.0]).abs() > 1e-3
    assert moved[edges].any() and not moved[~edges].any()
    # Which of the objects it is, the target model leaves open.
    share = [shown[weight][:, 1] / region[weight] for weight in (0.0, 2.0)]
    surely = (region[0.0] > 1e-3) & (region[2.0] > 1e-3)
    torch.testing.assert_close(share[0][surely], share[1][surely], rtol=1e-3, atol=1e-4)
    # On the annotated frame itself, what it alone says is mostly right, features at random as they are.
    truth = enlarge(masks(2)[:, 1:].sum(1, keepdim=True), edges.shape[1:])[:, 0] > 0.5
    assert ((region[1e3] > 0.5) == truth)[edges].float().mean() > 0.75


def test_no_target_model_in_training(small):
    learning = copy.deepcopy(small).train()
    features = learning.embed(picture(1))
    assert learning.remember(features, masks(1)).evidence is None
    assert small.remember(features, masks(1)).evidence is not None


def test_what_is_unknown_carries_nothing(small):
    model = small.with_settings(top_k=10_000, radius=None)
    features, references = scene(model)
    unknown = model.remember(references[0].features, torch.zeros_like(references[0].values), annotated=True)
    with torch.no_grad():
        expected = model.read(features, references)
        found = model.read(features, [*references, unknown])
    # The unknown frame is the first again, so what is left of the match are its known twin and the other, in
    # proportions that one frame more does not change.
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_objects_are_looked_for_near_where_they_were(small):
    _, references = scene(small, 1)
    kept = [(one.cells, one.annotated) for one in references]
    near = near_objects(kept, 2)
    seen = references[1].cells[0, 1] > 0.1
    rows, columns = seen.nonzero().unbind(1)
    expected = torch.zeros_like(seen)
    expected[max(rows.min() - 2, 0) : rows.max() + 3, max(columns.min() - 2, 0) : columns.max() + 3] = True
    assert torch.equal(near[0], expected)
    assert near_objects(kept[:1], 2) is None and near_objects(kept, None) is None
    lost = [kept[0], (torch.zeros_like(kept[1][0]), False)]
    assert near_objects(lost, 2) is None


def squares(*corners: tuple[int, int], size: tuple[int, int] = (40, 90)) -> Tensor:
    """(1, 1 + N, h, w) soft masks of N squares of 4 x 4 cells."""
    objects = torch.zeros(1, len(corners), *size)
    for index, (y, x) in enumerate(corners):
        objects[0, index, y : y + 4, x : x + 4] = 1
    return torch.cat([1 - objects.amax(1, keepdim=True), objects], 1)


def context(*frames: Tensor) -> list[tuple[Tensor, bool]]:
    return [(frames[0], True), *((one, False) for one in frames)]


@pytest.mark.parametrize(
    ("steps", "cells"), [((0, 0), 5), ((2, 2), 9), ((3, 1), 11), ((1, 4), 13), ((40, 40), FARTHEST)]
)
def test_objects_are_looked_for_as_far_as_they_move(steps, cells):
    at = [2, 2 + steps[0], 2 + steps[0] + steps[1]]
    frames = [squares((20, 70), (20, x)) for x in at]  # one of two stays where it is
    where, reach = where_to_look(context(*frames), 5)
    assert reach == min(cells, WIDEST)
    assert torch.equal(where, near_objects(context(*frames), cells))


def test_of_older_frames_it_does_not_matter_how_far_objects_moved():
    frames = [squares((20, x)) for x in (5, 35, 36, 37)]
    assert where_to_look(context(*frames), 5)[1] == 7


def test_crumbs_do_not_count_as_movement():
    frames = [squares((10, 10)) for _ in range(3)]
    frames[-1][0, :, 4:30, 20:50] = torch.tensor([0.0, 1.0])[:, None, None]
    frames[-2] = frames[-1].clone()
    frames[-1][0, :, 35, 80] = torch.tensor([0.0, 1.0])
    assert where_to_look(context(*frames[1:]), 5)[1] == 5


def test_where_nothing_is_known_of_movement_or_objects():
    one = squares((20, 30))
    where, reach = where_to_look(context(one, one, one), 5)  # the annotated frame stands in for the context
    assert reach == UNKNOWN and torch.equal(where, near_objects(context(one), UNKNOWN))
    assert where_to_look(context(one), None) == (None, 0)
    assert where_to_look(context(one[:, :1]), 5) == (None, 0)  # no object
    assert where_to_look(context(one, 0 * one), 5) == (None, 0)  # it is nowhere: looked for in all the frame


def test_windows_reach_as_far_as_objects_move(small, monkeypatch):
    model = small.with_settings(radius=2)
    radii = []

    def spied(*given, radius, **settings):
        radii.append(radius)
        return affinity(*given, radius=radius, **settings)

    monkeypatch.setattr("matchcut.models.mask_vos.network.affinity", spied)
    features, references = scene(model)
    with torch.no_grad():
        for reach in (4, 1):  # over the last frames, where that is more than the usual one
            model.read(features, [references[0], *references[1:] * 5], None, reach)
    assert radii == [[None], [2, 2, 4, 4, 4], [None], [2, 2, 2, 2, 2]]


# --- memory


def test_a_reference_is_made_again_from_its_features_and_values(small):
    features, references = scene(small)
    with torch.no_grad():
        soft = shown_by(small, features, references)
        kept = small.remember(features, soft)
        again = small.remember(features, kept.values.clone())
    assert torch.equal(kept.values, soft) and torch.equal(again.values, soft)
    assert torch.equal(kept.rows, again.rows) and torch.equal(kept.cells, again.cells)


def test_the_tracker_drives_it(small):
    assert isinstance(small, GuidedModel)
    rng = np.random.default_rng(0)
    assert small.with_settings(policy=MemoryPolicy(2)).spec.policy.context == 2 and small.spec.policy.context == 21
    frames = [rng.integers(0, 255, (66, 100, 3), dtype=np.uint8) for _ in range(4)]
    labels = np.zeros((66, 100), np.uint8)
    labels[20:40, 20:50] = 3
    late = np.zeros_like(labels)
    late[5:15, 70:90] = 9
    shown = dict(Tracker(small, size=64).stream(frames, {0: labels, 2: late}))
    assert [one.shape for one in shown.values()] == [(66, 100)] * 4
    assert np.array_equal(shown[0], labels) and set(np.unique(shown[3])) <= {0, 3, 9}


# --- learning


@pytest.mark.parametrize("form", ["small", "resnet18"])
def test_every_parameter_learns(form):
    torch.manual_seed(0)
    model = build_mask_vos(replace(ARCHITECTURES[form], value=8, widths=(16, 8)), MaskVOSSettings(steps=()))
    features = [model.embed(picture(seed, (64, 64))) for seed in (1, 2)]
    given = masks(2, (64, 64))
    coarse, rounds = model(features[1], [model.remember(features[0], given, annotated=True)])
    (coarse.square().mean() + sum(one.square().mean() for one in rounds)).backward()
    unused = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    # A convolution's bias before a batch norm, or a unit that no input of this test reaches, has none.
    assert [name for name in unused if "backbone" not in name] == []
    assert all(one.grad is not None for one in model.parameters())


def test_it_learns_to_copy_a_mask():
    torch.manual_seed(0)
    # Without details: a frame matched to itself on the finer grid leaves nothing to learn.
    model = build_mask_vos(replace(ARCHITECTURES["small"], value=8, widths=(16, 8), details=None))
    model.backbone.eval()
    image, given = picture(1), masks(1)
    optimiser = torch.optim.Adam([one for name, one in model.named_parameters() if "backbone" not in name], 1e-2)
    target = F.interpolate(given, scale_factor=0.25, mode="area").argmax(1)
    losses = []
    for _ in range(25):
        features = model.embed(image)
        _, rounds = model(features, [model.remember(features, given, annotated=True)], 1)
        losses.append(F.cross_entropy(rounds[0], target))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]


# --- forms


def test_the_papers_mask_encoder_sees_frame_and_masks(monkeypatch):
    torch.manual_seed(0)
    model = build_mask_vos(replace(ARCHITECTURES["resnet18"], value=16, widths=(16, 8))).eval()
    features = model.embed(picture())
    with torch.no_grad():
        first = model.remember(features, masks(2))
        other = model.remember(replace(features, image=picture(9)), masks(2))
        swapped = model.remember(features, masks(2)[:, [0, 2, 1]])
        soft = shown_by(model, features, [first])
        monkeypatch.setattr(network, "MARGIN", 100)
        whole = shown_by(model, features, [first])
        monkeypatch.setattr(network, "MARGIN", None)
        everywhere = shown_by(model, features, [first])
    values = [
        one.rows[..., 4:].unflatten(2, (2, 16)) for one in (first, other, swapped)
    ]  # after what is known, and masks
    assert values[0].shape[1] == (SIZE[0] // 8) * (SIZE[1] // 8)
    assert not torch.allclose(values[0], values[1], atol=1e-3)
    torch.testing.assert_close(values[2], values[0][:, :, [1, 0]], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(whole, everywhere)
    assert soft.shape == whole.shape


@pytest.mark.parametrize("name", ["small", "resnet18-light"])
def test_light_forms_can_be_shipped(name):
    model = build_mask_vos(name)
    assert sum(one.numel() * 2 for one in model.state_dict().values()) < 12e6  # in half precision
    again = build_mask_vos(model.architecture)
    again.load_state_dict(model.state_dict(), strict=True)


def test_odd_sizes_vision_transformers_and_half_precision():
    form = replace(ARCHITECTURES["small"], backbone="vit_tiny_patch16_224", stages=(3, 7, 11), stride=16)
    model = build_mask_vos(form).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = model.embed(picture(0, (72, 56)))
    with torch.inference_mode():
        soft = shown_by(model, features, [model.remember(features, masks(1, (72, 56)), annotated=True)])
    assert soft.shape == (1, 2, 18, 14) and soft.dtype == torch.float32
    assert features.keys.dtype == torch.float32 and features.cells.dtype == torch.bfloat16


def test_folding_batch_norms_changes_nothing(small):
    torch.manual_seed(0)
    model = build_mask_vos("small").eval()
    expected = model.embed(picture()).cells
    fold_batch_norms(model.backbone.net)
    torch.testing.assert_close(model.embed(picture()).cells, expected, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="unknown architecture 'tiny'; there are resnet18"):
        build_mask_vos("tiny")
    with pytest.raises(ModelError, match="two stages or more"):
        MaskVOS(Backbone("resnet18", (3,)), ARCHITECTURES["resnet18"])
    with pytest.raises(ModelError, match=r"matched \(3,\)"):
        MaskVOS(Backbone("resnet18", (1, 2)), replace(ARCHITECTURES["resnet18"], matched=(3,)))
    with pytest.raises(ValueError, match="rounds >= 0"):
        MaskVOSSettings(rounds=-1)


# --- the finer grid


def test_edges_are_matched_on_the_finer_grid_and_the_rest_is_enlarged(small, monkeypatch):
    monkeypatch.setattr(network, "FINER", 1.0)
    image, given = picture(1), masks(1)
    given[:, :, :, :3] = given[:, :, :, 3:6]  # an edge between two cells of the finer grid
    with torch.no_grad():
        features = small.embed(image)
        reference = small.remember(features, given, annotated=True)
        fine = small.with_settings(top_k=1).read(features, [reference]).large
        coarse = small.with_settings(top_k=1, steps=()).read(features, [reference]).large
    # A frame matched to itself: where it was matched anew, nothing is lost.
    near = near_edges(coarse, network.EDGE)
    torch.testing.assert_close(fine[:, 1][near], reference.values[:, 1][near])
    assert torch.equal(fine[:, 1][~near], coarse[:, 1][~near]) and 0 < near.float().mean() < 1
    assert (coarse[:, 1] - reference.values[:, 1]).abs().mean() > 5 * (fine[:, 1] - reference.values[:, 1]).abs().mean()


def test_what_the_annotated_frame_alone_gives_does_not_hang_on_the_context(small):
    features, references = scene(small, 2)
    spoilt = small.remember(references[1].features, references[1].values.flip(1))
    with torch.no_grad():
        expected = small.read(features, references[:1])
        found = small.read(features, [references[0], spoilt])
    torch.testing.assert_close(found.given, expected.given)
    torch.testing.assert_close(expected.given, expected.coarse[:, 1:])
    assert not torch.allclose(found.coarse, expected.coarse, atol=0.1)


@pytest.mark.parametrize("weights", [None, (2.0, 1.0)])
def test_joined_maps_are_the_same_with_and_without_a_gradient(weights) -> None:
    maps = [torch.randn(2, 5, 12, 20), torch.randn(2, 3, 3, 5)]
    plain = join_maps(maps, (6, 10), weights)
    learned = join_maps([one.clone().requires_grad_() for one in maps], (6, 10), weights)
    assert learned.requires_grad and torch.equal(plain, learned)
    torch.testing.assert_close(plain.norm(dim=1), torch.ones(2, 6, 10))
    shares = plain[:, :5].norm(dim=1)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.5**0.5 if weights is None else 2 / 5**0.5))

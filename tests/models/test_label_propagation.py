"""Label propagation against a straightforward dense version of each published protocol, and by relations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.errors import ModelError
from matchcut.models.backbones import Backbone
from matchcut.models.base import GuidedModel, MemoryPolicy, Reference
from matchcut.models.label_propagation import PRESETS, LabelPropagation, PropagationSettings
from matchcut.weights.store import load_model

GRID = (19, 27)

# systems.md section 0: context, top-k, temperature, window of the context and of the first frame.
PROTOCOLS = {
    "crw": (20, 10, 0.05, ("disc", 12), None),
    "dino": (7, 5, 0.1, ("square", 12), ("square", 12)),
    "vfs": (20, 10, 0.07, ("disc", 12), ("disc", 12)),  # its 24 is a diameter
    "mask-vos": (5, 10, 0.05, ("disc", 12), None),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone("resnet18", stages=(1, 2, 3)).eval()


def picture(height: int = 88, width: int = 120, seed: int = 0) -> Tensor:
    """Coarse noise under fine noise: every place looks different."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(1, 3, height // 8, width // 8, generator=generator), (height, width))
    return (coarse + torch.rand(1, 3, height, width, generator=generator)) / 2


def keys(seed: int, size: tuple[int, int] = GRID) -> Tensor:
    return F.normalize(torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(seed)), dim=1)


def soft(seed: int, objects: int = 3, size: tuple[int, int] = GRID) -> Tensor:
    return torch.rand(1, 1 + objects, *size, generator=torch.Generator().manual_seed(seed)).mul(5).softmax(1)


def references(count: int = 4, objects: int = 3, seed: int = 10) -> list[Reference]:
    """The first frame, annotated, and a context."""
    return [Reference(keys(seed + i), soft(seed + 50 + i, objects), i == 0) for i in range(count)]


def inside(window: tuple[str, int] | None, size: tuple[int, int]) -> Tensor:
    y, x = (one.flatten() for one in torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij"))
    dy, dx = y - y[:, None], x - x[:, None]
    if window is None:
        return torch.ones_like(dy, dtype=torch.bool)
    shape, reach = window
    return dy**2 + dx**2 < reach**2 if shape == "disc" else torch.maximum(dy.abs(), dx.abs()) <= reach


def straightforward(protocol: str, query: Tensor, memory: list[Reference]) -> Tensor:
    _, top_k, temperature, context, first = PROTOCOLS[protocol]
    labels = torch.cat([one.values[0].flatten(1) for one in memory], 1).double()  # (1 + objects, R)
    scores, allowed = [], []
    for one in memory:
        scores.append(query[0].flatten(1).double().t() @ one.features[0].flatten(1).double())
        allowed.append(inside(first if one.annotated else context, GRID))
    kernel = (torch.cat(scores, 1) / temperature).exp() * torch.cat(allowed, 1)
    kept = kernel.topk(top_k, dim=1)
    weights = torch.zeros_like(kernel).scatter(1, kept.indices, kept.values)
    weights = weights / weights.sum(1, keepdim=True)
    return (labels @ weights.t()).view(1, -1, *GRID)


# --- the protocols


def test_presets_are_the_published_protocols():
    assert set(PRESETS) == set(PROTOCOLS)
    for name, (context, top_k, temperature, (shape, reach), first) in PROTOCOLS.items():
        preset = PRESETS[name]
        assert (preset.policy.context, preset.top_k, preset.temperature) == (context, top_k, temperature), name
        assert (preset.window, preset.radius) == (shape, reach), name
        assert preset.annotated_radius == (None if first is None else first[1]), name
        assert (preset.size, preset.enlarge, preset.near) == (480, "linear", None), name
        assert preset.stretch == (name == "dino"), name
    assert {name: preset.policy.start for name, preset in PRESETS.items()} == {
        "crw": "repeat",
        "dino": "after",
        "vfs": "from",
        "mask-vos": "after",
    }


def masks_of(model, features, memory):
    return model.segment(features, memory, None, range(1, memory[0].values.shape[1])).masks


@pytest.mark.parametrize("preset", PROTOCOLS)
def test_segment_equals_the_straightforward_version(preset, backbone):
    model, query, memory = LabelPropagation(backbone, preset), keys(0), references()
    ours = masks_of(model, query, memory)
    assert ours.shape == (1, 4, *GRID)
    torch.testing.assert_close(ours.double(), straightforward(preset, query, memory), atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", PROTOCOLS)
def test_soft_masks_sum_to_one(preset, backbone):
    ours = masks_of(LabelPropagation(backbone, preset), keys(0), references())
    torch.testing.assert_close(ours.sum(1), torch.ones(1, *GRID), atol=1e-5, rtol=0)
    assert ours.min() >= 0


@pytest.mark.parametrize("preset", PROTOCOLS)
def test_objects_in_one_pass_equal_separate_passes(preset, backbone):
    model, query, memory = LabelPropagation(backbone, preset), keys(0), references(objects=5)
    together = masks_of(model, query, memory)
    for index in range(5):
        alone = [
            Reference(
                one.features,
                torch.stack([1 - one.values[:, 1 + index], one.values[:, 1 + index]], 1),
                one.annotated,
            )
            for one in memory
        ]
        torch.testing.assert_close(masks_of(model, query, alone)[:, 1], together[:, 1 + index], atol=1e-6, rtol=0)


def test_no_object_is_background_everywhere(backbone):
    for settings in ("mask-vos", PropagationSettings(near=3)):
        memory = [Reference(one.features, torch.ones(1, 1, *GRID), one.annotated) for one in references()]
        ours = masks_of(LabelPropagation(backbone, settings), keys(0), memory)
        torch.testing.assert_close(ours, torch.ones(1, 1, *GRID))


# --- looking near objects only


def spot(y: int, x: int, strength: float = 1.0) -> Tensor:
    """(1, 2, h, w) with one object of 3 by 3 cells at (y, x)."""
    mask = torch.zeros(1, 2, *GRID)
    mask[:, 1, y - 1 : y + 2, x - 1 : x + 2] = strength
    mask[:, 0] = 1 - mask[:, 1]
    return mask


def test_far_from_objects_all_is_background_and_near_them_nothing_changes(backbone):
    model = LabelPropagation(backbone, PropagationSettings(near=4))
    memory = [
        Reference(keys(1), spot(16, 2), True),  # where an annotated frame has the object does not count
        Reference(keys(2), spot(5, 6), False),
        Reference(keys(3), spot(6, 7), False),
    ]
    ours = masks_of(model, keys(0), memory)
    everywhere = masks_of(model.with_settings(near=None), keys(0), memory)
    close = torch.zeros(GRID, dtype=torch.bool)
    close[0:12, 1:13] = True  # rows 4 to 7 and columns 5 to 8, and 4 further
    torch.testing.assert_close(ours[:, :, close], everywhere[:, :, close], atol=1e-5, rtol=0)
    assert (ours[:, 0, ~close] == 1).all() and (ours[:, 1, ~close] == 0).all()
    torch.testing.assert_close(ours.sum(1), torch.ones(1, *GRID), atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_an_object_that_was_nowhere_is_looked_for_everywhere(strength, backbone):
    model = LabelPropagation(backbone, PropagationSettings(near=2))
    both = torch.cat([spot(5, 6), spot(14, 20, strength)[:, 1:]], 1)
    memory = [Reference(keys(1), soft(1, 2), True), Reference(keys(2), both, False)]
    ours = masks_of(model, keys(0), memory)
    assert torch.equal(ours, masks_of(model.with_settings(near=None), keys(0), memory))


def test_with_no_context_all_cells_are_looked_at(backbone):
    model, memory = LabelPropagation(backbone, PropagationSettings(near=2)), references(1)
    assert torch.equal(masks_of(model, keys(0), memory), masks_of(model.with_settings(near=None), keys(0), memory))


# --- what is remembered


@pytest.mark.parametrize("preset", PROTOCOLS)
def test_remember_brings_masks_to_the_grid_as_the_protocol_does(preset, backbone):
    model, features = LabelPropagation(backbone, preset), keys(0, (6, 9))
    masks = soft(3, 2, (48, 72))
    cells = masks.view(1, 3, 6, 8, 9, 8)
    expected = {
        "area": cells.mean((3, 5)),
        "nearest": cells[:, :, :, 0, :, 0],
        "bilinear": cells[:, :, :, 3:5, :, 3:5].mean((3, 5)),  # the four pixels around a cell's centre
    }
    how = {"crw": "bilinear", "dino": "nearest", "vfs": "bilinear", "mask-vos": "area"}[preset]
    assert model.settings.shrink == how
    kept = model.remember(features, masks, annotated=True)
    assert kept.features is features and kept.annotated
    torch.testing.assert_close(kept.values, expected[how], atol=1e-6, rtol=0)
    torch.testing.assert_close(kept.values.sum(1), torch.ones(1, 6, 9), atol=1e-5, rtol=0)


def test_remember_leaves_masks_of_the_grid_alone(backbone):
    model, masks = LabelPropagation(backbone), soft(3)
    kept = model.remember(keys(0), masks)
    assert torch.equal(kept.values, masks) and not kept.annotated


def test_remember_keeps_no_object(backbone):
    kept = LabelPropagation(backbone).remember(keys(0, (6, 9)), torch.ones(1, 1, 48, 72))
    assert torch.equal(kept.values, torch.ones(1, 1, 6, 9))


# --- features


@pytest.mark.parametrize(("height", "width"), [(88, 120), (83, 117), (41, 40)])
def test_keys_are_unit_vectors_on_the_grid(height, width, backbone):
    with torch.no_grad():
        for grid in (None, 4, 8, 16):
            features = LabelPropagation(backbone, grid=grid).embed(picture(height, width))
            cell = grid or 8
            assert features.shape == (1, 64 + 128 + 256, -(-height // cell), -(-width // cell))
            norms = features.norm(dim=1)
            torch.testing.assert_close(norms, torch.ones_like(norms))


def test_cells_divide_the_frames_it_asks_for():
    assert LabelPropagation(Backbone("resnet18")).spec.multiple == 8
    assert LabelPropagation(Backbone("resnet18", stride=16), grid=8).spec.multiple == 16
    assert LabelPropagation(Backbone("vit_small_patch14_dinov2", (-1,)), grid=8).spec.multiple == 56


def test_mix_weighs_the_stages(backbone):
    one, other = picture(seed=1), picture(seed=2)

    def similarities(mix):
        model = LabelPropagation(backbone, mix=mix)
        with torch.no_grad():
            return torch.einsum("bchw,bchw->bhw", model.embed(one), model.embed(other))

    singles = [similarities(tuple(float(i == k) for i in range(3))) for k in range(3)]
    for mix in ((1.0, 1.0, 1.0), (2.0, 1.0, 0.5)):
        squares = [weight**2 for weight in mix]
        expected = sum(square * single for square, single in zip(squares, singles, strict=True)) / sum(squares)
        torch.testing.assert_close(similarities(mix), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(similarities(None), similarities((3.0, 3.0, 3.0)), atol=1e-5, rtol=0)


def test_the_weight_of_a_single_stage_does_not_matter():
    single = Backbone("resnet18", stages=(2,)).eval()
    with torch.no_grad():
        plain, weighed = (LabelPropagation(single, mix=mix).embed(picture()) for mix in (None, (2.0,)))
    torch.testing.assert_close(weighed, plain)


def test_identical_frames_keep_the_mask():
    model = load_model("label-propagation")
    with torch.no_grad():
        features = model.embed(picture(144, 192))
        labels = torch.zeros(1, *features.shape[2:], dtype=torch.int64)
        labels[:, 3:9, 4:11] = 1
        labels[:, 10:16, 12:21] = 2
        masks = F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
        memory = [model.remember(features, masks, annotated=True)]
        for _ in range(4):
            ours = masks_of(model, features, memory)
            memory.append(model.remember(features, ours))
    assert (ours.argmax(1) == labels).double().mean() > 0.97
    for index in (1, 2):
        both = (ours.argmax(1) == index) & (labels == index)
        either = (ours.argmax(1) == index) | (labels == index)
        assert both.sum() / either.sum() > 0.9


# --- the object itself


def test_it_is_a_guided_model(backbone):
    model = LabelPropagation(backbone)
    assert isinstance(model, GuidedModel)
    assert model.spec.policy is PRESETS["mask-vos"].policy and model.spec.size == 480


def test_it_adds_no_parameters(backbone):
    ours = dict(LabelPropagation(backbone).named_parameters())
    assert set(ours) == {f"backbone.{name}" for name, _ in backbone.named_parameters()}


def test_with_settings_changes_only_those(backbone):
    model = LabelPropagation(backbone, "dino", grid=4, mix=(1.0, 2.0, 3.0))
    policy = MemoryPolicy(4)
    other = model.with_settings(policy=policy, top_k=3)
    assert other.backbone is backbone and other.mix == (1.0, 2.0, 3.0) and other.grid == 4
    assert other.spec.policy is policy and other.settings.top_k == 3 and other.settings.temperature == 0.1
    assert model.settings == PRESETS["dino"]
    assert (other.settings.enlarge, other.settings.stretch) == ("linear", True)


def test_refusals(backbone):
    with pytest.raises(ModelError, match="unknown preset 'crv'; there are crw, dino, vfs, mask-vos"):
        LabelPropagation(backbone, "crv")
    with pytest.raises(ModelError, match="mix: expected 3 weights, one a stage, got 2"):
        LabelPropagation(backbone, mix=(1.0, 2.0))

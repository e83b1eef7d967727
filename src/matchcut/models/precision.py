"""Arithmetic that is float32 whatever surrounds it."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The same function with autocast off, on the device of its first tensor.

    Autocast makes matrix products and convolutions of float32 numbers ones of bfloat16, which has 8 bits: too few for
    masks that are carried from frame to frame, for coordinates, and for similarities that are divided by 0.05. Tensors
    that come in half precision are left to the function.
    """

    @wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = (one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
        with torch.autocast(next(tensors).device.type, enabled=False):
            return function(*args, **kwargs)

    return precise

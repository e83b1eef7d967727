"""Functions that torch.compile leaves as they are."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def uncompiled(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """`torch.compiler.disable` of a function, put on when torch.compile first meets it: the compiler takes a second to
    load, and most programs never need it."""
    disabled: list[Any] = []

    @functools.wraps(function)
    def called(*args: Inputs.args, **named: Inputs.kwargs) -> Output:
        if torch.compiler.is_compiling():
            if not disabled:
                disabled.append(torch.compiler.disable(function))
            return cast(Output, disabled[0](*args, **named))
        return function(*args, **named)

    return called

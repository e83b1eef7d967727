"""What every matching operator returns: a `Match` between query positions and reference positions.

And the precision that operators compute in: float32 at least, whatever autocast says around them.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from matchcut.errors import ShapeError

P = ParamSpec("P")
R = TypeVar("R")


@runtime_checkable
class Match(Protocol):
    """A match that carries values from references to a query. All matches satisfy `apply(v) == dense() @ v`."""

    @property
    def residual(self) -> Tensor:
        """(B,) detached: how far the match's own constraints are from holding; 0 where it has none."""

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, C, *reference), floating-point, to the query: (B, C, *query). Differentiable."""

    def dense(self) -> Tensor:
        """The whole match as a matrix (B, query, reference): for small inputs, tests and pictures."""


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """`function` without autocast on the device of the first tensor that it is given: similarities are divided by small
    temperatures, which enlarges what half precision loses."""

    @functools.wraps(function)
    def without_autocast(*args: P.args, **kwargs: P.kwargs) -> R:
        for one in (*args, *kwargs.values()):
            if isinstance(one, Tensor):
                with torch.autocast(one.device.type, enabled=False):
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return without_autocast


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in."""
    return functools.reduce(torch.promote_types, (one.dtype for one in tensors), torch.float32)


def check_values(values: Tensor) -> None:
    """What `apply` carries are means, which whole numbers would cut off."""
    if not values.is_floating_point():
        raise ShapeError(f"values: expected floating point, got {values.dtype}")


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of (..., N, K) and (..., K, M) in their own dtype. So are its gradients, which torch would
    make in half precision where `backward` is called under autocast.
    """
    result: Tensor = _Product.apply(a, b)
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    @full_precision
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        into_a = product(grads[0], b.mT) if ctx.needs_input_grad[0] else None
        into_b = product(a.mT, grads[0]) if ctx.needs_input_grad[1] else None
        return into_a, into_b

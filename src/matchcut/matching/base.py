"""What every matching operator returns: a `Match` between query positions and reference positions."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Match(Protocol):
    """A match that carries values from references to a query. All matches satisfy `apply(v) == dense() @ v`."""

    @property
    def residual(self) -> Tensor:
        """(B,) detached: how far the match's own constraints are from holding; 0 where it has none."""

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, C, *reference) to the query: (B, C, *query). Differentiable."""

    def dense(self) -> Tensor:
        """The whole match as a matrix (B, query, reference): for small inputs, tests and pictures."""

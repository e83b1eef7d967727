"""Features to features: optimal transport with entropic regularisation, by Sinkhorn's iterations.

The full Sinkhorn layer of TransportNet (Eq. 5, 6; Cuturi, "Sinkhorn Distances", NeurIPS 2013). The paper's Eq. 3 and
Eq. 7 contradict each other in what is normalised; here it is the positive kernel K = exp(q . r / epsilon). The
factorised layers stand in `matchcut.matching.factorised`, the iterations in `matchcut.matching.transport_solver`.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from matchcut.errors import ShapeError
from matchcut.matching.base import at_least_float32, check_values, full_precision, product
from matchcut.matching.transport_solver import carry, potentials
from matchcut.matching.uncompiled import uncompiled

EPSILON = 0.03
"""Carries masks between frames of real video best (docs/experiments/sinkhorn.md)."""
COARSE = 0.1
"""The largest rounding of a score, in units of epsilon: exponentials are wrong by that share."""


@dataclass(frozen=True)
class Transport:
    """The match `sinkhorn` returns: a transport plan, kept as two vectors.

    plan = query_mass * exp(score / epsilon + f + g) * reference_mass.

    Attributes:
        f: (B, N), the potential of each query cell in units of epsilon; N = product of query_shape.
        g: (B, M), of each reference cell.
        query_mass: (B, N), sums to 1.
        reference_mass: (B, M), sums to 1.
        residual: (B,) detached, L1 distance of the plan's row sums from query_mass, where the iterations stopped. They
            end with the columns, whose sums are reference_mass but for rounding.
        query_shape, reference_shape: sizes of the cells' axes.
        dtype: of the features, and of `plan` and `dense`.
        epsilon: that of the scores.
    """

    f: Tensor
    g: Tensor
    query_mass: Tensor
    reference_mass: Tensor
    residual: Tensor
    query_shape: tuple[int, ...]
    reference_shape: tuple[int, ...]
    dtype: torch.dtype
    epsilon: float
    _features: tuple[Tensor, Tensor] | None = field(repr=False)
    """(B, C, N) and (B, C, M)."""
    _scores: Tensor | None = field(repr=False)
    """(B, N, M), divided by epsilon, where there are no features."""

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, V, *reference) to the query (B, V, *query): means of values, 0 where a cell has no mass.

        The matrix is never made (but where costs were given). Differentiable in the values, features and masses.

        Raises:
            ShapeError: the values do not lie on the reference cells.
        """
        batch = len(self.f)
        if values.ndim < 2 or values.shape[0] != batch or tuple(values.shape[2:]) != self.reference_shape:
            raise ShapeError(
                f"values: expected (B, V, *reference) with B = {batch} and reference {self.reference_shape}, "
                f"got {tuple(values.shape)}"
            )
        check_values(values)
        dtype = torch.promote_types(values.dtype, self.f.dtype)
        flat = values.flatten(2).to(dtype)  # (B, V, M)
        if flat.numel() == 0 or self.f.numel() == 0:
            return values.new_zeros(*values.shape[:2], *self.query_shape)
        masses = self.query_mass.to(dtype), self.reference_mass.to(dtype)
        if self._features is not None:
            query, reference = self._features
            vectors = self.f.to(dtype), self.g.to(dtype), *masses
            carried = carry(query.to(dtype), reference.to(dtype), *vectors, flat, scale=1 / self.epsilon)
        else:
            rows = self._exponentials() * (self.query_mass > 0)[..., None]
            carried = product(flat * masses[1][:, None], rows.transpose(1, 2).to(dtype))
        shaped: Tensor = carried.reshape(*values.shape[:2], *self.query_shape)
        return shaped.to(values.dtype)

    def plan(self) -> Tensor:
        """The mass that goes from each query cell to each reference cell, (B, N, M); it sums to 1."""
        whole = self.query_mass[..., None] * self._exponentials() * self.reference_mass[:, None]
        return whole.to(self.dtype)

    def dense(self) -> Tensor:
        """plan / query_mass, (B, N, M): rows sum to 1, those of cells without mass to 0.

        Where both sides have N cells and uniform masses this is the doubly stochastic P of the paper (Eq. 6).
        """
        rows = self._exponentials() * self.reference_mass[:, None]
        return (rows * (self.query_mass > 0)[..., None]).to(self.dtype)

    def transposed(self) -> "Transport":
        """The same plan as a match in the other direction, which carries values from the query to the reference."""
        return Transport(
            self.g,
            self.f,
            self.reference_mass,
            self.query_mass,
            self.residual,
            self.reference_shape,
            self.query_shape,
            self.dtype,
            self.epsilon,
            None if self._features is None else (self._features[1], self._features[0]),
            None if self._scores is None else self._scores.transpose(1, 2),
        )

    def _exponentials(self) -> Tensor:
        scores = self._scores
        if self._features is not None:
            scores = product((self._features[0] * (1 / self.epsilon)).transpose(1, 2), self._features[1])
        assert scores is not None
        exponents = scores + self.f[..., None] + self.g[:, None]
        neither = (self.query_mass == 0)[..., None] & (self.reference_mass == 0)[:, None]
        return exponents.masked_fill(neither, 0.0).exp()  # nothing bounds them there


@full_precision
def sinkhorn(
    query: Tensor,
    reference: Tensor,
    *,
    epsilon: float = EPSILON,
    iterations: int = 20,
    tolerance: float | None = None,
    query_mass: Tensor | None = None,
    reference_mass: Tensor | None = None,
    streaming: bool = False,
) -> Transport:
    """Match query cells to reference cells so that each takes part with its mass (TransportNet, Eq. 5).

    K = exp(q . r / epsilon) is scaled so that its rows sum to `query_mass` and its columns to `reference_mass`: rows,
    then columns, `iterations` times. Pass L2-normalised features for the cosine, as in `affinity`. Differentiable in
    features and masses; the gradient is exactly that of the iterations. Autocast changes nothing.

    Args:
        query: (B, C, *query) features, of any number of axes; half precision is computed in float32.
        reference: (B, C, *reference) features.
        epsilon: above 0; small ones make the plan sharp, and need more iterations.
        iterations: at most so many, at least 1.
        tolerance: stop an item of the batch once its residual is at most that.
        query_mass: (B, *query), not negative, sums to 1 for each item; uniform where None. A cell with mass 0 takes no
            part.
        reference_mass: (B, *reference), likewise.
        streaming: never hold the (N, M) kernel but make it anew in each iteration: memory is one block of it.

    Returns:
        The match; `apply` carries values (B, V, *reference) to (B, V, *query).

    Raises:
        ShapeError: shapes, dtypes or devices that do not fit together; values that are not finite, or so large beside
            epsilon that their dtype cannot tell scores apart; masses that are negative or do not sum to 1.
        ValueError: a setting out of its range.
    """
    _check_settings(epsilon, iterations, tolerance)
    _check_features(query, reference)
    batch, _, *query_shape = query.shape
    reference_shape = reference.shape[2:]
    a = _mass("query_mass", query_mass, query, (batch, *query_shape))
    b = _mass("reference_mass", reference_mass, query, (batch, *reference_shape))
    dtype = at_least_float32(query)
    features = query.flatten(2).to(dtype), reference.flatten(2).to(dtype)
    settings = {"scale": 1 / epsilon, "iterations": iterations, "tolerance": tolerance, "streaming": streaming}
    if features[0].numel() and features[1].numel():
        _check_resolution("query, reference", epsilon, *(one.detach().norm(dim=1).amax() for one in features))
    f, g, residual = _solve(*features, a, b, settings)
    shapes = tuple(query_shape), tuple(reference_shape)
    return Transport(f, g, a, b, residual, *shapes, query.dtype, epsilon, features, None)


@full_precision
def sinkhorn_from_cost(
    cost: Tensor,
    *,
    epsilon: float = EPSILON,
    iterations: int = 20,
    tolerance: float | None = None,
    query_mass: Tensor | None = None,
    reference_mass: Tensor | None = None,
) -> Transport:
    """`sinkhorn` with K = exp(-cost / epsilon), for costs that are no inner products; `apply` makes the matrix here.

    Args:
        cost: (B, N, M), finite; what all of an item have in common does not matter. The other arguments are those of
            `sinkhorn`.

    Raises:
        ShapeError, ValueError: as in `sinkhorn`.
    """
    _check_settings(epsilon, iterations, tolerance)
    if cost.ndim != 3 or not cost.is_floating_point():
        raise ShapeError(f"cost: expected floating point (B, N, M), got {cost.dtype} {tuple(cost.shape)}")
    check_finite("cost", cost)
    batch, count, width = cost.shape
    a = _mass("query_mass", query_mass, cost, (batch, count))
    b = _mass("reference_mass", reference_mass, cost, (batch, width))
    scores = cost.to(at_least_float32(cost))
    if scores.numel():
        scores = scores - scores.detach().amin((1, 2), keepdim=True)
        _check_resolution("cost", epsilon, scores.detach().amax())
    scores = scores / -epsilon
    settings = {"scale": 1.0, "iterations": iterations, "tolerance": tolerance, "streaming": False}
    f, g, residual = _solve(scores, None, a, b, settings)
    return Transport(f, g, a, b, residual, (count,), (width,), cost.dtype, epsilon, None, scores)


def _solve(
    first: Tensor, second: Tensor | None, a: Tensor, b: Tensor, settings: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    if a.numel() == 0 or b.numel() == 0:
        return torch.zeros_like(a), torch.zeros_like(b), a.detach().sum(1)
    f, g, residual = potentials(first, second, a, b, **settings)
    return f, g, residual


def _check_settings(epsilon: float, iterations: int, tolerance: float | None) -> None:
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon: expected finite and above 0, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: expected above 0 (or None), got {tolerance}")


@uncompiled
def _check_resolution(name: str, epsilon: float, *factors: Tensor) -> None:
    """That scores / epsilon, at most the product of some factors, still have digits behind the point."""
    largest = math.prod(float(one) for one in factors) / epsilon
    if not largest * torch.finfo(factors[0].dtype).eps <= COARSE:
        raise ShapeError(
            f"{name}: expected scores that {factors[0].dtype} can tell apart in units of epsilon = {epsilon:g}, got "
            f"{largest:.1e} such units; give normalised features or smaller costs, a larger epsilon or float64"
        )


def _check_features(query: Tensor, reference: Tensor) -> None:
    if query.ndim < 3 or not query.is_floating_point():
        raise ShapeError(f"query: expected floating point (B, C, *query), got {query.dtype} {tuple(query.shape)}")
    if reference.ndim < 3 or reference.shape[:2] != query.shape[:2]:
        raise ShapeError(
            f"reference: expected (B, C, *reference) with B, C = {tuple(query.shape[:2])}, got {tuple(reference.shape)}"
        )
    if reference.dtype != query.dtype or reference.device != query.device:
        raise ShapeError(
            f"reference: expected {query.dtype} on {query.device} as the query, "
            f"got {reference.dtype} on {reference.device}"
        )
    check_finite("query", query)
    check_finite("reference", reference)


@uncompiled
def check_finite(name: str, tensor: Tensor) -> None:
    """Raise a ShapeError that names a tensor with NaN or infinite entries."""
    # The sum tells cheaply; where it overflows, each number is looked at.
    if not torch.isfinite(tensor.detach().sum()) and not torch.isfinite(tensor).all():
        raise ShapeError(f"{name}: expected finite values, got {int((~torch.isfinite(tensor)).sum())} that are not")


@uncompiled
def _mass(name: str, mass: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, cells), checked, and divided by its sum so that both sides have the same to the last bit; or uniform."""
    dtype = at_least_float32(like)
    cells = math.prod(shape[1:])
    if mass is None:
        return torch.full((shape[0], cells), 1 / max(1, cells), dtype=dtype, device=like.device)
    if tuple(mass.shape) != shape or mass.dtype != like.dtype or mass.device != like.device:
        raise ShapeError(
            f"{name}: expected {like.dtype} {shape} on {like.device} as the features, "
            f"got {mass.dtype} {tuple(mass.shape)} on {mass.device}"
        )
    check_finite(name, mass)
    flat = mass.flatten(1).to(dtype)
    if (flat < 0).any():
        raise ShapeError(f"{name}: expected no negative masses, got {float(flat.min()):.3g}")
    total = flat.sum(1, keepdim=True)
    allowed = 1e-4 if mass.dtype in (torch.float32, torch.float64) else 1e-2
    if cells and ((total - 1).abs() > allowed).any():
        worst = total[(total - 1).abs().argmax()]
        raise ShapeError(f"{name}: expected masses that sum to 1 for each item, got a sum of {float(worst):.6g}")
    return flat / total

"""The kernel of a transport problem, exp(S + f + g), by blocks of rows: stored, or made anew each time it is read.

S (B, N, M) are scores divided by epsilon, f (B, N) and g (B, M) potentials near the present ones (absorption in the log
domain: Schmitzer, "Stabilized Sparse Scaling Algorithms for Entropy Regularized Transport Problems", SIAM J. Sci.
Comput. 2019). An iteration of Sinkhorn is then two products with the kernel, both done while a block lies in the cache.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 2**19
"""Entries of the kernel that are worked on at once: 2 MiB in float32, about what the cache of a core holds."""
BLOCKS_ON_A_DEVICE = 64
"""So many times more at once on anything but a CPU, which starts work slowly and has no such cache to keep to."""
FLOOR = {torch.float32: -60.0, torch.float64: -400.0}
"""Exponents below are raised to it, so that no denormal numbers arise, which are slow."""
DRIFT = {torch.float32: 10.0, torch.float64: 50.0}
"""Potentials that moved by more are absorbed: what was raised to the floor then weighs at most exp(FLOOR + 4 * DRIFT)
of a row, below what its dtype can tell apart from nothing."""
CEILING = 80.0
"""Exponents above are lowered to it. There are none but in rows without mass, or with less than exp(-80)."""

Turn = Callable[[Tensor, slice], Tensor]
"""From a block's row sums (B, rows), and which rows these are, to the weights of the rows."""


@dataclass
class Products:
    """Scores as products of query (B, C, N), divided by epsilon, with reference (B, C, M)."""

    query: Tensor
    reference: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.query.shape[0], self.query.shape[2], self.reference.shape[2]

    def shifted(self, f: Tensor, g: Tensor) -> "Products":
        """Scores + f + g: two more channels, which costs less than adding to the products."""
        query = torch.cat([self.query, f[:, None], torch.ones_like(f)[:, None]], 1)
        return Products(query, torch.cat([self.reference, torch.ones_like(g)[:, None], g[:, None]], 1))

    def block(self, rows: slice, out: Tensor) -> Tensor:
        return torch.bmm(self.query[:, :, rows].transpose(1, 2), self.reference, out=out)

    def zeros(self) -> tuple[Tensor, ...]:
        """Where gradients are gathered."""
        return torch.zeros_like(self.query), torch.zeros_like(self.reference)

    def gather(self, into: tuple[Tensor, ...], rows: slice, grad: Tensor) -> None:
        """Add the gradients that follow from that of a block of scores."""
        into[0][:, :, rows] += torch.bmm(self.reference, grad.transpose(1, 2))
        into[1].baddbmm_(self.query[:, :, rows], grad)


@dataclass
class Given:
    """Scores (B, N, M) as they are, and potentials to be added."""

    matrix: Tensor
    potentials: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.matrix.shape[0], self.matrix.shape[1], self.matrix.shape[2]

    def shifted(self, f: Tensor, g: Tensor) -> "Given":
        return Given(self.matrix, (f, g))

    def block(self, rows: slice, out: Tensor) -> Tensor:
        out.copy_(self.matrix[:, rows])
        if self.potentials is not None:
            f, g = self.potentials
            out.add_(f[:, rows, None]).add_(g[:, None])
        return out

    def zeros(self) -> tuple[Tensor, ...]:
        return (torch.zeros_like(self.matrix),)

    def gather(self, into: tuple[Tensor, ...], rows: slice, grad: Tensor) -> None:
        into[0][:, rows] += grad


Scores = Products | Given


def batch_parts(shape: tuple[int, int, int], channels: int, like: Tensor) -> Iterator[slice]:
    """The items of a batch that are solved at once: many small problems, or one of more than a block."""
    batch, count, width = shape
    step = max(1, _entries(like) // max(count * width, channels * (count + width)))
    return (slice(i, min(i + step, batch)) for i in range(0, batch, step))


def _entries(like: Tensor) -> int:
    return BLOCK if like.device.type == "cpu" else BLOCK * BLOCKS_ON_A_DEVICE


class Kernel:
    """exp(S + f + g) at the potentials it was last settled at."""

    def __init__(self, scores: Scores, like: Tensor, stored: bool) -> None:
        batch, count, width = scores.shape
        self.scores = scores
        self.stored = stored
        self.step = min(count, max(1, _entries(like) // (batch * width)))
        self.space = like.new_empty(batch, count if stored else self.step, width)
        self.floor, self.drift = FLOOR[like.dtype], DRIFT[like.dtype]

    def settle(self, f: Tensor, g: Tensor) -> None:
        self.f, self.g = f, g
        self.shifted = self.scores.shifted(f, g)
        if self.stored:
            for rows in self._row_blocks():
                self._exp(self.shifted.block(rows, self._room(rows)))

    def near(self, f: Tensor, g: Tensor) -> bool:
        """Whether these potentials are near enough to those it is settled at."""
        return bool(torch.maximum((f - self.f).abs().amax(), (g - self.g).abs().amax()) <= self.drift)

    def first(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """f and g after the first iteration, from g = 0, where they may move far; settles there.

        One exponential an entry, of the difference to its row's maximum, where that can hold the columns' sums too;
        otherwise in the log domain.
        """
        f, total = torch.empty_like(a), torch.zeros_like(b)
        even = bool(b.amin() > 1e-6 * b.amax())  # else the largest of a row may be of a column that hardly counts
        for rows in self._row_blocks() if even else ():
            block = self.scores.block(rows, self._room(rows))
            top = block.amax(2)
            block.sub_(top[..., None]).clamp_(min=self.floor).exp_()
            sums = _times(block, b)
            f[:, rows] = -top - sums.log()
            block.mul_(sums.reciprocal()[..., None])
            _add_times(total, a[:, rows], block)
        if not even or total.amin().log() < self.floor / 3:
            f, g = self._first_in_logs(a, b)
            self.settle(f, g)
        elif self.stored:
            self.f, self.g = f, -total.log()
            self.shifted = self.scores
            self.space.mul_(total.reciprocal()[:, None])
        else:
            self.settle(f, -total.log())
        return self.f, self.g

    def _first_in_logs(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        log_a, log_b = a.log(), b.log()
        f, g = torch.empty_like(a), torch.full_like(b, -torch.inf)
        for rows in self._row_blocks():
            block = self.scores.block(rows, self._room(rows))
            f[:, rows] = -torch.logsumexp(block + log_b[:, None], 2)
            g = torch.logaddexp(g, torch.logsumexp(block.add_((f + log_a)[:, rows, None]), 1))
        return f, -g

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in self._row_blocks():
            room = self._room(rows)
            yield rows, room if self.stored else self._exp(self.shifted.block(rows, room))

    def rows(self, weights: Tensor) -> Tensor:
        """K @ weights: (B, M) to (B, N)."""
        return torch.cat([_times(block, weights) for _, block in self.blocks()], 1)

    def columns(self, weights: Tensor) -> Tensor:
        """weights @ K: (B, N) to (B, M)."""
        total = self.g.new_zeros(self.g.shape)
        for rows, block in self.blocks():
            _add_times(total, weights[:, rows], block)
        return total

    def sweep(self, weights: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """The sums x = K @ weights (B, N), and turn(x) @ K (B, M), in one pass."""
        sums, total = torch.empty_like(self.f), torch.zeros_like(self.g)
        for rows, block in self.blocks():
            sums[:, rows] = _times(block, weights)
            _add_times(total, turn(sums[:, rows], rows), block)
        return sums, total

    def _row_blocks(self) -> Iterator[slice]:
        count = self.scores.shape[1]
        return (slice(i, min(i + self.step, count)) for i in range(0, count, self.step))

    def _room(self, rows: slice) -> Tensor:
        return self.space[:, rows] if self.stored else self.space[:, : rows.stop - rows.start]

    def _exp(self, block: Tensor) -> Tensor:
        return block.clamp_(self.floor, CEILING).exp_()


def _times(block: Tensor, weights: Tensor) -> Tensor:
    """(B, rows, M) times (B, M): many matrices at once, or one, for which there is a faster product."""
    if len(block) == 1:
        return torch.mv(block[0], weights[0])[None]
    return torch.bmm(block, weights[..., None])[..., 0]


def _add_times(total: Tensor, weights: Tensor, block: Tensor) -> None:
    """Add (B, rows) times (B, rows, M) to the total (B, M)."""
    if len(block) == 1:
        total[0].addmv_(block[0].t(), weights[0])
    else:
        total += torch.bmm(weights[:, None], block)[:, 0]

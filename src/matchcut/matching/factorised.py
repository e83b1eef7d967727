"""Optimal transport between two feature maps, factorised into long-distant and short-distant groups of cells.

TransportNet, Section 3.2.3 and 3.2.4. The N = H * W cells are cut into blocks of P = ph * pw neighbours. Long-distant
groups: the Q = N / P cells that stand at the same place of their block, P groups. Short-distant groups: the P cells of
one block, Q groups. (The permutation is that of interlaced attention: Huang et al., "Interlaced Sparse Self-Attention
for Semantic Segmentation", 2019.) Each group is a transport problem of its own (Eq. 7, 9), so that the plan of all
cells is a block matrix, and P^S P^L joins any cell with any other.

Sizes that ph and pw do not divide are padded; the padding has no mass, so that it influences nothing.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.errors import ShapeError
from matchcut.matching.base import at_least_float32, full_precision, product
from matchcut.matching.transport import Transport, check_finite, sinkhorn, sinkhorn_from_cost

Groups = int | tuple[int, int]
Distance = Literal["long", "short"]


class SinkhornSettings(TypedDict, total=False):
    """Keyword arguments of `sinkhorn`, with its defaults."""

    epsilon: float
    iterations: int
    tolerance: float | None
    streaming: bool


STRIP = 2**19
"""Numbers of a map whose short-distant groups are matched at once where nothing is kept."""


@dataclass(frozen=True)
class GroupedTransport:
    """A transport plan within groups of cells: the match of `long_sinkhorn` and `short_sinkhorn`.

    Attributes:
        groups: the plans, a batch of B * (number of groups); long: P groups with (ceil(H / ph), ceil(W / pw)) cells,
            short: ceil(H / ph) * ceil(W / pw) groups with (ph, pw) cells; padding included, without mass.
        distance: "long" or "short".
        block: (ph, pw).
        size: (H, W).
    """

    groups: Transport
    distance: Distance
    block: tuple[int, int]
    size: tuple[int, int]

    @property
    def residual(self) -> Tensor:
        """(B,) detached, L1 distance of the row sums of the whole plan from its masses 1 / N."""
        count = _grouped(self._ones(), self.block, self.distance).sum((1, 2, 3))  # cells of each group
        each = self.groups.residual.reshape(-1, len(count))
        return (each * (count / math.prod(self.size))).sum(1)

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, V, H, W) within the groups: (B, V, H, W), the P^L X or P^S X of the paper.

        Raises:
            ShapeError: the values do not lie on the cells.
        """
        ratio = math.prod(_counts(self.size, self.block, self.distance))
        if values.ndim != 4 or tuple(values.shape[2:]) != self.size or len(values) * ratio != len(self.groups.f):
            raise ShapeError(
                f"values: expected (B, V, H, W) with B = {len(self.groups.f) // ratio} and (H, W) = {self.size}, "
                f"got {tuple(values.shape)}"
            )
        carried = self.groups.apply(_grouped(values, self.block, self.distance))
        return _ungrouped(carried, len(values), self.size, self.block, self.distance)

    def dense(self) -> Tensor:
        """The block matrix (B, H * W, H * W), its rows and columns in the order of the map; both sum to 1."""
        height, width = self.size
        numbers = torch.arange(1.0, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
        cells = _grouped(numbers, self.block, self.distance).flatten(1).long().to(self.groups.f.device)  # 0: padding
        inside = self.groups.dense()
        batch = len(inside) // len(cells)
        inside = inside.reshape(batch, len(cells), *inside.shape[1:])  # (B, groups, cells, cells)
        whole = inside.new_zeros(batch, height * width + 1, height * width + 1)
        whole[:, cells[:, :, None], cells[:, None]] = inside
        return whole[:, 1:, 1:]

    def transposed(self) -> "GroupedTransport":
        """The same plan as a match in the other direction."""
        return GroupedTransport(self.groups.transposed(), self.distance, self.block, self.size)

    def _ones(self) -> Tensor:
        return self.groups.f.new_ones(1, 1, *self.size)


@dataclass(frozen=True)
class LongShortTransport:
    """The match of `long_short_sinkhorn`: P^S P^L, two plans one after the other.

    Attributes:
        long, short: P^L and P^S.
        carried: Z_a and Z_m, the two maps carried by P^L (Eq. 8), from which P^S was made.
    """

    long: GroupedTransport
    short: GroupedTransport
    carried: tuple[Tensor, Tensor]

    @property
    def residual(self) -> Tensor:
        """(B,) detached, the sum of both plans' residuals: a bound on that of P^S P^L."""
        return self.long.residual + self.short.residual

    def apply(self, values: Tensor) -> Tensor:
        """P^S P^L V of values (B, V, H, W)."""
        return self.short.apply(self.long.apply(values))

    def dense(self) -> Tensor:
        """P^S P^L, (B, H * W, H * W)."""
        return product(self.short.dense(), self.long.dense())

    def streams(self) -> tuple[Tensor, Tensor]:
        """Y_a and Y_m, the two maps carried by P^S P^L (Eq. 10); P^L is not applied again."""
        return _both(self.short, *self.carried)


@full_precision
def long_sinkhorn(
    appearance: Tensor,
    motion: Tensor,
    *,
    groups: Groups = 8,
    normalise: bool = True,
    **settings: Unpack[SinkhornSettings],
) -> GroupedTransport:
    """P^L: match cells of `appearance` to cells of `motion` at the same place of their blocks (Eq. 7).

    With groups=1 there is one group of all cells: the full Sinkhorn layer of Eq. 6.

    Args:
        appearance, motion: (B, C, H, W) features.
        groups: P, or (ph, pw) with P = ph * pw; 8 is (2, 4). At most the size of the map on each axis.
        normalise: divide features by their L2 norms, so that scores are cosines (Eq. 3); otherwise they are taken as
            they are.
        settings: of each group's problem, as of `sinkhorn`.

    Raises:
        ShapeError: maps that do not fit together, or that are not finite.
        ValueError: groups that do not fit, or another setting out of its range.
    """
    return _grouped_sinkhorn(appearance, motion, groups, "long", normalise, settings)


@full_precision
def short_sinkhorn(
    appearance: Tensor,
    motion: Tensor,
    *,
    groups: Groups = 8,
    normalise: bool = True,
    **settings: Unpack[SinkhornSettings],
) -> GroupedTransport:
    """P^S: match cells of `appearance` to cells of `motion` in the same block of ph x pw neighbours (Eq. 9).

    Arguments and errors are those of `long_sinkhorn`; `groups` is P here too, the number of cells of a block.
    """
    return _grouped_sinkhorn(appearance, motion, groups, "short", normalise, settings)


@full_precision
def long_short_sinkhorn(
    appearance: Tensor,
    motion: Tensor,
    *,
    groups: Groups = 8,
    normalise: bool = True,
    **settings: Unpack[SinkhornSettings],
) -> LongShortTransport:
    """P^S P^L: first the long-distant match, then the short-distant match of what it carried (Eq. 7 to 10).

    Z_a = P^L X_a and Z_m = P^L X_m: both maps are carried by the same plan; P^S is made from Z_a and Z_m.

    Arguments and errors are those of `long_sinkhorn`. With `normalise`, Z_a and Z_m are normalised again for the scores
    of P^S, since means of unit vectors are shorter; `streams()` returns Y_a and Y_m, of the features as they are.
    """
    far = _grouped_sinkhorn(appearance, motion, groups, "long", normalise, settings)
    carried = _both(far, appearance, motion)
    near = _grouped_sinkhorn(*carried, groups, "short", normalise, settings)
    return LongShortTransport(far, near, carried)


class LongSinkhorn(nn.Module):
    """The LSH layer: two maps (B, C, H, W), appearance and motion, to Z_a and Z_m (Eq. 7, 8).

    Scores are cosines; what is carried are the features as they are. `LongSinkhorn(groups=1)` is the full SH layer
    (Eq. 6). Settings are those of `long_sinkhorn`.
    """

    def __init__(self, groups: Groups = 8, **settings: Unpack[SinkhornSettings]) -> None:
        super().__init__()
        block_of(groups)
        self.groups, self.settings = groups, settings

    def match(self, appearance: Tensor, motion: Tensor) -> GroupedTransport | LongShortTransport:
        """The match by which `forward` carries."""
        return long_sinkhorn(appearance, motion, groups=self.groups, **self.settings)

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        if _differentiated(appearance, motion):
            return _both(self.match(appearance, motion), appearance, motion)
        first, second = _carry_long(appearance, motion, self.groups, self.settings)
        return first, second

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in {"groups": self.groups, **self.settings}.items())


class ShortSinkhorn(LongSinkhorn):
    """The SSH layer: as `LongSinkhorn`, within blocks of neighbours (Eq. 9, 10)."""

    def match(self, appearance: Tensor, motion: Tensor) -> GroupedTransport:
        return short_sinkhorn(appearance, motion, groups=self.groups, **self.settings)

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        if _differentiated(appearance, motion):
            return _both(self.match(appearance, motion), appearance, motion)
        carried = [torch.empty_like(one) for one in (appearance, motion)]
        return _carry_short(appearance, motion, carried, self.groups, self.settings)


class LongShortSinkhorn(LongSinkhorn):
    """The LSSH block: an LSH and an SSH layer, to Y_a and Y_m (Eq. 7 to 10)."""

    def match(self, appearance: Tensor, motion: Tensor) -> LongShortTransport:
        return long_short_sinkhorn(appearance, motion, groups=self.groups, **self.settings)

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        if _differentiated(appearance, motion):
            return self.match(appearance, motion).streams()
        carried = _carry_long(appearance, motion, self.groups, self.settings)
        return _carry_short(carried[0], carried[1], carried, self.groups, self.settings)


def _grouped_sinkhorn(
    appearance: Tensor,
    motion: Tensor,
    groups: Groups,
    distance: Distance,
    normalise: bool,
    settings: SinkhornSettings,
) -> GroupedTransport:
    _check_maps(appearance, motion, groups)
    block, size = block_of(groups), (appearance.shape[2], appearance.shape[3])
    dtype = at_least_float32(appearance)
    mass = _grouped(appearance.new_ones(1, 1, *size, dtype=dtype), block, distance)[:, 0]
    mass = (mass / mass.sum((1, 2), keepdim=True)).repeat(len(appearance), 1, 1)
    maps = (one.to(dtype) for one in (appearance, motion))
    query, reference = (_grouped(F.normalize(one, dim=1) if normalise else one, block, distance) for one in maps)
    match = sinkhorn(query, reference, query_mass=mass, reference_mass=mass, **settings)
    return GroupedTransport(replace(match, dtype=appearance.dtype), distance, block, size)


def _check_maps(appearance: Tensor, motion: Tensor, groups: Groups) -> None:
    if appearance.ndim != 4 or not appearance.is_floating_point():
        raise ShapeError(
            f"appearance: expected floating point (B, C, H, W), got {appearance.dtype} {tuple(appearance.shape)}"
        )
    if motion.shape != appearance.shape or motion.dtype != appearance.dtype or motion.device != appearance.device:
        raise ShapeError(
            f"motion: expected {appearance.dtype} {tuple(appearance.shape)} on {appearance.device} as appearance, "
            f"got {motion.dtype} {tuple(motion.shape)} on {motion.device}"
        )
    check_finite("appearance", appearance)
    check_finite("motion", motion)
    block, size = block_of(groups), (appearance.shape[2], appearance.shape[3])
    if block[0] > size[0] or block[1] > size[1]:
        raise ValueError(f"groups: {block[0]} x {block[1]} do not fit a map of {size[0]} x {size[1]} cells")


def _both(match: GroupedTransport | LongShortTransport, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps carried, in one go."""
    first, second = match.apply(torch.cat([appearance, motion], 1)).chunk(2, 1)
    return first, second


def _differentiated(*maps: Tensor) -> bool:
    return torch.is_grad_enabled() and any(one.requires_grad for one in maps)


@full_precision
def _carry_long(appearance: Tensor, motion: Tensor, groups: Groups, settings: SinkhornSettings) -> list[Tensor]:
    """Z_a and Z_m one group after the other, with nothing kept for a backward pass."""
    _check_maps(appearance, motion, groups)
    ph, pw = block_of(groups)
    carried = [torch.empty_like(one) for one in (appearance, motion)]
    for y, x in itertools.product(range(ph), range(pw)):
        pair = [one[:, :, y::ph, x::pw] for one in (appearance, motion)]
        for out, one in zip(carried, _carry_group(pair[0], pair[1], settings), strict=True):
            out[:, :, y::ph, x::pw] = one
    return carried


def _carry_group(appearance: Tensor, motion: Tensor, settings: SinkhornSettings) -> Iterator[Tensor]:
    """Both maps of one group of cells, carried. Where its plan is no larger than they are, scores are made once."""
    batch, channels, height, width = appearance.shape
    if height * width > 2 * channels or settings.get("streaming"):
        yield from _both(long_sinkhorn(appearance, motion, groups=1, **settings), appearance, motion)
        return
    dtype = at_least_float32(appearance)
    query, reference = (F.normalize(one.to(dtype).flatten(2), dim=1) for one in (appearance, motion))
    cost = -query.mT @ reference
    del query, reference
    plan = sinkhorn_from_cost(cost, **{name: one for name, one in settings.items() if name != "streaming"}).dense()  # type: ignore[arg-type]
    for one in (appearance, motion):
        yield (one.to(dtype).flatten(2) @ plan.mT).reshape(batch, channels, height, width)


@full_precision
def _carry_short(
    appearance: Tensor, motion: Tensor, carried: Sequence[Tensor], groups: Groups, settings: SinkhornSettings
) -> tuple[Tensor, Tensor]:
    """Y_a and Y_m some rows of blocks after the other, into `carried`, which may be the maps themselves."""
    _check_maps(appearance, motion, groups)
    ph, _ = block_of(groups)
    step = ph * max(1, STRIP // max(1, appearance[:, :, :ph].numel()))
    tops = range(0, appearance.shape[2] - ph + 1, step)  # what is left of a block below them joins the last
    for top, bottom in zip(tops, [*tops[1:], appearance.shape[2]], strict=True):
        pair = [one[:, :, top:bottom] for one in (appearance, motion)]
        match = short_sinkhorn(pair[0], pair[1], groups=groups, **settings)
        for out, one in zip(carried, _both(match, pair[0], pair[1]), strict=True):
            out[:, :, top:bottom] = one
    return carried[0], carried[1]


def block_of(groups: Groups) -> tuple[int, int]:
    """(ph, pw): as given, or the two factors of P that differ least, the smaller one first."""
    if type(groups) is int and groups >= 1:
        height = next(one for one in range(math.isqrt(groups), 0, -1) if groups % one == 0)
        return height, groups // height
    if isinstance(groups, tuple) and len(groups) == 2 and all(type(one) is int and one >= 1 for one in groups):
        return groups
    raise ValueError(f"groups: expected a number or (ph, pw), at least 1, got {groups!r}")


def _counts(size: tuple[int, int], block: tuple[int, int], distance: Distance) -> tuple[int, int]:
    """How many groups there are along each axis."""
    return block if distance == "long" else (-(-size[0] // block[0]), -(-size[1] // block[1]))


def _grouped(maps: Tensor, block: tuple[int, int], distance: Distance) -> Tensor:
    """(B, C, H, W) to (B * groups, C, cells, cells), padded with zeros."""
    ph, pw = block
    if maps.shape[2] % ph or maps.shape[3] % pw:
        maps = F.pad(maps, (0, -maps.shape[3] % pw, 0, -maps.shape[2] % ph))
    batch, channels, height, width = maps.shape
    maps = maps.reshape(batch, channels, height // ph, ph, width // pw, pw)
    # (B, place y, place x, C, block y, block x), or blocks and places the other way about
    maps = maps.permute(0, 3, 5, 1, 2, 4) if distance == "long" else maps.permute(0, 2, 4, 1, 3, 5)
    return maps.flatten(0, 2)


def _ungrouped(maps: Tensor, batch: int, size: tuple[int, int], block: tuple[int, int], distance: Distance) -> Tensor:
    """(B * groups, C, cells, cells) to (B, C, H, W), without the padding."""
    maps = maps.reshape(batch, *_counts(size, block, distance), *maps.shape[1:])
    maps = maps.permute(0, 3, 4, 1, 5, 2) if distance == "long" else maps.permute(0, 3, 1, 4, 2, 5)
    return maps.flatten(4, 5).flatten(2, 3)[:, :, : size[0], : size[1]]

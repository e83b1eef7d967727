"""Proof that networks learn through the matching layers: each learns a task that greedy matching cannot do.

Two tasks, both of things that look alike. What is learned is how to look: observations are a mixture of appearance and
of clutter some five times as strong, and a linear embedding has to tell them apart. The loss knows only colours that
the match carries from the reference to the query, so all gradients come through the layer.

* Twins, told apart by one-to-one matching alone (`assign`, `sinkhorn`, `long_short_sinkhorn`). Each of the objects in
  a row shares one of its two parts with either neighbour. In the query, in another order, one part of each is occluded,
  so that a view fits two objects equally well: an object and its twin look the same to it, and no cost of a pair,
  however learned, prefers the right one. But only one assignment fits all views.
* Moved copies, told apart by position alone (`affinity` with a window, `deform`). A frame has four copies of one
  object, each of which has moved by up to `REACH` cells. These layers have no one-to-one constraint, and one would not
  help: the copies may be exchanged at no cost.

Beside them stand the same embedding under a softmax over each row, `greedy` and `hungarian` on the costs that it
learned, and both on the true costs: what looks the same costs 0, all else 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.benchmarks.drawing import COLOURS, GREY, bare, new_figure, save
from matchcut.files import write_csv
from matchcut.matching import (
    Assignment,
    DeformableStack,
    Match,
    affinity,
    assign,
    deform,
    greedy,
    hungarian,
    long_short_sinkhorn,
    sinkhorn,
)

PARTS, CLUTTER, CHANNELS = 24, 8, 40
"""Dimensions of appearance and of clutter, and channels of an observation; the rest is noise."""
OBJECTS = 8
BLOCK = (2, 4)
"""Of `long_short_sinkhorn`; its map has 8 x 8 cells, and the 8 of each long-distant group are a row of twins."""
SIDE, QUARTER, REACH = 3, 8, 3
"""Sides of a moved object and of the quarter of the frame where it stays, and how far it moves on each axis."""
COLOUR = 8
"""Channels of what is carried."""
HELD_OUT, POINTS = 4, 12
"""Batches of problems that are never trained on, and how often the accuracy on them is measured."""


@dataclass(frozen=True)
class Problems:
    """Observations of a query and a reference, and which thing each of their cells shows (0: none)."""

    query: Tensor
    """(B, CHANNELS, H, W), as the reference"""
    reference: Tensor
    query_things: Tensor
    """(B, H, W) int64, as those of the reference"""
    reference_things: Tensor
    costs: Tensor
    """(B, Q, R), 0 where both look the same, clutter and noise apart, else 1."""

    def colours(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random colours of all things (B, K, COLOUR), the query's (B, COLOUR, H, W) and the reference's."""
        count = 1 + int(self.reference_things.max())
        palette = torch.randn(len(self.query), count, COLOUR, generator=generator)
        items = torch.arange(len(palette))[:, None]
        painted = [
            palette[items, things.flatten(1)].mT.reshape(len(palette), COLOUR, *things.shape[1:])
            for things in (self.query_things, self.reference_things)
        ]
        return palette, painted[0], painted[1]


def twins(count: int, generator: torch.Generator) -> Problems:
    """`count` rows of OBJECTS twins: query and reference (B, CHANNELS, 1, OBJECTS), in random orders."""
    parts = F.normalize(torch.randn(count, OBJECTS + 1, PARTS, generator=generator), dim=2)
    # Objects 0, 1, ... before the cut show the part they share with the one before, the others that with the one after.
    cut = torch.randint(0, OBJECTS + 1, (count, 1), generator=generator)
    orders = [torch.rand(count, OBJECTS, generator=generator).argsort(1) for _ in range(2)]
    items = torch.arange(count)[:, None]
    seen = orders[0] + (orders[0] >= cut)
    views, wholes = parts[items, seen], parts[items, orders[1]] + parts[items, orders[1] + 1]
    alike = (seen[:, :, None] == orders[1][:, None]) | (seen[:, :, None] == orders[1][:, None] + 1)
    observed = [_observe(one, generator).mT[:, :, None] for one in (views, wholes)]
    return Problems(observed[0], observed[1], orders[0][:, None] + 1, orders[1][:, None] + 1, 1 - alike.float())


def mosaic(count: int, generator: torch.Generator) -> Problems:
    """`twins` in each long-distant group of a map: query and reference (B, CHANNELS, 8, 8)."""
    groups = BLOCK[0] * BLOCK[1]
    rows = twins(count * groups, generator)

    def spread(values: Tensor) -> Tensor:
        """(B * groups, C, 1, OBJECTS) to (B, C, 8, 8)."""
        values = values.reshape(count, *BLOCK, -1, BLOCK[1], BLOCK[0]).permute(0, 3, 4, 1, 5, 2)
        return values.reshape(count, values.shape[1], OBJECTS, OBJECTS)

    first = OBJECTS * torch.arange(groups).repeat(count)[:, None, None]  # each group has things of its own
    things = [spread((one + first)[:, None])[:, 0] for one in (rows.query_things, rows.reference_things)]
    return Problems(spread(rows.query), spread(rows.reference), things[0], things[1], rows.costs)


def moved(count: int, generator: torch.Generator) -> Problems:
    """`count` frames with four copies of one object: query and reference (B, CHANNELS, 16, 16)."""
    thing = F.normalize(torch.randn(count, SIDE, SIDE, PARTS, generator=generator), dim=3)
    thing = torch.cat((thing[..., 1:], torch.ones_like(thing[..., :1])), 3)  # and what all objects have in common
    room = QUARTER - SIDE
    start = torch.randint(0, room + 1, (count, 4, 2), generator=generator)
    low, high = (start - REACH).clamp(min=0), (start + REACH).clamp(max=room)
    end = low + (torch.rand(count, 4, 2, generator=generator) * (high - low + 1)).long()
    cells, items = torch.arange(SIDE), torch.arange(count)[:, None, None]
    looks, things = [], []
    for places in (end, start):
        look = torch.zeros(count, 2 * QUARTER, 2 * QUARTER, PARTS)
        shown = torch.zeros(count, 2 * QUARTER, 2 * QUARTER, dtype=torch.long)
        for copy in range(4):
            y = places[:, copy, 0, None] + cells + copy // 2 * QUARTER  # (B, SIDE)
            x = places[:, copy, 1, None] + cells + copy % 2 * QUARTER
            look[items, y[:, :, None], x[:, None]] = thing
            shown[items, y[:, :, None], x[:, None]] = copy + 1
        looks.append(look)
        things.append(shown)
    costs = (torch.cdist(looks[0].flatten(1, 2), looks[1].flatten(1, 2)) > 1e-3).float()
    observed = [_observe(one, generator).movedim(-1, 1) for one in looks]
    return Problems(observed[0], observed[1], things[0], things[1], costs)


def _observe(look: Tensor, generator: torch.Generator) -> Tensor:
    """(..., PARTS) to (..., CHANNELS): mixed, always in the same way, with clutter and noise."""
    mixture = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(0)))[0]
    clutter = 2 * torch.randn(*look.shape[:-1], CLUTTER, generator=generator)
    noise = 0.05 * torch.randn(*look.shape[:-1], CHANNELS, generator=generator)
    seen: Tensor = torch.cat((look, clutter), -1) @ mixture[: PARTS + CLUTTER]
    return seen + noise


class Embedding(nn.Module):
    """A linear map of the channels to unit vectors (B, PARTS, H, W), and a vector for each place of a block if asked.

    `long_short_sinkhorn` needs these: what its first match has carried, its second one can leave where it is by them.
    """

    def __init__(self, places: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.linear = nn.Conv2d(CHANNELS, PARTS, 1)
        self.places = None if places is None else nn.Parameter(0.2 * torch.randn(PARTS, *places))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = F.normalize(self.linear(x), dim=1)
        if self.places is None:
            return made
        times = [size // count for size, count in zip(x.shape[2:], self.places.shape[1:], strict=True)]
        tiled: Tensor = F.normalize(made + self.places.repeat(1, *times), dim=1)
        return tiled


class Offsets(nn.Module):
    """Both observations to the offsets of `deform`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv2d(CHANNELS, 4, 1)
        self.stack = DeformableStack(8, (8, 2), kernel=5)

    def forward(self, query: Tensor, reference: Tensor) -> Tensor:
        offsets: Tensor = self.stack(torch.cat((self.linear(query), self.linear(reference)), 1))
        return offsets


@dataclass(frozen=True)
class Trial:
    """What is trained on which problems, and how its network makes a match of a query and a reference."""

    problems: Callable[[int, torch.Generator], Problems]
    network: Callable[[], nn.Module]
    match: Callable[[Any, Tensor, Tensor], Match]
    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Rows:
    """The match of the rival: a softmax over each row of the scores, with neither constraint nor window."""

    matrix: Tensor
    """(B, Q, R)"""

    @property
    def residual(self) -> Tensor:
        """(B,) zeros: rows sum to 1 by construction."""
        return self.matrix.new_zeros(len(self.matrix))

    def apply(self, values: Tensor) -> Tensor:
        """Values (B, C, H, W) to the query, which has the size of the reference here."""
        carried: Tensor = values.flatten(2) @ self.matrix.mT
        return carried.reshape(values.shape)

    def dense(self) -> Tensor:
        """The matrix (B, Q, R)."""
        return self.matrix


def _rows(network: nn.Module, query: Tensor, reference: Tensor) -> Rows:
    return Rows((-_costs(network, query, reference) / 0.1).softmax(2))


def _costs(network: nn.Module, query: Tensor, reference: Tensor) -> Tensor:
    """1 - cosine of all pairs, (B, Q, R)."""
    cosines: Tensor = network(query).flatten(2).mT @ network(reference).flatten(2)
    return 1 - cosines


RIVALS = ROWS, GREEDY, HUNGARIAN = "row softmax", "row softmax, then greedy", "row softmax, then Hungarian"
TRUE = "greedy, true costs", "Hungarian, true costs"
WINDOW: dict[str, Any] = {"radius": REACH, "window": "square"}
TRIALS: dict[str, dict[str, Trial]] = {
    "twins": {
        "assign": Trial(twins, Embedding, lambda net, q, r: assign(_costs(net, q, r)), 1000, 64, 0.003),
        "sinkhorn": Trial(twins, Embedding, lambda net, q, r: sinkhorn(net(q), net(r)), 1000, 64, 0.003),
        "long_short_sinkhorn": Trial(
            mosaic,
            lambda: Embedding(BLOCK),
            lambda net, q, r: long_short_sinkhorn(net(q), net(r), groups=BLOCK),
            1000,
            8,
            0.01,
        ),
        ROWS: Trial(twins, Embedding, _rows, 1000, 64, 0.003),
    },
    "moved copies": {
        "affinity": Trial(
            moved, Embedding, lambda net, q, r: affinity(net(q), net(r), temperature=0.1, **WINDOW), 300, 8, 0.003
        ),
        "deform": Trial(moved, Offsets, lambda net, q, r: deform(net(q, r)), 300, 8, 0.006),
        ROWS: Trial(moved, Embedding, _rows, 300, 8, 0.003),
    },
}
"""By task; the last of each is the rival."""


def learning(out: Path, *, seed: int = 0, steps: int | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """Train a small network through each layer; draw its accuracy on held-out problems over the steps.

    Accuracy is the share of cells with a thing to which the colour of that thing is carried, or one nearer to it than
    to any other thing's.

    Args:
        out: a folder, where learning.png and learning.csv are written.
        seed: of the problems and of the networks' first weights.
        steps: of all layers; None takes those of `TRIALS`, one to two minutes on 2 cores.
        say: called with a line for each layer.

    Raises:
        OutputError: they cannot be written.
    """
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for task, trials in TRIALS.items():
        curves[task] = {}
        for name, trial in trials.items():
            for step, found in _train(trial, seed, steps or trial.steps, by_costs=name == ROWS):
                for suffix, accuracy in found.items():
                    curves[task].setdefault(suffix or name, []).append((step, accuracy))
            say(f"{task}, {name}: {curves[task][name][0][1]:.3f} to {curves[task][name][-1][1]:.3f}")
        held_out = trial.problems(HELD_OUT * trial.batch, _generator(seed, 1))
        ties = 1e-3 * torch.rand(held_out.costs.shape, generator=_generator(seed, 2))  # broken at random
        for solve, name in zip((greedy, hungarian), TRUE, strict=True):
            accuracy = _accuracy(solve(held_out.costs + ties), held_out, _generator(seed, 2))
            curves[task][name] = [(0, accuracy), (steps or trial.steps, accuracy)]
            say(f"{task}, {name}: {accuracy:.3f}")
    picture = out / "learning.png"
    _draw(curves, picture)
    rows = [(task, name, *point) for task, named in curves.items() for name, curve in named.items() for point in curve]
    return [picture, write_csv(out / "learning.csv", ("task", "layer", "step", "accuracy"), rows)]


def _train(trial: Trial, seed: int, steps: int, by_costs: bool) -> Iterator[tuple[int, dict[str, float]]]:
    """Steps, and accuracies by then: of the match (""), and of `greedy` and `hungarian` on its costs if asked for."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = trial.network()
    optimizer = torch.optim.Adam(network.parameters(), lr=trial.rate)
    generator, held_out = _generator(seed, 0), trial.problems(HELD_OUT * trial.batch, _generator(seed, 1))
    for step in range(steps + 1):
        if step * POINTS // steps != (step - 1) * POINTS // steps:
            with torch.no_grad():
                matches = {"": trial.match(network, held_out.query, held_out.reference)}
                if by_costs:
                    costs = _costs(network, held_out.query, held_out.reference)
                    matches |= {GREEDY: greedy(costs), HUNGARIAN: hungarian(costs)}
            yield step, {name: _accuracy(one, held_out, _generator(seed, 2)) for name, one in matches.items()}
        problems = trial.problems(trial.batch, generator)
        _, target, values = problems.colours(generator)
        carried = _carry(trial.match(network, problems.query, problems.reference), values)
        weight = 0.1 + (problems.query_things > 0)[:, None].float()  # most cells of a frame show nothing
        loss = (weight * (carried - target).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _accuracy(match: Match, problems: Problems, generator: torch.Generator) -> float:
    palette, _, values = problems.colours(generator)
    carried = _carry(match, values).flatten(2).mT
    things = problems.query_things.flatten(1)
    right = torch.cdist(carried, palette).argmin(2) == things
    return right[things > 0].double().mean().item()


def _carry(match: Match, values: Tensor) -> Tensor:
    """Values (B, COLOUR, H, W), which an assignment knows as (B, COLOUR, H * W)."""
    if isinstance(match, Assignment):
        return match.apply(values.flatten(2)).reshape(values.shape)
    return match.apply(values)


def _generator(seed: int, use: int) -> torch.Generator:
    return torch.Generator().manual_seed(3 * seed + use)


def _draw(curves: dict[str, dict[str, list[tuple[int, float]]]], path: Path) -> None:
    figure = new_figure(11, 3.9)
    panels = figure.subplots(1, len(curves), sharey=True)
    for panel, (task, named) in zip(panels, curves.items(), strict=True):
        bare(panel)
        for number, (name, curve) in enumerate(named.items()):
            style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 2}
            if name in RIVALS:
                style = {"color": COLOURS[3 + RIVALS.index(name)], "linewidth": 1.2, "linestyle": "--"}
            elif name in TRUE:
                style = {"color": GREY, "linewidth": 1.2, "linestyle": (":", "-.")[TRUE.index(name)]}
            panel.plot(*zip(*curve, strict=True), label=f"{name} ({curve[-1][1]:.2f})", **style)
        panel.set_title(task, fontsize=10, color=GREY, loc="left")
        panel.set_xlabel("training steps", fontsize=9, color=GREY)
        panel.set_ylim(0, 1.03)
        panel.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), labelcolor=GREY)
    panels[0].set_ylabel("accuracy, held-out", fontsize=9, color=GREY)
    figure.tight_layout()
    save(figure, path)

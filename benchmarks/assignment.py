"""Relaxed assignment, `matchcut.matching.assign`: speed at DMM-Net's sizes, and what each change to its algorithm buys.

    python benchmarks/assignment.py                    # speed, then what each change to the algorithm buys
    python benchmarks/assignment.py --part learning    # what a network learns by the gradients, below a minute a loss

Costs are uniform random numbers. Times are medians of --repeats after one run that does not count, gradients those of
the cost alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from common import machine, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), nargs="+", default=["speed", "changes"])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"\n{machine('numba', 'scipy')}")
    for part in options.part:
        PARTS[part](options.repeats)


def median_ms(run: Callable[[], Any], repeats: int) -> float:
    run()
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1000


def speed(repeats: int) -> None:
    """A frame's problem, and a batch of training."""
    import torch

    from matchcut.matching.assignment import ALGORITHM_1, LISTING_1, assign, greedy, hungarian

    forms: dict[str, Callable[[Any], Any]] = {
        "assign, default": lambda c: assign(c).matrix,
        "assign(**ALGORITHM_1)": lambda c: assign(c, **ALGORITHM_1).matrix,
        "assign(**LISTING_1)": lambda c: assign(c, **LISTING_1).matrix,
        "greedy": lambda c: greedy(c).matrix,
        "hungarian (SciPy)": lambda c: hungarian(c).matrix,
    }
    rows = []
    for shape in ((1, 3, 50), (1, 10, 50), (32, 5, 50)):
        generator = torch.Generator().manual_seed(0)
        cost, weight = (torch.rand(shape, generator=generator) for _ in range(2))
        for name, form in forms.items():
            forward = median_ms(lambda form=form, cost=cost: form(cost), repeats)
            cells = [f"{forward:.2f}", ""]
            if name.startswith("assign"):
                both = median_ms(lambda form=form, cost=cost, weight=weight: grads(form, cost, weight), repeats)
                cells[1] = f"{both:.2f}"
            rows.append([f"{' x '.join(map(str, shape))}, {name}", *cells])
    print("\n" + table(["problems x objects x proposals", "forward ms", "and backward ms"], rows))


def grads(form: Callable[[Any], Any], cost: Any, weight: Any) -> Any:
    import torch

    cost = cost.clone().requires_grad_()
    return torch.autograd.grad((form(cost) * weight).sum(), cost)


def changes(_: int) -> None:
    """What each change to Listing 1 buys, one upon the other."""
    import torch

    from matchcut.matching.assignment import LISTING_1, assign, greedy, hungarian

    for shape in ((5, 100), (20, 50)):
        generator = torch.Generator().manual_seed(0)
        cost, start = (torch.rand(500, *shape, generator=generator) for _ in range(2))
        best = hungarian(cost)
        optimum = best.objectives[:, 0]
        one_step = {"steps": 1, "projections": None, "average": "last", "corrections": "reset", "learning_rate": None}
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("Listing 1, (40, 5, 0.1), random start", LISTING_1 | {"start": start}),
            ("Listing 1, (400, 50, 0.01), random start", LISTING_1 | LONG | {"start": start}),
            (
                "Algorithm 1, (400, 50, 0.01), random start",
                LISTING_1 | LONG | {"corrections": "reset", "average": "iterates", "start": start},
            ),
            ("+ greedy start", LISTING_1 | LONG | {"corrections": "reset", "average": "iterates"}),
            ("+ last iterate, not the mean", LISTING_1 | LONG | {"corrections": "reset", "average": "last"}),
            ("+ exact projection", LISTING_1 | LONG | {"corrections": "reset", "average": "last", "projections": None}),
            ("+ step size 1, 40 steps", LISTING_1 | one_step | {"steps": 40, "learning_rate": 1.0}),
            *(
                (f"+ one step of 1 / quadratic, {g:g}", LISTING_1 | one_step | {"quadratic": g})
                for g in (0.1, 0.01, 0.003)
            ),
            ("+ quadratic 0.0005: the default", {}),
        ]
        rows = []
        for name, kind in kinds:
            count = 100 if kind.get("steps") == 400 else len(cost)
            given = kind | ({"start": kind["start"][:count]} if "start" in kind else {})
            match = assign(cost[:count], **given)
            rows.append([name, *quality(match, cost[:count], optimum[:count], best.matrix[:count])])
        rows.append(["greedy", *quality(greedy(cost), cost, optimum, best.matrix)])
        head = [f"{shape[0]} x {shape[1]}", "cost over optimum", "within 1%", "same arg max", "both", "residual"]
        print("\n" + table(head, rows))


LONG = {"steps": 400, "projections": 50, "learning_rate": 0.01}


def quality(match: Any, cost: Any, optimum: Any, best: Any) -> list[str]:
    costs = (match.matrix * cost).sum((1, 2))
    close = (costs - optimum).abs() <= 0.01 * optimum
    same = (match.matrix.argmax(2) == best.argmax(2)).all(1)
    shares = [f"{one.float().mean():.1%}" for one in (close, same, close & same)]
    return [f"{(costs / optimum - 1).mean():+.2%}", *shares, f"{match.residual.mean():.0e}"]


def learning(_: int) -> None:
    """A linear embedding learns which of 20 shuffled proposals 5 objects are, near twins and distractors among them."""
    import torch

    from matchcut.matching.assignment import ALGORITHM_1, LISTING_1, assign

    kinds: dict[str, Callable[[Any], Any]] = {
        "default": lambda c: assign(c).matrix,
        "default, exact derivative": lambda c: assign(c, backward_quadratic=None).matrix,
        "0.99 of that + 0.01 of quadratic 1": lambda c: (
            0.99 * assign(c, backward_quadratic=None).matrix
            + 0.01 * assign(c, quadratic=1.0, backward_quadratic=None).matrix
        ),
        **{
            f"backward_quadratic {g:g}": lambda c, g=g: assign(c, backward_quadratic=g).matrix for g in (0.1, 1.0, 10.0)
        },
        **{
            f"quadratic {g:g}, exact derivative": lambda c, g=g: assign(c, quadratic=g, backward_quadratic=None).matrix
            for g in (0.1, 1.0, 3.0)
        },
        "Algorithm 1, (40, 5, 0.1)": lambda c: assign(c, start="uniform", **ALGORITHM_1).matrix,
        "Listing 1, (40, 5, 0.1)": lambda c: assign(c, start="uniform", **LISTING_1).matrix,
        "softmax of rows, temperature 0.1": lambda c: (-c / 0.1).softmax(2),
    }
    losses: dict[str, Callable[[Any, Any], Any]] = {
        "mass": lambda x, truth: (1 - (x * truth).sum(2)).sum(1).mean(),
        "square": lambda x, truth: (x - truth).square().sum((1, 2)).mean(),
    }
    rows = []
    torch.set_num_threads(1)  # the matrices are small
    for name, form in kinds.items():
        cells = []
        for loss in losses.values():
            found = [train(form, loss, seed) for seed in range(3)]
            share = sum(one[0] for one in found) / len(found)
            cells += [f"{share:.1%}", *(f"{sum(one[i] for one in found) / len(found):.1g}" for i in (1, 2))]
        rows.append([name, *cells])
    each = ["{}: found", "{}: median gradient", "{}: its 99th percentile"]
    print("\n" + table(["trained with", *(one.format(loss) for loss in losses for one in each)], rows))


def train(form: Callable[[Any], Any], loss: Callable[[Any, Any], Any], seed: int) -> tuple[float, float, float]:
    """Share of objects that Hungarian finds after training, on new scenes; median and 99th percentile of gradients."""
    import torch

    from matchcut.matching.assignment import hungarian

    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0]
    embedding = (0.2 * torch.randn(32, 8, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([embedding], 0.01)

    def view(codes: Any) -> Any:
        """Codes with noise, 26 numbers that say nothing beside them, all mixed; embedded."""
        noisy = codes + 0.2 * torch.randn(codes.shape, generator=generator)
        rest = 2 * torch.randn(*codes.shape[:2], 26, generator=generator)
        return torch.nn.functional.normalize(torch.cat([noisy, rest], 2) @ mix @ embedding, dim=2)

    def scene(batch: int) -> tuple[Any, Any]:
        """Costs (B, 5, 20) and the true assignment."""
        codes = torch.randn(batch, 20, 6, generator=generator)
        for twin, of, apart in ((1, 0, 0.4), (3, 2, 0.4), *((5 + i, i, 0.6) for i in range(5))):
            codes[:, twin] = codes[:, of] + apart * torch.randn(batch, 6, generator=generator)
        order = torch.rand(batch, 20, generator=generator).argsort(1)
        shuffled = codes.gather(1, order[..., None].expand(-1, -1, 6))
        truth = torch.zeros(batch, 5, 20).scatter_(2, order.argsort(1)[:, :5, None], 1)
        return -view(codes[:, :5]) @ view(shuffled).transpose(1, 2), truth

    sizes = []
    for _ in range(200):
        cost, truth = scene(16)
        optimizer.zero_grad()
        loss(form(cost), truth).backward()
        sizes.append(embedding.grad.norm())
        optimizer.step()
    with torch.no_grad():
        cost, truth = scene(500)
    share = float((hungarian(cost).matrix * truth).sum(2).mean())
    return share, *(float(torch.stack(sizes).quantile(q)) for q in (0.5, 0.99))


PARTS = {"speed": speed, "changes": changes, "learning": learning}

if __name__ == "__main__":
    main()

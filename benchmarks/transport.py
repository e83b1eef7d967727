"""Optimal transport, `matchcut.matching.sinkhorn` and `long_short_sinkhorn`, beside plain torch and POT.

    python benchmarks/transport.py                              # all parts; some minutes
    python benchmarks/transport.py --parts 64 --iterations 20   # full transport between maps of 64 x 64 cells
    python benchmarks/transport.py --parts 128                  # of 128 x 128; the plain log form runs once
    python benchmarks/transport.py --parts factorised           # long_short_sinkhorn at 128 x 128
    python benchmarks/transport.py --parts epsilon              # the measurement behind the default epsilon

Full transport is timed until the potentials (or scalings) are known, from features in float32 to `iterations` of rows
and columns; the factorised form from two maps to two maps. Beside it:

* plain log: scores in one matrix, `torch.logsumexp` over rows, then columns: the obvious stable form;
* plain kernel: exp of the scores in one matrix, two matrix-vector products an iteration; not stable at small epsilon;
* POT: `ot.sinkhorn`, `method="sinkhorn_log"` and `"sinkhorn"`, on tensors of torch, stopping switched off.

Time is the median of --repeats after one run that does not count (plain log at 128 x 128: one run in all); memory is
the peak above what the process held with the inputs made. Each line has a process of its own; that the answers agree is
checked in one more.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from common import forget_peak, in_subprocess, machine, must, peak_gib, sequence, table

FULL = ("ours", "ours, streaming", "plain log", "plain kernel", "POT log", "POT kernel")
LARGE = ("ours", "ours, streaming", "plain log")
FACTORISED = ("ours", "ours, with backward", "plain factorised log", "plain log")


def main() -> None:
    options = parse()
    if options.case:
        part, name = options.case
        print(json.dumps(check(part, options) if name == "check" else measure(part, name, options)))
        return
    print(f"\n{machine('POT')}\n")
    for part in options.parts:
        if part == "epsilon":
            print(must(run(part, "ours", options))["text"])
            continue
        names = {"64": FULL, "128": LARGE, "factorised": FACTORISED}[part]
        print(title(part, options))
        found = {name: must(run(part, name, options)) for name in names}
        first = found["ours"]
        print(
            table(
                ["form", "ms", "times ours", "extra peak MiB", "times ours"],
                [row(*one, first) for one in found.items()],
            )
        )
        print(f"\n{must(run(part, 'check', options))['text']}" if part != "128" else "")


def row(name: str, found: dict[str, Any], first: dict[str, Any]) -> list[str]:
    ratios = [f"{found[key] / first[key]:.2f}" for key in ("ms", "mib")]
    return [name, f"{found['ms']:.0f}", ratios[0], f"{found['mib']:.0f}", ratios[1]]


def title(part: str, options: argparse.Namespace) -> str:
    settings = f"epsilon {options.epsilon}, {options.iterations} iterations, {options.channels} channels"
    kind = "Factorised, 128 x 128 cells, 8 groups" if part == "factorised" else f"Full, {part} x {part} cells"
    return f"\n{kind}, {settings}\n"


def run(part: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    settings: list[object] = ["--channels", options.channels, "--iterations", options.iterations]
    settings += ["--epsilon", options.epsilon, "--repeats", options.repeats, "--case", part, name]
    return in_subprocess(__file__, *settings)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("64", "128", "factorised", "epsilon")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--epsilon", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", nargs=2, metavar=("PART", "NAME"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(part: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    if part == "epsilon":
        return {"text": epsilons(options)}
    call = form(name, part, *inputs(part, options), options)
    repeats = 0 if (part, name) in (("128", "plain log"), ("factorised", "plain log")) else options.repeats
    before = forget_peak()
    spent = []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        call()
        spent.append((time.perf_counter() - started) * 1000)
    return {"ms": statistics.median(spent[1:] or spent), "mib": (peak_gib() - before) * 1024}


def inputs(part: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """Two maps (1, C, H, W) of L2-normalised random features."""
    import torch
    import torch.nn.functional as F

    side = 64 if part == "64" else 128
    generator = torch.Generator().manual_seed(0)
    shape = (2, options.channels, side, side)
    first, second = F.normalize(torch.randn(shape, generator=generator), dim=1).split(1)
    return first.contiguous(), second.contiguous()


def form(name: str, part: str, query: Any, reference: Any, options: argparse.Namespace) -> Callable[[], Any]:
    import torch

    from matchcut.matching.factorised import long_short_sinkhorn
    from matchcut.matching.transport import sinkhorn

    settings = {"epsilon": options.epsilon, "iterations": options.iterations}
    rows, keys = (one[0].flatten(1).t().contiguous() for one in (query, reference))  # (N, C)

    def backward() -> None:
        maps = [one.clone().requires_grad_() for one in (query, reference)]
        carried = long_short_sinkhorn(*maps, **settings).streams()
        torch.autograd.backward(carried, [reference, query])

    def pot(method: str) -> Any:
        import ot

        mass = torch.full((len(rows),), 1 / len(rows))
        cost = -(rows @ keys.t())
        return ot.sinkhorn(
            mass, mass, cost, options.epsilon, method=method, numItermax=options.iterations, stopThr=0, warn=False
        )

    ours: dict[str, Callable[[], Any]] = {
        "ours": lambda: sinkhorn(query, reference, **settings),
        "ours, streaming": lambda: sinkhorn(query, reference, streaming=True, **settings),
    }
    if part == "factorised":
        ours = {
            "ours": lambda: long_short_sinkhorn(query, reference, **settings).streams(),
            "ours, with backward": backward,
        }
    forms = ours | {
        "plain log": lambda: plain_log(rows[None] @ keys.t()[None] / options.epsilon, options.iterations),
        "plain kernel": lambda: plain_kernel(rows @ keys.t() / options.epsilon, options.iterations),
        "plain factorised log": lambda: plain_factorised(query, reference, options),
        "POT log": lambda: pot("sinkhorn_log"),
        "POT kernel": lambda: pot("sinkhorn"),
    }
    call = forms[name]
    return call if name == "ours, with backward" else torch.no_grad()(call)


def plain_log(scores: Any, iterations: int) -> tuple[Any, Any]:
    """f and g (B, N) of scores (B, N, N) at uniform masses."""
    import math

    import torch

    level = math.log(scores.shape[1])
    g = torch.zeros_like(scores[:, 0])
    for _ in range(iterations):
        f = level - torch.logsumexp(scores + g[:, None], 2)
        g = level - torch.logsumexp(scores + f[:, :, None], 1)
    return f, g


def plain_kernel(scores: Any, iterations: int) -> tuple[Any, Any]:
    kernel = scores.exp()
    v = kernel.new_full((len(kernel),), 1 / len(kernel))
    for _ in range(iterations):
        u = 1 / len(kernel) / (kernel @ v)
        v = 1 / len(kernel) / (kernel.t() @ u)
    return u, v


def plain_factorised(query: Any, reference: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """TransportNet Eq. 7 to 10 on maps (1, C, H, W) that 2 x 4 divides, as one would write it."""
    import torch
    import torch.nn.functional as F

    _, channels, height, width = query.shape
    streams = [query[0], reference[0]]
    for order in ((2, 4, 1, 3, 0), (1, 3, 2, 4, 0)):  # (C, H / 2, 2, W / 4, 4) to (groups, cells, C)
        cut = [one.reshape(channels, height // 2, 2, width // 4, 4).permute(order) for one in streams]
        groups = [one.reshape(cut[0].shape[0] * cut[0].shape[1], -1, channels) for one in cut]
        unit = [F.normalize(one, dim=2) for one in groups]
        scores = unit[0] @ unit[1].transpose(1, 2) / options.epsilon
        f, g = plain_log(scores, options.iterations)
        plan = (scores + f[:, :, None] + g[:, None]).exp() / scores.shape[1]
        back = torch.tensor(order).argsort().tolist()
        streams = [(plan @ one).reshape(cut[0].shape).permute(back).reshape(channels, height, width) for one in groups]
    return streams[0], streams[1]


def check(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """How far what ours carries is from what the plain log form carries, relative to the largest number."""
    import torch

    from matchcut.matching.transport import sinkhorn

    query, reference = inputs(part, options)
    with torch.no_grad():
        if part == "factorised":
            found = torch.stack(form("ours", part, query, reference, options)())[:, 0]
            expected = torch.stack(plain_factorised(query, reference, options))
        else:
            match = sinkhorn(query, reference, epsilon=options.epsilon, iterations=options.iterations)
            found = match.apply(reference)[0].flatten(1)
            rows, keys = query[0].flatten(1).t(), reference[0].flatten(1)
            f, g = plain_log(rows[None] @ keys[None] / options.epsilon, options.iterations)
            plan = (rows @ keys / options.epsilon + f[0, :, None] + g[0]).exp() / len(rows)
            expected = (plan @ keys.t()).t()
    error = float((found - expected).abs().max() / expected.abs().max())
    return {"text": f"what is carried differs from the plain log form by at most {error:.0e} of the largest number"}


def epsilons(options: argparse.Namespace) -> str:
    """IoU of masks carried between frames of real video, by the epsilon of the plan."""
    import cv2
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image

    from matchcut import Video, load_model
    from matchcut.matching.transport import sinkhorn

    model, grid, gaps = load_model().eval(), (30, 54), (1, 5, 15)
    chosen = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2)
    scores: dict[tuple[float, int], list[float]] = {(epsilon, gap): [] for epsilon in chosen for gap in gaps}
    residuals: dict[float, list[float]] = {epsilon: [] for epsilon in chosen}
    with torch.inference_mode():
        for name in SEQUENCES:
            frames, masks = sequence(name)
            maps, objects = {}, {}
            with Video(frames) as video:
                for index in sorted({start + gap for start in (0, 8) for gap in (0, *gaps)}):
                    frame = cv2.resize(video[index], (grid[1] * 8, grid[0] * 8), interpolation=cv2.INTER_AREA)
                    features = model.encode(torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255)
                    maps[index] = F.normalize(features.float(), dim=1)
                    label = np.array(Image.open(masks / f"{index:05d}.png")) > 0
                    label = torch.from_numpy(label)[None, None].float()
                    objects[index] = F.interpolate(label, maps[index].shape[2:], mode="area")
            for start in (0, 8):
                for epsilon, gap in scores:
                    match = sinkhorn(maps[start + gap], maps[start], epsilon=epsilon, iterations=options.iterations)
                    one, truth = match.apply(objects[start]) > 0.5, objects[start + gap] > 0.5
                    scores[epsilon, gap].append(float((one & truth).sum() / (one | truth).sum().clamp_min(1)))
                    residuals[epsilon].append(float(match.residual))
    mean = {key: statistics.mean(values) for key, values in scores.items()}
    lines = [
        [
            str(epsilon),
            *(f"{100 * mean[epsilon, gap]:.1f}" for gap in gaps),
            f"{statistics.mean(residuals[epsilon]):.3f}",
        ]
        for epsilon in chosen
    ]
    head = ["epsilon", *(f"IoU, {gap} frames on" for gap in gaps), "residual"]
    text = f"\nMasks carried by the full plan, features of the default backbone, {len(SEQUENCES)} DAVIS sequences\n\n"
    return text + table(head, lines)


SEQUENCES = ("breakdance-flare", "bus", "dog-agility", "drift-turn", "flamingo", "scooter-gray")

if __name__ == "__main__":
    main()

"""TransportNet (Zhang et al., ICCV 2021): what its factorised Sinkhorn saves, and what Sinkhorn's limits are."""

import contextlib
import gc
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from matchcut.benchmarks.drawing import COLOURS, GREY, bare, new_figure, save
from matchcut.files import write_csv
from matchcut.matching import LongShortSinkhorn, LongSinkhorn, hungarian, sinkhorn_from_cost

EPSILON, ITERATIONS, GROUPS = 0.05, 20, (2, 4)
SIZES = ((32, 64), (64, 64), (96, 64), (128, 64), (128, 2048))
"""Feature maps, side and channels; the last is the paper's."""
PROBLEMS = 20
"""Random costs of which Sinkhorn's limits are shown, with these epsilons and numbers of iterations."""
EPSILONS, COUNTS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001), (1, 3, 10, 30, 100, 300, 1000, 3000)
Carry = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def plain_sinkhorn(appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """The layer as one would write it: the (B, N, N) matrix in the log domain, rows then columns (Eq. 5, 8)."""
    a, m = (one.flatten(2).transpose(1, 2) for one in (appearance, motion))  # (B, N, C)
    plan = F.normalize(a, dim=2) @ F.normalize(m, dim=2).transpose(1, 2) / EPSILON
    for _ in range(ITERATIONS):
        plan = plan - plan.logsumexp(2, keepdim=True)
        plan = plan - plan.logsumexp(1, keepdim=True)
    plan = plan.exp()
    carried = [(plan @ one).transpose(1, 2).reshape(appearance.shape) for one in (a, m)]
    return carried[0], carried[1]


def plain_long_short_sinkhorn(appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """The same factorised (Eq. 7 to 10): P groups of far cells, then Q groups of neighbours. Sides divide here."""
    batch, channels, height, width = appearance.shape
    down, across = GROUPS
    rows, columns = height // down, width // across
    cells = (batch, channels, rows, down, columns, across)
    split = [one.reshape(cells).permute(0, 3, 5, 1, 2, 4) for one in (appearance, motion)]
    long = [one.reshape(-1, channels, rows * columns) for one in split]
    far = [one.reshape(batch, down, across, channels, rows, columns) for one in plain_sinkhorn(long[0], long[1])]
    short = [one.permute(0, 4, 5, 3, 1, 2).reshape(-1, channels, down * across) for one in far]
    near = [one.reshape(batch, rows, columns, channels, down, across) for one in plain_sinkhorn(short[0], short[1])]
    carried = [one.permute(0, 3, 1, 4, 2, 5).reshape(appearance.shape) for one in near]
    return carried[0], carried[1]


IMPLEMENTATIONS: dict[str, Callable[[], Carry]] = {
    "full, plain": lambda: plain_sinkhorn,
    "factorised, plain": lambda: plain_long_short_sinkhorn,
    "full, matchcut": lambda: LongSinkhorn(groups=1, epsilon=EPSILON, iterations=ITERATIONS),
    "full, matchcut streaming": lambda: LongSinkhorn(groups=1, epsilon=EPSILON, iterations=ITERATIONS, streaming=True),
    "factorised, matchcut": lambda: LongShortSinkhorn(groups=GROUPS, epsilon=EPSILON, iterations=ITERATIONS),
}


def figure_6(
    out: Path,
    *,
    seed: int = 0,
    say: Callable[[str], None] = print,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> list[Path]:
    """Figure 6: seconds and peak memory of the factorised against the full Sinkhorn layer, over feature-map size.

    Both as plain torch and as ours, forward only, float32, 20 iterations at epsilon 0.05, each in a process of its own;
    on the GPU where there is one. Memory is the peak above what the process held with the inputs loaded.
    """
    found: dict[tuple[str, tuple[int, int]], tuple[float, float]] = {}
    for size in sizes:
        for name in IMPLEMENTATIONS:
            found[name, size] = measured(name, size, seed)
            say("{}, {}x{}x{}: {:.3f} s, {:.0f} MB".format(name, size[0], *size, *found[name, size]))
    labels = [f"{side}x{side}x{channels}" for side, channels in sizes]
    figure = new_figure(12, 4.2)
    for panel, number, title in zip(figure.subplots(1, 2), (0, 1), ("seconds", "peak memory, MB"), strict=True):
        for colour, name in zip(COLOURS[: len(IMPLEMENTATIONS)], IMPLEMENTATIONS, strict=True):
            values = [max(found[name, size][number], 1e-4) for size in sizes]
            panel.plot(labels, values, "o-" if "factorised" in name else "s--", color=colour, label=name)
        panel.set_yscale("log")
        bare(panel)
        panel.set_title(title, fontsize=10, loc="left", color=GREY)
        panel.set_xlabel("feature map", fontsize=9)
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    save(figure, out / "figure-6.png")
    rows = []
    for (name, size), (seconds, memory) in found.items():
        plain = found["full, plain", size]
        share = 100 * memory / plain[1] if plain[1] else math.nan
        rows.append((name, *size, seconds, memory, plain[0] / seconds, share))
    header = ("layer", "side", "channels", "seconds", "peak_mb", "times_faster", "percent_of_memory")  # of plain full
    return [out / "figure-6.png", write_csv(out / "figure-6.csv", header, rows)]


def measured(name: str, size: tuple[int, int], seed: int) -> tuple[float, float]:
    """Seconds of one forward pass of a layer, and its peak memory in MB, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, name, size, seed).result()
        except BrokenProcessPool as error:
            raise MemoryError(f"{name} at {size[0]}x{size[0]}x{size[1]} was stopped, as for lack of memory") from error


def _measure(name: str, size: tuple[int, int], seed: int) -> tuple[float, float]:
    side, channels = size
    cuda = torch.cuda.is_available()
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(1, channels, side, side, generator=generator) for _ in range(2)]
    inputs = [one.cuda() for one in inputs] if cuda else inputs
    layer = IMPLEMENTATIONS[name]()
    with torch.inference_mode():
        layer(*(one[..., :16, :16].contiguous() for one in inputs))  # loads what is loaded once
        gc.collect()
        before = _start_peak(cuda)
        seconds: list[float] = []
        while not seconds or (sum(seconds) < 2 and len(seconds) < 5):
            started = time.perf_counter()
            layer(*inputs)
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds), (_peak(cuda) - before) / 2**20


def _start_peak(cuda: bool) -> float:
    """Let the peak start anew where the system can (CUDA, Linux); the bytes from which it starts."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak(cuda)


def _peak(cuda: bool) -> float:
    """Bytes. Linux also counts, in what `getrusage` says, the process that started this one: hence its own file."""
    if cuda:
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * float(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sinkhorn_limits(out: Path, *, seed: int = 0, say: Callable[[str], None] = print) -> list[Path]:
    """What Sinkhorn tends to. Left: with epsilon to 0, the Hungarian permutation, cost and rows that agree (arg max).
    Right: with iterations, a doubly stochastic matrix, however small epsilon is; smaller ones take longer.
    """
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(PROBLEMS, 32, 32, generator=generator, dtype=torch.float64)
    best = hungarian(cost)
    optimum, permutation = best.objectives[:, -1], best.matrix.argmax(2)
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    rows: list[Sequence[Any]] = []
    excess, agreement = [], []
    for number, epsilon in enumerate(EPSILONS):
        residuals = []
        for iterations in COUNTS:
            match = sinkhorn_from_cost(cost, epsilon=epsilon, iterations=iterations)
            residuals.append(float(match.residual.mean()))
        matrix = match.dense()
        excess.append(float(((cost * matrix).sum((1, 2)) / optimum - 1).mean()))
        agreement.append(float((matrix.argmax(2) == permutation).double().mean()))
        say(f"epsilon {epsilon}: excess {excess[-1]:.4f}, arg max agrees in {agreement[-1]:.1%} of rows")
        rows += [(epsilon, *pair, "", "") for pair in zip(COUNTS, residuals, strict=True)]
        rows.append((epsilon, COUNTS[-1], residuals[-1], excess[-1], agreement[-1]))
        right.loglog(COUNTS, [max(one, 1e-16) for one in residuals], "o-", color=COLOURS[number], label=f"{epsilon}")
    left.semilogx(EPSILONS, excess, "o-", color=COLOURS[0], label="cost above the Hungarian one, share")
    left.semilogx(EPSILONS, agreement, "s-", color=COLOURS[1], label="rows with the Hungarian arg max, share")
    for panel, title, label in (
        (left, f"{PROBLEMS} problems of 32 x 32", "epsilon"),
        (right, "residual", "iterations"),
    ):
        bare(panel)
        panel.set_title(title, fontsize=10, loc="left", color=GREY)
        panel.set_xlabel(label, fontsize=9)
        panel.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    save(figure, out / "sinkhorn.png")
    header = ("epsilon", "iterations", "residual", "excess", "agreement")
    return [out / "sinkhorn.png", write_csv(out / "sinkhorn.csv", header, rows, decimals=12)]

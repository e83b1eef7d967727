"""Evaluating on a benchmark, and training by a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchcut.benchmarks.protocols import find_protocol
from matchcut.benchmarks.results import Result
from matchcut.benchmarks.run import Choice, Say, run_benchmark
from matchcut.benchmarks.score import hidden_truth, score
from matchcut.models.base import AutomaticModel, GuidedModel

if TYPE_CHECKING:
    from matchcut.training.config import TrainConfig


def evaluate(
    benchmark: str,
    root: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    model: str | GuidedModel | AutomaticModel | None = None,
    preset: str | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    processes: int = 1,
    overwrite: bool = False,
    resume: bool = False,
    say: Say = lambda line: None,
) -> Result | None:
    """Run a model on a benchmark into a folder, and score its masks by the official protocol.

    Args:
        benchmark, root, split, sequences: see `matchcut.score`.
        out: masks go to OUT/masks/<sequence>; `write_report` adds tables and plots.
        model, preset, backbone, weights, size, device, precision: see `load_model` and `Tracker`.
        processes, overwrite, resume, say: see `run_benchmark`.

    Returns:
        The scores; None where the benchmark keeps the truth to itself.

    Raises:
        MatchcutError: the benchmark is not whole, the model or the folder cannot be used; the message says all of it.
    """
    choice = Choice(model, preset, backbone, weights, size, device, precision)
    how: Any = {"processes": processes, "overwrite": overwrite, "resume": resume, "say": say}
    found = run_benchmark(benchmark, root, out, choice, split=split, sequences=sequences, **how)
    if any(hidden_truth(find_protocol(benchmark), one) for one in found):
        return None
    return score(benchmark, root, Path(out) / "masks", split=split, sequences=sequences)


def train(
    recipe: "str | Path | TrainConfig",
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    device: str = "auto",
    cache: str | Path | None = None,
    say: Say = lambda line: None,
) -> Path:
    """Train a network by a recipe (docs/train.md); started by torchrun, as one of its processes.

    Args:
        recipe: a TOML file, or what `read_config` makes of one.
        data, out, overwrite, resume, device, cache, say: see `matchcut.training.loop.train`; `data` may be one folder.

    Returns:
        The file of weights, for `load_model(..., weights=...)`.

    Raises:
        MatchcutError: the recipe, the data or the folder cannot be used, or the run cannot go on; the message says why.
    """
    from matchcut.training import training_loop
    from matchcut.training.config import TrainConfig, read_config

    run_training = training_loop()
    config = recipe if isinstance(recipe, TrainConfig) else read_config(Path(recipe))
    roots = [Path(one) for one in ([data] if isinstance(data, str | Path) else data)]
    place = Path(cache) if cache is not None else None
    how: Any = {"overwrite": overwrite, "resume": resume, "device": device, "cache": place, "say": say}
    inputs = [] if isinstance(recipe, TrainConfig) else [Path(recipe)]
    written: Path = run_training(config, roots, Path(out), inputs=inputs, **how)
    return written

"""A run on disk: checkpoints to go on from, to the bit, and the weights to use."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from matchcut.errors import OutputError, TrainingError, unreadable
from matchcut.files import atomic_path
from matchcut.manifest import manifest_of
from matchcut.training.config import FREE, TrainConfig, flat
from matchcut.training.objectives import Objective, Say
from matchcut.training.optimisation import Average
from matchcut.training.record import Means

FORMAT = "matchcut training 1"
KEPT = 2
KEYS = frozenset({"format", "about", "step", "network", "average", "optimiser", "means", "objective"})
"""Of a checkpoint."""
WEIGHTS = "weights.safetensors"


@dataclass
class TrainingState:
    """All that changes in a training run. The data and all random numbers follow from the step and need not be kept."""

    objective: Objective
    optimiser: torch.optim.Optimizer
    average: Average | None
    about: dict[str, Any]
    """What must be the same for the numbers to be: see `about_run`."""
    means: Means = field(default_factory=Means)
    step: int = 0
    """Steps done."""

    def save(self, folder: Path, config: TrainConfig) -> None:
        """Write the weights and a checkpoint, each at once or not at all; the latest and the one before stay.

        Raises:
            OutputError: they cannot be written.
        """
        network = self.objective.network
        shown = self.average.state if self.average else network.state_dict()
        export(shown, folder / WEIGHTS, config, self.step, self.objective.about_network())
        state = {
            "format": FORMAT,
            "about": self.about,
            "step": self.step,
            "network": network.state_dict(),
            "average": self.average.state if self.average else {},
            "optimiser": self.optimiser.state_dict(),
            "means": self.means.state_dict(),
            "objective": self.objective.state_dict(),
        }
        path = folder / f"checkpoint-{self.step:08d}.pt"
        with atomic_path(path, note="name") as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch's own writer says so of a full disk
                if "DataLoader worker" in str(error):  # one that died meanwhile
                    raise
                raise OutputError(f"cannot write {path}: {str(error).splitlines()[0]}; is there space left?") from error
        for old in checkpoints(folder)[KEPT:]:
            if (manifest := manifest_of(old)) is None or manifest.owns(old):
                old.unlink(missing_ok=True)

    def restore(self, state: dict[str, Any], where: Path) -> None:
        """Take back what `save` wrote.

        Raises:
            TrainingError: it is of another recipe, other data or another network.
        """
        then, now = state["about"], self.about
        differ = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
        if differ:
            what = "; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in differ[:4])
            raise TrainingError(f"{where}: is of another run: {what}; train to another folder, or as before")
        try:
            self.objective.network.load_state_dict(state["network"], strict=True)
            if self.average:
                self.average.load(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(f"{where}: is of another network: {_line(error)}; train to another folder") from error
        self.means.load_state_dict(state["means"])
        self.objective.load_state_dict(state["objective"])
        self.step = state["step"]


def about_run(config: TrainConfig, samples: str, processes: int) -> dict[str, Any]:
    """What decides a run's numbers: the recipe but for `FREE`, the data in a line, the number of processes."""
    keys = {key: value for key, value in flat(config).items() if key not in FREE}
    return {**keys, "data": samples, "processes": processes}


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the latest first."""
    return sorted(folder.glob(f"checkpoint-{'[0-9]' * 8}.pt"), reverse=True)  # a copy by another name is the user's


def read_latest(folder: Path, say: Say) -> tuple[dict[str, Any], Path] | None:
    """The latest checkpoint that can be read and its file; None where there is none at all. Nothing is unpickled.

    Raises:
        TrainingError: there are some, but none can be read.
    """
    found = checkpoints(folder)
    problems = []
    for path in found:
        try:
            with warnings.catch_warnings(action="ignore"):  # of odd pickles, which are refused all the same
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file made torch raise
            problems.append(f"{path}: cannot be read as a checkpoint ({unreadable(error)})")
            continue
        if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= KEYS:
            problems.append(f"{path}: is no checkpoint of a training run")
            continue
        for problem in problems:
            say(f"{problem}; going on from the one before")
        return state, path
    if found:
        raise TrainingError(f"{problems[0]}; remove it to begin anew")
    return None


def export(
    state: dict[str, Tensor], path: Path, config: TrainConfig, step: int, network: Mapping[str, Any] | None = None
) -> None:
    """A network's state as safetensors, with the recipe and what `about_network` says, in JSON, and the step in the
    metadata.

    Raises:
        OutputError: it cannot be written.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    metadata = {"recipe": json.dumps(flat(config)), "step": str(step), "network": json.dumps(network or {})}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OutputError(f"cannot write {path}: {_line(error)}; is there space left?") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Weights that `export` wrote into a network of the same form.

    Raises:
        TrainingError: they cannot be read, or are of another network.
    """
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read as weights ({_line(error)})") from error
    except RuntimeError as error:
        raise TrainingError(f"{path}: is of another network: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first line of an error that says something: torch's begins with a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    told = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]
    return shorten(told, 160, placeholder=" ...")  # all keys of a network may be in it

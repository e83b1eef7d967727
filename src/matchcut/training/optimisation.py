"""From the recipe to the optimiser: parameter groups, rates over time, and the moving average of the weights."""

import math

import torch
from torch import Tensor, nn

from matchcut.errors import TrainingError
from matchcut.training.config import OptimiserConfig, ScheduleConfig

EARLY = 10
"""After s steps the average's decay is at most (1 + s) / (EARLY + s), so that the first weights are soon forgotten."""


def make_optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser of a network on its device, a group for each rate; what has rate 0 is frozen.

    Raises:
        TrainingError: `rates` names a part that is not there, or nothing is left to train.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    met = set()
    for name, parameter in network.named_parameters():
        parts = [part for part in config.rates if name == part or name.startswith(f"{part}.")]
        met.update(parts)
        groups.setdefault(max(parts, key=len, default=""), []).append(parameter)
    for part in config.rates:
        if part not in met:
            there = ", ".join(name for name, _ in network.named_children())
            raise TrainingError(f"optimiser.rates: the network has no part {part!r}; there are {there}")
    rates = {"": config.rate, **config.rates}
    trained = []
    for part, parameters in groups.items():
        if rates[part] > 0:
            trained.append({"params": parameters, "lr": rates[part], "rate": rates[part]})
        else:
            for parameter in parameters:
                parameter.requires_grad_(False)
    if not trained:
        raise TrainingError("optimiser: every rate is 0, so nothing would be trained")
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    return kind(trained, betas=config.betas, weight_decay=config.weight_decay, fused=fused)


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate is its own rate times `factor`."""
    for group in optimiser.param_groups:
        group["lr"] = group["rate"] * factor


def rate_factor(config: ScheduleConfig, step: int, steps: int, epochs: int) -> float:
    """What the rates are multiplied by in a step, counted from 0, with `steps` an epoch."""
    warmup = config.warmup * steps
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if config.name == "step":
        return config.factor ** (step // steps // config.every)
    if config.name == "cosine":
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps * epochs - warmup)))
    return 1.0


def clip_gradients(network: nn.Module, largest: float) -> Tensor:
    """The norm of all gradients together, a scalar; above `largest`, if that is not 0, they are scaled down to it."""
    return torch.nn.utils.clip_grad_norm_(network.parameters(), largest or math.inf)


class Average:
    """The exponential moving average of a network's state over the steps; what is not a float is copied."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = network.state_dict()  # shares memory with the network
        self.state = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        weight = 1 - min(self.decay, (1 + step) / (EARLY + step))
        floats = [name for name, tensor in self.state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.state[one] for one in floats], [self._live[one] for one in floats], weight)
        for name, tensor in self.state.items():
            if not tensor.is_floating_point():
                tensor.copy_(self._live[name])

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back a stored `state`."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

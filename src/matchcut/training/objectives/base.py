"""The contract of an objective: what the training loop must know of what is trained."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from matchcut.training.config import TrainConfig

Say = Callable[[str], None]
Batch = dict[str, Tensor]
"""What `Samples.draw` gave for several clips, stacked along a new first axis, on the device."""
Losses = tuple[Tensor, dict[str, Tensor]]
"""What is minimised, a scalar with a gradient, and its parts by name, scalars, to be shown."""


class Samples(Protocol):
    """What an epoch is made of; `matchcut.data.clips.Clips` is one."""

    def __len__(self) -> int:
        """Clips an epoch."""
        ...

    def describe(self) -> str:
        """One line that is another one where the data differ."""
        ...

    def draw(self, epoch: int, index: int) -> Mapping[str, NDArray[Any]]:
        """A clip, a function of its arguments alone, for any index from 0 on; `frames` is (..., H, W, 3) uint8.

        It is called in worker processes, and for the next epoch before this one has ended.
        """
        ...

    def unreadable(self, batch: Batch) -> list[str]:
        """Names of files or frames that drawing this batch met and could not read."""
        ...


class Objective(Protocol):
    """What is trained. Inherit from this to have the methods that need not be there."""

    network: nn.Module
    """All that is trained: its parameters and buffers are moved to the device, saved and exported."""
    samples: Samples

    def loss(self, batch: Batch, epoch: int) -> Losses:
        """The loss as the mean over the batch's clips, so that batches can be averaged.

        It is called under autocast, with the random numbers of torch, NumPy and Python seeded by the step: those of
        NumPy and Python are alike in all processes, for what the whole batch has in common, those of torch are not. It
        must always have a gradient; a parameter that it does not use is left as it is.
        """
        ...

    def start_epoch(self, epoch: int, say: Say) -> None:
        """Before an epoch's first step, by each process alike: the place to make pseudo masks anew.

        It is called under autocast. The network is on its device, in training mode, and is brought back to it
        afterwards. A run that is resumed within the epoch does not call this again: what it made belongs in
        `state_dict`.
        """

    def pictures(self, batch: Batch, epoch: int) -> dict[str, NDArray[np.uint8]]:
        """Pictures (H, W, 3) uint8 RGB by name, made without gradients; by the first process alone."""
        return {}

    def about_network(self) -> dict[str, Any]:
        """What the file of weights must say for the network to be built again: what JSON can hold."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed needs beside the network: tensors, numbers, texts, lists and dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; tensors come on the CPU."""


MakeObjective = Callable[[TrainConfig, Sequence[Path], Path, Say], Objective]
"""From (recipe, folders of data, folder for decoded frames, who is told) to an objective; called with random numbers
seeded by the recipe's seed."""

"""Batches for one process, from any step on, drawn ahead by workers; and how long the loop waited for them."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from matchcut.errors import MatchcutError
from matchcut.training.objectives import Batch, Samples

Draw = Mapping[str, NDArray[Any]] | MatchcutError
Key = tuple[int, int]
"""(epoch, index)"""


class Batches:
    """Batches from a step on, to the last, across epochs: workers never stop in between.

    An epoch is ceil(clips / (batch_size x accumulate x processes)) steps, so its last step may go beyond its length.
    The clips of all processes at one time follow each other: two have what one would have with twice the batch.

    Attributes:
        waited: seconds spent in waiting for a batch so far.
    """

    def __init__(self, samples: Samples, keys: Iterable[list[Key]], *, workers: int, pin: bool) -> None:
        self.waited = 0.0
        loader = DataLoader(
            _Draws(samples),
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_stack,
            pin_memory=pin,
            worker_init_fn=_one_thread,
        )
        # A forked copy of OpenCV's pool of threads hangs, so there is none while workers are made.
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        self._batches: Iterator[Batch | MatchcutError] = iter(loader)
        cv2.setNumThreads(threads)

    def next(self) -> Batch:
        """The next batch, on the CPU.

        Raises:
            MatchcutError: what a worker met.
        """
        begun = time.perf_counter()
        try:
            batch = next(self._batches)
        except (ConnectionError, EOFError):  # a worker died while it handed over a tensor
            time.sleep(1)  # torch's handler of dead workers says what killed it, a moment later
            raise
        self.waited += time.perf_counter() - begun
        if isinstance(batch, MatchcutError):
            raise batch
        return batch


def keys_of_steps(
    steps: range, an_epoch: int, batch_size: int, accumulate: int, rank: int, processes: int
) -> Iterator[list[Key]]:
    """(epoch, index) of every clip of one process, a list for each batch, `accumulate` of them a step."""
    for step in steps:
        epoch, place = divmod(step, an_epoch)
        for part in range(accumulate):
            first = ((place * accumulate + part) * processes + rank) * batch_size
            yield [(epoch, first + at) for at in range(batch_size)]


class _Draws(Dataset[Draw]):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, key: Key) -> Draw:
        try:
            return self.samples.draw(*key)
        except MatchcutError as error:  # raised, a worker would wrap its one line in a traceback
            return error


def _stack(drawn: list[Draw]) -> dict[str, Tensor] | MatchcutError:
    good = []
    for one in drawn:
        if isinstance(one, MatchcutError):
            return one
        good.append(one)
    return {name: torch.from_numpy(np.stack([one[name] for one in good])) for name in good[0]}


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

"""What stops a run: one line that says where and what to do, instead of a traceback."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from matchcut.errors import TrainingError
from matchcut.training.config import TrainConfig

MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
WORKERS = ("DataLoader worker", "unable to open shared memory", "unable to mmap", "No space left on device")


def stop_unless_finite(loss: Tensor, norm: Tensor, place: str) -> None:
    """Before the weights are changed: go on only if the loss and the norm of the gradients are finite.

    Raises:
        TrainingError: they are not.
    """
    values = torch.stack([loss.detach().float(), norm.detach().float()]).tolist()
    for name, value in zip(("loss", "norm of the gradients"), values, strict=True):
        if not math.isfinite(value):
            raise TrainingError(
                f"{place}: the {name} is {value}; the latest checkpoint is kept; try a lower optimiser.rate, "
                "optimiser.clip, or precision float32"
            )


@contextmanager
def explained(config: TrainConfig) -> Iterator[None]:
    """Turn errors of memory and of workers into one line each.

    Raises:
        TrainingError: there was such an error.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, EOFError) as error:
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(one in text for one in MEMORY):
            raise TrainingError(_too_large(config)) from error
        # A worker that dies while it hands over a tensor leaves a broken connection, before torch sees that it is gone.
        broken = isinstance(error, ConnectionError | EOFError)
        if broken or (isinstance(error, RuntimeError) and any(one in text for one in WORKERS)):
            what = (text or type(error).__name__).splitlines()[0]
            raise TrainingError(
                f"a process that reads data died ({what}), often for lack of memory or of space in "
                f"/dev/shm: lower workers (now {config.workers}) or batch_size (now {config.batch_size})"
            ) from error
        raise


def _too_large(config: TrainConfig) -> str:
    if config.batch_size > 1:
        most = f"lower batch_size (now {config.batch_size}) and raise accumulate (now {config.accumulate}) as much"
    else:
        size, length = list(config.data.size), config.data.length
        most = f"batch_size is 1 already: lower data.size (now {size}) or data.length (now {length})"
    return f"out of memory with this batch: {most}"

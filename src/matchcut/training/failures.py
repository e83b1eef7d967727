"""What stops a run: one line that says where and what to do, instead of a traceback."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from matchcut.errors import TrainingError
from matchcut.files import atomic_path
from matchcut.training.config import TrainConfig
from matchcut.training.objectives import Batch

MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
WORKERS = ("DataLoader worker", "unable to open shared memory", "unable to mmap", "No space left on device")


def stop_unless_finite(
    loss: Tensor, norm: Tensor, batches: Sequence[Batch], folder: Path, place: str, step: int, rank: int
) -> None:
    """Before the weights are changed: go on only if the loss and the norm of the gradients are finite.

    Raises:
        TrainingError: they are not; the step's batches have been saved.
    """
    values = torch.stack([loss.detach().float(), norm.detach().float()]).tolist()
    if all(math.isfinite(one) for one in values):
        return
    what = f"the loss is {values[0]}" if not math.isfinite(values[0]) else f"the norm of the gradients is {values[1]}"
    path = folder / f"not-finite-{step:08d}-{rank}.safetensors"
    tensors = {
        f"{at}.{name}": one.detach().cpu().contiguous()
        for at, batch in enumerate(batches)
        for name, one in batch.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    raise TrainingError(
        f"{place}: {what}; its batch is in {path}, the latest checkpoint is kept; try a lower optimiser.rate, "
        "optimiser.clip, or precision float32"
    )


@contextmanager
def explained(config: TrainConfig, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Turn errors of memory and of workers into one line each.

    Raises:
        TrainingError: there was such an error.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, EOFError) as error:
        text = str(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(one in text for one in MEMORY):
            raise TrainingError(_too_large(config, shapes)) from error
        # A worker that dies while it hands over a tensor leaves a broken connection, before torch sees that it is gone.
        broken = isinstance(error, ConnectionError | EOFError)
        if broken or (isinstance(error, RuntimeError) and any(one in text for one in WORKERS)):
            what = (text or type(error).__name__).splitlines()[0]
            raise TrainingError(
                f"a process that reads data died ({what}), often for lack of memory or of space in "
                f"/dev/shm: lower workers (now {config.workers}) or batch_size (now {config.batch_size})"
            ) from error
        raise


def _too_large(config: TrainConfig, shapes: Mapping[str, tuple[int, ...]]) -> str:
    frames = f" (frames {' x '.join(map(str, shapes['frames']))})" if "frames" in shapes else ""
    if config.batch_size > 1:
        most = f"lower batch_size (now {config.batch_size}) and raise accumulate (now {config.accumulate}) as much"
    else:
        size, length = list(config.data.size), config.data.length
        most = f"batch_size is 1 already: lower data.size (now {size}) or data.length (now {length})"
    return f"out of memory with this batch{frames}: {most}"

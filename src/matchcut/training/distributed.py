"""One process or several (torchrun), on whichever device, and random numbers that do not depend on what ran before."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from matchcut.errors import TrainingError
from matchcut.tracking.device import pick_device
from matchcut.training.config import TrainConfig

MAKE, EPOCH, STEP = 11, 12, 13
"""What random numbers are for; none is 0 (to NumPy the seeds (7,) and (7, 0) are the same), or used by the clips."""


@contextmanager
def launched(config: TrainConfig, device: str) -> Iterator[Fabric]:
    """Fabric, started: one process, or one of those that torchrun made, which on the CPU take one thread each.

    Raises:
        ModelError: no such device.
        TrainingError: more processes than GPUs.
    """
    placed = pick_device(device)
    several, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if placed.type == "cuda" and local > torch.cuda.device_count():
        raise TrainingError(f"{local} processes, but {torch.cuda.device_count()} GPUs: one process a GPU")
    fabric = Fabric(
        accelerator=placed.type,
        devices=local if placed.index is None else [placed.index],
        num_nodes=several // local,
        # An epoch may leave a part of the network out, as a decoder that is trained later.
        strategy=DDPStrategy(find_unused_parameters=True) if several > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bfloat16" else "32-true",
    )
    threads = torch.get_num_threads()
    if several > 1 and placed.type == "cpu":
        torch.set_num_threads(1)
    fabric.launch()
    try:
        yield fabric
    finally:
        torch.set_num_threads(threads)
        if several > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def seed_all(*numbers: int, rank: int = 0) -> None:
    """Seed torch, NumPy and Python by some whole numbers; torch by the process too: its noise is each one's own, while
    what NumPy and Python draw is alike in all.

    The loop does so before every step, by (seed, step): a run that is resumed has nothing to restore, and pictures or
    pseudo masks may draw as they like.
    """
    words = np.random.SeedSequence(numbers).generate_state(4)
    torch.manual_seed((int(words[0]) << 32 | int(words[1])) ^ rank)
    np.random.seed(int(words[2]))
    random.seed(int(words[3]))


def from_others(rows: Tensor) -> Tensor | None:
    """The rows (M, ...) of all other processes, (processes - 1) x M, through which gradients go; None where this is the
    only one."""
    if not _several():
        return None
    gathered, rank = all_gather(rows), torch.distributed.get_rank()
    return torch.cat([*gathered[:rank], *gathered[rank + 1 :]])


def union_of_all(names: set[str]) -> set[str]:
    """What any of the processes has."""
    if not _several():
        return names
    gathered: list[set[str]] = [set()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, names)
    return set().union(*gathered)


def share_buffers(network: nn.Module) -> None:
    """Give all processes the first one's buffers: running statistics are those of each one's own clips."""
    if _several():
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()

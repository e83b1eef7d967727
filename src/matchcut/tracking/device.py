"""Where a model runs, in what precision, and on how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from matchcut.errors import ModelError
from matchcut.matching.threads import limited_threads


def pick_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        ModelError: no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 where that is faster: on GPUs, and on processors with AMX.

    Other processors that have bfloat16 (AVX-512) gain nothing by it, and those that emulate it lose much.

    Raises:
        ModelError: an unknown precision.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if precision in known:
        return known[precision]
    if precision != "auto":
        raise ModelError(f"unknown precision {precision!r}; there are auto, {', '.join(known)}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
        return torch.bfloat16 if has_amx and has_amx() else torch.float32
    return torch.float32


@contextmanager
def side_by_side(device: torch.device, wanted: bool = True) -> Iterator[tuple[bool, int]]:
    """Whether two stages of a pipeline are to run side by side: on a CPU, if torch may use two threads or more. And
    how many threads each stage is to use, which is set for this thread here and is to be set for others where they
    begin (`limit_threads`).

    Side by side each has half of them: two stages of one thread each do more than one after the other on two threads,
    which wait for each other at every operation, and for long where another program takes the processor of one.
    """
    threads = torch.get_num_threads()
    apart = wanted and device.type == "cpu" and threads > 1
    each = threads // 2 if apart else threads
    with limited_threads(each):
        yield apart, each

"""Where a model runs, in what precision, and on how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from matchcut.errors import ModelError


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
    """The dtype of that name; "auto" is bfloat16 on processors built for it.

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
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return torch.bfloat16 if supported and supported() else torch.float32
    return torch.float32


@contextmanager
def side_by_side(device: torch.device, wanted: bool = True) -> Iterator[bool]:
    """Whether two stages of a pipeline are to run side by side: on a CPU, if torch may use two threads or more.

    Each then has half of these: two stages of one thread each do more than one after the other on two threads, which
    wait for each other at every operation. It holds for this thread and for those that begin to use torch inside.
    """
    threads = torch.get_num_threads()
    if not wanted or device.type != "cpu" or threads == 1:
        yield False
        return
    torch.set_num_threads(threads // 2)
    try:
        yield True
    finally:
        torch.set_num_threads(threads)

"""What a run tells: progress lines, `log.jsonl`, TensorBoard and pictures."""

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from matchcut.files import atomic_path, make_folder
from matchcut.manifest import Manifest
from matchcut.training.objectives import Say

LOG = "log.jsonl"


class Means:
    """Means of named scalars since they were last taken, each over the times it came. On the device until then."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in some scalars."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means, by `reduce` those of all processes, and begin anew."""
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        self._sums, self._counts = {}, {}
        return dict(zip(names, reduce(means).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint between two progress lines."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


class Record:
    """What the first process writes to a run's folder. What an earlier run wrote after `step` is dropped."""

    def __init__(self, manifest: Manifest, step: int, say: Say) -> None:
        self.folder, self.manifest = manifest.folder, manifest
        self.say = say
        path, board = self.folder / LOG, self.folder / "tensorboard"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []
        with atomic_path(path, note="name") as temporary:
            temporary.write_text("".join(one for one in lines if _step_of(one) <= step), encoding="utf-8")
        self._log = path.open("a", encoding="utf-8")
        before = {*board.glob("*")}
        self._board = SummaryWriter(str(board), purge_step=step + 1)
        for made in {*board.glob("*")} - before:
            manifest.adopt(made)

    def discard(self) -> None:
        """Leave no trace of a run that ended before its first step; after `close`."""
        self.manifest.remove([LOG, "tensorboard/*"])

    def scalars(self, step: int, epoch: int, values: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Means of losses, gradient norm and rate, and how fast it goes, after a step."""
        row = {"step": step, "epoch": epoch, **values, **{name: round(value, 4) for name, value in speed.items()}}
        self._log.write(json.dumps(row) + "\n")
        self._log.flush()
        for name, value in {**values, **speed}.items():
            self._board.add_scalar(name, value, step)

    def pictures(self, step: int, epoch: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Pictures by name, as PNGs and to TensorBoard."""
        for name, picture in pictures.items():
            folder = self.folder / "pictures"
            make_folder(folder)
            with atomic_path(folder / f"{name}-{epoch:04d}.png") as temporary:
                Image.fromarray(picture).save(temporary)
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._log.close()
        self._board.close()


def _step_of(line: str) -> float:
    """The step that a line of the log is of; one after all others where it is damaged, or was cut short."""
    with suppress(ValueError, KeyError, TypeError):
        if line.endswith("\n"):
            return float(json.loads(line)["step"])
    return math.inf


class Pace:
    """How fast a run goes, between two progress lines."""

    def __init__(self) -> None:
        self._begun, self._waited, self._images, self._steps = time.perf_counter(), 0.0, 0, 0

    def add(self, images: int) -> None:
        """A batch of so many images was taken."""
        self._images += images

    def take(self, waited: float, processes: int, steps_done: int, steps_left: int) -> tuple[dict[str, float], float]:
        """Images a second of all processes and the share of time spent waiting, and the seconds left; begin anew.

        `waited` are the seconds waited for data since the start, `steps_done` those done since.
        """
        now = time.perf_counter()
        seconds = max(now - self._begun, 1e-9)
        speed = {"images_a_second": self._images * processes / seconds, "waiting": (waited - self._waited) / seconds}
        left = seconds / max(1, steps_done - self._steps) * steps_left
        self._begun, self._waited, self._images, self._steps = now, waited, 0, steps_done
        return speed, left


def progress_line(place: str, values: Mapping[str, float], speed: Mapping[str, float], left: float) -> str:
    """One line: where, the loss and its parts, the rate, images a second, share of waiting for data, time left."""
    parts = [f"{name} {value:.4f}" for name, value in values.items() if name not in ("loss", "rate", "gradient")]
    inside = f" ({', '.join(parts)})" if parts else ""
    hours, minutes = divmod(round(left / 60), 60)
    return (
        f"{place}  loss {values['loss']:.4f}{inside}  rate {values['rate']:.2e}  "
        f"{speed['images_a_second']:.1f} images/s  waiting {100 * speed['waiting']:.0f}%  {hours}:{minutes:02d} h left"
    )

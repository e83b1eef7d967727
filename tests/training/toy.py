"""A small objective and small videos for the tests of training; as a script, a run that can be killed.

python tests/training/toy.py RECIPE DATA OUT [--resume]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from matchcut.data.clips import Clips
from matchcut.data.footage import find_videos
from matchcut.training.config import TrainConfig, parse, read_config
from matchcut.training.loop import train
from matchcut.training.objectives import OBJECTIVES, Batch, Losses, Objective, Say
from matchcut.training.views import to_images

RECIPE = """
objective = "toy"
epochs = 3
batch_size = 2
workers = {workers}
log_every = 1
save_minutes = 0
pictures_every = 2
average = 0.9
data = {{ length = 2, size = [8, 8], views = 2, shake = 0.1, jitter = 0.3, clips = 8 }}
optimiser = {{ rate = 0.01, clip = 1.0 }}
schedule = {{ name = "cosine", warmup = 0.5 }}
settings = {{ {settings} }}
"""


@dataclass(frozen=True)
class ToySettings:
    noise: float = 0.1
    norm: bool = True
    width: int = 4
    fault: str = ""


class Toy(Objective):
    """A view's second frame from its first; the second head joins in the second epoch."""

    def __init__(self, config: TrainConfig, roots: Sequence[Path], cache: Path, say: Say) -> None:
        self.settings = parse(ToySettings, config.settings, "settings")
        videos, _ = find_videos(*roots)
        self.samples = Clips(videos, config.data, seed=config.seed, cache=cache)
        width = self.settings.width
        norm = nn.BatchNorm2d(width) if self.settings.norm else nn.Identity()
        self.network = nn.ModuleDict(
            {
                "trunk": nn.Sequential(nn.Conv2d(3, width, 3, padding=1), norm, nn.ReLU()),
                "head": nn.Conv2d(width, 3, 1),
                "late": nn.Conv2d(width, 3, 1),
            }
        )
        self.made: list[int] = []
        self.target = torch.zeros(3)

    def start_epoch(self, epoch: int, say: Say) -> None:
        self.made.append(epoch)
        self.target = torch.rand(3)
        self.network.eval()  # which the loop has to undo

    def loss(self, batch: Batch, epoch: int) -> Losses:
        images = to_images(batch["frames"]).flatten(0, 1)  # (BV, T, 3, H, W)
        noise = torch.randn_like(images[:, 0]) * self.settings.noise * float(np.random.uniform())
        features = self.network["trunk"](images[:, 0] + noise)
        near = (self.network["head"](features) - images[:, 1]).square().mean()
        if self.settings.fault == "nan" and epoch == 1:
            near = near * float("nan")
        if self.settings.fault == "gradient" and epoch == 1:
            near = near + (features.sum() * 0).sqrt()  # 0, with an infinite slope
        if self.settings.fault == "memory" and epoch == 1:
            torch.empty(1 << 60, dtype=torch.uint8)
        if epoch == 0:
            return near, {"near": near}
        late = (self.network["late"](features).mean((0, 2, 3)) - self.target.to(features.device)).square().mean()
        return near + late, {"near": near, "late": late}

    def pictures(self, batch: Batch, epoch: int) -> dict[str, Any]:
        assert not self.network.training and not torch.is_grad_enabled()
        torch.rand(7)  # must change nothing
        return {"first": batch["frames"][0, 0, 0].cpu().numpy()}

    def state_dict(self) -> dict[str, Any]:
        return {"made": self.made, "target": self.target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made, self.target = list(state["made"]), state["target"]


OBJECTIVES["toy"] = Toy


def write_recipe(folder: Path, settings: str = "", workers: int = 0, **replaced: str) -> Path:
    """RECIPE as a file, with some of its lines replaced, by what they begin with."""
    lines = RECIPE.format(settings=settings, workers=workers).splitlines()
    for key, value in replaced.items():
        lines = [line for line in lines if not line.startswith(f"{key} =")]
        lines.insert(0, f"{key} = {value}")
    path = folder / "recipe.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_videos(root: Path, *totals: int) -> Path:
    """Folders of so many smooth JPEG frames of 24 x 32 that move to the right."""
    random = np.random.default_rng(0)
    for number, total in enumerate(totals):
        folder = root / f"video{number}"
        folder.mkdir(parents=True)
        wide = cv2.resize(random.integers(0, 256, (6, 24, 3), dtype=np.uint8), (96, 24))
        for frame in range(total):
            cv2.imwrite(str(folder / f"{frame:05d}.jpg"), wide[:, frame : frame + 32])
    return root


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe, data, out = map(Path, sys.argv[1:4])
    train(
        read_config(recipe),
        data,
        out,
        resume="--resume" in sys.argv,
        device="cpu",
        say=lambda line: print(line, flush=True),  # noqa: T201
    )

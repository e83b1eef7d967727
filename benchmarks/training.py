"""Training: clips drawn a second and core, and what the loop costs beside a bare one over the same network.

    python benchmarks/training.py
    python benchmarks/training.py --clips 8 --steps 4 --size 64      # to try it

Times are processor seconds of one thread, so that other work on the machine hardly changes them. The bare loop is what
one would write without this package: forward, backward and step of a ResNet-18 at stride 8, on batches at hand.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

from common import DATA, cost, machine, table
from matchcut.data.clips import ClipConfig, Clips
from matchcut.data.footage import find_videos
from matchcut.models.backbones import Backbone
from matchcut.training.config import OptimiserConfig, TrainConfig
from matchcut.training.loop import train
from matchcut.training.objectives import OBJECTIVES, Batch, Losses, Objective, Say
from matchcut.training.views import to_images


class Same:
    """One clip again and again, which costs nothing to draw."""

    def __init__(self, clips: int, size: int) -> None:
        self.clips = clips
        self.clip = {"frames": np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)}

    def __len__(self) -> int:
        return self.clips

    def describe(self) -> str:
        return "one clip"

    def draw(self, epoch: int, index: int) -> dict[str, Any]:
        return self.clip

    def unreadable(self, batch: Batch) -> list[str]:
        return []


class Contrast(Objective):
    """Features of two frames are to be alike: cheap beside the network."""

    def __init__(self, config: TrainConfig, roots: Sequence[Path], cache: Path, say: Say) -> None:
        self.network = Backbone("resnet18", (3,), 8)
        self.samples = Same(config.settings["clips"], config.data.size[0])

    def loss(self, batch: Batch, epoch: int) -> Losses:
        features = self.network(to_images(batch["frames"]).flatten(0, 1))[0]
        loss = (features[::2] - features[1::2]).square().mean()
        return loss, {"alike": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="of 5 frames, for each row")
    parser.add_argument("--steps", type=int, default=20, help="of each loop; the first three are not counted")
    parser.add_argument("--size", type=int, default=128, help="of the crops of the loops")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"\n{machine('lightning-fabric', 'opencv-python-headless')}\n")
    with tempfile.TemporaryDirectory() as folder:
        drawing(Path(folder), options.clips)
        looping(Path(folder), options.steps, options.size)


def drawing(folder: Path, count: int) -> None:
    rows = []
    for name in ("davis2016-train-256p", "davis2016-dev-480p"):
        videos, _ = find_videos(DATA / name / "JPEGImages")
        for views in (1, 2):
            for cache in (False, True):
                config = ClipConfig(side=320, views=views, shake=0.05, jitter=0.2, cache=cache)
                clips = Clips(videos, config, seed=0, cache=folder / name)
                if cache:
                    for index in range(count):
                        clips.draw(0, index)
                seconds = cost(lambda: [clips.draw(0, index) for index in range(count)]) / count  # noqa: B023
                kept = "decoded frames on disk" if cache else "JPEG"
                rows.append([f"{name[-4:]} {kept}, {views} of 256 x 256", f"{1 / seconds:.0f}", f"{5 / seconds:.0f}"])
    print(table(["5 frames of a video, crops", "clips/s a core", "frames/s a core"], rows))


def looping(folder: Path, steps: int, size: int) -> None:
    OBJECTIVES["contrast"] = Contrast
    rows, bare = [], 0.0
    for name, average in (("bare loop", None), ("`train`", 0.0), ("`train`, with moving average", 0.99)):
        config = TrainConfig(
            objective="contrast",
            epochs=1,
            batch_size=4,
            workers=0,
            average=average or 0.0,
            data=ClipConfig(size=(size, size)),
            optimiser=OptimiserConfig(clip=0.0 if average is None else 1.0),
            settings={"clips": 4 * steps},
        )
        seconds = bare_loop(config, steps) if average is None else whole_loop(config, folder / name)
        bare = bare or seconds
        rows.append([name, f"{1e3 * seconds:.0f}", f"{bare / seconds:.2f}"])
    print(f"\nResNet-18 at stride 8, 4 clips of 2 frames of {size} x {size}, float32\n")
    print(table(["loop", "ms a step", "rate by the bare loop's"], rows))


def bare_loop(config: TrainConfig, steps: int) -> float:
    objective = Contrast(config, [], Path(), print)
    optimiser = torch.optim.Adam(objective.network.parameters(), lr=config.optimiser.rate, fused=True)
    batch = {name: torch.from_numpy(np.stack([one] * 4)) for name, one in objective.samples.clip.items()}
    spent = []
    for _ in range(steps):
        begun = time.process_time()
        optimiser.zero_grad()
        objective.loss(batch, 0)[0].backward()
        optimiser.step()
        spent.append(time.process_time() - begun)
    return float(np.median(spent[3:]))


def whole_loop(config: TrainConfig, out: Path) -> float:
    ends = []

    class Timed(Contrast):
        def loss(self, batch: Batch, epoch: int) -> Losses:
            ends.append(time.process_time())
            return super().loss(batch, epoch)

    OBJECTIVES["contrast"] = Timed
    train(config, Path(), out, device="cpu")
    return float(np.median(np.diff(ends)[3:]))


if __name__ == "__main__":
    main()

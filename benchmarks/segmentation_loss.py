"""What Mask-VOS's segmentation loss costs beside its correspondence, by the paper's recipe (ResNet-18, 16 clips of 5
frames in two views, 4 of them with masks): the same steps with and without it, turn by turn. The paper: 8% more time
(Table S2), with the loss in the last 100 of 400 epochs and pseudo masks made ten times.

    matchcut train recipes/mask_vos_resnet18.toml -o runs/r --data ../shared/data/davis2016-train-256p
    python benchmarks/segmentation_loss.py --weights runs/r/weights.safetensors

The recipe is for YouTube-VOS, whose videos have some 27 frames (every fifth of three to six seconds); these have more,
and of every eighth one clusters are made, so both lengths are told. Times are processor seconds of one thread.
Without --weights features are untrained, and few clusters are objects.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

from common import DATA, cost, machine, table
from matchcut.training.checkpoint import load_weights
from matchcut.training.config import TrainConfig, read_config
from matchcut.training.objectives.mask_vos.objective import MaskVOSObjective

RECIPE = Path(__file__).parents[1] / "recipes" / "mask_vos_paper.toml"
PAPERS = 27
"""Frames of a video of YouTube-VOS, on average."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of the same form, trained by correspondence alone")
    parser.add_argument("--steps", type=int, default=9, help="2 or more; the first is not counted")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="another, as of fewer or smaller clips")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="the recipe's where it is not given")
    parser.add_argument("--data", type=Path, default=DATA / "davis2016-train-256p")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = read_config(options.recipe)
    config = replace(config, precision=options.precision or config.precision)
    with tempfile.TemporaryDirectory() as folder:
        objective = MaskVOSObjective(config, [options.data], Path(folder), print)
        if options.weights:
            load_weights(objective.network, options.weights)
        objective.network.train()
        first, every = objective.settings.masks_from, objective.settings.masks_every
        clustering = {}
        whole = objective.samples.videos
        for name, most in (("of these videos", None), (f"of videos of {PAPERS} frames", PAPERS)):
            objective.samples.videos = [replace(one, total=min(one.total, most or one.total)) for one in whole]
            with autocast(config):
                clustering[name] = cost(lambda: objective.start_epoch(first, print)) / len(whole)
        objective.samples.videos = whole
        objective.network.train()
        spent: dict[int, list[float]] = {0: [], first: []}
        for step in range(options.steps):
            drawn = [objective.samples.draw(step, at) for at in range(config.batch_size)]
            batch = {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}
            for epoch, seconds in spent.items():
                np.random.seed(step)
                seconds.append(cost(lambda: step_of(objective, batch, epoch, config)))  # noqa: B023
    alone, both = (float(np.mean(seconds[1:])) for seconds in spent.values())
    late = 1 - first / config.epochs
    rows = [
        ["L_Corr", f"{alone:.1f}", "1.00"],
        ["L_Corr + L_Seg", f"{both:.1f}", f"{both / alone:.2f}"],
        [f"L_Seg in the last {100 * late:.0f}% of the epochs", "", f"{1 + late * (both / alone - 1):.3f}"],
    ]
    for name, seconds in clustering.items():
        masks = seconds * config.batch_size / every / alone  # of an epoch's time, which is one clip of each video
        what = f"the same, and clusters {name} every {every} epochs"
        rows.append([what, f"{seconds:.2f} a video", f"{1 + late * (both / alone - 1 + masks):.3f}"])
    print(f"\n{machine('timm')}\n\n{table(['', 'seconds a step', 'by L_Corr alone'], rows)}")


def autocast(config: TrainConfig) -> torch.autocast:
    """The precision in which `train` computes."""
    return torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16")


def step_of(objective: MaskVOSObjective, batch: dict[str, torch.Tensor], epoch: int, config: TrainConfig) -> None:
    """Forward and backward, as `train` does."""
    with autocast(config):
        loss, _ = objective.loss(batch, epoch)
    loss.backward()
    objective.network.zero_grad()


if __name__ == "__main__":
    main()

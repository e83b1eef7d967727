"""A model of forty lines: it hands on a state, wants side data of each frame, and learns on the annotated frames.

python forty_lines.py VIDEO OUT MASKS.npz [FRAME]: track into OUT and, if a frame is given, be killed after it.
"""

import copy
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import matchcut
from matchcut import api
from matchcut.tracking import tracker as tracker_module
from matchcut.tracking.outputs import Outputs


class Recurrent(nn.Module, matchcut.GuidedModel):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))  # of the colours, learned anew for each track
        self.spec = matchcut.ModelSpec(
            policy=matchcut.MemoryPolicy(2),
            state=True,
            side={"light": lambda index, name, pixels: float(pixels.mean()) / 255},
            grid=4,
            mask_grid=4,
        )

    def adapt(self, annotated, ids):
        other = copy.deepcopy(self)
        optimiser = torch.optim.SGD([other.scale], 0.05)
        for one in annotated:
            cells = F.avg_pool2d(one.frame.image, 4).flatten(2)[0].T  # (n, 3)
            inside = torch.from_numpy(np.isin(one.labels, ids))[None, None].float()
            inside = F.avg_pool2d(inside, 4).flatten() > 0.5
            for _ in range(5):
                optimiser.zero_grad()
                apart = ((cells[inside].mean(0) - cells[~inside].mean(0)) * other.scale).square().sum()
                (apart - 2).square().backward()
                optimiser.step()
        return other.requires_grad_(False)

    def encode(self, frame):
        return F.avg_pool2d(frame.image, 4) - 0.1 * frame.side["light"]

    def segment(self, features, references, state, ids):
        scaled = self.scale[:, None]
        keys = torch.cat([one.features.flatten(2) for one in references], 2) * scaled
        values = torch.cat([one.values.flatten(2) for one in references], 2)
        distances = torch.cdist((features.flatten(2) * scaled).mT, keys.mT)
        masks = (values @ (-30 * distances).softmax(2).mT).unflatten(2, features.shape[2:])
        means = {one: 0.8 * masks[:, i] + 0.2 * (state or {}).get(one, masks[:, i]) for i, one in enumerate(ids, 1)}
        return matchcut.Prediction(torch.stack([masks[:, 0], *means.values()], 1), means)


def main():
    source, out, masks, *killed_after = sys.argv[1:]
    torch.set_num_threads(1)
    tracker_module.EVERY = 4
    video = matchcut.Video(source)

    def progress(done, total):
        if killed_after and done == int(killed_after[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    outputs = Outputs(Path(out), video.size, video.frame_rate)
    annotations = {int(frame): labels for frame, labels in np.load(masks).items()}
    runner = matchcut.Tracker(Recurrent(), device="cpu", precision="float32")
    api.run(
        *(video, runner, outputs.folder, outputs, annotations),
        resume=not killed_after,
        passes=api.Passes(progress=progress),
    )


if __name__ == "__main__":
    main()

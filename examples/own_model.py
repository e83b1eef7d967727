"""A guided model of your own on the sample clip: python examples/own_model.py OUT (docs/add_a_model.md explains it)."""

import sys

import torch
import torch.nn.functional as F

import matchcut
from matchcut.matching import affinity


class Patches(matchcut.GuidedModel):
    """Patches of 4 x 4 pixels take the labels of the patches they look most like."""

    spec = matchcut.ModelSpec(policy=matchcut.MemoryPolicy(context=5), size=240, multiple=4, grid=4, mask_grid=4)

    def encode(self, frame):
        patches = F.unfold(frame.image, 12, padding=4, stride=4)  # (1, 3 * 12 * 12, h * w), with what is around each
        height, width = (side // 4 for side in frame.image.shape[2:])
        return F.normalize(patches - patches.mean(1, keepdim=True), dim=1).unflatten(2, (height, width))

    def segment(self, features, references, state, ids):
        values = torch.stack([one.values for one in references], 2)  # (1, 1 + N, T, h, w) masks of T references
        match = affinity(features, [one.features for one in references], top_k=5, temperature=0.03, radius=10)
        return matchcut.Prediction(match.apply(values))  # (1, 1 + N, h, w)


if __name__ == "__main__":
    out = sys.argv[1] if len(sys.argv) > 1 else "out/own_model"
    timeline = matchcut.track("examples/bunny.mp4", "examples/bunny_first.png", model=Patches())
    timeline.save(out)
    timeline.save_video(f"{out}/overlay.mp4")
    print(f"masks and overlay.mp4 are in {out}; frame {timeline.weakest()} is the least sure one")

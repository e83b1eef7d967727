"""A training run's weights in half precision, as they are shipped, and the hash that `weights/specs.py` records.

python scripts/ship_weights.py runs/a/weights.safetensors src/matchcut/weights/files/mask_vos_small.safetensors \
    --turn ../shared/data/davis2016-train-256p/JPEGImages

`--turn` is for Mask-VOS whose keys are the backbone's features as they are: they are turned, which changes no
similarity, so that their first channels hold most of them. What is searched on the CPU is told by these first.
"""

import argparse
import hashlib
from pathlib import Path

import cv2
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from matchcut.video.reader import Video
from matchcut.weights.store import load_trained

EVERY = 15
"""Of a video's frames."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--turn", type=Path, metavar="VIDEOS", help="folder with a folder of frames a video")
    options = parser.parse_args()
    with safe_open(options.source, framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dict)
    if options.turn is not None:
        tensors["key.weight"] = turned(options.source, options.turn)[:, :, None, None]
    halves = {name: one.half() if one.dtype == torch.float32 else one for name, one in tensors.items()}
    save_file({name: one.contiguous() for name, one in halves.items()}, options.target, about)
    digest = hashlib.sha256(options.target.read_bytes()).hexdigest()
    print(f"{options.target}: {options.target.stat().st_size / 1e6:.2f} MB, SHA-256 {digest}")


@torch.no_grad()
def turned(source: Path, videos: Path) -> torch.Tensor:
    """(C, C) the directions of the keys of some frames, those that hold most first."""
    model = load_trained(source, "mask-vos")
    weight = model.key.weight[:, :, 0, 0]
    if not torch.equal(weight, torch.eye(len(weight))):
        raise SystemExit(f"{source}: its keys were learned, or turned already")
    products = torch.zeros(weight.shape, dtype=torch.float64)
    for folder in sorted(videos.iterdir()):
        for _, frame in Video(folder, stride=EVERY).frames():
            scale = (model.size or min(frame.shape[:2])) / min(frame.shape[:2])
            large = cv2.resize(frame, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            keys = model.encode(torch.from_numpy(large).permute(2, 0, 1)[None] / 255).keys[0].flatten(1).double()
            products += keys @ keys.T
    return torch.linalg.eigh(products).eigenvectors.flip(1).T.float()


if __name__ == "__main__":
    main()

"""A training run's weights in half precision, as they are shipped, and the hash that `weights/records.py` records.

python scripts/ship_weights.py runs/a/weights.safetensors src/matchcut/weights/files/mask_vos_small.safetensors
"""

import argparse
import hashlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    with safe_open(options.source, framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dict)
    halves = {name: one.half() if one.dtype == torch.float32 else one for name, one in tensors.items()}
    save_file({name: one.contiguous() for name, one in halves.items()}, options.target, about)
    digest = hashlib.sha256(options.target.read_bytes()).hexdigest()
    print(f"{options.target}: {options.target.stat().st_size / 1e6:.2f} MB, SHA-256 {digest}")


if __name__ == "__main__":
    main()

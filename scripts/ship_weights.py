"""A training run's weights in half precision, as they are shipped, and the hash that `weights/specs.py` records.

python scripts/ship_weights.py runs/a/weights.safetensors src/matchcut/weights/files/mask_vos_small.safetensors
"""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

source, target = map(Path, sys.argv[1:])
with safe_open(source, framework="pt") as file:
    about = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dict)
save_file({name: one.half() if one.dtype == torch.float32 else one for name, one in tensors.items()}, target, about)
print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}")

"""RAFT of torchvision as a source of optical flow, for who can download its weights or has them in a file.

Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchvision.models import optical_flow

from matchcut.errors import ModelError, unreadable

NETWORKS = {
    "raft-small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
    "raft-large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
}
UPDATES = 12
"""Steps of its iteration, torchvision's default."""
SMALLEST = 128
"""Its pyramid of correlations needs frames of at least so many pixels a side; smaller ones are enlarged."""


class Raft:
    """From two RGB frames (H, W, 3) uint8 to the flow (H, W, 2) float32 from the first to the second, in pixels.

    Args:
        name: of `NETWORKS`.
        weights: a local file of torchvision's weights; None downloads them, once.
        device: where it runs.

    Raises:
        ModelError: an unknown name, or weights that cannot be had or do not fit.
    """

    def __init__(self, name: str, weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        if name not in NETWORKS:
            raise ModelError(f"unknown optical flow {name!r}; there are dis, {', '.join(NETWORKS)}")
        build, published = NETWORKS[name]
        try:
            stored: Any
            if weights is not None:
                with warnings.catch_warnings(action="ignore"):  # of odd pickles, which are refused all the same
                    stored = torch.load(weights, map_location="cpu", weights_only=True)
            else:
                stored = published.get_state_dict(progress=False, check_hash=True)
            self.network = build(weights=None).eval()
            self.network.load_state_dict(stored)
        except Exception as error:  # whatever the download or the file met
            if weights is not None:
                what = f"is no file of its weights ({unreadable(error)}); expected torchvision's state dict, as .pth"
                raise ModelError(f"{name}: {weights} {what}") from error
            raise ModelError(
                f"{name}: its weights could not be downloaded from {published.url} ({unreadable(error)}); give a file "
                "of them with --flow-weights"
            ) from error
        self.name, self.device = name, torch.device(device)
        self.weights = hashlib.sha256(weights.read_bytes()).hexdigest() if weights else published.url
        """Which they are."""
        self.network.to(self.device)

    def __call__(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = first.shape[:2]
        size = [max(SMALLEST, -(-side // 8) * 8) for side in (height, width)]
        pair = torch.from_numpy(np.stack([first, second])).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        pair = F.interpolate(pair, size=size, mode="bilinear", align_corners=False)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            found = self.network(pair[:1], pair[1:], num_flow_updates=UPDATES)[-1]
            found = F.interpolate(found, size=(height, width), mode="bilinear", align_corners=False)[0]
        scale = found.new_tensor([width / size[1], height / size[0]])
        flow: NDArray[np.float32] = (found.permute(1, 2, 0) * scale).cpu().numpy()
        return flow

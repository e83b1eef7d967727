"""Between the pixels of crops and the cells of features: `matchcut.data.clips` says what the maps are."""

import torch
from torch import Tensor


def to_images(frames: Tensor) -> Tensor:
    """Frames (..., H, W, 3) uint8 as images (..., 3, H, W) float32 in [0, 1]; in memory the channels stay last."""
    return frames.movedim(-1, -3).float() / 255


def grid_between(target: Tensor, cells: tuple[int, int], size: tuple[int, int], source: Tensor | None = None) -> Tensor:
    """Where the cells of one view's features lie in another view, or in the whole frame.

    Args:
        target: (N, 2, 3) maps of the views whose cells are asked for, from pixels of the crop to the frame.
        cells: (h, w) of the grid laid over the whole crop, at whatever stride.
        size: (H, W) of the crops in pixels.
        source: (N, 2, 3) maps of the views where to look; None: in the frames themselves.

    Returns:
        (N, h, w, 2) coordinates for `torch.nn.functional.grid_sample` with `align_corners=False`, on features, images
        or masks of the source at any resolution. Outside [-1, 1] the source shows nothing of the place.
    """
    # Plain products and sums: autocast would make a matrix product of coordinates one of bfloat16.
    rows, columns = cells
    x = ((torch.arange(columns, device=target.device) + 0.5) * (size[1] / columns)).view(1, 1, -1)
    y = ((torch.arange(rows, device=target.device) + 0.5) * (size[0] / rows)).view(1, -1, 1)
    a, b, left, c, d, top = target.float().flatten(1)[:, :, None, None].unbind(1)  # (N, 1, 1) each
    x, y = a * x + b * y + left, c * x + d * y + top  # (N, h, w), in [0, 1] of the frame
    if source is not None:
        a, b, left, c, d, top = source.float().flatten(1)[:, :, None, None].unbind(1)
        x, y = x - left, y - top
        scale = 1 / (a * d - b * c)
        x, y = (d * x - b * y) * scale / size[1], (a * y - c * x) * scale / size[0]
    return torch.stack([2 * x - 1, 2 * y - 1], dim=-1)

"""Mask encoders and decoders: between masks of objects and an embedding of them on the grid of cells.

Each comes in two forms. The paper's (Mask-VOS, Algorithm S1, Eq. 9) has a mask encoder that is a second backbone on
[frame, mask] and full 3x3 convolutions. The light form shares what the visual encoder saw, computed once a frame
whatever the number of objects, and has depthwise convolutions. No layer here depends on the batch it is in, so that two
processes train as one with twice the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.models.backbones import Backbone, channels_of
from matchcut.models.resampling import enlarge, finer

MASKS = 3
"""Mask channels: of the object; of all others together, which it must not be mixed up with; and of the object as the
annotated frames alone show it, which nothing that went wrong since can have spoilt."""


@dataclass(frozen=True)
class FrameFeatures:
    """What is computed of a frame once, whatever the number of objects."""

    keys: Tensor
    """(B, C, h, w) float32, L2-normalised: what is matched."""
    cells: Tensor
    """(B, W, h, w) on the grid of cells, of the deeper features (res3 and res4)."""
    fine: Tensor
    """(B, W', H', W'), twice as fine, of the shallowest (res2)."""
    details: Tensor | None = None
    """(B, C', H', W') float32, L2-normalised: what is matched on the finer grid, where it is."""
    image: Tensor | None = None
    """(B, 3, H, W) in [0, 1], where the mask encoder looks at the frame itself."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "FrameFeatures":
        """All that there is, changed."""
        parts = (self.keys, self.cells, self.fine, self.details, self.image)
        return FrameFeatures(*(None if one is None else change(one) for one in parts))  # type: ignore[arg-type]

    def crop(self, rows: slice, columns: slice) -> "FrameFeatures":
        """The part inside a box given in cells; without that of what is matched, which nothing here needs."""
        fine_rows, fine_columns = finer((rows, columns))
        fine = self.fine[..., fine_rows, fine_columns]
        image = self.image
        if image is not None:
            # The last cell may reach over the edge of the frame.
            y, x = (-(-n // m) for n, m in zip(image.shape[2:], self.cells.shape[2:], strict=True))
            image = image[..., rows.start * y : rows.stop * y, columns.start * x : columns.stop * x]
        return FrameFeatures(self.keys, self.cells[..., rows, columns], fine, image=image)


class Separable(nn.Module):
    """x + a pointwise of a depthwise 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to the same."""
        added: Tensor = self.pointwise(F.relu(self.depthwise(x)))
        return F.relu(x + added)


class Residual(nn.Module):
    """x + two 3x3 convolutions of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) to the same."""
        added: Tensor = self.second(F.relu(self.first(x)))
        return F.relu(x + added)


class LightMaskEncoder(nn.Module):
    """An embedding of a mask from the mask and the features that the visual encoder already has of its frame.

    Args:
        widths: channels of the frame's features on the grid of cells, and on the finer one.
        value: channels of the embedding.
    """

    def __init__(self, widths: tuple[int, int], value: int) -> None:
        super().__init__()
        coarse, fine = widths
        self.masks = nn.Conv2d(MASKS, fine, 3, padding=1)
        self.shrink = nn.Conv2d(fine, fine, 3, stride=2, padding=1, groups=fine)
        self.widen = nn.Conv2d(fine, coarse, 1)
        self.blocks = nn.Sequential(Separable(coarse), Separable(coarse))
        self.value = nn.Conv2d(coarse, value, 1)

    def forward(self, features: FrameFeatures, masks: Tensor) -> Tensor:
        """Masks (B, N, MASKS, H', W') on the finer grid to (B, N, value, h, w)."""
        batch, objects = masks.shape[:2]
        x = _add(self.masks(masks.flatten(0, 1)), features.fine)
        x = _add(self.widen(self.shrink(x)), features.cells)
        values: Tensor = self.value(self.blocks(x))
        return torch.unflatten(values, 0, (batch, objects))


class DeepMaskEncoder(nn.Module):
    """The paper's: a backbone of its own on [frame, masks].

    Args:
        backbone: with one stage, at the stride of the grid of cells. It becomes part of this: its first convolution
            takes the masks as more channels from here on.
        value: channels of the embedding.
    """

    def __init__(self, backbone: Backbone, value: int) -> None:
        super().__init__()
        _widen_input(backbone, MASKS)
        self.backbone = backbone
        self.value = nn.Conv2d(channels_of(backbone)[-1], value, 1)

    def forward(self, features: FrameFeatures, masks: Tensor) -> Tensor:
        """Masks (B, N, MASKS, H', W') to (B, N, value, h, w)."""
        assert features.image is not None
        batch, objects = masks.shape[:2]
        large = enlarge(masks.flatten(0, 1), features.image.shape[2:])
        image = features.image.repeat_interleave(objects, 0)
        deep = self.backbone(torch.cat([image, large.to(image.dtype)], 1))[-1]
        values: Tensor = self.value(enlarge(deep, features.cells.shape[2:]))
        return torch.unflatten(values, 0, (batch, objects))


class MaskDecoder(nn.Module):
    """From the carried embedding and the frame's own to logits, with skips from the frame's features (Eq. 9).

    Args:
        widths: channels on the grid of cells, and on the finer one.
        value: channels of an embedding.
        light: depthwise convolutions instead of full ones.
    """

    def __init__(self, widths: tuple[int, int], value: int, light: bool) -> None:
        super().__init__()
        coarse, fine = widths
        block = Separable if light else Residual
        self.join = nn.Conv2d(2 * value, coarse, 1)
        self.coarse = nn.Sequential(block(coarse), block(coarse))
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.fine = nn.Sequential(block(fine), block(fine))
        self.logit = nn.Conv2d(fine, 1, 3, padding=1)

    def forward(self, features: FrameFeatures, carried: Tensor, own: Tensor) -> Tensor:
        """Embeddings (B, N, value, h, w) to logits (B, N, H', W') on the finer grid."""
        batch, objects = carried.shape[:2]
        x = _add(self.join(torch.cat([carried, own], 2).flatten(0, 1)), features.cells)
        x = enlarge(self.reduce(self.coarse(x)), features.fine.shape[2:])
        logits: Tensor = self.logit(self.fine(_add(x, features.fine)))
        return torch.unflatten(logits[:, 0], 0, (batch, objects))


def aggregate(logits: Tensor) -> Tensor:
    """Logits of objects, each on its own (B, N, h, w), to logits over {background, objects} (B, 1 + N, h, w).

    Soft aggregation: the background's probability is the product of all 1 - p; each probability p then counts by its
    odds p / (1 - p), so that a softmax of what is returned sums to 1.
    """
    logits = logits.float()
    nothing = F.logsigmoid(-logits).sum(1, keepdim=True)  # log of the background's probability
    background = nothing - torch.log(-torch.expm1(nothing.clamp(max=-1e-6)))
    return torch.cat([background, logits], 1)


def _add(x: Tensor, frame: Tensor) -> Tensor:
    """Add a frame's features (B, C, h, w) to those of each of its objects (B * N, C, h, w); then the ReLU."""
    return F.relu(x.unflatten(0, (frame.shape[0], -1)) + frame[:, None]).flatten(0, 1)


def _widen_input(backbone: Backbone, more: int) -> None:
    """Let a backbone take more channels after the three of the image."""
    for parent in backbone.net.modules():
        for child in parent.children():
            if isinstance(child, nn.Conv2d) and child.in_channels == 3 and child.groups == 1:
                old = child.weight.data
                added = torch.randn(len(old), more, *old.shape[2:]).to(old) * old.std()
                child.in_channels += more
                child.weight = nn.Parameter(torch.cat([old, added], 1))
                backbone.mean = F.pad(backbone.mean, (0, 0, 0, 0, 0, more))
                backbone.std = F.pad(backbone.std, (0, 0, 0, 0, 0, more), value=1.0)
                return
    raise ValueError(f"backbone: expected one whose first convolution takes an image, got {backbone.name}")


def mask_channels(soft_masks: Tensor, given: Tensor | None = None) -> Tensor:
    """Soft masks (B, 1 + N, h, w) to (B, N, MASKS, h, w): each object's, the sum of all others', and each object's as
    the annotated frames alone give it (B, N, h, w); its own once more where None."""
    own = soft_masks[:, 1:]
    return torch.stack([own, own.sum(1, keepdim=True) - own, own if given is None else given], 2)


def mixed(carried: Tensor, decoded: Tensor, share: float) -> Tensor:
    """Soft masks (B, 1 + N, h, w) of which the decoded ones have a share, and more where less is known (masks that sum
    to less than 1)."""
    if share == 0:
        return carried
    known = (1 - share) * carried.sum(1, keepdim=True)
    return ((1 - share) * carried + share * decoded) / (known + share)

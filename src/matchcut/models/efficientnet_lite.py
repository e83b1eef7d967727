"""EfficientNet-Lite0, the default backbone, as timm has it but without timm, which takes two seconds to load.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019. Lite: ReLU6 for
swish, and no squeeze-and-excitation. Parameters have the names and the order of timm's `tf_efficientnet_lite0`, and its
methods and attributes are those that `Backbone` uses.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = (
    (1, 3, 1, 16, 1),
    (2, 3, 6, 24, 2),
    (2, 5, 6, 40, 2),
    (3, 3, 6, 80, 2),
    (3, 5, 6, 112, 1),
    (4, 5, 6, 192, 2),
    (1, 3, 6, 320, 1),
)
"""Blocks, kernel, expansion, channels and stride of the first block, of each group of blocks."""
STAGE_ENDS = (1, 2, 3, 5, 7)
"""After how many groups the features of each stage come."""
STEM, HEAD = 32, 1280


class EfficientNetLite0(nn.Module):
    """The network, without its classifier.

    Args:
        output_stride: of the deepest features; beyond it, strides are replaced by dilation.
    """

    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.feature_info: list[dict[str, int]] = []
        self.conv_stem = Conv2dSame(3, STEM, 3, 2)
        self.bn1 = _Norm(STEM, nn.ReLU6(inplace=True))
        groups, inside, reached, dilation = [], STEM, 2, 1
        for end, (count, kernel, expansion, channels, stride) in enumerate(GROUPS, 1):
            blocks: list[nn.Module] = []
            for number in range(count):
                step, spread = (stride if number == 0 else 1), dilation
                if reached * step > output_stride:
                    step, dilation = 1, dilation * step
                reached *= step
                blocks.append(_Block(inside, channels, kernel, expansion, step, spread))
                inside = channels
            groups.append(nn.Sequential(*blocks))
            if end in STAGE_ENDS:
                self.feature_info.append({"num_chs": channels, "reduction": reached})
        self.blocks = nn.Sequential(*groups)
        self.conv_head: nn.Module = _convolution(inside, HEAD, 1)
        self.bn2: nn.Module = _Norm(HEAD, nn.ReLU6(inplace=True))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to the mean of the last features (B, C)."""
        features: Tensor = self.bn2(self.conv_head(self.blocks(self.bn1(self.conv_stem(image)))))
        return features.mean((2, 3))

    def forward_intermediates(self, image: Tensor, indices: Sequence[int], **_: Any) -> list[Tensor]:
        """(B, 3, H, W) to the features (B, C, h, w) of the stages `indices`, ascending, h and w rounded up."""
        ends = [STAGE_ENDS[index] for index in indices]
        found, x = [], self.bn1(self.conv_stem(image))
        for end, group in enumerate(self.blocks[: ends[-1]], 1):
            x = group(x)
            if end in ends:
                found.append(x)
        return found

    def prune_intermediate_layers(self, indices: Sequence[int]) -> None:
        """Take out what the features of the stages `indices` do not need."""
        self.blocks = self.blocks[: max(STAGE_ENDS[index] for index in indices)]
        self.conv_head = self.bn2 = nn.Identity()


class _Block(nn.Module):
    """A pointwise convolution up (none where nothing is expanded), a depthwise one, a pointwise one down."""

    def __init__(self, inside: int, outside: int, kernel: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        middle, self.adds = inside * expansion, stride == 1 and inside == outside
        self.expands = expansion > 1
        if self.expands:
            self.conv_pw = _convolution(inside, middle, 1)
            self.bn1 = _Norm(middle, nn.ReLU6(inplace=True))
        self.conv_dw = _convolution(middle, middle, kernel, stride, dilation, groups=middle)
        norm, down = _Norm(middle, nn.ReLU6(inplace=True)), _convolution(middle, outside, 1)
        if self.expands:
            self.bn2, self.conv_pwl, self.bn3 = norm, down, _Norm(outside, nn.Identity())
        else:
            self.bn1, self.conv_pw, self.bn2 = norm, down, _Norm(outside, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outside, h, w)."""
        if self.expands:
            y = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
            y = self.bn3(self.conv_pwl(y))
        else:
            y = self.bn2(self.conv_pw(self.bn1(self.conv_dw(x))))
        out: Tensor = y + x if self.adds else y
        return out


class _Norm(nn.BatchNorm2d):
    """A batch normalisation and the activation after it, as timm's `BatchNormAct2d`."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels, eps=1e-3)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        y: Tensor = self.act(super().forward(x))
        return y


class Conv2dSame(nn.Conv2d):
    """A convolution with the "same" padding of TensorFlow: sizes are divided by the stride and rounded up; where what
    is padded is odd, one more comes after than before."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(inside, outside, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outside, h, w)."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        down, across = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _convolution(
    inside: int, outside: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    if stride > 1:
        return Conv2dSame(inside, outside, kernel, stride, groups)
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(inside, outside, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)

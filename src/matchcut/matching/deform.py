"""Pixels matched to pixels by offsets: each query cell says where in the reference it samples.

The matching layer of RPM-Net (Kim et al., "RPM-Net", WACV 2020, supplement, Table 1, layers 106 to 109): deformable
convolutions (Dai et al., "Deformable Convolutional Networks", ICCV 2017) predict a map of offsets, and a 1x1 deformable
convolution with the weights of the identity samples colours or masks by it.

Sampling by bilinear weights is a sum over few rows with weights, which `torch.nn.functional.embedding_bag` does without
ever gathering the rows. A convolution is linear, so the rows are multiplied by the kernel before they are sampled: one
matrix product for all taps, and sums of rows as long as the output has channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matchcut.errors import ShapeError
from matchcut.matching.base import at_least_float32, check_values, full_precision, product

Pair = int | tuple[int, int]


@dataclass(frozen=True)
class OffsetField:
    """The match `deform` returns: query cell (y, x) samples the reference at (y + dy, x + dx), zero outside of it.

    Attributes:
        offsets: (B, 2, H, W), (dy, dx) in cells of the reference.
        reference_shape: (h, w).
    """

    offsets: Tensor
    reference_shape: tuple[int, int]

    @property
    def residual(self) -> Tensor:
        """(B,) zeros: there is no constraint."""
        return self.offsets.new_zeros(self.offsets.shape[0])

    def apply(self, values: Tensor) -> Tensor:
        """Carry values (B, C, h, w) to the query: (B, C, H, W), in their dtype. Differentiable in offsets and values.

        Raises:
            ShapeError: the values do not lie on the reference cells, or are no floating-point numbers.
        """
        check_values(values)
        batch, _, height, width = self.offsets.shape
        if values.ndim != 4 or values.shape[0] != batch or values.shape[2:] != self.reference_shape:
            raise ShapeError(
                f"values: expected (B, C, h, w) with B = {batch} and (h, w) = {self.reference_shape}, "
                f"got {tuple(values.shape)}"
            )
        rows = values.movedim(1, -1).to(at_least_float32(values, self.offsets))  # (B, h, w, C)
        carried = _weighted_sums(rows.flatten(1, 2), *self._corners(rows.dtype))  # (B, H * W, C)
        return carried.mT.reshape(*values.shape[:2], height, width).to(values.dtype)

    def dense(self) -> Tensor:
        """The matrix of bilinear weights (B, H * W, h * w), at most four a row."""
        indices, weights = self._corners(at_least_float32(self.offsets))
        matrix = weights.new_zeros(*weights.shape[:2], math.prod(self.reference_shape))
        if matrix.numel() > 0:
            matrix = matrix.scatter_add(2, indices, weights)
        return matrix.to(self.offsets.dtype)

    def _corners(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        indices, weights = _corners(self.offsets.to(dtype), self.reference_shape)
        return indices.flatten(1, 2), weights.flatten(1, 2)


def deform(offsets: Tensor, *, reference_shape: tuple[int, int] | None = None) -> OffsetField:
    """Match each query cell to the place its offset points to, by bilinear sampling. Differentiable in the offsets.

    Equal to a 1x1 `torchvision.ops.deform_conv2d` with the identity for its weights (RPM-Net, Table 1, layer 109);
    offsets of zero are the identity. Where all four cells around a place lie outside, the value is 0 and there is no
    gradient. An offset that is not a number makes the values that are not one. Half precision is computed in float32;
    autocast changes nothing.

    Args:
        offsets: (B, 2, H, W), (dy, dx) in cells of the reference, in the order of torchvision.
        reference_shape: (h, w) of the values to be carried; (H, W) where None.

    Returns:
        The match; `apply` carries values (B, C, h, w) to (B, C, H, W).

    Raises:
        ShapeError: shapes that are not these.
        ValueError: the offsets are no floating-point numbers.
    """
    if offsets.ndim != 4 or offsets.shape[1] != 2:
        raise ShapeError(f"offsets: expected (B, 2, H, W), got {tuple(offsets.shape)}")
    _floating("offsets", offsets)
    shape = tuple(offsets.shape[2:]) if reference_shape is None else tuple(reference_shape)
    if len(shape) != 2 or min(shape) < 0:
        raise ShapeError(f"reference_shape: expected (h, w), got {reference_shape}")
    return OffsetField(offsets, (int(shape[0]), int(shape[1])))


@full_precision
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """`torchvision.ops.deform_conv2d` (one group, no mask), to 1e-5, by what is faster on the device.

    On CUDA that is torchvision's operator; elsewhere a matrix product and weighted sums of its rows. Differentiable in
    all inputs.

    Args:
        input: (B, C, h, w).
        offset: (B, 2 * kh * kw, H, W), (dy, dx) of each tap in cells of the input.
        weight: (O, C, kh, kw).
        bias: (O,).
        stride, padding, dilation: as of a convolution, one number or (vertical, horizontal).

    Returns:
        (B, O, H, W) in the dtype of the input; half precision is computed in float32, and autocast changes nothing.

    Raises:
        ShapeError: shapes that do not fit together.
        ValueError: a setting out of its range, or inputs that are no floating-point numbers.
    """
    strides, paddings, dilations = (
        _pair("stride", stride, 1),
        _pair("padding", padding, 0),
        _pair("dilation", dilation, 1),
    )
    _check_convolution(input, offset, weight, bias, strides, paddings, dilations)
    dtype = at_least_float32(input)
    source, moved, kernel = input.to(dtype), offset.to(dtype), weight.to(dtype)
    if input.device.type == "cuda":
        from torchvision.ops import deform_conv2d as by_torchvision  # type: ignore[import-untyped] # late: only here

        added = None if bias is None else bias.to(dtype)
        made: Tensor = by_torchvision(source, moved, kernel, added, strides, paddings, dilations)
        return made.to(input.dtype)
    shape, sides = (input.shape[2], input.shape[3]), (weight.shape[2], weight.shape[3])
    taps = sides[0] * sides[1]
    rows = source.movedim(1, -1).flatten(0, 2)  # (B * h * w, C)
    rows = product(rows, kernel.flatten(2).permute(1, 2, 0).flatten(1))  # (B * h * w, K * O)
    indices, weights = _corners(moved, shape, sides, strides, paddings, dilations)  # (B, H * W, K, 4)
    indices = indices * taps + torch.arange(taps, device=input.device)[:, None]
    rows = rows.reshape(len(input), taps * math.prod(shape), weight.shape[0])  # (B, h * w * K, O)
    sums = _weighted_sums(rows, indices.flatten(2), weights.flatten(2))  # (B, H * W, O)
    if bias is not None:
        sums = sums + bias.to(dtype)
    return sums.mT.reshape(input.shape[0], weight.shape[0], *offset.shape[2:]).to(input.dtype)


class DeformableConv(nn.Module):
    """A deformable convolution with its own offset convolution, both of one kernel size; the output keeps the size.

    The offset convolution begins at zero, so that the layer begins as a plain convolution (Dai et al., 2017). It
    computes in the dtype of its weights, also under autocast, since offsets are places.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, at least 1, got {kernel}")
        self.padding = kernel // 2
        self.offset = nn.Conv2d(in_channels, 2 * kernel * kernel, kernel, padding=self.padding)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type] # it has one
        plain = nn.Conv2d(in_channels, out_channels, kernel)  # for its initial values
        self.weight, self.bias = plain.weight, plain.bias

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W), in the dtype of the weights."""
        x = x.to(self.weight.dtype)
        return deform_conv2d(x, self.offset(x), self.weight, self.bias, padding=self.padding)


class DeformableStack(nn.Module):
    """The layers of RPM-Net that predict offsets (supplement, Table 1, layers 106 to 108), for `deform`.

    The table names no activation. There is a ReLU between the layers, without which they would be linear in all but
    their offsets, and none after the last, since offsets have both signs.

    Relative to the paper: `dilation` replaces deformable layers by plain ones (1: "standard", 3, 6, 9: "dilated"), as
    in Table 2; how many layers there are follows from `widths`. Precision is that of `DeformableConv`.

    Args:
        in_channels: of the target's and the reference's embeddings together.
        widths: channels after each layer, the last one 2.
        kernel: odd, of all layers.
        dilation: of plain convolutions; None for deformable ones.
    """

    def __init__(
        self,
        in_channels: int = 64,
        widths: Sequence[int] = (32, 16, 2),
        kernel: int = 3,
        *,
        dilation: int | None = None,
    ) -> None:
        super().__init__()
        if not widths or widths[-1] != 2:
            raise ValueError(f"widths: expected 2 channels (dy, dx) at the end, got {tuple(widths)}")
        self.layers = nn.ModuleList()
        for before, after in zip((in_channels, *widths[:-1]), widths, strict=True):
            if dilation is None:
                self.layers.append(DeformableConv(before, after, kernel))
            else:
                self.layers.append(nn.Conv2d(before, after, kernel, padding="same", dilation=dilation))

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to offsets (B, 2, H, W), in the dtype of the weights."""
        x = x.to(next(self.parameters()).dtype)
        for number, layer in enumerate(self.layers):
            x = layer(F.relu(x) if number else x)
        return x


def _corners(
    offset: Tensor,
    shape: tuple[int, int],
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> tuple[Tensor, Tensor]:
    """The four cells around each place and their bilinear weights, 0 outside: (B, H * W, K, 4) each.

    Args:
        offset: (B, 2 * K, H, W), from the taps of a convolution, K in all.
        shape: (h, w) of the cells.
        kernel, stride, padding, dilation: of the convolution.
    """
    height, width = offset.shape[2:]
    moved = offset.unflatten(1, (*kernel, 2))  # (B, kh, kw, 2, H, W)
    y = _starts(height, kernel[0], stride[0], padding[0], dilation[0], offset.device)[:, None, :, None]  # (kh, 1, H, 1)
    x = _starts(width, kernel[1], stride[1], padding[1], dilation[1], offset.device)[:, None]  # (kw, 1, W)
    rows, row_weights = _neighbours(moved[:, :, :, 0] + y, shape[0])  # (B, kh, kw, H, W, 2)
    columns, column_weights = _neighbours(moved[:, :, :, 1] + x, shape[1])
    indices = rows[..., :, None] * shape[1] + columns[..., None, :]  # (B, kh, kw, H, W, 2, 2)
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    size = (len(offset), height * width, kernel[0] * kernel[1], 4)
    return indices.movedim((1, 2), (3, 4)).reshape(size), weights.movedim((1, 2), (3, 4)).reshape(size)


def _starts(size: int, kernel: int, stride: int, padding: int, dilation: int, device: torch.device) -> Tensor:
    """(kernel, size): where each tap of a convolution lies on one axis of its input for each cell of its output."""
    cells = torch.arange(size, device=device) * stride - padding
    return cells + torch.arange(kernel, device=device)[:, None] * dilation


def _neighbours(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two cells beside each place on one axis and their linear weights, 0 outside: (..., 2) each."""
    places = places.clamp(-2, size + 1)  # further out is the same, and no integer holds infinity
    first = places.detach().floor()
    part = places - first
    cells = torch.stack((first, first + 1), dim=-1)
    weights = torch.stack((1 - part, part), dim=-1).masked_fill((cells < 0) | (cells > size - 1), 0)
    return cells.nan_to_num(0).clamp(0, max(0, size - 1)).long(), weights


def _weighted_sums(rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """(B, Q, C): sums of rows (B, R, C) that indices (B, Q, M) name, with weights (B, Q, M)."""
    batch, count, channels = rows.shape
    queries = indices.shape[1]
    if 0 in (batch, count, channels, queries):  # the sum keeps the graph
        return rows.new_zeros(batch, queries, channels) + 0 * (rows.sum() + weights.sum())
    indices = indices + count * torch.arange(batch, device=rows.device)[:, None, None]
    if batch * count < 2**31:  # then the backward pass has less to sort
        indices = indices.int()
    sums = F.embedding_bag(
        indices.flatten(0, 1), rows.flatten(0, 1), per_sample_weights=weights.flatten(0, 1), mode="sum"
    )
    return sums.reshape(batch, queries, channels)


def _check_convolution(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    if input.ndim != 4:
        raise ShapeError(f"input: expected (B, C, h, w), got {tuple(input.shape)}")
    if weight.ndim != 4 or weight.shape[1] != input.shape[1] or 0 in weight.shape[2:]:
        raise ShapeError(f"weight: expected (O, C, kh, kw) with C = {input.shape[1]}, got {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"bias: expected {tuple(weight.shape[:1])}, got {tuple(bias.shape)}")
    for name, one in (("input", input), ("offset", offset), ("weight", weight)):
        _floating(name, one)
        if one.device != input.device:
            raise ShapeError(f"{name}: expected on {input.device} as the input, got on {one.device}")
    size = [
        (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    expected = (input.shape[0], 2 * weight.shape[2] * weight.shape[3], *size)
    if offset.shape != expected:
        raise ShapeError(f"offset: expected (B, 2 * kh * kw, H, W) = {expected}, got {tuple(offset.shape)}")


def _floating(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: expected floating-point numbers, got {tensor.dtype}")


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{name}: expected one number or two, at least {least}, got {value}")
    return pair

"""Operators of ONNX that slide a window over their input: convolutions and pools; see :mod:`.onnx_operators`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hwsmpq.errors import HwsmpqError

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
AVERAGE_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def _padding(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    pads: Sequence[int] | None, auto_pad: str,
) -> tuple[list[int], list[int]]:
    """(before, after) of every spatial dimension."""
    n = len(kernel)
    if auto_pad == "NOTSET":
        pads = pads or [0] * (2 * n)
        return list(pads[:n]), list(pads[n:])
    if auto_pad == "VALID":
        return [0] * n, [0] * n
    totals = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small = [total // 2 for total in totals]
    large = [total - half for total, half in zip(totals, small, strict=True)]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def _padded(x: Tensor, before: list[int], after: list[int], value: float) -> tuple[Tensor, list[int]]:
    """The input, padded where both sides differ, and the padding that is left to do."""
    if before == after:
        return x, before
    ends = [end for pair in zip(reversed(before), reversed(after), strict=True) for end in pair]
    return functional.pad(x, ends, value=value), [0] * len(before)


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, strides: Any = None, pads: Any = None,
    dilations: Any = None, group: int = 1, auto_pad: str = "NOTSET", kernel_shape: Any = None,
) -> Tensor:
    n = weight.ndim - 2
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    before, after = _padding(x.shape[2:], weight.shape[2:], strides, dilations, pads, auto_pad)
    x, padding = _padded(x, before, after, 0.0)
    return CONVOLUTIONS[n](x, weight, bias, strides, padding, dilations, group)


def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, strides: Any = None, pads: Any = None,
    dilations: Any = None, group: int = 1, output_padding: Any = None, output_shape: Any = None,
    auto_pad: str = "NOTSET", kernel_shape: Any = None,
) -> Tensor:
    n = weight.ndim - 2
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    more, pads = list(output_padding or [0] * n), list(pads or [0] * (2 * n))
    if auto_pad in ("SAME_UPPER", "SAME_LOWER") or output_shape:
        sizes = output_shape or [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        totals = [
            stride * (size - 1) + extra + (kernel - 1) * dilation + 1 - wanted
            for size, stride, extra, kernel, dilation, wanted
            in zip(x.shape[2:], strides, more, weight.shape[2:], dilations, sizes, strict=True)
        ]
        halves = [total // 2 for total in totals]
        rest = [total - half for total, half in zip(totals, halves, strict=True)]
        pads = halves + rest if auto_pad == "SAME_UPPER" else rest + halves
    before, after = pads[:n], pads[n:]
    if before == after:
        return TRANSPOSED[n](x, weight, bias, strides, before, more, group, dilations)
    whole = TRANSPOSED[n](x, weight, bias, strides, 0, more, group, dilations)
    kept = (slice(start, size - end) for start, end, size in zip(before, after, whole.shape[2:], strict=True))
    return whole[(slice(None), slice(None), *kept)]


def max_pool(
    x: Tensor, *, kernel_shape: Any, strides: Any = None, pads: Any = None, dilations: Any = None, ceil_mode: int = 0,
    auto_pad: str = "NOTSET", storage_order: int = 0,
) -> Tensor:
    n = len(kernel_shape)
    strides, dilations = list(strides or [1] * n), list(dilations or [1] * n)
    before, after = _padding(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    x, padding = _padded(x, before, after, float("-inf"))
    return MAX_POOLS[n](x, list(kernel_shape), strides, padding, dilations, ceil_mode=bool(ceil_mode))


def average_pool(
    x: Tensor, *, kernel_shape: Any, strides: Any = None, pads: Any = None, ceil_mode: int = 0,
    count_include_pad: int = 0, auto_pad: str = "NOTSET", dilations: Any = None,
) -> Tensor:
    n = len(kernel_shape)
    if dilations and any(d != 1 for d in dilations):
        raise HwsmpqError("a dilated average pooling is not read", "torch has none", "export the network without it")
    strides = list(strides or [1] * n)
    before, after = _padding(x.shape[2:], kernel_shape, strides, [1] * n, pads, auto_pad)
    pool = functools.partial(
        AVERAGE_POOLS[n], kernel_size=list(kernel_shape), stride=strides, ceil_mode=bool(ceil_mode)
    )
    if before == after:
        return pool(x, padding=before, count_include_pad=bool(count_include_pad))
    padded, _ = _padded(x, before, after, 0.0)
    if count_include_pad:
        return pool(padded)
    # Means over what is no padding: the mean of the padded input by the share of it that is input.
    inside, _ = _padded(torch.ones_like(x[:1, :1]), before, after, 0.0)
    return pool(padded) / pool(inside)

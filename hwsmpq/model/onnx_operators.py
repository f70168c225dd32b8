"""What the operators of ONNX (opset 22) compute, in torch.

A value is a tensor or, where it is a shape or an axis, an int or a list of ints: what `torch.export` may need to know
while it traces. Reference: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hwsmpq.errors import HwsmpqError

Operator = Callable[..., Any]
"""Called with the inputs by position (None where left out) and the attributes by name."""

DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
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
    dilations: Any = None, group: int = 1, output_padding: Any = None, auto_pad: str = "NOTSET",
    kernel_shape: Any = None,
) -> Tensor:
    n = weight.ndim - 2
    pads = list(pads or [0] * (2 * n))
    if n != 2 or auto_pad != "NOTSET" or pads[:n] != pads[n:]:
        raise HwsmpqError("a transposed convolution of this form is not read",
                          "one with two dimensions and equal padding is", "export the network so that it has these")
    return functional.conv_transpose2d(
        x, weight, bias, list(strides or [1] * n), pads[:n], list(output_padding or [0] * n), group,
        list(dilations or [1] * n),
    )


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
    strides = list(strides or [1] * n)
    before, after = _padding(x.shape[2:], kernel_shape, strides, [1] * n, pads, auto_pad)
    if before != after or n != 2:
        raise HwsmpqError("an average pooling of this form is not read", "one with two dimensions and equal padding is",
                          "export the network so that it has these")
    return functional.avg_pool2d(x, list(kernel_shape), strides, before, bool(ceil_mode), bool(count_include_pad))


def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a, b = a.t() if transA else a, b if transB else b.t()
    if alpha == beta == 1.0 and (c is None or c.ndim == 1):
        return functional.linear(a, b, c)
    product = alpha * functional.linear(a, b)
    return product if c is None else product + beta * c


def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return functional.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def reduce(how: Callable[..., Tensor]) -> Operator:
    def reduced(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        if not axes and noop_with_empty_axes:
            return x
        return how(x, dim=list(axes) if axes else list(range(x.ndim)), keepdim=bool(keepdims))

    return reduced


def reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    if not isinstance(x, Tensor):
        return x
    kept = [x.shape[i] if not allowzero and isinstance(n, int) and n == 0 else n for i, n in enumerate(shape)]
    return x.reshape(kept)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.flatten(axis % x.ndim) if axis % x.ndim == 1 else x.reshape(x.shape[:axis].numel(), -1)


def slice_(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    if isinstance(x, list):
        return x[starts[0] : ends[0] : steps[0]]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index = [slice(None)] * x.ndim
        index[axis] = slice(start, end, step)
        x = x[tuple(index)]
    return x


def pad(x: Tensor, pads: Any, value: Any = None, axes: Any = None, *, mode: str = "constant") -> Tensor:
    axes = [axis % x.ndim for axis in (axes or range(x.ndim))]
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    first = next((i for i in range(x.ndim) if before[i] or after[i]), x.ndim)
    ends = [end for i in reversed(range(first, x.ndim)) for end in (before[i], after[i])]
    if not ends:
        return x
    if mode != "constant":
        return functional.pad(x, ends, "replicate" if mode == "edge" else mode)
    return functional.pad(x, ends, value=0.0 if value is None else float(value))


def split(x: Tensor, sizes: Any = None, *, axis: int = 0, num_outputs: int | None = None) -> tuple[Tensor, ...]:
    return x.split(list(sizes), axis) if sizes else x.chunk(num_outputs or 2, axis)


def concat(*parts: Any, axis: int) -> Any:
    if any(isinstance(part, list) for part in parts):
        return [n for part in parts for n in (part if isinstance(part, list) else part.tolist())]
    return torch.cat(parts, axis)


def gather(x: Any, index: Any, *, axis: int = 0) -> Any:
    if isinstance(x, list):
        return x[index] if isinstance(index, int) else [x[i] for i in index]
    if isinstance(index, int):
        return x.select(axis, index)
    index = torch.tensor(index) if isinstance(index, list) else index
    return x.index_select(axis, index) if index.ndim == 1 else functional.embedding(index, x)


def squeeze(x: Any, axes: Any = None) -> Any:
    if isinstance(x, list):
        return x[0]
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def unsqueeze(x: Any, axes: Any) -> Any:
    if isinstance(x, int | torch.SymInt):
        return [x]
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def cast(x: Any, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    if isinstance(x, Tensor):
        return x.to(DTYPES[to])
    return torch.tensor(x, dtype=DTYPES[to]) if DTYPES[to].is_floating_point else x


def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    return x if low is None and high is None else x.clamp(low, high)


def resize(
    x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None, *, mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor", **others: Any,
) -> Tensor:
    size = list(sizes)[2:] if sizes else [int(n * s) for n, s in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
    if mode == "nearest" and coordinate_transformation_mode == "asymmetric" and nearest_mode == "floor":
        return functional.interpolate(x, size, mode="nearest")
    if mode == "linear" and coordinate_transformation_mode in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        aligned = coordinate_transformation_mode == "align_corners"
        return functional.interpolate(x, size, mode="bilinear", align_corners=aligned)
    raise HwsmpqError(
        f"a resize by {mode}, {coordinate_transformation_mode}, {nearest_mode} is not read",
        "torch interpolates otherwise", "export the network with torch's nearest or bilinear interpolation",
    )


def extreme(of_two: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """The largest or least of several values, of which some may be plain numbers."""
    return lambda *values: functools.reduce(of_two, map(torch.as_tensor, values))


def arithmetic(of_tensors: Callable[[Any, Any], Any], of_sizes: Callable[[Any, Any], Any] | None = None) -> Operator:
    """Of tensors, or of sizes one by one."""
    of_size = of_sizes or of_tensors

    def compute(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return of_tensors(a, b)
        if not isinstance(a, list) and not isinstance(b, list):
            return of_size(a, b)
        n = max(len(x) for x in (a, b) if isinstance(x, list))
        first, second = (x * n if isinstance(x, list) and len(x) == 1 else x if isinstance(x, list) else [x] * n
                         for x in (a, b))
        return [of_size(x, y) for x, y in zip(first, second, strict=True)]

    return compute


OPERATORS: dict[str, Operator] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": torch.matmul,
    "BatchNormalization": batch_norm, "LayerNormalization": layer_norm,
    "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": lambda x: x.mean(dim=list(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(dim=list(range(2, x.ndim)), keepdim=True),
    "ReduceMean": reduce(torch.mean), "ReduceSum": reduce(torch.sum), "ReduceMax": reduce(torch.amax),
    "ReduceMin": reduce(torch.amin),
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Erf": torch.erf, "Exp": torch.exp,
    "Log": torch.log, "Sqrt": torch.sqrt, "Abs": torch.abs, "Neg": torch.neg, "Reciprocal": torch.reciprocal,
    "Floor": torch.floor, "Softplus": functional.softplus, "Mish": functional.mish, "HardSwish": functional.hardswish,
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0.0, 1.0),
    "LeakyRelu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
    "Elu": lambda x, alpha=1.0: functional.elu(x, alpha),
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Gelu": lambda x, approximate="none": functional.gelu(x, approximate=approximate),
    "Softmax": lambda x, axis=-1: x.softmax(axis), "LogSoftmax": lambda x, axis=-1: x.log_softmax(axis),
    "Clip": clip, "Pow": torch.pow, "Add": arithmetic(operator.add), "Sub": arithmetic(operator.sub),
    "Mul": arithmetic(operator.mul), "Div": arithmetic(operator.truediv, operator.floordiv),
    "Equal": lambda a, b: a == b, "Where": torch.where, "Max": extreme(torch.maximum), "Min": extreme(torch.minimum),
    "Sum": lambda *x: functools.reduce(torch.add, x),
    "Reshape": reshape, "Flatten": flatten, "Slice": slice_, "Pad": pad, "Split": split, "Concat": concat,
    "Gather": gather, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Cast": cast, "Resize": resize,
    "Transpose": lambda x, perm=None: x.permute(perm or list(reversed(range(x.ndim)))),
    "Expand": lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape))),
    "Shape": lambda x, start=0, end=None: list(x.shape[start:end]),
    "Identity": lambda x: x, "Dropout": lambda x, ratio=None, training=None, seed=None: x,
}

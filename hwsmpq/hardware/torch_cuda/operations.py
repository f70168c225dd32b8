"""ONNX operations as torch calls: those that the exporter writes for convolutional networks and transformers.

Calls synchronize with no device and take shapes, axes and limits as Python numbers, so that a CUDA graph can hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hwsmpq.hardware.torch_cuda.node import Node, to_tensor, torch_type

Call = Callable[..., Tensor | Sequence[Tensor]]


def call_of(node: Node) -> Call:
    """The torch call of a node, to be called with its ``operands``.

    Raises:
        HwsmpqError: the operation or one of its attributes is not supported (names it).
    """
    node.require(
        node.domain in ("", "ai.onnx") and (node.op_type in SIMPLE or node.op_type in CONFIGURED),
        "this target has no such operation",
    )
    return SIMPLE[node.op_type] if node.op_type in SIMPLE else CONFIGURED[node.op_type](node)


def along(scales: Tensor, ndim: int, axis: int) -> Tensor:
    """One value a channel, in the shape that broadcasts along ``axis``."""
    return scales if scales.ndim == 0 else scales.reshape([-1 if d == axis % ndim else 1 for d in range(ndim)])


def _constant(node: Node) -> Call:
    if (tensor := node.attribute("value")) is not None:
        value = to_tensor(tensor)
    else:
        found = [node.attribute(f"value_{kind}") for kind in ("int", "ints", "float", "floats")]
        value = torch.tensor(next(x for x in found if x is not None))
    return lambda: value


def _padding(node: Node, n_dims: int) -> list[int]:
    """Equal padding on both sides of every spatial dimension."""
    pads = node.attribute("pads", [0] * (2 * n_dims))
    node.require(node.attribute("auto_pad", "NOTSET") == "NOTSET", "its padding depends on the input's size")
    node.require(pads[:n_dims] == pads[n_dims:], f"it pads unevenly ({pads})")
    return list(pads[:n_dims])


def _conv(node: Node) -> Call:
    weight = node.constant(1)
    node.require(weight is not None, "its weight is computed by the network")
    n_dims = weight.ndim - 2  # type: ignore[union-attr]
    options = {
        "stride": node.attribute("strides", [1] * n_dims), "padding": _padding(node, n_dims),
        "dilation": node.attribute("dilations", [1] * n_dims), "groups": node.attribute("group", 1),
    }
    if node.op_type == "ConvTranspose":
        node.require(node.attribute("output_shape") is None, "it names its output's shape")
        options["output_padding"] = node.attribute("output_padding", [0] * n_dims)
    kind = "conv_transpose" if node.op_type == "ConvTranspose" else "conv"
    function = getattr(functional, f"{kind}{n_dims}d")
    return lambda x, w, bias=None: function(x, w, bias, **options)


def is_plain_gemm(node: Node) -> bool:
    """Whether a Gemm is a linear layer: neither scaled nor with its first operand transposed."""
    return node.attribute("alpha", 1.0) == node.attribute("beta", 1.0) == 1.0 and not node.attribute("transA", 0)


def _gemm(node: Node) -> Call:
    node.require(is_plain_gemm(node), "it scales its operands or transposes the first")
    if node.attribute("transB", 0):
        return functional.linear
    return lambda a, b, bias=None: functional.linear(a, b.t(), bias)


def _pool(node: Node) -> Call:
    kernel = node.attribute("kernel_shape")
    n_dims = len(kernel)
    options = {
        "kernel_size": kernel, "stride": node.attribute("strides", [1] * n_dims), "padding": _padding(node, n_dims),
        "ceil_mode": bool(node.attribute("ceil_mode", 0)),
    }
    dilation = node.attribute("dilations", [1] * n_dims)
    if node.op_type == "MaxPool":
        node.require(len(node.outputs) == 1, "its second result (indices) is read")
        options["dilation"] = dilation
    else:
        node.require(set(dilation) == {1}, "it is dilated")
        options["count_include_pad"] = bool(node.attribute("count_include_pad", 0))
    function = getattr(functional, f"{'max' if node.op_type == 'MaxPool' else 'avg'}_pool{n_dims}d")
    return lambda x: function(x, **options)


def _reduce(node: Node) -> Call:
    axes, keepdim = node.numbers(1), bool(node.attribute("keepdims", 1))
    node.require(bool(axes) or not node.attribute("noop_with_empty_axes", 0), "it reduces nothing")
    function = REDUCTIONS[node.op_type]
    return lambda x: function(x, dim=axes or tuple(range(x.ndim)), keepdim=keepdim)


def _clip(node: Node) -> Call:
    low, high = node.numbers(1), node.numbers(2)
    return lambda x: torch.clamp(x, low, high)


def _reshape(node: Node) -> Call:
    shape, copies = node.numbers(1), not node.attribute("allowzero", 0)
    return lambda x: x.reshape([x.shape[i] if copies and size == 0 else size for i, size in enumerate(shape)])


def _flatten(node: Node) -> Call:
    axis = node.attribute("axis", 1)
    return lambda x: x.reshape(x.shape[:axis].numel(), -1)


def _expand(node: Node) -> Call:
    shape = node.numbers(1)
    return lambda x: x.expand(torch.broadcast_shapes(x.shape, shape))


def _slice(node: Node) -> Call:
    starts, ends, axes, steps = (node.numbers(i) for i in range(1, 5))
    node.require(min(steps or [1]) > 0, "it steps backwards")
    bounds = [slice(*x) for x in zip(starts, ends, steps or [1] * len(starts), strict=True)]
    where = dict(zip(axes or range(len(bounds)), bounds, strict=True))

    def call(x: Tensor) -> Tensor:
        wanted = {axis % x.ndim: bound for axis, bound in where.items()}
        return x[tuple(wanted.get(d, slice(None)) for d in range(x.ndim))]

    return call


def _split(node: Node) -> Call:
    sizes, axis = node.numbers(1), node.attribute("axis", 0)
    # Without sizes: equal parts, the last one smaller, one a result.
    return lambda x: torch.split(x, sizes or -(-x.shape[axis] // len(node.outputs)), axis)


def _squeeze(node: Node) -> Call:
    axes = node.numbers(1)
    return lambda x: x.squeeze() if axes is None else x.squeeze(axes)


def _unsqueeze(node: Node) -> Call:
    axes = node.numbers(1)

    def call(x: Tensor) -> Tensor:
        for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
            x = x.unsqueeze(axis)
        return x

    return call


def _gather(node: Node) -> Call:
    axis, index = node.attribute("axis", 0), node.constant(1)
    if index is not None and index.ndim == 0:
        position = node.numbers(1)  # indexing with a scalar tensor would wait for the device
        return lambda x: x.select(axis, position)
    return lambda x, i: x[(slice(None),) * (axis % x.ndim) + (i,)]


def _pad(node: Node) -> Call:
    pads, value, axes = node.numbers(1), node.numbers(2), node.numbers(3)
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(node.attribute("mode", "constant"))
    node.require(mode is not None and axes is None, "its mode or its axes are not supported")
    pairs = list(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True))
    if mode != "constant":
        pairs = pairs[2:]  # torch pads the dimensions after batch and channels
    flat = [n for pair in reversed(pairs) for n in pair]
    return lambda x: functional.pad(x, flat, mode, value)


def _cast(node: Node) -> Call:
    dtype = torch_type(node.attribute("to"), node.outputs[0])
    return lambda x: x.to(dtype)


def _zero_point(node: Node) -> float:
    zero = node.numbers(2)
    if isinstance(zero, list):
        node.require(not any(zero), "it has a zero point a channel")
        return 0
    return zero or 0


def _quantize(node: Node) -> Call:
    zero, axis = node.constant(2), node.attribute("axis", 1)
    node.require(zero is not None, "it has no zero point, which tells its type")
    dtype, offset = zero.dtype, _zero_point(node)  # type: ignore[union-attr]
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    low, high = limits.min - offset, limits.max - offset

    def call(x: Tensor, scale: Tensor) -> Tensor:
        # The scale stays a tensor: by a number, CUDA multiplies with the reciprocal and rounds otherwise.
        levels = (x / along(scale, x.ndim, axis)).clamp_(low, high)
        if not dtype.is_floating_point:
            levels.round_()
        return (levels.add_(offset) if offset else levels).to(dtype)

    return call


def _dequantize(node: Node) -> Call:
    axis, offset = node.attribute("axis", 1), _zero_point(node)
    node.require(not node.attribute("block_size", 0), "its scales belong to blocks")

    def call(x: Tensor, scale: Tensor) -> Tensor:
        levels = x.float().sub_(offset) if offset else x.float()
        return (levels * along(scale.float(), x.ndim, axis)).to(scale.dtype)

    return call


REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL2": torch.linalg.vector_norm, "ReduceMax": torch.amax, "ReduceMean": torch.mean, "ReduceMin": torch.amin,
    "ReduceSum": torch.sum,
}
SIMPLE: dict[str, Call] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "CastLike": lambda x, like: x.to(like.dtype),
    "Cos": torch.cos, "Div": lambda a, b: torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc"),
    "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True), "Greater": torch.gt,
    "HardSwish": functional.hardswish, "Identity": lambda x: x, "Less": torch.lt, "Log": torch.log,
    "MatMul": torch.matmul, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or,
    "Pow": torch.pow, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Sin": torch.sin,
    "Softplus": functional.softplus, "Sqrt": torch.sqrt, "Sub": torch.sub, "Tanh": torch.tanh, "Where": torch.where,
}
CONFIGURED: dict[str, Callable[[Node], Call]] = {
    "AveragePool": _pool, "Cast": _cast, "Clip": _clip, "Constant": _constant, "Conv": _conv, "ConvTranspose": _conv,
    "DequantizeLinear": _dequantize, "Expand": _expand, "Flatten": _flatten, "Gather": _gather, "Gemm": _gemm,
    "MaxPool": _pool, "Pad": _pad, "QuantizeLinear": _quantize, "Reshape": _reshape, "Slice": _slice,
    "Split": _split, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, **dict.fromkeys(REDUCTIONS, _reduce),
    "BatchNormalization": lambda node: lambda x, scale, bias, mean, var: functional.batch_norm(
        x, mean, var, scale, bias, eps=node.attribute("epsilon", 1e-5)
    ),
    "Concat": lambda node: lambda *parts: torch.cat(parts, node.attribute("axis")),
    "Elu": lambda node: lambda x: functional.elu(x, node.attribute("alpha", 1.0)),
    "Gelu": lambda node: lambda x: functional.gelu(x, approximate=node.attribute("approximate", "none")),
    "HardSigmoid": lambda node: lambda x: (
        (x * node.attribute("alpha", 0.2)).add_(node.attribute("beta", 0.5)).clamp_(0, 1)
    ),
    "LayerNormalization": lambda node: lambda x, *affine: functional.layer_norm(
        x, x.shape[node.attribute("axis", -1):], *affine, eps=node.attribute("epsilon", 1e-5)
    ),
    "LeakyRelu": lambda node: lambda x: functional.leaky_relu(x, node.attribute("alpha", 0.01)),
    "LogSoftmax": lambda node: lambda x: torch.log_softmax(x, node.attribute("axis", -1)),
    "Softmax": lambda node: lambda x: torch.softmax(x, node.attribute("axis", -1)),
    "Transpose": lambda node: lambda x: x.permute(node.attribute("perm", tuple(range(x.ndim))[::-1])),
}

"""What the operators of ONNX (opsets 7 to 22) compute, in torch.

A value is a tensor or, where it is a shape or an axis, an int or a list of ints: what `torch.export` may need to know
while it traces. What newer opsets give as an input, older ones give as an attribute of the same name: a parameter that
has that name takes both. Reference: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hwsmpq.model.onnx_norms import batch_norm, group_norm, instance_norm, layer_norm, lrn
from hwsmpq.model.onnx_recurrent import gru, lstm
from hwsmpq.model.onnx_resize import resize
from hwsmpq.model.onnx_windows import average_pool, conv, conv_transpose, max_pool

Operator = Callable[..., Any]
"""Called with the inputs by position (None where left out) and the attributes by name."""

DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float32, 11: torch.float32,
}
"""By ONNX's numbers; networks in 16 or 64 bits are read in float32."""


def is_size(x: Any) -> bool:
    """Whether a value is a whole number, which it also is where the batch is left open."""
    return isinstance(x, int | torch.SymInt)


def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a, b = a.t() if transA else a, b if transB else b.t()
    if alpha == beta == 1.0 and (c is None or c.ndim == 1):
        return functional.linear(a, b, c)
    product = alpha * functional.linear(a, b)
    return product if c is None else product + beta * c


def reduce(how: Callable[..., Tensor], of_sizes: Callable[[list[int]], int] | None = None) -> Operator:
    def reduced(x: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        if not axes and noop_with_empty_axes:
            return x
        if isinstance(x, list) and of_sizes:
            return [of_sizes(x)] if keepdims else of_sizes(x)
        return how(x, dim=list(axes) if axes else list(range(x.ndim)), keepdim=bool(keepdims))

    return reduced


def reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    if not isinstance(x, Tensor):
        one = x[0] if isinstance(x, list) else x
        return one if not shape else x if isinstance(x, list) else [x]
    kept = [x.shape[i] if not allowzero and isinstance(n, int) and n == 0 else n for i, n in enumerate(shape)]
    return x.reshape(kept)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.flatten(axis % x.ndim) if axis % x.ndim == 1 else x.reshape(x.shape[:axis].numel(), -1)


def slice_(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    if isinstance(x, list):
        return x[slice(starts[0], ends[0], steps[0])]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            # Torch has no negative steps: what is read backwards is the same, turned round.
            size = x.shape[axis]
            last = size - 1 if start >= size else start % size if start >= 0 else start + size
            first = 0 if end < -size else (end + size if end < 0 else end) + 1
            x, start, end, step = x.flip(axis), size - 1 - last, size - first, -step
        index = [slice(None)] * x.ndim
        index[axis] = slice(start, end, step)
        x = x[tuple(index)]
    return x


def pad(x: Any, pads: Any, value: Any = None, axes: Any = None, *, mode: str = "constant") -> Any:
    if isinstance(x, list):
        return [value or 0] * pads[0] + x + [value or 0] * pads[1]
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


def split_(x: Any, split: Any = None, *, axis: int = 0, num_outputs: int) -> tuple[Any, ...]:
    if isinstance(x, list):
        ends = list(itertools.accumulate(split or [len(x) // num_outputs] * num_outputs))
        return tuple(x[start:end] for start, end in zip([0, *ends], ends, strict=False))
    return x.split(list(split), axis) if split else x.chunk(num_outputs, axis)


def concat(*parts: Any, axis: int) -> Any:
    if any(isinstance(part, list) for part in parts):
        return [n for part in parts for n in (part if isinstance(part, list) else part.tolist())]
    return torch.cat(parts, axis)


def gather(x: Any, index: Any, *, axis: int = 0) -> Any:
    if isinstance(x, list):
        return x[index] if isinstance(index, int) else [x[i] for i in index]
    if isinstance(index, int):
        return x.select(axis, index)
    axis %= x.ndim
    index = torch.tensor(index) if isinstance(index, list) else index.long()
    if axis == 0 and x.ndim == 2 and index.ndim > 1:
        return functional.embedding(index, x)
    picked = x.index_select(axis, torch.where(index < 0, index + x.shape[axis], index).flatten())
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, torch.where(index < 0, index + x.shape[axis], index))


def scatter_elements(x: Any, index: Any, updates: Any, *, axis: int = 0, reduction: str = "none") -> Tensor:
    x, index, updates = map(torch.as_tensor, (x, index, updates))
    index = torch.where(index < 0, index + x.shape[axis], index)
    if reduction == "none":
        return x.scatter(axis, index, updates)
    how = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return x.scatter_reduce(axis, index, updates, how)


def squeeze(x: Any, axes: Any = None) -> Any:
    if isinstance(x, list):
        return x[0]
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def unsqueeze(x: Any, axes: Any) -> Any:
    if is_size(x):
        return [x]
    x = torch.tensor(x) if isinstance(x, list) else x
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def cast(x: Any, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    if isinstance(x, Tensor):
        return x.to(DTYPES[to])
    whole = all(is_size(n) for n in (x if isinstance(x, list) else [x]))
    if not DTYPES[to].is_floating_point:
        return x if whole else [int(n) for n in x] if isinstance(x, list) else int(x)
    return torch.tensor(x, dtype=DTYPES[to]) if whole else x


def clip(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return x if min is None and max is None else x.clamp(min, max)


def softmax(how: Callable[..., Tensor]) -> Operator:
    return lambda x, *, axis=-1: how(x, axis)


def flat_softmax(how: Callable[..., Tensor]) -> Operator:
    """Below opset 13 all dimensions from ``axis`` on are one."""
    return lambda x, *, axis=1: how(x.flatten(axis % x.ndim), axis % x.ndim).reshape(x.shape)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    parts = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def best(how: Callable[..., Tensor]) -> Operator:
    def index(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            return x.shape[axis] - 1 - how(x.flip(axis), dim=axis, keepdim=bool(keepdims))
        return how(x, dim=axis, keepdim=bool(keepdims))

    return index


def top_k(x: Tensor, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    n = k[0] if isinstance(k, list) else k
    values, indices = x.topk(n, axis, bool(largest), bool(sorted))
    return values, indices


def range_(start: Any, limit: Any, delta: Any) -> Any:
    if all(type(n) is int for n in (start, limit, delta)):
        return list(range(start, limit, delta))
    return torch.arange(start, limit, delta)


def constant_of_shape(shape: Any, *, value: Any = None) -> Any:
    fill = 0.0 if value is None else value.reshape(-1)[0].item()
    if isinstance(fill, int) and len(shape) == 1 and isinstance(shape[0], int):
        return [fill] * shape[0]
    return torch.full(tuple(shape), fill)


def expand(x: Any, shape: Any) -> Any:
    if isinstance(x, list | int) and len(shape) == 1:
        return x if isinstance(x, list) and len(x) == shape[0] else [x[0] if isinstance(x, list) else x] * shape[0]
    return torch.as_tensor(x).expand(torch.broadcast_shapes(torch.as_tensor(x).shape, tuple(shape)))


def shape_of(x: Any, *, start: int = 0, end: int | None = None) -> list[int]:
    shape = list(x.shape) if isinstance(x, Tensor) else [len(x)] if isinstance(x, list) else []
    return shape[start:end]


def size(x: Any) -> Any:
    return len(x) if isinstance(x, list) else math.prod(x.shape)


def where(condition: Any, a: Any, b: Any) -> Any:
    if isinstance(condition, list):
        n = len(condition)
        first, second = (v if isinstance(v, list) else [v] * n for v in (a, b))
        return [x if c else y for c, x, y in zip(condition, first, second, strict=True)]
    if not isinstance(condition, Tensor):
        return a if condition else b
    return torch.where(condition, torch.as_tensor(a), torch.as_tensor(b))


def logical(of_tensors: Callable[..., Tensor], of_one: Callable[..., bool]) -> Operator:
    def compute(*values: Any) -> Any:
        if any(isinstance(value, Tensor) for value in values):
            return of_tensors(*(torch.as_tensor(value) for value in values))
        if not any(isinstance(value, list) for value in values):
            return of_one(*values)
        n = max(len(value) for value in values if isinstance(value, list))
        return [of_one(*row) for row in zip(*(v if isinstance(v, list) else [v] * n for v in values), strict=True)]

    return compute


def extreme(of_two: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """The largest or least of several values, of which some may be plain numbers."""
    def compute(*values: Any) -> Any:
        if not any(isinstance(value, Tensor) for value in values):
            values = tuple(torch.tensor(value) for value in values)
            found = functools.reduce(of_two, values)
            return found.tolist() if not found.is_floating_point() else found
        return functools.reduce(of_two, map(torch.as_tensor, values))

    return compute


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


def arithmetic_of_one(of_one: Callable[[Any], Any]) -> Operator:
    return lambda x: [of_one(n) for n in x] if isinstance(x, list) else of_one(x)


def divide(a: Any, b: Any) -> Any:
    """Integers divide towards zero."""
    whole = all(not value.is_floating_point() if isinstance(value, Tensor) else is_size(value)
                for value in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def cumulated(x: Tensor, axis: int, exclusive: int, reverse: int) -> Tensor:
    axis = axis[0] if isinstance(axis, list) else axis
    summed = (x.flip(axis) if reverse else x).cumsum(axis)
    if exclusive:
        summed = summed - (x.flip(axis) if reverse else x)
    return summed.flip(axis) if reverse else summed


def _reduced_norm(x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    return torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)


def _product(x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    for axis in sorted((d % x.ndim for d in dim), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _modulo(a: Any, b: Any, *, fmod: int = 0) -> Any:
    return torch.fmod(a, b) if fmod else a % b


OPERATORS: dict[str, Operator] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": torch.matmul,
    "LSTM": lstm, "GRU": gru,
    "BatchNormalization": batch_norm, "LayerNormalization": layer_norm, "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm, "LRN": lrn,
    "LpNormalization": lambda x, axis=-1, p=2: functional.normalize(x, p=float(p), dim=axis, eps=0.0),
    "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": lambda x: x.mean(dim=list(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(dim=list(range(2, x.ndim)), keepdim=True),
    "ReduceMean": reduce(torch.mean), "ReduceSum": reduce(torch.sum, sum), "ReduceMax": reduce(torch.amax, max),
    "ReduceMin": reduce(torch.amin, min), "ReduceL2": reduce(_reduced_norm),
    "ReduceProd": reduce(_product, math.prod),
    "ReduceL1": reduce(lambda x, dim, keepdim: x.abs().sum(dim, keepdim)),
    "ReduceSumSquare": reduce(lambda x, dim, keepdim: x.square().sum(dim, keepdim)),
    "ReduceLogSumExp": reduce(torch.logsumexp),
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Erf": torch.erf, "Exp": torch.exp,
    "Log": torch.log, "Sqrt": torch.sqrt, "Abs": torch.abs, "Neg": arithmetic_of_one(operator.neg),
    "Reciprocal": torch.reciprocal, "Sign": torch.sign, "Sin": torch.sin, "Cos": torch.cos, "Atan": torch.atan,
    "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Softplus": functional.softplus,
    "Softsign": functional.softsign, "Mish": functional.mish, "HardSwish": functional.hardswish,
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0.0, 1.0),
    "LeakyRelu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
    "Elu": lambda x, alpha=1.0: functional.elu(x, alpha), "Celu": lambda x, alpha=1.0: functional.celu(x, alpha),
    "Selu": lambda x, alpha=1.6732632, gamma=1.0507010: gamma * functional.elu(x, alpha),
    "ThresholdedRelu": lambda x, alpha=1.0: torch.where(x > alpha, x, torch.zeros_like(x)),
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Gelu": lambda x, approximate="none": functional.gelu(x, approximate=approximate),
    "Softmax": softmax(torch.softmax), "LogSoftmax": softmax(torch.log_softmax),
    "Softmax below 13": flat_softmax(torch.softmax), "LogSoftmax below 13": flat_softmax(torch.log_softmax),
    "Clip": clip, "Pow": torch.pow, "Add": arithmetic(operator.add), "Sub": arithmetic(operator.sub),
    "Mul": arithmetic(operator.mul), "Div": arithmetic(divide, operator.floordiv), "Mod": _modulo,
    "Equal": logical(torch.eq, operator.eq), "Greater": logical(torch.gt, operator.gt),
    "GreaterOrEqual": logical(torch.ge, operator.ge), "Less": logical(torch.lt, operator.lt),
    "LessOrEqual": logical(torch.le, operator.le), "And": logical(torch.logical_and, lambda a, b: a and b),
    "Or": logical(torch.logical_or, lambda a, b: a or b), "Xor": logical(torch.logical_xor, operator.xor),
    "Not": logical(torch.logical_not, operator.not_),
    "Where": where, "Max": extreme(torch.maximum), "Min": extreme(torch.minimum),
    "Sum": lambda *x: functools.reduce(torch.add, x), "Mean": lambda *x: functools.reduce(torch.add, x) / len(x),
    "Reshape": reshape, "Flatten": flatten, "Slice": slice_, "Pad": pad, "Split": split_, "Concat": concat,
    "Gather": gather, "GatherElements": gather_elements, "ScatterElements": scatter_elements,
    "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Cast": cast,
    "Resize": resize, "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth,
    "Tile": lambda x, repeats: x * repeats[0] if isinstance(x, list) else x.repeat(*repeats),
    "Transpose": lambda x, perm=None: x.permute(perm or list(reversed(range(x.ndim)))),
    "Expand": expand, "Range": range_, "ConstantOfShape": constant_of_shape, "Size": size,
    "Shape": shape_of,
    "ArgMax": best(torch.argmax), "ArgMin": best(torch.argmin), "TopK": top_k,
    "CumSum": lambda x, axis, exclusive=0, reverse=0: cumulated(x, axis, exclusive, reverse),
    "Trilu": lambda x, k=0, upper=1: torch.triu(x, k or 0) if upper else torch.tril(x, k or 0),
    "Einsum": lambda *x, equation: torch.einsum(equation, *x),
    "Identity": lambda x: x, "Dropout": lambda x, ratio=None, training=None, seed=None: x,
}

"""What the layers of a Q/DQ graph read: activations in 8 bits, and weights behind transposes and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.convenience import get_const_tensor

LEVELS = 256


@dataclass(frozen=True)
class Activation:
    """A tensor and its grid of unsigned 8-bit levels, whose scale and zero point are constants."""

    tensor: ir.Value
    scale: ir.Value
    zero_point: ir.Value

    def level(self, x: float) -> int:
        """Where a number lies on the grid, rounded and saturated."""
        level = np.round(np.float32(x) / constant(self.scale).item()) + constant(self.zero_point).item()
        return int(np.clip(level, 0, LEVELS - 1))


@dataclass(frozen=True)
class Weight:
    """A constant weight as its layer reads it: float values, or integers and the scales that broadcast to them."""

    stored: NDArray[Any]
    scales: NDArray[np.float32] | None

    @property
    def values(self) -> NDArray[Any]:
        return self.stored if self.scales is None else self.stored.astype(np.float32) * self.scales

    def transposed(self, axes: list[int] | None) -> Weight:
        return Weight(self.stored.transpose(axes), None if self.scales is None else self.scales.transpose(axes))


def activation_of(value: ir.Value | None) -> Activation | None:
    """The tensor in 8 bits that a layer reads through DequantizeLinear, if it does."""
    node = _producer(value, "DequantizeLinear")
    return None if node is None else grid_of(node)


def grid_of(node: ir.Node) -> Activation | None:
    """What QuantizeLinear or DequantizeLinear reads, if its scale and zero point are constants of one such grid."""
    if len(node.inputs) != 3 or not all(is_constant(value) for value in node.inputs[1:]):
        return None
    tensor, scale, zero_point = node.inputs
    assert tensor is not None and scale is not None and zero_point is not None
    is_one = constant(scale).size == 1 and constant(zero_point).dtype == np.uint8
    return Activation(tensor, scale, zero_point) if is_one else None


def weight_of(value: ir.Value | None) -> Weight | None:
    """The weight that a layer reads; None if it is not constant, or not float or symmetric in 8 bits."""
    if is_constant(value):
        return Weight(constant(value), None)
    if (transpose := _producer(value, "Transpose")) is not None:
        weight = weight_of(transpose.inputs[0])
        axes = list(transpose.attributes["perm"].as_ints()) if "perm" in transpose.attributes else None
        return None if weight is None else weight.transposed(axes)
    dequantize = _producer(value, "DequantizeLinear")
    if dequantize is None or not all(is_constant(v) for v in dequantize.inputs):
        return None
    stored, scales, *zero_points = (constant(v) for v in dequantize.inputs)
    if stored.dtype != np.int8 or scales.ndim > 1 or any(zeros.any() for zeros in zero_points):
        return None
    shape = [1] * stored.ndim
    if scales.ndim:
        shape[dequantize.attributes["axis"].as_int() if "axis" in dequantize.attributes else 1] = -1
    return Weight(stored, scales.astype(np.float32).reshape(shape))


def is_constant(value: ir.Value | None) -> bool:
    """Whether the data of a value are in the file."""
    return value is not None and get_const_tensor(value) is not None


def constant(value: ir.Value | None) -> NDArray[Any]:
    """The data of a constant."""
    tensor = None if value is None else get_const_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def register(graph: ir.Graph, name: str, data: NDArray[Any] | np.generic) -> ir.Value:
    """The initializer of that name, made from ``data`` if there is none yet."""
    if name not in graph.initializers:
        tensor = ir.tensor(np.asarray(data, order="C"), name=name)
        kind = ir.TensorType(tensor.dtype)
        graph.register_initializer(ir.Value(name=name, const_value=tensor, shape=ir.Shape(data.shape), type=kind))
    return graph.initializers[name]


def _producer(value: ir.Value | None, operation: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operation else None

"""What the files of engines hold of layers, read back from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.types import PRECISION_KEY, SMOOTH, Layer

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class Stored:
    """A layer in a file.

    Attributes:
        weight: that its product reads, dequantized, float32 in the layer's ``weight_shape``; NaN in channels that are
            not as they were prepared, for a reason. None in a product of two activations.
        input_scale: of the integers or fp8 numbers of its input; None where it reads floats.
        zero_point: of its input; None where it reads floats.
        inverse: what its input is multiplied by before it is read, (n_channels,) or one number; None where that cannot
            be read.
        bias: of the layer, (n_channels,); None where none is found.
        second_scale, second_zero_point: of the second operand of a product of two activations.
    """

    weight: NDArray[np.float32] | None
    input_scale: float | None = None
    zero_point: int | None = None
    inverse: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    second_scale: float | None = None
    second_zero_point: int | None = None


def in_shape(weight: NDArray[Any], layer: Layer, is_transposed: bool = False) -> NDArray[np.float32] | None:
    """A weight as a layer has it, from one with another split of the same axes; None where it is another one."""
    weight = weight.astype(np.float32)
    if is_transposed and weight.ndim >= 2:
        weight = weight.swapaxes(-1, -2)
    return weight.reshape(layer.weight_shape) if weight.size == np.prod(layer.weight_shape) else None


def stored_in_onnx(path: Path, layers: Iterable[Layer]) -> dict[str, Stored]:
    """Layers of a Q/DQ ONNX file whose nodes have their names, those that can be read."""
    import onnx

    graph = StoredGraph(onnx.load(path).graph)
    found = {layer.name: graph.stored(layer) for layer in layers}
    return {name: one for name, one in found.items() if one is not None}


class StoredGraph:
    """Reads layers in an ONNX graph.

    Attributes:
        nodes: by name.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = {node.name: node for node in graph.node}
        self._producers = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def stored(self, layer: Layer) -> Stored | None:
        node = self.nodes.get(layer.name)
        if node is not None and not layer.has_weight:
            (scale, zero_point), (second, second_zero) = (self.grid(name) for name in node.input)
            return Stored(None, scale, zero_point, second_scale=second, second_zero_point=second_zero)
        weight = None if node is None else self.value(node.input[1])
        if node is None or weight is None:
            return None
        transposes = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transB", 0))
        real = in_shape(weight, layer, transposes)
        if real is None:
            return None
        if any(entry.key == PRECISION_KEY and entry.value == "fp16" for entry in node.metadata_props):
            real = real.astype(np.float16).astype(np.float32)  # where the file does not, the builder rounds it
        bias = self.bias(node)
        scale, zero_point = self.grid(node.input[0])
        return Stored(real, scale, zero_point, self.inverse(node.input[0]), bias)

    def grid(self, tensor: str) -> tuple[float | None, int | None]:
        """Scale and zero point of the integers or fp8 numbers of a tensor; None where it is none of them."""
        dequantize = self._producers.get(tensor)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None, None
        scale, *zero_points = (self.value(name) for name in dequantize.input[1:3])
        if scale is None or scale.size != 1:
            return None, None
        return float(scale), int(zero_points[0]) if zero_points and zero_points[0] is not None else 0

    def bias(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """The third input of a layer, or what is all that is added to a matrix product."""
        name = node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "MatMul":
            readers = self._readers[node.output[0]]
            if len(readers) == 1 and readers[0].op_type == "Add":
                name = next((other for other in readers[0].input if other != node.output[0]), "")
        value = self.value(name)
        return None if value is None else value.reshape(-1)

    def inverse(self, tensor: str) -> NDArray[Any]:
        """The factors that a tensor is multiplied by before a layer reads it."""
        node = self._producers.get(tensor)
        while node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear", "Clip", "Cast"):
            node = self._producers.get(node.input[0])
        value = self.value(node.input[1]) if node is not None and node.name.endswith(SMOOTH) else None
        return np.ones(1) if value is None else value.reshape(-1)

    def value(self, name: str) -> NDArray[Any] | None:
        """A constant, or what transposes, quantizers and casts make of one."""
        from onnx import numpy_helper

        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name])
        node = self._producers.get(name)
        if node is None or node.op_type not in ("Cast", "DequantizeLinear", "QuantizeLinear", "Transpose"):
            return None
        x, *others = (self.value(one) for one in node.input)
        if x is None:
            return None
        if node.op_type == "Transpose":
            return x.transpose(_attribute(node, "perm", None))
        if node.op_type == "Cast":
            return x.astype(np.float32)
        if others[0] is None:
            return None
        scales = along(others[0], x, _attribute(node, "axis", 1), _attribute(node, "block_size", 0))
        if node.op_type == "QuantizeLinear":
            return np.clip(np.round(x / scales), -128, 127).astype(np.int8)  # of weights, which are symmetric
        # In the type of the scales, as the operation is defined.
        return (x.astype(scales.dtype) * scales).astype(np.float32)


def along(scales: NDArray[Any], x: NDArray[Any], axis: int, block_size: int = 0) -> NDArray[Any]:
    """Scales as they broadcast to a tensor: one for all of it, one an entry of an axis, or one a block along it."""
    if block_size:
        return scales.repeat(block_size, axis)
    if scales.size == 1:
        return scales.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return scales.reshape(shape)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)

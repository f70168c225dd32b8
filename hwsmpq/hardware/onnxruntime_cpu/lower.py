"""Rewrites a Q/DQ graph so that an int8 layer is an integer operation of ONNX Runtime, whatever reads its result.

Left to itself, ONNX Runtime computes a convolution in int8 only where nothing but a quantizer reads its result, and
elsewhere dequantizes both operands. Here such a convolution becomes a matrix product of 8-bit operands with a float
result, as every linear layer does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from hwsmpq.device.onnxruntime.audit import weight_name
from hwsmpq.hardware.onnxruntime_cpu.operands import (
    Activation,
    Weight,
    activation_of,
    constant,
    grid_of,
    is_constant,
    register,
    weight_of,
)
from hwsmpq.hardware.onnxruntime_cpu.readers import bias_addition, move_behind, path_to_quantizer
from hwsmpq.hardware.onnxruntime_cpu.windows import Window, window_of
from hwsmpq.types import ONNX_LAYERS

CONTRIB = "com.microsoft"
LARGEST_BIAS = 2.0**30
"""Leaves the products as much of a 32-bit sum."""


def lower(model: ir.Model) -> None:
    """Rewrite a model in place; every layer then reads its weight from an initializer named after the layer.

    An int8 layer becomes QLinearConv where only a quantizer reads its result, else MatMulIntegerToFloat. What neither
    can compute (transposed convolutions, and with float results those that are grouped or have few channels) reads the
    quantized values in fp32.
    """
    ShapeInferencePass()(model)
    model.opset_imports.setdefault(CONTRIB, 1)
    indices: dict[Window, ir.Value] = {}
    for node in list(model.graph):
        weight = weight_of(node.inputs[1]) if node.op_type in ONNX_LAYERS else None
        if weight is not None:
            _Layer(model.graph, node, weight, indices).lower()
    RemoveUnusedNodesPass()(model)


class _Layer:
    """One layer, and what takes its place.

    Args:
        indices: of the windows that layers before it gather, which this one adds to.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node, weight: Weight, indices: dict[Window, ir.Value]) -> None:
        self._graph, self._node, self._weight, self._indices = graph, node, weight, indices

    def lower(self) -> None:
        node, x = self._node, activation_of(self._node.inputs[0])
        if x is None or self._weight.scales is None:
            self._in_float()
        elif node.op_type == "MatMul" or (node.op_type == "Gemm" and _is_plain(node)):
            self._linear(x)
        elif node.op_type == "Conv" and self._has_constant_bias and (path := path_to_quantizer(node.outputs[0])):
            self._quantized_convolution(x, path)
        elif node.op_type == "Conv" and (window := window_of(node, self._weight.stored.shape)) is not None:
            self._float_convolution(x, window)
        else:
            self._in_float()

    @property
    def _bias(self) -> ir.Value | None:
        return self._node.inputs[2] if len(self._node.inputs) > 2 else None

    @property
    def _has_constant_bias(self) -> bool:
        return self._bias is None or is_constant(self._bias)

    def _in_float(self) -> None:
        weight = self._node.inputs[1]
        if weight is not None and weight.is_initializer() and not weight.name.endswith(weight_name("")):
            weight.name = weight_name(self._node.name)  # what else reads it, such as an embedding, reads it still
        else:
            self._node.replace_input_with(1, self._constant("weight", self._weight.values))

    def _linear(self, x: Activation) -> None:
        node, bias, result = self._node, self._bias, self._node.outputs[0]
        is_transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
        weight = self._weight.stored.T if is_transposed else self._weight.stored
        if (addition := bias_addition(node)) is not None and bias is None:
            bias, result = addition
        _replace(result, self._product(x, x.tensor, weight, bias))

    def _quantized_convolution(self, x: Activation, path: list[ir.Node]) -> None:
        *between, quantizer = path
        y = grid_of(quantizer)
        assert y is not None
        weight, scales, x_scale = self._weight.stored, self._channel_scales(), constant(x.scale).astype(np.float64)
        bias = np.zeros(len(weight)) if self._bias is None else constant(self._bias).astype(np.float64)
        # A bias too large for 32 bits takes a larger scale, on which the channel's weights come to nothing.
        wide = np.maximum(scales, np.abs(bias) / x_scale / LARGEST_BIAS)
        weight = np.round(weight * (scales / wide).reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        inputs = [
            x.tensor, x.scale, x.zero_point, self._constant("weight", weight),
            self._constant("scales", wide.astype(np.float32)), self._constant("zero_point", np.int8(0)),
            y.scale, y.zero_point, self._constant("bias", np.round(bias / x_scale / wide).astype(np.int32)),
        ]
        stored = self._add("QLinearConv", inputs, self._node.attributes, self._node.name)
        for node in between:
            stored = move_behind(node, stored, y)
        _replace(quantizer.outputs[0], stored)

    def _float_convolution(self, x: Activation, window: Window) -> None:
        node, weight, n = self._node, self._weight.stored, len(window.size)
        data = self._add("Transpose", [x.tensor], {"perm": [0, *range(2, n + 2), 1]}, f"{node.name}/channels_last")
        if not window.is_pointwise:
            data = self._gathered(data, x, window, weight.shape[1])
        rows = weight.transpose(*range(2, n + 2), 1, 0).reshape(-1, len(weight))
        product = self._product(x, data, rows, self._bias)
        _replace(
            node.outputs[0],
            self._add("Transpose", [product], {"perm": [0, n + 1, *range(1, n + 1)]}, f"{node.name}/channels_first"),
        )

    def _gathered(self, data: ir.Value, x: Activation, window: Window, n_channels: int) -> ir.Value:
        """What every output position reads side by side, (batch, *output, kernel positions * channels)."""
        name, n = self._node.name, len(window.size)
        if any(window.pads):
            pads = np.array([0, *window.pads[:n], 0, 0, *window.pads[n:], 0])
            data = self._add("Pad", [data, self._constant("pads", pads), x.zero_point], {}, f"{name}/pad")
        flat = self._constant("flat", np.array([0, prod(window.padded), n_channels]))
        wide = self._constant("wide", np.array([0, *window.output, prod(window.kernel) * n_channels]))
        data = self._add("Reshape", [data, flat], {}, f"{name}/flat")
        data = self._add("Gather", [data, self._indices_of(window)], {"axis": 1}, f"{name}/gather")
        return self._add("Reshape", [data, wide], {}, f"{name}/wide")

    def _indices_of(self, window: Window) -> ir.Value:
        """The runtime adds them up once, when it loads the file, where they would be larger than small weights."""
        if window not in self._indices:
            first, *others = (
                register(self._graph, f"windows/{window}/{i}", one) for i, one in enumerate(window.indices())
            )
            for i, other in enumerate(others):
                first = self._add("Add", [first, other], {}, f"windows/{window}/sum{i}")
            self._indices[window] = first
        return self._indices[window]

    def _product(self, x: Activation, data: ir.Value, weight: NDArray[np.int8], bias: ir.Value | None) -> ir.Value:
        inputs = [
            data, self._constant("weight", weight), x.scale, self._constant("scales", self._channel_scales()),
            x.zero_point, None, bias,
        ]
        return self._add("MatMulIntegerToFloat", inputs, {}, self._node.name, CONTRIB)

    def _channel_scales(self) -> NDArray[np.float32]:
        assert self._weight.scales is not None
        return self._weight.scales.reshape(-1)

    def _add(
        self, operation: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], name: str | None,
        domain: str = "",
    ) -> ir.Value:
        node = ir.node(operation, inputs, attributes, domain=domain, name=name)
        node.outputs[0].name = f"{name}/out"
        self._graph.insert_before(self._node, node)
        return node.outputs[0]

    def _constant(self, role: str, data: NDArray[Any] | np.generic) -> ir.Value:
        return register(self._graph, f"{self._node.name}/{role}", data)


def _replace(old: ir.Value, new: ir.Value) -> None:
    """Put a value in the place of another one, under its name."""
    new.name, new.shape, new.dtype, old.name = old.name, old.shape, old.dtype, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _is_plain(gemm: ir.Node) -> bool:
    """Whether a Gemm only multiplies and adds."""
    defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return all(gemm.attributes[key].value == value for key, value in defaults.items() if key in gemm.attributes)

"""What a lowered ONNX file holds of layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hwsmpq.device.onnxruntime.audit import weight_name
from hwsmpq.hardware.onnxruntime_cpu.lower import LARGEST_BIAS
from hwsmpq.hardware.stored import Stored, along, in_shape
from hwsmpq.types import Layer

OPERANDS = {"QLinearConv": (3, 4, 1, 2), "MatMulIntegerToFloat": (1, 3, 2, 4)}
"""Where an operation reads its weight and scales, and the scale and zero point of its input."""


def stored_in_lowered(path: Path, layers: Iterable[Layer]) -> dict[str, Stored]:
    """Layers of an engine, those that can be read."""
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node if weight_name(node.name) in node.input}

    def value(name: str) -> NDArray[Any]:
        return numpy_helper.to_array(tensors[name])

    found = {}
    for layer in layers:
        node = nodes.get(layer.name)
        if node is None:
            continue
        if node.op_type not in OPERANDS:
            transposes = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _transposes(node))
            weight = in_shape(value(weight_name(layer.name)), layer, transposes)
            if weight is not None:
                found[layer.name] = Stored(weight)
            continue
        integers, scales, scale, zero_point = (value(node.input[i]) for i in OPERANDS[node.op_type])
        if node.op_type == "QLinearConv":
            if np.abs(value(node.input[8]).astype(np.int64)).max() >= 0.999 * LARGEST_BIAS:
                continue  # written on a larger scale for its bias: see there
            real: NDArray[Any] | None = integers * along(scales, integers, 0)
        else:
            real = _of_product(integers * scales, layer)
        weight = None if real is None else in_shape(real, layer)
        if weight is not None:
            found[layer.name] = Stored(weight, float(scale), int(zero_point))
    return found


def _of_product(rows: NDArray[Any], layer: Layer) -> NDArray[Any] | None:
    """The weight of a layer from the matrix (what a position reads, outputs) of its product."""
    n_outputs, n_inputs, *window = layer.weight_shape
    if rows.shape != (int(np.prod([*window, n_inputs])), n_outputs):
        return None
    n = len(window)
    return rows.reshape(*window, n_inputs, n_outputs).transpose(n + 1, n, *range(n))


def _transposes(node: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)

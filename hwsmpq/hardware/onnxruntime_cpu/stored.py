"""What a lowered ONNX file holds of layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwsmpq.device.onnxruntime.audit import weight_name
from hwsmpq.hardware.onnxruntime_cpu.lower import LARGEST_BIAS
from hwsmpq.hardware.stored import Stored, StoredGraph, along, in_shape
from hwsmpq.types import Layer

OPERANDS = {"QLinearConv": (3, 4, 1, 2, 8), "MatMulIntegerToFloat": (1, 3, 2, 4, 6)}
"""Where an operation reads its weight and scales, the scale and zero point of its input, and its bias."""


def stored_in_lowered(path: Path, layers: Iterable[Layer]) -> dict[str, Stored]:
    """Layers of an engine, those that can be read."""
    graph = _Lowered(onnx.load(path).graph)
    found = {layer.name: graph.stored(layer) for layer in layers}
    return {name: one for name, one in found.items() if one is not None}


class _Lowered(StoredGraph):
    def stored(self, layer: Layer) -> Stored | None:
        node = self.nodes.get(layer.name)
        if node is None or weight_name(layer.name) not in node.input:
            return None
        if node.op_type not in OPERANDS:
            return super().stored(layer)
        integers, scales, scale, zero_point, bias = (
            self.value(node.input[i]) if i < len(node.input) else None for i in OPERANDS[node.op_type]
        )
        assert integers is not None and scales is not None and scale is not None and zero_point is not None
        if node.op_type == "QLinearConv":
            assert bias is not None
            real: NDArray[Any] | None = integers * along(scales, integers, 0)
            assert real is not None
            real[np.abs(bias.astype(np.int64)) >= 0.999 * LARGEST_BIAS] = np.nan  # on a larger scale: see there
            bias = bias * scales.astype(np.float64) * scale
        else:
            real = _of_product(integers * scales, layer)
        weight = None if real is None else in_shape(real, layer)
        if weight is None:
            return None
        return Stored(weight, float(scale), int(zero_point), self.inverse(node.input[0]), bias)


def _of_product(rows: NDArray[Any], layer: Layer) -> NDArray[Any] | None:
    """The weight of a layer from the matrix (what a position reads, outputs) of its product."""
    n_outputs, n_inputs, *window = layer.weight_shape
    if rows.shape != (int(np.prod([*window, n_inputs])), n_outputs):
        return None
    n = len(window)
    return rows.reshape(*window, n_inputs, n_outputs).transpose(n + 1, n, *range(n))

"""Reductions before a quantizer.

Seen in OpenVINO 2026.4, which fuses what follows a Reduce into its kernel:

- a mean, sum, norm or extreme over positions that drops them, then a smoothed linear layer or a factor a channel: the
  factors are applied along the wrong axis (0 to 3 dB);
- an extreme, then a quantizer: wrong whether or not the dimension is kept (1 to 40 dB).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor

from hwsmpq.hardware.openvino_rewrites.edit import LARGEST, constant, put_behind, put_bound_behind

EXTREMES = {"ReduceMax": ("Max", -LARGEST), "ReduceMin": ("Min", LARGEST)}


def keep_reduced_dimensions(graph: ir.Graph) -> None:
    """Let reductions keep their dimensions, and drop these behind them."""
    for node in list(graph):
        result = node.outputs[0]
        if not node.op_type.startswith("Reduce") or node.attributes.get_int("keepdims", 1) or result.shape is None:
            continue
        axes = _axes(node)
        if axes is None:
            continue
        node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
        name = f"{node.name}.kept"
        squeeze = ir.node("Squeeze", [result, constant(graph, f"{name}.axes", np.asarray(axes, np.int64))], name=name)
        put_behind(graph, node, squeeze)
        result.shape = None


def bound_extremes(graph: ir.Graph) -> None:
    """Compare extremes with the largest float, so that something other than a quantizer reads them."""
    for node in list(graph):
        if node.op_type in EXTREMES and node.outputs[0].dtype == ir.DataType.FLOAT:
            put_bound_behind(graph, node, *EXTREMES[node.op_type])


def _axes(node: ir.Node) -> list[int] | None:
    """The reduced axes, counted from the front; None where they are computed or not known."""
    source, given = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if source is None or source.shape is None:
        return None
    if given is None:
        return list(range(len(source.shape)))
    tensor = get_const_tensor(given)
    return None if tensor is None else [int(a) % len(source.shape) for a in tensor.numpy().reshape(-1)]

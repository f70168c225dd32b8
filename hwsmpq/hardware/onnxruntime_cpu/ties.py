"""Layers that run in int8 only together with what reads their results.

A convolution that cannot be a matrix product (depthwise, grouped, or of few channels) has an int8 kernel only with an
8-bit result, which takes a reader in int8. See :mod:`hwsmpq.hardware.onnxruntime_cpu.lower`.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from hwsmpq.hardware.onnxruntime_cpu.operands import weight_of
from hwsmpq.hardware.onnxruntime_cpu.readers import path_behind
from hwsmpq.hardware.onnxruntime_cpu.windows import window_of


def ties(model: ir.Model, layers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Such convolutions of a float graph, each with the layers that are all that reads its result.

    Where anything else reads it, the convolution never runs in int8, which is for an audit to find.

    Args:
        layers: names of the nodes that may be quantized.
    """
    ShapeInferencePass()(model)
    found = []
    for node in model.graph:
        weight = weight_of(node.inputs[1]) if node.name in layers and node.op_type == "Conv" else None
        if weight is None or window_of(node, weight.stored.shape) is not None:
            continue
        _, end = path_behind(node.outputs[0])
        readers = [reader.name for reader, index in end.uses() if index == 0 and reader.name in layers]
        if readers and len(readers) == len(end.uses()) and not end.is_graph_output():
            found.append((str(node.name), *map(str, readers)))
    return tuple(found)

"""A factor behind a matrix product that quantized layers read.

Seen in OpenVINO 2026.4, which makes factor and bias a part of the next layer's quantizer, with a range a channel, and
both products one kernel, whose results are arbitrary numbers.
"""

from __future__ import annotations

import onnx_ir as ir

from hwsmpq.hardware.openvino_rewrites.edit import put_bound_behind

PRODUCTS = {"Gemm", "MatMul"}
CLAMPS = {"Clip", "Relu"}


def bound_scaled_layers(graph: ir.Graph) -> None:
    """Let something other than a quantizer read such a result."""
    for node in list(graph):
        if node.op_type == "Mul" and _is_of_product(node) and _is_read_by_product(node):
            put_bound_behind(graph, node)


def _is_of_product(node: ir.Node) -> bool:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type == "Add":  # of a bias
            producer = next((p for v in producer.inputs if v is not None and (p := v.producer()) is not None), None)
        if producer is not None and producer.op_type in PRODUCTS:
            return True
    return False


def _is_read_by_product(node: ir.Node) -> bool:
    readers = [reader for reader, _ in node.outputs[0].uses()]
    readers += [next_one for reader in readers if reader.op_type in CLAMPS for next_one, _ in reader.outputs[0].uses()]
    return any(reader.op_type in PRODUCTS for reader in readers)

"""Matrix products that the quantizer of another one reads directly.

Seen in OpenVINO 2026.4, which makes both one kernel, whose results are arbitrary numbers, where between them is

- a factor: with the bias it becomes a part of the quantizer, which then has a range a channel;
- nothing but clamps, not even a bias, in two dimensions (the head of DistilBERT with biases of zero).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor

from hwsmpq.hardware.openvino_rewrites.edit import put_bound_behind

PRODUCTS = {"Gemm", "MatMul"}
CLAMPS = {"Clip", "Relu"}


def bound_products(graph: ir.Graph) -> None:
    """Let something other than a quantizer read such a result."""
    for node in list(graph):
        is_bound = _is_bare_product(node) or (node.op_type == "Mul" and _is_of_product(node))
        if is_bound and _is_read_by_product(node):
            put_bound_behind(graph, node)


def _is_bare_product(node: ir.Node) -> bool:
    if node.op_type not in PRODUCTS or node.outputs[0].shape is None or len(node.outputs[0].shape) != 2:
        return False
    bias = get_const_tensor(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    return len(node.inputs) == 2 or (bias is not None and not bias.numpy().any())


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

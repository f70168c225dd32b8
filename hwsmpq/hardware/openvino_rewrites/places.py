"""A factor for every position before a convolution whose kernel is as large as the image.

Seen in OpenVINO 2026.4, which multiplies a constant factor into the weights of the convolution that reads its product
wherever the shapes fit, positions into places of the kernel too (adaptive pooling before a kernel of its size, as in
CSATv2, fp32: 40 % of the result is wrong).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor

from hwsmpq.hardware.openvino_rewrites.edit import put_bound_behind


def separate_positions(graph: ir.Graph) -> None:
    """Let something other than a convolution read such a product."""
    for node in list(graph):
        readers = [reader for reader, _ in node.outputs[0].uses()]
        if node.op_type in ("Mul", "Div") and any(_varies_with_place(node, reader) for reader in readers):
            put_bound_behind(graph, node)


def _varies_with_place(node: ir.Node, reader: ir.Node) -> bool:
    if reader.op_type != "Conv" or reader.inputs[1] is None or reader.inputs[1].shape is None:
        return False
    n_places = len(reader.inputs[1].shape) - 2
    constants = [get_const_tensor(value) for value in node.inputs if value is not None]
    return any(c is not None and any(size != 1 for size in c.shape.numpy()[-n_places:]) for c in constants)

"""Gathers of several dimensions behind a quantizer.

OpenVINO 2026.4 moves factors a channel behind a Gather and broadcasts them to the shape of its index: a network with an
index of two dimensions (windows that overlap, as HaloNet's) does not compile in int8.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor

from hwsmpq.hardware.openvino_rewrites.edit import constant, put_behind


def flatten_indices(graph: ir.Graph) -> None:
    """Gather by a list, and give the result its dimensions behind it."""
    for node in list(graph):
        source, given = (*node.inputs, None, None)[:2]
        index = None if node.op_type != "Gather" or given is None else get_const_tensor(given)
        if index is None or len(index.shape) < 2 or source is None or source.is_initializer() or source.shape is None:
            continue
        axis = node.attributes.get_int("axis", 0) % len(source.shape)
        behind = [source.shape[i] for i in range(axis + 1, len(source.shape))]
        if not all(isinstance(size, int) for size in behind):
            continue
        name, positions = f"{node.name}.flat", index.numpy()
        node.replace_input_with(1, constant(graph, f"{name}.index", positions.reshape(-1)))
        shape = np.asarray([0] * axis + [*positions.shape, *behind], np.int64)
        reshape = ir.node("Reshape", [node.outputs[0], constant(graph, f"{name}.shape", shape)], name=name)
        put_behind(graph, node, reshape)
        node.outputs[0].shape = None

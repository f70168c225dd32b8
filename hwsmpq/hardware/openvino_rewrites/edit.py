"""What rewrites do to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float32).max)


def put_behind(graph: ir.Graph, node: ir.Node, new: ir.Node) -> None:
    """Let all that reads a node's result read the new node's."""
    old, result = node.outputs[0], new.outputs[0]
    result.name, result.shape, result.type = f"{new.name}.out", old.shape, old.type
    graph.insert_after(node, new)
    for reader, index in list(old.uses()):
        if reader is not new:
            reader.replace_input_with(index, result)
    for index, output in enumerate(graph.outputs):
        if output is old:
            old.name, result.name = result.name, old.name
            graph.outputs[index] = result


def constant(graph: ir.Graph, name: str, data: NDArray[Any]) -> ir.Value:
    """A new initializer."""
    tensor = ir.tensor(data, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def put_bound_behind(graph: ir.Graph, node: ir.Node, operation: str = "Max", bound: float = -LARGEST) -> None:
    """Compare a result with the least float, or by ``Min`` with the largest, which leaves it as it is and nothing fuses
    with."""
    name = f"{node.name}.bounded"
    limit = constant(graph, f"{name}.limit", np.asarray(bound, np.float32))
    put_behind(graph, node, ir.node(operation, [node.outputs[0], limit], name=name))

"""Attention with as many heads as tokens.

Seen in OpenVINO 2026.4, which fuses both products and the softmax between them: the result is wrong (by as much as it
is large) where heads and tokens are equally many. With one more axis of size 1 it is right.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

N_DIMENSIONS = 4
BETWEEN = {"Mul": 0, "Div": 0, "Add": 0, "Where": 2}
"""What may lie between the first product and the softmax, scale and mask, and which input of it is the product."""


def separate_attention(graph: ir.Graph) -> None:
    """Give such attention one more axis of size 1."""
    axis = None
    for last in [n for n in graph if n.op_type == "MatMul"]:
        softmax = _producer(last.inputs[0], {"Softmax"})
        if softmax is None or not _is_square(softmax.outputs[0]):
            continue
        chain = [softmax]
        while (before := _producer(_scores(chain[-1]), BETWEEN)) is not None:
            chain.append(before)
        first = _producer(_scores(chain[-1]), {"MatMul"})
        nodes = [first, *reversed(chain), last]
        if first is None or any(len(n.outputs[0].uses()) != 1 for n in nodes[:-1] if n is not None):
            continue
        if axis is None:
            tensor = ir.tensor(np.asarray([0], np.int64), name="attention.axis")
            axis = ir.Value(
                name=tensor.name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)
            )
            graph.register_initializer(axis)
        for node, index in ((first, 0), (first, 1), (last, 1)):
            value = node.inputs[index]
            wide = ir.node("Unsqueeze", [value, axis], name=f"{node.name}.wide{index}")
            wide.outputs[0].name = f"{wide.name}.out"
            wide.outputs[0].type = None if value is None else value.type
            graph.insert_before(node, wide)
            node.replace_input_with(index, wide.outputs[0])
        softmax.attributes["axis"] = ir.AttrInt64("axis", -1)
        result = last.outputs[0]
        narrow = ir.node("Squeeze", [result, axis], name=f"{last.name}.narrow")
        narrow.outputs[0].name, narrow.outputs[0].shape = f"{narrow.name}.out", result.shape
        narrow.outputs[0].type = result.type
        graph.insert_after(last, narrow)
        for reader, index in list(result.uses()):
            if reader is not narrow:
                reader.replace_input_with(index, narrow.outputs[0])
        for node in (*chain, first, last):
            node.outputs[0].shape = None


def _scores(node: ir.Node) -> ir.Value | None:
    return node.inputs[BETWEEN.get(node.op_type, 0)]


def _producer(value: ir.Value | None, kinds: Collection[str]) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in kinds else None


def _is_square(weights: ir.Value) -> bool:
    """Whether attention weights (batch, heads, tokens, tokens) have as many heads as tokens; unknown sizes may."""
    shape = weights.shape
    if shape is None or len(shape) != N_DIMENSIONS:
        return shape is None
    heads, tokens, others = shape[1:]
    return heads in (tokens, others)

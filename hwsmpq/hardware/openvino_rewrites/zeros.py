"""Padded tokens that a linear layer reads and whose norm its result is divided by (Swin v2, windows beyond the image).

Seen in OpenVINO 2026.4, whose int8 products take the zero point off in float: for a row of zeros they give 3e-7 instead
of 0. Where keys have no bias, the division then makes a vector of length 1 of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from hwsmpq.hardware.openvino_rewrites.edit import constant, put_behind

MOVES = {"Reshape", "Transpose", "Concat", "Slice", "Split", "Gather", "Squeeze", "Unsqueeze"}
"""What gives the values that it takes, elsewhere."""


def keep_zero_rows(graph: ir.Graph) -> None:
    """Let the product of such a row be 0: multiply it by 0, and others by 1."""
    for node in list(graph):
        if node.op_type == "MatMul" and _reaches(node, "Pad", _before, MOVES) and _reaches(
            node, "ReduceL2", _after, MOVES | {"Add"}
        ):
            name, rows = f"{node.name}.rows", node.inputs[0]
            absolute = ir.node("Abs", [rows], name=f"{name}.absolute")
            last = constant(graph, f"{name}.axis", np.asarray([-1], np.int64))
            largest = ir.node("ReduceMax", [absolute.outputs[0], last], {"keepdims": 1}, name=f"{name}.largest")
            sign = ir.node("Sign", [largest.outputs[0]], name=f"{name}.sign")
            for one in (absolute, largest, sign):
                one.outputs[0].name, one.outputs[0].type = f"{one.name}.out", node.outputs[0].type
                graph.insert_before(node, one)
            put_behind(graph, node, ir.node("Mul", [node.outputs[0], sign.outputs[0]], name=f"{name}.kept"))


def _before(node: ir.Node) -> Iterable[ir.Node]:
    return [p for value in node.inputs if value is not None and (p := value.producer()) is not None]


def _after(node: ir.Node) -> Iterable[ir.Node]:
    return [reader for value in node.outputs for reader, _ in value.uses()]


def _reaches(node: ir.Node, kind: str, following: Callable[[ir.Node], Iterable[ir.Node]], over: set[str]) -> bool:
    """Whether nodes of a kind follow a node, directly or over others."""
    return any(n.op_type == kind or (n.op_type in over and _reaches(n, kind, following, over)) for n in following(node))

"""What reads the result of a layer, and is computed with it or after its quantizer."""

from __future__ import annotations

from math import inf

import numpy as np
import onnx_ir as ir

from hwsmpq.hardware.onnxruntime_cpu.operands import Activation, constant, grid_of, is_constant, register

CLAMPS = {"Clip", "Relu"}
MOVES = {"Flatten", "MaxPool", "Pad", "Reshape", "Transpose"}
PAD_VALUE = 2


def bias_addition(product: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The constant vector that is all that is added to a matrix product before anything else, and the sum."""
    result = product.outputs[0]
    reader = _only_reader(result)
    if reader is None or reader.op_type != "Add":
        return None
    (addend,) = (value for value in reader.inputs if value is not result)
    if addend is None or not is_constant(addend) or constant(addend).ndim != 1:
        return None
    return addend, reader.outputs[0]


def path_to_quantizer(value: ir.Value) -> list[ir.Node]:
    """The nodes up to and with the quantizer that is all that reads a tensor, if what lies between may as well come
    after it: operations that move or select values, and clamps that the quantizer's saturation repeats. Else nothing.
    """
    between, end = path_behind(value)
    quantizer = _only_reader(end)
    grid = grid_of(quantizer) if quantizer is not None and quantizer.op_type == "QuantizeLinear" else None
    if quantizer is None or grid is None or not all(_commutes(node, grid) for node in between):
        return []
    return [*between, quantizer]


def path_behind(value: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """The operations behind a tensor that move, select or clamp its values and are each all that reads the one before,
    and the tensor behind all of them.
    """
    path: list[ir.Node] = []
    while (node := _only_reader(value)) is not None and _is_passed(node, value):
        path.append(node)
        value = node.outputs[0]
    return path, value


def move_behind(node: ir.Node, stored: ir.Value, grid: Activation) -> ir.Value:
    """Let a node of a path read the quantized tensor instead; returns what it makes of that."""
    if node.op_type in CLAMPS:
        return stored
    node.replace_input_with(0, stored)
    if node.op_type == "Pad":
        node.resize_inputs(max(PAD_VALUE + 1, len(node.inputs)))
        level = np.uint8(grid.level(_number(node, PAD_VALUE, 0.0)))
        assert node.graph is not None
        node.replace_input_with(PAD_VALUE, register(node.graph, f"{node.outputs[0].name}/value", level))
    node.outputs[0].dtype = ir.DataType.UINT8
    return node.outputs[0]


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _is_passed(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node moves, selects or clamps the values of a tensor, and nothing else decides how."""
    others = node.inputs[1:]
    return (
        node.op_type in CLAMPS | MOVES and node.inputs[0] is value and len(node.outputs) == 1
        and all(other is None or is_constant(other) for other in others)
    )


def _commutes(node: ir.Node, grid: Activation) -> bool:
    """Whether a node of a path may as well come after the quantizer of that grid."""
    if node.op_type in MOVES:
        return True
    low, high = (0.0, inf) if node.op_type == "Relu" else (_number(node, 1, -inf), _number(node, 2, inf))
    return grid.level(low) == grid.level(-inf) and grid.level(high) == grid.level(inf)


def _number(node: ir.Node, index: int, default: float) -> float:
    """A constant input that may be left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return default if value is None else float(constant(value))

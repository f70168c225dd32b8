"""Padding as runtimes take it: with zeros as part of the convolution that reads it, circular as slices put together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

LAST = np.iinfo(np.int64).max
"""End of a slice that goes to the end."""
N_OUTER = 2
"""Dimensions before the spatial ones: batch and channel."""


def fold_padding(graph: ir.Graph) -> None:
    """Let convolutions pad by themselves where nothing else reads what a Pad node pads with zeros.

    Runtimes run such a node in float32, on what are often the largest tensors of a network, and keep the kernel before
    it from writing small integers (measured on OpenVINO: uniform int8 EfficientNet-Lite0, whose five convolutions of
    stride 2 pad on two sides only, .60 of its float32 time with these nodes).
    """
    for node in list(graph):
        pads = _spatial_pads(node) if node.op_type == "Pad" else None
        readers = [reader for reader, _ in node.outputs[0].uses()]
        if pads is None or node.outputs[0].is_graph_output() or not all(map(_pads_by_itself, readers)):
            continue
        for reader in readers:
            own = reader.attributes.get_ints("pads", [0] * len(pads))
            reader.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, pads, strict=True)])
            reader.replace_input_with(0, node.inputs[0])
        graph.remove(node, safe=True)


def write_out_circular(graph: ir.Graph) -> None:
    """Write circular padding as the slices of both ends that it puts around a tensor: opsets below 19 and OpenVINO
    (seen in 2026.4) know no such Pad."""
    for node in list(graph):
        if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "wrap":
            continue
        x, amounts = node.inputs[0], _constant(node, 1)
        if x is None or amounts is None or min(amounts) < 0:
            continue
        n = len(amounts) // 2
        axes, result = _constant(node, 3) or list(range(n)), node.outputs[0]
        for axis, begin, end in zip(axes, amounts[:n], amounts[n:], strict=True):
            name = f"{result.name}.around{axis}"
            parts = [x]
            if begin:
                parts.insert(0, _slice(graph, node, x, axis, (-begin, LAST), f"{name}.before"))
            if end:
                parts.append(_slice(graph, node, x, axis, (0, end), f"{name}.behind"))
            if len(parts) > 1:
                x = _put_before(graph, node, "Concat", parts, name, axis=axis)
        x.shape, x.type = result.shape, result.type
        if result.is_graph_output():
            result.name, x.name = None, result.name
        ir.convenience.replace_all_uses_with(result, x, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _slice(
    graph: ir.Graph, before: ir.Node, x: ir.Value, axis: int, ends: tuple[int, int], name: str
) -> ir.Value:
    limits = []
    for what, number in zip(("start", "end", "axis"), (*ends, axis), strict=True):
        tensor = ir.tensor(np.asarray([number], np.int64), name=f"{name}.{what}")
        limits.append(ir.Value(
            name=tensor.name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)
        ))
        graph.register_initializer(limits[-1])
    return _put_before(graph, before, "Slice", [x, *limits], name)


def _put_before(
    graph: ir.Graph, before: ir.Node, operation: str, inputs: list[ir.Value], name: str, **attributes: int
) -> ir.Value:
    node = ir.node(operation, inputs, attributes)
    node.outputs[0].name, node.outputs[0].type = name, inputs[0].type
    graph.insert_before(before, node)
    return node.outputs[0]


def _constant(node: ir.Node, index: int) -> list[int] | None:
    """Of an input; None where it is computed or not given."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy().tolist()


def _spatial_pads(node: ir.Node) -> list[int] | None:
    """All begins, then all ends; None unless it pads spatial dimensions with zeros."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if node.attributes.get_string("mode", "constant") != "constant" or len(node.inputs) > 3:
        return None
    if value is not None and (value.const_value is None or value.const_value.numpy().any()):
        return None
    pads = _constant(node, 1)
    if pads is None:
        return None
    n = len(pads) // 2
    begins, ends = pads[:n], pads[n:]
    if any(begins[:N_OUTER] + ends[:N_OUTER]) or min(pads) < 0:
        return None
    return [*begins[N_OUTER:], *ends[N_OUTER:]]


def _pads_by_itself(node: ir.Node) -> bool:
    return node.op_type == "Conv" and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"

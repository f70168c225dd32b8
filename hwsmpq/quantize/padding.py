"""Padding with zeros as part of the convolution that reads it."""

from __future__ import annotations

import onnx_ir as ir

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


def _spatial_pads(node: ir.Node) -> list[int] | None:
    """All begins, then all ends; None unless it pads spatial dimensions with zeros."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if node.attributes.get_string("mode", "constant") != "constant" or len(node.inputs) > 3:
        return None
    if value is not None and (value.const_value is None or value.const_value.numpy().any()):
        return None
    amounts = node.inputs[1]
    if amounts is None or amounts.const_value is None:
        return None
    pads = amounts.const_value.numpy().tolist()
    n = len(pads) // 2
    begins, ends = pads[:n], pads[n:]
    if any(begins[:N_OUTER] + ends[:N_OUTER]) or min(pads) < 0:
        return None
    return [*begins[N_OUTER:], *ends[N_OUTER:]]


def _pads_by_itself(node: ir.Node) -> bool:
    return node.op_type == "Conv" and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"

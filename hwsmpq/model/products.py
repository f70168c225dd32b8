"""Matrix products with a stored matrix, written as the linear layers that they are."""

from __future__ import annotations

import torch
from torch import fx

from hwsmpq.model.constants import stored_tensors

ATEN = torch.ops.aten
PRODUCTS = {ATEN.addmm.default: 1, ATEN.mm.default: 0, ATEN.matmul.default: 0}
"""Operation -> which of its operands is multiplied; the next one is the matrix."""
VIEWS = {ATEN.view.default, ATEN._unsafe_view.default, ATEN.reshape.default}


def write_as_linear(graph: fx.GraphModule) -> None:
    """Replace x @ w and b + x @ w by linear layers, where w (inputs, outputs) and b (outputs,) come from stored tensors
    and x does not, in place. One between views that only merge and restore its dimensions works on the tensor itself.
    """
    stored = stored_tensors(graph)
    for node in list(graph.graph.nodes):
        if node.target not in PRODUCTS or node.kwargs:
            continue
        first = PRODUCTS[node.target]
        x, weight = node.args[first : first + 2]
        bias = node.args[0] if first else None
        if x in stored or weight not in stored or x.meta["val"].ndim < 2 or weight.meta["val"].ndim != 2:
            continue
        if bias is not None and (bias not in stored or bias.meta["val"].ndim != 1):
            continue
        with graph.graph.inserting_before(node):
            turned = graph.graph.call_function(ATEN.permute.default, (weight, [1, 0]))
            operands = (x, turned) if bias is None else (x, turned, bias)
            linear = graph.graph.call_function(ATEN.linear.default, operands)
        turned.meta["val"], linear.meta = weight.meta["val"].T, dict(node.meta)
        node.replace_all_uses_with(linear)
        graph.graph.erase_node(node)
        _take_whole_tensor(graph, linear)
    graph.recompile()


def _take_whole_tensor(graph: fx.GraphModule, linear: fx.Node) -> None:
    """Leave out views before and behind a layer, where those behind restore what the one before merged."""
    rows = linear.args[0]
    assert isinstance(rows, fx.Node)
    if rows.target not in VIEWS or not all(user.target in VIEWS for user in linear.users):
        return
    x = rows.args[0]
    assert isinstance(x, fx.Node)
    shape = _shape(x)
    if shape[-1:] != _shape(rows)[-1:] or any(_shape(u) != shape[:-1] + _shape(linear)[-1:] for u in linear.users):
        return
    linear.args = (x, *linear.args[1:])
    for user in list(linear.users):
        linear.meta["val"] = user.meta["val"]
        user.replace_all_uses_with(linear)
        graph.graph.erase_node(user)


def _shape(node: fx.Node) -> list[str]:
    """Sizes as expressions, which comparing does not bind to numbers."""
    return [str(size) for size in node.meta["val"].shape]

"""Graphs in functional operations.

Torch decomposes a graph by tracing it again through Python. Networks of common operations need three of these replaced
only: batch norm, flattening behind the batch, and dropout. What is left is as torch's own decomposition gives it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
KEPT = {
    aten.adaptive_avg_pool2d.default, aten.add.Tensor, aten.avg_pool2d.default, aten.cat.default, aten.conv1d.default,
    aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input, aten.gelu.default, aten.hardsigmoid.default,
    aten.hardswish.default, aten.hardtanh.default, aten.layer_norm.default, aten.leaky_relu.default,
    aten.linear.default, aten.max_pool2d.default, aten.mean.dim, aten.mul.Tensor, aten.pad.default, aten.relu.default,
    aten.relu6.default, aten.sigmoid.default, aten.silu.default, aten.sub.Tensor, aten.tanh.default,
}
"""Operations that torch's decomposition leaves as they are, and whose results share memory with no other tensor."""
VIEWS = {
    aten.expand.default, aten.permute.default, aten.select.int, aten.slice.Tensor, aten.transpose.int,
    aten.unsqueeze.default,
}
"""Those that it leaves as they are too, and whose results share memory with their operand."""


def decomposed(exported: torch.export.ExportedProgram) -> fx.GraphModule:
    """The graph of an export in functional operations."""
    take_out_of_place(exported.graph)
    return exported.run_decompositions({}).module(check_guards=False)  # type: ignore[no-any-return]


def replace(graph: fx.Graph) -> None:
    """Decompose common operations."""
    for node in list(graph.nodes):
        if node.target in REPLACED:
            with graph.inserting_before(node):
                REPLACED[node.target](graph, node)
            graph.erase_node(node)


def take_out_of_place(graph: fx.Graph) -> None:
    """Replace operations in place, where nothing else reads what they overwrite: torch would trace them again through
    Python."""
    for node in graph.nodes:
        name, _, overload = str(node.target).removeprefix("aten.").partition(".")
        if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
            continue
        overwritten, functional = next(iter(node.args), None), getattr(aten, name.removesuffix("_"), None)
        if not isinstance(overwritten, fx.Node) or list(overwritten.users) != [node]:
            continue
        fresh = overwritten.target in KEPT or overwritten.target is aten.batch_norm.default
        if fresh and hasattr(functional, overload):
            node.target = getattr(functional, overload)


def _batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, mean, variance, _, momentum, eps, _ = node.args
    norm = graph.call_function(
        aten._native_batch_norm_legit_no_training.default, (x, weight, bias, mean, variance, momentum, eps)
    )
    result = graph.call_function(operator.getitem, (norm, 0))
    norm.meta, result.meta = {**node.meta, "val": (node.meta["val"],)}, dict(node.meta)
    node.replace_all_uses_with(result)


def _flatten(graph: fx.Graph, node: fx.Node) -> None:
    """Behind the batch, whose size is that of the input."""
    batch = next((n for n in graph.nodes if n.target is aten.sym_size.int), None)
    source = next(n for n in graph.nodes if n.op == "placeholder")
    if batch is None:
        with graph.inserting_after(source):
            batch = graph.call_function(aten.sym_size.int, (source, 0))
        batch.meta["val"] = source.meta["val"].shape[0]
    view = graph.call_function(aten.view.default, (node.args[0], [batch, int(node.meta["val"].shape[1])]))
    view.meta = dict(node.meta)
    node.replace_all_uses_with(view)


def _dropout(graph: fx.Graph, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]


REPLACED: dict[Any, Callable[[fx.Graph, fx.Node], None]] = {
    aten.batch_norm.default: _batch_norm, aten.flatten.using_ints: _flatten, aten.dropout.default: _dropout,
    aten.dropout_.default: _dropout,
}


def is_common(node: fx.Node) -> bool:
    """Whether an operation stays, or is one that :func:`replace` decomposes."""
    if node.target is aten.flatten.using_ints:
        flattened = isinstance(node.args[0], fx.Node) and node.args[0].meta["val"].ndim > node.meta["val"].ndim
        return node.args[1:] in ((1,), (1, -1)) and flattened
    if node.target is aten.batch_norm.default:
        return not node.args[5]
    return node.target in KEPT or node.target in VIEWS or (node.target in REPLACED and not node.args[2])

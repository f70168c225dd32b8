"""Attention written as the products that it is: where they are layers, and over other than four dimensions, which
exporters do not know."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

ATEN = torch.ops.aten
N_DIMENSIONS = 4


def write_as_products(graph: fx.GraphModule, everywhere: bool = False) -> None:
    """Replace attention over windows, or without heads, or ``everywhere``, by softmax(scale * q @ k' + mask) @ v, in
    place."""
    for node in list(graph.graph.nodes):
        if node.target is not ATEN.scaled_dot_product_attention.default or node.kwargs.get("enable_gqa"):
            continue
        if everywhere or node.meta["val"].ndim != N_DIMENSIONS:
            with graph.graph.inserting_before(node):
                result = _products(graph.graph, node)
            node.replace_all_uses_with(result)
            graph.graph.erase_node(node)
    graph.recompile()


def _products(graph: fx.Graph, node: fx.Node) -> fx.Node:
    query, key, value, mask, _, is_causal = (*node.args, *(None, 0.0, False)[len(node.args) - 3 :])
    scale = node.kwargs.get("scale")
    assert isinstance(query, fx.Node) and isinstance(key, fx.Node)
    *_, n_queries, n_features = query.meta["val"].shape

    def call(operation: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A node of the same module, which knows what it gives."""
        values = fx.map_arg(args, lambda n: n.meta["val"])
        new = graph.call_function(operation, args, kwargs)
        with node.meta["val"].fake_mode:
            new.meta = {**node.meta, "val": operation(*values, **kwargs)}
        return new

    scaled = call(ATEN.mul.Tensor, query, 1 / math.sqrt(n_features) if scale is None else scale)
    scores = call(ATEN.matmul.default, scaled, call(ATEN.transpose.int, key, -2, -1))
    if is_causal:
        shape = [n_queries, key.meta["val"].shape[-2]]
        ones = call(ATEN.ones.default, shape, dtype=torch.bool, device=torch.device("cpu"))
        mask = call(ATEN.tril.default, ones)
    if isinstance(mask, fx.Node) and mask.meta["val"].dtype == torch.bool:
        scores = call(ATEN.masked_fill.Scalar, scores, call(ATEN.logical_not.default, mask), -math.inf)
    elif mask is not None:
        scores = call(ATEN.add.Tensor, scores, mask)
    return call(ATEN.matmul.default, call(ATEN.softmax.int, scores, -1), value)

"""Attention over other than four dimensions, which exporters do not know, written as the products that it is."""

from __future__ import annotations

import math

import torch
from torch import fx

ATEN = torch.ops.aten
N_DIMENSIONS = 4


def write_as_products(graph: fx.GraphModule) -> None:
    """Replace attention over windows, or without heads, by softmax(scale * q @ k' + mask) @ v, in place."""
    for node in list(graph.graph.nodes):
        if node.target is not ATEN.scaled_dot_product_attention.default or node.kwargs.get("enable_gqa"):
            continue
        if node.meta["val"].ndim != N_DIMENSIONS:
            with graph.graph.inserting_before(node):
                result = _products(graph.graph, node)
            result.meta = dict(node.meta)
            node.replace_all_uses_with(result)
            graph.graph.erase_node(node)
    graph.recompile()


def _products(graph: fx.Graph, node: fx.Node) -> fx.Node:
    query, key, value, mask, _, is_causal = (*node.args, *(None, 0.0, False)[len(node.args) - 3 :])
    scale = node.kwargs.get("scale")
    assert isinstance(query, fx.Node) and isinstance(key, fx.Node)
    *_, n_queries, n_features = query.meta["val"].shape
    scaled = graph.call_function(ATEN.mul.Tensor, (query, 1 / math.sqrt(n_features) if scale is None else scale))
    scores = graph.call_function(ATEN.matmul.default, (scaled, _turned(graph, key)))
    if is_causal:
        shape = [n_queries, key.meta["val"].shape[-2]]
        ones = graph.call_function(ATEN.ones.default, (shape,), {"dtype": torch.bool})
        mask = graph.call_function(ATEN.tril.default, (ones,))
    if is_causal or (isinstance(mask, fx.Node) and mask.meta["val"].dtype == torch.bool):
        out = graph.call_function(ATEN.logical_not.default, (mask,))
        out.meta = dict(mask.meta)
        scores = graph.call_function(ATEN.masked_fill.Scalar, (scores, out, -math.inf))
    elif mask is not None:
        scores = graph.call_function(ATEN.add.Tensor, (scores, mask))
    weights = graph.call_function(ATEN.softmax.int, (scores, -1))
    return graph.call_function(ATEN.matmul.default, (weights, value))


def _turned(graph: fx.Graph, key: fx.Node) -> fx.Node:
    return graph.call_function(ATEN.transpose.int, (key, -2, -1))

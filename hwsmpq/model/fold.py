"""Batch norm folded into the convolution or linear layer before it."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
FOLDABLE = {
    torch.ops.aten.conv1d.default: 0,
    torch.ops.aten.conv2d.default: 0,
    torch.ops.aten.conv3d.default: 0,
    torch.ops.aten.conv1d.padding: 0,
    torch.ops.aten.conv2d.padding: 0,
    torch.ops.aten.conv3d.padding: 0,
    torch.ops.aten.conv_transpose2d.input: 1,
    torch.ops.aten.linear.default: 0,
}
"""Operation -> output-channel axis of its weight."""


def get_tensor(graph: fx.GraphModule, target: str) -> Tensor:
    """The parameter or buffer that a ``get_attr`` node reads."""
    tensor: Tensor = operator.attrgetter(target)(graph)
    return tensor


def _set_parameter(graph: fx.GraphModule, target: str, value: Tensor) -> None:
    owner, _, name = target.rpartition(".")
    module = graph.get_submodule(owner)
    if name in dict(module.named_parameters(recurse=False)) or not hasattr(module, name):
        setattr(module, name, nn.Parameter(value, requires_grad=False))
    else:
        module.register_buffer(name, value)


def _n_readers(graph: fx.GraphModule, target: str) -> int:
    return sum(len(n.users) for n in graph.graph.nodes if n.op == "get_attr" and n.target == target)


def _bias_name(graph: fx.GraphModule, weight_target: str, bias_node: fx.Node | None) -> str:
    """Where the folded bias goes: the layer's own bias, or a new name if that is absent, shared or something else."""
    owner = weight_target.rpartition(".")[0]
    name = f"{owner}.bias".lstrip(".")
    if bias_node is not None and bias_node.target == name and _n_readers(graph, name) == 1:
        return name
    while hasattr(graph.get_submodule(owner), name.rpartition(".")[2]):
        name += "_folded"
    return name


def _grouped_transpose(node: fx.Node) -> bool:
    groups = node.args[6] if len(node.args) > 6 else 1
    return node.target is torch.ops.aten.conv_transpose2d.input and groups != 1


def fold_batch_norm(graph: fx.GraphModule) -> None:
    """Fold every batch norm that directly follows a foldable layer, in place (arithmetic in float64).

    One that follows anything else, or a layer whose output or weight is used elsewhere too, stays an operation.
    """
    for norm in [n for n in graph.graph.nodes if n.target is BATCH_NORM]:
        layer = norm.args[0]
        if layer.target not in FOLDABLE or len(layer.users) != 1 or _grouped_transpose(layer):
            continue
        weight_node = layer.args[1]
        bias_node = layer.args[2] if len(layer.args) > 2 else None
        stored = [n for n in (weight_node, bias_node, *norm.args[1:5]) if n is not None]
        if any(n.op != "get_attr" for n in stored) or _n_readers(graph, weight_node.target) != 1:
            continue
        weight = get_tensor(graph, weight_node.target).detach().double()
        mean, variance = (get_tensor(graph, norm.args[i].target).detach().double() for i in (3, 4))
        gamma = get_tensor(graph, norm.args[1].target).detach().double() if norm.args[1] else torch.ones_like(mean)
        beta = get_tensor(graph, norm.args[2].target).detach().double() if norm.args[2] else torch.zeros_like(mean)
        bias = get_tensor(graph, bias_node.target).detach().double() if bias_node else torch.zeros_like(mean)
        factor = gamma / torch.sqrt(variance + norm.args[6])
        shape = [1] * weight.ndim
        shape[FOLDABLE[layer.target]] = -1
        _set_parameter(graph, weight_node.target, (weight * factor.reshape(shape)).float())
        bias_target = _bias_name(graph, weight_node.target, bias_node)
        _set_parameter(graph, bias_target, ((bias - mean) * factor + beta).float())
        with graph.graph.inserting_before(layer):
            new_bias = graph.graph.get_attr(bias_target)
        layer.args = (*layer.args[:2], new_bias, *layer.args[3:])
        for getter in list(norm.users):
            getter.replace_all_uses_with(layer)
            graph.graph.erase_node(getter)
        graph.graph.erase_node(norm)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    used = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
    for name in [n for n, _ in (*graph.named_parameters(), *graph.named_buffers()) if n not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(graph.get_submodule(owner), leaf)
    graph.recompile()

"""Batch norm, and what else scales and shifts channels by constants, folded into the layer before it."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from hwsmpq.model.tensors import drop_unused, get_tensor, set_parameter
from hwsmpq.types import OPERATORS

BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
ARITHMETIC = {
    torch.ops.aten.mul.Tensor: lambda c: (c, torch.zeros_like(c)),
    torch.ops.aten.div.Tensor: lambda c: (1 / c, torch.zeros_like(c)),
    torch.ops.aten.add.Tensor: lambda c: (torch.ones_like(c), c),
    torch.ops.aten.sub.Tensor: lambda c: (torch.ones_like(c), -c),
}
"""Operation with a constant a channel -> the factor and the offset of that channel."""
COMMUTATIVE = {torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor}


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


def fold_batch_norm(graph: fx.GraphModule) -> None:
    """Fold what scales and shifts the output channels of a layer by constants into the layer, in place (in float64).

    That is every batch norm that directly follows a layer, and additions and multiplications of one constant a channel
    (a frozen batch norm, the scale of a residual branch). One that follows anything else, runs along another axis than
    the layer's channels, or follows a layer whose output or weight is used elsewhere too, stays an operation.
    """
    for node in list(graph.graph.nodes):
        if node.target is BATCH_NORM:
            layer, constants = node.args[0], _of_norm
        elif node.target in ARITHMETIC and len(node.args) == 2 and not node.kwargs:
            swapped = node.target in COMMUTATIVE and not _is_layer(node.args[0])
            layer, constants = node.args[1 if swapped else 0], _of_arithmetic
        else:
            continue
        if not _is_layer(layer) or len(layer.users) != 1 or not _is_stored(graph, layer):
            continue
        found = constants(graph, node, layer)
        if found is None:
            continue
        _fold(graph, layer, *found)
        for reader in list(node.users) if node.target is BATCH_NORM else [node]:
            reader.replace_all_uses_with(layer)
            graph.graph.erase_node(reader)
        if node.target is BATCH_NORM:
            graph.graph.erase_node(node)
    drop_unused(graph)


def _is_layer(node: object) -> bool:
    return isinstance(node, fx.Node) and str(node.target) in OPERATORS


def _is_stored(graph: fx.GraphModule, layer: fx.Node) -> bool:
    """Whether weight and bias are the graph's own, and the weight this layer's alone."""
    stored = [n for n in layer.args[1:3] if n is not None]
    return all(isinstance(n, fx.Node) and n.op == "get_attr" for n in stored) and (
        _n_readers(graph, str(stored[0].target)) == 1  # type: ignore[union-attr]
    )


def _channels(layer: fx.Node) -> tuple[int, int, int]:
    """Dimensions of a layer's result, which of them holds the channels, and how many these are."""
    shape = layer.meta["val"].shape
    axis = OPERATORS[str(layer.target)].result_axis % len(shape)
    return len(shape), axis, int(shape[axis])


def _of_norm(graph: fx.GraphModule, norm: fx.Node, layer: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Factor and offset of every channel, (n_channels,) each."""
    if _channels(layer)[1] != 1:
        return None
    gamma, beta, mean, variance = (None if n is None else _constant(graph, n) for n in norm.args[1:5])
    if mean is None or variance is None:
        return None
    factor = (1.0 if gamma is None else gamma) / torch.sqrt(variance + norm.args[6])
    return factor, (0.0 if beta is None else beta) - mean * factor


def _of_arithmetic(graph: fx.GraphModule, node: fx.Node, layer: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Factor and offset of every channel, (n_channels,) each; None unless the other operand is a constant of these."""
    other = node.args[1] if node.args[0] is layer else node.args[0]
    n_dims, axis, n_channels = _channels(layer)
    value = other.meta.get("val") if isinstance(other, fx.Node) else None
    if other is layer or not isinstance(value, Tensor) or value.ndim > n_dims:
        return None
    wanted = [1] * n_dims
    wanted[axis] = n_channels
    if [1] * (n_dims - value.ndim) + list(value.shape) != wanted:
        return None
    constant = _constant(graph, other)
    return None if constant is None else ARITHMETIC[node.target](constant.flatten())


def _constant(graph: fx.GraphModule, node: object) -> Tensor | None:
    """A stored tensor in float64; None for anything else."""
    stored = isinstance(node, fx.Node) and node.op == "get_attr"
    return get_tensor(graph, str(node.target)).detach().double() if stored else None


def _fold(graph: fx.GraphModule, layer: fx.Node, factor: Tensor, offset: Tensor) -> None:
    weight_node, bias_node = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    assert isinstance(weight_node, fx.Node) and (bias_node is None or isinstance(bias_node, fx.Node))
    weight = get_tensor(graph, str(weight_node.target)).detach().double()
    bias = get_tensor(graph, str(bias_node.target)).detach().double() if bias_node else torch.zeros_like(factor)
    if OPERATORS[str(layer.target)].weight_axis == 0:
        factors = factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # (inputs, outputs of one group of channels, ...)
        groups = factor.reshape(-1, weight.shape[1])
        factors = groups.repeat_interleave(len(weight) // len(groups), 0).reshape(
            *weight.shape[:2], *[1] * (weight.ndim - 2)
        )
    set_parameter(graph, str(weight_node.target), (weight * factors).float())
    bias_target = _bias_name(graph, str(weight_node.target), bias_node)
    set_parameter(graph, bias_target, (bias * factor + offset).float())
    with graph.graph.inserting_before(layer):
        new_bias = graph.graph.get_attr(bias_target)
    layer.args = (*layer.args[:2], new_bias, *layer.args[3:])

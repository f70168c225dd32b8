"""What a graph computes from stored tensors alone, computed once and stored: so normalized, standardized and sliced
weights are weights of layers."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map_only

from hwsmpq.model.tensors import drop_unused, get_tensor, set_parameter

LARGEST_GROWTH = 2**18
"""Elements of a result that is larger than what it is computed from: tables that are looked up are stored, tensors that
are repeated are not."""
PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.(\w+)\..*")


def fold_constants(graph: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """Store every result that depends on stored tensors alone and that something else reads, in place.

    They are computed in float64 and rounded once. A result has the name of the first tensor that it is made from (the
    name that a parametrized tensor has for its module), with a number where others have that name.

    Returns:
        The names of the tensors that each was made from, by its own.
    """
    constants = _Constants(graph)
    values, sources = constants.values, constants.sources
    found = [
        node for node, value in values.items()
        if isinstance(value, Tensor) and node.op != "get_attr" and sources[node] and not values.keys() >= {*node.users}
    ]
    taken = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr" and not values.keys() >= {*n.users}}
    made_from = {}
    for node in found:
        name = target = PARAMETRIZED.sub(r"\1\2", sources[node][0])
        copy = 0
        while target in taken:
            copy += 1
            target = f"{name}_{copy}"
        taken.add(target)
        made_from[target] = sources[node]
        set_parameter(graph, target, values[node].to(node.meta["val"].dtype).contiguous())
        with graph.graph.inserting_before(node):
            stored = graph.graph.get_attr(target)
        stored.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(stored, delete_user_cb=lambda user: user not in values)
    drop_unused(graph)
    return made_from


class _Constants:
    """What depends on stored tensors alone.

    Attributes:
        values: results by node, floats in float64 (stored tensors as they are).
        sources: names of the stored tensors that a result is made from.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.sources: dict[fx.Node, tuple[str, ...]] = {}
        written = {n.args[0] for n in graph.graph.nodes if _is_operation(n) and n.target._schema.is_mutable}
        for node in graph.graph.nodes:
            operands = node.all_input_nodes
            if node.op == "get_attr" and node not in written:
                tensor = get_tensor(graph, str(node.target))
                if isinstance(tensor, Tensor):
                    self.values[node] = tensor.detach()
                    self.sources[node] = (str(node.target),)
            elif is_deterministic(node) and all(n in self.values for n in operands):
                self._compute(node, operands)

    def _compute(self, node: fx.Node, operands: list[fx.Node]) -> None:
        exact = {n: tree_map_only(Tensor, _exact, self.values[n]) for n in operands}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), exact.__getitem__)
        value = node.target(*args, **kwargs)  # type: ignore[operator]
        if _largest(value) <= max(LARGEST_GROWTH, *(_largest(self.values[n]) for n in operands), 0):
            self.values[node] = value
            self.sources[node] = tuple(dict.fromkeys(name for n in operands for name in self.sources[n]))


def _exact(x: Tensor) -> Tensor:
    return x.double() if x.dtype == torch.float32 else x


def _is_operation(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def stored_tensors(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose results are made from stored tensors alone."""
    return {node for node, sources in _Constants(graph).sources.items() if sources}


def is_deterministic(node: fx.Node) -> bool:
    """Whether a node computes the same for the same operands, and changes none of them."""
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True  # of Python, such as taking an item
    return not node.target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in node.target.tags


def _largest(value: Any) -> int:
    """Elements of the largest tensor in a result."""
    return max((x.numel() for x in tree_leaves(value) if isinstance(x, Tensor)), default=0)

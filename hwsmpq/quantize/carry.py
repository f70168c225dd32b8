"""Where tensors in bf16 are rounded, on targets that carry them from layer to layer.

In bf16 is the result of a layer in bf16, and of an operation that reads only such results. It is rounded when it is
written to memory, not where the runtime computes on in the same kernel: when one elementwise operation reads it, or
only layers which quantize it. What operations make of the last layer's result stays in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from hwsmpq.model.capture import Captured

ATEN = torch.ops.aten
ELEMENTWISE = {
    ATEN.relu.default, ATEN.relu6.default, ATEN.hardtanh.default, ATEN.clamp.default, ATEN.silu.default,
    ATEN.gelu.default, ATEN.hardswish.default, ATEN.hardsigmoid.default, ATEN.sigmoid.default, ATEN.tanh.default,
    ATEN.leaky_relu.default, ATEN.elu.default, ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor,
}

LINEAR = {ATEN.linear.default}


@dataclass(frozen=True)
class Carry:
    """What decides whether a result is rounded to bf16.

    Attributes:
        sources: groups that must all be in bf16 for it; never where there are none.
        is_written: whether it is then rounded, whatever reads it.
    """

    sources: frozenset[str] = frozenset()
    is_written: bool = False


def carries_of(captured: Captured) -> dict[fx.Node, Carry]:
    """Of every operation of a captured network."""
    groups = {captured.layer_nodes[x.name]: captured.network.group_of(x.name) for x in captured.network.layers}
    return _carries([n for n in captured.graph.graph.nodes if n.op == "call_function"], groups)


def _carries(nodes: Collection[fx.Node], group_of: Mapping[fx.Node, str]) -> dict[fx.Node, Carry]:
    """``group_of`` has the operations that are layers."""
    sources: dict[fx.Node, frozenset[str]] = {}
    constants: set[fx.Node] = set()
    for node in nodes:
        read = [n for n in node.all_input_nodes if n.op != "get_attr" and n not in constants]
        if not read:
            constants.add(node)
        known = [sources.get(n, frozenset()) for n in read]
        of_others = frozenset[str]().union(*known) if all(known) else frozenset[str]()
        sources[node] = frozenset({group_of[node]}) if node in group_of else of_others
    precedes_layer: set[fx.Node] = set()
    for node in reversed(list(nodes)):
        if node in group_of or node in precedes_layer:
            precedes_layer.update(node.all_input_nodes)

    def is_written(node: fx.Node) -> bool:
        others = [user for user in node.users if user not in group_of]
        if node not in precedes_layer:
            adds_in_bf16 = node.target not in LINEAR and len(node.args) > 2 and isinstance(node.args[2], fx.Node)
            return node in group_of and (adds_in_bf16 or any(user.op == "call_function" for user in others))
        return bool(others) and not (len(node.users) == 1 and others[0].target in ELEMENTWISE)

    return {node: Carry(sources[node], is_written(node)) for node in nodes if sources[node]}

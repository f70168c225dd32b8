"""Blocks of a network: what lies between tensors that everything passes through (Li et al. 2021, arXiv 2102.05426).

They are found from the graph alone, so that a residual block is one whatever its module is called.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from hwsmpq.model.runner import Compute, as_captured
from hwsmpq.model.tensors import get_tensor

MOST_MERGED = 3
"""Layers of neighbouring segments that become one block: in a chain, where every tensor is a cut, a block of one layer
leaves no room for one rounding to make good another."""


@dataclass(frozen=True, eq=False)
class Block:
    """Operations from one cut to the next.

    Attributes:
        nodes: in order; among them what depends on inputs of the network but on no layer, such as masks.
        source: the cut that they start from; None in the first block.
        outputs: the cut at their end; in the last block, the tensors that the network gives.
        layers: nodes of the layers among them, by name.
    """

    nodes: tuple[fx.Node, ...]
    source: fx.Node | None
    outputs: tuple[fx.Node, ...]
    layers: tuple[str, ...]

    def run(
        self, graph: fx.GraphModule, env: Mapping[str, Any], compute: Compute = as_captured
    ) -> tuple[Tensor, ...]:
        """Its outputs in floating point.

        Args:
            graph: gives parameters and buffers.
            env: values of the network's inputs and of ``source``, by name.
        """
        values = dict(env)

        def value(node: fx.Node) -> Any:
            return values[node.name]

        for node in self.nodes:
            if node.op == "get_attr":
                values[node.name] = get_tensor(graph, str(node.target))
            else:
                args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
                values[node.name] = compute(node, args, kwargs)
        outputs = [values[node.name] for node in self.outputs]
        return tuple(y for y in outputs if isinstance(y, Tensor) and y.is_floating_point())


def blocks_of(graph: fx.GraphModule, layers: set[str]) -> tuple[Block, ...]:
    """Blocks in order; every layer lies in one of them.

    Args:
        layers: names of the nodes that are layers.
    """
    cuts = _cuts(graph, layers)
    last = next(node for node in graph.graph.nodes if node.op == "output").all_input_nodes
    blocks: list[Block] = []
    source: fx.Node | None = None
    for outputs in (*((cut,) for cut in cuts), tuple(last)):
        if outputs == (source,):
            break
        block = _between(graph, source, outputs, layers)
        if blocks and len(blocks[-1].layers) + len(block.layers) <= MOST_MERGED:
            block = _between(graph, blocks.pop().source, outputs, layers)
        blocks.append(block)
        source = outputs[0]
    return tuple(blocks)


def _cuts(graph: fx.GraphModule, layers: set[str]) -> list[fx.Node]:
    """Tensors that are all that later operations read of what layers computed before."""
    computed: set[fx.Node] = set()
    readers: dict[fx.Node, int] = {}
    alive: set[fx.Node] = set()
    cuts = []
    for node in graph.graph.nodes:
        operands = [n for n in node.all_input_nodes if n in computed]
        if node.op != "call_function" or not (operands or node.name in layers):
            continue
        for operand in operands:
            readers[operand] -= 1
            if not readers[operand]:
                alive.discard(operand)
        computed.add(node)
        readers[node] = len(node.users)
        alive.add(node)
        is_tuple = any(user.target is operator.getitem for user in node.users)
        if alive == {node} and not is_tuple:
            cuts.append(node)
    return cuts


def _between(
    graph: fx.GraphModule, source: fx.Node | None, outputs: tuple[fx.Node, ...], layers: set[str]
) -> Block:
    needed, waiting = set[fx.Node](), list(outputs)
    while waiting:
        node = waiting.pop()
        if node is source or node in needed:
            continue
        needed.add(node)
        waiting.extend(node.all_input_nodes)
    nodes = tuple(node for node in graph.graph.nodes if node in needed and node.op != "placeholder")
    return Block(nodes, source, outputs, tuple(node.name for node in nodes if node.name in layers))

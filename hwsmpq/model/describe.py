"""The description of a captured graph: layers, groups, and the tensors that layers read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.tensors import get_tensor
from hwsmpq.types import OPERATORS, PRODUCTS, READ_SIZES, Group, Kind, Layer, Read

PRODUCT = "product"
"""Ends the name of a product, behind the module that multiplies."""


class ValueShapes:
    """Keeps the shape of every tensor, the bytes they take together, and which nodes carry data (tensors or several of
    them, but not sizes)."""

    def __init__(self) -> None:
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.data: set[fx.Node] = set()
        self.n_bytes = 0

    def see(self, node: fx.Node, args: tuple[Any, ...], result: object) -> None:
        if isinstance(result, Tensor | tuple | list):
            self.data.add(node)
        if isinstance(result, Tensor):
            self.shapes[node] = tuple(result.shape)
            if node.op == "call_function":
                self.n_bytes += result.numel() * result.element_size()


def layer_nodes(graph: fx.GraphModule, values: ValueShapes, kinds: Collection[Kind]) -> dict[str, fx.Node]:
    """Operations that multiply what depends on the inputs (on more than how many samples they are) by a stored weight,
    or by what depends on them too. Runtimes compute others when they load the network."""
    nodes: dict[str, fx.Node] = {}
    varying: set[fx.Node] = set()
    for node in graph.graph.nodes:
        reads_data = node in values.data and str(node.target) not in READ_SIZES
        if node.op == "placeholder" or (reads_data and not varying.isdisjoint(node.all_input_nodes)):
            varying.add(node)
        is_product = "product" in kinds and str(node.target) in PRODUCTS
        if not (is_product or str(node.target) in OPERATORS) or node.args[0] not in varying:
            continue
        second = node.args[1]
        assert isinstance(second, fx.Node)
        if second in varying if is_product else second.op == "get_attr":
            target = f"{_module_of(node)}.{PRODUCT}.".lstrip(".") if is_product else str(second.target)
            owner = target.rpartition(".")[0] or target
            name, copy = owner, 1
            while name in nodes:
                copy += 1
                name = f"{owner}#{copy}"
            nodes[name] = node
    return nodes


def _module_of(node: fx.Node) -> str:
    """The path of the module that an operation is of; empty for the whole network."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def layer_of_node(
    name: str, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]], graph: fx.GraphModule, stored: set[str],
    kept: set[str], n_rows: int,
) -> Layer:
    """Describe one layer, of ``n_rows`` samples in ``shapes``. Tensors that an earlier layer has ``stored`` count no
    weights or biases again. Weights that are ``kept`` are read by other operations too."""
    source, weight_node = node.args[0], node.args[1]
    assert isinstance(source, fx.Node) and isinstance(weight_node, fx.Node)
    if str(node.target) in PRODUCTS:
        return _product(name, node, source, weight_node, shapes, n_rows)
    weight = get_tensor(graph, str(weight_node.target))
    operator = OPERATORS[str(node.target)]
    output_shape = shapes[node]
    # Every weight of one output channel meets every position of the output once (of the input, when transposed).
    positions_shape, per_position = (shapes[source], weight.shape[0]) if operator.kind == "conv_transpose" else (
        output_shape, weight.shape[0],
    )
    positions = int(torch.Size(positions_shape).numel()) // per_position // n_rows
    bias = node.args[2] if len(node.args) > 2 else None

    def n_new(tensor: object) -> int:
        if not isinstance(tensor, fx.Node) or tensor.op != "get_attr" or str(tensor.target) in stored:
            return 0
        stored.add(str(tensor.target))
        return get_tensor(graph, str(tensor.target)).numel()

    n_weights = n_new(weight_node)
    return Layer(
        name=name,
        kind=operator.kind,
        weight_name=str(weight_node.target),
        weight_shape=tuple(weight.shape),
        channel_axis=operator.weight_axis,
        input_tensor=source.name,
        input_shape=shapes[source][1:],
        output_shape=output_shape[1:],
        n_macs=positions * weight.numel(),
        n_weights=n_weights,
        n_biases=n_new(bias),
        n_kept=n_weights if weight_node.target in kept else 0,
    )


def kept_weights(graph: fx.GraphModule) -> set[str]:
    """Tensors that something else reads than layers as their weight."""
    return {
        str(n.target) for n in graph.graph.nodes if n.op == "get_attr"
        and any(str(user.target) not in OPERATORS or user.args[1] is not n for user in n.users)
    }


def _product(
    name: str, node: fx.Node, first: fx.Node, second: fx.Node, shapes: dict[fx.Node, tuple[int, ...]], n_rows: int
) -> Layer:
    return Layer(
        name=name,
        kind="product",
        weight_name="",
        weight_shape=(),
        channel_axis=0,
        input_tensor=first.name,
        input_shape=shapes[first][1:],
        output_shape=shapes[node][1:],
        n_macs=int(torch.Size(shapes[node]).numel()) * shapes[first][-1] // n_rows,
        n_weights=0,
        n_biases=0,
        operand_tensor=second.name,
        operand_shape=shapes[second][1:],
    )


def groups_of(layers: tuple[Layer, ...], ties: tuple[tuple[str, ...], ...]) -> tuple[Group, ...]:
    """Union of layers that read one tensor, share one weight, or were tied; named by the first layer."""
    known = {layer.name for layer in layers}
    for tie in ties:
        for name in tie:
            if name not in known:
                raise HwsmpqError(f"tied layer {name!r} does not exist", fix="`hwsmpq inspect` lists the layers")
    keys = {
        layer.name: {*layer.tensors, *([f"weight {layer.weight_name}"] if layer.has_weight else [])} for layer in layers
    }
    for i, tie in enumerate(ties):
        for name in tie:
            keys[name].add(f"tie {i}")
    merged: list[tuple[set[str], list[str]]] = []
    for layer in layers:
        found, members = set(keys[layer.name]), [layer.name]
        for other in [m for m in merged if m[0] & found]:
            merged.remove(other)
            found |= other[0]
            members = other[1] + members
        merged.append((found, members))
    position = {layer.name: i for i, layer in enumerate(layers)}
    ordered = sorted((sorted(members, key=position.__getitem__) for _, members in merged), key=lambda m: position[m[0]])
    return tuple(Group(members[0], tuple(members)) for members in ordered)


def reads_of(
    graph: fx.GraphModule, layers: tuple[Layer, ...], nodes: dict[str, fx.Node], values: ValueShapes, n_rows: int
) -> tuple[Read, ...]:
    """The tensors that layers read, in order of their first reader; see :class:`hwsmpq.types.Read`."""
    names = list(nodes)
    layer_of = {node: place for place, node in enumerate(nodes.values())}
    writers: dict[fx.Node, int] = {}  # places of layers, -1 for inputs; constants have none

    def n_elements(node: fx.Node) -> int:
        return int(torch.Size(values.shapes.get(node, (0,))).numel()) // n_rows

    for node in graph.graph.nodes:
        operands = [n for n in node.all_input_nodes if n in writers]
        if node in layer_of or node.op == "placeholder":
            writers[node] = layer_of.get(node, -1)
        elif operands and node in values.data:
            writers[node] = max((n_elements(n), writers[n]) for n in operands)[1]
    tensors = {node.name: node for node in graph.graph.nodes}
    found: dict[str, Read] = {}
    for layer in layers:
        for name in layer.tensors:
            tensor = tensors[name]
            place = writers.get(tensor, -1)
            found.setdefault(name, Read(name, names[place] if place >= 0 else None, n_elements(tensor)))
    return tuple(found.values())

"""Capture: torch.export to a functional graph, batch norm folded, layers and groups found."""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.attention import write_as_products
from hwsmpq.model.constants import fold_constants
from hwsmpq.model.coverage import Parameters
from hwsmpq.model.decompose import decomposed
from hwsmpq.model.faithful import check_faithful
from hwsmpq.model.fold import fold_batch_norm
from hwsmpq.model.inputs import call
from hwsmpq.model.outputs import OutputForm, register, take_flat_outputs
from hwsmpq.model.parts import tensors_sha256
from hwsmpq.model.products import write_as_linear
from hwsmpq.model.refusals import cannot_be_exported, check_module, does_not_run
from hwsmpq.model.runner import GraphRunner
from hwsmpq.model.state import State, evaluating
from hwsmpq.model.tensors import get_tensor, set_parameter
from hwsmpq.types import OPERATORS, Group, Layer, Network, Read

EXPORT_BATCH = 2
LAYOUT_FREE = {
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default,
}
"""A view of a tensor as it was exported need not be one of the same tensor in another layout: in channels_last, in
which the simulator runs, or as another kernel of attention lays it out."""

Ports = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of inputs and of outputs."""


@dataclass(frozen=True, eq=False)
class Captured:
    """A network with the graph that runs it.

    Attributes:
        network: layers, groups and reads (plain data).
        graph: functional aten graph with batch norm folded; one placeholder an input of the model, all positional. It
            gives the tensors that hold a row a sample, one by itself.
        layer_nodes: layer name -> its node in ``graph``.
        example: one row of every input.
        activation_bytes: bytes that all intermediate tensors of one sample take together.
        form: how the model arranges the tensors that ``graph`` gives.
        takes_one: whether ``graph`` takes one sample at a time, as the model does; else any number together.
        ports: names of inputs and of outputs in the file that the model was read from; empty without one.
    """

    network: Network
    graph: fx.GraphModule
    layer_nodes: dict[str, fx.Node]
    example: tuple[Tensor, ...]
    activation_bytes: int
    form: OutputForm
    takes_one: bool = False
    ports: Ports = ((), ())

    def at_once(self, n: int) -> int:
        """How many of ``n`` samples the graph takes together."""
        return 1 if self.takes_one else n

    def weight_of(self, layer: Layer) -> Tensor:
        return get_tensor(self.graph, layer.weight_name).detach()

    def bias_of(self, layer: Layer) -> Tensor | None:
        """The bias that a layer adds; None if it has none."""
        args = self.layer_nodes[layer.name].args
        bias = args[2] if len(args) > 2 else None
        stored = isinstance(bias, fx.Node) and bias.op == "get_attr"
        return get_tensor(self.graph, str(bias.target)).detach() if stored else None  # type: ignore[union-attr]

    def with_ties(self, ties: Iterable[tuple[str, ...]]) -> Captured:
        """The same with one group for all groups that hold layers of one tie.

        Raises:
            HwsmpqError: a tied layer does not exist.
        """
        ties = (*self.network.ties, *ties)
        return replace(self, network=replace(self.network, ties=ties, groups=_groups(self.network.layers, ties)))

    def with_least_bits(self, least_weight_bits: int) -> Captured:
        """The same, for a target whose files hold quantized weights in that many bits or more."""
        return replace(self, network=replace(self.network, least_weight_bits=least_weight_bits))

    def with_excluded(self, excluded: dict[str, str]) -> Captured:
        """The same with groups that stay in one precision."""
        return replace(self, network=replace(self.network, excluded=excluded))

    def with_substitutes(self, substitutes: dict[str, dict[str, str]]) -> Captured:
        """The same, for a target that runs other precisions than those asked for; see :class:`hwsmpq.types.Network`."""
        return replace(self, network=replace(self.network, substitutes=substitutes))

    def with_weights(self, weights: dict[str, Tensor]) -> Captured:
        """The same network with other values of its parameters, by their name in ``graph``.

        It keeps the hash of the network that it was made from.
        """
        graph = copy.deepcopy(self.graph)
        for name, value in weights.items():
            get_tensor(graph, name).data.copy_(value)
        nodes = {node.name: node for node in graph.graph.nodes}
        return replace(
            self, graph=graph, layer_nodes={name: nodes[node.name] for name, node in self.layer_nodes.items()}
        )


def capture(
    model: nn.Module, example: tuple[Tensor, ...], names: tuple[str, ...] = (), ports: Ports = ((), ())
) -> Captured:
    """Capture a model. One that runs on a single sample and not on two, as exporters write them, is captured for one.

    Args:
        model: in eval mode or not (it is captured in eval mode); left unchanged.
        example: input tensors with at least one row; the graph is compared with the model on the first of them.
        names: of the arguments that they are; positional where there are none.
        ports: see :class:`Captured`.

    Raises:
        HwsmpqError: the model cannot be exported (names the operation), is not float32, has no quantizable layer, or
            its graph computes something else than the model does for every sample, alone or in a batch.
    """
    check_module(model)
    _check_dtype(model)
    with evaluating(model) as state:
        try:
            rows, outputs, graph = _exported(model, example, names, state, EXPORT_BATCH)
        except _FixedBatch as fixed:
            try:
                rows, outputs, graph = _exported(model, example, names, state, 1)
            except HwsmpqError:
                raise fixed from fixed.__cause__
        n_rows = len(rows[0])
        state.restore()  # an export leaves its own tensors behind
        parameters = Parameters.of(model, graph)
        write_as_products(graph)
        write_as_linear(graph)
        sources = fold_constants(graph)
        fold_batch_norm(graph)
        model_sha256 = _hash(graph)
        _take_layout_free(graph)
        form = take_flat_outputs(graph, outputs)
        check_faithful(
            type(model).__name__, lambda inputs: form.batched(call(model, inputs, names)), graph,
            example if n_rows > 1 else tuple(x[:1] for x in example),
        )
    values = _ValueShapes()
    with torch.no_grad():
        GraphRunner(graph, values.see).run(*rows)
    nodes = _layer_nodes(graph, values)
    if not nodes:
        raise HwsmpqError(
            f"{type(model).__name__} has no convolution or linear layer to quantize",
            fix="check that the right module was given",
        )
    stored: set[str] = set()
    layers = tuple(_layer(name, node, values.shapes, graph, stored, n_rows) for name, node in nodes.items())
    network = Network(
        model_sha256=model_sha256,
        layers=layers,
        groups=_groups(layers, ()),
        reads=_reads(graph, nodes, values, n_rows),
        n_other_params=sum(p.numel() for n, p in graph.state_dict().items() if n not in stored),
        coverage=parameters.coverage([layer.weight_name for layer in layers], sources),
    )
    example = tuple(x[:1].clone() for x in rows)
    return Captured(network, graph, nodes, example, values.n_bytes // n_rows, form, n_rows == 1, ports)


def _exported(
    model: nn.Module, example: tuple[Tensor, ...], names: tuple[str, ...], state: State, n_rows: int
) -> tuple[tuple[Tensor, ...], Any, fx.GraphModule]:
    """Copies of a sample, what the model gives for them, and its graph."""
    rows = tuple(x[:1].expand(n_rows, *x.shape[1:]).contiguous() for x in example)
    return rows, _run_once(model, rows, names, state), _export(model, rows, names)


def _check_dtype(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise HwsmpqError(
                f"{type(model).__name__} holds {tensor.dtype} tensors ({name})",
                "quantization starts from the float32 network", "convert it with model.float(), and its inputs too",
            )


def _run_once(model: nn.Module, rows: tuple[Tensor, ...], names: tuple[str, ...], state: State) -> Any:
    """What the model gives. It is left as it was in ``state``, but for what it kept of calls with other inputs.

    Raises:
        HwsmpqError: it does not run on these inputs, or on a single sample only.
    """

    def run(n: int) -> Any:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return call(model, tuple(x[:n].clone() for x in rows), names)

    try:
        outputs = run(len(rows[0]))
    except Exception as error:
        if len(rows[0]) > 1 and _runs(run, 1):
            raise _fixed_batch(model, f"it runs on one sample, and not on two: {str(error).strip()[:300]}") from error
        raise does_not_run(model, rows, names, error) from error
    caches = state.changed()
    with suppress(Exception):  # the check of the graph says what is wrong with a sample alone
        run(1)
    caches += state.changed()
    state.forget(caches)
    state.restore()
    register(outputs)
    return outputs


def _runs(run: Callable[[int], Any], n: int) -> bool:
    try:
        run(n)
    except Exception:
        return False
    return True


class _FixedBatch(HwsmpqError):
    """A model takes no number of samples but one."""


def _fixed_batch(model: nn.Module, why: str) -> _FixedBatch:
    return _FixedBatch(
        f"{type(model).__name__} fixes the batch size", why,
        "keep dimension 0 of inputs and outputs free: take sizes from x.shape[0], not from a constant",
    )


def _export(model: nn.Module, rows: tuple[Tensor, ...], names: tuple[str, ...]) -> fx.GraphModule:
    batch = tuple({0: torch.export.Dim("batch", min=1, max=1 << 20)} for _ in rows)
    args, kwargs = ((), dict(zip(names, rows, strict=True))) if names else (rows, {})
    shapes = dict(zip(names, batch, strict=True)) if names else _as_taken(model, batch)
    if len(rows[0]) == 1:
        shapes = None
    try:
        # Torch prints the graph of a failed export; the error below says what failed in one message.
        with redirect_stderr(io.StringIO()):
            exported = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
        graph = decomposed(exported)
    except Exception as error:
        text = str(error).strip()
        if "Constraints violated" in text:
            reasons = [line.strip(" -") for line in text.splitlines() if "batch" in line and "violated" not in line]
            raise _fixed_batch(model, reasons[0].split(". ")[0] if reasons else text[:300]) from error
        raise cannot_be_exported(model, error) from error
    for node in list(graph.graph.nodes):
        if "assert" in str(node.target) and not node.users:
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    # Torch picks kernels of attention by whether gradients are wanted, and their layouts differ.
    for name, parameter in list(graph.named_parameters()):
        set_parameter(graph, name, parameter.detach())
    return graph


def _as_taken(model: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """One a parameter of ``forward``; what ``*inputs`` takes is together, if it takes any."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    n = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_POSITIONAL), len(shapes))
    return (*shapes[:n], shapes[n:]) if n < len(shapes) else shapes


def _take_layout_free(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        node.target = LAYOUT_FREE.get(node.target, node.target)
    graph.recompile()


class _ValueShapes:
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


def _layer_nodes(graph: fx.GraphModule, values: _ValueShapes) -> dict[str, fx.Node]:
    """Operations that multiply what depends on the inputs (on more than how many samples they are) by a stored weight.
    Runtimes compute others when they load the network."""
    nodes: dict[str, fx.Node] = {}
    varying: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or (node in values.data and not varying.isdisjoint(node.all_input_nodes)):
            varying.add(node)
        if str(node.target) not in OPERATORS or node.args[0] not in varying:
            continue
        if isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr":
            owner = str(node.args[1].target).rpartition(".")[0] or str(node.args[1].target)
            name, copy = owner, 1
            while name in nodes:
                copy += 1
                name = f"{owner}#{copy}"
            nodes[name] = node
    return nodes


def _layer(
    name: str, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]], graph: fx.GraphModule, stored: set[str],
    n_rows: int,
) -> Layer:
    """Describe one layer, of ``n_rows`` samples in ``shapes``. Tensors that an earlier layer has ``stored`` count no
    weights or biases again."""
    source, weight_node = node.args[0], node.args[1]
    assert isinstance(source, fx.Node) and isinstance(weight_node, fx.Node)
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

    same = [n for n in graph.graph.nodes if n.op == "get_attr" and n.target == weight_node.target]
    is_kept = any(str(user.target) not in OPERATORS or user.args[1] is not n for n in same for user in n.users)
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
        n_kept=n_weights if is_kept else 0,
    )


def _groups(layers: tuple[Layer, ...], ties: tuple[tuple[str, ...], ...]) -> tuple[Group, ...]:
    """Union of layers that read one tensor, share one weight, or were tied; named by the first layer."""
    known = {layer.name for layer in layers}
    for tie in ties:
        for name in tie:
            if name not in known:
                raise HwsmpqError(f"tied layer {name!r} does not exist", fix="`hwsmpq inspect` lists the layers")
    keys = {layer.name: {layer.input_tensor, f"weight {layer.weight_name}"} for layer in layers}
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


def _reads(
    graph: fx.GraphModule, nodes: dict[str, fx.Node], values: _ValueShapes, n_rows: int
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
    found: dict[str, Read] = {}
    for node in nodes.values():
        tensor = node.args[0]
        assert isinstance(tensor, fx.Node)
        place = writers.get(tensor, -1)
        found.setdefault(tensor.name, Read(tensor.name, names[place] if place >= 0 else None, n_elements(tensor)))
    return tuple(found.values())


def _hash(graph: fx.GraphModule) -> str:
    """Of operations and tensors. Values count by their place: their names are torch's, and change with its version."""
    place = {node: f"%{index}" for index, node in enumerate(graph.graph.nodes)}
    hasher = hashlib.sha256()
    for node in graph.graph.nodes:
        target = node.target if isinstance(node.target, str | torch._ops.OpOverload) else node.target.__name__
        arguments = fx.map_arg((node.args, node.kwargs), place.__getitem__)
        hasher.update(f"{node.op} {target} {arguments}\n".encode())
    tensors = graph.state_dict()
    for name in sorted(tensors):
        hasher.update(f"{name}{tensors_sha256((tensors[name],))}".encode())
    return hasher.hexdigest()

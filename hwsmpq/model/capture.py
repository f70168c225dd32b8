"""Capture: a functional graph, recorded or exported; batch norm folded, layers and groups found."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.attention import write_as_products
from hwsmpq.model.constants import fold_constants
from hwsmpq.model.coverage import Parameters
from hwsmpq.model.describe import ValueShapes, groups_of, kept_weights, layer_nodes, layer_of_node, reads_of
from hwsmpq.model.export import EXPORT_BATCH, FixedBatch, Varying, exported
from hwsmpq.model.faithful import check_faithful
from hwsmpq.model.fold import fold_batch_norm
from hwsmpq.model.inputs import call
from hwsmpq.model.outputs import OutputForm, take_flat_outputs
from hwsmpq.model.parts import tensors_sha256
from hwsmpq.model.products import write_as_linear
from hwsmpq.model.refusals import check_module
from hwsmpq.model.runner import GraphRunner
from hwsmpq.model.shapes import Rows, buckets, form_of, spread
from hwsmpq.model.state import evaluating
from hwsmpq.model.tensors import get_tensor
from hwsmpq.types import WITH_WEIGHTS, Kind, Layer, Network

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
        example: one row of every input, of the largest shape.
        activation_bytes: bytes that all intermediate tensors of one sample take together.
        form: how the model arranges the tensors that ``graph`` gives.
        takes_one: whether ``graph`` takes one sample at a time, as the model does; else any number together.
        ports: names of inputs and of outputs in the file that the model was read from; empty without one.
        varying: of every input, the dimensions of samples whose size ``graph`` leaves open.
    """

    network: Network
    graph: fx.GraphModule
    layer_nodes: dict[str, fx.Node]
    example: tuple[Tensor, ...]
    activation_bytes: int
    form: OutputForm
    takes_one: bool = False
    ports: Ports = ((), ())
    varying: Varying = ()

    def at_once(self, n: int) -> int:
        """How many of ``n`` samples the graph takes together."""
        return 1 if self.takes_one else n

    def some_of(self, n: int, most: int) -> Rows:
        """At most that many of ``n`` samples, of several shapes where the graph takes them: the first ones, or some all
        over them."""
        return spread(n, most) if any(self.varying) else slice(0, min(n, most))

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
        return replace(self, network=replace(self.network, ties=ties, groups=groups_of(self.network.layers, ties)))

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
    model: nn.Module, example: tuple[Tensor, ...], names: tuple[str, ...] = (), ports: Ports = ((), ()),
    kinds: Collection[Kind] = WITH_WEIGHTS,
) -> Captured:
    """Capture a model. One that runs on a single sample and not on two, as exporters write them, is captured for one.

    Args:
        model: in eval mode or not (it is captured in eval mode); left unchanged.
        example: inputs with at least one row; the graph is compared with the model on the first of them. What differs
            in their sizes is left open, and the first of every shape are compared.
        names: of the arguments that they are; positional where there are none.
        ports: see :class:`Captured`.
        kinds: of operations that are layers: those that the target has kernels for. With products among them, attention
            is written as the products that it is.

    Raises:
        HwsmpqError: the model cannot be exported (names the operation), is not float32, has no quantizable layer, fixes
            a size that differs in ``example``, or
            its graph computes something else than the model does for every sample, alone or in a batch.
    """
    check_module(model)
    _check_dtype(model)
    varying = tuple(form_of(x, f"data (input {i})").varying for i, x in enumerate(example))
    of_shapes = [tuple(x[places] for x in example) for places in buckets(example).values()]
    largest = of_shapes[0]
    with evaluating(model) as state:
        try:
            rows, outputs, graph = exported(model, largest, names, state, EXPORT_BATCH, varying)
        except FixedBatch as fixed:
            try:
                rows, outputs, graph = exported(model, largest, names, state, 1, varying)
            except HwsmpqError:
                raise fixed from fixed.__cause__
        n_rows = len(rows[0])
        state.restore()  # an export leaves its own tensors behind
        parameters = Parameters.of(model, graph)
        write_as_products(graph)
        write_as_linear(graph)
        sources = fold_constants(graph)
        fold_batch_norm(graph)
        model_sha256 = _hash(graph)  # of the model alone, whatever is a layer
        write_as_products(graph, everywhere="product" in kinds)
        _keep_samples(graph)
        _take_layout_free(graph)
        form = take_flat_outputs(graph, outputs)
        for some in of_shapes:
            check_faithful(
                type(model).__name__, lambda inputs: form.batched(call(model, inputs, names)), graph,
                some if n_rows > 1 else tuple(x[:1] for x in some),
            )
    values = ValueShapes()
    with torch.no_grad():
        GraphRunner(graph, values.see).run(*rows)
    nodes = layer_nodes(graph, values, kinds)
    if not nodes:
        raise HwsmpqError(
            f"{type(model).__name__} has no convolution or linear layer to quantize",
            fix="check that the right module was given",
        )
    stored, kept = set[str](), kept_weights(graph)
    layers = tuple(
        layer_of_node(name, node, values.shapes, graph, stored, kept, n_rows) for name, node in nodes.items()
    )
    network = Network(
        model_sha256=model_sha256,
        layers=layers,
        groups=groups_of(layers, ()),
        reads=reads_of(graph, layers, nodes, values, n_rows),
        n_other_params=sum(p.numel() for n, p in graph.state_dict().items() if n not in stored),
        coverage=parameters.coverage([layer.weight_name for layer in layers if layer.has_weight], sources),
    )
    example = tuple(x[:1].clone() for x in rows)
    return Captured(network, graph, nodes, example, values.n_bytes // n_rows, form, n_rows == 1, ports, varying)


def _check_dtype(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise HwsmpqError(
                f"{type(model).__name__} holds {tensor.dtype} tensors ({name})",
                "quantization starts from the float32 network", "convert it with model.float(), and its inputs too",
            )


def _take_layout_free(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        node.target = LAYOUT_FREE.get(node.target, node.target)
    graph.recompile()


def _keep_samples(graph: fx.GraphModule) -> None:
    """Let what drops all dimensions of size 1 keep that of the samples when they are one."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.squeeze.default:
            sizes = node.args[0].meta["val"].shape
            node.target = torch.ops.aten.squeeze.dims
            node.args = (node.args[0], [i for i, size in enumerate(sizes) if isinstance(size, int) and size == 1])


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

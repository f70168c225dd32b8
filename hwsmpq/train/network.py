"""A captured network that computes what its quantized form computes, and can be trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.agreement import tensors_of
from hwsmpq.model.capture import Captured
from hwsmpq.model.outputs import pack
from hwsmpq.model.runner import GraphRunner, as_captured
from hwsmpq.model.tensors import get_tensor
from hwsmpq.quantize.carry import IN_BF16, carries_of
from hwsmpq.quantize.layer import QuantizedLayer, channels_last, rounded
from hwsmpq.quantize.residual import residuals
from hwsmpq.quantize.scheme import Grid, Scheme, is_exact
from hwsmpq.train.blocks import Block
from hwsmpq.train.lsq import Quantizer, straight_through
from hwsmpq.types import PRECISIONS, REFERENCE, Assignment, Layer, Precision, Ranges, TensorRange


class QuantizedNetwork(nn.Module):
    """A network whose layers read operands quantized as the scheme has it, with everything behind that trainable.

    Integer weights and activations have learned steps (:mod:`hwsmpq.train.lsq`), which begin as calibrated; zero points
    stay. Other formats take their scales from weights and ranges, and pass gradients straight through. Outputs are
    those of the :class:`~hwsmpq.quantize.simulator.Simulator` with :meth:`weights` and :meth:`ranges`.

    Args:
        precisions: of every group, by its name.
    """

    def __init__(
        self, captured: Captured, ranges: Ranges, scheme: Scheme, precisions: Mapping[str, tuple[Precision, ...]]
    ) -> None:
        super().__init__()
        self.network, self._scheme, self._initial = captured.network, scheme, ranges
        self.precisions = dict(precisions)
        self.graph = copy.deepcopy(captured.graph)
        for parameter in self.graph.parameters():
            parameter.data = channels_last(parameter.data)
            parameter.requires_grad_(True)
        self._group_of = {layer.name: self.network.group_of(layer.name) for layer in self.network.layers}
        found = residuals(captured) if scheme.quantizes_residuals else {}
        self._residuals = {node.name: residual for node, residual in found.items()}
        self._carry = {n.name: c for n, c in carries_of(captured).items()} if scheme.carries_bf16 else {}
        self.weight_quantizers, self.input_quantizers = nn.ModuleDict(), nn.ModuleDict()
        self._grids: dict[str, list[Grid]] = {}
        self._layers: dict[str, _TrainedLayer] = {}
        for layer in self.network.layers:
            self._add_quantizers(layer)
            trained = _TrainedLayer.of(layer, self.precisions_of(layer)[0], ranges, scheme)
            trained.net = self
            self._layers[captured.layer_nodes[layer.name].name] = trained
            if self.precisions_of(layer)[0].name in ranges.roundings:
                trained.round_weight(get_tensor(self.graph, layer.weight_name))

    def _add_quantizers(self, layer: Layer) -> None:
        precisions = self.precisions_of(layer)
        if not (layer.has_weight and precisions[0].has_integer_operands):
            return

        def calibrated(precisions: list[Precision]) -> list[QuantizedLayer]:
            return [QuantizedLayer.of(layer, p, self._initial, self._scheme) for p in precisions]

        weight = get_tensor(self.graph, layer.weight_name)
        key, per_precision = key_of(layer.weight_name), _by_bits(precisions, "weight_bits")
        if key not in self.weight_quantizers:
            shape = [1] * weight.ndim
            shape[layer.channel_axis] = -1
            scales = [
                quantized.stored_weight(weight).scales.reshape(shape) for quantized in calibrated(per_precision)
            ]
            levels = [self._scheme.weight_levels(p.weight_bits, layer.is_depthwise) for p in per_precision]
            self.weight_quantizers[key] = Quantizer(
                scales, [(-n, n) for n in levels], weight.numel() // weight.shape[layer.channel_axis]
            )
        key, per_precision = key_of(layer.input_tensor), _by_bits(precisions, "activation_bits")
        if key not in self.input_quantizers:
            grids = [quantized.grid for quantized in calibrated(per_precision) if quantized.grid is not None]
            self._grids[layer.input_tensor] = grids
            self.input_quantizers[key] = Quantizer(
                [torch.tensor(grid.scale) for grid in grids],
                [(grid.low - grid.zero_point, grid.high - grid.zero_point) for grid in grids],
                int(torch.Size(layer.input_shape).numel()),
            )

    @property
    def learns_steps(self) -> bool:
        """Whether steps may be any number."""
        return not self._scheme.power_of_two_scales

    @property
    def is_quantized(self) -> bool:
        """Whether anything is."""
        return any(precision.name != REFERENCE for group in self.precisions.values() for precision in group)

    def is_in_bf16(self, node: str) -> bool:
        """Whether the target has the result of an operation in bf16; see :mod:`hwsmpq.quantize.carry`."""
        return node in self._carry and self._carry[node].is_in_bf16(self.precisions.__getitem__)

    def precisions_of(self, layer: Layer) -> tuple[Precision, ...]:
        return self.precisions[self._group_of[layer.name]]

    def shares(self, group: str) -> tuple[Tensor, Tensor]:
        """The share of every bit-width in the weights and in the inputs of a group, (n_bit_widths,) each."""
        one = torch.ones(1, device=next(self.parameters()).device)
        return one, one

    def forward(self, *inputs: Tensor) -> Tensor:
        """Outputs (n, ...) of inputs (n, ...)."""
        output = GraphRunner(self.graph, compute=_Pass(self).compute).run(*(channels_last(x) for x in inputs))
        return pack(tensors_of(output))

    def run(
        self, block: Block, env: Mapping[str, Any], see: Callable[[fx.Node, tuple[Any, ...]], None] | None = None
    ) -> tuple[Tensor, ...]:
        """Outputs of one block of the graph; see :meth:`Block.run`.

        Args:
            see: called with every operation and its arguments before they are quantized.
        """
        compute = _Pass(self).compute

        def seen(n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if see:
                see(n, args)
            return compute(n, args, kwargs)

        return block.run(self.graph, env, seen)

    def quantized_layers(self, block: Block) -> dict[fx.Node, QuantizedLayer]:
        """Layers of a block with a weight and integer operands, by node."""
        return {n: one for n, one in self._weighted(block).items() if one.precision.has_integer_operands}

    def weight_only_layers(self, block: Block) -> dict[fx.Node, _TrainedLayer]:
        """Linear layers of a block of which the weight alone is in integers and read by no other, by node."""
        own = self.network.with_own_weight
        return {
            node: one for node, one in self._weighted(block).items()
            if one.precision.weight_format == "int" and not one.precision.has_integer_operands
            and one.layer.kind == "linear" and one.layer.name in own
        }

    def _weighted(self, block: Block) -> dict[fx.Node, _TrainedLayer]:
        found = {node: self._layers[node.name] for node in block.nodes if node.name in self._layers}
        return {node: one for node, one in found.items() if one.layer.has_weight}

    def weight_steps(self, layer: Layer) -> Tensor:
        """Steps of the integer weight of a layer with one precision, in a shape that broadcasts over the weight."""
        return self.weight_quantizers[key_of(layer.weight_name)].steps.detach()[0]  # type: ignore[union-attr, index]

    @property
    def fixed_scales(self) -> dict[str, tuple[float, ...]]:
        """Scales of weights that are alone in integers, of those that are not taken from the weight, by node."""
        return {
            node: one.weight_scales for node, one in self._layers.items()
            if not one.precision.has_integer_operands and one.weight_scales is not None
        }

    @fixed_scales.setter
    def fixed_scales(self, scales: Mapping[str, tuple[float, ...]]) -> None:
        for node, fixed in scales.items():
            self._layers[node].weight_scales = fixed

    def constrain(self) -> None:
        """Keep every step positive; to be called after every update."""
        for module in self.modules():
            if isinstance(module, Quantizer):
                module.constrain()

    def parameter_groups(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        """What is trained: ``weights`` (of more than one dimension) and ``others``."""
        weights = [p for p in self.graph.parameters() if p.ndim > 1]
        steps = [p for part in (self.weight_quantizers, self.input_quantizers) for p in part.parameters()]
        yield "weights", weights
        yield "others", [p for p in self.graph.parameters() if p.ndim <= 1] + steps

    def weights(self) -> dict[str, Tensor]:
        """Parameters by their name in the graph, as :meth:`Captured.with_weights` takes them."""
        return {name: p.detach().cpu().contiguous() for name, p in self.graph.named_parameters()}

    def ranges(self) -> Ranges:
        """The ranges, and scales of weights, that give the learned steps."""
        layers, smoothed = dict(self._initial.layers), {k: dict(v) for k, v in self._initial.smoothed.items()}
        scales: dict[int, dict[str, tuple[float, ...]]] = {}
        for layer in self.network.weighted:
            precisions = self.precisions_of(layer)
            if not precisions[0].has_integer_operands:
                continue
            quantizer = self.weight_quantizers[key_of(layer.weight_name)]
            for precision, step in zip(_by_bits(precisions, "weight_bits"), quantizer.steps, strict=True):
                scales.setdefault(precision.weight_bits, {})[layer.weight_name] = tuple(step.flatten().tolist())
            clips = self._clips(layer)
            for precision in precisions:
                tensors = smoothed.get(precision.name, {})
                if layer.input_tensor in tensors:
                    tensors[layer.input_tensor] = _clipped(tensors[layer.input_tensor], clips)
                else:
                    layers[layer.name] = _clipped(layers[layer.name], clips)
        for node, fixed in self.fixed_scales.items():
            one = self._layers[node]
            scales.setdefault(one.precision.weight_bits, {})[one.layer.weight_name] = fixed
        return replace(self._initial, layers=layers, smoothed=smoothed, weight_scales=scales, roundings={})

    def _clips(self, layer: Layer) -> dict[int, tuple[float, float]]:
        """The learned clip of a layer's input by activation bits."""
        bits = [p.activation_bits for p in _by_bits(self.precisions_of(layer), "activation_bits")]
        steps = self.input_quantizers[key_of(layer.input_tensor)].steps.tolist()
        grids = [replace(g, scale=s) for g, s in zip(self._grids[layer.input_tensor], steps, strict=True)]
        return {b: self._scheme.clip_of(grid) for b, grid in zip(bits, grids, strict=True)}


class _TrainedLayer(QuantizedLayer):
    """Rounds to the learned steps of ``net``; other formats, and products of activations, pass gradients straight
    through.

    What the bias is lower by stays as calibrated.
    """

    net: QuantizedNetwork

    def read(self, index: int, x: Tensor) -> Tensor:
        """One of the activations as the layer reads it."""
        return self.input(x) if index == 0 else straight_through(x, self.operands[index].input(x.detach()))

    @property
    def weight_levels(self) -> int:
        """The largest integer of the weight."""
        exact = is_exact(self.precision, self.layer.is_depthwise)
        return self._scheme.weight_levels(self.precision.weight_bits, exact)

    @torch.no_grad()
    def round_weight(self, weight: Tensor) -> None:
        """Put a weight whose rounding was learned on its grid, where it rounds to itself."""
        if self._rounding is not None:
            weight.copy_(self.unsmoothed(self.stored_weight(weight).dequantize()))

    def _quantized_weight(self, smoothed: Tensor) -> Tensor:
        if not self.precision.has_integer_operands:
            return straight_through(smoothed, super()._quantized_weight(smoothed))
        quantized: Tensor = self.net.weight_quantizers[key_of(self.layer.weight_name)](smoothed, self._shares[0])
        return quantized

    def _quantized_input(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if self.grid is None or not self.layer.has_weight:
            return straight_through(x, super()._quantized_input(x.detach()))
        quantized: Tensor = self.net.input_quantizers[key_of(self.layer.input_tensor)](x, self._shares[1])
        return quantized

    @property
    def _shares(self) -> tuple[Tensor, Tensor]:
        return self.net.shares(self.net._group_of[self.layer.name])


class _Pass:
    """One forward pass; a tensor that several layers read is quantized once."""

    def __init__(self, net: QuantizedNetwork) -> None:
        self._net = net
        self._of = {trained.layer.name: trained for trained in net._layers.values()}
        self._quantized: dict[tuple[str, str, Grid | None], Tensor] = {}

    def compute(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, net = self._result(n, args, kwargs), self._net
        return _in_bf16(result) if net.is_in_bf16(n.name) and net._carry[n.name].is_written else result

    def _result(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer, residual = self._net._layers.get(n.name), self._net._residuals.get(n.name)
        if layer is not None:
            if layer.carries_bf16 and self._net._carry[n.name].rounds_bias:
                args = args[:2] + tuple(_in_bf16(one) for one in args[2:])
            inputs = [self._input(n, layer, args, index, index) for index in range(len(layer.operands))]
            return layer.result(n.target, inputs, args, kwargs)  # type: ignore[arg-type]
        args = tuple(self._from_memory(n, node, x) for node, x in zip(n.args, args, strict=True))
        if residual is not None:
            reader, partner = (self._of[layer.name] for layer in (residual.reader, residual.partner))
            if residual.is_quantized(reader.precision, partner.precision):
                index = residual.argument
                args = (*args[:index], self._input(n, reader, args, index), *args[index + 1 :])
        if n.target in IN_BF16 and self._net.is_in_bf16(n.name):
            return IN_BF16[n.target](*args, **kwargs)
        if kwargs.get("device"):
            kwargs = {**kwargs, "device": next(self._net.parameters()).device}
        return as_captured(n, args, kwargs)

    def _input(self, n: fx.Node, layer: _TrainedLayer, args: tuple[Any, ...], index: int, operand: int = 0) -> Tensor:
        """An argument of an operation as a layer reads that operand."""
        source = str(n.args[index]), layer.precision.name, layer.operands[operand].grid
        if source not in self._quantized:
            x = args[index]
            if not layer.precision.quantizes_activations:
                x = self._from_memory(n, n.args[index], x)
            self._quantized[source] = layer.read(operand, x)
        return self._quantized[source]

    def _from_memory(self, reader: fx.Node, node: Any, x: Any) -> Any:
        """An argument as it is read: rounded, where it or what reads it is in bf16 and no kernel computes both."""
        net = self._net
        if not isinstance(node, fx.Node) or net.is_in_bf16(node.name) == net.is_in_bf16(reader.name):
            return x
        is_read_rounded = net.is_in_bf16(node.name) or (node.name in net._carry and net._carry[node.name].is_written)
        return _in_bf16(x) if is_read_rounded else x


def quantized(captured: Captured, ranges: Ranges, scheme: Scheme, assignment: Assignment) -> QuantizedNetwork:
    """The network under one assignment.

    Raises:
        HwsmpqError: it takes one sample at a time, or samples of several shapes, of which nothing can be learned.
    """
    if any(captured.varying):
        raise HwsmpqError(
            "samples of the task have several shapes", "it learns on batches of one",
            "pad or resize all samples to one shape, or leave --reconstruct and `hwsmpq finetune` out",
        )
    if captured.takes_one:
        raise HwsmpqError(
            "the network takes one sample at a time", "it learns on batches", "take sizes in it from x.shape[0]"
        )
    precisions = {group: (PRECISIONS[name],) for group, name in assignment.items()}
    return QuantizedNetwork(captured, ranges, scheme, precisions)


def _in_bf16(x: Any) -> Any:
    return straight_through(x, rounded(x.detach(), torch.bfloat16)) if isinstance(x, Tensor) else x


def _clipped(observed: TensorRange, clips: dict[int, tuple[float, float]]) -> TensorRange:
    return replace(observed, clip={**observed.clip, **clips})


def _by_bits(precisions: tuple[Precision, ...], attribute: str) -> list[Precision]:
    """One precision of every number of bits, fewest first."""
    found = {getattr(p, attribute): p for p in reversed(precisions)}
    return [found[bits] for bits in sorted(found)]


def key_of(name: str) -> str:
    """A name of the graph as the name of a submodule, which may hold no dot."""
    return name.replace(".", "/")

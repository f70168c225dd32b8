"""What is learned of one block: the rounding of its weights, the steps of its inputs, its biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from hwsmpq.model.tensors import get_tensor
from hwsmpq.train.blocks import Block
from hwsmpq.train.lsq import Quantizer
from hwsmpq.train.network import QuantizedNetwork, key_of
from hwsmpq.train.rounding import LearnedRounding, RandomlyDropped


class Learned:
    """Of the layers of a block with integer operands. A weight that several layers read is left as it is."""

    def __init__(self, network: QuantizedNetwork, block: Block) -> None:
        self._network = network
        layers = network.quantized_layers(block)
        names = [layer.weight_name for layer in network.network.weighted]
        self._layers = [one for one in layers.values() if names.count(one.layer.weight_name) == 1]
        inputs = dict.fromkeys(key_of(one.layer.input_tensor) for one in layers.values())
        self._quantizers: dict[str, Quantizer] = {key: network.input_quantizers[key] for key in inputs}  # type: ignore[misc]
        self._biases = [bias for node in layers if (bias := _bias(network.graph, node)) is not None]
        self._roundings: dict[str, LearnedRounding] = {}
        self._before = [(x, x.detach().clone()) for x in (*self._weights(), *self._steps(), *self._biases)]

    @property
    def is_anything(self) -> bool:
        return bool(self._quantizers)

    @contextmanager
    def learning(self, drop: float) -> Iterator[None]:
        """Weights are rounded as they learn, and activations are quantized with a probability of 1 - ``drop``."""
        weights, inputs = self._network.weight_quantizers, self._network.input_quantizers
        to_nearest = {key_of(one.layer.weight_name): weights[key_of(one.layer.weight_name)] for one in self._layers}
        for one, weight in zip(self._layers, self._weights(), strict=True):
            key = key_of(one.layer.weight_name)
            self._roundings[key] = weights[key] = LearnedRounding(one.smoothed(weight.detach()), to_nearest[key])  # type: ignore[arg-type]
        for key, quantizer in self._quantizers.items():
            inputs[key] = RandomlyDropped(quantizer, drop)
        learned = (*self._steps(), *self._biases)
        for parameter in learned:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in learned:
                parameter.requires_grad_(False)
            inputs.update(self._quantizers)
            weights.update(to_nearest)
            with torch.no_grad():
                for one, weight in zip(self._layers, self._weights(), strict=True):
                    weight.copy_(one.unsmoothed(self._roundings[key_of(one.layer.weight_name)].rounded()))

    @torch.no_grad()
    def undo(self) -> None:
        """Everything as it was before."""
        for x, before in self._before:
            x.copy_(before)

    def parameter_groups(self, rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Steps and biases for an optimizer, with learning rates relative to their size."""
        kinds = {"steps": self._steps(), "biases": self._biases}
        return [
            {"params": [x], "lr": rates[kind] * float(x.detach().abs().mean())}
            for kind, tensors in kinds.items() for x in tensors
        ]

    def descend(self, rate: float) -> None:
        """Move what weights are rounded to; see :meth:`LearnedRounding.descend`."""
        for rounding in self._roundings.values():
            rounding.descend(rate)

    def constrain(self) -> None:
        for quantizer in self._quantizers.values():
            quantizer.constrain()

    def _weights(self) -> list[nn.Parameter]:
        graph = self._network.graph
        return [get_tensor(graph, one.layer.weight_name) for one in self._layers]  # type: ignore[misc]

    def _steps(self) -> list[nn.Parameter]:
        if not self._network.learns_steps:
            return []
        return [quantizer.steps for quantizer in self._quantizers.values()]


def _bias(graph: fx.GraphModule, node: fx.Node) -> nn.Parameter | None:
    """The bias that a layer adds, if it has one of its own."""
    bias = node.args[2] if len(node.args) > 2 else None
    if not (isinstance(bias, fx.Node) and bias.op == "get_attr" and len(bias.users) == 1):
        return None
    return get_tensor(graph, str(bias.target))  # type: ignore[return-value]

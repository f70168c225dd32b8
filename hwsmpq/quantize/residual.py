"""Residual additions whose other operand is read in quantized form.

An engine that runs both convolutions of a residual block in eight bits keeps the tensor that enters the block only in
eight bits if the addition reads that copy too; else it stores it twice and reads four bytes an element. (In the kernels
that TensorRT-RTX lists for a ResNet-18 the floating-point copies of all identity branches disappear.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from hwsmpq.model.capture import Captured
from hwsmpq.types import Layer, Precision

ADDITIONS = {torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor}


@dataclass(frozen=True)
class Residual:
    """An addition of a convolution's output and a tensor that another layer reads.

    Attributes:
        argument: which operand of the addition is that tensor.
        reader: the (first) layer that reads it.
        partner: the convolution that the other operand comes from.
    """

    argument: int
    reader: Layer
    partner: Layer

    @staticmethod
    def is_quantized(reader: Precision, partner: Precision) -> bool:
        """Whether the addition reads the tensor as ``reader`` does, given the precisions of both layers."""
        return reader.quantizes_activations and partner.quantizes_activations


def residuals(captured: Captured) -> dict[fx.Node, Residual]:
    """The residual additions of a network, by their node in its graph."""
    layer_of = {captured.layer_nodes[layer.name]: layer for layer in captured.network.layers}
    readers: dict[fx.Node, Layer] = {}
    for node, layer in layer_of.items():
        assert isinstance(node.args[0], fx.Node)
        readers.setdefault(node.args[0], layer)
    found: dict[fx.Node, Residual] = {}
    for node in captured.graph.graph.nodes:
        if node.target not in ADDITIONS or len(node.args) != 2:
            continue
        for argument, (tensor, other) in enumerate((node.args, node.args[::-1])):
            partner = layer_of.get(other)
            if tensor in readers and partner is not None and partner.kind == "conv":
                found[node] = Residual(argument, readers[tensor], partner)
    return found

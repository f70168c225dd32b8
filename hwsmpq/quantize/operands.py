"""Operands of a layer at a precision: its input and its weight, quantized and dequantized."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsmpq.quantize.scheme import Grid, Scheme
from hwsmpq.types import Layer, Precision, Ranges

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Operands:
    """Quantizes inputs and weights of layers; grids, and weights of each precision, are derived once."""

    def __init__(self, ranges: Ranges, scheme: Scheme) -> None:
        self._ranges, self._scheme = ranges, scheme
        self._grids: dict[tuple[str, int], Grid] = {}
        self._weights: dict[tuple[str, str], Tensor] = {}

    def activation(self, layer: Layer, x: Tensor, precision: Precision) -> Tensor:
        """The input ``x`` of a layer as its precision represents it; ``x`` itself in fp32, else a new tensor."""
        if precision.name == "fp32":
            return x
        if precision.is_float:
            return x.to(DTYPES[precision.name]).float()
        key = (layer.name, precision.activation_bits)
        if key not in self._grids:
            clip = self._ranges.layers[layer.name].clip[precision.activation_bits]
            self._grids[key] = self._scheme.activation_grid(clip, precision.activation_bits)
        return self._scheme.quantize_activation(x, self._grids[key])

    def weight(self, layer: Layer, weight: Tensor, precision: Precision) -> Tensor:
        """The weight of a layer as its precision represents it, in channels_last; kept for the next call."""
        if precision.name == "fp32":
            return weight
        key = (layer.weight_name, precision.name if precision.is_float else str(precision.weight_bits))
        if key not in self._weights:
            if precision.is_float:
                quantized = weight.to(DTYPES[precision.name]).float()
            else:
                quantized = self._scheme.quantize_weight(
                    weight, precision.weight_bits, layer.channel_axis, layer.is_depthwise
                )
            self._weights[key] = channels_last(quantized)
        return self._weights[key]


def channels_last(x: Tensor) -> Tensor:
    """``x`` with channels innermost in memory if it is an image batch or a 2-d convolution's weight."""
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

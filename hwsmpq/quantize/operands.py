"""Operands of a layer at a precision: its input and its weight as the engine represents them."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsmpq.quantize.scheme import Grid, Scheme, fp8_scale, quantize_fp8
from hwsmpq.types import Format, Layer, Precision, Ranges

HALF_TYPES: dict[Format, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Operands:
    """Quantizes inputs and weights of layers; grids, and weights of each precision, are derived once."""

    def __init__(self, ranges: Ranges, scheme: Scheme) -> None:
        self._ranges, self._scheme = ranges, scheme
        self._grids: dict[tuple[str, int], Grid] = {}
        self._weights: dict[tuple[str, Format, int, Format], Tensor] = {}

    def activation(self, layer: Layer, x: Tensor, precision: Precision) -> Tensor:
        """The input ``x`` of a layer as its precision represents it; ``x`` itself in fp32, else a new tensor."""
        if precision.activation_format == "int":
            return self._scheme.quantize_activation(x, self._grid(layer, precision.activation_bits))
        if precision.activation_format == "fp8":
            observed = self._ranges.layers[layer.name]
            return quantize_fp8(x, fp8_scale(observed.minimum, observed.maximum))
        return rounded(x, precision)

    def weight(self, layer: Layer, weight: Tensor, precision: Precision) -> Tensor:
        """The weight of a layer as its precision represents it, in channels_last; kept for the next call."""
        if precision.name == "fp32":
            return weight
        key = (layer.weight_name, precision.weight_format, precision.weight_bits, precision.activation_format)
        if key not in self._weights:
            quantized = rounded(weight, precision) if precision.is_float else self._scheme.store_weight(
                weight, precision, layer.channel_axis, layer.is_depthwise,
                layer.block_size if precision.is_blockwise else None,
            ).dequantize()
            self._weights[key] = channels_last(quantized)
        return self._weights[key]

    def _grid(self, layer: Layer, bits: int) -> Grid:
        if (layer.name, bits) not in self._grids:
            clip = self._ranges.layers[layer.name].clip[bits]
            self._grids[layer.name, bits] = self._scheme.activation_grid(clip, bits)
        return self._grids[layer.name, bits]


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """What is left of ``x`` where a layer computes in 16 bits; ``x`` itself elsewhere."""
    dtype = HALF_TYPES.get(precision.activation_format)
    return x if dtype is None else x.to(dtype).float()


def channels_last(x: Tensor) -> Tensor:
    """``x`` with channels innermost in memory if it is an image batch or a 2-d convolution's weight."""
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

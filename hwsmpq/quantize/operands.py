"""Operands of a layer at a precision: its input, weight and bias as the engine represents them."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsmpq.quantize.scheme import Grid, Scheme, StoredWeight, fp8_scale, quantize_fp8
from hwsmpq.types import Format, Layer, Precision, Ranges

HALF_TYPES: dict[Format, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Operands:
    """Quantizes inputs and weights of layers; what it takes, and weights of each precision, are derived once."""

    def __init__(self, ranges: Ranges, scheme: Scheme) -> None:
        self._ranges, self._scheme = ranges, scheme
        self._grids: dict[tuple[str, str], Grid] = {}
        self._inverses: dict[tuple[str, str], Tensor] = {}
        self._weights: dict[tuple[str, Format, int, Format, tuple[float, ...]], Tensor] = {}
        self._biases: dict[tuple[str, str], Tensor] = {}

    def activation(self, layer: Layer, x: Tensor, precision: Precision) -> Tensor:
        """The input ``x`` of a layer as its precision represents it; ``x`` itself in fp32, else a new tensor."""
        if not precision.quantizes_activations:
            return rounded(x, precision)
        key, observed, out = (layer.name, precision.name), self._ranges.of(layer, precision), None
        if observed.smooth:
            if key not in self._inverses:
                self._inverses[key] = inverse_of(observed.smooth).to(x.device)
            x = out = x * self._inverses[key]
        if precision.activation_format == "fp8":
            return quantize_fp8(x, fp8_scale(observed.minimum, observed.maximum), out)
        if key not in self._grids:
            clip = observed.clip[precision.activation_bits]
            self._grids[key] = self._scheme.activation_grid(clip, precision.activation_bits)
        return self._scheme.quantize_activation(x, self._grids[key], out)

    def weight(self, layer: Layer, weight: Tensor, precision: Precision) -> Tensor:
        """The weight of a layer as its precision represents it, in channels_last; kept for the next call."""
        if precision.name == "fp32":
            return weight
        smooth = self._ranges.of(layer, precision).smooth
        key = (
            layer.weight_name, precision.weight_format, precision.weight_bits, precision.activation_format, smooth
        )
        if key not in self._weights:
            operand = rounded(weight, precision) if precision.is_float else stored_weight(
                layer, weight, precision, self._ranges, self._scheme
            ).dequantize()
            self._weights[key] = channels_last(operand)
        return self._weights[key]

    def bias(self, layer: Layer, bias: Tensor, precision: Precision) -> Tensor:
        """The bias of a layer at its precision; kept for the next call."""
        key = (layer.name, precision.name)
        if key not in self._biases:
            self._biases[key] = rounded(corrected_bias(layer, bias, precision, self._ranges), precision)
        return self._biases[key]


def corrected_bias(layer: Layer, bias: Tensor, precision: Precision, ranges: Ranges) -> Tensor:
    """The bias of a layer less what its quantization adds to the mean of its outputs; ``bias`` itself if nothing."""
    shift = ranges.shifts.get(precision.name, {}).get(layer.name)
    return bias if shift is None else bias - torch.tensor(shift, device=bias.device)


def inverse_of(smooth: tuple[float, ...]) -> Tensor:
    """What a smoothed input is multiplied by, (n_channels,) float32."""
    return 1 / torch.tensor(smooth)


def stored_weight(
    layer: Layer, weight: Tensor, precision: Precision, ranges: Ranges, scheme: Scheme
) -> StoredWeight:
    """The weight of a layer as an engine stores it: quantized, and before that smoothed as the input is."""
    smooth = ranges.of(layer, precision).smooth
    if smooth:
        weight = weight * torch.tensor(smooth, device=weight.device)
    block_size = layer.block_size if precision.is_blockwise else None
    scales = None
    if precision.has_integer_operands:
        learned = ranges.weight_scales.get(precision.weight_bits, {}).get(layer.weight_name)
        scales = None if learned is None else torch.tensor(learned, device=weight.device)
    return scheme.store_weight(weight, precision, layer.channel_axis, layer.is_depthwise, block_size, scales)


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """What is left of ``x`` where a layer computes in 16 bits; ``x`` itself elsewhere."""
    dtype = HALF_TYPES.get(precision.activation_format)
    return x if dtype is None else x.to(dtype).float()


def channels_last(x: Tensor) -> Tensor:
    """``x`` with channels innermost in memory if it is an image batch or a 2-d convolution's weight."""
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

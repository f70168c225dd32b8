"""A layer at a precision: its input, weight, bias and result as an engine represents them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hwsmpq.quantize.scheme import Grid, Scheme, StoredWeight, fp8_scale, quantize_fp8
from hwsmpq.types import Format, Layer, Precision, Ranges, TensorRange

HALF_TYPES: dict[Format, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Operand:
    """How a layer reads an activation at one precision.

    Args:
        observed: the range of the tensor, with the factors that smooth it.
        grid: of its integers; None where it has none.

    Attributes:
        input_scale: of the tensor in integers or fp8; None in other formats.
        inverse: what the tensor is multiplied by to be smooth, (n_channels,); None where it is left as it is.
    """

    def __init__(
        self, layer: Layer, precision: Precision, observed: TensorRange, scheme: Scheme, grid: Grid | None
    ) -> None:
        self.layer, self.precision, self.grid, self._scheme = layer, precision, grid, scheme
        self.smooth = () if precision.is_float else observed.smooth
        self.inverse = inverse_of(self.smooth) if self.smooth else None
        self.input_scale: float | None = None
        if grid is not None:
            self.input_scale = grid.scale
        elif precision.quantizes_activations:
            self.input_scale = fp8_scale(observed.minimum, observed.maximum)

    def input(self, x: Tensor) -> Tensor:
        """The tensor as the layer reads it: ``x`` itself in fp32, else a new one."""
        out = None
        if self.inverse is not None:
            if self.inverse.device != x.device:
                self.inverse = self.inverse.to(x.device)
            x = out = x * self.inverse
        return self._quantized_input(x, out) if self.precision.quantizes_activations else self._rounded(x)

    def _quantized_input(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Quantized and dequantized, into ``out`` or a new tensor."""
        if self.grid is not None:
            return self._scheme.quantize_activation(x, self.grid, out)
        assert self.input_scale is not None
        return quantize_fp8(x, self.input_scale, out)

    def _rounded(self, x: Tensor) -> Tensor:
        """What is left of ``x`` where the layer computes in 16 bits; ``x`` itself elsewhere."""
        dtype = HALF_TYPES.get(self.precision.activation_format)
        return x if dtype is None else x.to(dtype).float()


class QuantizedLayer(Operand):
    """One layer at one precision: whatever quantizes it, scores that or writes it asks here.

    The input is divided by the smoothing factors of its channels, rounded and dequantized; the weight is multiplied by
    them, rounded and dequantized; the bias is lower by what that adds to the mean of outputs; in 16 bits all of them
    and the result are rounded to the type; where the scheme carries bf16, bias and result are as
    :mod:`hwsmpq.quantize.carry` says. A product of two activations reads two operands, and has no weight and no bias.

    Args:
        observed: the range of the input, with the factors that smooth it.
        second: the range of the second operand of a product.
        rounding: which entries of an integer weight are rounded up; None rounds to nearest.
        shift: of every output channel; None shifts nothing.
        weight_scales: learned scales of an integer weight; None takes them from the weight.

    Attributes:
        operands: the activations that it reads: itself, and the second operand of a product.
        weight_scales: as given.
    """

    def __init__(
        self, layer: Layer, precision: Precision, observed: TensorRange, scheme: Scheme,
        shift: tuple[float, ...] | None = None, weight_scales: tuple[float, ...] | None = None,
        second: TensorRange | None = None, rounding: str | None = None,
    ) -> None:
        def grid(of: TensorRange) -> Grid | None:
            bits = precision.activation_bits
            if precision.activation_format != "int":
                return None
            if second is None:
                return scheme.activation_grid(of.clip[bits], bits)
            return scheme.product_grid(of.clip[bits], bits, of is second)

        super().__init__(layer, precision, observed, scheme, grid(observed))
        self._shift, self.weight_scales = shift, weight_scales
        self._rounding = rounding
        self.carries_bf16 = scheme.carries_bf16 and precision.activation_format == "bf16"
        self.operands: tuple[Operand, ...] = (self,)
        if second is not None:
            self.operands = (self, Operand(layer, precision, second, scheme, grid(second)))

    @classmethod
    def of(cls, layer: Layer, precision: Precision, ranges: Ranges, scheme: Scheme) -> Self:
        """As calibrated: with the range, the shift and the learned scales that ``ranges`` has for it."""
        scales = ranges.weight_scales.get(precision.weight_bits, {}) if precision.weight_format == "int" else {}
        shift = ranges.shifts.get(precision.name, {}).get(layer.name)
        return cls(
            layer, precision, ranges.of(layer, precision), scheme, shift, scales.get(layer.weight_name),
            None if layer.has_weight else ranges.operands[layer.name],
            ranges.roundings.get(precision.name, {}).get(layer.weight_name),
        )

    @property
    def shifts_bias(self) -> bool:
        return self._shift is not None

    def inputs(self, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """The activations as the layer reads them, of the arguments of its operation in full precision."""
        return tuple(operand.input(x) for operand, x in zip(self.operands, args, strict=False))

    def weight(self, weight: Tensor) -> Tensor:
        """The weight as the layer multiplies by it, in channels_last; ``weight`` itself in fp32."""
        if self.precision.is_float:
            return self._rounded(weight)
        return channels_last(self._quantized_weight(self.smoothed(weight)))

    def stored_weight(self, weight: Tensor) -> StoredWeight:
        """A quantized weight as an engine stores it."""
        return self._stored(self.smoothed(weight))

    def smoothed(self, weight: Tensor) -> Tensor:
        """The weight times the smoothing factors of its inputs; ``weight`` itself where there are none."""
        return weight * torch.tensor(self.smooth, device=weight.device) if self.smooth else weight

    def unsmoothed(self, smoothed: Tensor) -> Tensor:
        """What :meth:`smoothed` made of a weight, back again."""
        return smoothed * self.inverse.to(smoothed.device) if self.inverse is not None else smoothed

    def weight_change(self, weight: Tensor) -> Tensor:
        """What quantization changes of a weight, in terms of an input that is not smoothed."""
        return self.unsmoothed(self.weight(weight)) - weight

    def bias(self, bias: Tensor) -> Tensor:
        """The bias as the layer adds it; ``bias`` itself where nothing changes it."""
        bias = self.shifted(bias)
        return bias if self.carries_bf16 else self._rounded(bias)

    def shifted(self, bias: Tensor) -> Tensor:
        """The bias lower by what quantization adds to the mean of outputs, in full precision."""
        shift = self._shift
        return bias if shift is None else bias - torch.tensor(shift, device=bias.device)

    def result(
        self, operation: Callable[..., Any], inputs: Sequence[Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """The result of the layer.

        Args:
            inputs: the activations as the layer reads them.
            args: of its operation in full precision: input, weight or second operand, perhaps a bias, and what is no
                tensor.
        """
        weights = [self.weight(weight) for weight in args[len(inputs) : 2]]
        others = [self.bias(a) if isinstance(a, Tensor) else a for a in args[2:]]
        result = operation(*inputs, *weights, *others, **kwargs)
        return result if self.carries_bf16 else self._rounded(result)

    def _stored(self, smoothed: Tensor) -> StoredWeight:
        layer, scales = self.layer, self.weight_scales
        return self._scheme.store_weight(
            smoothed, self.precision, layer.channel_axis, layer.is_depthwise,
            layer.block_size if self.precision.is_blockwise else None,
            None if scales is None else torch.tensor(scales, device=smoothed.device),
            None if self._rounding is None else unpacked(self._rounding, smoothed),
        )

    def _quantized_weight(self, smoothed: Tensor) -> Tensor:
        return self._stored(smoothed).dequantize()


class QuantizedLayers:
    """Layers at precisions, each made once, which keep their first weight and bias for all calls."""

    def __init__(self, ranges: Ranges, scheme: Scheme) -> None:
        self._ranges, self._scheme = ranges, scheme
        self._made: dict[tuple[str, str], _Keeping] = {}
        self._weights: dict[Any, Tensor | StoredWeight] = {}

    def at(self, layer: Layer, precision: Precision) -> QuantizedLayer:
        key = (layer.name, precision.name)
        if key not in self._made:
            self._made[key] = _Keeping.of(layer, precision, self._ranges, self._scheme)
            self._made[key].weights = self._weights
        return self._made[key]


class _Keeping(QuantizedLayer):
    """Keeps weight and bias; ``weights`` holds those of other layers and precisions, which may be the same, in as many
    bytes as they are stored in: to dequantize one takes little beside the product of many samples."""

    weights: dict[Any, Tensor | StoredWeight]
    _bias: Tensor | None = None

    def weight(self, weight: Tensor) -> Tensor:
        p = self.precision
        key = (
            self.layer.weight_name, p.weight_format, p.weight_bits, p.activation_format, self.smooth, self._rounding
        )
        if key not in self.weights:
            self.weights[key] = self._compact(weight)
        kept = self.weights[key]
        return kept.float() if isinstance(kept, Tensor) else kept.dequantize()

    def _compact(self, weight: Tensor) -> Tensor | StoredWeight:
        if self.precision.is_float:
            return weight.to(HALF_TYPES.get(self.precision.activation_format, weight.dtype))
        stored = self.stored_weight(weight)
        return replace(stored, values=channels_last(stored.values))

    def bias(self, bias: Tensor) -> Tensor:
        if self._bias is None:
            self._bias = super().bias(bias)
        return self._bias


def packed(up: Tensor) -> str:
    """Which entries are rounded up, as :class:`~hwsmpq.types.Ranges` has it."""
    return base64.b64encode(np.packbits(up.detach().cpu().contiguous().numpy()).tobytes()).decode()


def unpacked(rounding: str, weight: Tensor) -> Tensor:
    """The inverse of :func:`packed`: booleans in the shape of the weight."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(rounding), np.uint8), count=weight.numel())
    return torch.from_numpy(bits.astype(bool)).view(weight.shape).to(weight.device)


def rounded(x: Any, dtype: torch.dtype) -> Any:
    """What is left of a tensor in a floating-point type, as float32; what is no tensor of floats stays as it is."""
    return x.to(dtype).float() if isinstance(x, Tensor) and x.is_floating_point() else x


def inverse_of(smooth: tuple[float, ...]) -> Tensor:
    """What a tensor is multiplied by to be divided by factors, (n_channels,) float32."""
    return 1 / torch.tensor(smooth)


def channels_last(x: Tensor) -> Tensor:
    """``x`` with channels innermost in memory if it is an image batch or a 2-d convolution's weight."""
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

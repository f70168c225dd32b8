"""Quantization schemes: one definition of grids and stored weights, for the simulator and the Q/DQ writer alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.types import Precision

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
SMALLEST_HALF = 2.0**-24
LEAST_EXPONENT = -126.0
"""Of a power of two that is a scale: below, float32 has fewer digits."""
# Bits of a float32: its exponent, that of the smallest normal fp8 number (2^-6), and what takes 2^e to
# 1.5 * 2^(e + 20), whose neighbours are 2^(e - 3) apart, as fp8 numbers of that size are.
EXPONENT, FP8_LEAST_EXPONENT, TO_SPACING = 0x7F800000, (127 - 6) << 23, (20 << 23) + (1 << 22)


@dataclass(frozen=True)
class Grid:
    """An integer grid for activations: real = (q - zero_point) * scale, low <= q <= high."""

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def type(self) -> torch.dtype:
        """What its integers are stored as."""
        return torch.int8 if self.low < 0 else torch.uint8


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A quantized weight as engines store it: real = values * scales.

    Attributes:
        values: int8, or float8 (e4m3), in the shape of the weight.
        scales: float32, or float16 where the layer computes in fp16. One a channel, (n_channels,) along ``axis``; with
            a ``block_size``, one a block of that many entries along ``axis``.
    """

    values: Tensor
    scales: Tensor
    axis: int
    block_size: int | None = None

    def dequantize(self) -> Tensor:
        """The weight that the layer computes with, float32."""
        return (self.values.float() * self.spread()).to(self.scales.dtype).float()

    def spread(self) -> Tensor:
        """The scales, float32, in a shape that broadcasts over the weight."""
        scales = self.scales.float()
        if self.block_size is not None:
            return scales.repeat_interleave(self.block_size, self.axis)
        return _along(scales, self.values.ndim, self.axis)


@dataclass(frozen=True)
class Scheme:
    """How a target represents quantized tensors.

    Integer weights are symmetric, one scale an output channel (with ``per_tensor_weights`` the same for all of them),
    levels -n .. n with n = 2^(b-1)-1, at most ``max_weight_level``. Integer activations have one scale a tensor:
    unsigned with a zero point, or (``signed_activations``) symmetric with zero point 0. In fp8 (e4m3) both have the
    scale that takes the largest magnitude to 448.

    With ``quantizes_residuals`` an addition after a quantized convolution reads its other operand as the quantized
    layers beside it do, so that the tensor need not be kept in floating point (see :mod:`hwsmpq.quantize.residual`).

    With ``carries_bf16`` what operations make of results in bf16 alone stays in bf16 until a layer reads it (see
    :mod:`hwsmpq.quantize.carry`). Without, layers in bf16 round bias and result.

    With ``power_of_two_scales`` the scales of integers are powers of two, as hardware asks for that rescales by shifts:
    the next one above what covers the range, or for weights below 8 bits that or the half of it, whichever errs less.
    """

    name: str
    signed_activations: bool
    max_weight_level: int = 127
    quantizes_residuals: bool = False
    per_tensor_weights: bool = False
    carries_bf16: bool = False
    power_of_two_scales: bool = False

    def activation_grid(self, clip: tuple[float, float], bits: int) -> Grid:
        """Grid that covers ``clip`` (which is widened to hold 0, so that zero padding is exact)."""
        low, high = min(clip[0], 0.0), max(clip[1], 0.0)
        if self.signed_activations:
            levels = 2 ** (bits - 1) - 1
            scale = self._scale(max(high, -low) / levels)
            return Grid(scale, 0, -levels - 1, levels)
        levels = 2**bits - 1
        scale = self._scale((high - low) / levels)
        return Grid(scale, min(max(round(-low / scale), 0), levels), 0, levels)

    def product_grid(self, clip: tuple[float, float], bits: int, is_second: bool) -> Grid:
        """Grid of an operand of a product of two activations, without a zero point, since no kernel takes one there.

        The second operand stands where a weight does, and has the levels of one: signed, and no more than kernels add
        up exactly. So has the first, unless it is never negative and activations are unsigned.
        """
        if not is_second and clip[0] >= 0:
            return self.activation_grid(clip, bits)
        levels = self.weight_levels(bits) if is_second else 2 ** (bits - 1) - 1
        scale = self._scale(max(clip[1], -clip[0]) / levels)
        # No value is on the level below, which leaves the range whole, so that no clip to it is needed.
        return Grid(scale, 0, -levels - (levels == 2 ** (bits - 1) - 1), levels)

    def _scale(self, least: float) -> float:
        """The scale of activations of which one step covers ``least``; 1 where nothing is to be covered."""
        scale = _float32(least) or 1.0
        return 2.0 ** math.ceil(math.log2(scale)) if self.power_of_two_scales else scale

    def clip_of(self, grid: Grid) -> tuple[float, float]:
        """The clip whose grid is ``grid``: the inverse of :meth:`activation_grid`, exact for a float32 scale."""
        low = -grid.high if self.signed_activations else grid.low - grid.zero_point
        return low * grid.scale, (grid.high - grid.zero_point) * grid.scale

    def quantize_activation(self, x: Tensor, grid: Grid, out: Tensor | None = None) -> Tensor:
        """Quantize and dequantize, into ``out`` or one new tensor: the memory traffic decides the speed here."""
        return (
            torch.div(x, _divisor(grid.scale, x), out=out).round_()
            .clamp_(grid.low - grid.zero_point, grid.high - grid.zero_point).mul_(grid.scale)
        )

    def weight_levels(self, bits: int, exact: bool = False) -> int:
        """Largest absolute integer of a weight. ``exact`` kernels are free of the cap: those that multiply floats, and
        depthwise ones, which add no products of different channels and were measured never to saturate (grouped ones
        with a multiplier do)."""
        if exact:
            return 2 ** (bits - 1) - 1  # type: ignore[no-any-return]
        return min(2 ** (bits - 1) - 1, self.max_weight_level)  # type: ignore[no-any-return]

    def weight_scales(self, weight: Tensor, bits: int, axis: int, exact: bool = False) -> Tensor:
        """One scale a channel, shape (n_channels,), float32. At 8 bits the channel's largest absolute value is the
        last level; below, the clip ratio with the least squared error of that channel is taken. With
        ``per_tensor_weights`` the tensor takes the place of the channel."""
        if self.per_tensor_weights:
            whole = replace(self, per_tensor_weights=False)
            return whole.weight_scales(weight[None], bits, 0, exact).repeat(weight.shape[axis])
        flat = weight.detach().movedim(axis, 0).flatten(1).float()
        levels = self.weight_levels(bits, exact)
        peak = flat.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        whole = peak / levels
        if self.power_of_two_scales:
            whole = torch.exp2(torch.log2(whole).ceil().clamp_min(LEAST_EXPONENT))
        if bits >= 8:
            return whole
        best, error = whole, torch.full_like(peak, torch.inf)
        for ratio in (0.5, 1.0) if self.power_of_two_scales else torch.linspace(0.4, 1.0, 31).tolist():
            scale = whole * ratio
            q = torch.round(flat / scale[:, None]).clamp_(-levels, levels)
            now = (q.mul_(scale[:, None]) - flat).square_().sum(1)
            best = torch.where(now < error, scale, best)
            error = torch.minimum(now, error)
        return best

    def weight_integers(
        self, weight: Tensor, scales: Tensor, bits: int, axis: int, exact: bool = False, up: Tensor | None = None
    ) -> Tensor:
        """Integer weights as float32, same shape as ``weight``: rounded to nearest, or up where ``up`` is true and down
        elsewhere."""
        levels, exactly = self.weight_levels(bits, exact), weight / _along(scales, weight.ndim, axis)
        return (exactly.round() if up is None else exactly.floor() + up).clamp_(-levels, levels)

    def store_weight(
        self, weight: Tensor, precision: Precision, axis: int, depthwise: bool = False, block_size: int | None = None,
        scales: Tensor | None = None, up: Tensor | None = None,
    ) -> StoredWeight:
        """The weight of a layer as ``precision`` stores it.

        Args:
            axis: the output channels.
            depthwise: see :meth:`weight_levels`.
            block_size: entries of the axis after ``axis`` that share a scale, for blockwise precisions.
            scales: learned ones, for integers, (n_channels,) or (n_channels * n_blocks,); by default they are taken
                from the weight.
            up: see :meth:`weight_integers`; not for blockwise precisions.
        """
        weight, bits = weight.detach().float(), precision.weight_bits
        if precision.weight_format == "fp8":
            peak = weight.movedim(axis, 0).flatten(1).abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
            scales = peak / FP8_MAX
            return StoredWeight(to_fp8(weight / _along(scales, weight.ndim, axis)), scales, axis)
        rows = weight.reshape(-1, block_size) if block_size else weight
        rows_axis = 0 if block_size else axis
        exact = is_exact(precision, depthwise)
        if scales is None:
            scales = self.weight_scales(rows, bits, rows_axis, exact)
        if not precision.quantizes_activations:
            # The scale of a weight-only layer has the type that the layer computes in.
            scales = scales.clamp_min(SMALLEST_HALF).half()
        values = self.weight_integers(rows, scales.float(), bits, rows_axis, exact, up).to(torch.int8)
        if block_size:
            return StoredWeight(values.view_as(weight), scales.view(len(weight), -1), axis + 1, block_size)
        return StoredWeight(values, scales, axis)


def is_exact(precision: Precision, depthwise: bool) -> bool:
    """Whether kernels are free of the cap on integer weights; see :meth:`Scheme.weight_levels`."""
    return depthwise or not precision.quantizes_activations


def fp8_scale(low: float, high: float) -> float:
    """The scale that takes the larger magnitude of a range to the largest fp8 number."""
    return _float32(max(-low, high) / FP8_MAX) or 1.0


def quantize_fp8(x: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """Quantize and dequantize, saturating, into ``out`` or a new tensor.

    Adding and taking away a large enough float rounds to the spacing of fp8 numbers, in a third of the time that
    the conversions there and back take.
    """
    y = torch.div(x, _divisor(scale, x), out=out).clamp_(-FP8_MAX, FP8_MAX)
    bits = y.view(torch.int32).bitwise_and(EXPONENT).clamp_min_(FP8_LEAST_EXPONENT).add_(TO_SPACING)
    large = bits.view(torch.float32)
    return y.add_(large).sub_(large).mul_(scale)


def to_fp8(x: Tensor) -> Tensor:
    """Nearest fp8 numbers, saturating; as ``QuantizeLinear`` rounds."""
    return x.clamp(-FP8_MAX, FP8_MAX).to(FP8)


def _divisor(scale: float, x: Tensor) -> Tensor:
    """A tensor, since CUDA multiplies by the reciprocal of a number, which moves values at ties to other levels."""
    return torch.tensor(scale, dtype=x.dtype, device=x.device)


def _float32(value: float) -> float:
    """Round to what an ONNX scale can hold, so that simulator and engine share every bit of it."""
    return float(np.float32(value))


def _along(scales: Tensor, ndim: int, axis: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = -1
    return scales.reshape(shape)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("unsigned_activations", signed_activations=False, carries_bf16=True),
        # x86 without VNNI adds two u8*s8 products in saturating int16 (vpmaddubsw): 2 * 255 * 64 still fits.
        Scheme("unsigned_activations_no_vnni", signed_activations=False, max_weight_level=64, carries_bf16=True),
        Scheme(
            "unsigned_activations_per_tensor", signed_activations=False, per_tensor_weights=True, carries_bf16=True
        ),
        Scheme(
            "unsigned_activations_per_tensor_no_vnni", signed_activations=False, max_weight_level=64,
            per_tensor_weights=True, carries_bf16=True,
        ),
        Scheme("signed_symmetric", signed_activations=True),
        Scheme("tensorrt", signed_activations=True, quantizes_residuals=True),
    )
}


WORDS = ("symmetric", "asymmetric", "per-tensor", "per-channel", "power-of-two")
OF_WORDS = "vendor:"
"""Before the name of a scheme that words describe."""


def scheme_of_words(given: str) -> Scheme:
    """The scheme that words describe: ``symmetric`` or ``asymmetric`` activations (default), ``per-tensor`` or
    ``per-channel`` weights (default), ``power-of-two`` scales; with commas between them.

    Raises:
        HwsmpqError: another word, or two that contradict each other.
    """
    words = [word.strip() for word in given.split(",") if word.strip()]
    unknown = [word for word in words if word not in WORDS]
    opposed = [pair for pair in (WORDS[:2], WORDS[2:4]) if set(pair) <= set(words)]
    if unknown or opposed:
        raise HwsmpqError(
            f"no quantization scheme {given!r}",
            f"{unknown[0]} is none of its words" if unknown else f"{' and '.join(opposed[0])} contradict each other",
            f"give some of {', '.join(WORDS)}, with commas between them",
        )
    name = ",".join(word for word in WORDS if word in words and word not in ("asymmetric", "per-channel"))
    if not name:
        return SCHEMES["unsigned_activations"]
    return Scheme(
        OF_WORDS + name, signed_activations="symmetric" in words, per_tensor_weights="per-tensor" in words,
        power_of_two_scales="power-of-two" in words,
    )


def get_scheme(name: str) -> Scheme:
    """The scheme of a target.

    Raises:
        HwsmpqError: no such scheme.
    """
    if name.startswith(OF_WORDS):
        return scheme_of_words(name.removeprefix(OF_WORDS))
    if name not in SCHEMES:
        raise HwsmpqError(f"unknown quantization scheme {name!r}", fix=f"one of {', '.join(SCHEMES)}")
    return SCHEMES[name]

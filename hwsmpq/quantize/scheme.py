"""Quantization schemes: one definition of the integer grids, for the simulator and the Q/DQ writer alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError


@dataclass(frozen=True)
class Grid:
    """An integer grid for activations: real = (q - zero_point) * scale, low <= q <= high."""

    scale: float
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class Scheme:
    """How a target represents quantized tensors.

    Weights are symmetric, one scale an output channel, levels -n .. n with n = 2^(b-1)-1, at most
    ``max_weight_level``. Activations have one scale a tensor: unsigned with a zero point, or
    (``signed_activations``) symmetric with zero point 0.
    """

    name: str
    signed_activations: bool
    max_weight_level: int = 127

    def activation_grid(self, clip: tuple[float, float], bits: int) -> Grid:
        """Grid that covers ``clip`` (which is widened to hold 0, so that zero padding is exact)."""
        low, high = min(clip[0], 0.0), max(clip[1], 0.0)
        if self.signed_activations:
            levels = 2 ** (bits - 1) - 1
            scale = _float32(max(high, -low) / levels) or 1.0
            return Grid(scale, 0, -levels - 1, levels)
        levels = 2**bits - 1
        scale = _float32((high - low) / levels) or 1.0
        return Grid(scale, min(max(round(-low / scale), 0), levels), 0, levels)

    def quantize_activation(self, x: Tensor, grid: Grid) -> Tensor:
        """Quantize and dequantize, one tensor allocated: the memory traffic decides the speed here."""
        return (
            torch.div(x, grid.scale).round_()
            .clamp_(grid.low - grid.zero_point, grid.high - grid.zero_point).mul_(grid.scale)
        )

    def weight_levels(self, bits: int, depthwise: bool = False) -> int:
        """Largest absolute integer of a weight. Depthwise kernels are free of the cap: they add no products of
        different channels, and were measured never to saturate (grouped ones with a multiplier do)."""
        if depthwise:
            return 2 ** (bits - 1) - 1  # type: ignore[no-any-return]
        return min(2 ** (bits - 1) - 1, self.max_weight_level)  # type: ignore[no-any-return]

    def weight_scales(self, weight: Tensor, bits: int, axis: int, depthwise: bool = False) -> Tensor:
        """One scale a channel, shape (n_channels,), float32. At 8 bits the channel's largest absolute value is the
        last level; below, the clip ratio with the least squared error of that channel is taken."""
        flat = weight.detach().movedim(axis, 0).flatten(1).float()
        levels = self.weight_levels(bits, depthwise)
        peak = flat.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        if bits >= 8:
            return peak / levels
        best, error = peak / levels, torch.full_like(peak, torch.inf)
        for ratio in torch.linspace(0.4, 1.0, 31).tolist():
            scale = peak * ratio / levels
            q = torch.round(flat / scale[:, None]).clamp_(-levels, levels)
            now = (q.mul_(scale[:, None]) - flat).square_().sum(1)
            best = torch.where(now < error, scale, best)
            error = torch.minimum(now, error)
        return best

    def weight_integers(
        self, weight: Tensor, scales: Tensor, bits: int, axis: int, depthwise: bool = False
    ) -> Tensor:
        """Integer weights as float32, same shape as ``weight``."""
        levels = self.weight_levels(bits, depthwise)
        return torch.round(weight / _along(scales, weight.ndim, axis)).clamp_(-levels, levels)

    def quantize_weight(self, weight: Tensor, bits: int, axis: int, depthwise: bool = False) -> Tensor:
        """Quantize and dequantize a weight."""
        scales = self.weight_scales(weight, bits, axis, depthwise)
        return self.weight_integers(weight, scales, bits, axis, depthwise) * _along(scales, weight.ndim, axis)


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
        Scheme("unsigned_activations", signed_activations=False),
        # x86 without VNNI adds two u8*s8 products in saturating int16 (vpmaddubsw): 2 * 255 * 64 still fits.
        Scheme("unsigned_activations_no_vnni", signed_activations=False, max_weight_level=64),
        Scheme("signed_symmetric", signed_activations=True),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme of a target.

    Raises:
        HwsmpqError: no such scheme.
    """
    if name not in SCHEMES:
        raise HwsmpqError(f"unknown quantization scheme {name!r}", fix=f"one of {', '.join(SCHEMES)}")
    return SCHEMES[name]

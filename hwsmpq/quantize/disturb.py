"""What two runtimes may make of one network: the inputs of its layers, a little changed before they are rounded."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from hwsmpq.model.agreement import CHANGE
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.types import Format

STEP = 1e-2
"""Of a step of an integer grid: ten to a hundred times what float sums in another order and approximated functions
move a value by."""
RELATIVE: dict[Format, float] = {"fp32": CHANGE, "bf16": 2.0**-8, "fp16": 2.0**-11, "fp8": STEP * 2.0**-3}
"""Of the values that a layer reads in other formats. In 16 bits it is what one rounding changes, where runtimes round
at other places."""
HALF = RELATIVE["fp16"]
N_AT_ONCE = 16
"""Products that a tensor core adds up before it rounds their sum."""


class Disturbance:
    """Uniform noise on the inputs of layers, the same for all samples of a chunk.

    A value within the noise of a tie takes the next level. In a network of many quantized layers such changes breed
    others, until its results differ by about what rounding itself does to them, however small the first change was.

    Args:
        halves: whether the runtime may keep in fp16 what lies between layers, and adds up in fp16 in layers of fp16.
            The n-th of N sums of products of random signs has n / N of the energy of the last, and each is rounded: in
            all N / 2 times what one rounding changes, of which the noise has twice the energy.
    """

    def __init__(self, seed: int = 0, step: float = STEP, halves: bool = False) -> None:
        self._seed, self._step, self._halves = seed, step, halves

    def __call__(self, x: Tensor, layer: QuantizedLayer) -> Tensor:
        """The input of a layer (n, ...), changed."""
        generator = torch.Generator().manual_seed(self._seed + zlib.crc32(layer.layer.input_tensor.encode()))
        noise = torch.rand(x.shape[1:], generator=generator).mul_(2).sub_(1).to(x.device)
        if layer.grid is None:
            return x * noise.mul_(self._relative(layer)).add_(1)
        rounded = x * (HALF * noise) if self._halves else 0
        noise = noise * (self._step * layer.grid.scale)
        return x + rounded + (noise if layer.inverse is None else noise / layer.inverse.to(x.device))

    def _relative(self, layer: QuantizedLayer) -> float:
        known = RELATIVE[layer.precision.activation_format]
        if not self._halves:
            return known
        if layer.precision.activation_format != "fp16":
            return max(known, HALF)
        shape = layer.layer.weight_shape
        n_sums = math.prod(shape) / shape[layer.layer.channel_axis] / N_AT_ONCE
        return HALF * math.sqrt(1 + n_sums / 4)

"""What two runtimes may make of one network: its tensors, a little changed before they are rounded."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

from hwsmpq.model.agreement import CHANGE
from hwsmpq.quantize.layer import Operand
from hwsmpq.types import Format

STEP = 1e-2
"""Of a step of an integer grid: ten to a hundred times what float sums in another order and approximated functions
move a value by."""
RELATIVE: dict[Format, float] = {"fp32": CHANGE, "bf16": 2.0**-8, "fp16": 2.0**-11, "fp8": STEP * 2.0**-3}
"""Of the values that a layer reads in other formats, and of results. In 16 bits it is what one rounding changes, where
runtimes round at other places."""
ATEN = torch.ops.aten
SUMS = {ATEN.sum.dim_IntList, ATEN.mean.dim, ATEN.var.correction, ATEN.std.correction, ATEN.linalg_vector_norm.default}
"""Operations besides layers whose results depend on the order in which they add up. A difference of two of them, such
as a variance by the mean of squares, may be little but the rounding of both."""
HALF = RELATIVE["fp16"]
N_AT_ONCE = 16
"""Products that a tensor core adds up before it rounds their sum."""

N_NUMBERS = 2**18
"""Random numbers that are made; tensors are disturbed by stretches of them."""


class Disturbance:
    """Uniform noise on tensors, another for every sample; the same again for the same seed.

    A value within the noise of a tie takes the next level. In a network of many quantized layers such changes breed
    others, until its results differ by about what rounding itself does to them, however small the first change was.

    Args:
        halves: whether the runtime may keep in fp16 what lies between layers, and adds up in fp16 in layers of fp16.
            The n-th of N sums of products of random signs has n / N of the energy of the last, and each is rounded: in
            all N / 2 times what one rounding changes, of which the noise has twice the energy.
    """

    def __init__(self, seed: int = 0, step: float = STEP, halves: bool = False) -> None:
        self._step, self._halves, self._starts = step, halves, random.Random(seed)
        self._numbers = torch.rand(N_NUMBERS, generator=torch.Generator().manual_seed(seed)).mul_(2).sub_(1).repeat(2)

    def input(self, x: Tensor, layer: Operand) -> Tensor:
        """The input of a layer (n, ...), changed."""
        noise = self._noise(x)
        if layer.grid is None:
            return x * (noise * self._relative(layer)).add_(1)
        rounded = x * (HALF * noise) if self._halves else 0
        noise = noise * (self._step * layer.grid.scale)
        return x + rounded + (noise if layer.inverse is None else noise / layer.inverse.to(x.device))

    def result_in(self, number_format: Format, x: Any) -> Any:
        """A result in fp32 or bf16, changed; what is no tensor of floats stays as it is."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return x * (self._noise(x) * RELATIVE[number_format]).add_(1)

    def _noise(self, x: Tensor) -> Tensor:
        """Numbers from -1 to 1 in the shape of a tensor, laid out in memory as it is."""
        start, n = self._starts.randrange(N_NUMBERS), x.numel()
        numbers = self._numbers if n <= N_NUMBERS else self._numbers.repeat(math.ceil(n / N_NUMBERS))
        numbers = numbers[start : start + n].to(x.device)
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            n_rows, n_channels, height, width = x.shape
            return numbers.view(n_rows, height, width, n_channels).permute(0, 3, 1, 2)
        return numbers.view(x.shape)

    def _relative(self, layer: Operand) -> float:
        known = RELATIVE[layer.precision.activation_format]
        if not self._halves:
            return known
        if layer.precision.activation_format != "fp16":
            return max(known, HALF)
        n_sums = layer.layer.n_terms / N_AT_ONCE
        return HALF * math.sqrt(1 + n_sums / 4)

"""What two runtimes may make of one network: the inputs of its layers, a little changed before they are rounded."""

from __future__ import annotations

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


class Disturbance:
    """Uniform noise on the inputs of layers, the same for all samples of a chunk.

    A value within the noise of a tie takes the next level. In a network of many quantized layers such changes breed
    others, until its results differ by about what rounding itself does to them, however small the first change was.
    """

    def __init__(self, seed: int = 0, step: float = STEP) -> None:
        self._seed, self._step = seed, step

    def __call__(self, x: Tensor, layer: QuantizedLayer) -> Tensor:
        """The input of a layer (n, ...), changed."""
        generator = torch.Generator().manual_seed(self._seed + zlib.crc32(layer.layer.input_tensor.encode()))
        noise = torch.rand(x.shape[1:], generator=generator).mul_(2).sub_(1).to(x.device)
        if layer.grid is None:
            return x * noise.mul_(RELATIVE[layer.precision.activation_format]).add_(1)
        noise *= self._step * layer.grid.scale
        return x + (noise if layer.inverse is None else noise / layer.inverse.to(x.device))

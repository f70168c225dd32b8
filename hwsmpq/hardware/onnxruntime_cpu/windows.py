"""Convolutions as matrix products: which positions of the input each output position reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

LEAST_CHANNELS = 8
"""Where windows are gathered. Measured against fp32, 3 channels take four times as long, 8 twice, 24 and more less."""


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution, one entry a spatial dimension; ``pads`` holds all begins, then all ends."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def is_pointwise(self) -> bool:
        """Whether every output position reads the one input position that has its index."""
        return prod(self.kernel) == prod(self.strides) == 1 and not any(self.pads)

    @property
    def padded(self) -> tuple[int, ...]:
        n = len(self.size)
        return tuple(s + a + b for s, a, b in zip(self.size, self.pads[:n], self.pads[n:], strict=True))

    @property
    def output(self) -> tuple[int, ...]:
        sizes = zip(self.padded, self.kernel, self.strides, self.dilations, strict=True)
        return tuple((p - d * (k - 1) - 1) // s + 1 for p, k, s, d in sizes)

    def indices(self) -> list[NDArray[np.int32]]:
        """One a spatial dimension. Their sum, (*output, *kernel), has flat positions in the padded input."""
        n, found = len(self.size), []
        for axis in range(n):
            steps = np.arange(self.output[axis])[:, None] * self.strides[axis]
            steps = steps + np.arange(self.kernel[axis]) * self.dilations[axis]
            shape = [1] * (2 * n)
            shape[axis], shape[n + axis] = steps.shape
            found.append((steps * prod(self.padded[axis + 1 :])).astype(np.int32).reshape(shape))
        return found


def window_of(node: ir.Node, weight_shape: Sequence[int]) -> Window | None:
    """The geometry of a Conv node that can be a matrix product; None if it has groups or few channels, or its size or
    padding is not written down.
    """
    data = node.inputs[0]
    assert data is not None
    size = () if data.shape is None else data.shape[2:]
    padding = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if not size or not all(isinstance(n, int) for n in size) or padding != "NOTSET" or data.shape[1] != weight_shape[1]:
        return None

    def numbers(attribute: str, default: int, n: int) -> tuple[int, ...]:
        return tuple(node.attributes[attribute].as_ints()) if attribute in node.attributes else (default,) * n

    n = len(size)
    window = Window(
        tuple(size), tuple(weight_shape[2:]), numbers("strides", 1, n), numbers("dilations", 1, n),
        numbers("pads", 0, 2 * n),
    )
    return window if window.is_pointwise or weight_shape[1] >= LEAST_CHANNELS else None

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

    def indices(self) -> NDArray[np.int32]:
        """Flat positions in the padded input, shape (n output positions, n kernel positions)."""
        flat = np.arange(prod(self.padded), dtype=np.int32).reshape(self.padded)
        corners = flat[tuple(slice(0, o * s, s) for o, s in zip(self.output, self.strides, strict=True))]
        offsets = flat[tuple(slice(0, k * d, d) for k, d in zip(self.kernel, self.dilations, strict=True))]
        return corners.reshape(-1, 1) + offsets.reshape(1, -1)


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

"""Activation ranges: a histogram of every layer's input, and the clip of least squared error per bit-width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.task import tensors_sha256
from hwsmpq.quantize.scheme import Grid, Scheme
from hwsmpq.types import Ranges, TensorRange

N_BINS = 2048
EXACT_COUNT = 2**24
"""histc counts in float32, where a bin would stop growing here."""
OBSERVERS = ("mse", "minmax", "percentile")
PERCENTILE = 99.99


@dataclass
class _Histogram:
    """Counts over [low, high]; on widening, each bin's count moves to the new bin that holds its centre."""

    low: float
    high: float
    counts: NDArray[np.float64]

    def add(self, x: Tensor, count: bool) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        if low < self.low or high > self.high:
            self._widen(min(low, self.low), max(high, self.high))
        for part in x.float().flatten().split(EXACT_COUNT) if count else ():
            self.counts += torch.histc(part, N_BINS, self.low, self.high).double().numpy()

    def _widen(self, low: float, high: float) -> None:
        centres = self.centres
        counts, self.low, self.high = self.counts, low, high
        position = np.clip((centres - low) / (high - low) * N_BINS, 0, N_BINS - 1).astype(int)
        self.counts = np.bincount(position, counts, N_BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        return self.low + (np.arange(N_BINS) + 0.5) * (self.high - self.low) / N_BINS


class _Observer(fx.Interpreter):
    """Runs the graph and feeds the tensor that each layer reads to its histogram.

    Raw extremes need no counts, and counting costs several times the forward pass.
    """

    def __init__(self, captured: Captured, counts: bool) -> None:
        super().__init__(captured.graph)
        self._counts = counts
        self.histograms: dict[str, _Histogram] = {}
        self._watched = {layer.input_tensor for layer in captured.network.layers}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.name in self._watched:
            assert isinstance(result, Tensor)
            if not bool(torch.isfinite(result).all()):
                raise HwsmpqError(
                    f"calibration gives NaN or infinity in tensor {n.name!r}", "a range cannot be taken from it",
                    "check the weights and the calibration samples",
                )
            if n.name not in self.histograms:
                low, high = (float(v) for v in torch.aminmax(result))
                self.histograms[n.name] = _Histogram(low, max(high, low + 1e-12), np.zeros(N_BINS))
            self.histograms[n.name].add(result, self._counts)
        return result


def clip_of(histogram: _Histogram, bits: int, scheme: Scheme, observer: str) -> tuple[float, float]:
    """The range to represent at ``bits``: raw extremes, a two-sided percentile, or least squared error.

    The error is searched over shrunken upper and lower ends of the histogram; at 8 bits and above raw extremes are
    kept, since clipping outliers costs accuracy there (see the design's measurement on MiniLM).
    """
    low, high = histogram.low, histogram.high
    if observer == "minmax" or (observer == "mse" and bits >= 8):
        return low, high
    centres, counts = histogram.centres, histogram.counts
    if observer == "percentile":
        share = np.cumsum(counts) / counts.sum() * 100
        return float(centres[np.searchsorted(share, 100 - PERCENTILE)]), float(
            centres[min(np.searchsorted(share, PERCENTILE), N_BINS - 1)]
        )
    filled = counts > 0
    centres, counts = centres[filled], counts[filled]
    best, least = (low, high), np.inf
    lows = [low * r for r in np.linspace(0.1, 1.0, 19)] if low < 0 and not scheme.signed_activations else [low]
    for shrunk_low in lows:
        for ratio in np.linspace(0.05, 1.0, 58):
            clip = (shrunk_low, high * ratio) if not scheme.signed_activations else (low * ratio, high * ratio)
            error = _squared_error(centres, counts, scheme.activation_grid(clip, bits))
            if error < least:
                best, least = clip, error
    return best


def _squared_error(x: NDArray[np.float64], counts: NDArray[np.float64], grid: Grid) -> float:
    q = np.clip(np.round(x / grid.scale) + grid.zero_point, grid.low, grid.high)
    return float(counts @ ((q - grid.zero_point) * grid.scale - x) ** 2)


def calibrate(
    captured: Captured,
    inputs: tuple[Tensor, ...],
    scheme: Scheme,
    bits: Sequence[int],
    observer: str = "mse",
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Ranges:
    """Take activation ranges for every layer at the given bit-widths.

    Args:
        inputs: calibration samples, (n, ...) an argument of the model.
        observer: ``mse``, ``minmax`` or ``percentile``.
        progress: called with (samples done, samples in all).
    """
    if observer not in OBSERVERS:
        raise HwsmpqError(f"unknown observer {observer!r}", fix=f"one of {', '.join(OBSERVERS)}")
    needs_counts = observer == "percentile" or (observer == "mse" and min(bits, default=8) < 8)
    watcher, n = _Observer(captured, needs_counts), len(inputs[0])
    with torch.inference_mode():
        for start in range(0, n, batch_size):
            watcher.run(*(x[start : start + batch_size] for x in inputs))
            if progress:
                progress(min(start + batch_size, n), n)
    of_tensor = {
        name: TensorRange(h.low, h.high, {b: clip_of(h, b, scheme, observer) for b in bits})
        for name, h in watcher.histograms.items()
    }
    return Ranges(
        model_sha256=captured.network.model_sha256,
        data_sha256=tensors_sha256(inputs),
        scheme=scheme.name,
        observer=observer,
        n_samples=n,
        layers={layer.name: of_tensor[layer.input_tensor] for layer in captured.network.layers},
    )

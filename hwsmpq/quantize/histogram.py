"""Histograms of activations, and the range to represent: the clip of least squared error per bit-width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.quantize.scheme import Grid, Scheme
from hwsmpq.types import TensorRange

N_BINS = 2048
EXACT_COUNT = 2**24
"""histc counts in float32, where a bin would stop growing here."""
OBSERVERS = ("mse", "minmax", "percentile")
PERCENTILE = 99.99


@dataclass
class Histogram:
    """Counts over [low, high]; on widening, each bin's count moves to the new bin that holds its centre."""

    low: float
    high: float
    counts: NDArray[np.float64]

    @classmethod
    def empty(cls, low: float, high: float) -> Histogram:
        return cls(low, max(high, low + 1e-12), np.zeros(N_BINS))

    def cover(self, low: float, high: float) -> None:
        """Widen, if need be, to hold values from ``low`` to ``high``."""
        if low >= self.low and high <= self.high:
            return
        centres = self.centres
        self.low, self.high = min(low, self.low), max(high, self.high)
        position = np.clip((centres - self.low) / (self.high - self.low) * N_BINS, 0, N_BINS - 1).astype(int)
        self.counts = np.bincount(position, self.counts, N_BINS)

    def count(self, x: Tensor) -> None:
        """Count values that it covers."""
        for part in _in_memory(x).float().flatten().split(EXACT_COUNT):
            self.counts += torch.histc(part, N_BINS, self.low, self.high).double().numpy()

    @property
    def centres(self) -> NDArray[np.float64]:
        return self.low + (np.arange(N_BINS) + 0.5) * (self.high - self.low) / N_BINS


def extremes(x: Tensor) -> tuple[float, float]:
    """The least and the largest value; NaN if there is any."""
    low, high = torch.aminmax(_in_memory(x))
    return float(low), float(high)


def _in_memory(x: Tensor) -> Tensor:
    """The same values in an order that torch need not copy them for."""
    return x.movedim(1, -1) if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else x


def needs_counts(bits: Iterable[int], observer: str) -> bool:
    """Whether ranges follow from more than the extremes."""
    return observer == "percentile" or (observer == "mse" and min(bits, default=8) < 8)


def range_of(
    histogram: Histogram, bits: Iterable[int], scheme: Scheme, observer: str, smooth: tuple[float, ...] = ()
) -> TensorRange:
    """The range of a tensor at the given bit-widths; ``smooth`` is what its channels were divided by."""
    clips = {b: clip_of(histogram, b, scheme, observer) for b in bits}
    return TensorRange(histogram.low, histogram.high, clips, smooth)


def clip_of(histogram: Histogram, bits: int, scheme: Scheme, observer: str) -> tuple[float, float]:
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

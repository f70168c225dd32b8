"""Factors of input channels, which a linear layer's inputs are divided by and its weights multiplied by.

A linear layer computes x W^T = (x / s) (W * s)^T for any positive s, one factor an input channel:

    s_j = |x_j|^a / |W_j|^(1 - a)

Where inputs are quantized, weights take over a share of the spread between channels (SmoothQuant, Xiao et al. 2022,
arXiv 2211.10438; sizes are the largest magnitudes). The one scale of an activation must serve its largest channel, and
in transformers a few channels are much larger than all others, whereas a weight has little spread and a scale for every
output channel. Where weights alone are quantized, those of large inputs get a finer grid (AWQ, Lin et al. 2024, arXiv
2306.00978; sizes are mean magnitudes. On MiniLM at w4a16 the paper's form, without |W_j|, left .90 of the squared error
of layers, this one .84).

What strength a is best depends on the bits on both sides (measured on MiniLM: what reduces the error of int8 to a
fourth doubles that of w4a8), so every tensor has one strength a precision, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from hwsmpq.model.capture import Captured
from hwsmpq.quantize.histogram import Histogram, needs_counts, range_of
from hwsmpq.quantize.layer import QuantizedLayer, inverse_of
from hwsmpq.quantize.residual import residuals
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.quantize.watch import See
from hwsmpq.types import Layer, Precision

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WEIGHT_STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5)
"""Where weights alone are quantized: of 0 to 1 in tenths, the best were 0 to .3 in MiniLM."""
LARGEST_ERROR, LARGEST_WEIGHT_ERROR = 0.7, 0.9
"""Share of the error without factors that may remain: where inputs are quantized, and where weights alone are. There,
smaller gains of layers were no gain of the network (measured on MiniLM at w4a8 and w6a6), and the division is not free;
here, they were (w4a16: factors of 17 tensors brought 1 - cosine from .0488 to .0366, of the best 8 to .0442)."""
SMALLEST_SIZE = 1e-5
"""Of the largest channel's: what a channel counts that is zero in all samples, or in the weight."""
SMALLEST_ROW = 0.1
"""Of the median of the sizes of rows, which errors are relative to."""
N_ROWS = 512
"""Rows of a tensor that errors are taken over, and as many that ranges below 8 bits are taken from."""


def smoothable(captured: Captured) -> dict[str, list[Layer]]:
    """Tensors that may be divided by factors, with the layers that read them.

    These layers are all linear, no layer with another input shares their weights, and no residual addition reads
    the tensor as they do.
    """
    readers: dict[str, list[Layer]] = {}
    inputs_of: dict[str, set[str]] = {}
    for layer in captured.network.layers:
        for tensor in layer.tensors:
            readers.setdefault(tensor, []).append(layer)
        inputs_of.setdefault(layer.weight_name, set()).add(layer.input_tensor)
    added = {str(node.args[residual.argument]) for node, residual in residuals(captured).items()}
    return {
        tensor: layers
        for tensor, layers in readers.items()
        if tensor not in added
        and all(layer.kind == "linear" and len(inputs_of[layer.weight_name]) == 1 for layer in layers)
    }


@dataclass
class _Half:
    """What was seen of half the rows of a tensor: the extremes of every channel, (n_channels,), and some rows."""

    low: Tensor
    high: Tensor
    rows: list[Tensor] = field(default_factory=list)

    @property
    def peaks(self) -> Tensor:
        return torch.maximum(-self.low, self.high)

    @property
    def means(self) -> Tensor:
        """Of the magnitudes, over the rows."""
        return torch.cat(self.rows).abs().mean(0)


@dataclass(frozen=True, eq=False)
class _Sizes:
    """Of every channel, (n_channels,): in half the rows of a tensor, in all of them, and in the weights."""

    of_half: Tensor
    of_all: Tensor
    of_weights: Tensor


class Smoother:
    """Sees the tensors that may be smoothed, in halves, and finds the factors of those that profit.

    Args:
        observer: what takes the ranges.
        n_rows: that are kept of every half of a batch.

    Attributes:
        tensors: names of the tensors that may be smoothed.
    """

    def __init__(self, captured: Captured, scheme: Scheme, observer: str, n_rows: int) -> None:
        self._captured, self._scheme, self._observer, self._n_rows = captured, scheme, observer, n_rows
        self._readers = smoothable(captured)
        self._seen: dict[str, list[_Half]] = {tensor: [] for tensor in self._readers}
        self.tensors = tuple(self._readers)

    def see(self, tensor: str) -> list[See]:
        """What has to look at a tensor: one if it may be smoothed, else none."""
        return [partial(self._see, self._seen[tensor])] if tensor in self._seen else []

    def extremes(self, tensor: str) -> Tensor:
        """The least and the largest value of every channel, (2, n_channels)."""
        seen = self._seen[tensor]
        return torch.stack([
            torch.stack([half.low for half in seen]).amin(0), torch.stack([half.high for half in seen]).amax(0)
        ])

    def find(self, precisions: Sequence[Precision]) -> dict[str, dict[str, tuple[float, ...]]]:
        """The factors by precision and name of the tensor, for the tensors that profit."""
        found: dict[str, dict[str, tuple[float, ...]]] = {precision.name: {} for precision in precisions}
        for tensor, layers in self._readers.items():
            if len(self._seen[tensor]) < 2:
                continue  # a single row
            weights = [self._captured.weight_of(layer) for layer in layers]
            with torch.inference_mode():
                choice = _Choice(self._seen[tensor], layers, weights, self._scheme, self._observer)
                for precision in precisions:
                    factors = choice.factors(precision)
                    if factors:
                        found[precision.name][tensor] = factors
        return found

    def _see(self, seen: list[_Half], x: Tensor) -> None:
        halves = [half for half in x.reshape(-1, x.shape[-1]).tensor_split(2) if len(half)]
        seen += [_Half(*half.aminmax(dim=0)) for half in halves[len(seen) :]]
        for known, half in zip(seen, halves, strict=False):
            low, high = half.aminmax(dim=0)
            known.low, known.high = torch.minimum(known.low, low), torch.maximum(known.high, high)
            # Evenly, and not all at one position: the step is no multiple of the rows of a sample.
            known.rows.append(half[torch.linspace(0, len(half) - 1, min(self._n_rows, len(half))).long()])


class _Choice:
    """The strengths of one tensor, judged by the error of the outputs of the layers that read it.

    Smoothing draws the range tight around every channel, and what few samples gain by that is lost on others (measured:
    Gaussian channels and 512 samples, .6 of the error on these, 3 times the error on new ones). So factors and ranges
    are taken from one half of the rows, and judged on the other.

    Args:
        weights: of ``layers``.
    """

    def __init__(
        self, halves: list[_Half], layers: list[Layer], weights: list[Tensor], scheme: Scheme, observer: str
    ) -> None:
        self._half, other = halves
        self._layers, self._weights, self._scheme, self._observer = layers, weights, scheme, observer
        self._x = torch.cat(other.rows)
        self._outputs = [self._x @ weight.T for weight in weights]
        self._sizes = [_sizes(y) for y in self._outputs]
        magnitudes = torch.cat(weights).abs()
        self._peaks = _Sizes(self._half.peaks, torch.maximum(self._half.peaks, other.peaks), magnitudes.amax(0))
        self._means = _Sizes(self._half.means, (self._half.means + other.means) / 2, magnitudes.mean(0))

    def factors(self, precision: Precision) -> tuple[float, ...]:
        """The factors of the strength with the least error; none if that gains little."""
        sizes, strengths, share = self._peaks, STRENGTHS, LARGEST_ERROR
        if not precision.quantizes_activations:
            sizes, strengths, share = self._means, WEIGHT_STRENGTHS, LARGEST_WEIGHT_ERROR
        best, least = None, share * self._error((), precision)
        for strength in strengths:
            error = self._error(factors_of(sizes.of_half, sizes.of_weights, strength), precision)
            if error < least:
                best, least = strength, error
        return () if best is None else factors_of(sizes.of_all, sizes.of_weights, best)

    def _error(self, smooth: tuple[float, ...], precision: Precision) -> float:
        """Squared error of every row of outputs by its size, in the mean over rows and summed over layers.

        Some tokens have outputs many times larger than others, and the normalization behind makes them count alike.
        """
        seen = self._half.low, self._half.high, torch.cat(self._half.rows)
        low, high, rows = (x * inverse_of(smooth) if smooth else x for x in seen)
        histogram, bits = Histogram.empty(float(low.min()), float(high.max())), [precision.activation_bits]
        if needs_counts(bits, self._observer):
            histogram.count(rows)
        observed = range_of(histogram, bits, self._scheme, self._observer, smooth)
        quantized = [QuantizedLayer(layer, precision, observed, self._scheme) for layer in self._layers]
        x = quantized[0].input(self._x)
        return sum(
            float(((x @ layer.weight(weight).T - y).square().sum(1) / size).mean())
            for layer, weight, y, size in zip(quantized, self._weights, self._outputs, self._sizes, strict=True)
        )


def _sizes(outputs: Tensor) -> Tensor:
    """Squared distance of every row from the mean of all, (n_rows,); rows near it count as somewhat farther."""
    sizes = (outputs - outputs.mean(0)).square().sum(1)
    return sizes.clamp_min(SMALLEST_ROW * float(sizes.median()))


def factors_of(input_sizes: Tensor, weight_sizes: Tensor, strength: float) -> tuple[float, ...]:
    """Factors from the sizes of every channel, (n_channels,), with a geometric mean of 1."""
    x, w = (
        sizes.double().clamp_min(max(float(sizes.max()) * SMALLEST_SIZE, torch.finfo(torch.float32).tiny)).log()
        for sizes in (input_sizes, weight_sizes)
    )
    exponents = strength * x - (1 - strength) * w
    return tuple((exponents - exponents.mean()).exp().float().tolist())

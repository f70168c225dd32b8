"""Activation ranges: what calibration samples show of every layer's input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.parts import tensors_sha256
from hwsmpq.quantize.bias import N_SAMPLES, shifts
from hwsmpq.quantize.histogram import OBSERVERS, Histogram, extremes, needs_counts, range_of
from hwsmpq.quantize.layer import inverse_of
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.quantize.smooth import N_ROWS, Smoother
from hwsmpq.quantize.watch import See, watch
from hwsmpq.types import PRECISIONS, Precision, Ranges, TensorRange

BATCH_SIZE = 16
"""Measured on EfficientNet-Lite0: batches of 8 take 1.6 times the CPU time, of 32 about the same. Rows that smoothing
is judged by are drawn batch by batch, so that another size gives other factors."""


class _Observer:
    """Feeds a tensor, divided by factors if there are any, to a histogram.

    Raw extremes need no counts, and counting costs several times the forward pass.
    """

    def __init__(self, tensor: str, counts: bool, smooth: tuple[float, ...] = ()) -> None:
        self._tensor, self._counts, self._smooth = tensor, counts, smooth
        self._histogram: Histogram | None = None

    def see(self, x: Tensor) -> None:
        if self._smooth:
            x = x * inverse_of(self._smooth)
        low, high = extremes(x)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise HwsmpqError(
                f"calibration gives NaN or infinity in tensor {self._tensor!r}", "a range cannot be taken from it",
                "check the weights and the calibration samples",
            )
        if self._histogram is None:
            self._histogram = Histogram.empty(low, high)
        self._histogram.cover(low, high)
        if self._counts:
            self._histogram.count(x)

    def range(self, bits: Sequence[int], scheme: Scheme, observer: str) -> TensorRange:
        assert self._histogram is not None
        return range_of(self._histogram, bits, scheme, observer, self._smooth)


def calibrate(
    captured: Captured,
    inputs: tuple[Tensor, ...],
    scheme: Scheme,
    bits: Sequence[int],
    observer: str = "mse",
    batch_size: int = BATCH_SIZE,
    smooth: Sequence[Precision] = (),
    correct: Sequence[Precision] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Ranges:
    """Take activation ranges for every layer at the given bit-widths.

    Args:
        inputs: calibration samples, (n, ...) an argument of the model.
        observer: ``mse``, ``minmax`` or ``percentile``.
        smooth: precisions, of those with quantized weights, in which inputs of linear layers are divided by factors
            where that makes them more exact; see :mod:`hwsmpq.quantize.smooth`.
        correct: precisions in which biases take back what quantization adds to the mean of outputs, if that helps; see
            :mod:`hwsmpq.quantize.bias`.
        batch_size: samples that run together.
        progress: called with (samples done, samples in all); they count twice where smoothed inputs may have to be
            counted too, and those that shifts of means are taken from once more.
    """
    if observer not in OBSERVERS:
        raise HwsmpqError(f"unknown observer {observer!r}", fix=f"one of {', '.join(OBSERVERS)}")
    layers, n = captured.network.layers, len(inputs[0])
    counts = needs_counts({*bits, *(precision.activation_bits for precision in smooth)}, observer)
    smoother = Smoother(captured, scheme, observer, max(1, N_ROWS * batch_size // n)) if smooth else None
    n_ranges = 2 * n if smoother and smoother.tensors and counts else n
    total = n_ranges + (min(n, N_SAMPLES) if correct else 0)

    def run_through(see: Mapping[str, Sequence[See]], n_before: int = 0) -> None:
        watch(captured, inputs, batch_size, see, lambda done: progress(n_before + done, total) if progress else None)

    plain = {tensor: _Observer(tensor, counts) for layer in layers for tensor in layer.tensors}
    run_through({t: [one.see, *(smoother.see(t) if smoother else ())] for t, one in plain.items()})
    smoothing = smoother.find(smooth) if smoother else {}
    smoothed = {
        (tensor, factors): _Observer(tensor, counts, factors)
        for found in smoothing.values() for tensor, factors in found.items()
    }
    if counts and smoothed:
        see: dict[str, list[See]] = {}
        for (tensor, _), one in smoothed.items():
            see.setdefault(tensor, []).append(one.see)
        run_through(see, n)
    elif smoother:
        for (tensor, _), one in smoothed.items():
            one.see(smoother.extremes(tensor))
    if progress:
        progress(n_ranges, total)
    ranges = Ranges(
        model_sha256=captured.network.model_sha256,
        data_sha256=tensors_sha256(inputs),
        scheme=scheme.name,
        observer=observer,
        n_samples=n,
        layers={layer.name: plain[layer.input_tensor].range(bits, scheme, observer) for layer in layers},
        smoothed={
            name: {
                tensor: smoothed[tensor, factors].range([PRECISIONS[name].activation_bits], scheme, observer)
                for tensor, factors in found.items()
            }
            for name, found in smoothing.items()
        },
        operands={
            layer.name: plain[layer.operand_tensor].range(bits, scheme, observer)
            for layer in layers if not layer.has_weight
        },
    )
    if not correct:
        return ranges
    found = shifts(
        captured, inputs, ranges, scheme, correct, batch_size,
        lambda done: progress(n_ranges + done, total) if progress else None,
    )
    if progress:
        progress(total, total)
    return replace(ranges, shifts=found)

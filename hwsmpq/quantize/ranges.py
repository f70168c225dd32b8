"""Activation ranges: what calibration samples show of every layer's input."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, fx

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.task import tensors_sha256
from hwsmpq.quantize.histogram import OBSERVERS, Histogram, needs_counts, range_of
from hwsmpq.quantize.operands import inverse_of
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.quantize.smooth import find_smoothing
from hwsmpq.types import Precision, Ranges

PLAIN: tuple[float, ...] = ()
"""The factors of an input that is read as it is."""


class _Observer(fx.Interpreter):
    """Runs the graph and feeds the tensor that each layer reads, divided by each of its ``factors``, to a histogram.

    Raw extremes need no counts, and counting costs several times the forward pass.
    """

    def __init__(
        self, captured: Captured, counts: bool, factors: dict[str, Collection[tuple[float, ...]]]
    ) -> None:
        super().__init__(captured.graph)
        self._counts, self._factors = counts, factors
        self.histograms: dict[tuple[str, tuple[float, ...]], Histogram] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.name in self._factors:
            assert isinstance(result, Tensor)
            if not bool(torch.isfinite(result).all()):
                raise HwsmpqError(
                    f"calibration gives NaN or infinity in tensor {n.name!r}", "a range cannot be taken from it",
                    "check the weights and the calibration samples",
                )
            for smooth in self._factors[n.name]:
                read = result * inverse_of(smooth) if smooth else result
                key = (n.name, smooth)
                if key not in self.histograms:
                    self.histograms[key] = Histogram.empty(*(float(v) for v in torch.aminmax(read)))
                self.histograms[key].add(read, self._counts)
        return result


def calibrate(
    captured: Captured,
    inputs: tuple[Tensor, ...],
    scheme: Scheme,
    bits: Sequence[int],
    observer: str = "mse",
    batch_size: int = 32,
    smooth: Sequence[Precision] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Ranges:
    """Take activation ranges for every layer at the given bit-widths.

    Args:
        inputs: calibration samples, (n, ...) an argument of the model.
        observer: ``mse``, ``minmax`` or ``percentile``.
        smooth: precisions, of those that quantize activations, in which inputs of linear layers are smoothed where that
            makes them more exact; see :mod:`hwsmpq.quantize.smooth`.
        progress: called with (samples done, samples in all); smoothing takes them twice.
    """
    if observer not in OBSERVERS:
        raise HwsmpqError(f"unknown observer {observer!r}", fix=f"one of {', '.join(OBSERVERS)}")
    layers, n = captured.network.layers, len(inputs[0])
    total = 2 * n if smooth else n

    def tell(done: int) -> None:
        if progress:
            progress(done, total)

    smoothing = find_smoothing(captured, inputs, scheme, smooth, observer, batch_size, tell) if smooth else {}
    factors = {
        layer.input_tensor: {PLAIN, *(found.get(layer.input_tensor, PLAIN) for found in smoothing.values())}
        for layer in layers
    }
    all_bits = {*bits, *(precision.activation_bits for precision in smooth)}
    watcher = _Observer(captured, needs_counts(all_bits, observer), factors)
    with torch.inference_mode():
        for start in range(0, n, batch_size):
            watcher.run(*(x[start : start + batch_size] for x in inputs))
            tell(total - n + min(start + batch_size, n))
    plain = {tensor: range_of(watcher.histograms[tensor, PLAIN], bits, scheme, observer) for tensor in factors}
    return Ranges(
        model_sha256=captured.network.model_sha256,
        data_sha256=tensors_sha256(inputs),
        scheme=scheme.name,
        observer=observer,
        n_samples=n,
        layers={layer.name: plain[layer.input_tensor] for layer in layers},
        smoothed={
            name: {
                tensor: range_of(
                    watcher.histograms[tensor, found], [Precision.parse(name).activation_bits], scheme, observer, found
                )
                for tensor, found in smoothing[name].items()
            }
            for name in smoothing
        },
    )

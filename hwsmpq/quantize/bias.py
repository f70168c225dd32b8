"""What quantization adds to the mean of a layer's outputs, for its bias to take back.

Rounding is not fair: weights of few inputs and activations behind a rectifier make every output of a channel larger, or
smaller, by nearly the same. As in Nagel et al. 2019 (arXiv 1906.04721, section 4.2), but from samples: each layer is
looked at alone, on the inputs of the unquantized network, so that its shift depends on its own precision only and
serves in every assignment. That helps convolutional networks much and can harm others (measured with int8: KL .016 to
.006 on EfficientNet-Lite0, 1 - cosine .0028 to .0040 on MiniLM), so every precision is tried, on other samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hwsmpq.model.capture import Captured
from hwsmpq.quantize.layer import QuantizedLayer, QuantizedLayers
from hwsmpq.quantize.met import Met
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quantize.watch import See, watch
from hwsmpq.types import REFERENCE, Layer, Precision, Ranges

N_SAMPLES = 32
"""That shifts are taken from. Those of 16 to 128 brought uniform networks as near to the unquantized one, within the
errors (measured on 160 and 1000 other samples: EfficientNet-Lite0 in int8 and w4a8, ResNet-20 in w3a3 to int8)."""
N_JUDGED, N_LOOK = 128, 16
"""Other samples, at most, which say whether shifts help; as many of them at once (ResNet-20 takes 80 for w3a3, and 16
or 32 for more bits)."""
Z_ACCEPTED, Z_CLEAR = 1.7, 3.0
"""Standard errors that the gain on all of these must exceed: what does not help is taken in one case of twenty. And
those at which the first of them decide."""

Shifts = dict[str, tuple[float, ...]]
"""Of every output channel, by layer."""


def shifts(
    captured: Captured, inputs: tuple[Tensor, ...], ranges: Ranges, scheme: Scheme, precisions: Sequence[Precision],
    batch_size: int, progress: Callable[[int], None],
) -> dict[str, Shifts]:
    """Shifts of layers with a bias, by precision, for those whose uniform network they bring closer to the unquantized.

    Args:
        inputs: samples, (n, ...) an argument of the model, of which the first are taken.
        progress: called with the samples done, of at most :data:`N_SAMPLES`.
    """
    n = min(N_SAMPLES, len(inputs[0]) // 2)
    if n < 2:
        return {}
    found = _found(captured, tuple(x[:n] for x in inputs), ranges, scheme, precisions, batch_size, progress)
    network, last = captured.network, min(n + N_JUDGED, len(inputs[0]))
    plain, corrected = (Simulator(captured, replace(ranges, shifts=one), scheme) for one in ({}, found))
    undecided, kept, gains = list(found), list[str](), {name: torch.empty(0) for name in found}
    for start in range(n, last, N_LOOK):
        end = min(start + N_LOOK, last)
        some = tuple(x[start:end] for x in inputs)
        assignments = [network.uniform(name) for name in (REFERENCE, *undecided)]
        reference, *before = plain.scores(assignments, some, lambda out, rows: out)
        after = corrected.scores(assignments[1:], some, lambda out, rows: out)
        for name, one, other in zip(list(undecided), after, before, strict=True):
            gains[name] = torch.cat([gains[name], _errors(other, reference) - _errors(one, reference)])
            verdict = helps(gains[name], end == last)
            if verdict is not None:
                undecided.remove(name)
                kept += [name] * verdict
        if not undecided:
            break
    return {name: one for name, one in found.items() if name in kept}


def _errors(out: Tensor, reference: Tensor) -> Tensor:
    """Squared distances of outputs, (n,)."""
    return (out - reference).square().reshape(len(out), -1).mean(1)


def helps(gains: Tensor, are_all: bool) -> bool | None:
    """Whether the mean of gains, (n,), exceeds 0 by more than chance; None where more of them have to say so."""
    if len(gains) < 2:
        return False
    evidence = float(gains.double().mean() / gains.double().std()) * len(gains) ** 0.5
    return evidence > Z_ACCEPTED if are_all or abs(evidence) > Z_CLEAR else None


def _found(
    captured: Captured, inputs: tuple[Tensor, ...], ranges: Ranges, scheme: Scheme, precisions: Sequence[Precision],
    batch_size: int, progress: Callable[[int], None],
) -> dict[str, Shifts]:
    see, layers, stored = dict[str, list[See]](), QuantizedLayers(ranges, scheme), []
    for layer in captured.network.layers:
        bias = captured.bias_of(layer)
        if bias is not None:
            one = _Shifts(captured, layer, bias, {p: layers.at(layer, p) for p in precisions})
            see.setdefault(layer.input_tensor, []).append(one.see)
            stored.append(one)
    watch(captured, inputs, batch_size, see, progress)
    with torch.inference_mode():
        return {p.name: {one.layer.name: one.of(p) for one in stored} for p in precisions}


class _Shifts:
    """What every precision adds to the mean of one layer's outputs.

    A layer is linear in its input, so the mean of its outputs over positions follows from the mean of what every entry
    of the weight meets. That takes one look at the input for all precisions that read it alike, and no product.
    """

    def __init__(
        self, captured: Captured, layer: Layer, bias: Tensor, quantized: Mapping[Precision, QuantizedLayer]
    ) -> None:
        self.layer, self._layers, self._bias = layer, quantized, bias
        self._weight = captured.weight_of(layer)
        self._met = Met(captured.layer_nodes[layer.name], self._weight)
        self._plain: list[Tensor] = []
        self._quantized: dict[Any, list[Tensor]] = {_reads(one): [] for one in quantized.values()}

    def see(self, x: Tensor) -> None:
        self._plain.append(self._met.means(x))
        for key, layer in {_reads(one): one for one in self._layers.values()}.items():
            self._quantized[key].append(self._met.means(layer.input(x)))

    def of(self, precision: Precision) -> tuple[float, ...]:
        """The shift of every channel, (n_channels,), drawn to 0 by as much as few samples leave open.

        Where the mean over samples is no larger than its standard error it says nothing, and a correction would only
        add that error.
        """
        layer, plain = self._layers[precision], torch.cat(self._plain)
        quantized, weight = torch.cat(self._quantized[_reads(layer)]), layer.weight(self._weight)
        # What inputs and weights change, each by itself: differences of sums would lose digits.
        shift = self._met.outputs(quantized - plain, weight) + self._met.outputs(plain, weight - self._weight)
        shift = shift.double() + (layer.bias(self._bias) - self._bias)
        mean, error = shift.mean(0), shift.var(0) / len(shift)
        return tuple((mean * mean.square() / (mean.square() + error).clamp_min(1e-300)).tolist())


def _reads(layer: QuantizedLayer) -> tuple[Any, ...]:
    """Layers of which this is the same read their input alike."""
    return layer.precision.activation_format, layer.grid, layer.smooth

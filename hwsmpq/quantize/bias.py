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

import torch
from torch import Tensor

from hwsmpq.model.capture import Captured
from hwsmpq.quantize.layer import QuantizedLayer, QuantizedLayers
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quantize.watch import See, watch
from hwsmpq.types import OPERATORS, REFERENCE, Layer, Precision, Ranges

N_SAMPLES = 64
"""That shifts are taken from."""
N_JUDGED = 32
"""Other samples, which say whether shifts help."""
Z_ACCEPTED = 1.7
"""Standard errors that the gain on these must exceed: what does not help is taken in one case of twenty."""

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
    others, network = tuple(x[n : n + N_JUDGED] for x in inputs), captured.network

    def outputs(shifts: dict[str, Shifts], *names: str) -> Tensor:
        simulator = Simulator(captured, replace(ranges, shifts=shifts), scheme)
        return simulator.scores([network.uniform(name) for name in names], others, lambda out, rows: out)

    reference, *plain = outputs({}, REFERENCE, *found)

    def errors(out: Tensor) -> Tensor:
        return (out - reference).square().flatten(1).mean(1) if out.ndim > 1 else (out - reference).square()

    return {
        name: shifts for (name, shifts), before in zip(found.items(), plain, strict=True)
        if are_less(errors(outputs({name: shifts}, name)[0]), errors(before))
    }


def are_less(errors: Tensor, others: Tensor) -> bool:
    """Whether the mean of errors is less than that of others of the same samples, (n,) each, by more than chance."""
    gain = (others - errors).double()
    return len(gain) > 1 and float(gain.mean()) > Z_ACCEPTED * float(gain.std()) / len(gain) ** 0.5


def _found(
    captured: Captured, inputs: tuple[Tensor, ...], ranges: Ranges, scheme: Scheme, precisions: Sequence[Precision],
    batch_size: int, progress: Callable[[int], None],
) -> dict[str, Shifts]:
    layers, see, found = QuantizedLayers(ranges, scheme), dict[str, list[See]](), []
    for layer in captured.network.layers:
        if captured.bias_of(layer) is not None:
            one = _Shifts(captured, layer, {p: layers.at(layer, p) for p in precisions})
            see.setdefault(layer.input_tensor, []).append(one.see_input)
            see.setdefault(captured.layer_nodes[layer.name].name, []).append(one.see_output)
            found.append(one)
    watch(captured, inputs, batch_size, see, progress)
    return {p.name: {one.layer.name: one.of(p) for one in found} for p in precisions}


class _Shifts:
    """Means of one layer's outputs, as they are and in every precision."""

    def __init__(self, captured: Captured, layer: Layer, quantized: Mapping[Precision, QuantizedLayer]) -> None:
        self.layer, self._layers, self._node = layer, quantized, captured.layer_nodes[layer.name]
        self._stored = captured.weight_of(layer), captured.bias_of(layer)
        self._plain: list[Tensor] = []
        self._quantized: dict[Precision, list[Tensor]] = {precision: [] for precision in quantized}

    def see_input(self, x: Tensor) -> None:
        args = (x, *self._stored, *self._node.args[3:])
        for precision, layer in self._layers.items():
            result = layer.result(self._node.target, [layer.input(x)], args, self._node.kwargs)  # type: ignore[arg-type]
            self._quantized[precision].append(self._means(result))

    def see_output(self, y: Tensor) -> None:
        self._plain.append(self._means(y))

    def of(self, precision: Precision) -> tuple[float, ...]:
        """The shift of every channel, (n_channels,), drawn to 0 by as much as few samples leave open.

        Where the mean over samples is no larger than its standard error it says nothing, and a correction would only
        add that error.
        """
        shift = torch.cat(self._quantized[precision]).double() - torch.cat(self._plain).double()
        mean, error = shift.mean(0), shift.var(0) / len(shift)
        return tuple((mean * mean.square() / (mean.square() + error).clamp_min(1e-300)).tolist())

    def _means(self, y: Tensor) -> Tensor:
        """Means over positions, (n, n_channels)."""
        y = y.movedim(OPERATORS[str(self._node.target)].result_axis, 1)
        return y.flatten(2).mean(2) if y.ndim > 2 else y

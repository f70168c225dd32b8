"""Rounding learned before anything is searched: once for every precision, of the network with it everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hwsmpq.model.capture import Captured
from hwsmpq.model.tensors import get_tensor
from hwsmpq.quantize.layer import QuantizedLayer, packed
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.train.network import QuantizedNetwork, quantized
from hwsmpq.train.reconstruct import reconstruct
from hwsmpq.types import Precision, Ranges, Reconstruction


def learn_by_precision(
    captured: Captured, ranges: Ranges, scheme: Scheme, inputs: tuple[torch.Tensor, ...],
    precisions: Sequence[Precision], recipe: Reconstruction, folder: Path, identity: str,
    progress: Callable[[int, int], None] | None = None,
) -> Ranges:
    """Ranges with the rounding, steps and biases that were learned of each precision with integer operands.

    Assignments that mix precisions take of each layer what was learned at its precision.

    Args:
        folder: for what an interrupted learning goes on from.
        identity: see :func:`~hwsmpq.train.reconstruct.reconstruct`.
        progress: called with (blocks done, blocks in all precisions).
    """
    learned = [precision for precision in precisions if precision.has_integer_operands]
    for index, precision in enumerate(learned):

        def tell(done: int, n: int, said: str, before: int = index) -> None:
            if progress:
                progress(before * n + done, len(learned) * n)

        network = quantized(captured, ranges, scheme, captured.network.uniform(precision.name))
        reconstruct(
            network, captured, inputs, recipe, checkpoint=folder / f"{precision.name}.pt", identity=identity,
            progress=tell,
        )
        ranges = _with_learned(ranges, captured, scheme, network, precision)
    return ranges


def _with_learned(
    ranges: Ranges, captured: Captured, scheme: Scheme, network: QuantizedNetwork, precision: Precision
) -> Ranges:
    """What a network of one precision learned, as ranges of that precision."""
    name, after, learned = precision.name, network.ranges(), captured.with_weights(network.weights())
    layers = [layer for layer in captured.network.weighted if network.precisions_of(layer)[0] == precision]
    own = captured.network.with_own_weight
    rounding: dict[str, str] = {}
    shifts = dict(ranges.shifts.get(name, {}))
    for layer in layers:
        if layer.name in own:
            read = QuantizedLayer.of(layer, precision, ranges, scheme)
            weights = (get_tensor(one.graph, layer.weight_name).detach() for one in (captured, learned))
            before, now = (read.smoothed(weight) / network.weight_steps(layer) for weight in weights)
            rounding[layer.weight_name] = packed(now.round() > before.floor())
        bias, moved = captured.bias_of(layer), learned.bias_of(layer)
        if bias is not None and moved is not None:
            shifts[layer.name] = tuple((torch.tensor(shifts.get(layer.name, 0.0)) + bias - moved).tolist())
    tensors = {layer.input_tensor: after.of(layer, precision) for layer in layers}
    return replace(
        ranges, smoothed={**ranges.smoothed, name: tensors}, shifts={**ranges.shifts, name: shifts},
        roundings={**ranges.roundings, name: rounding},
    )

"""The check that the files of an engine hold what preparation holds, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from hwsmpq.hardware.stored import Stored
from hwsmpq.model.capture import Captured
from hwsmpq.model.fold import BATCH_NORM
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.types import PRECISIONS, Assignment, Ranges

TOLERANCE = 1e-6
"""Of a channel's largest weight, and of a scale: a float rounded at another place."""
MULTIPLIES = {torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor, BATCH_NORM}
N_STEPS = 4
"""Operations behind a layer that runtimes look for factors in."""


def differences(
    captured: Captured, ranges: Ranges, scheme: Scheme, assignment: Assignment, stored: Mapping[str, Stored]
) -> dict[str, str]:
    """Layer -> what of it a file holds otherwise, in words.

    Args:
        stored: the layers that could be read in the file.
    """
    network, found = captured.network, {}
    for layer in network.layers:
        one = stored.get(layer.name)
        if one is None:
            continue
        precision = PRECISIONS[assignment[network.group_of(layer.name)]]
        quantized = QuantizedLayer.of(layer, precision, ranges, scheme)
        weight = quantized.weight(captured.weight_of(layer)).float().cpu().numpy()
        said = list(_differences(quantized, weight, one, _is_scaled(captured.layer_nodes[layer.name])))
        if said:
            found[layer.name] = " and ".join(said)
    return found


def _differences(
    quantized: QuantizedLayer, weight: NDArray[np.float32], stored: Stored, is_scaled: bool
) -> Iterator[str]:
    axis = quantized.layer.channel_axis
    # Runtimes multiply factors and batch norms behind a layer into its weight, or those before a float layer.
    axes = [axis] * is_scaled + [1 - axis] * quantized.precision.is_float
    candidates = (weight, *(weight * _factors(weight, stored.weight, i) for i in axes))
    if not any(_equal(one, stored.weight, axis) for one in candidates):
        yield "another weight"
    if stored.input_scale is None or quantized.input_scale is None:
        return  # which precision it runs in is the audit's
    if abs(stored.input_scale / quantized.input_scale - 1) > TOLERANCE:
        yield f"{stored.input_scale / quantized.input_scale:.3g} times the scale of its input"
    elif quantized.grid is not None and stored.zero_point != quantized.grid.zero_point:
        yield "another zero point"


def _is_scaled(node: fx.Node, n_steps: int = N_STEPS) -> bool:
    """Whether something behind a layer multiplies its result by constants."""
    for user in node.users if n_steps else ():
        if all(x is node or _is_constant(x) for x in user.all_input_nodes) and (
            user.target in MULTIPLIES or _is_scaled(user, n_steps - 1)
        ):
            return True
    return False


def _is_constant(node: fx.Node) -> bool:
    return node.op == "get_attr" or (
        node.op == "call_function" and all(_is_constant(x) for x in node.all_input_nodes)
    )


def _equal(expected: NDArray[np.float32], found: NDArray[np.float32], axis: int) -> bool:
    others = tuple(i for i in range(expected.ndim) if i != axis)
    peak = np.abs(expected).max(others, keepdims=True)
    return bool((np.abs(expected - found) <= TOLERANCE * peak).all())


def _factors(expected: NDArray[np.float32], found: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """One factor an entry of an axis that brings one weight nearest to the other."""
    others = tuple(i for i in range(expected.ndim) if i != axis)
    energy = (expected.astype(np.float64) ** 2).sum(others, keepdims=True)
    product = (expected.astype(np.float64) * found).sum(others, keepdims=True)
    return (product / np.where(energy == 0, 1, energy)).astype(np.float32)

"""The check that the files of an engine hold what preparation holds, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from hwsmpq.hardware.stored import Stored
from hwsmpq.model.capture import Captured
from hwsmpq.model.fold import BATCH_NORM
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.types import OPERATORS, PRECISIONS, Assignment, Ranges

TOLERANCE = 1e-6
"""Of a channel's largest weight, of the largest bias, and of scales and factors: a float rounded at another place."""
ADDS = {torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor, BATCH_NORM}
MULTIPLIES = {torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor, BATCH_NORM}
N_STEPS = 4
"""Operations around a layer that runtimes look for factors in."""


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
        said = list(
            _other_grids(quantized, one) if one.weight is None
            else _Difference(captured, quantized, one, one.weight).said()
        )
        if said:
            found[layer.name] = " and ".join(said)
    return found


class _Difference:
    """A layer with a weight against what a file holds of it."""

    def __init__(
        self, captured: Captured, quantized: QuantizedLayer, stored: Stored, weight: NDArray[np.float32]
    ) -> None:
        self._quantized, self._stored, self._stored_weight = quantized, stored, weight
        self._axis, self._node = quantized.layer.channel_axis, captured.layer_nodes[quantized.layer.name]
        self._weight = _array(quantized.weight(captured.weight_of(quantized.layer)))
        bias = captured.bias_of(quantized.layer)
        # In 16 bits it is rounded in the file, or only as it is added.
        self._biases = [] if bias is None else [_array(x) for x in (quantized.bias(bias), quantized.shifted(bias))]

    def said(self) -> Iterator[str]:
        stored, quantized, factor = self._stored, self._quantized, self._factor()
        if factor is None:
            yield "another weight"
        elif self._has_another_bias(factor):
            yield "another bias"
        yield from _other_grids(quantized, stored)
        reads_alike = (stored.input_scale is None) == (quantized.input_scale is None)  # else it is the audit's
        if reads_alike and not quantized.precision.is_float and self._is_smoothed_otherwise():
            yield "other smoothing factors"

    def _factor(self) -> NDArray[np.float32] | None:
        """What the file multiplies the layer's channels by; None where it holds another weight."""
        one, stored = np.ones(1, np.float32), self._stored_weight
        if _equal(self._weight, stored, self._axis):
            return one
        # Runtimes multiply factors and batch norms behind a layer into its weight, or those before a float layer.
        before = [1 - self._axis] * self._quantized.precision.is_float
        for axis in [self._axis] * _is_followed_by(MULTIPLIES, self._node) + before:
            factor = _factors(self._weight, stored, axis)
            if _equal(self._weight * factor, stored, self._axis):
                return factor.reshape(-1) if axis == self._axis else one
        return None

    def _has_another_bias(self, factor: NDArray[np.float32]) -> bool:
        found, sizes = self._stored.bias, {1, *(len(bias) for bias in self._biases)}
        if not self._biases or found is None or {found.size, factor.size} - sizes or _is_followed_by(ADDS, self._node):
            return False
        # Sums of integers take it in steps of theirs: half of one is as near as it gets.
        weight = np.nan_to_num(self._stored_weight)
        least = np.where(weight == 0, np.inf, np.abs(weight)).min(_others(weight, self._axis))
        step = (self._stored.input_scale or 0) * least[np.isfinite(least)].max(initial=0)  # a channel may be all 0
        return not any(
            (np.abs(bias * factor - found) <= TOLERANCE * np.abs(bias * factor).max() + step / 2).all()
            for bias in self._biases
        )

    def _is_smoothed_otherwise(self) -> bool:
        found, inverse = self._stored.inverse, self._quantized.inverse
        expected = np.ones(1, np.float32) if inverse is None else _array(inverse)
        if found is None or {found.size, expected.size} - {1, max(found.size, expected.size)}:
            return False
        return bool((np.abs(found / expected - 1) > N_STEPS * TOLERANCE).any()) and not _follows_constants(self._node)


def _other_grids(quantized: QuantizedLayer, stored: Stored) -> Iterator[str]:
    """What a layer reads on another grid; which precision it runs in is the audit's."""
    grids = ((stored.input_scale, stored.zero_point, "input"),
             (stored.second_scale, stored.second_zero_point, "second operand"))
    for operand, (scale, zero_point, what) in zip(quantized.operands, grids, strict=False):
        if scale is None or operand.input_scale is None:
            continue
        if abs(scale / operand.input_scale - 1) > TOLERANCE:
            yield f"{scale / operand.input_scale:.3g} times the scale of its {what}"
        elif operand.grid is not None and zero_point != operand.grid.zero_point:
            yield "another zero point"


def _is_followed_by(operations: set[object], node: fx.Node, n_steps: int = N_STEPS) -> bool:
    """Whether one of some operations with constants is behind a layer."""
    for user in node.users if n_steps else ():
        if all(x is node or _is_constant(x) for x in user.all_input_nodes) and (
            user.target in operations or _is_followed_by(operations, user, n_steps - 1)
        ):
            return True
    return False


def _follows_constants(node: fx.Node, n_steps: int = N_STEPS) -> bool:
    """Whether the input of a layer comes from arithmetic with constants, which factors may be a part of in a file."""
    for x in (node.args[0],) if str(node.target) in OPERATORS else node.all_input_nodes:
        if n_steps and isinstance(x, fx.Node) and x.op == "call_function" and str(x.target) not in OPERATORS:
            constant = x.target in MULTIPLIES and len(x.all_input_nodes) == 1
            if constant or any(_is_constant(y) for y in x.all_input_nodes) or _follows_constants(x, n_steps - 1):
                return True
    return False


def _is_constant(node: fx.Node) -> bool:
    if isinstance(node.meta.get("val"), int | torch.SymInt):
        return True  # a size, which a constant is expanded to
    return node.op == "get_attr" or (
        node.op == "call_function" and all(_is_constant(x) for x in node.all_input_nodes)
    )


def _equal(expected: NDArray[np.float32], found: NDArray[np.float32], axis: int) -> bool:
    peak = np.abs(expected).max(_others(expected, axis), keepdims=True)
    return bool(((np.abs(expected - found) <= TOLERANCE * peak) | np.isnan(found)).all())


def _factors(expected: NDArray[np.float32], found: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """One factor an entry of an axis that brings one weight nearest to the other."""
    others = _others(expected, axis)
    energy = (expected.astype(np.float64) ** 2).sum(others, keepdims=True)
    product = (expected.astype(np.float64) * np.nan_to_num(found)).sum(others, keepdims=True)
    return (product / np.where(energy == 0, 1, energy)).astype(np.float32)


def _others(x: NDArray[np.float32], axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis)


def _array(x: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = x.detach().float().cpu().numpy()
    return array

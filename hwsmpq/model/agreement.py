"""How far two runs of one network may lie apart: by what the network makes of a tiny change of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CHANGE = 1e-5
"""Relative change of every number of an input, some hundred times what the order of float32 sums makes."""
ROUNDED = 1e-6
"""Relative change of every number that is computed, some ten times what float32 keeps of it."""
FLOOR = 1e-4
"""Relative error that is always allowed."""
AMPLITUDE = 2.0
"""Of the response to :data:`CHANGE` that is allowed: four times its energy."""

Run = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]
"""Inputs -> output tensors."""


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors of a model's outputs, whatever holds them."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def relative_error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Root of error energy over the expected tensors' energy, of the tensor where it is largest.

    Infinite where shapes differ, or one is finite where the other is not.
    """
    if [x.shape for x in expected] != [x.shape for x in found]:
        return math.inf
    return max((_error(x.double(), y.double()) for x, y in zip(expected, found, strict=True)), default=0.0)


def _error(expected: Tensor, found: Tensor) -> float:
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return math.inf
    expected, found = expected[finite], found[finite]
    error, energy = float((expected - found).square().sum()), float(expected.square().sum())
    return math.sqrt(error / energy) if energy else math.inf if error else 0.0


def changed(inputs: tuple[Tensor, ...], seed: int = 0, by: float = CHANGE) -> tuple[Tensor, ...]:
    """The inputs with every float a little larger or smaller."""
    generator = torch.Generator().manual_seed(seed)

    def change(x: Tensor) -> Tensor:
        return x * (1 + by * (2 * torch.randint(2, x.shape, generator=generator) - 1).to(x.device))

    return tuple(change(x) if x.is_floating_point() else x for x in inputs)


class Rounding(TorchFunctionMode):
    """Within, every float that torch computes is a little larger or smaller, by :data:`ROUNDED`.

    Not for modules that write through views: what they read is a copy.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return tree_map_only(Tensor, lambda x: changed((x,), by=ROUNDED)[0], result)


def allowed(run: Run, inputs: tuple[Tensor, ...], rounding: bool = False) -> float:
    """The relative error that two runs of one network may differ by: twice what ``run`` makes of :data:`CHANGE`.

    Args:
        rounding: or of :class:`Rounding`: tokens cannot change a little, and differences of large numbers are more
            sensitive than inputs are.
    """
    expected, found = run(inputs), [run(changed(inputs))]
    if rounding:
        with Rounding():
            found.append(run(inputs))
    return max(FLOOR, *(AMPLITUDE * relative_error(expected, one) for one in found))

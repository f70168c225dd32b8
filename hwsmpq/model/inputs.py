"""Inputs of a model, one tensor an argument, positional or by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""One tensor, or one an argument of the model; a mapping's are passed by keyword."""


def tensors_in(inputs: Inputs) -> tuple[Tensor, ...]:
    if isinstance(inputs, Tensor):
        return (inputs,)
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else tuple(inputs)


def names_in(inputs: Inputs) -> tuple[str, ...]:
    """Keywords of the inputs; none where they are positional."""
    return tuple(inputs) if isinstance(inputs, Mapping) else ()


def call(model: Callable[..., Any], inputs: tuple[Tensor, ...], names: tuple[str, ...] = ()) -> Any:
    """What a model gives for inputs, passed by keyword where they have names."""
    return model(**dict(zip(names, inputs, strict=True))) if names else model(*inputs)

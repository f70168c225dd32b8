"""The mean of a layer's outputs over positions, from its input alone.

An output is a sum over the entries of the weight, each times what it meets of the input. So the mean over all positions
needs the mean of what every entry meets: of the input over a window, which is taken along one axis after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from hwsmpq.types import OPERATORS


class Met:
    """What the weight of a layer meets.

    Args:
        node: of the layer, which is none of products.
        weight: of it.
    """

    def __init__(self, node: fx.Node, weight: Tensor) -> None:
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = {one.name: one.default_value for one in schema} | node.kwargs
        given |= {one.name: value for one, value in zip(schema, node.args, strict=False)}
        self._given: dict[str, Any] = given
        self._kind, self._kernel = OPERATORS[str(node.target)].kind, tuple(weight.shape[2:])

    def means(self, x: Tensor) -> Tensor:
        """The mean of what every entry of the weight meets, (n, n_input_channels, n_entries).

        Args:
            x: input of the layer: (n, n_input_channels, ...), of a linear layer (n, ..., n_input_channels).
        """
        if self._kind == "linear":
            return x.reshape(len(x), -1, x.shape[-1]).mean(1)[..., None]
        n_done, n_channels, sizes = len(x), x.shape[1], x.shape[2:]
        found = x.movedim(1, -1)
        for axis, size in enumerate(sizes):
            rest = sizes[axis + 1 :].numel() * n_channels
            found = self._shares(axis, size).T @ found.reshape(n_done, size, rest)
            n_done *= self._kernel[axis]
        return found.reshape(len(x), -1, n_channels).transpose(1, 2)

    def outputs(self, means: Tensor, weight: Tensor) -> Tensor:
        """The means of outputs that a weight makes of what it meets, (n, n_channels), without a bias."""
        n_groups = self._given.get("groups", 1)
        weight = weight.reshape(n_groups, weight.shape[0] // n_groups, weight.shape[1], -1)
        if self._kind == "conv_transpose":
            weight = weight.transpose(1, 2)
        means = means.reshape(len(means), n_groups, -1, means.shape[2])
        return torch.einsum("ngik,goik->ngo", means, weight).flatten(1)

    def _shares(self, axis: int, size: int) -> Tensor:
        """The share of every place of the input in what every entry of the kernel meets along an axis."""
        kernel, stride, dilation = self._kernel[axis], self._of("stride", axis), self._of("dilation", axis)
        reach = dilation * (kernel - 1)
        place, entry = torch.arange(size)[:, None], dilation * torch.arange(kernel)
        if self._kind == "conv_transpose":
            before = self._of("padding", axis)
            n_results = (size - 1) * stride - 2 * before + reach + self._of("output_padding", axis) + 1
            result = place * stride + entry - before
        else:
            before, after = self._padding(axis, reach)
            n_results = (size + before + after - reach - 1) // stride + 1
            result = place + before - entry
            result = torch.where(result % stride == 0, result // stride, -1)
        return ((result >= 0) & (result < n_results)).float() / n_results

    def _padding(self, axis: int, reach: int) -> tuple[int, int]:
        """Zeros before and after, along an axis."""
        if isinstance(self._given["padding"], str):
            padding = reach if self._given["padding"] == "same" else 0
            return padding // 2, padding - padding // 2
        return self._of("padding", axis), self._of("padding", axis)

    def _of(self, name: str, axis: int) -> int:
        """An argument that has one number an axis, or one for all."""
        value = self._given[name]
        return int(value if isinstance(value, int) else value[axis % len(value)])

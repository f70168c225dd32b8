"""Samples of several shapes: kept in their order, and run with those of their own shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.errors import HwsmpqError

Rows = slice | NDArray[np.int64]
"""Which samples, in the order of what they are taken of."""


class Ragged:
    """One input of samples whose shapes differ: indexed along its rows as a tensor is, which it gives where those asked
    for have one shape.

    Args:
        rows: of every sample, without a dimension of samples.
    """

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self.rows = tuple(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ndim(self) -> int:
        """Number of dimensions, with that of the samples."""
        return 1 + self.rows[0].ndim

    def __getitem__(self, index: Any) -> Tensor | Ragged:
        wanted = np.arange(len(self))[index.numpy() if isinstance(index, Tensor) else index]
        return self.rows[wanted] if wanted.ndim == 0 else stacked([self.rows[i] for i in wanted])

    def min(self) -> Tensor:
        """The smallest number in it."""
        return torch.stack([row.min() for row in self.rows]).min()

    def max(self) -> Tensor:
        """The largest number in it."""
        return torch.stack([row.max() for row in self.rows]).max()


def stacked(rows: Sequence[Tensor]) -> Tensor | Ragged:
    """Samples as one tensor where they have one shape."""
    return torch.stack(list(rows)) if len({row.shape for row in rows}) == 1 else Ragged(rows)


def joined(parts: Sequence[Tensor | Ragged]) -> Tensor | Ragged:
    """Parts of one input, one behind the other."""
    if all(isinstance(part, Tensor) and part.shape[1:] == parts[0][:1].shape[1:] for part in parts):
        return torch.cat(list(parts))  # type: ignore[arg-type]
    return Ragged([row for part in parts for row in rows_of(part)])


def rows_of(part: Tensor | Ragged) -> Sequence[Tensor]:
    """Every sample of one input."""
    return part.rows if isinstance(part, Ragged) else part.unbind()


def tensors_in(part: Tensor | Ragged) -> Iterator[Tensor]:
    """Tensors with rows that hold one input, in no order."""
    if isinstance(part, Ragged):
        yield from (row[None] for row in part.rows)
    else:
        yield part


def buckets(inputs: tuple[Tensor, ...]) -> dict[tuple[torch.Size, ...], NDArray[np.int64]]:
    """Which samples have which shapes of inputs, the most elements first."""
    shapes = [
        [row.shape for row in x.rows] if isinstance(x, Ragged) else [x.shape[1:]] * len(x) for x in inputs
    ]
    found: dict[tuple[torch.Size, ...], list[int]] = {}
    for i, shape in enumerate(zip(*shapes, strict=True)):
        found.setdefault(shape, []).append(i)
    largest_first = sorted(found, key=lambda shape: (-sum(one.numel() for one in shape), shape))
    return {shape: np.array(found[shape]) for shape in largest_first}


def chunks(inputs: tuple[Tensor, ...], size: int) -> Iterator[tuple[Rows, tuple[Tensor, ...]]]:
    """All samples, at most ``size`` of one shape at a time, with which they are. What is held is taken shape by shape;
    what is read as it is needed is read in order."""
    n = len(inputs[0])
    if any(isinstance(x, Ragged) for x in inputs):
        for places in buckets(inputs).values():
            for start in range(0, len(places), size):
                some = places[start : start + size]
                yield some, tuple(x[some] for x in inputs)
        return
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        part = tuple(x[rows] for x in inputs)
        if all(isinstance(x, Tensor) for x in part):
            yield rows, part
        else:
            for places, some in chunks(part, size):
                yield start + np.arange(rows.stop - start)[places], some


def named(shape: tuple[torch.Size, ...]) -> str:
    """Shapes of the inputs of a sample in words, such as ``3x224x224``; once where all inputs have one."""
    said = ["x".join(map(str, one)) or "1" for one in shape]
    return said[0] if len({*said}) == 1 else ",".join(said)


def spread(n: int, most: int) -> NDArray[np.int64]:
    """At most that many of ``n`` places, evenly over all of them: neighbours may have one shape."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


@dataclass(frozen=True)
class Form:
    """What samples of one input are: their type, and their sizes, None where these differ."""

    dtype: torch.dtype
    sizes: tuple[int | None, ...]

    @property
    def varying(self) -> tuple[int, ...]:
        """The dimensions, counted behind a dimension of samples, whose sizes differ."""
        return tuple(i for i, size in enumerate(self.sizes, 1) if size is None)

    def __str__(self) -> str:
        return f"({', '.join('any' if size is None else str(size) for size in self.sizes)}) {self.dtype}"

    def misfit(self, x: Tensor | Ragged) -> Form | None:
        """What some sample is that is none of these; None without any."""
        for part in tensors_in(x):
            here = Form(part.dtype, tuple(part.shape[1:]))
            fits = len(here.sizes) == len(self.sizes) and all(
                known in (None, size) for known, size in zip(self.sizes, here.sizes, strict=True)
            )
            if here.dtype != self.dtype or not fits:
                return here
        return None


def form_of(x: Tensor | Ragged, what: str) -> Form:
    """What samples of an input are.

    Raises:
        HwsmpqError: their types or numbers of dimensions differ.
    """
    first, *others = dict.fromkeys((part.dtype, tuple(part.shape[1:])) for part in tensors_in(x))
    for dtype, shape in others:
        if dtype != first[0] or len(shape) != len(first[1]):
            raise HwsmpqError(
                f"samples of the {what} differ", f"{first[1]} {first[0]} and {shape} {dtype}",
                "give all of them one type, and as many dimensions",
            )
    sizes = zip(first[1], *(shape for _, shape in others), strict=True)
    return Form(first[0], tuple(one[0] if len(set(one)) == 1 else None for one in sizes))

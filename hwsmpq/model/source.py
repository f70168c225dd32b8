"""Where rows of data come from that is read as it is needed: a data set with rows by index, or an iterable of batches
that starts again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.batch import Batch, parts_of, unlabelled
from hwsmpq.model.shapes import joined

CHUNK = 64
"""Rows that are read together."""


class Source(Protocol):
    """Rows that can be read again."""

    @property
    def is_sized(self) -> bool:
        """Whether the number of rows is known without reading them."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def batches(self) -> Iterator[Batch]:
        """All rows, some at a time."""
        ...

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """These rows (in ascending order)."""
        ...

    def first(self) -> Batch:
        """A few first rows."""
        ...


def is_lazy(data: Any) -> bool:
    """Whether data is to be read, and not there as tensors."""
    return not isinstance(data, Tensor | np.ndarray | Mapping | tuple)


def source_of(data: Any, role: str, n_inputs: int | None = None) -> Source:
    """Where rows of data come from.

    Args:
        role: how errors name it.
        n_inputs: of data without labels: what is more in a sample is left out. Otherwise the last part of a sample is
            its target.

    Raises:
        HwsmpqError: it is nothing that can be read twice.
    """

    def parted(batch: Any) -> Batch:
        return parts_of(batch, role) if n_inputs is None else unlabelled(batch, role, n_inputs)

    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=CHUNK)
    is_loader = isinstance(data, DataLoader)
    if is_loader and not isinstance(data.dataset, IterableDataset) and data.batch_sampler is not None:
        # In the order of the data set, whatever the loader shuffles.
        return _Indexed(data.dataset, data.collate_fn, parted, role)
    if hasattr(data, "__next__"):
        raise HwsmpqError(
            f"the {role} data is a {type(data).__name__}, which runs once",
            "it is read again for every engine, and by every later command",
            f"give what makes it, for example a DataLoader or an object whose __iter__ starts again: {role}=loader",
        )
    if not is_loader and not isinstance(data, list) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _Indexed(data, default_collate, parted, role)
    if isinstance(data, Iterable):
        return _Batches(data, parted, role)
    raise HwsmpqError(
        f"the {role} data is a {type(data).__name__}", "it cannot be read",
        "give tensors, NumPy arrays, a Dataset, a DataLoader, or an iterable of batches",
    )


def first_rows(source: Source, n: int) -> Batch:
    """The first rows of a source, at most ``n``."""
    parts: list[Batch] = []
    for batch in source.batches():
        parts.append(batch)
        if sum(map(len, parts)) >= n:
            break
    whole = _together(parts, "data")
    targets = None if whole.targets is None else whole.targets[:n]
    return Batch(whole.names, tuple(x[:n] for x in whole.inputs), targets)


def _together(parts: Sequence[Batch], role: str) -> Batch:
    """Batches one behind the other."""
    columns: Sequence[tuple[Tensor, ...]] = list(zip(*(part.inputs for part in parts), strict=True))
    targets = [part.targets for part in parts if part.targets is not None]
    shapes = sorted({tuple(x.shape[1:]) for x in targets})
    if len(shapes) > 1:
        raise HwsmpqError(
            f"labels of the {role} data differ in shape", " and ".join(map(str, shapes)),
            "inputs may differ in size, labels may not: pad them, with a label that metric= and loss= leave out",
        )
    return Batch(parts[0].names, tuple(joined(column) for column in columns), torch.cat(targets) if targets else None)


class _Indexed:
    """A data set with rows by index."""

    is_sized = True

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any], parted: Callable[[Any], Batch], role: str
    ) -> None:
        self._dataset, self._collate, self._parted, self._role = dataset, collate, parted, role
        # What is told how to make batches may pad samples to the longest of them, and then they differ by the others.
        self._alone = collate is not default_collate
        if not len(self):
            raise _empty(role)

    def __len__(self) -> int:
        return len(self._dataset)

    def batches(self) -> Iterator[Batch]:
        for start in range(0, len(self), CHUNK):
            yield self.read(np.arange(start, min(start + CHUNK, len(self))))

    def first(self) -> Batch:
        return self.read(np.arange(min(8, len(self))))

    def read(self, rows: NDArray[np.int64]) -> Batch:
        items = [self._dataset[int(row)] for row in rows]
        if not self._alone:
            try:
                return self._batch(items)
            except HwsmpqError as error:
                if "equal size" not in error.why:
                    raise
        return _together([self._batch([item]) for item in items], self._role)

    def _batch(self, items: list[Any]) -> Batch:
        try:
            batch = self._collate(items)
        except (RuntimeError, TypeError, ValueError) as error:
            text = str(error).strip().partition("\n")[0][:300]
            raise HwsmpqError(
                f"samples of the {self._role} data make no batch", text,
                "give the data set a transform that ends in tensors, or its DataLoader a collate_fn",
            ) from error
        return self._parted(batch)


class _Batches:
    """An iterable of batches that starts anew every time."""

    is_sized = False

    def __init__(self, data: Iterable[Any], parted: Callable[[Any], Batch], role: str) -> None:
        self._data, self._parted, self._role = data, parted, role
        self._running: Iterator[Batch] | None = None
        self._start = 0
        self._batch: Batch | None = None
        self._n: int | None = None
        first, again = (next(self.batches(), None) for _ in range(2))
        if first is None:
            raise _empty(role)
        if again is None:
            raise HwsmpqError(
                f"the {role} data runs once", "started again, it gave nothing",
                f"give {role} samples that can be read again",
            )
        if not all(torch.equal(x, y) for x, y in zip(first.inputs, again.inputs, strict=True)):
            raise HwsmpqError(
                f"the {role} data gives other batches every time it is started",
                "samples are compared between engines and commands", "switch shuffling and random augmentation off",
            )
        self._first = first

    def batches(self) -> Iterator[Batch]:
        return map(self._parted, self._data)

    def __len__(self) -> int:
        if self._n is None:
            self._n = sum(map(len, self.batches()))
        return self._n

    def first(self) -> Batch:
        return self._first

    def read(self, rows: NDArray[np.int64]) -> Batch:
        if self._running is None or self._batch is None or rows[0] < self._start:
            self._running, self._start = self.batches(), 0
            self._batch = next(self._running)
        parts: list[Batch] = []
        done = 0
        while done < len(rows):
            assert self._batch is not None
            here = rows[done:] - self._start
            here = torch.from_numpy(here[here < len(self._batch)])
            if len(here):
                targets = None if self._batch.targets is None else self._batch.targets[here]
                parts.append(Batch(self._batch.names, tuple(x[here] for x in self._batch.inputs), targets))
                done += len(here)
            if done < len(rows):
                self._start += len(self._batch)
                self._batch = next(self._running, None)
                if self._batch is None:
                    self._running = None
                    raise HwsmpqError(
                        f"the {self._role} data ended after {self._start} samples",
                        "it gave more when it was read first", "give data that stays the same",
                    )
        return _together(parts, self._role)


def _empty(role: str) -> HwsmpqError:
    return HwsmpqError(f"the {role} data is empty", fix=f"give {role} samples with n >= 1 rows")

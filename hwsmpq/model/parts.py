"""Labelled samples and parts of them: held as tensors, read once, or read whenever rows of them are asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.model.batch import Batch
from hwsmpq.model.data import Data
from hwsmpq.model.shapes import Ragged, rows_of

KEPT_TARGETS_BYTES = 256 * 2**20
"""Targets of a part are kept as they are read, unless all of them take more than this."""


class Column:
    """One input (or the targets) of rows of some data: they are read when it is indexed."""

    def __init__(self, rows: Rows, place: int | None) -> None:
        self._rows, self._place = rows, place

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Tensor:
        wanted = np.atleast_1d(np.arange(len(self))[index.numpy() if isinstance(index, Tensor) else index])
        return self._rows.targets(wanted) if self._place is None else self._rows.read(wanted).inputs[self._place]


class Rows:
    """Some rows of data in some order (by default all). Those that were read last are kept, and the targets of all that
    were read."""

    def __init__(self, data: Data, index: NDArray[np.int64] | None = None) -> None:
        self.data, self._index = data, index
        self._last: tuple[NDArray[np.int64], Batch] | None = None
        self._targets: Tensor | None = None
        self._known: NDArray[np.bool_] | None = None

    @property
    def index(self) -> NDArray[np.int64]:
        """Which they are, (n,)."""
        if self._index is None:
            self._index = np.arange(self.data.n)
        return self._index

    def __len__(self) -> int:
        return self.data.n if self._index is None else len(self._index)

    def take(self, index: Tensor | slice) -> Rows:
        """Some of them."""
        return Rows(self.data, self.index[index.numpy() if isinstance(index, Tensor) else index])

    def read(self, wanted: NDArray[np.int64]) -> Batch:
        """Some of them, in the order of ``wanted``."""
        # Inputs and targets of the same rows are asked for one after the other.
        if self._last is None or not np.array_equal(self._last[0], wanted):
            self._last = None  # gone before the next ones are there
            self._last = wanted, self.data.load(self.index[wanted])
            self._keep(wanted, self._last[1].targets)
        return self._last[1]

    def targets(self, wanted: NDArray[np.int64]) -> Tensor:
        """The targets of some of them."""
        if self._targets is not None and self._known is not None and self._known[wanted].all():
            return self._targets[torch.from_numpy(wanted)]
        if self._last is not None and np.array_equal(self._last[0], wanted):
            found = self._last[1].targets
        else:
            found = self.data.load(self.index[wanted], only_targets=True).targets
        assert found is not None
        self._keep(wanted, found)
        return found

    def _keep(self, rows: NDArray[np.int64], targets: Tensor | None) -> None:
        if targets is None or targets[:1].nbytes * len(self) > KEPT_TARGETS_BYTES:
            return
        if self._targets is None or self._known is None:
            self._targets = targets.new_empty((len(self), *targets.shape[1:]))
            self._known = np.zeros(len(self), dtype=bool)
        self._targets[torch.from_numpy(rows)] = targets
        self._known[rows] = True


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (one tensor an argument of the model, n rows each) with their targets."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor | slice) -> Samples:
        return Samples(tuple(x[index] for x in self.inputs), self.targets[index])

    def sha256(self) -> str:
        """Hash of every byte of inputs and targets."""
        return tensors_sha256((*self.inputs, self.targets))


class _Read(Samples):
    """Rows of data that is read as it is needed."""

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def sha256(self) -> str:
        """Stands for the rows: for their content, or the version of the data."""
        return self.rows.data.sha256(self.rows.index)


class Streamed(_Read):
    """Samples that are read whenever rows of them are asked for: inputs and targets only look like tensors."""

    def __init__(self, rows: Rows) -> None:
        inputs = tuple(Column(rows, i) for i in range(len(rows.data.head.inputs)))
        self.__dict__.update(rows=rows, inputs=inputs, targets=Column(rows, None))

    @property
    def head(self) -> Samples:
        """A few first samples."""
        first = self.rows.data.head
        return Samples(first.inputs, first.targets)

    def take(self, index: Tensor | slice) -> Samples:
        return Streamed(self.rows.take(index))


class Held(_Read):
    """Samples that are read once, when they are first asked for. What is taken of them is read with them."""

    def __init__(self, rows: Rows, places: Tensor | None = None, whole: Held | None = None) -> None:
        self.__dict__.update(rows=rows, _places=places, _whole=whole)

    @cached_property
    def _tensors(self) -> Samples:
        if self._whole is not None:
            first, last = int(self._places[0]), int(self._places[-1])
            in_a_row = torch.equal(self._places, torch.arange(first, last + 1))
            return self._whole._tensors.take(slice(first, last + 1) if in_a_row else self._places)  # a view, if it can
        batch = self.rows.data.load(self.rows.index)
        return Samples(batch.inputs, batch.targets)

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._tensors.inputs

    @cached_property
    def targets(self) -> Tensor:
        return self._tensors.targets

    def take(self, index: Tensor | slice) -> Samples:
        places = torch.arange(len(self)) if self._places is None else self._places
        return Held(self.rows.take(index), places[index], self._whole or self)

    def __reduce__(self) -> Any:  # another process has no use for what reads them
        return Samples, (self.inputs, self.targets)


def tensors_sha256(tensors: tuple[Tensor, ...]) -> str:
    """SHA-256 over shape, dtype and bytes of tensors, in order; of an input with several shapes, over its samples."""
    hasher = hashlib.sha256()
    for tensor in chain.from_iterable(rows_of(x) if isinstance(x, Ragged) else (x,) for x in tensors):
        array = tensor.detach().cpu().contiguous()
        hasher.update(f"{tuple(array.shape)}{array.dtype}".encode())
        hasher.update(array.flatten().view(torch.uint8).numpy())
    return hasher.hexdigest()

"""Data that is read as it is needed, and never held as a whole: its length, what it holds, and what stands for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.batch import Batch
from hwsmpq.model.shapes import Form, Ragged, rows_of, stacked, tensors_in
from hwsmpq.model.source import CHUNK, Source
from hwsmpq.model.tensors import is_finite


class Data:
    """A source that knows its length and what it holds, reading all of it at most once for that.

    Args:
        version: what the user calls this version of the data; it is not read to be told apart then.
    """

    def __init__(
        self, source: Source, version: str | None, places: Sequence[int] | None = None, forms: Sequence[Form] = ()
    ) -> None:
        self._source, self._version, self._places, self._forms = source, version, places, forms

    def arranged(self, places: Sequence[int], forms: Sequence[Form]) -> Data:
        """The same with its inputs in another order, all of whose samples are to be of these forms."""
        return Data(self._source, self._version, places, forms)

    @property
    def is_sized(self) -> bool:
        """Whether the number of samples is known without reading them."""
        return self._source.is_sized

    @cached_property
    def n(self) -> int:
        """Number of samples."""
        return len(self._source) if self.is_sized or self._version is not None else len(self._digests)

    @cached_property
    def head(self) -> Batch:
        """A few first samples."""
        return self._arranged(self._source.first())

    def sha256(self, index: NDArray[np.int64]) -> str:
        """Stands for some of its rows: for their content, or the version of the data."""
        hasher = hashlib.sha256()
        if self._version is None:
            for row in index:
                hasher.update(self._digests[row])
        else:
            hasher.update(f"{self._version} {self.n} ".encode() + index.tobytes())
        return hasher.hexdigest()

    def read(self, index: NDArray[np.int64]) -> Batch:
        """Rows in the order given; they are read in ascending order."""
        order = np.argsort(index, kind="stable")
        read = self._arranged(self._source.read(index[order]))
        check_rows(read, self._forms)
        if (order[:-1] < order[1:]).all():
            return read
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        targets = None if read.targets is None else read.targets[back]
        return Batch(read.names, tuple(x[back] for x in read.inputs), targets)

    def load(self, index: NDArray[np.int64], only_targets: bool = False) -> Batch:
        """Rows in the order given, held in memory: read a few at a time, so that they are there once.

        Args:
            only_targets: leave the inputs out.
        """
        if len(index) <= CHUNK:
            return self.read(index)
        order, found = np.argsort(index, kind="stable"), list[_Column]()
        for start in range(0, len(index), CHUNK):
            places = order[start : start + CHUNK]
            read = self.read(index[places])
            assert read.targets is not None
            columns = (read.targets,) if only_targets else (read.targets, *read.inputs)
            found = found or [_Column(len(index)) for _ in columns]
            for whole, part in zip(found, columns, strict=True):
                whole.put(places, part)
        targets, *inputs = (whole.taken() for whole in found)
        return Batch(self.head.names, tuple(inputs), targets)

    def _arranged(self, batch: Batch) -> Batch:
        if self._places is None:
            return batch
        names = tuple(batch.names[place] for place in self._places) if batch.names else ()
        return Batch(names, tuple(batch.inputs[place] for place in self._places), batch.targets)

    @cached_property
    def _digests(self) -> list[bytes]:
        return row_digests(self._source)


class _Column:
    """One input of some rows, that is there once: a tensor as long as all have one shape."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._whole: Tensor | list[Tensor] | None = None

    def put(self, places: NDArray[np.int64], part: Tensor | Ragged) -> None:
        """Keep copies of some of them."""
        one = part if isinstance(part, Tensor) else None
        if self._whole is None and one is not None:
            self._whole = one.new_empty((self._n, *one.shape[1:]))
        if isinstance(self._whole, Tensor) and one is not None and one.shape[1:] == self._whole.shape[1:]:
            self._whole[torch.from_numpy(places)] = one
            return
        if not isinstance(self._whole, list):
            self._whole = [torch.empty(0)] * self._n if self._whole is None else list(self._whole.unbind())
        for place, row in zip(places, rows_of(part), strict=True):
            self._whole[place] = row.clone()

    def taken(self) -> Tensor | Ragged:
        """All of them."""
        assert self._whole is not None
        return stacked(self._whole) if isinstance(self._whole, list) else self._whole


def check_rows(batch: Batch, forms: Sequence[Form]) -> None:
    """Refuse rows that are not of the forms given, or not finite."""
    for i, (x, form) in enumerate(zip(batch.inputs, forms, strict=True)):
        if misfit := form.misfit(x):
            raise HwsmpqError(
                f"a sample of the data is {misfit} (input {i})", f"those of the calibration data are {form}",
                "pad or resize it; or let the calibration data show all sizes that there are (its first 256 samples"
                " count)",
            )
        if form.dtype.is_floating_point and not all(map(is_finite, tensors_in(x))):
            raise HwsmpqError(
                f"the data holds NaN or infinity (input {i})", "scores taken from it would be meaningless",
                "remove or repair those samples",
            )


def row_digests(source: Source) -> list[bytes]:
    """SHA-256 of every row of a source, which is read once."""
    found: list[bytes] = []
    for read in source.batches():
        columns = [*read.inputs, *([] if read.targets is None else [read.targets])]
        for row in zip(*(map(_array, rows_of(x)) for x in columns), strict=True):
            hasher = hashlib.sha256("".join(f"{array.shape}{array.dtype}" for array in row).encode())
            for array in row:
                hasher.update(array.reshape(-1).view(np.uint8))
            found.append(hasher.digest())
    return found


def _array(row: Tensor) -> NDArray[np.generic]:
    return np.ascontiguousarray(row.detach().cpu().numpy())

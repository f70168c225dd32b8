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
from hwsmpq.model.source import CHUNK, Source
from hwsmpq.model.tensors import is_finite


class Data:
    """A source that knows its length and what it holds, reading all of it at most once for that.

    Args:
        version: what the user calls this version of the data; it is not read to be told apart then.
    """

    def __init__(self, source: Source, version: str | None, places: Sequence[int] | None = None) -> None:
        self._source, self._version, self._places = source, version, places

    def arranged(self, places: Sequence[int]) -> Data:
        """The same with its inputs in another order."""
        return Data(self._source, self._version, places)

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
        check_rows(read, self.head)
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
        order, found = np.argsort(index, kind="stable"), list[Tensor]()
        for start in range(0, len(index), CHUNK):
            places = order[start : start + CHUNK]
            read = self.read(index[places])
            assert read.targets is not None
            columns = (read.targets,) if only_targets else (read.targets, *read.inputs)
            if not found:
                found = [x.new_empty((len(index), *x.shape[1:])) for x in columns]
            for whole, part in zip(found, columns, strict=True):
                whole[torch.from_numpy(places)] = part
        return Batch(self.head.names, tuple(found[1:]), found[0])

    def _arranged(self, batch: Batch) -> Batch:
        if self._places is None:
            return batch
        names = tuple(batch.names[place] for place in self._places)
        return Batch(names, tuple(batch.inputs[place] for place in self._places), batch.targets)

    @cached_property
    def _digests(self) -> list[bytes]:
        return row_digests(self._source)


def check_rows(batch: Batch, known: Batch) -> None:
    """Refuse rows that are not like those known, or not finite."""
    for i, (x, first) in enumerate(zip(batch.inputs, known.inputs, strict=True)):
        if (x.shape[1:], x.dtype) != (first.shape[1:], first.dtype):
            raise HwsmpqError(
                f"samples of the data differ (input {i})",
                f"{tuple(first.shape[1:])} {first.dtype} and {tuple(x.shape[1:])} {x.dtype}",
                "engines are built for one shape: pad or resize all samples to it, or make a task of every shape",
            )
        if x.is_floating_point() and not is_finite(x):
            raise HwsmpqError(
                f"the data holds NaN or infinity (input {i})", "scores taken from it would be meaningless",
                "remove or repair those samples",
            )


def row_digests(source: Source) -> list[bytes]:
    """SHA-256 of every row of a source, which is read once."""
    found: list[bytes] = []
    for read in source.batches():
        columns = [*read.inputs, *([] if read.targets is None else [read.targets])]
        arrays = [np.ascontiguousarray(x.detach().cpu().numpy()) for x in columns]
        head = "".join(f"{array.shape[1:]}{array.dtype}" for array in arrays).encode()
        for i in range(len(read)):
            hasher = hashlib.sha256(head)
            for array in arrays:
                hasher.update(array[i : i + 1].reshape(-1).view(np.uint8))
            found.append(hasher.digest())
    return found

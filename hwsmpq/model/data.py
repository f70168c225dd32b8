"""Data as PyTorch has it: read row by row or batch by batch, as far as it is asked for, and never held as a whole.

A task may be given tensors; what they are is known at once. Everything else (a ``Dataset``, a ``DataLoader``, any
iterable of batches that can be started again) is read when rows of it are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from hwsmpq.errors import HwsmpqError

LABELS = ("labels", "label", "targets", "target", "y")
"""Names of what is no input."""
CHUNK = 64
"""Rows that are read together."""
KEPT_TARGETS_BYTES = 256 * 2**20
"""Targets of a part are kept once they were read, unless they take more than this."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of all inputs and of the targets; ``names`` are those of the inputs where they have some."""

    names: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])


class Source(Protocol):
    """Rows that can be read again."""

    def __len__(self) -> int:
        """Number of rows; may have to read all of them."""
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


def parts_of(batch: Any, role: str, keep: tuple[str, ...] | None = None) -> Batch:
    """A batch as inputs by name or by place, and targets.

    Args:
        keep: of inputs alone: names that are inputs, also where they are called like labels. Others are taken out.

    Raises:
        HwsmpqError: it has no target where one is needed, or holds something else than tensors.
    """
    if keep is not None:
        return _batch(batch, role, None, keep)
    if isinstance(batch, Mapping):
        label = next((name for name in LABELS if name in batch), None)
        if label is None:
            raise HwsmpqError(
                f"the {role} data has {', '.join(map(str, batch))} and no labels",
                "every sample is judged by its label",
                f"give them under the name {LABELS[0]}, or as (inputs, labels)",
            )
        return _batch({name: x for name, x in batch.items() if name != label}, role, batch[label], tuple(batch))
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise HwsmpqError(
            f"the {role} data gives samples without labels", "every sample is judged by its label",
            f"give (inputs, labels), for example {role}=DataLoader(TensorDataset(x, y))",
        )
    *inputs, targets = batch
    if len(inputs) > 1 or not isinstance(inputs[0], Mapping):
        return _batch(inputs[0] if len(inputs) == 1 else tuple(inputs), role, targets, ())
    # Labels stand beside: of what is named, only what a tokenizer calls so is none of the model's inputs.
    return _batch(inputs[0], role, targets, tuple(name for name in inputs[0] if name != LABELS[0]))


def unlabelled(batch: Any, role: str, n_inputs: int) -> Batch:
    """A batch as inputs, of which it may hold more parts: labels."""
    if isinstance(batch, tuple | list) and batch and (len(batch) > n_inputs or isinstance(batch[0], Mapping)):
        batch = batch[0] if isinstance(batch[0], Mapping | tuple | list) else tuple(batch[:n_inputs])
    return _batch(batch, role, None, ())


def _batch(inputs: Any, role: str, targets: Any, keep: tuple[str, ...]) -> Batch:
    names: tuple[str, ...] = ()
    if isinstance(inputs, Mapping):
        inputs = {str(name): x for name, x in inputs.items() if name in keep or name not in LABELS}
        names, inputs = tuple(inputs), tuple(inputs.values())
    elif not isinstance(inputs, tuple | list):
        inputs = (inputs,)
    if not inputs:
        raise HwsmpqError(f"the {role} data is empty", fix=f"give {role} samples with n >= 1 rows")
    found = tuple(as_rows(x, f"{role} data (input {i})") for i, x in enumerate(inputs))
    return Batch(names, found, None if targets is None else as_rows(targets, f"labels of the {role} data"))


def as_rows(given: Any, what: str) -> Tensor:
    """A tensor of samples.

    Raises:
        HwsmpqError: it cannot be one.
    """
    if isinstance(given, Tensor):
        return given
    try:
        return torch.as_tensor(np.asarray(given) if isinstance(given, list | tuple | np.generic) else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise HwsmpqError(
            f"the {what} is a {type(given).__name__}", str(error).partition("\n")[0][:200],
            "give a tensor or an array with one row a sample; pad what differs in length",
        ) from error


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
    """Some rows of data in some order (by default all), of which those that were read last are kept."""

    def __init__(self, data: Data, index: NDArray[np.int64] | None = None) -> None:
        self.data, self._index = data, index
        self._last: tuple[NDArray[np.int64], Batch] | None = None
        self._targets: Tensor | None = None

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
            self._last = wanted, self.data.read(self.index[wanted])
        return self._last[1]

    def targets(self, wanted: NDArray[np.int64]) -> Tensor:
        """The targets of some of them."""
        if self._targets is not None:
            return self._targets[torch.from_numpy(wanted)]
        if self._last is None or not np.array_equal(self._last[0], wanted):
            found = self.data.load(self.index[wanted], only_targets=True).targets
        else:
            found = self._last[1].targets
        assert found is not None
        if np.array_equal(wanted, np.arange(len(self))) and found.nbytes <= KEPT_TARGETS_BYTES:
            self._targets = found
        return found


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
        return isinstance(self._source, _Indexed)

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
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise HwsmpqError(
                f"the data holds NaN or infinity (input {i})", "scores taken from it would be meaningless",
                "remove or repair those samples",
            )


def row_digests(source: Source) -> list[bytes]:
    """SHA-256 of every row of a source, which is read once."""
    found: list[bytes] = []
    for read in _chunks(source):
        columns = [*read.inputs, *([] if read.targets is None else [read.targets])]
        arrays = [np.ascontiguousarray(x.detach().cpu().numpy()) for x in columns]
        head = "".join(f"{array.shape[1:]}{array.dtype}" for array in arrays).encode()
        for i in range(len(read)):
            hasher = hashlib.sha256(head)
            for array in arrays:
                hasher.update(array[i : i + 1].reshape(-1).view(np.uint8))
            found.append(hasher.digest())
    return found


def _chunks(source: Source) -> Iterator[Batch]:
    if isinstance(source, _Batches):
        yield from source
        return
    for start in range(0, len(source), CHUNK):
        yield source.read(np.arange(start, min(start + CHUNK, len(source))))


class _Indexed:
    """A data set with rows by index."""

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any], parted: Callable[[Any], Batch], role: str
    ) -> None:
        self._dataset, self._collate, self._parted, self._role = dataset, collate, parted, role

    def __len__(self) -> int:
        return len(self._dataset)

    def first(self) -> Batch:
        return self.read(np.arange(min(8, len(self))))

    def read(self, rows: NDArray[np.int64]) -> Batch:
        items = [self._dataset[int(row)] for row in rows]
        try:
            batch = self._collate(items)
        except (RuntimeError, TypeError, ValueError) as error:
            text = str(error).strip().partition("\n")[0][:300]
            if "equal size" in text:
                raise _uneven(self._role, text) from error
            raise HwsmpqError(
                f"samples of the {self._role} data make no batch", text,
                "give the data set a transform that ends in tensors, or its DataLoader a collate_fn",
            ) from error
        return self._parted(batch)


class _Batches:
    """An iterable of batches that starts anew every time."""

    def __init__(self, data: Iterable[Any], parted: Callable[[Any], Batch], role: str) -> None:
        self._data, self._parted, self._role = data, parted, role
        self._running: Iterator[Batch] | None = None
        self._start = 0
        self._batch: Batch | None = None
        self._n: int | None = None
        first, again = (next(iter(self), None) for _ in range(2))
        if first is None or again is None:
            raise HwsmpqError(
                f"the {role} data is empty" if first is None else f"the {role} data runs once",
                "" if first is None else "started again, it gave nothing", f"give {role} samples with n >= 1 rows",
            )
        if not all(torch.equal(x, y) for x, y in zip(first.inputs, again.inputs, strict=True)):
            raise HwsmpqError(
                f"the {role} data gives other batches every time it is started",
                "samples are compared between engines and commands", "switch shuffling and random augmentation off",
            )
        self._first = first

    def __iter__(self) -> Iterator[Batch]:
        shapes: list[Any] | None = None
        for batch in self._data:
            found = self._parted(batch)
            here = [x.shape[1:] for x in found.inputs]
            if shapes is not None and here != shapes:
                raise _uneven(self._role, f"batches of {shapes} and of {here}")
            shapes = here
            yield found

    def __len__(self) -> int:
        if self._n is None:
            self._n = sum(len(batch) for batch in self)
        return self._n

    def first(self) -> Batch:
        return self._first

    def read(self, rows: NDArray[np.int64]) -> Batch:
        if self._running is None or self._batch is None or rows[0] < self._start:
            self._running, self._start = iter(self), 0
            self._batch = next(self._running)
        inputs: list[tuple[Tensor, ...]] = []
        targets: list[Tensor] = []
        done = 0
        while done < len(rows):
            assert self._batch is not None
            here = rows[done:] - self._start
            here = torch.from_numpy(here[here < len(self._batch)])
            if len(here):
                inputs.append(tuple(x[here] for x in self._batch.inputs))
                if self._batch.targets is not None:
                    targets.append(self._batch.targets[here])
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
        return Batch(
            self._first.names, tuple(torch.cat(parts) for parts in zip(*inputs, strict=True)),
            torch.cat(targets) if targets else None,
        )


def _uneven(role: str, found: str) -> HwsmpqError:
    return HwsmpqError(
        f"samples of the {role} data differ in shape", found,
        "engines are built for one shape: pad or resize all samples to it, or make a task of every shape",
    )


def first_rows(source: Source, n: int) -> Batch:
    """The first rows of a source, at most ``n``."""
    parts: list[Batch] = []
    if isinstance(source, _Batches):
        for batch in source:
            parts.append(batch)
            if sum(map(len, parts)) >= n:
                break
    else:
        parts.append(source.read(np.arange(min(n, len(source)))))
    columns: Sequence[tuple[Tensor, ...]] = list(zip(*(part.inputs for part in parts), strict=True))
    targets = [part.targets[:n] for part in parts if part.targets is not None]
    return Batch(
        parts[0].names, tuple(torch.cat(column)[:n] for column in columns), torch.cat(targets)[:n] if targets else None
    )

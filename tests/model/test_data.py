"""Data as PyTorch has it: the same rows and answers as of tensors, read as they are needed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_task
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hwsmpq import optimize
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Held, Streamed
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.judged import outputs_of
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.pipeline.telling import silent

N = 150
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 5


class Counted(Dataset):
    """Rows of tensors, and how often each was read."""

    def __init__(
        self, x: Tensor = X, y: Tensor = Y, form: Callable[[Tensor, Tensor], Any] = lambda x, y: (x, y)
    ) -> None:
        self.x, self.y, self.form, self.reads = x, y, form, np.zeros(len(x), dtype=int)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        self.reads[i] += 1
        return self.form(self.x[i], self.y[i])


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(X, Y, strict=True)


class Batches:
    """Anything that starts anew."""

    def __init__(self, x: Tensor = X, y: Tensor = Y) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.x.split(32), self.y.split(32), strict=True)


def dict_of(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"x": x, "labels": y}


FORMS: dict[str, Callable[[], Any]] = {
    "data set": Counted,
    "tensor data set": lambda: TensorDataset(X, Y),
    "loader": lambda: DataLoader(Counted(), batch_size=7),
    "loader that shuffles": lambda: DataLoader(Counted(), batch_size=7, shuffle=True),
    "iterable data set": Stream,
    "loader of an iterable one": lambda: DataLoader(Stream(), batch_size=11),
    "batches": Batches,
    "list of batches": lambda: list(Batches()),
    "data set of dicts": lambda: Counted(form=dict_of),
    "list of dicts": lambda: [dict_of(x, y) for x, y in Batches()],
    "arrays": lambda: Counted(form=lambda x, y: (x.numpy(), int(y))),
}


def task(evaluation: Any, calibration: Any = None, **how: Any) -> Task:
    return Task(nn.Linear(3, 5), evaluation if calibration is None else calibration, evaluation, **how)


@pytest.mark.parametrize("form", FORMS)
def test_parts_hold_the_rows_that_tensors_have(form: str) -> None:
    expected = Task(nn.Linear(3, 5), X, (X, Y)).split(3)
    lazy = task(FORMS[form]())
    assert isinstance(lazy.evaluation, Streamed) and len(lazy.evaluation) == N
    search, report = lazy.split(3)
    assert isinstance(search, Held)
    assert torch.equal(search.inputs[0], expected[0].inputs[0]) and torch.equal(search.targets, expected[0].targets)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))[:75].sort().values
    assert torch.equal(report.inputs[0][:], X[order]) and torch.equal(report.targets[:], Y[order])
    for index in (slice(3, 9), slice(60, 75), np.array([5, 2, 74]), torch.tensor([0]), slice(0, 2)):
        rows = order[torch.as_tensor(index) if not isinstance(index, slice) else index]
        assert torch.equal(report.inputs[0][index], X[rows]) and torch.equal(report.targets[index], Y[rows])
    part = search.take(torch.tensor([4, 1])).take(slice(1, 2))
    assert torch.equal(part.inputs[0], expected[0].inputs[0][1:2]) and len(part) == 1
    assert torch.equal(lazy.calibration[0], X[:256])


def test_rows_and_version_make_the_identity() -> None:
    def of(form: str, **how: Any) -> tuple[str, ...]:
        return tuple(part.sha256() for part in task(FORMS[form](), **how).split(0))

    assert of("data set") == of("batches") == of("loader that shuffles")
    assert len({*of("data set"), *of("data set", version="1"), *of("data set", version="2")}) == 6
    other = X.clone()
    other[7] += 1
    changed = [part.sha256() for part in task(Counted(other)).split(0)]
    assert sum(one != known for one, known in zip(changed, of("data set"), strict=True)) == 1


def test_data_is_read_once_to_be_identified_and_with_a_version_not_at_all() -> None:
    data = Counted()
    parts = task(data, X).split(0)
    before = data.reads.copy()  # a few first samples are looked at
    assert before[8:].max() == 0
    _ = [part.sha256() for part in parts] * 2
    assert ((data.reads - before) == 1).all()
    data = Counted()
    _ = [part.sha256() for part in task(data, X, version="mine").split(0)]
    assert data.reads[8:].max() == 0


def test_targets_come_with_inputs_and_engines_share_what_is_read() -> None:
    class Echo:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def infer(self, inputs: Any) -> Any:
            return [self.factor * inputs[0]]

    data = Counted()
    report = task(data, X, version="mine").split(0)[1]
    before = data.reads.copy()
    run: Any = SimpleNamespace(parts=(None, report), settings=SimpleNamespace(batch=10), progress=silent)
    engines: Any = {"one": Echo(1.0), "two": Echo(2.0)}
    found = outputs_of(run, engines, "verify")
    for start in range(0, len(report), 20):
        assert torch.equal(report.targets[start : start + 20], Y[report.rows.index[start : start + 20]])
    rows = X[report.rows.index]
    assert torch.equal(found["one"], rows) and torch.equal(found["two"], 2 * rows)
    assert ((data.reads - before)[report.rows.index] == 1).all()


def test_the_search_part_is_capped_and_the_rest_reported() -> None:
    search, report = task(Counted()).split(0, most_searched=20)
    assert (len(search), len(report)) == (20, 130)
    whole = Task(nn.Linear(3, 5), X, (X, Y)).split(0, most_searched=20)
    assert torch.equal(search.inputs[0], whole[0].inputs[0]) and len(whole[1]) == 130
    assert set(report.inputs[0][:][:, 0].tolist()) == set(whole[1].inputs[0][:, 0].tolist())


def test_streams_are_read_forwards() -> None:
    """One pass for all chunks of a part in order: what starts anew is counted."""
    class Once(Batches):
        n_starts = 0

        def __iter__(self) -> Any:
            self.n_starts += 1
            return super().__iter__()

    data = Once()
    report = task(data, X).split(0)[1]
    before = data.n_starts
    for start in range(0, len(report), 10):
        _ = report.inputs[0][start : start + 10], report.targets[start : start + 10]
    assert data.n_starts == before + 1


class Gives:
    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class Shuffled(Batches):
    def __iter__(self) -> Any:
        order = torch.randperm(len(self.x))
        return zip(self.x[order].split(32), self.y[order].split(32), strict=True)


@pytest.mark.parametrize("build, message", [
    (lambda: task(batch for batch in Batches()), "generator, which runs once"),
    (lambda: task(iter(list(Batches()))), "list_iterator, which runs once"),
    (lambda: task(Shuffled()), "other batches every time"),
    (lambda: task(Gives([])), "is empty"),
    (lambda: task(TensorDataset(X[:0], Y[:0])), "is empty"),
    (lambda: task(Gives([X])), "samples without labels"),
    (lambda: task(Gives([{"x": X}])), "has x and no labels"),
    (lambda: task(Gives([(X[:40], Y[:40]), (X[40:, :2], Y[40:])]), X).split(0)[1].inputs[0][:], r"a sample .* \(2\)"),
    (lambda: task(Gives([(X.double(), Y)])), r"x = x.float\(\)"),
    (lambda: task(3), "is a int"),
    (lambda: task(Counted(form=lambda x, y: (x, str)), X), "make no batch"),
    (lambda: Task(nn.Linear(3, 5), X.double().numpy(), (X, Y)), r"x = x.astype\('float32'\)"),
    (lambda: task(Gives([(X[:12], Y[:12])]), X).split(0), "only 12 evaluation samples"),
    (lambda: task((X, [object()] * N)), "labels of the evaluation data"),
])
def test_what_cannot_be_read_is_refused_by_name(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(HwsmpqError, match=message):
        build()


def test_a_row_that_is_not_finite_is_refused_when_it_is_read() -> None:
    bad = X.clone()
    bad[100] = float("nan")
    parts = task(Counted(bad), X).split(0)
    with pytest.raises(HwsmpqError, match="NaN or infinity"):
        _ = parts[0].inputs, parts[1].inputs[0][:]


def test_labels_to_ignore_are_named() -> None:
    labels = Y.clone()
    labels[3] = -100
    with pytest.raises(HwsmpqError, match="ignore_index"):
        task((X, labels), X).check_outputs(torch.zeros(8, 5))


def test_labels_in_a_tokenized_batch_are_taken_out() -> None:
    batch = {"input_ids": Y[:, None], "labels": Y}
    made = Task(nn.Linear(3, 5), batch, batch)
    assert made.input_names == ("input_ids",) and torch.equal(made.evaluation.targets, Y)
    # What a model itself calls so stays an input.
    inputs = {"x": X, "y": X}
    assert Task(nn.Linear(3, 5), inputs, (inputs, Y)).input_names == ("x", "y")


def test_a_whole_run_on_a_data_set_is_that_on_tensors(tmp_path: Path) -> None:
    given = tiny_task.task()
    x, y = given.evaluation.inputs[0], given.evaluation.targets
    settings = {"n_pairs": 2, "n_score_samples": 16, "n_candidates": 2, "search_evaluations": 4}
    certificates = [
        optimize(
            Task(given.model, given.calibration[0], evaluation, name="tiny"), tmp_path / name, bitops="int8",
            ladder="w4a4,int8,fp32", **settings,
        )
        for name, evaluation in (("tensors", (x, y)), ("data", Counted(x, y)), ("stream", Batches(x, y)))
    ]
    assert certificates[0].accuracy.n_samples == 48
    for other in certificates[1:]:
        assert (other.accuracy.reference, other.accuracy.engine) == pytest.approx(
            (certificates[0].accuracy.reference, certificates[0].accuracy.engine)
        )
    data = Counted(x, y)
    run = Run(tmp_path / "data", None, Task(given.model, given.calibration[0], data, name="tiny"))
    refine(run, resolve_budgets(run, bitops="int8"))
    assert data.reads[8:].max() == 1, "a finished run reads its data once, to see that it is the same"
    data.reads[:] = 0
    build(Run(tmp_path / "data", None, Task(given.model, given.calibration[0], data, name="tiny")))
    assert data.reads[8:].max() == 0, "nothing is evaluated here"

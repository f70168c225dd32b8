"""Tasks: what is refused and why, the split, the hash, the per-sample functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsmpq.engine.verify import compare
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.metrics import Spearman
from hwsmpq.model.parts import Samples, tensors_sha256
from hwsmpq.model.task import Task, cross_entropy, top1
from hwsmpq.model.values import kl_divergence, per_sample, value_function

N = 40
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 5


def task(calibration: object = X, inputs: object = X, targets: Tensor = Y, **kwargs: object) -> Task:
    return Task(nn.Linear(3, 5), calibration, (inputs, targets), **kwargs)  # type: ignore[arg-type]


def with_value(x: Tensor, row: int, value: float) -> Tensor:
    changed = x.clone()
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: task(targets=Y[:-1]), "40 evaluation inputs but 39 labels"),
        (lambda: task(calibration=X[:0]), "calibration data is empty"),
        (lambda: task(inputs=X[:0], targets=Y[:0]), "evaluation data is empty"),
        (lambda: task(calibration=()), "calibration data is empty"),
        (lambda: task(calibration=with_value(X, 7, float("nan"))), r"calibration .* NaN or infinity .*sample 7"),
        (lambda: task(inputs=with_value(X, 3, float("-inf"))), r"evaluation .* NaN or infinity .*sample 3"),
        (lambda: task(inputs=with_value(X[:, 0], 3, float("nan"))), r"NaN or infinity .*sample 3"),
        (lambda: task(inputs=X[:19], targets=Y[:19]), "only 19 evaluation samples"),
        (lambda: task(calibration=(X, X), inputs=(X, X[:-1])), "evaluation inputs have 40, 39 rows"),
        (lambda: task(calibration=(X, X[:-1]), inputs=(X, X)), "calibration inputs have 40, 39 rows"),
        (lambda: task(calibration=(X, X), inputs=X), "2 calibration but 1 evaluation input tensors"),
    ],
)
def test_bad_data_is_refused(build: Callable[[], Task], message: str) -> None:
    with pytest.raises(HwsmpqError, match=message):
        build()


def test_the_least_data_is_accepted() -> None:
    assert len(task(inputs=X[:20], targets=Y[:20]).evaluation) == 20


@pytest.mark.parametrize(
    ("targets", "outputs", "message"),
    [
        (Y, torch.full((8, 5), torch.nan), "outputs hold NaN"),
        (Y, torch.zeros(8, 4), "labels run from 0 to 4, the model has 4 classes"),
        (Y - 1, torch.zeros(8, 5), "labels run from -1 to 3"),
        (Y, torch.zeros(8, 5, 7), "no classification"),
        (Y.float(), torch.zeros(8, 5), r"(?s)no classification.*labels.long\(\)"),
        (Y.float(), torch.zeros(8, 1), r"(?s)no classification.*metric=mae"),
        (Y[:, None].expand(-1, 7), torch.zeros(8, 5, 7), r"(?s)no classification.*metric='miou'.*ignore_index=255"),
        (Y[:, None], torch.zeros(8, 5), "no classification"),
    ],
)
def test_outputs_must_fit_the_labels(targets: Tensor, outputs: Tensor, message: str) -> None:
    task().check_outputs(torch.zeros(8, 5))
    with pytest.raises(HwsmpqError, match=message):
        task(targets=targets).check_outputs(outputs)


def test_a_label_that_counts_for_nothing_is_named_with_the_line_to_change() -> None:
    """Of a loss that is not told of it, and that gives one number a sample where it is."""
    labels, logits = torch.randint(4, (8, 3, 3)), torch.randn(8, 4, 3, 3)
    labels[:, 0] = 255
    losses = [
        lambda outputs, targets, kept=kept: functional.cross_entropy(
            outputs, targets, reduction="none", **kept
        ).flatten(1).mean(1)
        for kept in ({}, {"ignore_index": 255})
    ]
    with pytest.raises(HwsmpqError, match=r"(?s)loss refuses the label 255.*ignore_index=255, reduction='none'"):
        per_sample(losses[0], logits, labels, "loss")
    assert per_sample(losses[1], logits, labels, "loss").shape == (8,)


def test_own_metric_and_loss_free_the_labels() -> None:
    def distance(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().sum((1, 2))

    numbers = torch.randn(N, 2, 2)
    judged = task(targets=numbers, metric=distance, loss=distance, higher_is_better=False)
    judged.check_outputs(torch.zeros(8, 2, 2))
    assert (judged.metric_name, judged.is_error) == ("distance", True)
    with pytest.raises(HwsmpqError, match="metric and loss are the same function"):
        task(targets=numbers, metric=distance, loss=distance)
    with pytest.raises(HwsmpqError, match=r"(?s)the default loss take.*give the task its own loss=;"):
        task(targets=numbers, metric=distance, higher_is_better=False).check_outputs(torch.zeros(8, 2, 2))


def test_a_metric_has_a_name_and_a_direction() -> None:
    assert [(one.metric_name, one.is_error) for one in (
        task(), task(metric="f1"), task(metric="perplexity"), task(metric=Spearman(of=lambda x: x[:, 0])),
        task(metric=lambda outputs, targets: targets, higher_is_better=False),
    )] == [("top1", False), ("f1", False), ("perplexity", True), ("Spearman", False), ("metric", True)]


def test_split_is_disjoint_complete_and_seeded() -> None:
    whole = task(X[:, :1], inputs=torch.arange(41.0)[:, None], targets=torch.arange(41))
    search, report = whole.split(3)
    assert len(search) + len(report) == 41 and abs(len(search) - len(report)) <= 1
    assert sorted([*search.targets.tolist(), *report.targets.tolist()]) == list(range(41))
    for part in (search, report):
        assert torch.equal(part.inputs[0][:, 0].long(), part.targets), "inputs go with their labels"
    assert torch.equal(whole.split(3)[0].targets, search.targets)
    assert not torch.equal(whole.split(4)[0].targets, search.targets)
    assert not torch.equal(search.targets, search.targets.sort().values), "shuffled, since data may lie by class"
    assert len(whole.split(3, report_fraction=0.25)[1]) == 10


def test_hash_sees_values_shapes_types_and_order_but_not_strides() -> None:
    a = torch.randn(4, 6)
    different = [(a,), (a + 1,), (a.reshape(6, 4),), (a.view(torch.int32),), (a, a), (a[:2], a[2:]), (a.flip(0),)]
    assert len({tensors_sha256(tensors) for tensors in different}) == len(different)
    assert tensors_sha256((a.T.contiguous().T,)) == tensors_sha256((a,))
    assert Samples((X,), Y).sha256() != Samples((X,), Y.flip(0)).sha256()
    for odd in (torch.tensor(True), torch.tensor(2.0), a.bfloat16()):
        assert len(tensors_sha256((odd,))) == 64


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_loss_and_metric_by_hand(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    targets = torch.tensor([2, 1]).to(dtype)
    assert top1(outputs, targets).tolist() == [1, 0]
    expected = [-x[t] + x.exp().sum().log() for x, t in zip(outputs, (2, 1), strict=True)]
    torch.testing.assert_close(cross_entropy(outputs, targets), torch.stack(expected))


def test_kl_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = torch.tensor([0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log(), 0])
    torch.testing.assert_close(kl_divergence(p.log() + 3, q.log() - 1), expected)


def test_value_functions_read_their_own_rows() -> None:
    subject, outputs = task(), torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
    reference = outputs + 0.1 * torch.randn(N, 5, generator=torch.Generator().manual_seed(2))
    samples, rows = subject.evaluation, slice(10, 30)
    for name, expected in (
        ("loss", -cross_entropy(outputs, Y)),
        ("metric", top1(outputs, Y)),
        ("kl", -kl_divergence(reference, outputs)),
    ):
        value = value_function(name, subject, samples, lambda: reference)
        torch.testing.assert_close(value(outputs[rows], rows), expected[rows])


def test_value_functions_refuse_what_they_cannot_judge() -> None:
    subject = task()
    with pytest.raises(HwsmpqError, match="unknown value function 'cosine'"):
        value_function("cosine", subject, subject.evaluation, lambda: torch.zeros(N, 5))
    for outputs in (torch.zeros(N), torch.zeros(N, 1)):
        with pytest.raises(HwsmpqError, match="kl cannot judge"):
            value_function("kl", subject, subject.evaluation, lambda outputs=outputs: outputs)  # type: ignore[misc]


@pytest.mark.parametrize("bad", [lambda o, t: o.sum(), lambda o, t: o, lambda o, t: 0.5, lambda o, t: o[:-1, 0]])
def test_a_function_that_is_not_per_sample_is_refused(bad: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(HwsmpqError, match=r"metric gave .* for 40 samples"):
        per_sample(bad, torch.zeros(N, 5), Y, "metric")


def test_the_model_stays_in_the_mode_that_it_was_in() -> None:
    model = nn.Linear(3, 5).train()
    assert Task(model, X, (X, Y)).model is model and model.training


@pytest.mark.parametrize(
    ("own", "said", "expected"),
    [((), None, True), (("loss",), None, True), (("metric", "loss"), None, False), (("metric", "loss"), True, True),
     ((), False, False)],
)
def test_what_counts_as_classification(own: tuple[str, ...], said: bool | None, expected: bool) -> None:
    """Embeddings of a task with its own metric and loss are no logits, whatever their shape."""
    x, targets = torch.randn(40, 3), torch.randint(0, 5, (40,))
    functions = {name: lambda y, t: (y[:, 0] - t).square() for name in own}
    task = Task(nn.Linear(3, 5), x, (x, targets), classification=said, **functions)
    reference = task.model(x).detach()
    assert task.is_classification is expected
    assert (compare(task, task.evaluation, reference, reference, "simulator").kl is not None) is expected
    if expected:
        value_function("kl", task, task.evaluation, lambda: reference)
    else:
        with pytest.raises(HwsmpqError, match="logits"):
            value_function("kl", task, task.evaluation, lambda: reference)

"""Metrics over a set against other packages, their errors against what is known, and a run that certifies one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_task
import torch
from scipy import stats
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score
from torch import Tensor, nn

from hwsmpq import optimize
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.functions import function_sha256
from hwsmpq.model.metrics import (
    AUC,
    F1,
    AveragePrecision,
    MeanIoU,
    Perplexity,
    SetMetric,
    Spearman,
    pseudo_values,
    set_metric,
)
from hwsmpq.model.task import Task
from hwsmpq.report.collect import collect
from hwsmpq.search.paired import drop, resampled_drop
from hwsmpq.types import Certificate

N = 60
G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(N, 4, generator=G)
LABELS = torch.randint(4, (N,), generator=G)
PAIRS, BINARY = torch.randn(N, 2, generator=G), torch.randint(2, (N,), generator=G)
SCORES = torch.randn(N, generator=G).round(decimals=1)
MAPS, MASKS = torch.randn(10, 3, 6, 5, generator=G), torch.randint(3, (10, 6, 5), generator=G)
WORDS, TOKENS = torch.randn(8, 7, 11, generator=G), torch.randint(11, (8, 7), generator=G)


def of(metric: SetMetric, outputs: Any, targets: Tensor) -> float:
    return metric.compute(metric.reduce(outputs, targets).numpy())


def padded() -> Tensor:
    masks = MASKS.clone()
    masks[0, :2] = 255
    return masks


def test_they_are_what_other_packages_compute() -> None:
    assert of(Spearman(), SCORES, LOGITS[:, 0]) == pytest.approx(stats.spearmanr(SCORES, LOGITS[:, 0]).statistic)
    assert of(F1(), LOGITS, LABELS) == pytest.approx(f1_score(LABELS, LOGITS.argmax(1), average="macro"))
    assert of(F1(), PAIRS, BINARY) == pytest.approx(f1_score(BINARY, PAIRS.argmax(1)))
    assert of(AUC(), PAIRS, BINARY) == pytest.approx(roc_auc_score(BINARY, PAIRS[:, 1] - PAIRS[:, 0]))
    assert of(AUC(), SCORES, BINARY) == pytest.approx(roc_auc_score(BINARY, SCORES))
    counted = padded() < 3
    assert of(MeanIoU(), MAPS, padded()) == pytest.approx(
        jaccard_score(padded()[counted], MAPS.argmax(1)[counted], average="macro")
    )
    tokens = TOKENS.clone()
    tokens[3, 4:] = -100
    entropy = nn.functional.cross_entropy(WORDS.flatten(0, 1), tokens.flatten())
    assert of(Perplexity(), WORDS, tokens) == pytest.approx(float(entropy.exp()))


def test_average_precision_by_hand() -> None:
    """One class: hit, miss, hit of two targets in order of score: (1 + 2/3) / 2. The second box of a target is a miss;
    another class has one target and nothing found."""
    target = torch.tensor([
        [[0.0, 0, 10, 10, 0], [0, 0, 0, 0, -1]], [[0, 0, 4, 4, 0], [5, 5, 9, 9, 1]],
    ])
    boxes = torch.tensor([
        [[0.0, 0, 10, 9, 0.9, 0], [0, 1, 10, 10, 0.8, 0], [0, 0, 0, 0, 0, 0]],
        [[0, 0, 4, 3, 0.7, 0], [0, 0, 4, 4, 0.0, 0], [5, 5, 6, 6, 0.6, 1]],
    ])
    assert of(AveragePrecision(), boxes, target) == pytest.approx(((1 + 2 / 3) / 2 + 0) / 2)
    right = torch.cat([target[..., :4], torch.ones(2, 2, 1), target[..., 4:]], 2)
    right[..., 4] *= target[..., 4] >= 0
    assert of(AveragePrecision(), right, target) == 1.0


class Mean(SetMetric):
    """A mean over samples, whose errors are known."""

    def reduce(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, None].double()

    def compute(self, reduced: np.ndarray) -> float:
        return float(reduced.mean())


@pytest.mark.parametrize("n", [20, 24, 60, 61])
def test_pseudo_values_have_the_mean_and_nearly_the_error_of_a_mean(n: int) -> None:
    x = torch.randn(3000 // n * n, generator=G).reshape(-1, n)
    errors = []
    for row in x:
        found = pseudo_values(Mean(), row[:, None].double())
        assert float(found.mean()) == pytest.approx(float(row.mean()), abs=1e-5)
        errors.append(float(found.std() / np.sqrt(n)))
    known = x.std(dim=1).mean().item() / np.sqrt(n)
    assert np.mean(errors) == pytest.approx(known, rel=0.08)
    if n <= 24:  # a block a sample
        assert errors == pytest.approx((x.std(dim=1) / np.sqrt(n)).tolist(), rel=1e-4)


def test_the_bootstrap_of_a_mean_has_its_paired_error() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(300, 1))
    other = reference - 0.2 + 0.1 * rng.normal(size=(300, 1))
    known, found = drop(reference[:, 0], other[:, 0], 0.95), resampled_drop(reference, other, Mean().value, 0.95)
    assert found.points == pytest.approx(known.points)
    assert (found.stderr, found.bound) == pytest.approx((known.stderr, known.bound), rel=0.1)
    same = resampled_drop(reference, reference, Mean().value, 0.95)
    assert same.points == 0 and same.bound > 0.5  # some sample out of 300 may still change


class Counter:
    """As torchmetrics has them."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.n_wrong = self.n = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.n_wrong += int((outputs.argmax(1) != targets).sum())
        self.n += len(targets)

    def compute(self) -> Tensor:
        return torch.tensor(self.n_wrong / self.n)


def test_an_object_with_update_compute_and_reset_is_one() -> None:
    made = set_metric(Counter())
    assert made is not None and not made.higher_is_better
    assert of(made, LOGITS, LABELS) == pytest.approx(float((LOGITS.argmax(1) != LABELS).float().mean()))
    assert made.value(made.reduce(LOGITS, LABELS).numpy()) < 0
    assert set_metric(lambda outputs, targets: outputs) is None
    with pytest.raises(HwsmpqError, match="no metric 'f2'"):
        set_metric("f2")


@pytest.mark.parametrize(("metric", "outputs", "targets"), [
    (Spearman(), SCORES, LOGITS[:, 0]), (F1(), LOGITS, LABELS), (AUC(), SCORES, BINARY), (MeanIoU(), MAPS, MASKS),
    (Perplexity(), WORDS, TOKENS), (AveragePrecision(), torch.rand(4, 3, 6), torch.rand(4, 2, 5)),
    (set_metric(Counter()), LOGITS, LABELS),
], ids=lambda x: type(x).__name__)
def test_what_was_measured_with_one_is_found_again_after_its_use(
    metric: SetMetric, outputs: Tensor, targets: Tensor
) -> None:
    before = function_sha256(metric)
    of(metric, outputs, targets)
    assert function_sha256(metric) == before


def test_an_object_that_was_used_before_is_the_same() -> None:
    used = Counter()
    used.update(LOGITS, LABELS)
    assert function_sha256(set_metric(used)) == function_sha256(set_metric(Counter()))


def test_one_of_torchmetrics_is_one() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="the package torchmetrics is not installed")
    made = set_metric(torchmetrics.F1Score(task="multiclass", num_classes=4, average="macro"))
    assert made is not None and made.higher_is_better
    assert of(made, LOGITS, LABELS) == pytest.approx(of(F1(), LOGITS, LABELS), abs=1e-6)
    assert set_metric(torchmetrics.MeanSquaredError()).higher_is_better is False


@pytest.mark.parametrize("metric", ["f1", F1(of=lambda logits: logits * 2), Counter()], ids=("name", "object", "own"))
def test_a_run_certifies_it_and_says_how(metric: Any, tmp_path: Path) -> None:
    given = tiny_task.task()
    samples = given.evaluation
    certificate: Certificate = optimize(
        Task(given.model, given.calibration[0], (samples.inputs[0], samples.targets), metric=metric, name="tiny"),
        tmp_path, bitops="int8", max_drop=30, ladder="w4a4,int8,fp32", n_pairs=2, n_score_samples=16, n_candidates=2,
        search_evaluations=4,
    )
    accuracy = certificate.accuracy
    assert accuracy.n_resamples == 400 and accuracy.drop_bound is not None
    assert accuracy.reference == pytest.approx(0.0 if isinstance(metric, Counter) else 1.0)
    assert accuracy.engine <= accuracy.reference
    assert "by 400 resamples" in collect(tmp_path).verdict.text


def test_the_value_metric_needs_a_number_a_sample(tmp_path: Path) -> None:
    given = tiny_task.task()
    samples = given.evaluation
    task = Task(given.model, given.calibration[0], (samples.inputs[0], samples.targets), metric="f1")
    with pytest.raises(HwsmpqError, match="scores no sample"):
        optimize(task, tmp_path, bitops="int8", ladder="int8,fp32", target="onnx-qdq", value="metric")

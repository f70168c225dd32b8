"""Metrics of a whole set of samples, which are no means over them: F1, AUC, Spearman, mIoU, mAP, perplexity, and any
object with ``update``, ``compute`` and ``reset``, as torchmetrics has it.

Each keeps what it needs of every sample (:meth:`SetMetric.reduce`), so that it can be computed of any of them: its
uncertainty is found by resampling samples. It keeps nothing else: a metric that was used is still the same to the
artifacts that rest on it.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError

N_BLOCKS = 24
"""Blocks of samples of which one is left out at a time."""
IGNORED = -100
"""A label that counts for nothing, as torch has it."""

View = Callable[[Any], Any]


class SetMetric(ABC):
    """A metric over a set of samples.

    Args:
        of: outputs as the network gives them -> what is judged; by default they themselves.
    """

    higher_is_better = True

    def __init__(self, of: View | None = None) -> None:
        self.of = of

    @abstractmethod
    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        """What is needed of every sample, float (n, k)."""

    @abstractmethod
    def compute(self, reduced: NDArray[np.float64]) -> float:
        """The metric of the samples (n, k)."""

    def value(self, reduced: NDArray[np.float64]) -> float:
        """The metric, with a minus sign where a smaller one is better."""
        found = self.compute(reduced)
        return found if self.higher_is_better else -found

    def seen(self, view: View) -> SetMetric:
        """The same for outputs that ``view`` makes of others first."""
        other = copy.copy(self)
        other.of = _after(view, self.of)
        return other

    def negated(self, higher_is_better: bool) -> SetMetric:
        """The same, of which more is better or worse."""
        other = copy.copy(self)
        other.higher_is_better = higher_is_better
        return other

    def _judged(self, outputs: Any) -> Any:
        return outputs if self.of is None else self.of(outputs)


def _after(view: View, of: View | None) -> View:
    return view if of is None else lambda outputs: of(view(outputs))


class Spearman(SetMetric):
    """Rank correlation of one number a sample with its target."""

    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        return _columns(self._judged(outputs).reshape(len(targets)), targets.reshape(len(targets)))

    def compute(self, reduced: NDArray[np.float64]) -> float:
        first, second = (_ranks(column) for column in reduced.T)
        spread = float(first.std() * second.std())
        return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread else 0.0


class F1(SetMetric):
    """F1 over the largest logits: of the second class where there are two, else the mean over the classes."""

    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        logits = self._judged(outputs)
        return _columns(logits.argmax(1), targets, torch.full((len(targets),), logits.shape[1]))

    def compute(self, reduced: NDArray[np.float64]) -> float:
        found, right, n_classes = reduced.T
        classes = [1] if n_classes[0] == 2 else range(int(n_classes[0]))
        scores = []
        for one in classes:
            n_right = ((found == one) & (right == one)).sum()
            n_either = (found == one).sum() + (right == one).sum()
            if n_either:  # a class that neither has nor was answered says nothing
                scores.append(2 * n_right / n_either)
        return float(np.mean(scores)) if scores else 0.0


class AUC(SetMetric):
    """Area under the ROC curve of two classes: of the difference of two logits, or of one number a sample."""

    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        score = self._judged(outputs)
        if score.ndim == 2 and score.shape[1] == 2:
            score = score[:, 1] - score[:, 0]
        return _columns(score.reshape(len(targets)), targets)

    def compute(self, reduced: NDArray[np.float64]) -> float:
        positive = reduced[:, 1] > 0
        n, m = int(positive.sum()), int((~positive).sum())
        if not n or not m:
            return 0.5
        return float((_ranks(reduced[:, 0])[positive].sum() - n * (n + 1) / 2) / (n * m))  # Mann & Whitney


class MeanIoU(SetMetric):
    """Intersection over union of logits (n, classes, ...) with labels (n, ...), over all samples, as the mean over the
    classes that occur. Labels outside the classes (255, -100) do not count."""

    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        logits = self._judged(outputs)
        n_classes, found = logits.shape[1], logits.argmax(1).reshape(len(targets), -1)
        right = targets.reshape(len(targets), -1).to(found.device)
        counted = (right >= 0) & (right < n_classes)
        parts = []
        for one in range(n_classes):
            here, there = (found == one) & counted, right == one
            parts += [(here & there).sum(1), (here | there).sum(1)]
        return torch.stack(parts, 1).double()

    def compute(self, reduced: NDArray[np.float64]) -> float:
        both, either = reduced.sum(0).reshape(-1, 2).T
        return float((both[either > 0] / either[either > 0]).mean()) if (either > 0).any() else 0.0


class Perplexity(SetMetric):
    """Exponential of the mean cross-entropy of logits (n, tokens, words), or (n, words), with labels (n, tokens), or
    (n,). Labels of -100 do not count."""

    higher_is_better = False

    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        logits = self._judged(outputs)
        entropy = nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1).long().to(logits.device),
            reduction="none", ignore_index=IGNORED,
        ).reshape(len(targets), -1)
        return _columns(entropy.sum(1), (targets.reshape(len(targets), -1) != IGNORED).sum(1))

    def compute(self, reduced: NDArray[np.float64]) -> float:
        total, n = reduced.sum(0)
        return math.exp(total / n) if n else math.inf


class AveragePrecision(SetMetric):
    """Mean average precision of boxes at one overlap (mAP), over the classes that the labels hold.

    Outputs are boxes (n, k, 6): left, top, right, bottom, score, class; a score of 0 or less is none. Targets are
    (n, m, 5): left, top, right, bottom, class; a class below 0 is none. Within a sample, boxes in order of their score
    take the free target of their class that they overlap most, at ``iou`` at least. The area under the curve is that
    of the precision made monotonic (Everingham et al. 2010, as of VOC 2010).

    Args:
        of: what makes such boxes of the outputs: decoding, and non-maximum suppression.
    """

    def __init__(self, of: View | None = None, iou: float = 0.5) -> None:
        super().__init__(of)
        self.iou = iou

    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        boxes = self._judged(outputs).detach().cpu().double().numpy()
        labels = targets.detach().cpu().double().numpy()
        n, k, m = len(labels), boxes.shape[1], labels.shape[1]
        found = np.empty((n, 1 + 3 * k + m))  # k; score, class and hit of every box; class of every target
        for i in range(n):
            found[i] = [k, *self._matched(boxes[i], labels[i]).ravel(), *labels[i, :, 4]]
        return torch.from_numpy(found)

    def _matched(self, boxes: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = np.stack([boxes[:, 4], boxes[:, 5], np.zeros(len(boxes))], 1)
        free = labels[:, 4] >= 0
        for i in np.argsort(-boxes[:, 4], kind="stable"):
            candidates = np.flatnonzero(free & (labels[:, 4] == boxes[i, 5]))
            if boxes[i, 4] <= 0 or not len(candidates):
                continue
            overlap = _overlap(boxes[i, :4], labels[candidates, :4])
            if overlap.max() >= self.iou:
                rows[i, 2] = 1.0
                free[candidates[overlap.argmax()]] = False
        return rows

    def compute(self, reduced: NDArray[np.float64]) -> float:
        end = 1 + 3 * int(reduced[0, 0])
        boxes = reduced[:, 1:end].reshape(-1, 3)
        boxes = boxes[boxes[:, 0] > 0]
        classes = reduced[:, end:]
        scores = []
        for one in np.unique(classes[classes >= 0]):
            mine = boxes[boxes[:, 1] == one]
            hits = mine[np.argsort(-mine[:, 0], kind="stable"), 2]
            recall = np.cumsum(hits) / (classes == one).sum()
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            scores.append(float((np.diff(recall, prepend=0.0) * precision).sum()))
        return float(np.mean(scores)) if scores else 0.0


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of a box (4,) with others (m, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    either = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - both
    return np.asarray(both / np.maximum(either, 1e-12))


class Resettable(SetMetric):
    """A metric with ``reset``, ``update(outputs, targets)`` and ``compute``, as torchmetrics has it.

    All outputs and targets are kept while it is computed.
    """

    # What is installed counts by its name and settings, not by all that it holds, nor by what it was given last.
    __slots__ = ("_forms", "_given")

    def __init__(self, given: Any, of: View | None = None) -> None:
        super().__init__(of)
        self._given = copy.deepcopy(given)
        self._given.reset()
        declared = getattr(given, "higher_is_better", None)
        self.higher_is_better = True if declared is None else bool(declared)
        simple = (bool, int, float, str, tuple, type(None))
        self.content = type(given), {
            name: value for name, value in vars(self._given).items()
            if not name.startswith("_") and isinstance(value, simple)
        }
        self._forms: list[tuple[torch.Size, torch.dtype]] = []

    def reduce(self, outputs: Any, targets: Tensor) -> Tensor:
        """Outputs and targets themselves, side by side."""
        parts = (outputs, targets)
        self._forms = [(x.shape[1:], x.dtype) for x in parts]
        return torch.cat([x.reshape(len(x), -1).double().cpu() for x in parts], 1)

    def compute(self, reduced: NDArray[np.float64]) -> float:
        rows = torch.from_numpy(np.ascontiguousarray(reduced))
        sizes = [max(1, shape.numel()) for shape, _ in self._forms]
        outputs, targets = (
            part.reshape(len(rows), *shape).to(dtype)
            for part, (shape, dtype) in zip(rows.split(sizes, 1), self._forms, strict=True)
        )
        self._given.reset()
        self._given.update(self._judged(outputs), targets)
        found = self._given.compute()
        if isinstance(found, dict) or (isinstance(found, Tensor) and found.numel() != 1):
            raise HwsmpqError(
                f"the metric {type(self._given).__name__} gives several values", "a budget holds one number",
                "give an object whose compute() returns the one that counts",
            )
        return float(found)


NAMED: dict[str, type[SetMetric]] = {
    "spearman": Spearman, "f1": F1, "auc": AUC, "miou": MeanIoU, "map50": AveragePrecision, "perplexity": Perplexity,
}


def set_metric(given: Any) -> SetMetric | None:
    """A metric over a set that was given by name or as an object; None where it is a function of samples.

    Raises:
        HwsmpqError: there is none of that name.
    """
    if isinstance(given, str):
        if given not in NAMED:
            raise HwsmpqError(f"there is no metric {given!r}", fix=f"one of {', '.join(NAMED)}, or a function")
        return NAMED[given]()
    if isinstance(given, SetMetric):
        return given
    if all(callable(getattr(given, name, None)) for name in ("update", "compute", "reset")):
        return Resettable(given)
    return None


def pseudo_values(metric: SetMetric, reduced: Tensor) -> Tensor:
    """One number a sample, float (n,), whose mean is the metric of all of them and whose standard error is that of the
    metric: what it changes by where blocks of samples are left out one at a time (Tukey's jackknife).

    Differences of two metrics on the same samples have their paired errors likewise.
    """
    rows = reduced.detach().cpu().double().numpy()
    n, whole = len(rows), metric.value(rows)
    block = np.arange(n) % min(n, N_BLOCKS)
    n_blocks = int(block.max()) + 1
    if n_blocks < 2:
        return torch.full((n,), whole)
    left = np.array([metric.value(rows[block != one]) for one in range(n_blocks)])
    moved = (n_blocks - 1) * (left.mean() - left)
    # Each block's share is spread over its samples, so that errors taken over samples are those over blocks.
    spread = moved[block] * math.sqrt((n - 1) / (n_blocks - 1))
    return torch.from_numpy(whole + spread - spread.mean()).float()


def _columns(*columns: Tensor) -> Tensor:
    return torch.stack([column.detach().cpu().double() for column in columns], 1)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata  # most tasks need none of it

    return np.asarray(rankdata(values))

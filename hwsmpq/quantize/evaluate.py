"""Evaluate assignments on one fixed batch, as the vectors that the memo stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.model.metrics import SetMetric, pseudo_values
from hwsmpq.model.parts import Samples
from hwsmpq.model.shapes import Rows
from hwsmpq.model.task import Task
from hwsmpq.model.values import per_sample, value_function
from hwsmpq.quantize.order import order_for_prefixes
from hwsmpq.types import Assignment

AT_ONCE = 32
"""Outputs that are known of which so many are scored together."""


class Runner(Protocol):
    """Runs assignments: the simulator, or real engines."""

    def scores(
        self,
        assignments: Sequence[Assignment],
        inputs: tuple[Tensor, ...],
        score: Callable[[Tensor, Rows], Tensor],
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Per-sample scores of every assignment, (n_assignments, n_samples, ...)."""
        ...


class Evaluator:
    """Values and metric of assignments on ``samples``.

    Calling it gives float32 (n_assignments, 2 * n_samples): the value of every sample, then the metric of every
    sample, so that both come from one forward pass and are stored together. The reference is run once: where the value
    compares with its outputs, they are kept, and scored when it is evaluated itself.

    Args:
        value: name of the value function, see :mod:`hwsmpq.model.values`.
        reference: the assignment whose outputs ``kl`` compares with.
        progress: called with (evaluations done, evaluations in all) of one request.
        expected: outputs of the reference on ``samples``, where they are known.
    """

    def __init__(
        self,
        runner: Runner,
        task: Task,
        samples: Samples,
        value: str,
        reference: Assignment,
        progress: Callable[[int, int], None] | None = None,
        expected: Tensor | None = None,
    ) -> None:
        self._runner, self._task, self._samples, self._progress = runner, task, samples, progress
        self._reference, self._expected = reference, expected
        self._value = value_function(value, task, samples, self._outputs_of_reference)

    def outputs(self, assignment: Assignment) -> Tensor:
        """Outputs of the network under one assignment, (n_samples, ...)."""
        return self._runner.scores([assignment], self._samples.inputs, lambda out, rows: out)[0]

    def _outputs_of_reference(self) -> Tensor:
        if self._expected is None:
            self._expected = self.outputs(self._reference)
        return self._expected

    def __call__(self, assignments: list[Assignment]) -> NDArray[np.float32]:
        targets, metric = self._samples.targets, self._task.metric

        def score(outputs: Tensor, rows: Rows) -> Tensor:
            here, values = targets[rows].to(outputs.device), self._value(outputs, rows)
            if isinstance(metric, SetMetric):
                return torch.cat((values[:, None].double().cpu(), metric.reduce(outputs, here)), 1)
            return torch.stack((values, per_sample(metric, outputs, here, "metric")), 1)

        def vectors(scores: Tensor) -> NDArray[np.float32]:
            if isinstance(metric, SetMetric):
                whole = [torch.stack((row[:, 0].float(), pseudo_values(metric, row[:, 1:])), 1) for row in scores]
                scores = torch.stack(whole)
            return scores.transpose(1, 2).flatten(1).numpy()

        n, known = len(self._samples), self._expected
        found = np.empty((len(assignments), 2 * n), dtype=np.float32)
        is_known = np.array([known is not None and one == self._reference for one in assignments])
        order = [row for row in _order(assignments) if not is_known[row]]
        if order:
            ordered = [assignments[row] for row in order]
            found[order] = vectors(self._runner.scores(ordered, self._samples.inputs, score, self._progress))
        if known is not None and is_known.any():
            parts = [slice(start, start + AT_ONCE) for start in range(0, n, AT_ONCE)]
            found[is_known] = vectors(torch.cat([score(known[rows], rows).cpu() for rows in parts])[None])
        return found


def _order(assignments: list[Assignment]) -> NDArray[np.int64]:
    """Rows in the order that shares most; assignments name their groups in execution order."""
    codes: dict[str, int] = {}
    levels = [[codes.setdefault(name, len(codes)) for name in assignment.values()] for assignment in assignments]
    return order_for_prefixes(np.array(levels, dtype=np.int64))

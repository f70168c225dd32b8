"""Evaluate assignments in the simulator on one fixed batch, as the vectors that the memo stores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.model.task import Samples, Task
from hwsmpq.model.values import per_sample, value_function
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Assignment


class Evaluator:
    """Values and metric of assignments on ``samples``.

    Calling it gives float32 (n_assignments, 2 * n_samples): the value of every sample, then the metric of every
    sample, so that both come from one forward pass and are stored together.

    Args:
        value: name of the value function, see :mod:`hwsmpq.model.values`.
        reference: the assignment whose outputs ``kl`` compares with.
        progress: called with (evaluations done, evaluations in all) of one request.
    """

    def __init__(
        self,
        simulator: Simulator,
        task: Task,
        samples: Samples,
        value: str,
        reference: Assignment,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._simulator, self._task, self._samples, self._progress = simulator, task, samples, progress
        self._value = value_function(value, task, samples, lambda: self.outputs(reference))

    def outputs(self, assignment: Assignment) -> Tensor:
        """Outputs of the network under one assignment, (n_samples, ...)."""
        return self._simulator.scores([assignment], self._samples.inputs, lambda out, rows: out)[0]

    def __call__(self, assignments: list[Assignment]) -> NDArray[np.float32]:
        targets, metric = self._samples.targets, self._task.metric

        def score(outputs: Tensor, rows: slice) -> Tensor:
            both = self._value(outputs, rows), per_sample(metric, outputs, targets[rows], "metric")
            return torch.stack(both, 1)

        scores = self._simulator.scores(assignments, self._samples.inputs, score, self._progress)
        return scores.transpose(1, 2).flatten(1).numpy()

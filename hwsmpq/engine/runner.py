"""Runs assignments as real engines, in the place of the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.model.shapes import Rows
from hwsmpq.types import Assignment


class EngineRunner:
    """Outputs of built engines under assignments, with the interface of the simulator.

    Every assignment is built, run sample by sample, and removed again. That pays where building takes less than the
    simulator's detour over quantized floats, and it needs no trust in the simulation.
    """

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def scores(
        self,
        assignments: Sequence[Assignment],
        inputs: tuple[Tensor, ...],
        score: Callable[[Tensor, Rows], Tensor],
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Per-sample scores, shape (n_assignments, n_samples, ...).

        Args:
            score: (outputs of all samples, the rows of ``inputs`` they came from) -> (n_samples, ...).
            progress: called with (evaluations done, evaluations in all).

        Raises:
            HwsmpqError: the target cannot build or run an assignment.
        """
        scores = []
        for done, assignment in enumerate(assignments, 1):
            with self._builder.temporary(assignment) as engine:
                outputs = engine_outputs(engine, inputs, self._builder.batch)
            scores.append(score(outputs, slice(0, len(outputs))))
            if progress:
                progress(done, len(assignments))
        return torch.stack(scores)

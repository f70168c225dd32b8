"""The search part as nested batches: the score batch, then each four times as many samples, and all of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsmpq.model.parts import Samples
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.search.paired import Drop, drop
from hwsmpq.types import REFERENCE

GROWTH = 4
STAGE = "search: evaluate candidates"


class NestedBatches:
    """Values and metrics of choices on nested batches, through the memo of the run folder."""

    def __init__(self, prepared: Prepared) -> None:
        run = prepared.run
        part, n = run.parts[0], run.settings.n_score_samples
        ends = sorted({min(end, len(part)) for end in (n, GROWTH * n, GROWTH**2 * n, len(part))})
        starts = [0, *ends[:-1]]
        self._prepared, self._run, self._confidence = prepared, run, run.settings.drop_confidence
        self._samples: list[Samples] = [part.take(slice(a, b)) for a, b in zip(starts, ends, strict=True)]
        self._games = [evaluation_game(prepared, samples, self._progress) for samples in self._samples]
        self._reference: list[NDArray[np.float32]] = []
        self._best: dict[int, float] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples that every batch adds."""
        return tuple(len(samples) for samples in self._samples)

    def values(self, choices: NDArray[np.int64], batch: int) -> NDArray[np.float64]:
        """Values (n, n_samples) of choices (n, n_groups) on the samples that a batch adds."""
        values = self._both(choices, batch)[0]
        self._best[batch] = max(self._best.get(batch, -np.inf), float(values.mean(1).max()))
        self._run.status(STAGE, f"best {self._run.value} {self._best[batch]:.4f} on {self.sizes[batch]} samples")
        return values

    def up_to(self, choice: NDArray[np.int64], n_samples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(values, metrics) of one choice on the first ``n_samples``, which end with a batch."""
        n_batches = int(np.searchsorted(np.cumsum(self.sizes), n_samples)) + 1
        parts = [self._both(choice[None], batch) for batch in range(n_batches)]
        values, metrics = (np.concatenate([part[i][0] for part in parts]) for i in (0, 1))
        return values, metrics

    def reference(self, n_samples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(values, metrics) of the reference, which may lie above the ladder, on the first ``n_samples``."""
        n_batches = int(np.searchsorted(np.cumsum(self.sizes), n_samples)) + 1
        for batch in range(len(self._reference), n_batches):
            self._reference.append(self._games[batch].samples_of([self._prepared.network.uniform(REFERENCE)])[0])
        rows = [np.split(row.astype(np.float64), 2) for row in self._reference[:n_batches]]
        values, metrics = (np.concatenate([row[i] for row in rows]) for i in (0, 1))
        return values, metrics

    def drop(self, choice: NDArray[np.int64], n_samples: int) -> Drop:
        """What a choice loses of the metric on the first ``n_samples``."""
        return drop(self.reference(n_samples)[1], self.up_to(choice, n_samples)[1], self._confidence)

    def _both(self, choices: NDArray[np.int64], batch: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values, metrics = np.split(self._games[batch].samples(choices).astype(np.float64), 2, axis=1)
        return values, metrics

    def _progress(self, done: int, n: int) -> None:
        self._run.progress(STAGE, done, n)

"""The game over the operations of a supernet, as differentiable search sees them (Xiao et al. 2022, Shapley-NAS)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from hwsmpq.model.parts import Samples
from hwsmpq.model.task import PerSample
from hwsmpq.train.supernet import Supernet


class OperationGame:
    """Every (group, precision) of a supernet is a player: present, with its share of the sum, or absent.

    The value is the mean of a score over a batch. Nobody present leaves a network that answers with its biases, all
    present is the supernet. A :class:`~hwsmpq.contribution.game.Game` of two levels, which can be redrawn.

    Args:
        draw: the samples of the n-th batch; the first is number 0.
        score: (outputs, targets) -> one number a sample; accuracy in the paper.
        chunk_size: samples that run together.
    """

    base, n_levels = 0, 2

    def __init__(
        self, supernet: Supernet, draw: Callable[[int], Samples], score: PerSample, index: int = 0,
        chunk_size: int = 128,
    ) -> None:
        self._supernet, self._draw, self._score, self._chunk_size = supernet, draw, score, chunk_size
        self._samples = draw(index)
        self.operations = [(g, p) for g in supernet.network.group_names for p in supernet.ladder.names]

    @property
    def n_players(self) -> int:
        return len(self.operations)

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values (n_coalitions,) of coalitions (n_coalitions, n_players) of zeros and ones."""
        found = np.array([self._value(row) for row in levels])
        self._supernet.keep({})
        return found

    def redraw(self, index: int) -> OperationGame:
        """The same game on the batch number ``index`` + 1."""
        return OperationGame(self._supernet, self._draw, self._score, index + 1, self._chunk_size)

    def by_group(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """Contributions (n_players, 2) as a table (n_groups, n_precisions)."""
        return phi[:, 1].reshape(-1, len(self._supernet.ladder.names))

    def _value(self, row: NDArray[np.int64]) -> float:
        present: dict[str, set[str]] = {group: set() for group in self._supernet.network.group_names}
        for (group, precision), level in zip(self.operations, row, strict=True):
            if level:
                present[group].add(precision)
        self._supernet.keep(present)
        scores, n = [], len(self._samples)
        with torch.no_grad():
            for start in range(0, n, self._chunk_size):
                part = self._samples.take(slice(start, start + self._chunk_size))
                scores.append(self._score(self._supernet(*part.inputs), part.targets))
        return float(torch.cat(scores).double().mean())

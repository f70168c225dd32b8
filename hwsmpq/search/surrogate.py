"""A second-order model of the value, fitted on evaluations that were made for other reasons.

An additive table cannot say that two damaged groups hurt more, or less, than the sum of both. The surrogate adds to a
table a correction of every choice and one coefficient for every pair of groups, which multiplies what the two choices
lose under the table. Both are shrunken by ridge regression, and the surrogate is kept only where cross-validation
over whole walks says that it predicts better than the table alone.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hwsmpq.types import Cost

RIDGES = ((1e3, 1e2), (1e2, 1e1), (1e1, 1e0))
"""Penalties of (choices, pairs), strongest first."""
MAX_FOLDS = 8
Z_BETTER = 2.0
"""Standard errors over folds by which the surrogate must predict better; three penalties have their chance."""


def fit_surrogate(
    levels: NDArray[np.int64], values: NDArray[np.float64], walks: NDArray[np.int64], table: NDArray[np.float64],
    max_pairs: int,
) -> Cost | None:
    """The surrogate as a cost to maximise, or None where it does not predict better than ``table``.

    Args:
        levels: evaluated assignments (n, n_groups).
        values: their values (n,).
        walks: which walk each belongs to (n,); a whole walk is left out at a time, since its members resemble each
            other.
        table: additive table (n_groups, n_levels) that is corrected.
        max_pairs: pairs that are kept, the strongest first: the solver's effort grows with them.
    """
    design = _Design(table)
    features, residual = design.features(levels), values - design.additive(levels)
    index = np.unique(walks, return_inverse=True)[1] % MAX_FOLDS
    folds = [index == fold for fold in np.unique(index)]
    if len(folds) < 2:
        return None
    baseline = np.array([np.mean((residual[fold] - residual[~fold].mean()) ** 2) for fold in folds])
    best: tuple[float, tuple[float, float]] | None = None
    for ridge in RIDGES:
        errors = []
        for fold in folds:
            weights, offset = design.solve(features[~fold], residual[~fold], ridge)
            errors.append(float(np.mean((residual[fold] - offset - features[fold] @ weights) ** 2)))
        gain = baseline - np.array(errors)
        spread = gain.std(ddof=1) / np.sqrt(len(folds))
        if gain.mean() > Z_BETTER * spread and (best is None or np.mean(errors) < best[0]):
            best = float(np.mean(errors)), ridge
    if best is None:
        return None
    weights, offset = design.solve(features, residual, best[1])
    return design.cost(weights, offset, max_pairs)


class _Design:
    """The features of an assignment: its choices, then the product of what both choices of a pair lose."""

    def __init__(self, table: NDArray[np.float64]) -> None:
        self._table = table
        n_groups, self._n_levels = table.shape
        self._groups = np.arange(n_groups)
        loss = table.max(1, keepdims=True) - table
        loss = loss / max(float(loss.max()), 1e-30)
        self._loss = loss - loss.mean(1, keepdims=True)
        self._pairs = np.array(list(combinations(range(n_groups), 2)), dtype=np.int64).reshape(-1, 2)

    def additive(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predictions of the table alone, (n,)."""
        return np.asarray(self._table[self._groups, levels].sum(1))

    def features(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, n_groups * n_levels + n_pairs)."""
        choices = (levels[:, :, None] == np.arange(self._n_levels)).reshape(len(levels), -1)
        loss = self._loss[self._groups, levels]
        return np.hstack([choices, loss[:, self._pairs[:, 0]] * loss[:, self._pairs[:, 1]]])

    def solve(
        self, features: NDArray[np.float64], residual: NDArray[np.float64], ridge: tuple[float, float]
    ) -> tuple[NDArray[np.float64], float]:
        """Ridge regression with a free offset: (weights (n_features,), offset).

        Solved in the space of the rows, of which there are fewer than features.
        """
        penalty = np.repeat(ridge, [self._table.size, len(self._pairs)])
        centre, mean = features.mean(0), float(residual.mean())
        scaled = (features - centre) / penalty
        gram = scaled @ (features - centre).T
        weights = scaled.T @ np.linalg.solve(gram + np.eye(len(gram)), residual - mean)
        return weights, mean - float(centre @ weights)

    def cost(self, weights: NDArray[np.float64], offset: float, max_pairs: int) -> Cost:
        """Table plus corrections, as the solver takes it."""
        unary = self._table + weights[: self._table.size].reshape(self._table.shape)
        tables = [
            (int(i), int(j), weight * np.outer(self._loss[i], self._loss[j]))
            for (i, j), weight in zip(self._pairs, weights[self._table.size :], strict=True)
        ]
        strongest = sorted(tables, key=lambda pair: -float(np.ptp(pair[2])))[:max_pairs]
        return Cost(unary, tuple(strongest), offset)

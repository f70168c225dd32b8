"""A second-order model of the value, fitted on evaluations that were made for other reasons.

An additive table cannot say that two damaged groups hurt more, or less, than the sum of both. The surrogate adds to a
table a correction of every choice and one coefficient for every pair of groups, which multiplies what the two choices
lose under the table. Both are shrunken by ridge regression, and the surrogate is kept only where cross-validation
over whole walks says that it predicts better than the table alone.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hwsmpq.types import Cost

RIDGES = ((1e3, 1e2), (1e2, 1e1), (1e1, 1e0))
"""Penalties of (choices, pairs), strongest first."""
MAX_FOLDS = 8
MOST_ROWS = 1200
"""Assignments that are fitted: the time grows with the cube of their number, memory with the square."""
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
            other. Of more than :data:`MOST_ROWS`, long walks are thinned evenly: neighbours on them say much the same.
        table: additive table (n_groups, n_levels) that is corrected.
        max_pairs: pairs that are kept, the strongest first: the solver's effort grows with them.
    """
    kept = _thinned(walks)
    levels, values, walks = levels[kept], values[kept], walks[kept]
    design = _Design(table, levels)
    residual = values - table[np.arange(len(table)), levels].sum(1)
    index = np.unique(walks, return_inverse=True)[1] % MAX_FOLDS
    folds = [index == fold for fold in np.unique(index)]
    if len(folds) < 2:
        return None
    baseline = np.array([np.mean((residual[fold] - residual[~fold].mean()) ** 2) for fold in folds])
    best: tuple[float, tuple[float, float]] | None = None
    for ridge in RIDGES:
        kernel = design.kernel(ridge)
        errors = []
        for fold in folds:
            dual, offset = _solve(kernel[np.ix_(~fold, ~fold)], residual[~fold])
            predicted = offset + kernel[np.ix_(fold, ~fold)] @ dual
            errors.append(float(np.mean((residual[fold] - predicted) ** 2)))
        gain = baseline - np.array(errors)
        spread = gain.std(ddof=1) / np.sqrt(len(folds))
        if gain.mean() > Z_BETTER * spread and (best is None or np.mean(errors) < best[0]):
            best = float(np.mean(errors)), ridge
    return design.cost(residual, best[1], max_pairs) if best else None


def _thinned(walks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of at most ``MOST_ROWS`` rows: those by themselves, the latest first, and evenly spaced ones of walks."""
    _, inverse, n_rows = np.unique(walks, return_inverse=True, return_counts=True)
    alone = np.flatnonzero(n_rows[inverse] == 1)[-MOST_ROWS // 2 :]
    others = np.flatnonzero(n_rows[inverse] > 1)
    n = min(len(others), MOST_ROWS - len(alone))
    spaced = others[np.linspace(0, len(others) - 1, n).round().astype(np.int64)] if n else others[:0]
    return np.sort(np.concatenate([alone, spaced]))


def _solve(kernel: NDArray[np.float64], residual: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Ridge regression with a free offset in its dual form: one weight a row (n,), which sum to 0, and the offset."""
    means, mean = kernel.mean(0), float(residual.mean())
    centred = kernel - means
    centred -= means[:, None]
    centred += means.mean()
    centred.flat[:: len(centred) + 1] += 1.0
    dual = np.asarray(scipy.linalg.solve(centred, residual - mean, assume_a="pos", overwrite_a=True))
    return dual, mean - float(means @ dual)


class _Design:
    """Features of assignments: their choices, and the products of what both choices of a pair lose.

    There are many more pairs than assignments. So features are never written down: the kernel, their scalar products
    over all pairs of assignments, has a closed form.
    """

    def __init__(self, table: NDArray[np.float64], levels: NDArray[np.int64]) -> None:
        loss = table.max(1, keepdims=True) - table
        loss = loss / max(float(loss.max()), 1e-30)
        self._table, self._loss = table, loss - loss.mean(1, keepdims=True)
        self._chosen = [(levels == level).astype(np.float64) for level in range(table.shape[1])]
        self._lost = self._loss[np.arange(len(table)), levels]
        self._choices = sum((chosen @ chosen.T for chosen in self._chosen), np.zeros((len(levels), len(levels))))
        squares = self._lost**2
        self._pairs = self._lost @ self._lost.T
        self._pairs *= self._pairs
        self._pairs -= squares @ squares.T
        self._pairs /= 2

    def kernel(self, ridge: tuple[float, float]) -> NDArray[np.float64]:
        """(n, n), with the penalties of (choices, pairs)."""
        return np.asarray(self._choices / ridge[0] + self._pairs / ridge[1])

    def cost(self, residual: NDArray[np.float64], ridge: tuple[float, float], max_pairs: int) -> Cost:
        """Table plus corrections, as the solver takes it."""
        dual, offset = _solve(self.kernel(ridge), residual)
        unary = self._table + np.stack([dual @ chosen for chosen in self._chosen], axis=1) / ridge[0]
        weights = self._lost.T @ (dual[:, None] * self._lost) / ridge[1]
        first, second = np.triu_indices(len(weights), 1)
        spans = np.abs(weights[first, second]) * self._spans()[first, second]
        strongest = np.argsort(-spans, kind="stable")[:max_pairs]
        return Cost(
            unary,
            tuple(
                (int(i), int(j), weights[i, j] * np.outer(self._loss[i], self._loss[j]))
                for i, j in zip(first[strongest], second[strongest], strict=True)
            ),
            offset,
        )

    def _spans(self) -> NDArray[np.float64]:
        """Largest less least product of what two groups may lose, (n_groups, n_groups)."""
        ends = self._loss.min(1), self._loss.max(1)
        products = np.array([np.outer(one, other) for one in ends for other in ends])
        return np.asarray(np.ptp(products, axis=0))

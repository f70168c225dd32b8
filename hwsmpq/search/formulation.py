"""The linear form of a problem: variables, coefficients and constraints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint
from scipy.sparse import csr_array

from hwsmpq.search.problem import Problem
from hwsmpq.search.switches import Formats, as_switch
from hwsmpq.types import Cost

SCALE = 1e4
"""Largest coefficient after scaling: HiGHS stops at absolute tolerances of 1e-6, which this makes 1e-10 of it."""


@dataclass(frozen=True)
class Variables:
    """Where the variables lie: y[g, a] (binary) first, then z[a, b] (continuous) for every pair of groups, then u[f]
    (continuous) for every format of a switch.

    A switch needs a few variables where a pair needs all combinations, and is as tight: what the first group has more
    of a format than the second is the least of it that has to be converted, between choices as well. That serves where
    its cost is held down; a value that is maximised would take u as large as it can.
    """

    n_groups: int
    n_levels: int
    pairs: tuple[tuple[int, int], ...]
    switches: tuple[tuple[int, int, Formats], ...] = ()

    @staticmethod
    def of(problem: Problem) -> Variables:
        """The variables that the objective and the limited costs need."""
        costs = [(problem.costs[kind], True) for kind in problem.limits]
        costs.append((problem.objective, problem.minimise is not None))
        pairs: set[tuple[int, int]] = set()
        switches: dict[tuple[int, int, Formats], None] = {}
        for cost, held_down in costs:
            for i, j, table in cost.pairs:
                switch = as_switch(table) if held_down else None
                if i != j and switch:
                    switches[i, j, switch.formats] = None
                elif i != j and table.any():
                    pairs.add((min(i, j), max(i, j)))
        n_groups, n_levels = problem.value.unary.shape
        return Variables(n_groups, n_levels, tuple(sorted(pairs)), tuple(switches))

    @property
    def n_binaries(self) -> int:
        return self.n_groups * self.n_levels

    @property
    def n(self) -> int:
        return self._n_before_switches + sum(len(formats) for _, _, formats in self.switches)

    @property
    def _n_before_switches(self) -> int:
        return self.n_binaries + len(self.pairs) * self.n_levels**2

    def coefficients(self, cost: Cost, held_down: bool) -> tuple[NDArray[np.float64], float]:
        """Coefficients (n,) and constant of a cost, moved so that the least of every block is 0.

        Every block (a group's choices, a pair's combinations) sums to one, so that moving changes no solution;
        it leaves only the differences that matter for the solver's tolerances.

        Args:
            held_down: whether the cost is minimised or limited, so that its switches may be written as such.
        """
        unary = cost.unary.astype(np.float64)
        tables = np.zeros((len(self.pairs), self.n_levels, self.n_levels))
        position = {pair: index for index, pair in enumerate(self.pairs)}
        due = {switch: np.zeros(len(switch[2])) for switch in self.switches}
        for i, j, table in cost.pairs:
            if i == j:
                unary[i] += np.diag(table)
            elif held_down and (switch := as_switch(table)):
                due[i, j, switch.formats] += switch.costs
            elif table.any():
                tables[position[min(i, j), max(i, j)]] += table if i < j else table.T
        least, least_pairs = unary.min(axis=1), tables.min(axis=(1, 2))
        constant = cost.constant + float(least.sum()) + float(least_pairs.sum())
        moved = np.concatenate(
            [(unary - least[:, None]).ravel(), (tables - least_pairs[:, None, None]).ravel(), *due.values()]
        )
        return moved, constant

    def one_hot(self) -> LinearConstraint:
        """sum_a y[g, a] = 1."""
        rows = np.repeat(np.arange(self.n_groups), self.n_levels)
        return self._constraint(rows, np.arange(self.n_binaries), np.ones(self.n_binaries), self.n_groups, 1.0, 1.0)

    def linking(self) -> LinearConstraint:
        """sum_b z[ia, jb] = y[i, a] and sum_a z[ia, jb] = y[j, b], which make z the product of the two choices."""
        size = self.n_levels
        rows, columns, entries = [], [], []
        for index, (i, j) in enumerate(self.pairs):
            z = self.n_binaries + index * size**2 + np.arange(size**2)
            first = 2 * size * index + np.arange(size**2) // size
            second = 2 * size * index + size + np.arange(size**2) % size
            rows += [first, second, 2 * size * index + np.arange(2 * size)]
            columns += [z, z, i * size + np.arange(size), j * size + np.arange(size)]
            entries += [np.ones(2 * size**2), -np.ones(2 * size)]
        return self._constraint(
            np.concatenate(rows), np.concatenate(columns), np.concatenate(entries), 2 * size * len(self.pairs), 0.0, 0.0
        )

    def converting(self) -> LinearConstraint:
        """u[f] >= sum_a y[i, a] - sum_b y[j, b] over the levels of format f of every switch."""
        rows, columns, entries = [], [], []
        row, u = 0, self._n_before_switches
        for i, j, formats in self.switches:
            for first, second in formats:
                y = [*(i * self.n_levels + a for a in first), *(j * self.n_levels + b for b in second)]
                rows += [row] * (len(y) + 1)
                columns += [*y, u + row]
                entries += [*(1.0 for _ in first), *(-1.0 for _ in second), -1.0]
                row += 1
        return self._constraint(np.array(rows), np.array(columns), np.array(entries), row, -np.inf, 0.0)

    def at_most(self, cost: Cost, limit: float) -> LinearConstraint:
        """cost <= limit."""
        moved, constant = self.coefficients(cost, held_down=True)
        factor = scale(moved)
        columns = np.flatnonzero(moved)
        return self._constraint(
            np.zeros_like(columns), columns, moved[columns] * factor, 1, -np.inf, (limit - constant) * factor
        )

    def differ_from(self, choices: Iterable[NDArray[np.int64]]) -> LinearConstraint:
        """At least one group differs from each of the choices."""
        columns = np.array([np.arange(self.n_groups) * self.n_levels + choice for choice in choices])
        rows = np.repeat(np.arange(len(columns)), self.n_groups)
        return self._constraint(
            rows, columns.ravel(), np.ones(columns.size), len(columns), -np.inf, self.n_groups - 1.0
        )

    def _constraint(
        self,
        rows: NDArray[np.int64], columns: NDArray[np.int64], entries: NDArray[np.float64],
        n_rows: int, lower: float, upper: float,
    ) -> LinearConstraint:
        return LinearConstraint(csr_array((entries, (rows, columns)), shape=(n_rows, self.n)), lower, upper)


def scale(coefficients: NDArray[np.float64]) -> float:
    """The factor that makes the largest coefficient ``SCALE``; 1 where all are 0."""
    largest = float(np.abs(coefficients).max(initial=0.0))
    return SCALE / largest if largest > 0 else 1.0

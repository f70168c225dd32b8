"""The call of the solver (HiGHS through scipy)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, milp

from hwsmpq.errors import HwsmpqError
from hwsmpq.search.formulation import Variables, scale
from hwsmpq.search.problem import Problem, Solution
from hwsmpq.search.quiet import silent_stdout

RELATIVE_GAP = 1e-9
INFEASIBLE = 2


class NothingInTime(HwsmpqError):
    """The solver neither found a solution nor proved that there is none."""


def optimum(problem: Problem, exclude: Sequence[NDArray[np.int64]], time_limit_s: float) -> Solution | None:
    """The best choice outside ``exclude``, or None where the solver proves that there is none.

    Raises:
        NothingInTime: nothing was found within ``time_limit_s``.
    """
    allowed = problem.permitted
    if allowed.are_tied:
        others = [allowed.join(choice) for choice in exclude if allowed.permits(choice)]
        found = optimum(problem.joined, others, time_limit_s)
        return found and replace(found, choice=allowed.spread(found.choice))
    deadline = time.monotonic() + time_limit_s
    variables = Variables.of(problem)
    objective = variables.coefficients(problem.objective, problem.minimise is not None)[0]
    sign = -1.0 if problem.minimise is None else 1.0
    factor = scale(objective)
    fixed = [variables.one_hot()]
    if variables.pairs:
        fixed.append(variables.linking())
    if variables.switches:
        fixed.append(variables.converting())
    fixed += [variables.at_most(problem.costs[kind], limit) for kind, limit in problem.limits.items()]
    integrality = np.zeros(variables.n)
    integrality[: variables.n_binaries] = 1
    upper = np.ones(variables.n)
    upper[: variables.n_binaries] = problem.choices.ravel()

    cuts = list(exclude)
    while True:
        with silent_stdout():
            result = milp(
                sign * factor * objective,
                integrality=integrality,
                bounds=Bounds(0, upper),
                constraints=[*fixed, variables.differ_from(cuts)] if cuts else fixed,
                options={"time_limit": max(deadline - time.monotonic(), 0.01), "mip_rel_gap": RELATIVE_GAP},
            )
        if result.status == INFEASIBLE:
            return None
        if result.x is None:
            raise NothingInTime(
                "the solver found no assignment", str(result.message),
                f"allow more than {time_limit_s:g} s, or drop a budget",
            )
        y = result.x[: variables.n_binaries].reshape(variables.n_groups, variables.n_levels)
        choice = y.argmax(axis=1).astype(np.int64)
        if problem.keeps_limits(choice):
            return Solution(
                choice,
                objective=problem.objective(choice),
                status="optimal" if result.success else "feasible",
                gap=float(result.mip_gap),
                costs={kind: cost(choice) for kind, cost in problem.costs.items()},
            )
        # Cut off: the solver accepts rows and integers up to a tolerance, and knows nothing of what was missed.
        cuts.append(choice)

"""What assignments cost: the tables that the solver adds up, and the cost of any one assignment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwsmpq.hardware.cost_model import CostModel
from hwsmpq.search.problem import Choice
from hwsmpq.types import PRECISIONS, REFERENCE, Assignment, Cost, Ladder, Network


def costs_of(network: Network, ladder: Ladder, model: CostModel | None) -> dict[str, Cost]:
    """What the solver adds up, by budget kind; columns follow the ladder, which is that of the model."""
    costs = _counted(network, network.levels(ladder.names))
    if model is not None:
        costs["latency_ms"] = model.cost
        if model.table.peak_mb:
            costs["peak_mb"] = _peak(network, [model.table.peak_mb[name] for name in ladder.names])
    return costs


def _peak(network: Network, uniform_mb: Sequence[float]) -> Cost:
    """Memory of engines: every group brings its share of the weights of what the uniform engine of its precision takes.
    Exact for these; the loop of builds corrects the others."""
    n_weights = np.array([network.size_bytes(g, PRECISIONS[REFERENCE]) for g in network.group_names], dtype=np.float64)
    shares = n_weights / n_weights.sum() if n_weights.any() else np.full(len(n_weights), 1 / len(n_weights))
    return Cost(shares[:, None] * np.array(uniform_mb))


def counted_costs(network: Network, assignment: Assignment) -> tuple[float, float]:
    """BitOps and size in MB of any assignment, also one outside the ladder."""
    costs = _counted(network, {group: (assignment[group],) for group in network.group_names})
    choice = np.zeros(len(network.groups), dtype=np.int64)
    return costs["bitops"](choice), costs["size_mb"](choice)


def allowed(network: Network, ladder: Ladder) -> NDArray[np.bool_]:
    """Which levels each group may take, (n_groups, n_precisions): one for every precision that it really runs in."""
    mask = np.zeros((len(network.groups), len(ladder.names)), dtype=bool)
    for row, realised in zip(mask, network.levels(ladder.names).values(), strict=True):
        for name in set(realised):
            row[ladder.names.index(name) if name in ladder.names else realised.index(name)] = True
    return mask


def choices_of(network: Network, ladder: Ladder, assignments: Iterable[Assignment]) -> list[Choice | None]:
    """Assignments as levels that their groups may take, (n_groups,); None where the ladder lacks a precision of one."""
    rows = zip(network.levels(ladder.names).items(), allowed(network, ladder), strict=True)
    levels = {group: {realised[i]: i for i in np.flatnonzero(row)[::-1]} for (group, realised), row in rows}
    found = [[levels[g].get(assignment[g]) for g in network.group_names] for assignment in assignments]
    return [None if None in row else np.array(row, dtype=np.int64) for row in found]


def assignment_of(network: Network, ladder: Ladder, choice: Choice) -> Assignment:
    """What a target runs at the levels (n_groups,) of a choice."""
    rows = network.levels(ladder.names).items()
    return {group: realised[level] for (group, realised), level in zip(rows, choice, strict=True)}


def _counted(network: Network, levels: Mapping[str, Sequence[str]]) -> dict[str, Cost]:
    realised = {group: [PRECISIONS[name] for name in names] for group, names in levels.items()}
    bitops = np.array([[float(network.bitops(g, p)) for p in row] for g, row in realised.items()])
    size = np.array([[network.size_bytes(g, p) / 1e6 for p in row] for g, row in realised.items()])
    return {"bitops": Cost(bitops), "size_mb": Cost(size, constant=4 * network.n_other_params / 1e6)}

"""What assignments cost: the tables that the solver adds up, and the cost of any one assignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwsmpq.hardware.cost_model import latency_cost
from hwsmpq.types import Assignment, Cost, CostTable, Ladder, Network, Precision


def costs_of(network: Network, ladder: Ladder, table: CostTable | None) -> dict[str, Cost]:
    """What the solver adds up, by budget kind; columns follow the ladder."""
    costs = _counted(network, ladder.precisions)
    if table is not None:
        costs["latency_ms"] = latency_cost(table, network, ladder)
    return costs


def counted_costs(network: Network, assignment: Assignment) -> tuple[float, float]:
    """BitOps and size in MB of any assignment, also one outside the ladder."""
    names = sorted(set(assignment.values()))
    costs = _counted(network, [Precision.parse(name) for name in names])
    choice = np.array([names.index(assignment[group]) for group in network.group_names])
    return costs["bitops"](choice), costs["size_mb"](choice)


def _counted(network: Network, precisions: Sequence[Precision]) -> dict[str, Cost]:
    bitops = np.array([[float(network.bitops(g, p)) for p in precisions] for g in network.group_names])
    size = np.array([[network.size_bytes(g, p) / 1e6 for p in precisions] for g in network.group_names])
    return {"bitops": Cost(bitops), "size_mb": Cost(size, constant=4 * network.n_other_params / 1e6)}

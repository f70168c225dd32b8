"""Predict the latency of any assignment from a few measured engines.

T(x) = a * sum_g p[g, x_g] + b + c1 * n_switches + c2 * switched elements

A switch is a tensor that is read in another format than it was written in; see :meth:`hwsmpq.types.Network.switches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import nnls

from hwsmpq.artifacts import architecture_digest
from hwsmpq.device.timing import median_stderr
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import PRECISIONS, Assignment, Cost, CostTable, EngineTiming, Ladder, Measurement, Network

PRIOR_RELATIVE_STD = 0.05
"""How far, relative to itself, a group's time in a mixture is expected to be from its time in the uniform engine."""
MIN_ERROR = 0.01
"""Share of the reference latency that the model is at least taken to miss by, however well it fits."""
UNCHECKED_ERROR = 0.05
"""The same while fewer than ``MIN_CHECKS`` mixtures have checked it."""
MIN_CHECKS = 3
MIN_RELATIVE_NOISE = 0.001
"""No median is trusted below this fraction of itself, however small its spread."""


def fit(
    network: Network,
    ladder: Ladder,
    group_ms: Mapping[str, Mapping[str, float]],
    uniform_ms: Mapping[str, Measurement],
    mixtures: Sequence[EngineTiming],
    *,
    target: str,
    machine: Mapping[str, str],
    conditions: Mapping[str, str] | None = None,
    noise: float = 0.0,
) -> CostTable:
    """Fit the four coefficients.

    ``a`` and ``b`` come from the uniform engines (exact for two precisions, least squares for more). Where that gives
    a negative slope or a negative offset, which no machine has, the counters are at fault: then a = 1, b = 0, and each
    precision's counters are stretched so that its uniform engine is exact. Counters that are all 0, since layers take
    less than the runtime's clock resolves, say nothing: MACs take their place. ``c1, c2 >= 0``
    from what the mixtures take beyond that, zero without mixtures. ``fit_error_ms`` is the root mean square error
    on mixtures left out of the fit one at a time (three or more), else on the fitted ones.

    Args:
        group_ms: counters of every group in the uniform engine of every precision of the ladder.
        uniform_ms: measured uniform engines, one a precision of the ladder.
        noise: relative error of the measured times.
        mixtures: measured mixtures; each one's reference is the uniform engine of the ladder's top.

    Raises:
        HwsmpqError: a group or a precision was not measured.
    """
    for name in ladder.names:
        if name not in uniform_ms or any(name not in group_ms.get(g, {}) for g in network.group_names):
            raise HwsmpqError(
                f"precision {name} was not measured", "the profile does not cover the ladder", "profile again"
            )
    if any(all(group_ms[g][name] == 0 for g in network.group_names) for name in ladder.names):
        macs = {g: float(sum(layer.n_macs for layer in network.layers_of(g))) for g in network.group_names}
        group_ms = {g: dict.fromkeys(ladder.names, n) for g, n in macs.items()}
    sums = np.array([sum(group_ms[g][name] for g in network.group_names) for name in ladder.names])
    totals = np.array([uniform_ms[name].median_ms for name in ladder.names])
    scale, offset, stretch = _anchor(sums, totals)
    factors = dict(zip(ladder.names, stretch, strict=True))
    table = CostTable(
        target=target,
        machine=dict(machine),
        model_sha256=network.model_sha256,
        ladder=ladder.names,
        group_ms={g: _stretched(network, g, group_ms[g], factors) for g in network.group_names},
        scale=scale,
        offset_ms=offset,
        switch_ms=0.0,
        switch_element_ms=0.0,
        uniform_ms={name: uniform_ms[name] for name in ladder.names},
        engines=tuple(mixtures),
        conditions=dict(conditions or {}),
        noise=noise,
        architecture=architecture_digest(network),
    )
    if not mixtures:
        return table
    features = np.array([_switched(network, timing.assignment) for timing in mixtures])
    excess = np.array([corrected_ms(table, t) - predict(table, network, t.assignment) for t in mixtures])
    coefficients = _nonnegative(features, excess)
    errors = excess - features @ coefficients
    if len(mixtures) >= 3:
        for i in range(len(mixtures)):
            others = np.arange(len(mixtures)) != i
            errors[i] = excess[i] - features[i] @ _nonnegative(features[others], excess[others])
    return replace(
        table,
        switch_ms=float(coefficients[0]),
        switch_element_ms=float(coefficients[1]),
        fit_error_ms=float(np.sqrt(np.mean(errors**2))),
    )


def fit_again(table: CostTable, network: Network) -> CostTable:
    """The table for ``network``, with the coefficients that the engines stored in it give."""
    return fit(
        network, Ladder(tuple(PRECISIONS[name] for name in table.ladder)), table.group_ms, table.uniform_ms,
        table.engines, target=table.target, machine=table.machine, conditions=table.conditions, noise=table.noise,
    )


def predict(table: CostTable, network: Network, assignment: Assignment) -> float:
    """Predicted latency in ms."""
    n_switches, n_elements = _switched(network, assignment)
    layers = sum(table.group_ms[g][assignment[g]] for g in network.group_names)
    switching = table.switch_ms * n_switches + table.switch_element_ms * n_elements
    return float(table.scale * layers + table.offset_ms + switching)


def error_ms(table: CostTable) -> float:
    """Standard deviation of a prediction for an engine that the fit has not seen: what mixtures left out of the fit
    missed theirs by, and no less than the machine's noise. A model that too few mixtures have checked is trusted to
    ``UNCHECKED_ERROR`` only."""
    least = MIN_ERROR if len(table.engines) >= MIN_CHECKS else UNCHECKED_ERROR
    return max(table.fit_error_ms, max(least, table.noise) * table.uniform_ms[table.ladder[-1]].median_ms)


def margin_ms(table: CostTable, confidence: float) -> float:
    """What an engine exceeds its prediction by at most, with ``confidence`` (one-sided, Student's t)."""
    n = max(len(table.engines), MIN_CHECKS)
    return float(stats.t.ppf(confidence, n - 1) * error_ms(table) * np.sqrt(1 + 1 / n))


def interval_ms(
    table: CostTable, network: Network, assignment: Assignment, confidence: float = 0.9
) -> tuple[float, float]:
    """The interval that the latency of an engine lies in with ``confidence``."""
    predicted, margin = predict(table, network, assignment), margin_ms(table, (1 + confidence) / 2)
    return predicted - margin, predicted + margin


def latency_cost(table: CostTable, network: Network, ladder: Ladder) -> Cost:
    """The same prediction as unary and pair terms for the solver, in ms; see :class:`hwsmpq.types.Cost`.

    Raises:
        HwsmpqError: the table was measured for other groups or does not cover the ladder.
    """
    missing = [g for g in network.group_names if any(name not in table.group_ms.get(g, {}) for name in ladder.names)]
    if missing:
        raise HwsmpqError(
            f"the cost table of {table.target} has no time for group {missing[0]!r} in every precision of the ladder",
            f"it was measured for the ladder {','.join(table.ladder)}", "profile again with this network and ladder",
        )
    row = {group: i for i, group in enumerate(network.group_names)}
    unary = np.array([[table.scale * table.group_ms[g][name] for name in ladder.names] for g in network.group_names])
    formats = [[PRECISIONS[name].activations for name in row] for row in network.levels(ladder.names).values()]
    pair_ms: dict[tuple[int, int], float] = {}
    for edge in network.edges:
        i, j = sorted((row[edge.source], row[edge.target]))
        cost = table.switch_ms + table.switch_element_ms * edge.n_elements
        if cost > 0:
            pair_ms[i, j] = pair_ms.get((i, j), 0.0) + cost
    pairs = tuple(
        (i, j, cost * np.array([[one != other for other in formats[j]] for one in formats[i]]))
        for (i, j), cost in sorted(pair_ms.items())
    )
    return Cost(unary=unary, pairs=pairs, constant=table.offset_ms)


def refit(table: CostTable, network: Network, timing: EngineTiming) -> CostTable:
    """Correct the groups' times so that the table explains a newly built engine.

    Ridge regression: every group's time may move, with a prior standard deviation in proportion to itself, to
    explain all engines measured so far. The new engine and the uniform ones weigh by their measurement noise, the
    older mixtures by the table's fit error. Coefficients stay as they are.
    """
    columns = [(g, name) for g in network.group_names for name in table.group_ms[g]]
    index = {column: i for i, column in enumerate(columns)}
    prior = np.array([PRIOR_RELATIVE_STD * table.scale * table.group_ms[g][name] for g, name in columns])
    rows: list[NDArray[np.float64]] = []
    residuals: list[float] = []
    noises: list[float] = []

    def observe(assignment: Assignment, measured_ms: float, noise_ms: float) -> None:
        row = np.zeros(len(columns))
        row[[index[g, assignment[g]] for g in network.group_names]] = 1.0
        rows.append(row)
        residuals.append(measured_ms - predict(table, network, assignment))
        noises.append(noise_ms)

    for name, uniform in table.uniform_ms.items():
        observe(network.uniform(name), uniform.median_ms, _noise_ms(uniform))
    for known in table.engines:
        observe(known.assignment, corrected_ms(table, known), max(table.fit_error_ms, _noise_ms(known.measured)))
    observe(timing.assignment, corrected_ms(table, timing), _noise_ms(timing.measured))

    design, variance = np.array(rows), prior**2
    covariance = (design * variance) @ design.T + np.diag(np.square(noises))
    delta = variance * (design.T @ np.linalg.solve(covariance, np.array(residuals)))
    group_ms = {
        g: {name: ms + float(delta[index[g, name]]) / table.scale for name, ms in table.group_ms[g].items()}
        for g in network.group_names
    }
    return replace(table, group_ms=group_ms, engines=(*table.engines, timing))


def measured_ms(table: CostTable, network: Network) -> list[tuple[Assignment, float]]:
    """What the table knows by measurement: assignments and their latency in ms."""
    uniform = [(network.uniform(name), one.median_ms) for name, one in table.uniform_ms.items()]
    return uniform + [(timing.assignment, corrected_ms(table, timing)) for timing in table.engines]


def corrected_ms(table: CostTable, timing: EngineTiming) -> float:
    """An engine's measured time as it would have been in the session that measured the table's uniform engines."""
    return timing.measured.median_ms * table.uniform_ms[table.ladder[-1]].median_ms / timing.reference.median_ms


def _anchor(
    sums: NDArray[np.float64], totals: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64]]:
    """Scale and offset that map summed counters to engine times, and a factor for each precision's counters."""
    if np.ptp(sums) > 1e-3 * sums.max():
        scale, offset = np.polyfit(sums, totals, 1)
        if scale > 0 and offset >= 0:
            return float(scale), float(offset), np.ones_like(sums)
    return 1.0, 0.0, totals / sums


def _stretched(
    network: Network, group: str, ms: Mapping[str, float], factors: Mapping[str, float]
) -> dict[str, float]:
    """A group's times by precision of the ladder, by what it runs instead of one, and what else was known."""
    stretched = {name: float(ms[name] * factor) for name, factor in factors.items()}
    return {**ms, **dict(zip(network.levels(tuple(factors))[group], stretched.values(), strict=True)), **stretched}


def _switched(network: Network, assignment: Assignment) -> tuple[float, float]:
    """Number of tensors that are converted, and of their elements."""
    switches = network.switches(assignment)
    return float(len(switches)), float(sum(edge.n_elements for edge in switches))


def _nonnegative(features: NDArray[np.float64], excess: NDArray[np.float64]) -> NDArray[np.float64]:
    # Counts and elements differ by orders of magnitude; NNLS' tolerances want columns of one size.
    size = np.maximum(np.abs(features).max(axis=0), 1e-12)
    solution, _ = nnls(features / size, excess)
    return np.asarray(solution / size)


def _noise_ms(measured: Measurement) -> float:
    """Standard error of a median, from half its 10..90 range."""
    return max(median_stderr(measured.spread_ms, measured.n_repeats), MIN_RELATIVE_NOISE * measured.median_ms)

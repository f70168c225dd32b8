"""Predict the latency of any assignment from a few measured engines: a function of what was measured, never stored.

T(x) = a * sum_g p[g, x_g] + b + sum over switches of c1[f] + c2[f] * elements

A switch is a tensor that is read in another format than ``f``, which it was written in; see
:meth:`hwsmpq.types.Network.switches`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import stdtrit

from hwsmpq.device.timing import median_stderr
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import PRECISIONS, Assignment, Cost, CostTable, EngineTiming, Format, Measurement, Network

Activations = tuple[Format, int]
"""Format and bits of a tensor; see :attr:`hwsmpq.types.Precision.activations`."""
GROUPS_MOVE = (0.01, 0.03, 0.1, 0.3)
"""How far, relative to itself, a group's time in a mixture may be expected to lie from that in the uniform engine."""
FORMATS_DIFFER = (0.003, 0.01, 0.03, 0.1)
"""How far, as a share of the reference latency, what the switches of a mixture take may be expected to be from what
they would take if all formats were the same to convert."""
MIN_ERROR = 0.01
"""Share of the reference latency that the model is at least taken to miss by, however well it fits."""
UNCHECKED_ERROR = 0.05
"""The same while fewer than ``MIN_CHECKS`` mixtures have checked it."""
MIN_CHECKS = 3
SURE = 0.03
"""Share of the reference latency that half of a 90 % interval is wide where more mixtures are not worth their time."""
MIN_RELATIVE_NOISE = 0.001
"""No median is trusted below this fraction of itself, however small its spread."""


@dataclass(frozen=True, eq=False)
class CostModel:
    """What the engines of a cost table, and those built since, say about any assignment.

    Attributes:
        group_ms: p, by group and precision: the counters, moved as far as engines built since say.
        scale, offset_ms: a and b.
        switch_ms, switch_element_ms: c1 and c2, by the format that is converted.
        fit_error_ms: root mean square error on engines that a fit had not seen (mixtures left out one at a time, where
            there are three or more, and every engine built since, before it was fitted), else on the fitted mixtures.
        built: what was measured since the table, each with the table's reference engine.
    """

    table: CostTable
    network: Network
    group_ms: dict[str, dict[str, float]]
    scale: float
    offset_ms: float
    switch_ms: Mapping[Activations, float] = field(default_factory=dict)
    switch_element_ms: Mapping[Activations, float] = field(default_factory=dict)
    fit_error_ms: float = 0.0
    built: tuple[EngineTiming, ...] = ()

    def predict(self, assignment: Assignment) -> float:
        """Predicted latency in ms."""
        layers = sum(self.group_ms[g][assignment[g]] for g in self.network.group_names)
        switching = sum(
            self._switch_ms(PRECISIONS[assignment[edge.source]].activations, edge.n_elements)
            for edge in self.network.switches(assignment)
        )
        return float(self.scale * layers + self.offset_ms + switching)

    def _switch_ms(self, written: Activations, n_elements: int) -> float:
        return self.switch_ms.get(written, 0.0) + self.switch_element_ms.get(written, 0.0) * n_elements

    @property
    def n_checks(self) -> int:
        """Engines, other than the uniform ones, that the model was held against."""
        return len(self.table.engines) + len(self.built)

    @property
    def resolution_ms(self) -> float:
        """What two engines must differ by for the model to tell them apart, however well it fits."""
        return max(MIN_ERROR, self.table.noise) * self.table.top_ms

    @property
    def error_ms(self) -> float:
        """Standard deviation of a prediction for an engine that the fit has not seen: what it missed such engines by,
        and no less than the machine's noise. A model that too few engines have checked is trusted to
        ``UNCHECKED_ERROR`` only."""
        unchecked = 0.0 if self.n_checks >= MIN_CHECKS else UNCHECKED_ERROR * self.table.top_ms
        return max(self.fit_error_ms, self.resolution_ms, unchecked)

    def margin_ms(self, confidence: float) -> float:
        """What an engine exceeds its prediction by at most, with ``confidence`` (one-sided, Student's t)."""
        n = max(self.n_checks, MIN_CHECKS)
        return float(stdtrit(n - 1, confidence) * self.error_ms * np.sqrt(1 + 1 / n))

    def interval_ms(self, assignment: Assignment, confidence: float = 0.9) -> tuple[float, float]:
        """The interval that the latency of an engine lies in with ``confidence``; that of a uniform engine, which was
        measured, is as wide as the noise."""
        predicted, margin = self.predict(assignment), self.margin_ms((1 + confidence) / 2)
        if len(set(assignment.values())) == 1 and {*assignment.values()} <= {*self.table.ladder}:
            margin *= self.resolution_ms / self.error_ms
        return predicted - margin, predicted + margin

    @property
    def is_sure(self) -> bool:
        """Whether mixtures beyond those measured would hardly narrow the intervals."""
        return self.n_checks >= MIN_CHECKS and self.margin_ms(0.95) <= SURE * self.table.top_ms

    @property
    def cost(self) -> Cost:
        """The same prediction as unary and pair terms for the solver, in ms; columns follow the table's ladder. See
        :class:`hwsmpq.types.Cost`."""
        network, row = self.network, {group: i for i, group in enumerate(self.network.group_names)}
        unary = np.array([[self.scale * self.group_ms[g][name] for name in self.table.ladder] for g in row])
        levels = network.levels(self.table.ladder).values()
        formats = [[PRECISIONS[name].activations for name in row] for row in levels]
        tables: dict[tuple[int, int], NDArray[np.float64]] = {}
        for edge in network.edges:
            i, j = row[edge.source], row[edge.target]
            paid = np.array([[self._switch_ms(one, edge.n_elements) * (one != other) for other in formats[j]]
                             for one in formats[i]])
            if paid.any():
                tables[i, j] = tables.get((i, j), 0.0) + paid
        pairs = tuple((i, j, table) for (i, j), table in sorted(tables.items()))
        return Cost(unary=unary, pairs=pairs, constant=self.offset_ms)

    def measured_ms(self) -> list[tuple[Assignment, float]]:
        """What is known by measurement: assignments and their latency in ms."""
        uniform = [(self.network.uniform(name), one.median_ms) for name, one in self.table.uniform_ms.items()]
        return uniform + [(one.assignment, corrected_ms(self.table, one)) for one in (*self.table.engines, *self.built)]


def fit(table: CostTable, network: Network, built: Sequence[EngineTiming] = ()) -> CostModel:
    """Fit the model to everything that was measured, all of it once.

    ``a`` and ``b`` come from the uniform engines (least squares). Where that gives a negative slope or a negative
    offset, which no machine has, the counters are at fault: then a = 1, b = 0. Each precision's counters are stretched
    so that its uniform engine is exact, which those of two precisions are already. Counters that are all 0, since
    layers take less than the runtime's clock resolves, say nothing: MACs take their place.

    What mixtures and engines built since take beyond that is explained together by switches and by groups that take
    other times beside other formats (a linear model with Gaussian priors): ``c1, c2 >= 0`` by the format that is
    converted, which are drawn to what they have in common; and every group's time moves in proportion to itself, while
    the uniform engines stay exact. How wide these priors are, of ``GROUPS_MOVE`` and ``FORMATS_DIFFER``, is what makes
    the engines likeliest (type-II maximum likelihood; MacKay, 1992). The last engine built weighs by its measurement
    noise, the others by ``MIN_ERROR`` at least.

    Args:
        table: counters of every group and times of the uniform engines and mixtures.
        built: engines measured since, in the order they were built.

    Raises:
        HwsmpqError: a group of the network or a precision of the ladder was not measured.
    """
    missing = [g for g in network.group_names if any(name not in table.group_ms.get(g, {}) for name in table.ladder)]
    if missing or any(name not in table.uniform_ms for name in table.ladder):
        raise HwsmpqError(
            f"the cost table of {table.target} has no time for {f'group {missing[0]!r}' if missing else 'an engine'}"
            " in every precision of the ladder",
            f"it was measured for the ladder {','.join(table.ladder)}", "profile again with this network and ladder",
        )
    base, mixtures = anchored(table, network), table.engines
    rows = range(len(mixtures)) if len(mixtures) >= MIN_CHECKS else ()
    errors = [_missed(_explained(base, [*mixtures[:i], *mixtures[i + 1 :]]), mixtures[i]) for i in rows]
    model = _explained(base, mixtures)
    errors = errors or [_missed(model, mixture) for mixture in mixtures]
    for n, new in enumerate(built, 1):
        errors.append(_missed(model, new))
        model = _explained(base, [*mixtures, *built[:n]], n_exact=1)
    return replace(model, fit_error_ms=_rms(errors), built=tuple(built))


def _missed(model: CostModel, timing: EngineTiming) -> float:
    return corrected_ms(model.table, timing) - model.predict(timing.assignment)


def anchored(table: CostTable, network: Network) -> CostModel:
    """The model without switching: exact for the uniform engines."""
    group_ms: Mapping[str, Mapping[str, float]] = table.group_ms
    if any(all(group_ms[g][name] == 0 for g in network.group_names) for name in table.ladder):
        macs = {g: float(sum(layer.n_macs for layer in network.layers_of(g))) for g in network.group_names}
        group_ms = {g: dict.fromkeys(table.ladder, n) for g, n in macs.items()}
    sums = np.array([sum(group_ms[g][name] for g in network.group_names) for name in table.ladder])
    totals = np.array([table.uniform_ms[name].median_ms for name in table.ladder])
    scale, offset, stretch = _anchor(sums, totals)
    factors = dict(zip(table.ladder, stretch, strict=True))
    stretched = {g: _stretched(network, g, group_ms[g], factors) for g in network.group_names}
    return CostModel(table, network, stretched, scale, offset)


def _explained(base: CostModel, engines: Sequence[EngineTiming], n_exact: int = 0) -> CostModel:
    """The model with what explains engines beyond the base, which has no switching: the last ``n_exact`` of them as
    exactly as they were measured."""
    if not engines:
        return base
    table, network = base.table, base.network
    ms = np.array([corrected_ms(table, one) for one in engines])
    noise = np.array([_noise_ms(one.measured) for one in engines])
    noise[: len(engines) - n_exact] = np.maximum(noise, MIN_ERROR * ms)[: len(engines) - n_exact]
    excess = ms - np.array([base.predict(one.assignment) for one in engines])
    formats = sorted({PRECISIONS[name].activations for row in network.levels(table.ladder).values() for name in row})
    switched = np.array([_switched(network, one.assignment, formats) for one in engines])
    # Counts and elements differ by orders of magnitude: columns of one size, in shares of the reference latency.
    size = np.maximum(np.sqrt((switched.sum(axis=1) ** 2).mean(axis=0)), 1e-12) / table.top_ms
    features = (switched / size).reshape(len(engines), -1)
    moves, moved_by = _moves(base, [one.assignment for one in engines])

    def likelihood(widths: tuple[float, float]) -> float:
        move, differ = widths
        together = np.tile(np.eye(2), (len(formats), len(formats))) + differ**2 * np.eye(2 * len(formats))
        covariance = np.diag(noise**2) + move**2 * moved_by + features @ together @ features.T
        return -float(excess @ np.linalg.solve(covariance, excess) + np.linalg.slogdet(covariance)[1])

    move, differ = max(itertools.product(GROUPS_MOVE, FORMATS_DIFFER), key=likelihood)
    covariance = np.diag(noise**2) + move**2 * moved_by
    costs = _switch_costs(features, excess, covariance, differ)
    delta = move**2 * moves @ np.linalg.solve(covariance, excess - features @ costs.ravel())
    shifts = iter(delta.tolist())
    moved = {g: {name: ms + next(shifts) / base.scale for name, ms in row.items()} for g, row in base.group_ms.items()}
    c1, c2 = (dict(zip(formats, column, strict=True)) for column in (costs / size).T.tolist())
    return replace(base, group_ms=moved, switch_ms=c1, switch_element_ms=c2)


def _moves(base: CostModel, assignments: Sequence[Assignment]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Covariances, where groups move by their own times and the uniform engines stay as they are: of all times in
    ``group_ms`` with the engines of n assignments (n_times, n), and of these engines (n, n), in ms squared."""
    index = {(g, name): i for i, (g, name) in enumerate((g, name) for g, row in base.group_ms.items() for name in row)}
    variance = np.array([(base.scale * ms) ** 2 for row in base.group_ms.values() for ms in row.values()])

    def design(of: Sequence[Assignment]) -> NDArray[np.float64]:
        rows = np.zeros((len(of), len(index)))
        for row, assignment in zip(rows, of, strict=True):
            row[[index[g, assignment[g]] for g in base.network.group_names]] = 1.0
        return rows

    seen, kept = design(assignments), design([base.network.uniform(name) for name in base.table.ladder])
    free = variance[:, None] * seen.T
    free -= (variance[:, None] * kept.T) @ np.linalg.pinv((kept * variance) @ kept.T) @ (kept @ free)
    return free, np.asarray(seen @ free)


def _switched(network: Network, assignment: Assignment, formats: Sequence[Activations]) -> NDArray[np.float64]:
    """Tensors that are converted, and their elements, by the format that they were written in, (n_formats, 2)."""
    found = np.zeros((len(formats), 2))
    for edge in network.switches(assignment):
        found[formats.index(PRECISIONS[assignment[edge.source]].activations)] += 1.0, edge.n_elements
    return found


def _switch_costs(
    features: NDArray[np.float64], excess: NDArray[np.float64], covariance: NDArray[np.float64], differ: float
) -> NDArray[np.float64]:
    """Costs of a switch and of its elements by format, (n_formats, 2), none below 0: nonnegative generalised least
    squares. What the formats have in common is free, and each differs from it by about ``differ``.

    Args:
        features: switches of n engines, (n, 2 * n_formats).
        excess: what these are to explain (n,), with its ``covariance`` (n, n) besides.
    """
    n, n_costs = features.shape
    whiten = np.linalg.cholesky(covariance)
    seen = np.hstack([np.linalg.solve(whiten, features), np.zeros((n, 2))])
    apart = np.hstack([np.eye(n_costs), -np.tile(np.eye(2), (n_costs // 2, 1))]) / differ
    found, _ = nnls(np.vstack([seen, apart]), np.concatenate([np.linalg.solve(whiten, excess), np.zeros(n_costs)]))
    return np.asarray(found[:-2].reshape(-1, 2))


def corrected_ms(table: CostTable, timing: EngineTiming) -> float:
    """An engine's measured time as it would have been in the session that measured the table's uniform engines."""
    return timing.measured.median_ms * table.top_ms / timing.reference.median_ms


def _anchor(
    sums: NDArray[np.float64], totals: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64]]:
    """Scale and offset that map summed counters to engine times, and a factor for each precision's counters."""
    if np.ptp(sums) > 1e-3 * sums.max():
        scale, offset = np.polyfit(sums, totals, 1)
        if scale > 0 and offset >= 0:
            return float(scale), float(offset), (totals - offset) / (scale * sums)
    return 1.0, 0.0, totals / sums


def _stretched(
    network: Network, group: str, ms: Mapping[str, float], factors: Mapping[str, float]
) -> dict[str, float]:
    """A group's times by precision of the ladder, by what it runs instead of one, and what else was known."""
    stretched = {name: float(ms[name] * factor) for name, factor in factors.items()}
    return {**ms, **dict(zip(network.levels(tuple(factors))[group], stretched.values(), strict=True)), **stretched}


def _noise_ms(measured: Measurement) -> float:
    """Standard error of a median, from half its 10..90 range."""
    return max(median_stderr(measured.spread_ms, measured.n_repeats), MIN_RELATIVE_NOISE * measured.median_ms)


def _rms(errors: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else 0.0

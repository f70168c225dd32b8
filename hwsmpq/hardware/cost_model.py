"""Predict the latency of any assignment from a few measured engines: a function of what was measured, never stored.

T(x) = a * sum_g p[g, x_g] + b + c1 * n_switches + c2 * switched elements

A switch is a tensor that is read in another format than it was written in; see :meth:`hwsmpq.types.Network.switches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import stdtrit

from hwsmpq.device.timing import median_stderr
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import PRECISIONS, Assignment, Cost, CostTable, EngineTiming, Measurement, Network

PRIOR_RELATIVE_STD = 0.05
"""How far, relative to itself, a group's time in a mixture is expected to be from its time in the uniform engine."""
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
        scale, offset_ms, switch_ms, switch_element_ms: a, b, c1 and c2.
        fit_error_ms: root mean square error on engines that a fit had not seen (mixtures left out one at a time, where
            there are three or more, and every engine built since, before it was fitted), else on the fitted mixtures.
        built: what was measured since the table, each with the table's reference engine.
    """

    table: CostTable
    network: Network
    group_ms: dict[str, dict[str, float]]
    scale: float
    offset_ms: float
    switch_ms: float = 0.0
    switch_element_ms: float = 0.0
    fit_error_ms: float = 0.0
    built: tuple[EngineTiming, ...] = ()

    def predict(self, assignment: Assignment) -> float:
        """Predicted latency in ms."""
        n_switches, n_elements = _switched(self.network, assignment)
        layers = sum(self.group_ms[g][assignment[g]] for g in self.network.group_names)
        switching = self.switch_ms * n_switches + self.switch_element_ms * n_elements
        return float(self.scale * layers + self.offset_ms + switching)

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
        pair_ms: dict[tuple[int, int], float] = {}
        for edge in network.edges:
            i, j = sorted((row[edge.source], row[edge.target]))
            cost = self.switch_ms + self.switch_element_ms * edge.n_elements
            if cost > 0:
                pair_ms[i, j] = pair_ms.get((i, j), 0.0) + cost
        pairs = tuple(
            (i, j, cost * np.array([[one != other for other in formats[j]] for one in formats[i]]))
            for (i, j), cost in sorted(pair_ms.items())
        )
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
    layers take less than the runtime's clock resolves, say nothing: MACs take their place. ``c1, c2 >= 0`` from what
    the mixtures take beyond that, zero without mixtures.

    Engines built since then move the groups' times (ridge regression): every group's time may move, with a prior
    standard deviation in proportion to itself, to explain all engines. The last one built and the uniform ones weigh by
    their measurement noise, the others by the fit error.

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
    model, errors = _with_switches(_anchored(table, network))
    for n in range(1, len(built) + 1):
        new = built[n - 1]
        errors.append(corrected_ms(table, new) - model.predict(new.assignment))
        model = _with_built(replace(model, fit_error_ms=_rms(errors)), built[:n])
    return replace(model, fit_error_ms=_rms(errors))


def _anchored(table: CostTable, network: Network) -> CostModel:
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


def _with_switches(model: CostModel) -> tuple[CostModel, list[float]]:
    """The model with what switching takes in the table's mixtures; and its errors on them, each left out of the fit
    where there are enough."""
    mixtures = model.table.engines
    if not mixtures:
        return model, []
    features = np.array([_switched(model.network, timing.assignment) for timing in mixtures])
    excess = np.array([corrected_ms(model.table, t) - model.predict(t.assignment) for t in mixtures])
    coefficients = _nonnegative(features, excess)
    errors = excess - features @ coefficients
    if len(mixtures) >= MIN_CHECKS:
        for i in range(len(mixtures)):
            others = np.arange(len(mixtures)) != i
            errors[i] = excess[i] - features[i] @ _nonnegative(features[others], excess[others])
    c1, c2 = map(float, coefficients)
    return replace(model, switch_ms=c1, switch_element_ms=c2, fit_error_ms=_rms(errors)), errors.tolist()


def _with_built(model: CostModel, built: Sequence[EngineTiming]) -> CostModel:
    """The groups' times of the table, moved so that they explain the engines built since; coefficients stay."""
    table, network = model.table, model.network
    base = _anchored(table, network).group_ms
    unmoved = replace(model, group_ms=base)
    columns = [(g, name) for g in network.group_names for name in base[g]]
    index = {column: i for i, column in enumerate(columns)}
    prior = np.array([PRIOR_RELATIVE_STD * model.scale * base[g][name] for g, name in columns])
    observed = [(network.uniform(name), one.median_ms, _noise_ms(one)) for name, one in table.uniform_ms.items()]
    observed += [
        (one.assignment, corrected_ms(table, one), max(model.fit_error_ms, _noise_ms(one.measured)))
        for one in (*table.engines, *built[:-1])
    ]
    observed.append((built[-1].assignment, corrected_ms(table, built[-1]), _noise_ms(built[-1].measured)))
    design = np.zeros((len(observed), len(columns)))
    for row, (assignment, _, _) in zip(design, observed, strict=True):
        row[[index[g, assignment[g]] for g in network.group_names]] = 1.0
    residuals = np.array([ms - unmoved.predict(assignment) for assignment, ms, _ in observed])
    variance = prior**2
    covariance = (design * variance) @ design.T + np.diag(np.square([noise for _, _, noise in observed]))
    delta = variance * (design.T @ np.linalg.solve(covariance, residuals))
    moved = {
        g: {name: ms + float(delta[index[g, name]]) / model.scale for name, ms in base[g].items()}
        for g in network.group_names
    }
    return replace(model, group_ms=moved, built=tuple(built))


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


def _rms(errors: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else 0.0

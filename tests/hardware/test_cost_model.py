from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hwsmpq.device.timing import median_stderr
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import CostModel, corrected_ms, fit
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.search.switches import as_switch
from hwsmpq.types import Assignment, CostTable, EngineTiming, Group, Ladder, Layer, Measurement, Network, Read

LADDER = Ladder.parse("int8,fp32")
ACTIVATIONS = {"w4a4": 4, "w4a8": 8, "int8": 8, "bf16": 16, "fp32": 32}
A, B, C1, C2 = 1.2, 0.4, 0.05, 2e-5


def chain(n: int, seed: int = 0) -> Network:
    """Every group reads what the one before it wrote; every second group has another layer, which reads what the group
    two places before it wrote."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(n)]
    read = [(g, g, names[i - 1] if i else None) for i, g in enumerate(names)]
    read += [(names[i], f"{names[i]}.skip", names[i - 2]) for i in range(2, n, 2)]
    layers = tuple(Layer(x, "conv", f"{x}.w", (1,), 0, f"{x}.in", (), (), 1, 1, 0) for _, x, _ in read)
    reads = tuple(Read(f"{x}.in", writer, int(rng.integers(100, 20000))) for _, x, writer in read)
    groups = tuple(Group(g, tuple(x for owner, x, _ in read if owner == g)) for g in names)
    return Network("0" * 64, layers, groups, reads, 0)


class Truth:
    """A machine that obeys the model exactly, seen through counters and noisy, drifting timings."""

    def __init__(
        self, network: Network, ladder: Ladder = LADDER, noise: float = 0.0, seed: int = 0,
        dearer: dict[int, float] | None = None,
    ) -> None:
        self.network, self.ladder, self.noise = network, ladder, noise
        self.dearer = dearer or {}  # by the bits of what is converted
        self.rng = np.random.default_rng(seed)
        base = self.rng.uniform(0.05, 1.0, len(network.groups))
        speed = dict(zip(ladder.names, np.linspace(0.35, 1.0, len(ladder.names)), strict=True))
        self.group_ms = {
            g: {p: float(t * speed[p] * self.rng.uniform(0.8, 1.2)) for p in ladder.names}
            for g, t in zip(network.group_names, base, strict=True)
        }

    def ms(self, x: Assignment) -> float:
        total = A * sum(self.group_ms[g][p] for g, p in x.items()) + B
        format_of = {layer: ACTIVATIONS[x[group.name]] for group in self.network.groups for layer in group.layers}
        for layer, read in zip(self.network.layers, self.network.reads, strict=True):
            if read.writer is not None and format_of[layer.name] != format_of[read.writer]:
                total += (C1 + C2 * read.n_elements) * self.dearer.get(format_of[read.writer], 1.0)
        return total

    def timed(self, x: Assignment, drift: float = 1.0) -> EngineTiming:
        def seen(assignment: Assignment) -> Measurement:
            value = self.ms(assignment) * drift * (1 + self.noise * self.rng.standard_normal())
            return Measurement(value, self.noise * value / median_stderr(1.0, 7), 7)

        return EngineTiming(x, seen(x), seen(self.network.uniform(self.ladder.top)))

    def random(self, n: int, seed: int) -> list[Assignment]:
        rng = np.random.default_rng(seed)
        return [{g: str(rng.choice(self.ladder.names)) for g in self.network.group_names} for _ in range(n)]

    def table(self, mixtures: list[EngineTiming], counters: dict[str, dict[str, float]] | None = None) -> CostTable:
        uniform = {p: self.timed(self.network.uniform(p)).measured for p in self.ladder.names}
        return CostTable(
            "synthetic", {"cpu": "none"}, "0" * 64, self.ladder.names, counters or self.group_ms, uniform,
            tuple(mixtures),
        )

    def fit(self, mixtures: list[EngineTiming]) -> CostModel:
        return fit(self.table(mixtures), self.network)


def test_recovers_the_truth_through_drift():
    truth = Truth(chain(12))
    drifts = np.linspace(0.7, 1.5, 8)
    model = truth.fit([truth.timed(x, drift) for x, drift in zip(truth.random(8, 1), drifts, strict=True)])
    assert (model.scale, model.offset_ms) == pytest.approx((A, B))
    assert model.switch_ms == pytest.approx(dict.fromkeys((("int", 8), ("fp32", 32)), C1))
    assert model.switch_element_ms == pytest.approx(dict.fromkeys(model.switch_ms, C2))
    assert model.fit_error_ms < 1e-9


def test_predicts_held_out_mixtures_through_noise():
    truth = Truth(chain(20), noise=0.01)
    model = truth.fit([truth.timed(x) for x in truth.random(12, 1)])
    held_out = truth.random(50, 2)
    errors = np.array([model.predict(x) / truth.ms(x) - 1 for x in held_out])
    assert np.sqrt(np.mean(errors**2)) < 0.02
    without = truth.fit([])
    worse = np.array([without.predict(x) / truth.ms(x) - 1 for x in held_out])
    assert np.sqrt(np.mean(worse**2)) > 0.04


def test_fit_error_is_honest():
    """The reported error is close to the error on mixtures that the fit never saw."""
    truth = Truth(chain(20), noise=0.01)
    model = truth.fit([truth.timed(x) for x in truth.random(20, 1)])
    held_out = truth.random(200, 2)
    errors = [model.predict(x) - truth.timed(x).measured.median_ms for x in held_out]
    assert 0.5 < model.fit_error_ms / np.sqrt(np.mean(np.square(errors))) < 2.0


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_intervals_hold_what_they_promise(confidence):
    """Over many machines, each with its own few mixtures: neither too narrow nor far too wide."""
    inside = []
    for seed in range(40):
        truth = Truth(chain(20, seed), noise=0.02, seed=seed)
        model = truth.fit([truth.timed(x) for x in truth.random(8, seed + 1)])
        for x in truth.random(10, seed + 100):
            low, high = model.interval_ms(x, confidence)
            inside.append(low <= truth.timed(x).measured.median_ms <= high)
    assert confidence - 0.12 < np.mean(inside) < confidence + 0.09
    assert len(inside) == 400


def test_margins_grow_with_confidence_and_want_of_mixtures():
    truth = Truth(chain(12), noise=0.01)
    few, many = (truth.fit([truth.timed(x) for x in truth.random(n, 1)]) for n in (2, 16))
    margins = [many.margin_ms(confidence) for confidence in (0.5, 0.8, 0.95)]
    assert margins == sorted(margins) and margins[0] == pytest.approx(0)
    assert few.margin_ms(0.8) > margins[1]
    assert few.error_ms >= 0.05 * few.table.top_ms


def test_uniform_engines_are_exact_and_switches_free_without_mixtures():
    truth = Truth(chain(9), noise=0.05)
    model = truth.fit([])
    for name in LADDER.names:
        predicted = model.predict(truth.network.uniform(name))
        assert predicted == pytest.approx(model.table.uniform_ms[name].median_ms)
    assert (model.switch_ms, model.switch_element_ms, model.fit_error_ms) == ({}, {}, 0)
    assert not model.cost.pairs


def test_a_fit_knows_every_engine_once():
    """Fitting is a function of what was measured: the same engines give the same model, however often they are asked
    for, and its error is that on engines it had not seen."""
    real, table = off_counters(3)
    built = [real.timed(x) for x in real.random(3, 4)]
    once, again = fit(table, real.network, built), fit(table, real.network, built)
    assert once.group_ms == again.group_ms and once.n_checks == len(table.engines) + 3
    stepwise = [fit(table, real.network, built[:n]) for n in range(4)]
    missed = [corrected_ms(table, b) - m.predict(b.assignment) for b, m in zip(built, stepwise, strict=False)]
    n, before = len(table.engines), stepwise[0].fit_error_ms
    assert once.fit_error_ms == pytest.approx(np.sqrt((n * before**2 + np.sum(np.square(missed))) / (n + 3)))


def test_switching_is_never_paid_for():
    truth = Truth(chain(9))
    cheaper = [
        EngineTiming(t.assignment, Measurement(t.measured.median_ms * 0.5, 0.0, 30), t.reference)
        for t in (truth.timed(x) for x in truth.random(8, 1))
    ]
    model = truth.fit(cheaper)
    assert [*model.switch_ms.values(), *model.switch_element_ms.values()] == [0] * 4


def test_three_precisions():
    ladder = Ladder.parse("w4a4,int8,fp32")
    truth = Truth(chain(10), ladder)
    model = truth.fit([truth.timed(x) for x in truth.random(10, 1)])
    for x in truth.random(20, 2):
        assert model.predict(x) == pytest.approx(truth.ms(x))


def error_on_unseen(model: CostModel, truth: Truth) -> float:
    return float(np.mean([abs(model.predict(x) / truth.ms(x) - 1) for x in truth.random(40, 2)]))


def with_one_cost(model: CostModel) -> CostModel:
    """The model with what its formats cost in the mean."""
    means = [dict.fromkeys(c, float(np.mean([*c.values()]))) for c in (model.switch_ms, model.switch_element_ms)]
    return replace(model, switch_ms=means[0], switch_element_ms=means[1])


@pytest.mark.parametrize("n_mixtures", [2, 6, 12])
def test_formats_cost_what_they_cost_and_few_mixtures_leave_them_what_they_share(n_mixtures: int) -> None:
    """Where converting bf16 is free and int8 dear, their own costs predict what one cost does not; where all are the
    same, own costs do no harm. Means over machines."""
    ladder = Ladder.parse("int8,bf16,fp32")
    found = {True: list[float](), False: list[float]()}
    one = list[float]()
    for seed in range(12):
        for differ in found:
            dearer = {8: 2.0, 16: 0.0, 32: 1.0} if differ else {}
            truth = Truth(chain(24, seed), ladder, noise=0.005, seed=seed, dearer=dearer)
            model = truth.fit([truth.timed(x) for x in truth.random(n_mixtures, seed + 1)])
            found[differ].append(error_on_unseen(model, truth))
            if differ:
                one.append(error_on_unseen(with_one_cost(model), truth))
    if n_mixtures > 2:
        assert np.mean(found[True]) < 0.6 * np.mean(one)
    assert np.mean(found[True]) < np.mean(one) and np.mean(found[False]) < 0.02


@pytest.mark.parametrize("int8_ms", [0.1, 0.2, 0.09])
def test_impossible_counters_leave_the_uniform_engines_exact(int8_ms):
    truth = Truth(chain(4))
    for g in truth.group_ms:
        truth.group_ms[g] = {"int8": int8_ms, "fp32": 0.1}
    uniform = {"int8": Measurement(1.0, 0.0, 9), "fp32": Measurement(3.0, 0.0, 9)}
    model = fit(replace(truth.table([]), uniform_ms=uniform), truth.network)
    assert model.offset_ms == 0
    for name in LADDER.names:
        predicted = model.predict(truth.network.uniform(name))
        assert predicted == pytest.approx(uniform[name].median_ms)


def test_solver_cost_equals_prediction_on_every_assignment():
    ladder = Ladder.parse("w4a8,int8,fp32")
    network = chain(6)
    truth = Truth(network, ladder, dearer={8: 1.5})
    model = truth.fit([truth.timed(x) for x in truth.random(10, 1)])
    assert all(ms > 0 for ms in model.switch_ms.values())
    cost = model.cost
    for choice in itertools.product(range(3), repeat=6):
        x = {g: ladder.names[c] for g, c in zip(network.group_names, choice, strict=True)}
        assert cost(np.array(choice)) == pytest.approx(model.predict(x))
    assert all(as_switch(table) for _, _, table in cost.pairs), "written as few variables"


def test_missing_measurements_are_named():
    truth = Truth(chain(4))
    with pytest.raises(HwsmpqError, match="g2"):
        fit(truth.table([], {**truth.group_ms, "g2": {"fp32": 1.0}}), truth.network)
    with pytest.raises(HwsmpqError, match="int8"):
        fit(replace(truth.table([]), uniform_ms={"fp32": Measurement(1.0, 0.0, 9)}), truth.network)


def off_counters(seed: int) -> tuple[Truth, CostTable]:
    """A machine whose groups take other times in mixtures (by 10 %) than the counters of uniform engines say."""
    real = Truth(chain(16), noise=0.003, seed=seed)
    rng = np.random.default_rng(seed)
    counters = {g: {p: t * rng.normal(1, 0.1) for p, t in row.items()} for g, row in real.group_ms.items()}
    return real, real.table([real.timed(x) for x in real.random(8, 1)], counters)


def neighbours(x: Assignment, n: int, seed: int) -> list[Assignment]:
    rng = np.random.default_rng(seed)
    return [{**x, g: "int8" if x[g] == "fp32" else "fp32"} for g in rng.choice(list(x), n, replace=False)]


@pytest.mark.parametrize("seed", range(5))
def test_evidence_is_right_at_and_near_the_new_engine(seed):
    real, table = off_counters(seed)
    old = fit(table, real.network)
    x = max(real.random(20, 3), key=lambda x: abs(old.predict(x) - real.ms(x)))
    near = neighbours(x, 10, seed)

    def errors(model: CostModel, xs: list[Assignment]) -> float:
        return float(np.sqrt(np.mean([(model.predict(y) / real.ms(y) - 1) ** 2 for y in xs])))

    timing = real.timed(x, drift=1.3)
    measured = corrected_ms(table, timing)
    new = fit(table, real.network, [timing])
    before, after = (abs(model.predict(x) / measured - 1) for model in (old, new))
    assert after < max(0.25 * before, 2**0.5 * real.noise)  # the engine's noise and its reference's
    assert errors(new, near) < errors(old, near)
    for name in LADDER.names:
        assert new.predict(real.network.uniform(name)) == pytest.approx(table.uniform_ms[name].median_ms, rel=0.005)
    assert new.measured_ms()[-1][0] == x


def test_evidence_converges_on_a_walk():
    real, table = off_counters(7)
    model = fit(table, real.network, [real.timed(x) for x in real.random(25, 4)])
    errors = [model.predict(x) / real.ms(x) - 1 for x in real.random(50, 9)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.01


def test_evidence_that_was_predicted_changes_nothing():
    truth = Truth(chain(8))
    table = truth.table([truth.timed(x) for x in truth.random(6, 1)])
    new = fit(table, truth.network, [truth.timed(truth.random(1, 2)[0])])
    for g, row in table.group_ms.items():
        assert {p: new.group_ms[g][p] for p in row} == pytest.approx(row)


def test_mixtures_cover_the_shares_of_the_floor():
    network = chain(20)
    drawn = draw_mixtures(network, LADDER, 10, seed=0)
    assert [sum(p == "int8" for p in x.values()) for x in drawn] == [3, 7, 11, 15, 19, 1, 5, 9, 13, 17]
    assert drawn == draw_mixtures(network, LADDER, 10, seed=0)
    assert drawn != draw_mixtures(network, LADDER, 10, seed=1)
    for n_groups in (2, 3):
        for x in draw_mixtures(chain(n_groups), LADDER, 8, seed=0):
            assert set(x.values()) == {"int8", "fp32"}


@pytest.mark.parametrize("silent", [("int8",), ("int8", "fp32")])
def test_counters_that_a_clock_does_not_resolve_are_replaced_by_macs(silent):
    """Layers that take less than a tick of the runtime's clock: engines are timed all the same."""
    truth = Truth(chain(4))
    uniform = {p: truth.timed(truth.network.uniform(p)) for p in LADDER.names}
    for name in silent:
        for ms in truth.group_ms.values():
            ms[name] = 0.0
    table = replace(
        truth.table(list(uniform.values())), uniform_ms={p: one.measured for p, one in uniform.items()}
    )
    model = fit(table, truth.network)
    for name, one in uniform.items():
        assert model.predict(truth.network.uniform(name)) == pytest.approx(one.measured.median_ms)

"""Timing and profiling against engines that take an exact time on a clock of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_cost_model import LADDER, Truth, chain

from hwsmpq.device.runtime import UNATTRIBUTED, Engine
from hwsmpq.device.timing import (
    FEWEST_LOADS,
    LOADS_DIFFER,
    N_LOADS,
    PRECISE,
    Timing,
    TimingRequest,
    measure,
    median_stderr,
    spread,
    too_noisy,
)
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.loads import Load, time_on
from hwsmpq.hardware.profile import draw_mixtures, measure_costs, measure_mixtures
from hwsmpq.hardware.target import Target
from hwsmpq.types import Ladder, Measurement


class Machine:
    """A clock that engines move forward, ``drift`` faster or slower as time goes by."""

    now = 0.0
    n_inferences = 0

    def slowness(self) -> float:
        return 1.0 + 0.5 * np.sin(self.now)


class FakeEngine(Engine):
    def __init__(self, machine: Machine, ms: float, layers: dict[str, float] | None = None, cold_ms: float = 0) -> None:
        self.machine, self.ms, self.layers, self.cold_ms = machine, ms, layers or {}, cold_ms

    def clock(self) -> float:
        return self.machine.now

    def infer(self, inputs):
        cold = 0.0 if getattr(self.machine, "last", None) is self else self.cold_ms
        self.machine.last = self
        self.machine.now += (self.ms + cold) * self.machine.slowness() / 1e3
        self.machine.n_inferences += 1
        return []

    def realised(self, layers):
        raise NotImplementedError

    def layer_ms(self, layers, inputs, n_repeats):
        return {**{layer: self.layers[layer] for layer in layers}, UNATTRIBUTED: 0.4}


def test_times_survive_drift_and_cold_caches():
    machine = Machine()
    engines = {name: FakeEngine(machine, ms, cold_ms=3.0) for name, ms in (("a", 2.0), ("b", 3.0), ("c", 4.0))}
    timing = measure(engines, TimingRequest([], 0, 0))
    ms = {name: one.median_ms for name, one in timing.measured.items()}
    assert [ms["b"] / ms["a"], ms["c"] / ms["a"]] == pytest.approx([1.5, 2.0], rel=0.02)
    # Drift of +-50 % hits all of them alike.
    assert all(one.spread_ms < 0.05 * one.median_ms for one in timing.measured.values())
    assert timing.noise < 0.02
    assert all(FEWEST_LOADS <= m.n_repeats <= N_LOADS for m in timing.measured.values())


class Placed(FakeEngine):
    """Every load is up to ``width`` slower, by where it comes to lie."""

    def __init__(self, machine: Machine, ms: float, seed: int, width: float) -> None:
        super().__init__(machine, ms)
        self.rng, self.width, self.placed_ms = np.random.default_rng(seed), width, ms
        self.reload()

    def reload(self):
        self.ms = self.placed_ms * (1 + self.width * self.rng.random())


class Steady(Machine):
    def slowness(self) -> float:
        return 1.0


@pytest.mark.parametrize("width", [0.0, 0.02, 0.3])
def test_an_engine_is_measured_over_its_loads_and_noise_says_how_well(width):
    def ratio(seed: int) -> float:
        times = measure(engines(seed), TimingRequest([], seed, 0)).measured
        return times["b"].median_ms / times["a"].median_ms / 1.5 - 1

    def engines(seed: int) -> dict[str, FakeEngine]:
        machine = Steady()
        return {n: Placed(machine, ms, seed * 10 + int(ms), width) for n, ms in (("a", 20.0), ("b", 30.0), ("c", 25.0))}

    errors, noise = [ratio(seed) for seed in range(30)], measure(engines(99), TimingRequest([], 0, 0)).noise
    once = width / np.sqrt(12)  # the standard deviation over loads
    assert np.std(errors) < max(once, 1e-9)
    assert np.std(errors) / 3 - 1e-9 < noise < 3 * np.std(errors) + 1e-9
    assert (too_noisy(noise) is None) == (width < 0.1)


def test_an_engine_of_two_names_is_timed_once():
    machine = Steady()
    fast, slow = FakeEngine(machine, 2.0), FakeEngine(machine, 3.0)
    loads, seen = [Load([], 0.25, "a"), Load([], 0.75, "b")], []

    class Noting:
        def measure(self, engines, how, progress):
            seen.append(list(engines))
            return measure(engines, how, progress)

    timing, each = time_on(Noting(), {"int8": fast, "fp32": slow, "chosen": fast}, loads, 0, 1.0)
    assert seen == [["int8", "fp32"]] * 2
    for one in (timing, *each):
        assert list(one.measured) == ["int8", "fp32", "chosen"] and one.measured["chosen"] == one.measured["int8"]


def test_sessions_are_compared_by_what_both_measured():
    machine = Steady()
    engines = {name: FakeEngine(machine, ms) for name, ms in (("int8", 2.0), ("fp32", 3.0), ("chosen", 2.5))}
    known = {name: Measurement(ms, 0.0, 1) for name, ms in (("int8", 4.0), ("fp32", 6.0), ("other", 1.0))}
    times = measure(engines, TimingRequest([], 0, 0)).as_when(known)
    assert {name: one.median_ms for name, one in times.items()} == pytest.approx(
        {"int8": 4.0, "fp32": 6.0, "chosen": 5.0}
    )


class Restless(FakeEngine):
    """Takes up to a fifth longer now and then, load or no load."""

    rng = np.random.default_rng(0)

    def infer(self, inputs):
        self.machine.now += 0.2 * self.rng.random() * self.ms / 1e3
        return super().infer(inputs)


def test_time_budget_sets_the_blocks(monkeypatch):
    def spent(seconds: float, kind: type[FakeEngine] = Restless) -> float:
        machine = Steady()
        monkeypatch.setattr("hwsmpq.device.timing.time.perf_counter", lambda: machine.now)
        engines = {n: kind(machine, ms) for n, ms in (("a", 2.0), ("b", 20.0))}
        measure(engines, TimingRequest([], 0, seconds))
        return machine.now

    assert spent(10.0, FakeEngine) < 3.0  # three blocks tell all of engines that always take the same

    assert spent(4.0) == pytest.approx(4.0, rel=0.15)
    assert spent(4.0) - spent(2.0) == pytest.approx(2.0, rel=0.25)
    assert max(spent(100.0), spent(50.0)) < 12.0  # more blocks a load say less than further loads


class Loaded(FakeEngine):
    """Every load differs by 1 %, and every inference by ``within``; loading takes as long as ten blocks."""

    def __init__(
        self, machine: Machine, ms: float, rng: np.random.Generator, within: float, scatter: float = LOADS_DIFFER
    ) -> None:
        super().__init__(machine, ms)
        self.rng, self.within, self.typical_ms, self.scatter = rng, within, ms, scatter
        self.reload()

    def reload(self):
        self.machine.now += 10 * 3 * self.typical_ms / 1e3
        self.ms = self.typical_ms * math.exp(self.scatter * self.rng.standard_normal())

    def infer(self, inputs):
        self.machine.now += (math.exp(self.within * self.rng.standard_normal()) - 1) * self.ms / 1e3
        return super().infer(inputs)


@pytest.mark.parametrize("within", [0.003, 0.05])
def test_no_other_number_of_blocks_a_load_is_much_cheaper_for_what_it_tells(monkeypatch, within):
    def spent() -> float:
        """Variance of a ratio of two times, by the seconds that it took."""
        found, seconds, rng = [], 0.0, np.random.default_rng(0)
        for seed in range(100):
            machine = Steady()
            engines = {name: Loaded(machine, ms, rng, within) for name, ms in (("a", 20.0), ("b", 30.0), ("c", 25.0))}
            times = measure(engines, TimingRequest([], seed, math.inf)).measured
            found.append(math.log(times["b"].median_ms / times["a"].median_ms / 1.5))
            seconds += machine.now
        return float(np.var(found)) * seconds

    chosen, others = spent(), []
    monkeypatch.setattr("hwsmpq.device.timing._are_settled", lambda blocks: True)
    for n in (3, 30):
        monkeypatch.setattr("hwsmpq.device.timing.MIN_BLOCKS", n)
        others.append(spent())
    assert chosen < 1.5 * min(others) and chosen < 0.8 * max(others)


def test_time_that_is_left_goes_to_loads_of_noisy_engines(monkeypatch):
    def measured(width: float, seconds: float) -> Timing:
        machine = Steady()
        monkeypatch.setattr("hwsmpq.device.timing.time.perf_counter", lambda: machine.now)
        engines = {n: Placed(machine, ms, int(ms), width) for n, ms in (("a", 2.0), ("b", 3.0))}
        timing = measure(engines, TimingRequest([], 0, seconds))
        assert machine.now < seconds + 2.0
        return timing

    quiet, noisy, longer = measured(0.001, 60.0), measured(0.3, 1.0), measured(0.3, 60.0)
    n_loads = [timing.measured["a"].n_repeats for timing in (quiet, noisy, longer)]
    assert n_loads[0] == FEWEST_LOADS < N_LOADS < n_loads[1] < n_loads[2]
    assert longer.noise < noisy.noise


@pytest.mark.parametrize("scatter", [0.005, 0.01, 0.02])
def test_fewer_loads_are_taken_where_they_say_enough_and_errors_are_as_said(scatter):
    def measured(seed: int) -> tuple[Timing, float]:
        machine, ms = Steady(), {"a": 20.0, "b": 30.0, "c": 25.0}
        engines = {name: Loaded(machine, one, rng, 0.003, scatter) for name, one in ms.items()}
        timing = measure(engines, TimingRequest([], seed, 0.0))
        return timing, math.log(timing.measured["b"].median_ms / timing.measured["a"].median_ms / 1.5)

    rng = np.random.default_rng(0)
    timings, errors = zip(*(measured(seed) for seed in range(100)), strict=True)
    n_loads, said = np.array([(timing.measured["a"].n_repeats, timing.noise) for timing in timings]).T
    assert (n_loads >= FEWEST_LOADS).all() and (n_loads <= N_LOADS).all()
    assert (said[n_loads < N_LOADS] <= PRECISE).all()
    assert scatter > PRECISE or n_loads.mean() < N_LOADS - 1
    assert np.std(errors) < 1.5 * math.sqrt(2 * (said**2).mean())


def test_there_is_something_to_time():
    with pytest.raises(HwsmpqError, match="no engines"):
        measure({}, TimingRequest([], 0))


class FakeTarget(Target):
    name, native, has_latency, scheme_name = "fake", ("int8", "fp32"), True, "unsigned_activations"

    def unavailable(self):
        return None

    def machine(self):
        return {"device": "made up"}

    def build(self, onnx, folder):
        raise NotImplementedError

    def load(self, folder):
        raise NotImplementedError


def test_profile_recovers_the_machine():
    truth, machine = Truth(chain(12)), Machine()
    built = []

    def build_engine(x):
        built.append(x)
        times = {}
        for group, precision in x.items():
            layers = truth.network.layers_of(group)
            times |= {layer.name: truth.group_ms[group][precision] / len(layers) for layer in layers}
        return FakeEngine(machine, truth.ms(x), times)

    seen = []
    how = (build_engine, [Load([np.zeros((2, 3, 4, 4))])], 3, 1.0, lambda *event: seen.append(event))
    table = measure_costs(FakeTarget(), truth.network, LADDER, *how)
    assert len(built) == 2 and not table.engines
    drawn = draw_mixtures(truth.network, LADDER, 6, seed=3)
    for more in (drawn[:3], drawn[3:]):
        table = measure_mixtures(FakeTarget(), truth.network, table, more, *how)
    assert len(built) == 2 + 2 * 5
    assert [timing.assignment for timing in table.engines] == drawn
    assert table.machine == {"device": "made up", "inputs": "2x3x4x4"}
    for x in truth.random(20, 5):
        from hwsmpq.hardware.cost_model import fit

        # The clock drifts by half: the absolute level is the drift's, the relation to the reference is not.
        relative = fit(table, truth.network).predict(x) / table.uniform_ms["fp32"].median_ms
        assert relative == pytest.approx(truth.ms(x) / truth.ms(truth.network.uniform("fp32")), rel=0.06)
    assert {stage for stage, _, _ in seen} == {"build", "counters", "timing"}
    assert all(0 < done <= n for _, done, n in seen)


def test_profile_refuses_what_the_target_does_not_run():
    network = chain(4)
    with pytest.raises(HwsmpqError, match="w4a4"):
        measure_costs(FakeTarget(), network, Ladder.parse("w4a4,fp32"), lambda x: pytest.fail("built"), (), seed=0)


@pytest.mark.parametrize("n", [3, 7, 30])
def test_error_of_a_median_is_what_repetitions_of_it_spread_by(n):
    samples = np.random.default_rng(n).normal(size=(4000, n))
    claimed = np.mean([median_stderr(spread(row), n) for row in samples])
    assert claimed == pytest.approx(np.median(samples, axis=1).std(), rel=0.06)

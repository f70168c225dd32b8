"""Timing and profiling against engines that take an exact time on a clock of their own."""

from __future__ import annotations

import numpy as np
import pytest
from test_cost_model import LADDER, Truth, chain

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.profile import profile
from hwsmpq.hardware.target import UNATTRIBUTED, Engine, Target
from hwsmpq.hardware.timing import measure, too_noisy
from hwsmpq.types import Ladder


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


def test_ratios_survive_drift_and_cold_caches():
    machine = Machine()
    engines = {name: FakeEngine(machine, ms, cold_ms=3.0) for name, ms in (("a", 2.0), ("b", 3.0), ("c", 4.0))}
    timing = measure(engines, [], seed=0, reference="a", n_blocks=200)
    assert timing.ratio == pytest.approx({"a": 1.0, "b": 1.5, "c": 2.0}, rel=0.02)
    assert timing.ratio_spread["a"] == 0
    # Drift of +-50 % is in the spread of the times, and hardly in that of the ratios.
    assert timing.measured["c"].spread_ms > 1.0
    assert timing.ratio_spread["c"] < 0.1
    assert all(m.n_repeats == 200 for m in timing.measured.values())
    paired = timing.engine_timing("c", {"g": "int8"})
    assert paired.measured.median_ms / paired.reference.median_ms == pytest.approx(timing.ratio["c"])
    assert paired.measured.spread_ms < 0.1 * timing.measured["c"].spread_ms


@pytest.mark.parametrize("jitter", [0.0, 0.02, 0.3])
def test_the_noise_of_a_measurement_is_seen_in_it(jitter):
    class Restless(Machine):
        rng = np.random.default_rng(0)

        def slowness(self) -> float:
            return 1.0 + jitter * self.rng.random()

    machine, n = Restless(), 50
    engines = {name: FakeEngine(machine, ms) for name, ms in (("a", 20.0), ("b", 30.0))}
    timing = measure(engines, [], seed=0, reference="a", n_blocks=n)
    assert set(timing.measured) == set(timing.ratio) == {"a", "b"}
    repeats = [measure(engines, [], seed, "a", n_blocks=n).ratio["b"] / 1.5 - 1 for seed in range(20)]
    assert timing.noise == pytest.approx(np.std(repeats), rel=2.0, abs=1e-9)
    assert timing.noise > np.std(repeats) / 2 - 1e-9
    assert (too_noisy(timing.noise) is None) == (jitter < 0.1)


def test_time_budget_sets_the_blocks(monkeypatch):
    def spent(seconds: float) -> float:
        machine = Machine()
        monkeypatch.setattr("hwsmpq.hardware.timing.time.perf_counter", lambda: machine.now)
        measure({n: FakeEngine(machine, ms) for n, ms in (("a", 2.0), ("b", 20.0))}, [], 0, "a", seconds=seconds)
        return machine.now

    assert spent(10.0) == pytest.approx(10.0, rel=0.1)
    assert spent(20.0) == pytest.approx(20.0, rel=0.1)


def test_reference_must_be_there():
    with pytest.raises(HwsmpqError, match="absent"):
        measure({"a": FakeEngine(Machine(), 1.0)}, [], 0, "absent")


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
        return FakeEngine(machine, truth.ms(x), {g: truth.group_ms[g][p] for g, p in x.items()})

    seen = []
    table = profile(
        FakeTarget(), truth.network, LADDER, build_engine, [np.zeros((2, 3, 4, 4))], seed=3, n_mixtures=6, seconds=1.0,
        progress=lambda *event: seen.append(event),
    )
    assert len(built) == 8
    assert len(table.engines) == 6
    assert table.machine == {"device": "made up", "inputs": "2x3x4x4"}
    for x in truth.random(20, 5):
        from hwsmpq.hardware.cost_model import predict

        # The clock drifts by half: the absolute level is the drift's, the relation to the reference is not.
        relative = predict(table, truth.network, x) / table.uniform_ms["fp32"].median_ms
        assert relative == pytest.approx(truth.ms(x) / truth.ms(truth.network.uniform("fp32")), rel=0.06)
    assert {stage for stage, _, _ in seen} == {"build", "counters", "timing"}
    assert all(0 < done <= n for _, done, n in seen)


def test_profile_refuses_what_the_target_does_not_run():
    network = chain(4)
    with pytest.raises(HwsmpqError, match="w4a4"):
        profile(FakeTarget(), network, Ladder.parse("w4a4,fp32"), lambda x: pytest.fail("built"), [], seed=0)

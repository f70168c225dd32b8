"""What speed decides, on a game whose values, noise and times are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hwsmpq.hardware.cost_model import CostModel
from hwsmpq.pipeline.decide.candidates import race_for_value
from hwsmpq.pipeline.decide.speed import Speed
from hwsmpq.search.problem import Problem, identity
from hwsmpq.search.race import Standing
from hwsmpq.types import Cost, CostTable, EngineTiming, Group, Ladder, Layer, Measurement, Network, Settings

LADDER = Ladder.parse("int8,bf16,fp32")
N_GROUPS = 6
MS = np.array([1.0, 1.6, 2.4])
LOST = np.zeros((N_GROUPS, 3))
LOST[1, 0], LOST[4, :2] = 1.0, 1.0
"""Group 1 needs bf16 at least and group 4 fp32; the others lose nothing."""
NEEDED = (0, 1, 0, 0, 2, 0)
NOISE = 0.02


def network() -> Network:
    names = [f"g{i}" for i in range(N_GROUPS)]
    layers = tuple(Layer(g, "conv", f"{g}.w", (1,), 0, f"{g}.in", (), (), 1, 1, 0) for g in names)
    return Network("0" * 64, layers, tuple(Group(g, (g,)) for g in names), (), 0)


def machine(knows_switches: bool) -> CostModel:
    net = network()
    group_ms = {g: dict(zip(LADDER.names, MS.tolist(), strict=True)) for g in net.group_names}
    uniform = {name: Measurement(N_GROUPS * float(ms), 0.0, 7) for name, ms in zip(LADDER.names, MS, strict=True)}
    mixed = dict.fromkeys(net.group_names, "bf16") | {"g0": "fp32"}
    top = uniform["fp32"]
    engines = (EngineTiming(mixed, Measurement(8.0 + 2.4, 0.0, 7), top),) * 3 if knows_switches else ()
    return CostModel(CostTable("none", {}, "0" * 64, LADDER.names, group_ms, uniform, engines), net, group_ms, 1.0, 0.0)


class Noisy:
    """Stands for nested batches: values are known up to noise, which every choice has of its own."""

    sizes = (64, 192)

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def values(self, choices: np.ndarray, batch: int) -> np.ndarray:
        return np.array([
            -LOST[np.arange(N_GROUPS), c].sum()
            + NOISE * np.random.default_rng([self._seed, batch, *c]).normal(size=self.sizes[batch]) for c in choices
        ])


@pytest.mark.parametrize("limit", [14.4, 10.0])
def test_within_a_latency_the_fastest_of_what_loses_nothing_is_found(limit: float) -> None:
    """Of all 729 plans, in most searches: the best is the luckiest of many, and may seem surely better. Nothing
    that loses is ever taken."""
    speed = Speed(network(), LADDER, machine(knows_switches=True))
    unhurt = [c for c in product(range(3), repeat=N_GROUPS) if LOST[np.arange(N_GROUPS), c].sum() == 0]
    assert min(unhurt, key=lambda c: MS[list(c)].sum()) == NEEDED
    found, first = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for seed in range(20):
        batches, rng = Noisy(seed), np.random.default_rng(seed)
        table = Cost(-LOST + rng.normal(0, 1e-3, LOST.shape))
        problem = Problem(table, {"latency_ms": speed.model.cost}, {"latency_ms": limit})
        nothing = np.empty((0, N_GROUPS), dtype=np.int64), np.empty(0)
        measured, _ = race_for_value(
            problem, {"a": table}, (), nothing, batches, Settings(n_candidates=6, search_evaluations=400), None,  # type: ignore[arg-type]
            speed,
        )
        whole = [m.proposal.solution.choice for m in measured if m.n_samples == sum(batches.sizes)]
        rows = [Standing(c, np.concatenate([batches.values(c[None], b)[0] for b in (0, 1)])) for c in whole]
        found.append(identity(whole[speed.preferred(rows, fastest_first=False)]))
        first.append(identity(whole[0]))
    assert set(found) <= set(unhurt) and found.count(NEEDED) >= 14
    assert first.count(NEEDED) <= 8, "the race alone takes what seems best"


def test_mixtures_only_seem_fast_where_none_was_timed() -> None:
    """Then one precision everywhere is preferred that is faster, and no mixture."""
    even = [Standing(np.array(c), np.zeros(8)) for c in ([2, 2, 2, 2, 2, 1], [0, 0, 0, 0, 0, 1], [1] * N_GROUPS)]
    preferred = {knows: Speed(network(), LADDER, machine(knows)).preferred(even, False) for knows in (True, False)}
    assert preferred == {True: 1, False: 2}


def test_a_promise_counts_as_slower_than_an_engine_of_the_same_speed() -> None:
    model = machine(knows_switches=True)
    speed = Speed(network(), LADDER, model)
    assert speed.surely_ms(np.zeros(N_GROUPS, dtype=np.int64)) == pytest.approx(6.0)
    assert speed.surely_ms(np.array([2, 1, 1, 1, 1, 1])) == pytest.approx(10.4)  # timed
    assert speed.surely_ms(np.array([1, 1, 1, 1, 1, 0])) == pytest.approx(9.0 + model.error_ms)

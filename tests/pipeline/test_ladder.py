"""The proposed ladder follows from the sweep, and the sweep is what the simulator gives."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.values import per_sample
from hwsmpq.pipeline.evaluate.ladder import BITS, N_RUNGS, propose, sweep, swept
from hwsmpq.pipeline.run import Run
from hwsmpq.quickstart.task import task
from hwsmpq.types import Ladder, Precision, Settings, SweepPoint


def points(weight: dict[int, float], activation: dict[int, float]) -> dict[str, SweepPoint]:
    """Value lost by bits on each side; more than 1 destroys the network."""
    lost = {Precision.parse(f"w{b}a8").name: weight.get(b, 0.0) for b in BITS}
    lost |= {Precision.parse(f"w8a{b}").name: activation.get(b, 0.0) for b in BITS}
    return {name: SweepPoint(-one, 10 * one, 0.1, one < 1) for name, one in lost.items()}


def rungs(ladder: tuple[str, ...]) -> list[tuple[int, int]]:
    return [(p.weight_bits, p.activation_bits) for p in map(Precision.parse, ladder) if p.name != "fp32"]


def test_the_sensitive_side_keeps_its_bits() -> None:
    fragile, robust = {2: 5.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 0.1}, {2: 0.02, 3: 0.01}
    assert propose(points(fragile, robust))[0] == "w6a2"
    assert propose(points(robust, fragile))[0] == "w2a6"
    assert rungs(propose(points(robust, fragile)))[1][1] == 8  # what loses most is raised first


def test_rungs_rise_to_eight_bits_and_are_few() -> None:
    ladder = propose(points({b: 0.2 / b for b in BITS if b < 8}, {b: 0.3 / b for b in BITS if b < 8}))
    assert 2 <= len(ladder) <= N_RUNGS and ladder[-1] == "int8"
    assert all(a <= c and b <= d for (a, b), (c, d) in pairwise(rungs(ladder)))
    assert Ladder.parse(",".join(ladder)).names == ladder


def test_fp32_joins_where_eight_bits_lose_or_leave_no_choice() -> None:
    assert propose(points({8: 0.5}, {8: 0.5}))[-1] == "fp32"
    dead = {b: 2.0 for b in BITS if b < 8}
    assert propose(points(dead, dead)) == ("int8", "fp32")
    with pytest.raises(HwsmpqError, match="8 bits destroy"):
        propose(points({8: 2.0}, {8: 2.0}))


def test_a_width_above_a_dead_one_is_needed() -> None:
    """That 2 bits pass for alive below 3 dead ones is noise."""
    assert rungs(propose(points({3: 2.0}, {})))[0][0] == 4


def test_the_sweep_is_what_the_simulator_gives(tmp_path: Path) -> None:
    names = swept(get_target("onnx-qdq").native)
    settings = Settings("digits", target="onnx-qdq", ladder=Ladder.parse(",".join(names)).names, n_score_samples=64)
    run = Run(tmp_path, settings, task())
    found = sweep(run)
    assert set(found.points) == set(names)
    batch = run.score_batch
    outputs = run.simulator.scores(
        [run.network.uniform(name) for name in ("w2a8", "w8a3", "fp32")], batch.inputs, lambda out, rows: out
    )
    low, other, reference = (
        float(per_sample(run.task.metric, out, batch.targets, "metric").mean()) for out in outputs
    )
    assert found.points["w2a8"].drop_points == pytest.approx(100 * (reference - low))
    assert found.points["w8a3"].drop_points == pytest.approx(100 * (reference - other))
    assert found.ladder == propose(found.points)


def test_a_target_without_bits_to_choose_says_so() -> None:
    with pytest.raises(HwsmpqError, match="no w2a8"):
        swept(get_target("openvino-cpu").native)

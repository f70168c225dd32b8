"""Engines in the place of the simulator: same interface, same answers, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hwsmpq.engine.runner import EngineRunner
from hwsmpq.quantize.evaluate import Evaluator

if TYPE_CHECKING:
    from .conftest import Prepared


def test_engines_score_like_the_simulator_and_are_removed(prepared: Prepared) -> None:
    network, task, builder = prepared.network, prepared.task, prepared.builder
    samples = task.evaluation.take(slice(0, 24))
    assignments = [network.uniform("int8"), prepared.every_second, network.uniform("fp32")]
    told: list[tuple[int, int]] = []

    expected = Evaluator(prepared.simulator, task, samples, "soft", network.uniform("fp32"))(assignments)
    runner = Evaluator(EngineRunner(builder), task, samples, "soft", network.uniform("fp32"),
                       lambda done, n: told.append((done, n)))
    told.clear()  # the reference, which ``soft`` compares with, was run first, and is not run again
    found = runner(assignments)

    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0.02, atol=0.02)
    assert told == [(1, 2), (2, 2)]
    assert abs(found[0] - found[2]).max() > 1e-4  # int8 is not silently fp32
    assert list(Path(builder._scratch.name).iterdir()) == []

"""Engines in the place of the simulator: same interface, same answers, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hwsmpq.engine.build import Builder
from hwsmpq.engine.runner import EngineRunner
from hwsmpq.hardware.target import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart.task import task as quickstart_task


def test_engines_score_like_the_simulator_and_are_removed() -> None:
    target, task = get_target("openvino-cpu"), quickstart_task()
    reason = target.unavailable()
    if reason:
        pytest.skip(reason)
    captured = capture(task.model, task.calibration)
    scheme = get_scheme(target.scheme_name)
    ranges = calibrate(captured, task.calibration, scheme, [8])
    network, samples = captured.network, task.evaluation.take(slice(0, 24))
    builder = Builder(captured, ranges, scheme, target)
    mixed = {g: "int8" if i % 2 else "fp32" for i, g in enumerate(network.group_names)}
    assignments = [network.uniform("int8"), mixed, network.uniform("fp32")]
    told: list[tuple[int, int]] = []

    simulator = Simulator(captured, ranges, scheme)
    expected = Evaluator(simulator, task, samples, "soft", network.uniform("fp32"))(assignments)
    runner = Evaluator(EngineRunner(builder), task, samples, "soft", network.uniform("fp32"),
                       lambda done, n: told.append((done, n)))
    told.clear()  # the reference outputs of ``soft`` were run first
    found = runner(assignments)

    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0.02, atol=0.02)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert abs(found[0] - found[2]).max() > 1e-4  # int8 is not silently fp32
    assert list(Path(builder._scratch.name).iterdir()) == []

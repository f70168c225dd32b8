"""The quickstart's network, captured and calibrated for OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hwsmpq.engine.build import Builder
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.task import Task
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart.task import task as quickstart_task
from hwsmpq.types import Assignment, Network, Precision


@dataclass(frozen=True, eq=False)
class Prepared:
    task: Task
    captured: Captured
    simulator: Simulator
    builder: Builder

    @property
    def network(self) -> Network:
        return self.captured.network

    @property
    def every_second(self) -> Assignment:
        return {g: "int8" if i % 2 else "fp32" for i, g in enumerate(self.network.group_names)}


@pytest.fixture
def prepared() -> Prepared:
    target, task = get_target("openvino-cpu"), quickstart_task()
    reason = target.unavailable()
    if reason:
        pytest.skip(reason)
    captured = capture(task.model, task.calibration)
    scheme = get_scheme(target.scheme_name)
    ranges = calibrate(captured, task.calibration, scheme, [8], correct=[Precision.parse("int8")])
    assert ranges.shifts["int8"]
    return Prepared(task, captured, Simulator(captured, ranges, scheme), Builder(captured, ranges, scheme, target))

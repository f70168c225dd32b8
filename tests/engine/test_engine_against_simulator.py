"""The engine that is built computes what the simulator scored, sample by sample, on a trained network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.target import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart.task import task as quickstart_task
from hwsmpq.types import Assignment, Network

N_SAMPLES = 64


def sqnr_db(signal: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(signal.square().mean() / (signal - other).square().mean()))


def every_second(network: Network) -> Assignment:
    return {g: "int8" if i % 2 else "fp32" for i, g in enumerate(network.group_names)}


@pytest.mark.parametrize("name", ["int8", "mixed"])
def test_engine_computes_what_the_simulator_scored(name: str) -> None:
    target, task = get_target("openvino-cpu"), quickstart_task()
    reason = target.unavailable()
    if reason:
        pytest.skip(reason)
    captured = capture(task.model, task.calibration)
    scheme = get_scheme(target.scheme_name)
    ranges = calibrate(captured, task.calibration, scheme, [8])
    network, samples = captured.network, task.evaluation.take(slice(0, N_SAMPLES))
    assignment = network.uniform("int8") if name == "int8" else every_second(network)

    simulated = Simulator(captured, ranges, scheme).scores([assignment], samples.inputs, lambda out, rows: out)[0]
    engine = Builder(captured, ranges, scheme, target).engine(assignment)
    measured = engine_outputs(engine, samples)

    # Sums in another order move single activations by one level; a wrong grid, range or saturation costs 20 dB more.
    assert sqnr_db(simulated, measured) > 40
    assert torch.equal(simulated.argmax(1), measured.argmax(1))
    # The quantization itself is visible: an engine that silently stayed in fp32 would not pass.
    reference = captured.graph(*samples.inputs).detach()
    assert sqnr_db(reference, measured) < sqnr_db(simulated, measured)

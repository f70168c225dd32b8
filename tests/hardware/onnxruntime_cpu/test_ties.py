"""Which layers ONNX Runtime runs in int8 only together, against engines of many combinations."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from separable import images, separable

from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.targets import get_target, targets
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Assignment, Ranges

TIES = (("stem", "depthwise"), ("depthwise", "project"), ("pooled", "left", "right"))
NEVER = {"swished", "added"}
"""A hard swish reads the result of the one, an addition that of the other."""

TARGET = get_target("onnxruntime-cpu")
pytestmark = pytest.mark.skipif(TARGET.unavailable() is not None, reason=str(TARGET.unavailable()))


@dataclass(frozen=True, eq=False)
class Untied:
    """The network as it was captured, with engines of any assignment of its layers."""

    captured: Captured
    ranges: Ranges
    builder: Builder

    def realised(self, assignment: Assignment) -> Assignment:
        with self.builder.temporary(assignment) as engine:
            return engine.realised([layer.name for layer in self.captured.network.layers])

    def int8(self, *groups: str) -> Assignment:
        """These groups in int8, the others in fp32."""
        return {**self.captured.network.uniform("fp32"), **dict.fromkeys(groups, "int8")}


@pytest.fixture(scope="module")
def untied() -> Untied:
    captured, scheme = capture(separable(), (images(8),)), get_scheme(TARGET.scheme_name)
    ranges = calibrate(captured, (images(32),), scheme, [8])
    return Untied(captured, ranges, Builder(captured, ranges, scheme, TARGET))


def test_ties_of_every_target(untied):
    found = {name: target.ties(untied.captured) for name, target in targets().items()}
    assert found == {**dict.fromkeys(found, ()), TARGET.name: TIES}


def test_tied_layers_run_as_asked_in_every_mixture(untied):
    network = untied.captured.network
    tied = untied.captured.with_ties(TIES).network
    assert tied.group_names == ("stem", "expand", "pooled", "swished", "after", "added", "head")
    for chosen in product((True, False), repeat=3):
        groups = {name for name, is_int8 in zip(("stem", "expand", "pooled"), chosen, strict=True) if is_int8}
        asked = {layer.name for layer in tied.layers if tied.group_of(layer.name) in groups}
        realised = untied.realised(untied.int8(*(g for g in network.group_names if g in asked)))
        assert {name for name, precision in realised.items() if precision == "int8"} == asked


def test_no_other_layer_depends_on_its_readers(untied):
    """Alone in int8, layers fall back that are tied to their readers or never run in int8; all others run."""
    alone = {group: untied.realised(untied.int8(group))[group] for group in untied.captured.network.group_names}
    assert {group for group, precision in alone.items() if precision == "fp32"} == {tie[0] for tie in TIES} | NEVER


def test_engine_of_tied_groups_computes_what_the_simulator_scored(untied):
    assignment, inputs = untied.int8("stem", "depthwise", "project", "pooled", "left", "after", "head"), (images(32),)
    simulator = Simulator(untied.captured, untied.ranges, get_scheme(TARGET.scheme_name))
    simulated = simulator.scores([assignment], inputs, lambda out, rows: out)[0]
    measured = engine_outputs(untied.builder.engine(assignment), inputs)
    error = (simulated - measured).square().mean()
    assert 10 * torch.log10(simulated.square().mean() / error) > 40
    assert (untied.captured.graph(*inputs) - measured).square().mean() > error

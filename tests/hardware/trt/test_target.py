"""TensorRT as a target: engines that TensorRT-RTX builds here for named devices, and what is refused."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import qdq_network as net
from conformance import FileOnlyConformance, RunnableConformance
from onnx import TensorProto, helper, save

from hwsmpq.device import nvidia
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.hardware.tensorrt.capability import CAPABILITIES
from hwsmpq.types import Group, Ladder, Layer, Network


class Rtx(FileOnlyConformance):
    def test_names_the_device_that_it_is_not_run_on(self, target):
        assert target.capability in target.claim
        assert target.machine()["compute_capability"] == target.capability

    def test_a_fresh_build_is_the_same(self, build, tmp_path):
        """Nothing is timed while building, so that nothing can differ."""
        kernels = []
        for _ in range(2):
            build(dict.fromkeys(net.NAMES, "int8"))
            kernels.append((tmp_path / "engine" / "kernels.json").read_bytes())
        assert kernels[0] == kernels[1]

    def test_refused_operation_is_named(self, target, tmp_path):
        graph = helper.make_graph(
            [helper.make_node("Mystery", ["x"], ["y"], domain="made.up", name="odd_one")], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("made.up", 1)]
        save(helper.make_model(graph, opset_imports=opsets), tmp_path / "odd.onnx")
        with pytest.raises(HwsmpqError, match=r"odd_one.*Mystery"):
            target.build(tmp_path / "odd.onnx", tmp_path / "engine")


class TestRtxAmpere(Rtx):
    target_name = "tensorrt-rtx:sm80"


class TestRtxAda(Rtx):
    target_name = "tensorrt-rtx:sm89"


class TestRtxBlackwell(Rtx):
    target_name = "tensorrt-rtx:sm120,tf32"

    def test_names_the_device_that_it_is_not_run_on(self, target):
        super().test_names_the_device_that_it_is_not_run_on(target)
        assert target.machine()["tf32"] == "true"


class TestTensorrtElsewhere(FileOnlyConformance):
    """For a named device classic TensorRT is a file that trtexec builds there."""

    target_name = "tensorrt:sm87"


@pytest.mark.gpu
class TestTensorrtHere(RunnableConformance):
    target_name = "tensorrt"


@pytest.mark.gpu
class TestRtxHere(RunnableConformance):
    target_name = "tensorrt-rtx"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorrt-rtx:sm90", "sm90.*sm75, sm80"), ("tensorrt:8.9", "8.9.*sm89"),
        ("tensorrt-rtx:sm80,sm89", "2 devices"),
        ("tensorrt:dla", "not built for dla.*Q/DQ.*GPU"), ("tensorrt:sm87,DLA0", "not built for dla0"),
        ("openvino-cpu:sm80", "has no option"), ("onnx-qdq:sm80", "sm80 is none of its words"),
        ("tensorrt-trx:sm80", "unknown target"),
    ],
)
def test_names_that_mean_nothing(name, said):
    with pytest.raises(HwsmpqError) as error:
        get_target(name)
    assert re.search(said, str(error.value).replace("\n", " "))


def test_without_a_gpu_a_device_has_to_be_named(monkeypatch):
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 0)
    monkeypatch.setattr(nvidia, "describe", dict)
    reason = get_target("tensorrt-rtx").unavailable()
    assert reason and "tensorrt-rtx:sm89" in reason
    assert get_target("tensorrt-rtx:sm89").unavailable() is None


def test_the_gpu_that_is_here_decides(monkeypatch):
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 1)
    monkeypatch.setattr(nvidia, "describe", lambda: {"compute_capability": "8.6", "device": "made up"})
    target = get_target("tensorrt-rtx")
    assert target.unavailable() is None and target.has_latency
    assert "fp8" not in target.native and "int8" in target.native
    monkeypatch.setattr(nvidia, "describe", lambda: {"compute_capability": "9.0"})
    reason = get_target("tensorrt-rtx").unavailable()
    assert reason and "sm90" in reason


def linear(name: str, n_inputs: int) -> Layer:
    return Layer(name, "linear", f"{name}.weight", (8, n_inputs), 0, name, (n_inputs,), (8,), 8, 8, 8)


def network(*layers: Layer) -> Network:
    return Network("0" * 64, layers, tuple(Group(layer.name, (layer.name,)) for layer in layers), (), 0)


def test_what_a_layer_cannot_run_is_substituted_by_the_next_precision_that_it_can():
    wide, narrow = linear("wide", 256), linear("narrow", 100)
    up = Layer("up", "conv_transpose", "up.weight", (8, 8, 2, 2), 1, "up", (8, 4, 4), (8, 8, 8), 8, 8, 8)
    found = substitutes(get_target("tensorrt-rtx:sm80"), network(wide, narrow, up), Ladder.parse("w4a16,int8,fp16"))
    # Four-bit weights come in blocks of 64 or 128 inputs; transposed convolutions have no eight-bit kernels.
    assert found == {"narrow": {"w4a16": "int8"}, "up": {"w4a16": "fp16", "int8": "fp16"}}
    assert substitutes(get_target("tensorrt-rtx:sm80"), network(wide, up), Ladder.parse("w4a16,int8")) == {
        "up": {"w4a16": "fp32", "int8": "fp32"}
    }
    # Turing has no kernel for a matrix product in fp32.
    assert substitutes(get_target("tensorrt-rtx:sm75"), network(wide, up), Ladder.parse("fp16,fp32")) == {
        "wide": {"fp32": "fp16"}
    }


def test_a_precision_that_no_layer_runs_is_refused():
    with pytest.raises(HwsmpqError, match=r"no layer of the network runs in w4a16 on tensorrt-rtx:sm89"):
        substitutes(get_target("tensorrt-rtx:sm89"), network(linear("narrow", 100)), Ladder.parse("w4a16,int8"))


@pytest.mark.parametrize("flavour", CAPABILITIES)
def test_newer_devices_run_what_older_ones_do(flavour):
    natives = [set(get_target(f"{flavour}:{name}").native) for name in CAPABILITIES[flavour]]
    assert all(older <= newer for older, newer in pairwise(natives))
    assert {"fp16", "fp32"} <= natives[0]


def test_tf32_is_an_option_of_the_builder(tmp_path):
    """The kernels of an fp32 product take other tactics with it; the engine says so in its plan."""
    net.write(tmp_path / "m.onnx", dict.fromkeys(net.NAMES, "fp32"))
    plans = {}
    for name in ("tensorrt-rtx:sm89", "tensorrt-rtx:sm89,tf32"):
        get_target(name).build(tmp_path / "m.onnx", tmp_path / name)
        plans[name] = np.frombuffer((tmp_path / name / "engine.plan").read_bytes(), np.uint8)
    first, second = plans.values()
    assert first.shape != second.shape or not np.array_equal(first, second)

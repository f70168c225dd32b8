"""The conformance suite, and what ONNX Runtime makes of the graphs that it is given."""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import qdq_network as net
import torch
from conformance import ASSIGNMENTS, UNIFORM, RunnableConformance
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from hwsmpq.device import cpu
from hwsmpq.device.onnxruntime.session import open_session
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.onnxruntime_cpu import OnnxruntimeCpuTarget
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart.task import task as quickstart_task
from hwsmpq.types import Precision
from tests.margins import answers_agree

N_SAMPLES = 64


def executed(folder):
    """The events of the nodes that one run of the engine in ``folder`` executes."""
    session = open_session(folder / "engine" / "model.onnx", instruments=folder)
    session.run(None, {"x": net.sample(0)})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event["name"].endswith("_kernel_time")]


class OnnxruntimeConformance(RunnableConformance):
    target_name = "onnxruntime-cpu"

    @pytest.fixture
    def expected(self):
        """Of convolutions that are no matrix products, those run in int8 whose results are only read in int8.

        The stem has three channels, and an addition reads its result.
        """

        def expected(asked):
            int8 = {name for name, precision in asked.items() if precision == "int8"} - {"stem.0", "up"}
            if asked["up"] != "int8":
                int8.discard("depthwise")
            return {name: "int8" if name in int8 else "fp32" for name in asked}

        return expected


class TestOnnxruntimeThroughAPipe(OnnxruntimeConformance):
    device = shlex.quote(sys.executable)

    def test_computes_bit_for_bit_what_it_does_here(self, build, tmp_path):
        x = net.sample(0)
        (there,) = build(UNIFORM["int8"]).infer([x])
        (here,) = get_target("onnxruntime-cpu").load(tmp_path / "engine").infer([x])
        assert (there == here).all()


@pytest.mark.slow
class TestOnnxruntimeInABareEnvironment(OnnxruntimeConformance):
    @pytest.fixture(autouse=True)
    def _there(self, bare, monkeypatch):
        monkeypatch.delenv("PYTHONPATH", raising=False)
        monkeypatch.setattr(type(self), "device", bare("onnxruntime"))


class TestOnnxruntimeCpu(OnnxruntimeConformance):
    def test_other_processors_are_called_untested(self, target, monkeypatch):
        assert "untested" not in target.claim
        monkeypatch.setattr(cpu.platform, "machine", lambda: "aarch64")
        assert target.claim.endswith("; untested on aarch64")

    @pytest.mark.parametrize("case", ASSIGNMENTS)
    def test_precision_agrees_with_the_types_that_kernels_read(self, build, tmp_path, case):
        """An independent reading: the profile lists the types that every executed node reads."""
        engine = build(ASSIGNMENTS[case])
        products = [e["args"] for e in executed(tmp_path) if re.search("Conv|Gemm|MatMul", e["args"]["op_name"])]
        in_8_bits = [product for product in products if "uint8" in product["input_type_shape"][0]]
        assert len(products) == len(net.NAMES)
        assert len(in_8_bits) == list(engine.realised(net.NAMES).values()).count("int8")

    def test_computes_in_the_calling_thread(self, build, tmp_path):
        """The clock is the thread's CPU time."""
        build(UNIFORM["int8"])
        assert {event["tid"] for event in executed(tmp_path)} == {threading.get_native_id()}

    def test_refused_operation_is_named(self, target, tmp_path):
        graph = helper.make_graph(
            [helper.make_node("Mystery", ["x"], ["y"], domain="made.up")], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("made.up", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "odd.onnx")
        with pytest.raises(HwsmpqError, match="Mystery"):
            target.build(tmp_path / "odd.onnx", tmp_path / "engine")

    def test_broken_engine_is_an_error(self, build, target, tmp_path):
        build(UNIFORM["int8"])
        (tmp_path / "engine" / "model.onnx").write_bytes(b"broken")
        with pytest.raises(HwsmpqError, match="cannot load"):
            target.load(tmp_path / "engine")

    def test_scheme_follows_the_processor(self, target, monkeypatch):
        monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(cpu, "flags", lambda: {"avx2", "avx512f"})
        assert target.scheme_name == "unsigned_activations_no_vnni"
        assert target.machine()["int8_dot_product"] == "none"
        monkeypatch.setattr(cpu, "flags", lambda: {"avx2", "avx512_vnni"})
        assert target.scheme_name == "unsigned_activations"


def decibels(signal: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(signal.square().mean() / (signal - other).square().mean()))


@pytest.fixture(scope="module")
def trained():
    """A trained network: its task, the captured network, a simulator and a builder of engines."""
    target, task = OnnxruntimeCpuTarget(), quickstart_task()
    captured, scheme = capture(task.model, task.calibration), get_scheme(target.scheme_name)
    ranges = calibrate(captured, task.calibration, scheme, [8], correct=[Precision.parse("int8")])
    return task, captured, Simulator(captured, ranges, scheme), Builder(captured, ranges, scheme, target)


@pytest.mark.parametrize("name", ["int8", "mixed"])
def test_engine_computes_what_the_simulator_scored(trained, name):
    """Sample by sample."""
    task, captured, simulator, builder = trained
    every_second = {g: "int8" if i % 2 else "fp32" for i, g in enumerate(captured.network.group_names)}
    assignment = captured.network.uniform("int8") if name == "int8" else every_second
    inputs = task.evaluation.take(slice(0, N_SAMPLES)).inputs

    simulated = simulator.scores([assignment], inputs, lambda out, rows: out)[0]
    measured = engine_outputs(builder.engine(assignment), inputs)

    print(f"{name}: {decibels(simulated, measured):.0f} dB")
    assert decibels(simulated, measured) > 40
    assert answers_agree(simulated, measured)
    # The quantization itself is visible: an engine that silently stayed in fp32 would not pass.
    assert decibels(captured.graph(*inputs).detach(), measured) < decibels(simulated, measured)


def test_fp32_weights_between_quantizers_stay_what_they_are(tmp_path):
    """Left alone, ONNX Runtime gives a transposed convolution there int8 weights with one scale a tensor."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4, 2, 2)) * np.array([1, 0.1, 0.01, 0.001]).reshape(1, 4, 1, 1)
    constants = {
        "w": weight.astype(np.float32), "b": rng.normal(size=4).astype(np.float32),
        "s": np.float32(0.03), "z": np.uint8(100), "s2": np.float32(0.0005), "z2": np.uint8(0),
        "v.q": rng.integers(-64, 65, (4, 4, 1, 1)).astype(np.int8),
        "v.s": rng.uniform(0.01, 0.02, 4).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("ConvTranspose", ["xd", "w", "b"], ["t"], name="up", strides=[2, 2]),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s2", "z2"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "s2", "z2"], ["rd"]),
        helper.make_node("DequantizeLinear", ["v.q", "v.s"], ["v"], axis=0),
        helper.make_node("Conv", ["rd", "v"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 12, 12])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    OnnxruntimeCpuTarget().build(tmp_path / "m.onnx", tmp_path)
    engine = OnnxruntimeCpuTarget().load(tmp_path)
    x = rng.normal(size=(1, 4, 6, 6)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})

    assert engine.realised(["up", "last"]) == {"up": "fp32", "last": "int8"}
    assert decibels(torch.from_numpy(expected), torch.from_numpy(engine.infer([x])[0])) > 60

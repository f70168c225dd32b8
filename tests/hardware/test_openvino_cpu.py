from __future__ import annotations

import platform
import shlex
import sys
from types import ModuleType, SimpleNamespace

import pytest
import qdq_network as net
from conformance import UNIFORM, RunnableConformance
from onnx import TensorProto, helper, save

from hwsmpq.device.openvino import OpenvinoRuntime
from hwsmpq.device.openvino_bf16 import operations
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target


class TestOpenvinoCpu(RunnableConformance):
    target_name = "openvino-cpu"

    def test_precision_agrees_with_the_kernel_names(self, build):
        """An independent reading: int8 kernels are called ..._I8."""
        asked = {name: ("int8", "fp32")[i % 2] for i, name in enumerate(net.NAMES)}
        engine = build(asked)
        kernels = {
            origin: node.rt_info["primitiveType"].astype(str)
            for node in engine._compiled.get_runtime_model().get_ops()
            if node.rt_info["layerType"].astype(str) in ("Convolution", "Deconvolution", "FullyConnected")
            for origin in node.rt_info["originalLayersNames"].astype(str).split(",")
        }
        # Chains of products may be one kernel without such a name.
        named = {name: kernels.get(f"{name}/layer", kernels.get(f"{name}/layer0")) for name in net.NAMES}
        assert sum(kernel is not None for kernel in named.values()) >= 7
        for name, precision in engine.realised(net.NAMES).items():
            kernel = named[name]
            assert kernel is None or kernel.upper().endswith("_I8") == (precision == "int8"), (name, kernel)

    def test_loads_anew_compile_nothing_again(self, build, monkeypatch):
        engine = build(UNIFORM["int8"])
        monkeypatch.setattr(engine, "_compile", None)
        engine.reload()
        engine.reload()
        assert sum(engine.layer_ms(net.NAMES, [net.sample(0)], n_repeats=3).values()) > 0

    def test_audit_sees_a_layer_that_the_runtime_keeps_in_fp32(self, build):
        """The plugin has no int8 transposed convolution for inputs with a zero point."""
        realised = build(UNIFORM["int8"], zero_points={"r5": 100}).realised(net.NAMES)
        assert realised == {**UNIFORM["int8"], "up": "fp32"}

    def test_other_processors_are_called_untested(self, target, monkeypatch):
        assert "untested" not in target.claim
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        assert target.claim.endswith("; untested on aarch64")

    def test_refused_operation_is_named(self, target, tmp_path):
        graph = helper.make_graph(
            [helper.make_node("Mystery", ["x"], ["y"], domain="made.up")], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("made.up", 1)]
        save(helper.make_model(graph, opset_imports=opsets), tmp_path / "odd.onnx")
        with pytest.raises(HwsmpqError, match="Mystery"):
            target.build(tmp_path / "odd.onnx", tmp_path / "engine")


class TestOpenvinoThroughAPipe(RunnableConformance):
    target_name, device = "openvino-cpu", shlex.quote(sys.executable)

    def test_computes_bit_for_bit_what_it_does_here(self, build, tmp_path):
        x = net.sample(0)
        (there,) = build(UNIFORM["int8"]).infer([x])
        (here,) = get_target("openvino-cpu").load(tmp_path / "engine").infer([x])
        assert (there == here).all()


@pytest.mark.slow
class TestOpenvinoInABareEnvironment(RunnableConformance):
    target_name = "openvino-cpu"

    @pytest.fixture(autouse=True)
    def _there(self, bare, monkeypatch):
        monkeypatch.delenv("PYTHONPATH", raising=False)
        monkeypatch.setattr(type(self), "device", bare("openvino"))


def test_starts_where_operations_lie_elsewhere(monkeypatch):
    """In OpenVINO 2024 they are in ``openvino.runtime``: peak memory of its engines could not be measured."""
    openvino = pytest.importorskip("openvino")
    older = ModuleType("openvino")
    older.runtime = SimpleNamespace(opset13=operations(openvino))
    for name in ("Core", "Model", "Type", "__spec__"):
        setattr(older, name, getattr(openvino, name))
    monkeypatch.setitem(sys.modules, "openvino", older)
    OpenvinoRuntime().start()

from __future__ import annotations

import numpy as np
import onnx
import pytest
import qdq_network as net
from conformance import FileOnlyConformance
from onnx import helper, numpy_helper

from hwsmpq.hardware.onnx_qdq import OnnxQdqEngine


class TestOnnxQdq(FileOnlyConformance):
    target_name = "onnx-qdq"


@pytest.fixture
def model(tmp_path) -> onnx.ModelProto:
    net.write(tmp_path / "m.onnx", {**dict.fromkeys(net.NAMES, "int8"), "left": "fp32"})
    return onnx.load(tmp_path / "m.onnx")


def state(model: onnx.ModelProto, layer: str, precision: str) -> None:
    node = next(n for n in model.graph.node if n.name == layer)
    del node.metadata_props[:]
    node.metadata_props.add(key="hwsmpq.precision", value=precision)


def replace(model: onnx.ModelProto, name: str, change) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def clip_before(model: onnx.ModelProto, tensor: str, n_bits: int) -> None:
    """Clip a tensor to the first 2**n_bits steps of its grid."""
    low = np.float32(-0.03 * net.zero_point(tensor))
    for end, value in (("low", low), ("high", low + np.float32(0.03 * (2**n_bits - 1)))):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), end))
    quantize = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor)
    quantize.input[0] = "clipped"
    model.graph.node.append(helper.make_node("Clip", [tensor, "low", "high"], ["clipped"]))


@pytest.mark.parametrize("stated,found", [("w4a8", "w4a8"), ("w6a8", "w6a8"), ("w3a8", "w4a8"), ("fp32", "w4a8")])
def test_weight_bits_are_those_stated_but_never_fewer_than_the_values_need(model, stated, found):
    replace(model, "block.conv1.weight.q", lambda q: np.clip(q, -7, 7))
    state(model, "block.conv1", stated)
    assert OnnxQdqEngine(model).realised(["block.conv1"]) == {"block.conv1": found}


@pytest.mark.parametrize("n_bits", range(2, 9))
def test_activation_bits_follow_the_clip(model, n_bits):
    clip_before(model, "x", n_bits)
    expected = "int8" if n_bits == 8 else f"w8a{n_bits}"
    assert OnnxQdqEngine(model).realised(["stem.0"]) == {"stem.0": expected}


def test_stated_activation_bits_without_a_clip_are_not_believed(model):
    state(model, "stem.0", "w8a4")
    assert OnnxQdqEngine(model).realised(["stem.0"]) == {"stem.0": "int8"}


def test_a_statement_without_quantization_is_not_believed(model):
    state(model, "left", "int8")
    assert OnnxQdqEngine(model).realised(["left"]) == {"left": "fp32"}

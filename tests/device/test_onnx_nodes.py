"""The reader of ONNX files that devices have, against the ``onnx`` package."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwsmpq.device.onnxruntime.nodes import Node, read_nodes
from hwsmpq.errors import HwsmpqError


def random_model(seed: int) -> onnx.ModelProto:
    """Nodes with all that they may carry, nested graphs and weights between them."""
    rng = np.random.default_rng(seed)
    tensors = ["x", "", "été/1", "a" * 300]
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["inner"], name="inner")], "inner", [], [])
    nodes = []
    for i in range(rng.integers(1, 40)):
        attributes = [{}, {"axis": -1, "alpha": 0.5}, {"perm": [0, 2, 1], "text": "node"}, {"body": inner}]
        nodes.append(helper.make_node(
            str(rng.choice(["Conv", "MatMul", "Loop"])), [str(x) for x in rng.choice(tensors, rng.integers(0, 4))],
            [f"y{i}.{k}" for k in range(rng.integers(1, 3))], name=f"layer.{i}" if rng.random() < 0.8 else None,
            doc_string="told" if rng.random() < 0.5 else None, domain=str(rng.choice(["", "com.microsoft"])),
            **attributes[rng.integers(len(attributes))],
        ))
    weight = numpy_helper.from_array(rng.normal(size=(50, 9)).astype(np.float32), "layer.0/weight")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"key": "value"})
    return model


@pytest.mark.parametrize("seed", range(10))
def test_it_reads_what_onnx_reads(seed, tmp_path):
    model = random_model(seed)
    onnx.save(model, tmp_path / "m.onnx")
    assert read_nodes(tmp_path / "m.onnx") == [
        Node(node.name, node.op_type, list(node.input), list(node.output)) for node in model.graph.node
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_that_is_cut_is_refused(seed, tmp_path):
    model = random_model(seed)
    whole, graph = model.SerializeToString(), model.graph.SerializeToString()
    begin = whole.index(graph)
    for n in np.random.default_rng(seed).integers(begin, begin + len(graph), 30):
        (tmp_path / "m.onnx").write_bytes(whole[:n])
        with pytest.raises(HwsmpqError, match="not a readable ONNX file"):
            read_nodes(tmp_path / "m.onnx")


@pytest.mark.parametrize("data", [b"not a model", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f"])
def test_garbage_is_refused(data, tmp_path):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(HwsmpqError, match="not a readable ONNX file"):
        read_nodes(tmp_path / "m.onnx")

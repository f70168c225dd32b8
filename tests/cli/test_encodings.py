"""AIMET's encodings of a plan: applied as their format says, they give what the Q/DQ file gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_task
import torch
from conftest import Finished
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from cli.console import Cli
from hwsmpq.engine.encodings import ENCODINGS_FILE, MODEL_FILE, write_encodings
from hwsmpq.folder import Folder
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.qdq import write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import Manifest, Precision


def applied(folder: Path) -> onnx.ModelProto:
    """The network with (clip(round(x / scale) - offset, 0, 2^bw - 1) + offset) * scale in place of every encoded
    tensor, in plain operations on floats."""
    model, found = onnx.load(folder / MODEL_FILE), json.loads((folder / ENCODINGS_FILE).read_text())
    assert found["version"] == "1.0.0"
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for one in found["param_encodings"]:
        weight = numpy_helper.to_array(constants[one["name"]])
        assert one["enc_type"] == "PER_CHANNEL" and one["dtype"] == "INT"
        scale = np.array(one["scale"], np.float32).reshape(-1, *[1] * (weight.ndim - 1))
        offset = np.array(one["offset"]).reshape(scale.shape)
        q = np.clip(np.round(weight / scale) - offset, 0, 2 ** one["bw"] - 1)
        constants[one["name"]].CopyFrom(numpy_helper.from_array(((q + offset) * scale).astype(np.float32), one["name"]))
    for one in found["activation_encodings"]:
        name, (scale,), (offset,) = one["name"], one["scale"], one["offset"]
        assert one["enc_type"] == "PER_TENSOR"
        ends = {"scale": scale, "low": float(offset), "high": float(2 ** one["bw"] - 1 + offset)}
        graph.initializer.extend(
            numpy_helper.from_array(np.float32(value), f"{name}/{end}") for end, value in ends.items()
        )
        place = next((i + 1 for i, node in enumerate(graph.node) if name in node.output), 0)
        for node in graph.node:
            node.input[:] = [f"{name}/real" if x == name else x for x in node.input]
        steps = [("Div", [name, "scale"], "ratio"), ("Round", ["ratio"], "whole"),
                 ("Clip", ["whole", "low", "high"], "level"), ("Mul", ["level", "scale"], "real")]
        for i, (kind, inputs, output) in enumerate(steps):
            full = [x if x == name else f"{name}/{x}" for x in inputs]
            graph.node.insert(place + i, helper.make_node(kind, full, [f"{name}/{output}"]))
    return model


def outputs(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: row[None]})[0] for row in x])


class Branches(nn.Module):
    """A tensor that three layers read, and an addition; a linear layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, k, padding=k // 2) for k in (1, 3, 5))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = x + self.a(x) + self.b(x) + self.c(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("target, precisions", [
    ("onnx-qdq", ("int8", "w4a4", "fp32")), ("onnx-qdq", ("fp32", "w8a6", "w4a8")),
    ("onnx-qdq:symmetric", ("w4a8", "int8", "w4a4")), ("onnxruntime-cpu", ("fp32", "int8", "int8")),
])
def test_encodings_say_what_the_file_computes(target: str, precisions: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (tiny_task.images(32, seed=1),)
    captured, scheme = capture(Branches().eval(), inputs), get_scheme(get_target(target).scheme_name)
    ranges = calibrate(captured, inputs, scheme, [4, 6, 8], correct=[Precision.parse("int8")])
    network, qdq = captured.network, tmp_path / "qdq.onnx"
    assignment = dict(zip(network.group_names, precisions, strict=True))
    write_qdq(export_onnx(captured), captured, assignment, ranges, scheme, qdq, get_target(target).form)
    runs = {layer.name: Precision.parse(assignment[network.group_of(layer.name)]) for layer in network.layers}
    write_encodings(qdq, runs, {layer.name: layer.weight_name for layer in network.layers}, tmp_path)
    plain, x = onnx.load(tmp_path / MODEL_FILE), inputs[0].numpy()
    onnx.checker.check_model(plain)
    assert not [node for node in plain.graph.node if "Quantize" in node.op_type]
    expected, found = outputs(str(qdq), x), outputs(applied(tmp_path), x)
    unquantized = np.abs(outputs(plain, x) - expected).max()
    assert 20 * np.abs(found - expected).max() < unquantized, "the encodings of activations make the difference"


def test_the_command_writes_them_of_a_plan(qdq_run: Finished, tmp_path: Path, cli: Cli) -> None:
    result = cli("export", tmp_path / "aimet", "--aimet", "-o", qdq_run.folder)
    assert result.code == 0 and set(result.out.split()) == {
        str(tmp_path / "aimet" / name) for name in (MODEL_FILE, ENCODINGS_FILE)
    }
    found = json.loads((tmp_path / "aimet" / ENCODINGS_FILE).read_text())
    runs = Folder(qdq_run.folder).read(Manifest).assignment.values()
    n_quantized = sum(name != "fp32" for name in runs)
    assert len(found["param_encodings"]) == len(found["activation_encodings"]) == n_quantized > 0
    cli("export", tmp_path / "aimet", "--aimet", "-o", qdq_run.folder).assert_one_message("not an empty folder")

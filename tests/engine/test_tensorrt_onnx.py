"""The Q/DQ file for TensorRT in other runtimes: they compute what the simulator scored, on a trained network.

ONNX Runtime and OpenVINO stand in for TensorRT, which cannot run here. ONNX Runtime takes the nodes as they are
(without its optimiser, which rewrites Q/DQ nodes); OpenVINO brings kernels of its own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from hwsmpq.device import cpu
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.task import Task
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.qdq import write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart.task import task as quickstart_task
from hwsmpq.types import Assignment, OnnxForm, Precision, Ranges
from tests.margins import answers_agree

N_SAMPLES = 64
SCHEME = get_scheme("tensorrt")
# Least SQNR in dB on the median sample: a single value that rounds to the next level costs a sample its exactness.
# What is left elsewhere is the order of float sums, or the rounding of sums in 16 bits (which quantizers enlarge).
LEAST = {"int8": 100, "fp8": 100, "fp16": 55, "w8a16": 55, "w4a16": 55, "mixed": 40}


@cache
def prepared() -> tuple[Task, Captured, Ranges, bytes]:
    task = quickstart_task()
    captured = capture(task.model, task.calibration)
    ranges = calibrate(captured, task.calibration, SCHEME, [8], correct=[Precision.parse("int8")])
    return task, captured, ranges, export_onnx(captured)


def assignment_of(name: str, captured: Captured) -> Assignment:
    network = captured.network
    if name == "mixed":
        return {g: ("int8", "fp16", "fp8", "fp32")[i % 4] for i, g in enumerate(network.group_names)}
    if name == "w4a16":  # matrix products with whole blocks only
        wide = {layer.name for layer in network.layers if layer.block_size}
        return {g: "w4a16" if g in wide else "fp16" for g in network.group_names}
    return network.uniform(name)


def in_onnxruntime(path: Path, inputs: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return torch.from_numpy(np.concatenate([session.run(None, {name: x[None].numpy()})[0] for x in inputs]))


def in_openvino(path: Path, inputs: Tensor) -> Tensor:
    import openvino

    model = openvino.convert_model(path)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows = [torch.from_numpy(np.array(compiled([x[None].numpy()])[0])) for x in inputs]
    return torch.cat(rows)


def decibels(reference: Tensor, other: Tensor) -> Tensor:
    """SQNR of every sample, 200 where equal."""
    error = (reference - other).square().sum(1).clamp_min(1e-30)
    return (10 * torch.log10(reference.square().sum(1) / error)).clamp_max(200)


@pytest.mark.parametrize("name", LEAST)
def test_onnxruntime_computes_what_was_simulated(name: str, tmp_path: Path) -> None:
    task, captured, ranges, fp32 = prepared()
    inputs, assignment = task.evaluation.take(slice(0, N_SAMPLES)).inputs, assignment_of(name, captured)
    write_qdq(fp32, captured, assignment, ranges, SCHEME, tmp_path / "m.onnx")
    simulated = Simulator(captured, ranges, SCHEME).scores([assignment], inputs, lambda out, rows: out)[0]
    found = in_onnxruntime(tmp_path / "m.onnx", inputs[0])
    quality = decibels(simulated, found)
    print(f"{name}: ONNX Runtime {quality.median():.0f} dB in the median, {quality.min():.0f} at least")
    assert quality.median() > LEAST[name] and quality.min() > 25
    assert answers_agree(simulated, found)
    reference = captured.graph(*inputs).detach()
    assert decibels(reference, simulated).median() < quality.median(), "the precision itself is seen"


@pytest.mark.parametrize("name", ["int8", "fp16", "mixed"])
def test_openvino_computes_what_was_simulated(name: str, tmp_path: Path) -> None:
    """With full-range weights, which its kernels multiply exactly only on processors with a dot product."""
    if name == "int8" and cpu.int8_saturates():
        pytest.skip("int8 products of full-range weights saturate on this processor, which has no VNNI")
    task, captured, ranges, fp32 = prepared()
    inputs, assignment = task.evaluation.take(slice(0, N_SAMPLES)).inputs, assignment_of(name, captured)
    if name == "mixed":  # eight-bit floats are OpenVINO's own affair
        assignment = {g: "int8" if p == "fp8" else p for g, p in assignment.items()}
    write_qdq(fp32, captured, assignment, ranges, SCHEME, tmp_path / "m.onnx")
    simulated = Simulator(captured, ranges, SCHEME).scores([assignment], inputs, lambda out, rows: out)[0]
    found = in_openvino(tmp_path / "m.onnx", inputs[0])
    quality = decibels(simulated, found)
    print(f"{name}: OpenVINO {quality.median():.0f} dB in the median, {quality.min():.0f} at least")
    assert quality.median() > 28
    assert (simulated.argmax(1) == found.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize(("clip", "written"), [(torch.nn.ReLU6(), "Relu"), (torch.nn.Hardtanh(-1, 6), "Clip")])
def test_an_upper_end_that_the_quantizer_keeps_is_left_to_it(
    clip: torch.nn.Module, written: str, tmp_path: Path
) -> None:
    """For TensorRT 8, which would clip the integers; readers in floats keep theirs."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), clip, torch.nn.Conv2d(8, 4, 3), torch.nn.Conv2d(4, 4, 3)]
    net = torch.nn.Sequential(*layers).eval()
    net[0].weight.data *= 10
    x = torch.randn(16, 3, 8, 8)
    captured = capture(net, (x,))
    ranges, assignment = calibrate(captured, (x,), SCHEME, [8]), captured.network.uniform("int8") | {"0": "fp32"}
    form = OnnxForm(opset=16, strongly_typed=False)
    write_qdq(export_onnx(captured), captured, assignment, ranges, SCHEME, tmp_path / "m.onnx", form)
    graph = onnx.load(tmp_path / "m.onnx").graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    assert producers[next(node for node in graph.node if node.name == "2.in.quantize").input[0]] == written
    simulated = Simulator(captured, ranges, SCHEME).scores([assignment], (x,), lambda out, rows: out)[0]
    found = in_onnxruntime(tmp_path / "m.onnx", x)
    assert decibels(simulated.flatten(1), found.flatten(1)).median() > LEAST["int8"]

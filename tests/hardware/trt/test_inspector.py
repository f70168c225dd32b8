from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hwsmpq.device.tensorrt.attribution import layer_ms
from hwsmpq.device.tensorrt.inspector import parse_inspector
from hwsmpq.device.tensorrt.kernels import Kernel, TensorInfo, computing, parse_listing, realised
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.quickstart.task import task as quickstart

SAMPLES = Path(__file__).with_name("samples")
DTYPES = {"Float", "Half", "Int8", "Int4", "Int32", "Int64", "UInt8", "UInt64"}
# sample -> number of kernels, and layer -> (precision, kernel that computes it)
RECORDED = {
    "trt8_int8": (7, {
        "Conv_9": ("int8", "conv1.weight + QuantizeLinear_7 + Conv_9 + MaxPool_12"),
        "Conv_34": ("int8", "layer1.0.conv2.weight + QuantizeLinear_32 + Conv_34 + Add_42 + Relu_43"),
    }),
    "trt8_fp16": (7, {"Conv_0": ("fp16", "Conv_0 + Relu_1"), "Conv_5": ("fp16", "Conv_5 + Add_6 + Relu_7")}),
    "trt10": (9, {
        "node_conv2d": ("fp32", "node_conv2d + node_relu"),
        "node_linear": ("fp32", "node_linear_myl4_0"),
        "node_linear_1": ("fp32", "__myl_MulSum_myl4_1"),
    }),
    "trt11": (12, {
        "node_conv2d_1": ("fp32", "node_conv2d_1_myl0_4"),
        "node_linear": ("fp32", "node_linear_myl0_7"),
        "node_linear_1": ("fp32", "__myl_MulSum_myl0_8"),
    }),
}


def sample(name: str) -> tuple[Kernel, ...]:
    return parse_inspector((SAMPLES / f"{name}.layers.json").read_text())


def document(**entry: object) -> str:
    tensors = {"Inputs": [], "Outputs": []}
    return json.dumps({"Layers": [{"Name": "k", "LayerType": "gemm", "Metadata": "", **tensors, **entry}]})


@pytest.mark.parametrize("name", RECORDED)
def test_recorded(name):
    n_kernels, layers = RECORDED[name]
    kernels = sample(name)
    assert len(kernels) == n_kernels
    assert {t.dtype for k in kernels for t in (*k.inputs, *k.constants, *k.outputs)} <= DTYPES
    for layer, expected in layers.items():
        assert (realised(kernels, layer), computing(kernels, layer).name) == expected


@pytest.mark.parametrize("name", ["int8", "mixed"])
def test_a_measured_engine_runs_as_it_was_planned(name):
    """The quickstart's network on TensorRT 8.5.3: groups in int8, or in int8, fp16, fp32 in turn."""
    network = capture(quickstart().model, (quickstart().calibration[0][:2],)).network
    turns = ("int8", "fp16", "fp32") if name == "mixed" else ("int8",)
    asked = {
        layer: turns[i % len(turns)] for i, group in enumerate(network.groups) for layer in group.layers
    }
    kernels = sample(f"trt85_{name}")
    assert {layer: realised(kernels, layer) for layer in asked} == asked


def test_times_of_a_measured_engine_add_up():
    """All that the runtime reports is attributed, and every layer takes some of it."""
    network = capture(quickstart().model, (quickstart().calibration[0][:2],)).network
    layers = [layer.name for layer in network.layers]
    _, *entries = json.loads((SAMPLES / "trt85_int8.profile.json").read_text())
    times = {entry["name"]: entry["averageMs"] for entry in entries}
    found = layer_ms(times, sample("trt85_int8"), layers)
    assert sum(found.values()) == pytest.approx(sum(times.values()))
    assert all(found[layer] > 0 for layer in layers)


def test_weights_and_origins_of_recorded_kernels():
    # Counted weights: 64 x 3 x 7 x 7 and 1000 x 512, with a row an output channel.
    int8 = sample("trt8_int8")
    assert int8[1].constants == (TensorInfo((64, 147), "Int8"), TensorInfo((64, 1), "Float"))
    assert int8[-1].constants == (TensorInfo((1000, 512), "Int8"), TensorInfo((1000, 1), "Float"))
    assert {"fc.weight", "Gemm_311"} <= set(int8[-1].layers)
    assert [k.layers for k in sample("trt8_fp16") if k.name.startswith("Reformatting")] == [(), (), ()]
    linear = next(k for k in sample("trt11") if k.kind == "gemm")
    assert linear.layers == ("node_linear", "node_relu_2")
    assert linear.constants[0] == TensorInfo((3136, 1024), "Float")
    assert next(k for k in sample("trt10") if k.kind == "gemm").constants == ()


def test_agrees_with_the_listing_of_the_same_engine():
    """Both were written by one run of trtexec 10.14, whose listing leaves counted weights out."""
    listed = parse_listing((SAMPLES / "trt10.log").read_text())
    assert listed == tuple(
        Kernel(k.name, k.kind, k.inputs, (), k.outputs, k.layers) for k in sample("trt10")
    )


def test_agrees_with_the_listing_of_tensorrt_rtx():
    text = (SAMPLES / "rtx.listing.txt").read_text()
    kernels = parse_inspector(json_of_listing(text))
    assert kernels == parse_listing(text)
    assert len(kernels) == 8
    found = {layer: realised(kernels, layer) for layer in ("conv1", "conv2", "fc2")}
    assert found == {"conv1": "int8", "conv2": "fp32", "fc2": "w4a16"}


def json_of_listing(text: str) -> str:
    """A listing of 11.x or TensorRT-RTX as JSON: the same keys, with strings and objects in quotes and braces."""

    def fields(line: str) -> dict[str, object]:
        # A comma ends a value where a key follows it.
        pairs = re.findall(r"(\w+): (\[ \{.*?\}\]|\[.*?\]|.*?)(?=, \w+: |$)", line)
        return {key: value_of(value) for key, value in pairs}

    def value_of(value: str) -> object:
        if value.startswith("[ {"):
            return [fields(tensor.strip(" {}")) for tensor in re.split(r"\}, \{", value[1:-1])]
        is_list = re.fullmatch(r"\[[\d, ]*\]", value)
        return json.loads(value) if is_list else value

    return json.dumps({"Layers": [fields(line) for line in text.splitlines() if line.startswith("Name: ")]})


@pytest.mark.parametrize("text,dtype", [
    ("Row major linear FP32", "Float"),
    ("Row major linear FP16 format", "Half"),
    ("Row major Int8 format", "Int8"),
    ("Row major linear Int32", "Int32"),
    ("Row major linear BOOL", "Bool"),
    ("Four wide channel vectorized row major Int8 format", "Int8"),
    ("Thirty-two wide channel vectorized row major Int8 format.", "Int8"),
    ("Two wide channel vectorized row major FP16 format", "Half"),
    ("Channel major FP32 format where channel % 4 == 0", "Float"),
    ("Channel major INT8 format where channel == 4 and column stride % 32 == 0", "Int8"),
    ("BFloat16", "BFloat16"),
    ("FP8", "FP8"),
    ("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
])
def test_types_in_sentences(text, dtype):
    (kernel,) = parse_inspector(document(Inputs=[{"Name": "x", "Dimensions": [1, 8], "Format/Datatype": text}]))
    assert kernel.inputs == (TensorInfo((1, 8), dtype),)


@pytest.mark.parametrize("name,layers", [
    ("conv1 + relu", ("conv1", "relu")),
    ("PWN(PWN(act/Sigmoid), act/Mul)", ("act/Sigmoid", "act/Mul")),
    ("conv1 + PWN(clip1) || conv2 + PWN(clip2)", ("conv1", "clip1", "conv2", "clip2")),
    ("{ForeignNode[fc1...fc9]}", ()),
    ("Reformatting CopyNode for Input Tensor 0 to conv1.weight + conv1", ()),
])
def test_origins_without_metadata(name, layers):
    (kernel,) = parse_inspector(json.dumps({"Layers": [{"Name": name, "LayerType": "Any"}]}))
    assert kernel.layers == layers


def test_metadata_goes_before_the_name():
    (kernel,) = parse_inspector(document(Name="conv1 + relu", Metadata=""))
    assert kernel.layers == ()
    (kernel,) = parse_inspector(document(Name="k", Metadata="[ONNX Layer: a]\x1e[ONNX Layer: b.c]\x1f[ONNX Layer: a]"))
    assert kernel.layers == ("a", "b.c")


@pytest.mark.parametrize("text,match", [
    ('{"Layers": ["Conv__25 + Relu"\n,"MaxPool2d"\n],\n"Bindings": ["x:0"\n,"z:0"\n]}', "profilingVerbosity=detailed"),
    (json.dumps({"Layers": [{"Name": "__myl_Move_myl0_0"}]}), "profilingVerbosity=detailed"),
    ("Layers:\nName: x", "not JSON"),
    ('{"Layers": []}', "no list of"),
    ("[]", "no list of"),
    (document(Inputs=[{"Name": "x", "Dimensions": [1]}]), r"kernel 'k'[\s\S]*Format/Datatype"),
    (document(Inputs=[{"Name": "x", "Datatype": "Half"}]), r"kernel 'k'[\s\S]*Dimensions"),
    (document(Inputs="x"), "kernel 'k'"),
])
def test_other_texts_are_refused(text, match):
    with pytest.raises(HwsmpqError, match=match):
        parse_inspector(text)

"""The Q/DQ writer: an assignment as an ONNX model with explicit quantization on the inputs of every layer."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch

from hwsmpq.artifacts import write_bytes
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.fold import get_tensor
from hwsmpq.quantize.scheme import Grid, Scheme
from hwsmpq.types import Assignment, Layer, Precision, Ranges

LAYER_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
PRECISION_KEY = "hwsmpq.precision"


def export_onnx(captured: Captured, batch_size: int = 1) -> bytes:
    """The captured network in full precision as ONNX (opset 20), every layer's node named by the layer.

    Raises:
        HwsmpqError: an operation has no ONNX form (names it), or a layer was not found again in the export.
    """
    rows = tuple(x.expand(batch_size, *x.shape[1:]).contiguous() for x in captured.example)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                captured.graph, rows, dynamo=True, optimize=False, opset_version=20, verbose=False
            )
    except Exception as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise HwsmpqError(
            f"the network cannot be written as ONNX: {cause[0][:300] if cause else type(error).__name__}",
            "an operation has no ONNX form", "replace the operation named above",
        ) from error
    assert program is not None
    model = program.model
    _name_layers(model, captured)
    return ir.serde.serialize_model(model).SerializeToString()


def _name_layers(model: ir.Model, captured: Captured) -> None:
    """Find each layer by its weight initializer (module metadata does not survive folding) and name its node."""
    unnamed = {layer.name: layer for layer in captured.network.layers}
    for index, node in enumerate(model.graph):
        if node.op_type in LAYER_OPS:
            weight = _initializer_behind(node.inputs[1])
            match = next((n for n, la in unnamed.items() if weight is not None and la.weight_name == weight.name), None)
            if match is not None:
                node.name = match
                del unnamed[match]
                continue
        node.name = f"op_{index}_{node.op_type}"
    if unnamed:
        raise HwsmpqError(
            f"layer {next(iter(unnamed))!r} was not found in the exported ONNX",
            "its weight is not read by a Conv, ConvTranspose, Gemm or MatMul",
            "report the model: this layer type is not supported yet",
        )


def _initializer_behind(value: ir.Value | None) -> ir.Value | None:
    while value is not None and not value.is_initializer():
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.op_type == "Transpose" else None
    return value


def write_qdq(
    fp32_onnx: bytes,
    captured: Captured,
    assignment: Assignment,
    ranges: Ranges,
    scheme: Scheme,
    path: Path,
) -> None:
    """Write the network under an assignment.

    Activations: Clip to the grid (below 8 bits), QuantizeLinear, DequantizeLinear, once a tensor and precision.
    Weights: int8 initializer with one scale a channel behind DequantizeLinear; b-bit weights use b-bit levels.
    Each layer's node carries its precision as metadata.
    """
    model = ir.serde.deserialize_model(onnx.load_model_from_string(fp32_onnx))
    nodes = {node.name: node for node in model.graph}
    activations: dict[tuple[str, str], ir.Value] = {}
    weights: dict[str, ir.Value] = {}
    for layer in captured.network.layers:
        precision = Precision.parse(assignment[captured.network.group_of(layer.name)])
        node = nodes[layer.name]
        node.metadata_props[PRECISION_KEY] = precision.name
        if precision.is_float:
            if precision.name != "fp32":
                raise HwsmpqError(
                    f"{precision.name} cannot be written as a Q/DQ model", fix="use fp32 and integer precisions"
                )
            continue
        source = node.inputs[0]
        assert source is not None
        key = (str(source.name), precision.name)
        if key not in activations:
            bits = precision.activation_bits
            grid = scheme.activation_grid(ranges.layers[layer.name].clip[bits], bits)
            activations[key] = _activation_qdq(model.graph, node, source, grid, f"{layer.name}.in", scheme)
        node.replace_input_with(0, activations[key])
        if layer.weight_name not in weights:
            weights[layer.weight_name] = _weight_dq(model.graph, captured, layer, precision, scheme)
        _replace_weight(node, weights[layer.weight_name])
    _drop_unused(model.graph)
    write_bytes(path, ir.serde.serialize_model(model).SerializeToString())


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(
        name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
    )
    graph.register_initializer(value)
    return value


def _activation_qdq(graph: ir.Graph, before: ir.Node, x: ir.Value, grid: Grid, name: str, scheme: Scheme) -> ir.Value:
    dtype = np.int8 if scheme.signed_activations else np.uint8
    scale = _constant(graph, f"{name}.scale", np.asarray(grid.scale, np.float32))
    zero = _constant(graph, f"{name}.zero_point", np.asarray(grid.zero_point, dtype))
    new: list[ir.Node] = []
    if (grid.low, grid.high) != (np.iinfo(dtype).min, np.iinfo(dtype).max):
        ends = [
            _constant(graph, f"{name}.{end}", np.asarray((q - grid.zero_point) * grid.scale, np.float32))
            for end, q in (("low", grid.low), ("high", grid.high))
        ]
        new.append(ir.node("Clip", [x, *ends], name=f"{name}.clip"))
        x = new[-1].outputs[0]
    new.append(ir.node("QuantizeLinear", [x, scale, zero], name=f"{name}.quantize"))
    new.append(ir.node("DequantizeLinear", [new[-1].outputs[0], scale, zero], name=f"{name}.dequantize"))
    for node in new:
        node.outputs[0].name = f"{node.name}.out"
    graph.insert_before(before, new)
    return new[-1].outputs[0]


def _weight_dq(graph: ir.Graph, captured: Captured, layer: Layer, precision: Precision, scheme: Scheme) -> ir.Value:
    weight = get_tensor(captured.graph, layer.weight_name).detach()
    axis, bits = layer.channel_axis, precision.weight_bits
    scales = scheme.weight_scales(weight, bits, axis, layer.is_depthwise)
    integers = scheme.weight_integers(weight, scales, bits, axis, layer.is_depthwise).to(torch.int8)
    name = layer.weight_name
    inputs = [
        _constant(graph, f"{name}.int8", integers.numpy()),
        _constant(graph, f"{name}.scale", scales.numpy().astype(np.float32)),
        _constant(graph, f"{name}.zero_point", np.zeros(len(scales), np.int8)),
    ]
    node = ir.node("DequantizeLinear", inputs, {"axis": axis}, name=f"{name}.dequantize")
    node.outputs[0].name = f"{node.name}.out"
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def _replace_weight(layer: ir.Node, dequantized: ir.Value) -> None:
    """Put the dequantized weight where the initializer was: at the layer, or under the Transpose before it."""
    reader, index = layer, 1
    while not _is_weight_end(reader.inputs[index]):
        value = reader.inputs[index]
        assert value is not None
        producer = value.producer()
        assert producer is not None
        reader, index = producer, 0
    reader.replace_input_with(index, dequantized)


def _is_weight_end(value: ir.Value | None) -> bool:
    assert value is not None
    producer = value.producer()
    return producer is None or producer.op_type != "Transpose"


def _drop_unused(graph: ir.Graph) -> None:
    for name in [n for n, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]

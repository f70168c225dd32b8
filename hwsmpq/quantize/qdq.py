"""The Q/DQ writer: an assignment as an ONNX model with explicit quantization on the inputs of every layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from hwsmpq.model.capture import Captured
from hwsmpq.quantize.layer import HALF_TYPES, Operand, QuantizedLayer
from hwsmpq.quantize.lowering import lower
from hwsmpq.quantize.onnx_export import put_weights_back, save_onnx
from hwsmpq.quantize.residual import residuals
from hwsmpq.quantize.saturation import without_upper_end
from hwsmpq.quantize.scheme import FP8, Grid, Scheme
from hwsmpq.types import PRECISION_KEY, PRECISIONS, SMOOTH, Assignment, Layer, OnnxForm, Ranges

READS = (".in", ".in2")
"""Behind the name of a layer: what it reads, and the second operand of a product."""
FLOATS = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def write_qdq(
    fp32_onnx: bytes,
    captured: Captured,
    assignment: Assignment,
    ranges: Ranges,
    scheme: Scheme,
    path: Path,
    form: OnnxForm | None = None,
) -> None:
    """Write the network under an assignment, in the form that its reader takes (see :class:`OnnxForm`).

    Activations, once a tensor and precision: Mul (where they are smoothed), then in integers or fp8 Clip to the
    grid (below 8 bits), QuantizeLinear, DequantizeLinear; in 16 bits Cast. Quantized weights: an int8, int4 or fp8
    initializer behind DequantizeLinear, with one scale a channel or block; b-bit weights use b-bit levels. Layers in 16
    bits have bias and result of that type, and a Cast back behind them; in a form without casts only their weight is of
    it. Each layer's node carries its precision as metadata.

    Raises:
        HwsmpqError: an operation has no such form (names it).
    """
    form = form or OnnxForm()
    model = ir.serde.deserialize_model(onnx.load_model_from_string(fp32_onnx))
    put_weights_back(model, captured)
    _Writer(model, captured, assignment, ranges, scheme, form).write()
    if form.opset is not None:
        lower(model, form.opset)
    save_onnx(model, path)


class _Writer:
    """Rewrites the float model in place."""

    def __init__(
        self, model: ir.Model, captured: Captured, assignment: Assignment, ranges: Ranges, scheme: Scheme,
        form: OnnxForm,
    ) -> None:
        self._model, self._graph = model, model.graph
        self._captured, self._scheme, self._form = captured, scheme, form
        self._nodes = {node.name: node for node in model.graph}
        self._layers: dict[str, QuantizedLayer] = {}
        for layer in captured.network.layers:
            precision = PRECISIONS[assignment[captured.network.group_of(layer.name)]]
            self._layers[layer.name] = QuantizedLayer.of(layer, precision, ranges, scheme)
        self._activations: dict[tuple[str, str, Grid | None], ir.Value] = {}
        self._weights: dict[str, ir.Value] = {}

    def write(self) -> None:
        # Before layers get other inputs and results: additions are found by them.
        additions = self._quantized_additions() if self._scheme.quantizes_residuals else []
        for name, quantized in self._layers.items():
            precision, node, layer = quantized.precision, self._nodes[name], quantized.layer
            node.metadata_props[PRECISION_KEY] = precision.name
            if precision.name == "fp32" or (precision.is_float and not self._form.strongly_typed):
                continue
            if layer.has_weight:
                if layer.weight_name not in self._weights:
                    self._weights[layer.weight_name] = self._weight(quantized)
                _replace_weight(node, self._weights[layer.weight_name])
            if precision.is_float and not self._form.casts:
                continue
            for index, (operand, tensor) in enumerate(zip(quantized.operands, layer.tensors, strict=True)):
                source = node.inputs[index]
                assert source is not None
                name = f"{layer.name}{READS[index]}"
                node.replace_input_with(index, self._activation(operand, tensor, source, name, before=node))
            self._correct_bias(quantized, node)
            if precision.activation_format in FLOATS:
                self._compute_in(node, FLOATS[precision.activation_format], layer.has_weight)
        for addition, argument, reader in additions:
            source = addition.inputs[argument]
            assert source is not None
            x = self._activation(
                self._layers[reader.name], reader.input_tensor, source, f"{reader.name}{READS[0]}", before=addition
            )
            addition.replace_input_with(argument, x)
        _drop_unused(self._graph)

    def _quantized_additions(self) -> list[tuple[ir.Node, int, Layer]]:
        """(node, argument, layer whose quantized copy of it is to be read instead)."""
        found = []
        for residual in residuals(self._captured).values():
            reader, partner = residual.reader, residual.partner
            if not residual.is_quantized(*(self._layers[layer.name].precision for layer in (reader, partner))):
                continue
            source = self._nodes[reader.name].inputs[0]
            assert source is not None
            found += [
                (addition, residual.argument, reader)
                for addition, argument in self._nodes[partner.name].outputs[0].uses()
                if addition.op_type == "Add" and argument == 1 - residual.argument
                and addition.inputs[residual.argument] is source
            ]
        return found

    def _activation(self, operand: Operand, tensor: str, x: ir.Value, name: str, before: ir.Node) -> ir.Value:
        """What a layer reads for ``x``; made once a tensor, precision and grid, before its first reader.

        ``x`` may be two tensors of the captured network: a convolution that pads by itself reads a padded one.
        """
        precision = operand.precision
        key = (tensor, precision.name, operand.grid)
        if key not in self._activations:
            new: list[ir.Node] = []
            if operand.inverse is not None:
                inverse = self._constant(f"{name}.inverse", operand.inverse)
                new.append(_named("Mul", [x, inverse], f"{name}{SMOOTH}"))
                x = new[0].outputs[0]
            if precision.activation_format in FLOATS:
                new.append(_cast(x, FLOATS[precision.activation_format], f"{name}.cast"))
            else:
                new += self._quantized(x, operand, name)
            self._graph.insert_before(before, new)
            self._activations[key] = new[-1].outputs[0]
        return self._activations[key]

    def _quantized(self, x: ir.Value, quantized: Operand, name: str) -> list[ir.Node]:
        new: list[ir.Node] = []
        grid = quantized.grid
        if grid is None:
            zero_point = torch.zeros((), dtype=FP8)
        else:
            zero_point = torch.tensor(grid.zero_point, dtype=grid.type)
            relu = None if self._form.strongly_typed else without_upper_end(x, grid, f"{name}.relu")
            if relu is not None:
                new, x = [relu], relu.outputs[0]
            new += self._clip(x, grid, zero_point.dtype, name)
            x = new[-1].outputs[0] if new else x
        return new + self._qdq(x, np.asarray(quantized.input_scale, np.float32), zero_point, name)

    def _clip(self, x: ir.Value, grid: Grid, dtype: torch.dtype, name: str) -> list[ir.Node]:
        """Clip to a grid that is narrower than its type."""
        limits = torch.iinfo(dtype)
        if (grid.low, grid.high) == (limits.min, limits.max):
            return []
        ends = [
            self._constant(f"{name}.{end}", np.asarray((q - grid.zero_point) * grid.scale, np.float32))
            for end, q in (("low", grid.low), ("high", grid.high))
        ]
        return [_named("Clip", [x, *ends], f"{name}.clip")]

    def _qdq(
        self, x: ir.Value, scale: np.ndarray | Tensor, zero_point: Tensor, name: str, axis: int | None = None
    ) -> list[ir.Node]:
        """``axis`` is that of the scales, where there is one a channel."""
        attributes = {} if axis is None else {"axis": axis}
        parameters = [self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero_point", zero_point)]
        quantize = _named("QuantizeLinear", [x, *parameters], f"{name}.quantize", attributes)
        dequantize = _named("DequantizeLinear", [quantize.outputs[0], *parameters], f"{name}.dequantize", attributes)
        return [quantize, dequantize]

    def _weight(self, quantized: QuantizedLayer) -> ir.Value:
        """The weight that the layer's product reads: an initializer, or one behind DequantizeLinear."""
        name, precision = quantized.layer.weight_name, quantized.precision
        weight = self._captured.weight_of(quantized.layer)
        if precision.is_float:
            half = self._constant(f"{name}.{precision.name}", weight.to(HALF_TYPES[precision.activation_format]))
            if self._form.casts:
                return half
            cast = _cast(half, ir.DataType.FLOAT, f"{name}.cast")
            self._graph.insert_before(self._graph[0], cast)
            return cast.outputs[0]
        stored = quantized.stored_weight(weight)
        values = _int4(stored.values) if precision.is_blockwise else stored.values
        if not self._form.strongly_typed:
            real = self._constant(f"{name}.float", stored.dequantize())
            nodes = self._qdq(real, stored.scales, torch.zeros(len(stored.scales), dtype=torch.int8), name, stored.axis)
            self._graph.insert_before(self._graph[0], nodes)
            return nodes[-1].outputs[0]
        kind = "fp8" if precision.weight_format == "fp8" else "int4" if precision.is_blockwise else "int8"
        inputs = [self._constant(f"{name}.{kind}", values), self._constant(f"{name}.scale", stored.scales)]
        attributes = {"axis": stored.axis}
        if stored.block_size:
            # Without a zero point: TensorRT knows four-bit weights as symmetric.
            attributes["block_size"] = stored.block_size
        else:
            zeros = torch.zeros(len(stored.scales), dtype=stored.values.dtype)
            inputs.append(self._constant(f"{name}.zero_point", zeros))
        node = _named("DequantizeLinear", inputs, f"{name}.dequantize", attributes)
        self._graph.insert_before(self._graph[0], node)
        return node.outputs[0]

    def _correct_bias(self, quantized: QuantizedLayer, node: ir.Node) -> None:
        """Give a layer the bias that it has at its precision."""
        bias = self._captured.bias_of(quantized.layer)
        if bias is None or not quantized.shifts_bias:
            return
        place = _bias_of(node)
        assert place is not None, f"the bias of {node.name} is not in the ONNX file"
        corrected = self._constant(f"{node.name}.bias.{quantized.precision.name}", quantized.bias(bias))
        place[0].replace_input_with(place[1], corrected)

    def _compute_in(self, node: ir.Node, dtype: ir.DataType, has_bias: bool) -> None:
        """Give a layer a bias, if it may have one, and a result of 16 bits, and cast the result back for the rest."""
        last, index = (_bias_of(node) if has_bias else None) or (node, None)
        if index is not None:
            value = last.inputs[index]
            bias = ir.tensor(value.const_value.numpy().astype(dtype.numpy()), name=f"{value.name}.{node.name}")
            last.replace_input_with(index, self._constant(bias.name, bias))
        result = last.outputs[0]
        cast = _cast(result, ir.DataType.FLOAT, f"{node.name}.out.cast")
        back = cast.outputs[0]
        back.shape, back.type = result.shape, result.type
        for reader, index in list(result.uses()):
            if reader is not cast:
                reader.replace_input_with(index, back)
        for index, output in enumerate(self._graph.outputs):
            if output is result:
                result.name, back.name = f"{node.name}.out", result.name
                self._graph.outputs[index] = back
        for value in {node.outputs[0], result}:
            value.type = ir.TensorType(dtype)
        self._graph.insert_after(last, cast)

    def _constant(self, name: str, data: np.ndarray | Tensor | ir.TensorProtocol) -> ir.Value:
        tensor = data if isinstance(data, ir.TensorProtocol) else ir.tensor(data, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self._graph.register_initializer(value)
        return value


def _named(
    operation: str, inputs: list[ir.Value], name: str, attributes: dict[str, int] | None = None
) -> ir.Node:
    node = ir.node(operation, inputs, attributes or {}, name=name)
    node.outputs[0].name = f"{name}.out"
    return node


def _cast(x: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    return _named("Cast", [x], name, {"to": int(dtype)})


def _bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """What adds the bias of a layer, and at which of its inputs: the layer, or the addition of a constant right after a
    matrix product, which a linear layer on sequences is. None without a bias."""
    if node.op_type != "MatMul":
        place = node, 2
    else:
        readers = list(node.outputs[0].uses())
        if len(readers) != 1 or readers[0][0].op_type != "Add":
            return None
        place = readers[0][0], 1 - readers[0][1]
    reader, index = place
    value = reader.inputs[index] if index < len(reader.inputs) else None
    return place if value is not None and value.is_initializer() else None


def _int4(values: Tensor) -> ir.TensorProtocol:
    return ir.tensor(values.numpy().astype(ir.DataType.INT4.numpy()), dtype=ir.DataType.INT4)


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

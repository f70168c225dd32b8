"""Rewrites an ONNX model for parsers that take older opsets than the exporter writes (it writes none below 18)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError
from hwsmpq.types import PRECISION_KEY

IR_VERSION = 8
"""That of opsets 15 to 18; older parsers refuse newer ones."""
TYPES = {
    "FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL", "STRING",
}
DEFAULTS: dict[str, Any] = {
    "saturate": 1, "block_size": 0, "output_dtype": 0, "antialias": 0, "keep_aspect_ratio_policy": "stretch",
    "noop_with_empty_axes": 0, "stash_type": 1, "num_outputs": None, "allowzero": 0,
}
"""Attributes that came later, with the value at which they change nothing (None: at any)."""
GRID_SAMPLE_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def lower(model: ir.Model, opset: int) -> None:
    """Rewrite a model in place so that it is of an opset from 13 to 17.

    Axes of reductions become attributes, and operations that came later the arithmetic that defines them. Statistics of
    normalizations are noted to be computed in fp32, as everything between layers is.

    Raises:
        HwsmpqError: an operation or a type has no older form (names it).
    """
    for value in model.graph.initializers.values():
        _require_type(value.dtype, value.name, opset)
    for node in list(model.graph):
        _Lowering(model.graph, node, opset).lower()
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]
    model.graph.opset_imports[""] = opset
    model.ir_version = IR_VERSION


class _Lowering:
    """One node, and what takes its place."""

    def __init__(self, graph: ir.Graph, node: ir.Node, opset: int) -> None:
        self._graph, self._node, self._opset = graph, node, opset
        self._n_added, self._precision = 0, ""

    def lower(self) -> None:
        operation = self._node.op_type
        if operation == "Constant":
            self._constant_node()
        elif operation.startswith("Reduce"):
            self._reduction()
        elif operation in PREPARATIONS:
            PREPARATIONS[operation](self)
        schema = self._schema()
        if schema is None and operation in DECOMPOSITIONS:
            self._replace(DECOMPOSITIONS[operation](self))
        elif schema is None and operation != "Constant":
            raise self._refusal(f"there is no {operation} in opset {self._opset}")
        elif schema is not None:
            self._drop_later_attributes(schema)
            for attribute in self._node.attributes.values():
                if operation == "Cast" and attribute.name == "to":
                    _require_type(ir.DataType(attribute.as_int()), self._node.name, self._opset)

    def _schema(self) -> onnx.defs.OpSchema | None:
        """The definition of the operation in the opset, None where it has none."""
        try:
            return onnx.defs.get_schema(self._node.op_type, self._opset, self._node.domain)
        except onnx.defs.SchemaError:
            return None

    def _drop_later_attributes(self, schema: onnx.defs.OpSchema) -> None:
        for name in [name for name in self._node.attributes if name not in schema.attributes]:
            attribute = self._node.attributes[name]
            unchanging = attribute.type == ir.AttributeType.INTS and set(attribute.as_ints()) == {1}
            if not unchanging and not (name in DEFAULTS and DEFAULTS[name] in (None, attribute.value)):
                raise self._refusal(f"opset {self._opset} has no attribute {name} of {self._node.op_type}")
            del self._node.attributes[name]
        if len(self._node.inputs) > schema.max_input:
            raise self._refusal(f"{self._node.op_type} has at most {schema.max_input} inputs in opset {self._opset}")

    def _constant_node(self) -> None:
        """An initializer instead, which every parser takes."""
        (attribute,) = self._node.attributes.values()
        kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
        if attribute.name == "value":
            data = attribute.as_tensor().numpy()
        elif attribute.name in kinds:
            data = np.asarray(attribute.value, kinds[attribute.name])
        else:
            raise self._refusal(f"a constant by {attribute.name}")
        self._replace(self._constant(data))

    def _reduction(self) -> None:
        node, axes = self._node, None
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            axes = [int(axis) for axis in self._known(1).reshape(-1)]
        nothing = "noop_with_empty_axes" in node.attributes and node.attributes["noop_with_empty_axes"].as_int()
        if nothing and not axes:
            self._replace(self._add("Identity", node.inputs[0]))
        elif node.op_type != "ReduceSum":  # which took them as an input from 13 on
            node.attributes.pop("noop_with_empty_axes", None)
            node.resize_inputs(1)
            if axes:
                node.attributes["axes"] = ir.AttrInt64s("axes", axes)

    def _split(self) -> None:
        """Sizes that are equal but for the last become an input."""
        if len(self._node.inputs) < 2 or self._node.inputs[1] is None:
            axis = self._attribute("axis", 0)
            sizes = [self._shape(output)[axis] for output in self._node.outputs]
            self._node.resize_inputs(2)
            self._node.replace_input_with(1, self._constant(np.array(sizes, np.int64)))

    def _pad(self) -> None:
        """Pads of some axes become those of all."""
        node = self._node
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            rank, axes, given = len(self._shape(node.inputs[0])), self._known(3).reshape(-1), self._known(1)
            pads = np.zeros((2, rank), np.int64)
            pads[:, axes] = given.reshape(2, -1)
            node.replace_input_with(1, self._constant(pads.reshape(-1)))
        node.resize_inputs(min(len(node.inputs), 3))
        if self._attribute("mode", "constant") == "wrap":
            raise self._refusal(f"opset {self._opset} has no padding by wrapping")

    def _reshape(self) -> None:
        """A size of 0 means the same in all opsets where none is 0."""
        if self._attribute("allowzero", 0) and self._known(1).all():
            del self._node.attributes["allowzero"]

    def _grid_sample(self) -> None:
        mode = self._attribute("mode", "linear")
        self._node.attributes["mode"] = ir.AttrString("mode", GRID_SAMPLE_MODES.get(mode, mode))

    def _layer_normalization(self) -> ir.Value:
        """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axes."""
        x, rank = self._node.inputs[0], len(self._shape(self._node.inputs[0]))
        axes = list(range(self._attribute("axis", -1) % rank, rank))
        return self._affine(self._standardized(x, axes), *self._node.inputs[1:])

    def _group_normalization(self) -> ir.Value:
        """As a layer normalization over the channels of a group and all positions."""
        x, scale, bias = self._node.inputs
        shape, n_groups = self._shape(x), self._attribute("num_groups", None)
        grouped = self._add("Reshape", x, self._constant(np.array([shape[0], n_groups, -1], np.int64)))
        standard = self._add("Reshape", self._standardized(grouped, [2]), self._constant(np.array(shape, np.int64)))
        channels = self._constant(np.array([shape[1], *[1] * (len(shape) - 2)], np.int64))
        return self._affine(standard, *(self._add("Reshape", value, channels) for value in (scale, bias)))

    def _standardized(self, x: ir.Value, axes: list[int]) -> ir.Value:
        self._precision = "fp32"
        deviation = self._add("Sub", x, self._mean(x, axes))
        variance = self._mean(self._add("Mul", deviation, deviation), axes)
        epsilon = self._scalar(self._attribute("epsilon", 1e-5))
        return self._add("Div", deviation, self._add("Sqrt", self._add("Add", variance, epsilon)))

    def _mean(self, x: ir.Value, axes: list[int]) -> ir.Value:
        return self._add("ReduceMean", x, axes=axes, keepdims=1)

    def _affine(self, x: ir.Value, scale: ir.Value, bias: ir.Value | None = None) -> ir.Value:
        scaled = self._add("Mul", x, scale)
        return scaled if bias is None else self._add("Add", scaled, bias)

    def _gelu(self) -> ir.Value:
        """x * (1 + erf(x / sqrt 2)) / 2, or its approximation by the hyperbolic tangent."""
        x = self._node.inputs[0]
        if self._attribute("approximate", "none") == "tanh":
            cubic = self._add("Mul", self._add("Mul", self._add("Mul", x, x), x), self._scalar(0.044715))
            inner = self._add("Mul", self._add("Add", x, cubic), self._scalar(math.sqrt(2 / math.pi)))
            curve = self._add("Tanh", inner)
        else:
            curve = self._add("Erf", self._add("Div", x, self._scalar(math.sqrt(2))))
        return self._add("Mul", self._add("Mul", x, self._add("Add", curve, self._scalar(1.0))), self._scalar(0.5))

    def _mish(self) -> ir.Value:
        x = self._node.inputs[0]
        return self._add("Mul", x, self._add("Tanh", self._add("Softplus", x)))

    def _known(self, index: int) -> NDArray[Any]:
        """An input that has to be a constant."""
        value = self._node.inputs[index]
        if value is None or value.const_value is None:
            raise self._refusal(f"input {index} of {self._node.op_type} is computed, but has to be a constant")
        return value.const_value.numpy()

    def _attribute(self, name: str, default: Any) -> Any:
        return self._node.attributes[name].value if name in self._node.attributes else default

    def _shape(self, value: ir.Value | None) -> list[int]:
        if value is None or value.shape is None or not value.shape.is_static():
            raise self._refusal(f"the shape of an operand of {self._node.op_type} is not known")
        return list(value.shape.numpy())

    def _scalar(self, value: float) -> ir.Value:
        return self._constant(np.array(value, np.float32))

    def _constant(self, data: NDArray[Any]) -> ir.Value:
        name = self._new_name("constant")
        tensor = ir.tensor(data, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        self._graph.register_initializer(value)
        return value

    def _add(self, operation: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        node = ir.node(operation, inputs, attributes, name=self._new_name(operation))
        node.outputs[0].name = f"{node.name}.out"
        if self._precision:
            node.metadata_props[PRECISION_KEY] = self._precision
        self._graph.insert_before(self._node, node)
        return node.outputs[0]

    def _new_name(self, what: str) -> str:
        self._n_added += 1
        return f"{self._node.name}.{self._n_added}.{what}"

    def _replace(self, value: ir.Value) -> None:
        """Put a value in the place of the node's result, and take the node away."""
        old = self._node.outputs[0]
        if any(output.uses() for output in self._node.outputs[1:]):
            raise self._refusal(f"more than one result of {self._node.op_type} is used")
        value.shape, value.type = value.shape or old.shape, value.type or old.type
        is_output = old in self._graph.outputs
        if is_output:
            value.name, old.name = old.name, None
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self._graph.remove(self._node, safe=True)

    def _refusal(self, why: str) -> HwsmpqError:
        return HwsmpqError(
            f"{self._node.name} ({self._node.op_type}) cannot be written for the device's runtime", why,
            "replace the operation, or use a device with a newer runtime",
        )


def _require_type(dtype: ir.DataType | None, name: str | None, opset: int) -> None:
    if dtype is not None and dtype.name not in TYPES:
        raise HwsmpqError(
            f"{name} cannot be written for the device's runtime", f"opset {opset} has no {dtype.name}",
            "leave its precision out of --ladder, or use a device with a newer runtime",
        )


PREPARATIONS: dict[str, Callable[[_Lowering], None]] = {
    "Split": _Lowering._split, "Pad": _Lowering._pad, "Reshape": _Lowering._reshape,
    "GridSample": _Lowering._grid_sample,
}
DECOMPOSITIONS: dict[str, Callable[[_Lowering], ir.Value]] = {
    "LayerNormalization": _Lowering._layer_normalization, "GroupNormalization": _Lowering._group_normalization,
    "Gelu": _Lowering._gelu, "Mish": _Lowering._mish,
}

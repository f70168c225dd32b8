"""Read an ONNX file as a torch module, whose layers keep their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.onnx_operators import OPERATORS
from hwsmpq.model.onnx_prepare import graphs, prepare, turns_a_weight
from hwsmpq.types import ONNX_LAYERS

MIN_OPSET = 7
RESIZES = ("Resize", "Upsample")
LINEAR = "Linear"
"""A product with a stored matrix, which is read as `torch.nn.functional.linear`."""


BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True)
class _Step:
    """One operation: values by name (empty where left out), attributes as Python values.

    Attributes:
        branches: of an ``If``, for a condition that holds and one that does not; they see all values before it.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    branches: tuple[_Branch, ...] = ()


@dataclass(frozen=True)
class _Branch:
    steps: tuple[_Step, ...]
    outputs: tuple[str, ...]


class OnnxModule(nn.Module):
    """An ONNX graph, operation by operation. Weights are parameters under the names of their layers.

    Not every input of a file has samples in dimension 0: a state may have them elsewhere, and a number has none. Where
    all inputs have one dimension more than the file declares, a row of them is a whole call of the file.

    Attributes:
        inputs: name -> sizes that the file declares, None where it leaves one free.
    """

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        self.inputs = {str(value.name): _shape(value) for value in model.graph.inputs}
        self._ranks = [None if value.shape is None else len(value.shape) for value in model.graph.inputs]
        self._outputs = [str(value.name) for value in model.graph.outputs]
        self._constants: dict[str, Any] = {}
        self._tensors: dict[str, str] = {}
        nodes = [node for graph in graphs(model.graph) for node in graph]
        self._sizes = {str(v.name) for node in nodes if node.op_type in RESIZES for v in node.inputs[1:] if v}
        self._whole = self._branch(model.graph, model.opset_imports.get("", 0))
        needed = {name for step in _steps(self._whole) for name in step.inputs}
        for graph in graphs(model.graph):
            for name, value in graph.initializers.items():
                if name in needed:
                    self._keep(name, _array(value), re.sub(r"[^\w.]", "_", name))

    @property
    def ports(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of inputs and of outputs in the file."""
        return tuple(self.inputs), tuple(self._outputs)

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        are_calls = self.are_calls(inputs)
        if are_calls and len(inputs[0]) != 1:
            raise ValueError("a row is a whole call of the ONNX file, which is made for one at a time")
        given = [x[0] for x in inputs] if are_calls else inputs
        values: dict[str, Any] = dict(zip(self.inputs, given, strict=True)) | self._constants | {"": None}
        values |= {name: self.get_parameter(path) for name, path in self._tensors.items()}
        self._run(self._whole, values)
        outputs = tuple(torch.as_tensor(values[name]) for name in self._outputs)
        if are_calls:
            outputs = tuple(output.unsqueeze(0) for output in outputs)
        return dict(zip(self._outputs, outputs, strict=True)) if len(outputs) > 1 else outputs[0]

    def are_calls(self, inputs: Sequence[Tensor]) -> bool:
        """Whether rows of the inputs are whole calls of the file."""
        return all(x.ndim - 1 == rank for x, rank in zip(inputs, self._ranks, strict=True))

    def settle(self, inputs: Sequence[Tensor]) -> dict[int, str]:
        """Take numbers that are the same in all calls for constants, which an If may depend on.

        Args:
            inputs: rows of calls, as many as there are.

        Returns:
            Places of the inputs that are constants now, with their names.
        """
        are_calls, settled = self.are_calls(inputs), {}
        for place, (name, x) in enumerate(zip(self.inputs, inputs, strict=True)):
            if are_calls and x.ndim == 1 and bool((x == x[0]).all()):
                self._keep(name, x[0].numpy(), name)
                settled[place] = name
        return settled

    def _run(self, branch: _Branch, values: dict[str, Any]) -> tuple[Any, ...]:
        """The outputs of a branch, all of whose values are added to ``values``."""
        for step in branch.steps:
            operands = [values[name] for name in step.inputs]
            if step.branches:
                result: Any = self._run(step.branches[not _decided(operands[0], step)], values)
            elif step.operator == LINEAR:
                result = nn.functional.linear(*operands)
            else:
                result = OPERATORS[step.operator](*operands, **step.attributes)
            results = result if isinstance(result, tuple) else (result,)
            values |= dict(zip(step.outputs, results, strict=False))
        return tuple(values[name] for name in branch.outputs)

    @property
    def inputs_by_weight(self) -> dict[str, str]:
        """Parameter -> name of the tensor in the file that it is applied to, of operations with a stored weight."""
        weighted = [step for step in _steps(self._whole) if len(step.inputs) > 1 and step.inputs[1] in self._tensors]
        return {self._tensors[step.inputs[1]]: step.inputs[0] for step in weighted}

    def _branch(self, graph: ir.Graph, opset: int) -> _Branch:
        steps = tuple(self._step(node, index, opset) for index, node in enumerate(graph))
        return _Branch(steps, tuple(str(value.name) for value in graph.outputs))

    def _step(self, node: ir.Node, index: int, opset: int) -> _Step:
        inputs = [str(value.name) if value is not None else "" for value in node.inputs]
        operator = node.op_type
        if operator == "If":
            branches = tuple(self._branch(node.attributes[name].value, opset) for name in BRANCHES)
            return _Step(operator, tuple(inputs), tuple(str(value.name) for value in node.outputs), {}, branches)
        attributes = {name: _plain(attribute) for name, attribute in node.attributes.items()}
        if operator == "Constant":
            name = str(node.outputs[0].name)
            self._keep(name, np.asarray(_constant(attributes)), re.sub(r"[^\w.]", "_", name))
            return _Step("Identity", (name,), (name,), {})
        weight = _stored_weight(node)
        if weight is not None:
            value, turned = weight
            array = _array(value)
            # Files may hold a matrix either way round; torch's linear layers have (outputs, inputs).
            if operator in ("Gemm", "MatMul"):
                turned ^= operator == "MatMul" or not attributes.get("transB", 0)
                if operator == "MatMul" or attributes.keys() <= {"transB"}:
                    operator, attributes = LINEAR, {}
                else:
                    attributes["transB"] = 1
            inputs[1] = f"{value.name}{' turned' if turned else ''}"
            self._keep(inputs[1], np.ascontiguousarray(array.T) if turned else array, _layer_path(value, node, index))
        outputs = tuple(str(value.name) for value in node.outputs)
        if operator == "Split":
            attributes.setdefault("num_outputs", len(outputs))
        operator = _as_of(opset, operator, inputs, attributes)
        return _Step(operator, tuple(inputs), outputs, attributes)

    def _keep(self, name: str, array: np.ndarray[Any, Any], path: str) -> None:
        """Keep a constant: numbers and lists of integers as such, all else as a parameter at a path of modules."""
        if name in self._tensors or name in self._constants:
            return
        if array.ndim == 0 or (array.ndim == 1 and (array.dtype.kind in "iub" or name in self._sizes)):
            self._constants[name] = array.tolist()
            return
        *owners, leaf = path.split(".")
        module: nn.Module = self
        for part in owners:
            part = _free(part)
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        leaf = _free(leaf)
        while leaf in module._parameters or leaf in module._modules:
            leaf += "_"
        module.register_parameter(leaf, nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False))
        self._tensors[name] = ".".join([*map(_free, owners), leaf])


def _steps(branch: _Branch) -> Iterator[_Step]:
    """All of a branch and of those within it."""
    for step in branch.steps:
        yield step
        for inner in step.branches:
            yield from _steps(inner)


def _decided(condition: Any, step: _Step) -> bool:
    """Which branch is taken: known where the condition is of sizes, and the same for all samples."""
    if isinstance(condition, Tensor):
        raise HwsmpqError(
            f"an If depends on values of the inputs ({step.inputs[0]})", "a captured network computes the same way for"
            " all samples", "export the network for one of these values, for example for one sampling rate",
        )
    return bool(condition[0] if isinstance(condition, list) else condition)


def _shape(value: ir.Value) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in value.shape or ())


def read_onnx(path: Path) -> OnnxModule:
    """The network of an ONNX file, opset 7 or newer, in float32. Several outputs come as a dict by their names.

    Raises:
        HwsmpqError: no such file, not ONNX, an older opset, weights that are missing, or an operator that is not read
            (named).
    """
    if not path.is_file():
        raise HwsmpqError(f"no ONNX file {path}", fix="check the path")
    try:
        model = ir.load(path)
        version = model.opset_imports.get("", 0)
        missing = _missing_data(model, path.parent)
        if version >= MIN_OPSET and not missing:
            prepare(model)
    except Exception as error:
        raise HwsmpqError(
            f"{path} cannot be read as ONNX", f"{type(error).__name__}: {str(error)[:300]}", "export it again"
        ) from error
    if missing:
        raise HwsmpqError(
            f"{path} keeps weights in {missing}, which is not there", "large networks keep them in files beside them",
            "put that file into the same folder",
        )
    if version < MIN_OPSET:
        raise HwsmpqError(
            f"{path} has opset {version}", f"it is read from {MIN_OPSET} on", "export it with a newer one"
        )
    nodes = [node for graph in graphs(model.graph) for node in graph]
    unknown = sorted({node.op_type if not node.domain else f"{node.domain}::{node.op_type}" for node in nodes
                      if node.op_type not in {*OPERATORS, "Constant", "If", "Upsample"} or node.domain})
    if unknown:
        quantized = any("QuantizeLinear" in name or "Integer" in name for name in unknown)
        raise HwsmpqError(
            f"{path} has operators that are not read: {', '.join(unknown)}",
            "it is quantized already" if quantized else "they have no counterpart here",
            "give the float network" if quantized else "export the network without them, or give it as PyTorch code",
        )
    try:
        return OnnxModule(model)
    except (OSError, ValueError) as error:
        raise HwsmpqError(
            f"the weights in {path} cannot be read", f"{type(error).__name__}: {str(error)[:300]}", "export it again"
        ) from error


def _missing_data(model: ir.Model, folder: Path) -> str | None:
    """The first file beside the network that its weights lie in and that does not exist."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and not (folder / tensor.location).is_file():
            return str(tensor.location)
    return None


def _as_of(opset: int, operator: str, inputs: list[str], attributes: dict[str, Any]) -> str:
    """The operator that computes what another of that name computed in an earlier opset; operands are changed in
    place."""
    if operator in ("Softmax", "LogSoftmax") and opset < 13:
        return f"{operator} below 13"
    if operator == "Upsample" or (operator == "Resize" and opset < 11):
        # Only scales then, and always as torch's "nearest" and TensorFlow's "linear" do it.
        if "scales" not in attributes:
            inputs.insert(1, "")
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return "Resize"
    return operator


def _array(value: ir.Value) -> np.ndarray[Any, Any]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    return value.numpy() if isinstance(value, ir.TensorProtocol) else list(value) if isinstance(value, tuple) else value


def _constant(attributes: dict[str, Any]) -> Any:
    """The value of a Constant node, which has one attribute of several."""
    (name, value), = attributes.items()
    return np.asarray(value, np.float32 if "float" in name else np.int64 if "int" in name else None)


def _stored_weight(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The stored weight of a layer, and whether the file turns it before use; None where it is computed."""
    value = node.inputs[1] if node.op_type in ONNX_LAYERS and len(node.inputs) > 1 else None
    if value is None:
        return None
    if value.is_initializer():
        matrix = value.shape is not None and len(value.shape) == 2
        return (value, False) if node.op_type != "MatMul" or matrix else None
    producer = value.producer()
    if producer is not None and turns_a_weight(producer) and node.op_type in ("Gemm", "MatMul"):
        source = producer.inputs[0]
        assert source is not None
        return (source, True) if source.shape is not None and len(source.shape) == 2 else None
    return None


def _layer_path(value: ir.Value, node: ir.Node, index: int) -> str:
    """Where a layer's weight is kept: under its own name if that is one of PyTorch's, else under the node's."""
    name = str(value.name)
    if re.fullmatch(r"\w+(\.\w+)*\.weight", name):
        return name
    parts = [re.sub(r"\W", "_", part) for part in _parts(node.name or f"{node.op_type}_{index}")]
    return ".".join([*parts, "weight"])


def _parts(name: str) -> Iterator[str]:
    """Of a node's name such as ``/layer1/layer1.0/conv1/Conv``, which repeats the path of every module."""
    path = [part for part in name.split("/") if part]
    if len(path) > 1:
        path = path[:-1]
    for above, part in zip(["", *path], path, strict=False):
        yield from (part.removeprefix(f"{above}.") if above else part).split(".")


def _free(part: str) -> str:
    """A name that modules do not use for themselves."""
    return f"{part}_" if not part or hasattr(nn.Module, part) or part == "training" else part

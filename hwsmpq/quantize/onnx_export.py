"""The float network as ONNX, with nodes named by layer, which Q/DQ files are made from."""

from __future__ import annotations

import io
import re
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from weakref import WeakKeyDictionary

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, NameFixPass
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, fx

from hwsmpq.artifacts import write_bytes
from hwsmpq.device.files import WEIGHTS
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.export import EXPORT_BATCH, open_sizes
from hwsmpq.quantize.padding import fold_padding, write_out_circular
from hwsmpq.types import ONNX_LAYERS, PRODUCTS, READ_SIZES

OPSET = 22
"""The first in which every operation takes bfloat16; blocks of four-bit weights need 21."""
LARGEST_MESSAGE = 2**31 - 2**24
"""Bytes of weights in an ONNX file; more lie in a file beside it, since protobuf ends at 2 GB."""
FX_NODE = "pkg.torch.onnx.fx_node"
"""Where the exporter says which operation of the captured graph a node was made from."""
IN_THE_GRAPH = "captured"
"""Where a float file of that size says that its weights are: they stay in the captured graph."""

_exported: WeakKeyDictionary[fx.GraphModule, dict[int | None, bytes | HwsmpqError]] = WeakKeyDictionary()


def export_onnx(captured: Captured, batch_size: int | None = 1) -> bytes:
    """The captured network in full precision as ONNX, every layer's node named by the layer. Weights of more than
    :data:`LARGEST_MESSAGE` are left out, for :func:`write_qdq` to take them from the graph.

    A graph never changes, and its export takes longer than its capture: what was exported is kept with it, and what
    takes one number of samples is made from what takes any, where that can be done.

    Args:
        batch_size: samples that it takes at once; None for any number.

    Raises:
        HwsmpqError: an operation has no ONNX form (names it), a layer was not found again in the export, or the network
            takes one sample at a time, and not ``batch_size``.
    """
    if captured.takes_one and batch_size != 1:
        raise HwsmpqError(
            "the network takes one sample at a time",
            "it has sizes that hold for one alone" if batch_size is None else f"{batch_size} were asked for",
            "take sizes in it from x.shape[0], or leave --batch at 1",
        )
    exported = _exported.setdefault(captured.graph, {})
    if batch_size not in exported:
        try:
            exported[batch_size] = _with_number(captured, batch_size) or _export(captured, batch_size)
        except HwsmpqError as error:
            exported[batch_size] = error
    found = exported[batch_size]
    if isinstance(found, HwsmpqError):
        raise found
    return found


def _with_number(captured: Captured, batch_size: int | None) -> bytes | None:
    """What takes any number of samples, with one put in its place; None where there is no such export, or where sizes
    that are computed from the number would stay."""
    if batch_size is None or captured.takes_one:
        return None
    try:
        model = ir.from_proto(onnx.load_model_from_string(export_onnx(captured, None)))
    except HwsmpqError:
        return None
    graph = model.graph
    number = {x.shape[0] for x in graph.inputs if x.shape is not None}
    weights = [value.const_value for value in graph.initializers.values()]
    if any(isinstance(size, int) for size in number) or any(isinstance(one, ir.ExternalTensor) for one in weights):
        return None
    for value in (*graph.inputs, *(result for node in graph for result in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([batch_size if size in number else size for size in value.shape])
    _fold(model)
    remove_unused_nodes(model)
    sizes = {str(size) for node in graph for result in node.outputs for size in result.shape or ()}
    names = {str(size) for size in number}
    if any(node.op_type in READ_SIZES for node in graph) or any(
        name in re.findall(r"\w+", size) for size in sizes for name in names
    ):
        return None
    for index, node in enumerate(graph):
        if node.name not in captured.layer_nodes:
            node.name = _other_name(index, node)
    return ir.serde.serialize_model(model).SerializeToString()


def _export(captured: Captured, batch_size: int | None) -> bytes:
    names = captured.form.names
    rows = tuple(x.expand(batch_size or EXPORT_BATCH, *x.shape[1:]).contiguous() for x in captured.example)
    batch = None if batch_size else torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                captured.graph, rows, dynamo=True, optimize=False, opset_version=OPSET, verbose=False,
                output_names=names if len(names) > 1 else None,
                dynamic_shapes=open_sizes(captured.varying, batch),
            )
    except Exception as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise HwsmpqError(
            f"the network cannot be written as ONNX: {cause[0][:300] if cause else type(error).__name__}",
            "an operation has no ONNX form", "replace the operation named above",
        ) from error
    assert program is not None
    model = program.model
    _name_ports(model.graph, captured)
    NameFixPass()(model)  # the exporter gives two values one name at times; inputs and outputs keep theirs
    _fold(model)
    write_out_circular(model.graph)
    fold_padding(model.graph)
    remove_unused_nodes(model)
    _name_layers(model, captured)
    ClearMetadataAndDocStringPass()(model)  # lines and paths of the user's own code, which engines would carry
    if _n_bytes(model) > LARGEST_MESSAGE:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and _stored(captured, name) is not None:
                value.const_value = ir.ExternalTensor(
                    IN_THE_GRAPH, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name  # type: ignore[arg-type]
                )
    return ir.serde.serialize_model(model).SerializeToString()


def _fold(model: ir.Model) -> None:
    """Axes and shapes as constants, which TensorRT insists on; weights stay where layers are recognised by them."""
    fold_constants(model, should_fold=lambda node: False if node.op_type == "Transpose" else None)


def _name_ports(graph: ir.Graph, captured: Captured) -> None:
    """Inputs and outputs are called as in the file that the network was read from: the engine takes its place."""
    named: set[ir.Value] = set()
    for values, names in zip((graph.inputs, graph.outputs), captured.ports, strict=True):
        if len(values) == len(names):
            for value, name in zip(values, names, strict=True):
                if value not in named and name not in graph.initializers:
                    named.add(value)
                    value.name = name


def _n_bytes(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _stored(captured: Captured, name: str) -> Tensor | None:
    """The tensor of that name in the captured graph."""
    return captured.graph.state_dict().get(name)


def _name_layers(model: ir.Model, captured: Captured) -> None:
    """Find each layer by its weight initializer (module metadata does not survive folding), a product by its place, and
    name its node.

    As at capture, what reads no data of the inputs is no layer: the first step of an unrolled recurrent network reads
    a state of zeros by the weight that layers read.
    """
    unnamed, products = {layer.name: layer for layer in captured.network.layers}, _products(model, captured)
    varying = set(model.graph.inputs)
    for index, node in enumerate(model.graph):
        if node.op_type not in READ_SIZES and not varying.isdisjoint(node.inputs):
            varying.update(node.outputs)
        if node in products:
            node.name = products[node]
            del unnamed[node.name]
            continue
        if node.op_type in ONNX_LAYERS and node.inputs[0] in varying:
            weight = _initializer_behind(node.inputs[1])
            match = next((n for n, la in unnamed.items() if weight is not None and la.weight_name == weight.name), None)
            if match is not None:
                node.name = match
                del unnamed[match]
                continue
        node.name = _other_name(index, node)
    if unnamed:
        raise HwsmpqError(
            f"layer {next(iter(unnamed))!r} was not found in the exported ONNX",
            "no Conv, ConvTranspose, Gemm or MatMul reads its weight or its operands",
            "report the model: this layer type is not supported yet",
        )


def _other_name(index: int, node: ir.Node) -> str:
    """Of a node that is no layer."""
    return f"op_{index}_{node.op_type}"


def _products(model: ir.Model, captured: Captured) -> dict[ir.Node, str]:
    """The layers that are products, by node. Both graphs hold the operations in one order."""
    kinds = [f"target=torch.ops.{name}]" for name in PRODUCTS]
    written = [
        node for node in model.graph
        if node.op_type == "MatMul" and any(kind in node.metadata_props.get(FX_NODE, "") for kind in kinds)
    ]
    captured_ones = [node for node in captured.graph.graph.nodes if str(node.target) in PRODUCTS]
    names = {captured.layer_nodes[name]: name for name in captured.network.products}
    if len(written) != len(captured_ones):
        return {}
    return {one: names[other] for one, other in zip(written, captured_ones, strict=True) if other in names}


def _initializer_behind(value: ir.Value | None) -> ir.Value | None:
    while value is not None and not value.is_initializer():
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.op_type == "Transpose" else None
    return value


def put_weights_back(model: ir.Model, captured: Captured) -> None:
    """Give an exported model the weights that :func:`export_onnx` left out."""
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(_stored(captured, name), name=name)


def save_onnx(model: ir.Model, path: Path) -> None:
    """Write a model. Weights of more than :data:`LARGEST_MESSAGE` lie in a file beside it, named as it is with
    ``.data`` behind."""
    if _n_bytes(model) > LARGEST_MESSAGE:
        path.parent.mkdir(parents=True, exist_ok=True)
        ir.save(model, path, external_data=f"{path.name}{WEIGHTS}")
    else:
        write_bytes(path, ir.serde.serialize_model(model).SerializeToString())

"""What is done to the graph of an ONNX file before it is read: float32, constants computed, the batch left free."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnxscript.optimizer import fold_constants, inline, remove_unused_nodes

OTHER_FLOATS = {ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}
MOST_FOLDED = 1 << 26
"""Elements of a constant that may be computed ahead; weights made by the file itself are larger than shapes."""


def prepare(model: ir.Model) -> None:
    """Inline functions, compute what is constant, convert to float32 and free the batch dimension, all in place."""
    # Early files list what they store among their inputs too.
    model.graph.inputs[:] = [value for value in model.graph.inputs if not value.is_initializer()]
    inline(model)
    _to_float32(model)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fold_constants(model, should_fold=_folds, output_size_limit=MOST_FOLDED)
    remove_unused_nodes(model)
    _name_apart(model.graph)
    _free_batch(model)


def turns_a_weight(node: ir.Node) -> bool:
    """Whether a node transposes a stored matrix."""
    source = node.inputs[0] if node.op_type == "Transpose" else None
    return source is not None and source.is_initializer() and source.dtype == ir.DataType.FLOAT


def _folds(node: ir.Node) -> bool | None:
    """Shapes are computed now, weights stay where layers are recognised by them; None leaves it to the optimizer."""
    return True if node.op_type == "ConstantOfShape" else False if turns_a_weight(node) else None


def _to_float32(model: ir.Model) -> None:
    """Networks in 16 or 64 bits are read in float32: their stored tensors and what they convert to."""
    for graph in graphs(model.graph):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype in OTHER_FLOATS:
                value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
                value.dtype = ir.DataType.FLOAT
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in OTHER_FLOATS:
                    node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))
                if name == "to" and node.op_type == "Cast" and ir.DataType(attribute.value) in OTHER_FLOATS:
                    node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
            for value in node.outputs:
                if value.dtype in OTHER_FLOATS:
                    value.dtype = ir.DataType.FLOAT
        for value in (*graph.inputs, *graph.outputs):
            if value.dtype in OTHER_FLOATS:
                value.dtype = ir.DataType.FLOAT


def graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and all within it: the branches of every ``If``."""
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from graphs(attribute.value)


def _name_apart(graph: ir.Graph) -> None:
    """Two branches may use one name for different values."""
    for index, inner in enumerate(graphs(graph)):
        if index:
            for value in (*inner.initializers.values(), *(output for node in inner for output in node.outputs)):
                value.name = f"{value.name} of branch {index}"


def _free_batch(model: ir.Model) -> None:
    """Let reshapes to a fixed batch size take the batch as it comes.

    A reshape to (B, ...) of a tensor with B rows, where B is the batch of every input of the network, keeps its first
    dimension instead. Whether the freed network treats samples one by one is checked where it is captured.
    """
    sizes = {value.shape[0] for value in model.graph.inputs if value.shape is not None and len(value.shape) > 1}
    batch = sizes.pop() if len(sizes) == 1 else None
    if not isinstance(batch, int):
        return
    for node in model.graph:
        source, shape = (*node.inputs, None, None)[:2]
        if node.op_type != "Reshape" or source is None or shape is None or shape.const_value is None:
            continue
        wanted = shape.const_value.numpy().tolist()
        known = source.shape is None or len(source.shape) == 0 or source.shape[0] == batch
        if len(wanted) > 1 and wanted[0] == batch and known and -1 in wanted:
            wanted[0] = 0
        elif len(wanted) > 1 and wanted[0] == batch and known:
            wanted[0] = -1
        else:
            continue
        freed = ir.Value(name=f"{shape.name} of {node.outputs[0].name}", const_value=ir.tensor(np.array(wanted)))
        model.graph.initializers[str(freed.name)] = freed
        node.replace_input_with(1, freed)

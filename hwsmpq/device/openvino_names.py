"""Names of operations in OpenVINO's files, by which kernels of layers are found again."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from hwsmpq.device.openvino_bf16 import ATTENTION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMPUTE_OPS = {
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul", ATTENTION,
}
PASS_THROUGH_OPS = {"Add", "Convert", "Divide", "Multiply", "Reshape", "Squeeze", "Subtract", "Transpose", "Unsqueeze"}
LAYER = "/layer"
"""Ends the name of a layer's operation; a number behind it counts the operations behind that one."""
WEIGHT = "/weight"
"""Ends the name of a layer's weight, where nothing else reads it."""
FUSED_STEPS = 4


def name_layers(model: Any, layers: Mapping[str, tuple[Sequence[str], str]]) -> dict[str, str]:
    """Give every computing operation the name of its layer, and what follows it with constants alone too.

    Returns: of products of activations, the layer that the operation is named by: one may compute two. Empty where the
        operation was not found.

    OpenVINO names a node by its ONNX node, by its output tensor or by a counter, depending on the operation and its
    place in the graph, and a factor or a batch norm that it multiplies into a weight takes the place of the operation.
    A layer is therefore found by its weight, if that is still there and its own, and else by the first that is left of
    the tensors that it and what follows it write. A kernel may be named by what was fused into it, so that carries the
    layer's name too.
    """
    operations = [op for op in model.get_ordered_ops() if op.get_type_name() != "Result"]
    by_tensor = {name: op for op in operations for port in op.outputs() for name in port.get_names()}
    by_weight: dict[str, list[Any]] = defaultdict(list)
    for op in operations:
        if op.get_type_name() in COMPUTE_OPS:
            by_weight[_origin(op, 1).get_friendly_name()].append(op)
    n_readers = Counter(weight for _, weight in layers.values())
    named: dict[str, str] = {}
    products: dict[str, str] = {}
    for layer, (tensors, weight) in layers.items():
        is_own = bool(weight) and n_readers[weight] == 1
        found = by_weight[weight] if is_own else []
        op = found[0] if len(found) == 1 else next((by_tensor[name] for name in tensors if name in by_tensor), None)
        while op is not None and op.get_type_name() in PASS_THROUGH_OPS:
            op = op.input_value(0).get_node()
        if op is None or op.get_type_name() not in COMPUTE_OPS:
            if not weight:
                products[layer] = ""
            continue
        if not weight:
            products[layer] = named.setdefault(op.get_friendly_name(), layer)
            if products[layer] != layer:
                continue
            named[f"{layer}{LAYER}"] = layer
        op.set_friendly_name(f"{layer}{LAYER}")
        if is_own:
            _origin(op, 1).set_friendly_name(layer + WEIGHT)
        for step in range(FUSED_STEPS):
            op = _only_reader(op)
            if op is None:
                break
            op.set_friendly_name(f"{layer}{LAYER}{step}")
    return products


def _origin(op: Any, index: int) -> Any:
    """What an operation's input is made from by operations of constants."""
    op = op.input_value(index).get_node()
    while op.get_type_name() in PASS_THROUGH_OPS:
        op = op.input_value(0).get_node()
    return op


def _only_reader(op: Any) -> Any:
    """The operation that is all that reads a result, if all else that it reads are constants; else None."""
    readers = [port.get_node() for port in op.output(0).get_target_inputs()]
    if len(readers) != 1 or readers[0].get_type_name() not in PASS_THROUGH_OPS:
        return None
    others = [value.get_node() for value in readers[0].input_values()]
    names = {other.get_friendly_name() for other in others if other.get_type_name() != "Constant"}
    return readers[0] if names == {op.get_friendly_name()} else None

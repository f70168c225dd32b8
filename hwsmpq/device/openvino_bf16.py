"""Which operations of an OpenVINO model compute in bf16, told to the plugin in the file itself.

On processors with bf16 the plugin computes in it whatever it is not told to keep: an operation with the attribute
``precise`` in its runtime information stays in fp32 (seen in OpenVINO 2026.4; hints in the file are ignored). So every
operation gets it, except layers in bf16 and what computes on their results. Functions take the package as ``openvino``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

KEEP = {"name": "precise", "version": "0"}
CONSTANT, FP32, BF16 = "constant", "fp32", "bf16"
QUANTIZE = "FakeQuantize"
ATTENTION = "ScaledDotProductAttention"
REPLACED = {"Squeeze", "Unsqueeze"}
MOVES = {"Gather", "Reshape", "Slice", "SoftMax", "Split", "StridedSlice", "Transpose", "VariadicSplit", *REPLACED}
"""Operations whose kernels take in no quantizer behind them."""
MARGIN = 0.25
"""Share of a quantizer's step by which a clamp before it keeps inside its range: no value changes its level."""


def store_in_bf16(openvino: Any, model: Any, reduced: Collection[str]) -> None:
    """Store the weights of layers in bf16, which they are rounded to, in half the bytes."""
    stored: dict[str, Any] = {}
    for op in model.get_ordered_ops():
        if op.get_friendly_name() in reduced:
            weight = op.input_value(1).get_node()
            name = weight.get_friendly_name()
            if weight.get_type_name() == "Constant" and weight.get_element_type() == openvino.Type.f32:
                if name not in stored:
                    narrow = operations(openvino).constant(weight.data.copy(), dtype=openvino.Type.bf16)
                    narrow.set_friendly_name(name)
                    stored[name] = operations(openvino).convert(narrow, "f32")
                    stored[name].set_friendly_name(f"{name}.wide")
                op.input(1).replace_source_output(stored[name].output(0))


def separate_attention(openvino: Any, model: Any, reduced: Collection[str]) -> None:
    """Write attention as the products that it is, where these stay in fp32: the plugin does so too, without the
    attribute. Between them is what the first one's name tells from those of others."""
    make = operations(openvino)
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        if op.get_type_name() != ATTENTION or name in reduced or op.get_attributes().get("causal"):
            continue
        query, key, value, *rest = op.input_values()
        scale = rest[1] if len(rest) > 1 else np.float32(key.get_partial_shape()[-1].get_length() ** -0.5)
        scores = make.matmul(make.multiply(query, scale), key, False, True)
        scores.set_friendly_name(f"{name}.scores")
        if rest and not (rest[0].get_node().get_type_name() == "Constant" and not rest[0].get_node().data.any()):
            scores = make.add(scores, rest[0])
        result = make.matmul(make.softmax(scores, -1), value, False, False)
        result.output(0).set_names(op.output(0).get_names())
        for reader in op.output(0).get_target_inputs():
            reader.replace_source_output(result.output(0))
        result.set_friendly_name(name)


def kept_in_fp32(openvino: Any, model: Any, layers: Collection[str], reduced: Collection[str]) -> set[str]:
    """Names of the operations that are to stay in fp32; names become unique, and the model is prepared for it.

    In bf16 is an operation that reads only results in bf16, unless no layer follows it and it is no bias, and a result
    of integers that is read in bf16 alone.

    Args:
        layers: names of the operations that are layers.
        reduced: those of them that run in bf16.
    """
    operations = [op for op in model.get_ordered_ops() if op.get_type_name() != "Result"]
    _make_names_unique(operations)
    named = {op.get_friendly_name(): op for op in operations}
    quantizers = {name for name, op in named.items() if op.get_type_name() == QUANTIZE}
    readers: dict[str, list[str]] = {name: [] for name in named}
    read: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    of_integers: set[str] = set()
    for name, op in named.items():
        sources = [value.get_node().get_friendly_name() for value in op.input_values()]
        read[name] = [source for source in sources if kinds[source] != CONSTANT]
        for source in sources:
            readers[source].append(name)
        in_bf16 = bool(read[name]) and all(kinds[source] == BF16 for source in read[name])
        if name in reduced or (in_bf16 and name not in layers and name not in quantizers):
            kinds[name] = BF16
        else:
            kinds[name] = FP32 if read[name] or op.get_type_name() == "Parameter" else CONSTANT
        if read[name] and (quantizers if name in layers else of_integers).issuperset(read[name]):
            of_integers.add(name)
    precedes_layer: set[str] = set()
    for name in reversed(named):
        if name in layers or name in precedes_layer:
            precedes_layer.update(read[name])
        elif kinds[name] == BF16 and not (named[name].get_type_name() == "Add" and read[name][0] in reduced):
            kinds[name] = FP32
        if kinds[name] == FP32 and name in of_integers and len(read[name]) == 1:
            in_bf16 = bool(readers[name]) and all(kinds[reader] == BF16 for reader in readers[name])
            kinds[name] = BF16 if in_bf16 else FP32
    kept = {name for name in named if kinds[name] == FP32}
    for name in list(kept):
        if named[name].get_type_name() in REPLACED:
            _reshape(openvino, named[name])
        elif name in layers and (reduced or name not in of_integers):
            kept.update(_apart_from_bias(openvino, named[name]))
        if name not in quantizers:
            kept.update(_converted(openvino, named[name], kinds))
        elif any(kinds[source] == BF16 for source in read[name]):
            kept.remove(name)
        else:
            kept.update(_clamped(openvino, named[name], bool(reduced)))
    return kept


def _reshape(openvino: Any, op: Any) -> None:
    """Put a reshape in the place of an operation that the plugin replaces by one, without the attribute."""
    shape = [-1 if size.is_dynamic else size.get_length() for size in op.output(0).get_partial_shape()]
    if shape.count(-1) <= 1:
        reshape = operations(openvino).reshape(op.input_value(0), np.asarray(shape, np.int64), False)
        reshape.output(0).set_names(op.output(0).get_names())
        for reader in op.output(0).get_target_inputs():
            reader.replace_source_output(reshape.output(0))
        reshape.set_friendly_name(op.get_friendly_name())


def _apart_from_bias(openvino: Any, layer: Any) -> set[str]:
    """The name of a clamp to all of fp32 put behind a matrix product, since the plugin makes one operation of product
    and bias, without the attribute; none where there is nothing to add."""
    readers = list(layer.output(0).get_target_inputs())
    if layer.get_type_name() != "MatMul" or len(readers) != 1 or readers[0].get_node().get_type_name() != "Add":
        return set()
    largest = float(np.finfo(np.float32).max)
    clamp = operations(openvino).clamp(layer.output(0), -largest, largest)
    clamp.set_friendly_name(f"{layer.get_friendly_name()}.kept")
    readers[0].replace_source_output(clamp.output(0))
    return {clamp.get_friendly_name()}


def _converted(openvino: Any, op: Any, kinds: dict[str, str]) -> set[str]:
    """Names of conversions put before an operation in fp32, for each input in bf16: the plugin would make a kernel of
    both, which there is none for."""
    names: set[str] = set()
    for index, value in enumerate(op.input_values()):
        if kinds.get(value.get_node().get_friendly_name()) == BF16:
            narrow = operations(openvino).convert(value, "bf16")
            wide = operations(openvino).convert(narrow, "f32")
            for step, node in enumerate((narrow, wide)):
                node.set_friendly_name(f"{op.get_friendly_name()}.bf16.{index}.{step}")
                names.add(node.get_friendly_name())
            op.input(index).replace_source_output(wide.output(0))
    return names


def _make_names_unique(operations: Sequence[Any]) -> None:
    names: set[str] = set()
    for op in operations:
        name = op.get_friendly_name()
        while name in names:
            name += "_"
        names.add(name)
        op.set_friendly_name(name)


def _clamped(openvino: Any, quantize: Any, has_bf16: bool) -> set[str]:
    """The name of a clamp put before a quantizer that stands alone, for the attribute, which passes of the plugin take
    from quantizers; none where it needs none.

    Args:
        has_bf16: whether any layer of the model runs in bf16.
    """
    value = quantize.input_value(0)
    source, ends = value.get_node(), [quantize.input_value(i).get_node() for i in (1, 2)]
    if source.get_type_name() == "Parameter" or any(end.get_type_name() != "Constant" for end in ends):
        return set()
    low, high = (end.data.astype(np.float64) for end in ends)
    margin = MARGIN * (high - low) / (quantize.get_attributes()["levels"] - 1)
    low, high = low + margin, high - margin
    if has_bf16 and source.get_type_name() in MOVES:
        # From below suffices. With several numbers: the plugin moves what has one for all to other operations.
        shape = value.get_partial_shape()
        if low.size == 1 and shape[len(shape) - 1].is_static:
            low = low.reshape(-1).repeat(shape[len(shape) - 1].get_length())
        clamp = operations(openvino).maximum(value, low.astype(np.float32))
    elif len(value.get_target_inputs()) > 1:
        clamp = operations(openvino).clamp(value, float(low.min()), float(high.max()))
    else:
        return set()
    clamp.set_friendly_name(f"{quantize.get_friendly_name()}.kept")
    quantize.input(0).replace_source_output(clamp.output(0))
    return {clamp.get_friendly_name()}


def keep_in_fp32(path: Path, names: Collection[str]) -> None:
    """Give operations of a saved model the attribute."""
    tree = ElementTree.parse(path)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names:
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, info)
            ElementTree.SubElement(info, "attribute", KEEP)
    tree.write(path)


def operations(openvino: Any) -> Any:
    """What makes operations; it lay elsewhere before 2025."""
    return openvino.opset13 if hasattr(openvino, "opset13") else openvino.runtime.opset13

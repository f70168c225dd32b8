"""AIMET's encodings (format 1.0.0): a network in floats, and a JSON file with the grid of every quantized tensor.

Qualcomm's converters read both (`--quantization_overrides`), as `aimet_onnx` does (`quantsim.load_encodings_to_sim`).
A value is (q + offset) * scale of an unsigned integer q of ``bw`` bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsmpq.artifacts import write_bytes
from hwsmpq.engine.build import ONNX_FILE
from hwsmpq.engine.handout import check_empty
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.hardware.stored import along
from hwsmpq.quantize.qdq import READS
from hwsmpq.types import PRECISIONS, Manifest, Network, Precision

if TYPE_CHECKING:
    import onnx

FORMAT = "1.0.0"
MODEL_FILE, ENCODINGS_FILE = "model.onnx", "model.encodings"
OWN = ".in"
"""Behind the name of a weight: the tensor that is on a grid, where others read it in floats."""


def export_encodings(run_folder: Path, to: Path) -> tuple[Path, ...]:
    """Write ``model.onnx`` and ``model.encodings`` of the engine of a run folder.

    The weights are those of the quantized layers, on their grids. A tensor that some layers read in one format and some
    in another is passed on by an Identity to each of those that quantize it, since an encoding is of a whole tensor.

    Returns:
        The files in ``to``.

    Raises:
        HwsmpqError: there is no engine, a layer is in fp8, or ``to`` holds something.
    """
    run = Folder(run_folder)
    manifest = run.check_engine()
    check_empty(to)
    network = run.read(Network)
    precisions = {
        layer.name: PRECISIONS[manifest.assignment[network.group_of(layer.name)]] for layer in network.layers
    }
    floating = next((name for name, precision in precisions.items() if precision.weight_format == "fp8"), None)
    if floating is not None:
        raise HwsmpqError(
            f"{floating} is in fp8", "AIMET's encodings hold integers", "search again with a ladder without fp8"
        )
    weights = {layer.name: layer.weight_name for layer in network.weighted}
    return write_encodings(run.path(Manifest).parent / ONNX_FILE, precisions, weights, to)


def write_encodings(
    qdq_file: Path, precisions: Mapping[str, Precision], weights: Mapping[str, str], to: Path
) -> tuple[Path, ...]:
    """The files of a Q/DQ ONNX file.

    Args:
        precisions: of every layer, by name.
        weights: the name of the weight of every layer that has one.
    """
    import onnx

    model = onnx.load(qdq_file)
    rewriter = _Rewriter(model.graph)
    found = {
        "version": FORMAT, "excluded_layers": [],
        "activation_encodings": [
            one for name, p in precisions.items() for read in READS for one in rewriter.activation(name + read, p)
        ],
        "param_encodings": [
            one for name, weight in weights.items() for one in rewriter.weight(weight, precisions[name])
        ],
    }
    rewriter.drop_unused()
    write_bytes(to / MODEL_FILE, model.SerializeToString())
    write_bytes(to / ENCODINGS_FILE, json.dumps(found, indent=1).encode())
    return to / MODEL_FILE, to / ENCODINGS_FILE


class _Rewriter:
    """Takes quantizers out of a graph, in place."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._nodes = {node.name: node for node in graph.node}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def activation(self, read: str, precision: Precision) -> Iterator[dict[str, Any]]:
        """The encoding of what a layer reads in integers, where it is the first that does."""
        from onnx import helper

        quantize = self._nodes.get(f"{read}.quantize")
        if quantize is None:
            return
        scale, zero_point = (self._value(name) for name in quantize.input[1:3])
        back = next(node for node in self._graph.node if list(node.input[:1]) == list(quantize.output))
        clip = self._nodes.get(f"{read}.clip")
        first = quantize if clip is None else clip
        source = first.input[0]
        gone = [node for node in (clip, quantize, back) if node is not None]
        if len(self._readers(source)) > 1:
            source = read
            self._graph.node.insert(
                list(self._graph.node).index(first), helper.make_node("Identity", [first.input[0]], [source], source)
            )
        self._replace(back.output[0], source)
        for node in gone:
            self._graph.node.remove(node)
        is_signed = zero_point.dtype == np.int8
        offset = -(2 ** (precision.activation_bits - 1)) if is_signed else -int(zero_point)
        yield _encoding(source, precision.activation_bits, is_signed, scale.reshape(1), offset)

    def weight(self, name: str, precision: Precision) -> Iterator[dict[str, Any]]:
        """The encoding of a quantized weight, which becomes one in floats; once for all layers that share it."""
        from onnx import numpy_helper

        back = self._nodes.pop(f"{name}.dequantize", None)
        if back is None:
            return
        quantize = self._nodes.get(f"{name}.quantize")
        scale = self._value(back.input[1])
        axis, block = (
            next((one.i for one in back.attribute if one.name == key), default)
            for key, default in (("axis", 1), ("block_size", 0))
        )
        values = self._value((back if quantize is None else quantize).input[0])
        scales = along(scale, values, axis, block)
        real = values.astype(scales.dtype) * scales if quantize is None else (values / scales).round() * scales
        own = f"{name}{OWN}" if name in self._tensors else name
        self._graph.initializer.append(numpy_helper.from_array(real.astype(np.float32), own))
        self._replace(back.output[0], own)
        for node in (quantize, back):
            if node is not None:
                self._graph.node.remove(node)
        found = _encoding(own, precision.weight_bits, True, scale, -(2 ** (precision.weight_bits - 1)))
        yield found | ({"enc_type": "PER_BLOCK", "block_size": block} if block else {"enc_type": "PER_CHANNEL"})

    def drop_unused(self) -> None:
        """Take constants out that nothing reads any more."""
        read = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _value(self, name: str) -> Any:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name])

    def _readers(self, tensor: str) -> list[Any]:
        outputs = [one for one in self._graph.output if one.name == tensor]
        return [node for node in self._graph.node if tensor in node.input] + outputs

    def _replace(self, tensor: str, by: str) -> None:
        for node in self._graph.node:
            for index, name in enumerate(node.input):
                if name == tensor:
                    node.input[index] = by


def _encoding(name: str, bits: int, is_symmetric: bool, scale: Any, offset: int) -> dict[str, Any]:
    return {
        "name": name, "dtype": "INT", "bw": bits, "is_sym": is_symmetric, "enc_type": "PER_TENSOR",
        "scale": scale.astype(float).ravel().tolist(), "offset": [offset] * scale.size,
    }

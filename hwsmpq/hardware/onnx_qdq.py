"""A portable Q/DQ ONNX file with any bit-widths: an artifact without a runtime, so without a latency claim."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.device.files import copy_onnx
from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.stored import Stored, stored_in_onnx
from hwsmpq.hardware.target import Target
from hwsmpq.types import MAX_BITS, MIN_BITS, PRECISIONS, WITH_WEIGHTS, Layer, Precision

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"
FIELDS = ("activations", "weights", "scales")
"""Of a file that describes a scheme."""
NARROW_TYPES = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}
BY_TYPES = {
    # (type of the activation, type of the weight) -> precision
    ("FLOAT", "FLOAT"): "fp32",
    ("FLOAT16", "FLOAT16"): "fp16",
    ("BFLOAT16", "BFLOAT16"): "bf16",
    ("FLOAT8E4M3FN", "FLOAT8E4M3FN"): "fp8",
}


class OnnxQdqTarget(Target):
    """The Q/DQ file itself. Accuracy is the simulator's, cost is counted in BitOps and bytes.

    Args:
        scheme: what the hardware asks for, in words (see :func:`hwsmpq.quantize.scheme.scheme_of_words`) or as a JSON
            file with ``activations``, ``weights`` and ``scales``; by default unsigned activations and weights per
            channel.

    Raises:
        HwsmpqError: no such scheme.
    """

    name = "onnx-qdq"
    native = (*(p.name for p in PRECISIONS.values() if p.has_integer_operands), "fp32")
    has_latency = False
    takes_shapes = True
    least_weight_bits = 8
    kinds = WITH_WEIGHTS | {"product"}
    claim = "simulated accuracy of a Q/DQ model; no latency claim"

    def __init__(self, scheme: str = "") -> None:
        self._scheme_name = "unsigned_activations"
        if scheme:
            from hwsmpq.quantize.scheme import OF_WORDS, scheme_of_words

            self._scheme_name = scheme_of_words(_read_words(Path(scheme)) if scheme.endswith(".json") else scheme).name
            self.name = f"{type(self).name}:{self._scheme_name.removeprefix(OF_WORDS)}"

    @property
    def scheme_name(self) -> str:
        return self._scheme_name

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("onnx") is None:
            return "the onnx package is not installed (pip install onnx)"
        return None

    def machine(self) -> dict[str, str]:
        import onnx

        return {"runtime": f"onnx {onnx.__version__} (file only, nothing is executed)"}

    def build(self, onnx: Path, folder: Path) -> None:
        _checked(onnx)
        copy_onnx(onnx, folder / FILE)

    def stored(self, folder: Path, layers: Sequence[Layer]) -> dict[str, Stored]:
        return stored_in_onnx(folder / FILE, layers)

    def load(self, folder: Path) -> Engine:
        if not (folder / FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{FILE} is missing", "build the engine first")
        return OnnxQdqEngine(_checked(folder / FILE))


class OnnxQdqEngine(Engine):
    """Reads precisions back from the graph; cannot run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._nodes = {node.name: node for node in graph.node}
        self._producer = {output: node for node in graph.node for output in node.output}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        raise HwsmpqError(
            "target onnx-qdq has no runtime", "it writes a portable file and runs nothing",
            "use the simulator for accuracy, or --target openvino-cpu",
        )

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        raise HwsmpqError("target onnx-qdq has no runtime", "it times nothing", "use --target openvino-cpu")

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        return {layer: self._precision(layer) for layer in layers}

    def _precision(self, layer: str) -> str:
        """What the graph around one layer computes.

        The values of a weight bound its bits from below only, so the writer's own statement of the precision
        decides between the widths that the graph allows, and never beyond them.
        """
        if layer not in self._nodes:
            raise HwsmpqError(f"layer {layer!r} is not in the ONNX file", "no node carries its name", "export again")
        node = self._nodes[layer]
        activation, weight = (self._source(name) for name in node.input[:2])
        types = self._type(node.input[0]), self._type(node.input[1])
        if types == ("INT", "INT"):
            assert activation is not None and weight is not None
            if weight.input[0] not in self._initializers:  # another activation
                return Precision.integer(self._activation_bits(weight), self._activation_bits(activation)).name
            fewest, most = self._weight_bits(weight)
            stated = self._stated(node)
            weight_bits = min(max(stated.weight_bits, fewest), most) if stated else fewest
            return Precision.integer(max(weight_bits, MIN_BITS), self._activation_bits(activation)).name
        if types == ("FLOAT16", "INT"):
            assert weight is not None
            return "w4a16" if self._weight_bits(weight)[1] == 4 else "w8a16"
        return BY_TYPES.get(types, " x ".join(types))

    def _type(self, name: str) -> str:
        """Type that an operand has before it is dequantized, or is computed in."""
        import onnx

        name = self._before_transposes(name)
        source = self._producer.get(name)
        if source is not None and source.op_type == "DequantizeLinear":
            stored = source.input[0]
            quantize = self._producer.get(stored)
            data_type = self._initializers[quantize.input[2] if quantize is not None else stored].data_type
            kind = onnx.TensorProto.DataType.Name(data_type)
            return "INT" if kind.startswith(("INT", "UINT")) else kind
        if source is not None and source.op_type == "Cast":
            return onnx.TensorProto.DataType.Name(source.attribute[0].i)
        tensor = self._initializers.get(name)
        return "FLOAT" if tensor is None else onnx.TensorProto.DataType.Name(tensor.data_type)

    def _stated(self, node: onnx.NodeProto) -> Precision | None:
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        precision = PRECISIONS.get(metadata.get("hwsmpq.precision", ""))
        return None if precision is None or precision.is_float else precision

    def _weight_bits(self, dequantize: onnx.NodeProto) -> tuple[int, int]:
        """Fewest bits that hold the integers of a signed symmetric weight, and the bits of their storage type."""
        from onnx import numpy_helper

        tensor = self._initializers[dequantize.input[0]]
        largest = int(np.abs(numpy_helper.to_array(tensor).astype(np.int64)).max(initial=0))
        return math.ceil(math.log2(largest + 1)) + 1, _storage_bits(tensor.data_type)

    def _activation_bits(self, dequantize: onnx.NodeProto) -> int:
        """Bits of an activation: of its integer type, or fewer if a clip comes right before quantization."""
        quantize = self._producer[dequantize.input[0]]
        bits = _storage_bits(self._initializers[quantize.input[2]].data_type) if len(quantize.input) > 2 else MAX_BITS
        clip = self._producer.get(quantize.input[0])
        if clip is not None and clip.op_type == "Clip" and all(n in self._initializers for n in clip.input[1:3]):
            scale, low, high = (self._constant(n) for n in (quantize.input[1], *clip.input[1:3]))
            bits = min(bits, math.ceil(math.log2(round((high - low) / scale) + 1)))
        return max(bits, MIN_BITS)

    def _constant(self, name: str) -> float:
        from onnx import numpy_helper

        return float(numpy_helper.to_array(self._initializers[name]))

    def _source(self, name: str) -> onnx.NodeProto | None:
        return self._producer.get(self._before_transposes(name))

    def _before_transposes(self, name: str) -> str:
        while name in self._producer and self._producer[name].op_type == "Transpose":
            name = self._producer[name].input[0]
        return name


def _read_words(file: Path) -> str:
    """The words of a scheme in a file."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        return ",".join(str(given[name]) for name in FIELDS if given.get(name) not in (None, "any"))
    except (OSError, ValueError, AttributeError) as error:
        raise HwsmpqError(
            f"no quantization scheme in {file}", str(error),
            'it holds for example {"activations": "symmetric", "weights": "per-tensor", "scales": "power-of-two"}',
        ) from error


def _storage_bits(data_type: int) -> int:
    import onnx

    return NARROW_TYPES.get(onnx.TensorProto.DataType.Name(data_type), MAX_BITS)


def _checked(path: Path) -> onnx.ModelProto:
    import onnx

    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(path)
    except Exception as error:
        raise HwsmpqError(f"{path} is not a valid ONNX file", str(error)[:500], "export the model again") from error
    return model

"""The target ``openvino-cpu``: OpenVINO on a processor, with engines of int8, bf16, fp32 and weight-only layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import HERE, Device
from hwsmpq.hardware.openvino_ir import stored_in_ir
from hwsmpq.hardware.processor import claim_of, scheme_of
from hwsmpq.hardware.stored import Stored
from hwsmpq.hardware.target import Target
from hwsmpq.types import ONNX_LAYERS, PRECISION_KEY, REFERENCE, WITH_WEIGHTS, Kind, Layer, OnnxForm

if TYPE_CHECKING:
    import onnx

    from hwsmpq.model.capture import Captured

FUSED_OPS = {"Add", "BatchNormalization", "Cast", "Div", "Mul", "Reshape", "Sub"}
"""What OpenVINO may make a part of the layer before it, where all else that it reads are constants."""
WEIGHT_ONLY = {"w4a16", "w8a16"}
FEWEST_INPUTS, FEWEST_OUTPUTS = 4, 2
"""Of a matrix product whose weight the plugin keeps in integers; smaller ones it dequantizes at every inference."""
PER_TENSOR = "per-tensor"
NO_BF16 = "the processor has neither avx512_bf16 nor AMX, or OpenVINO does not name bf16 among its capabilities"


class OpenvinoCpuTarget(Target):
    """OpenVINO CPU plugin. Input-side Q/DQ with unsigned asymmetric activations becomes int8 kernels; products of
    floats with a dequantized weight become kernels that read integers and dequantize them as they compute.

    All that is no integer is computed in fp32, also the fp16 side of weight-only layers: where the simulator rounds to
    fp16, the engine does not. Except, where the processor computes in it, layers in ``bf16`` and what is made of their
    results alone.

    Args:
        options: ``per-tensor`` gives all channels of a weight one scale, as some exporters and tools do.

    Raises:
        HwsmpqError: unknown options.
    """

    form = OnnxForm(casts=False)
    has_latency = True
    anywhere = True
    takes_shapes = True

    def __init__(self, options: str = "", n_threads: int = 1, device: Device = HERE, n_streams: int = 1) -> None:
        if options not in ("", PER_TENSOR):
            raise HwsmpqError(f"openvino-cpu has no option {options!r}", f"it knows {PER_TENSOR!r}", "leave it out")
        self._options, self._n_threads, self.device, self._n_streams = options, n_threads, device, n_streams
        self._runtime = device.runtime("openvino")
        self.name = f"openvino-cpu:{options}" if options else "openvino-cpu"

    def with_threads(self, n_threads: int) -> Target:
        return OpenvinoCpuTarget(self._options, n_threads, self.device, self._n_streams)

    def with_streams(self, n_streams: int) -> Target:
        return OpenvinoCpuTarget(self._options, self._n_threads, self.device, n_streams)

    def on(self, device: Device) -> Target:
        return OpenvinoCpuTarget(self._options, self._n_threads, device, self._n_streams)

    @property
    def native(self) -> tuple[str, ...]:  # type: ignore[override]
        """With ``bf16`` where the processor has instructions for it; elsewhere it is emulated, several times slower."""
        return ("w4a16", "int8", "w8a16", *(["bf16"] if self._runtime.capabilities()["bf16"] else []), "fp32")

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        """Products of activations where kernels of integers are exact: those without dot products saturate."""
        return WITH_WEIGHTS if self._runtime.capabilities()["int8_saturates"] else WITH_WEIGHTS | {"product"}

    @property
    def claim(self) -> str:  # type: ignore[override]
        return claim_of(self.machine()["architecture"])

    @property
    def default_ladder(self) -> tuple[str, ...]:
        return tuple(name for name in ("int8", "bf16", REFERENCE) if name in self.native)

    def why_not(self, precision: str) -> str | None:
        return NO_BF16 if precision == "bf16" else None

    @property
    def scheme_name(self) -> str:
        name = "unsigned_activations" + ("_per_tensor" if self._options == PER_TENSOR else "")
        return scheme_of(name, self._runtime.capabilities())

    def unavailable(self) -> str | None:
        return self._runtime.unavailable()

    def machine(self) -> dict[str, str]:
        streams = {"n_streams": str(self._n_streams)} if self._n_streams > 1 else {}
        return {**self._runtime.describe(), "n_threads": str(self._n_threads), **streams}

    def conditions(self) -> dict[str, str]:
        return self._runtime.conditions()

    def runs(self, layer: Layer, precision: str) -> bool:
        """Weight-only are linear layers, in 4 bits those whose inputs divide into blocks."""
        if precision not in WEIGHT_ONLY:
            return precision in self.native
        if layer.kind != "linear" or (precision == "w4a16" and layer.block_size is None):
            return False
        n_outputs, n_inputs = layer.weight_shape
        return n_outputs >= FEWEST_OUTPUTS and n_inputs >= FEWEST_INPUTS

    def ties(self, captured: Captured) -> tuple[tuple[str, ...], ...]:
        """The products of one attention, which one kernel computes with the softmax between them."""
        network = captured.network
        writers = {read.tensor: read.writer for read in network.reads}
        pairs = [(writers[layer.input_tensor], layer.name) for layer in network.layers if not layer.has_weight]
        return tuple((first, second) for first, second in pairs if first in network.products)

    def rewrite(self, onnx: bytes) -> bytes:
        from hwsmpq.hardware.openvino_rewrites import rewrite

        return rewrite(onnx)

    def build(self, onnx: Path, folder: Path) -> None:
        graph = _read(onnx)
        bf16 = [node.name for node in graph.node for entry in node.metadata_props
                if (entry.key, entry.value) == (PRECISION_KEY, "bf16")]
        self._runtime.build(onnx, folder, {"layers": _layers(graph), "bf16": bf16})

    def stored(self, folder: Path, layers: Sequence[Layer]) -> dict[str, Stored]:
        return stored_in_ir(folder, layers)

    @property
    def computes_in(self) -> str:
        return str(self._runtime.capabilities()["computes_in"])

    def build_untouched(self, onnx: Path, folder: Path) -> None:
        self._runtime.build(onnx, folder, {"untouched": True})

    def load_plainly(self, folder: Path) -> Engine:
        return self._runtime.load(folder, {**self._execution, "plain": True})

    def load(self, folder: Path) -> Engine:
        return self._runtime.load(folder, self._execution)

    @property
    def _execution(self) -> dict[str, int]:
        """How engines are loaded."""
        return {"n_threads": self._n_threads, "n_streams": self._n_streams}


def _read(path: Path) -> onnx.GraphProto:
    import onnx

    try:
        return onnx.load(path, load_external_data=False).graph
    except Exception as error:
        raise HwsmpqError(f"{path} is not a valid ONNX file", str(error)[:500], "export the model again") from error


def _layers(graph: onnx.GraphProto) -> dict[str, tuple[list[str], str]]:
    """Of every layer of an ONNX file: the tensors that it and what follows it with constants alone write, and the
    initializer that its weight is made from. A product of activations has none, and the result of the attention that it
    begins is a tensor of its too."""
    from hwsmpq.hardware.openvino_rewrites.attention import BETWEEN

    producers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    fixed = set(constants)
    for node in graph.node:
        fixed.update(node.output if fixed.issuperset(filter(None, node.input)) else ())
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def stored(name: str) -> str:
        return stored(producers[name].input[0]) if name in producers and producers[name].input else name

    def following(tensor: str) -> list[str]:
        (reader, *others) = readers.get(tensor, [None])
        if reader is None or others or reader.op_type not in FUSED_OPS or {*reader.input} - {tensor, *constants}:
            return [tensor]
        return [tensor, *following(reader.output[0])]

    def attention(tensor: str) -> list[str]:
        (reader, *others) = readers.get(tensor, [None])
        if reader is None or others or reader.op_type not in (*BETWEEN, "Softmax", "MatMul"):
            return []
        return [reader.output[0]] if reader.op_type == "MatMul" else attention(reader.output[0])

    found = {}
    for node in graph.node:
        if node.op_type in ONNX_LAYERS:
            weight = stored(node.input[1]) if node.input[1] in fixed else ""
            found[node.name] = following(node.output[0]) + ([] if weight else attention(node.output[0])), weight
    return found

"""OpenVINO on the processor."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from hwsmpq.device import cpu, memory
from hwsmpq.device.openvino_bf16 import (
    ATTENTION,
    keep_in_fp32,
    kept_in_fp32,
    operations,
    separate_attention,
    store_in_bf16,
)
from hwsmpq.device.runtime import NOT_AUDITED, UNATTRIBUTED, Engine, Runtime
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPUTE_OPS = {
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul", ATTENTION,
}
PASS_THROUGH_OPS = {"Add", "Convert", "Divide", "Multiply", "Reshape", "Squeeze", "Subtract", "Transpose", "Unsqueeze"}
SUBGRAPH, FULLY_CONNECTED = "Subgraph", "FullyConnected"
COMPUTE_KERNELS = {"Convolution", "Deconvolution", FULLY_CONNECTED, "MatMul", ATTENTION}
INTEGERS = {"i8", "u8"}
PRECISIONS = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
WEIGHT_ONLY = {"i4": "w4a16", "u4": "w4a16", "i8": "w8a16", "u8": "w8a16"}
"""Type of the stored weight -> precision of a product that reads floats."""
CONFIG = {
    # Pinning to one core makes two processes on a shared machine fight for the same core.
    "ENABLE_CPU_PINNING": False,
}
INFERENCES_A_STREAM = 8
"""Of a measurement of streams: all but the last of them run beside others."""
GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
HINT = "INFERENCE_PRECISION_HINT"
COMPUTES_IN = ["hwsmpq", HINT.lower()]
"""Where a file says which hint its engine is compiled with: bf16 if any of its layers is, else f32."""
PRODUCTS = ["hwsmpq", "products"]
"""Where it says, by product of activations, which layer's operation computes it: the first of its attention's."""
BF16 = "BF16"
"""The capability of a processor that computes in it."""
FILE = "model.xml"
LAYER = "/layer"
"""Ends the name of a layer's operation; a number behind it counts the operations behind that one."""
WEIGHT = "/weight"
"""Ends the name of a layer's weight, where nothing else reads it."""
FUSED_STEPS = 4
SUFFIXES = (
    WEIGHT,
    *(
        f"{LAYER}{step}{replaced}"
        for step in ("", *range(FUSED_STEPS)) for replaced in ("", "_original", "/DequantizationMultiply")
    ),
)
"""What a kernel's origins and constants append to a layer's name, as passes of the plugin replaced its operation."""


class OpenvinoRuntime(Runtime):
    """OpenVINO's CPU plugin.

    Options of a build: ``layers``: of every layer the tensors of the ONNX file that it and what follows it with
    constants alone write, and its stored weight, empty for a product of activations; ``bf16``: the layers that run in
    it. Or ``untouched``: true for a file as it comes, with nothing said in it. Of a load: ``n_threads`` of an
    inference, ``n_streams``: inferences side by side; ``plain``: true without any other setting.
    """

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "the openvino package is not installed (pip install openvino)"
        return None

    def describe(self) -> dict[str, str]:
        self._require()
        import openvino

        core = openvino.Core()
        return {
            **cpu.describe(),
            "device": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
            "runtime": f"openvino {openvino.__version__}",
            "capabilities": ",".join(sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
        }

    def capabilities(self) -> dict[str, Any]:
        return {
            "int8_saturates": cpu.int8_saturates(), "bf16": self.unavailable() is None and _computes_in_bf16(),
            "computes_in": "fp32" if self.unavailable() else _default_precision(),
        }

    def start(self) -> None:
        self._require()
        import openvino

        nothing = operations(openvino).parameter([1], openvino.Type.f32)
        model = openvino.Model([operations(openvino).relu(nothing)], [nothing])
        openvino.Core().compile_model(model, "CPU").create_infer_request().infer([np.zeros(1, np.float32)])

    def build(self, onnx: Path, folder: Path, options: Mapping[str, Any]) -> None:
        self._require()
        import openvino

        try:
            model = _converted(onnx)
        except Exception as error:
            raise HwsmpqError(
                f"OpenVINO cannot convert {onnx}", _refusal(error),
                "replace the operation it names in the model, or use another target",
            ) from error
        kept = set() if options.get("untouched") else _prepared(model, options)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                openvino.save_model(model, Path(temporary) / FILE, compress_to_fp16=False)
                keep_in_fp32(Path(temporary) / FILE, kept)
                # The xml goes last: its presence says that the weights beside it are complete.
                for suffix in (".bin", ".xml"):
                    os.replace((Path(temporary) / FILE).with_suffix(suffix), (folder / FILE).with_suffix(suffix))
        except (OSError, RuntimeError) as error:
            raise HwsmpqError(
                f"cannot write the engine into {folder}", str(error), "free space or choose another folder",
            ) from error

    def load(self, folder: Path, options: Mapping[str, Any]) -> Engine:
        self._require()
        if not (folder / FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{FILE} is missing", "build the engine first")
        engine = OpenvinoEngine(folder / FILE, options["n_threads"], options["n_streams"], bool(options.get("plain")))
        if engine.hint == "bf16" and not _computes_in_bf16():
            raise HwsmpqError(
                f"the engine in {folder} computes in bf16", "this processor does not", "search again on this machine",
            )
        return engine

    def _require(self) -> None:
        reason = self.unavailable()
        if reason:
            raise HwsmpqError("OpenVINO cannot be used here", reason, "install it, or use --target onnx-qdq")


class OpenvinoEngine(Engine):
    """A compiled OpenVINO model with a queue of one inference request a stream; ``hint`` is what its floats are
    computed in, unless the file says otherwise."""

    def __init__(self, path: Path, n_threads: int = 1, n_streams: int = 1, plain: bool = False) -> None:
        self._path, self._n_threads, self._n_streams, self._plain = path, n_threads, n_streams, plain
        self.reload()

    def reload(self) -> None:
        self._compiled = self._compile({})
        self._queue = self._queue_of(self._compiled)
        self._request = self._queue[0]

    def clock(self) -> float:
        # With one stream and one thread the plugin computes in the calling thread (measured: thread time is
        # 99 % of wall time), so its CPU time leaves out whatever else the machine does.
        return time.thread_time() if self._n_threads == self._n_streams == 1 else time.perf_counter()

    def milliseconds(self, inputs: Sequence[NDArray[Any]]) -> float:
        if self._n_streams == 1:
            return super().milliseconds(inputs)
        start = self.clock()
        n = self._in_turns(self._queue, inputs)
        return (self.clock() - start) * 1e3 / n

    def peak_mb(self, inputs: Sequence[NDArray[Any]]) -> float | None:
        options = {"n_threads": self._n_threads, "n_streams": self._n_streams, "plain": self._plain}
        return memory.peak_mb("openvino", self._path.parent, options, inputs)

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            result = self._request.infer(list(inputs), share_inputs=True)
        except Exception as error:
            expected = ", ".join(str(port.partial_shape) for port in self._compiled.inputs)
            raise HwsmpqError(
                f"the engine refuses inputs of shapes {[tuple(x.shape) for x in inputs]}",
                f"it was built for {expected} ({_refusal(error)})", "pass batches of the size that it was built for",
            ) from error
        return [result[port] for port in self._compiled.outputs]

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        kernels = {name: self._kernels[node] for node, names in self._layer_kernels(layers).items() for name in names}
        return {
            layer: _precision(kernels[layer], layer, self.hint, layer in self._products)
            if layer in kernels else NOT_AUDITED
            for layer in layers
        }

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        owners = self._layer_kernels(layers)
        # A compilation of its own: counting costs time that the timed engine should not pay.
        counting = self._queue_of(self._compile({"PERF_COUNT": True}))
        samples: dict[str, list[float]] = defaultdict(list)
        for _ in range(3 + n_repeats):
            self._in_turns(counting, inputs)
            for request in counting:
                for node in request.get_profiling_info():
                    samples[node.node_name].append(node.real_time.total_seconds() * 1e3)
        total = dict.fromkeys([*layers, UNATTRIBUTED], 0.0)
        for node_name, times in samples.items():
            # Counters are whole microseconds: the mean of the fastest third resolves less than one of them.
            fastest = float(np.sort(times[3 * self._n_streams :])[: max(1, len(times) // 3)].mean())
            names = owners.get(node_name, [UNATTRIBUTED])
            for name in names:
                total[name] += fastest / len(names)
        return total

    def _compile(self, extra: dict[str, Any]) -> Any:
        import openvino

        try:
            core = openvino.Core()
            model = core.read_model(self._path)
            self.hint = str(model.get_rt_info(COMPUTES_IN).value) if model.has_rt_info(COMPUTES_IN) else "f32"
            said = str(model.get_rt_info(PRODUCTS).value) if model.has_rt_info(PRODUCTS) else "{}"
            self._products: dict[str, str] = json.loads(said)
            settings = {} if self._plain else {HINT: self.hint}
            execution = {
                "PERFORMANCE_HINT": "LATENCY" if self._n_streams == 1 else "THROUGHPUT",
                "NUM_STREAMS": self._n_streams, "INFERENCE_NUM_THREADS": self._n_threads * self._n_streams,
            }
            config = {**CONFIG, **settings, **execution, **extra}
            return core.compile_model(model, "CPU", config)
        except Exception as error:
            raise HwsmpqError(
                f"OpenVINO cannot compile {self._path}", _refusal(error), "build the engine again",
            ) from error

    def _queue_of(self, compiled: Any) -> Any:
        import openvino

        return openvino.AsyncInferQueue(compiled, self._n_streams)

    def _in_turns(self, queue: Any, inputs: Sequence[NDArray[Any]]) -> int:
        """Run inferences, as many side by side as there are streams; how many."""
        if self._n_streams == 1:
            queue[0].infer(list(inputs), share_inputs=True)
            return 1
        n = self._n_streams * INFERENCES_A_STREAM
        for _ in range(n):
            queue.start_async(list(inputs), share_inputs=True)
        queue.wait_all()
        return n

    @cached_property
    def _kernels(self) -> dict[str, dict[str, Any]]:
        """Runtime information of every executed node by name, with what it reads: the precision of its ``data``, and
        (name, precision) of its ``constants``."""
        keys = ("runtimePrecision", "layerType", "originalLayersNames")
        found: dict[str, dict[str, Any]] = {}
        for node in self._compiled.get_runtime_model().get_ops():
            kernel: dict[str, Any] = {key: node.rt_info[key].astype(str) for key in keys}
            kernel["data"], kernel["constants"] = "", []
            for value in node.input_values():
                source, precision = value.get_node(), value.get_element_type().get_type_name()
                if source.rt_info["layerType"].astype(str) == "Const":
                    kernel["constants"].append((source.get_friendly_name(), precision))
                else:
                    kernel["data"] = kernel["data"] or precision
            found[node.get_friendly_name()] = kernel
        return found

    def _layer_kernels(self, layers: Sequence[str]) -> dict[str, list[str]]:
        """Computing node -> the layers it computes, of those that the file has: the plugin may rename some."""
        computed_by: dict[str, list[str]] = defaultdict(list)
        for layer in layers:
            computed_by[self._products.get(layer) or layer].append(layer)
        wanted = {owner + suffix: names for owner, names in computed_by.items() for suffix in SUFFIXES}
        owners: dict[str, list[str]] = {}
        # Subgraphs last: they compute small chains of matrix products, but also leftovers of layers run elsewhere.
        for kinds in (COMPUTE_KERNELS, {SUBGRAPH}):
            done = {name for names in owners.values() for name in names}
            for node, info in self._kernels.items():
                # Its own name too: a cast that was removed before it leaves it the origins of what the cast read.
                origins = [node, *info["originalLayersNames"].split(","), *(name for name, _ in info["constants"])]
                origins = origins if info["layerType"] in kinds else []
                names = {name for origin in origins for name in wanted.get(origin, ())} - done
                if names:
                    owners[node] = sorted(names)
        missing = {x for x in set(layers).difference(*owners.values()) if self._products.get(x) != ""}
        if missing:
            file = self._path.read_text(encoding="utf-8")
            missing = {
                layer for layer in missing if f'"{escape(self._products.get(layer, layer))}{LAYER}"' not in file
            }
        if missing:
            raise HwsmpqError(
                f"layer {min(missing)!r} is not in the engine {self._path}",
                f"no convolution or matrix product of its file comes from it ({len(missing)} such layers)",
                "build the engine from an ONNX file whose nodes carry the layers' names",
            )
        return owners


def _prepared(model: Any, options: Mapping[str, Any]) -> set[str]:
    """Put into a model what its engine is to compute; names of the operations that are to stay in fp32."""
    import openvino

    products = _name_layers(model, options["layers"])
    model.set_rt_info(json.dumps(products), PRODUCTS)
    # In the file, for whoever loads it: weight-only layers shall not quantize their inputs, with scales found at
    # every inference, as they do by default where the processor has dot products of integers.
    model.set_rt_info(0, ["runtime_options", GROUP_SIZE])
    reduced = {f"{layer}{LAYER}" for layer in options["bf16"]}
    model.set_rt_info("bf16" if reduced else "f32", COMPUTES_IN)
    if reduced:
        separate_attention(openvino, model, reduced)
        store_in_bf16(openvino, model, reduced)
    return kept_in_fp32(openvino, model, {f"{layer}{LAYER}" for layer in options["layers"]}, reduced)


@lru_cache(maxsize=None)
def _default_precision() -> str:
    """What OpenVINO computes floats in by itself."""
    import openvino

    name: str = openvino.Core().get_property("CPU", HINT).get_type_name()
    return PRECISIONS.get(name, name)


@lru_cache(maxsize=None)
def _computes_in_bf16() -> bool:
    import openvino

    return BF16 in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _precision(kernel: Mapping[str, Any], layer: str, hint: str, is_product: bool) -> str:
    """What a kernel computes a layer in, in an engine that is compiled with ``hint``."""
    own: str = kernel["runtimePrecision"]
    constants: list[tuple[str, str]] = kernel["constants"]
    if is_product:
        own = kernel["data"]  # a kernel of an attention may call its precision that of the mask
    elif kernel["layerType"] == SUBGRAPH:
        # One kernel for a chain of products says what it starts with; each product computes as its weight, or if that
        # is no integer, by the hint, whatever its attributes and the kernel's name say.
        weight = next((precision for name, precision in constants if name.startswith(layer + WEIGHT)), own)
        own = weight if weight in INTEGERS else hint
    elif kernel["layerType"] == FULLY_CONNECTED and kernel["data"] not in INTEGERS and constants:
        # It calls its precision that of the weight, whether it multiplies integers or dequantizes them first.
        _, weight = constants[0]
        return WEIGHT_ONLY.get(weight, PRECISIONS.get(own, own))
    return PRECISIONS.get(own, own)


def _converted(onnx: Path) -> Any:
    """The model of an ONNX file as ``openvino.convert_model`` gives it, in a tenth of the time.

    ``convert_model`` also prepares inputs for images, which ours are not, and reports its use to OpenVINO's makers.
    ``Core.read_model`` skips the passes below, without which depthwise layers stay in fp32.
    """
    from openvino._offline_transformations import apply_moc_transformations, compress_quantize_weights_transformation
    from openvino.frontend import FrontEndManager

    frontend = FrontEndManager().load_by_framework("onnx")
    model = frontend.convert(frontend.load(str(onnx)))
    apply_moc_transformations(model, cf=False, smart_reshape=True)
    compress_quantize_weights_transformation(model)
    return model


def _name_layers(model: Any, layers: Mapping[str, tuple[Sequence[str], str]]) -> dict[str, str]:
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


def _refusal(error: Exception) -> str:
    """The lines of a runtime's message that say something, without its source locations."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(kept)[:500]

"""OpenVINO on the processor."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from hwsmpq.device import cpu, memory
from hwsmpq.device.openvino_bf16 import keep_in_fp32, kept_in_fp32, operations, separate_attention, store_in_bf16
from hwsmpq.device.openvino_kernels import PRECISIONS, layers_of_kernels, precision_of, read_kernels
from hwsmpq.device.openvino_names import LAYER, name_layers
from hwsmpq.device.runtime import NOT_AUDITED, UNATTRIBUTED, Engine, Runtime
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        self._run(self._compile({}))

    def reload(self) -> None:
        self._run(self._copy({}))

    def _run(self, compiled: Any) -> None:
        self._compiled = compiled
        self._queue = self._queue_of(compiled)
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
        kernels = {name: self._kernels[node] for node, names in self._owners(layers).items() for name in names}
        return {
            layer: precision_of(kernels[layer], layer, self.hint, layer in self._products)
            if layer in kernels else NOT_AUDITED
            for layer in layers
        }

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        owners = self._owners(layers)
        # A compilation of its own: counting costs time that the timed engine should not pay.
        counting = self._queue_of(self._copy({"PERF_COUNT": True}))
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
            return core.compile_model(model, "CPU", self._config(extra))
        except Exception as error:
            raise HwsmpqError(
                f"OpenVINO cannot compile {self._path}", _refusal(error), "build the engine again",
            ) from error

    def _config(self, extra: dict[str, Any]) -> dict[str, Any]:
        settings = {} if self._plain else {HINT: self.hint}
        execution = {
            "PERFORMANCE_HINT": "LATENCY" if self._n_streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": self._n_streams, "INFERENCE_NUM_THREADS": self._n_threads * self._n_streams,
        }
        return {**CONFIG, **settings, **execution, **extra}

    def _copy(self, extra: dict[str, Any]) -> Any:
        """The engine compiled once more, in other memory, from what the first compilation made of the file: the same
        kernels in a third of the time."""
        import openvino

        try:
            self._exported.seek(0)
            return openvino.Core().import_model(io.BytesIO(self._exported.read()), "CPU", self._config(extra))
        except RuntimeError:  # what this version cannot take back
            return self._compile(extra)

    @cached_property
    def _exported(self) -> IO[bytes]:
        """In a file: as much as all weights."""
        exported = io.BytesIO()
        self._compiled.export_model(exported)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it is there as long as the engine
        file.write(exported.getbuffer())
        return file

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
        return read_kernels(self._compiled)

    def _owners(self, layers: Sequence[str]) -> dict[str, list[str]]:
        return layers_of_kernels(self._kernels, layers, self._products, self._path)


def _prepared(model: Any, options: Mapping[str, Any]) -> set[str]:
    """Put into a model what its engine is to compute; names of the operations that are to stay in fp32."""
    import openvino

    products = name_layers(model, options["layers"])
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


def _refusal(error: Exception) -> str:
    """The lines of a runtime's message that say something, without its source locations."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(kept)[:500]

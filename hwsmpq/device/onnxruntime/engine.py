"""A loaded engine of ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsmpq.device import memory
from hwsmpq.device.onnxruntime.audit import Kernel, kernels
from hwsmpq.device.onnxruntime.nodes import read_nodes
from hwsmpq.device.onnxruntime.session import OPTIMISED_FILE, open_session, refusal
from hwsmpq.device.runtime import UNATTRIBUTED, Engine
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

N_WARM_UP = 3
TIME = "_kernel_time"


class OnnxruntimeEngine(Engine):
    """A lowered ONNX file and its session.

    Raises:
        HwsmpqError: the runtime cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reload()
        self._names = [port.name for port in self._session.get_inputs()]

    def reload(self) -> None:
        self._session = self._open()

    def clock(self) -> float:
        # With one thread the runtime computes in the calling thread, so its CPU time leaves out whatever else the
        # machine does.
        return time.thread_time()

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, self._feeds(inputs))
        except Exception as error:
            expected = ", ".join(str(port.shape) for port in self._session.get_inputs())
            raise HwsmpqError(
                f"the engine refuses inputs of shapes {[tuple(x.shape) for x in inputs]}",
                f"it was built for {expected} ({refusal(error)})", "pass batches of the size that it was built for",
            ) from error
        return outputs

    def peak_mb(self, inputs: Sequence[NDArray[Any]]) -> float | None:
        return memory.peak_mb("onnxruntime", self._path.parent, {}, inputs)

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        found, _ = self._profile(layers, [], n_runs=0)
        return {layer: found[layer].precision for layer in layers}

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        found, samples = self._profile(layers, inputs, N_WARM_UP + n_repeats)
        owners = {found[layer].node: layer for layer in layers}
        total = dict.fromkeys([*layers, UNATTRIBUTED], 0.0)
        for node, times in samples:
            # Counters are whole microseconds: the mean of the fastest third resolves less than one of them.
            fastest = float(np.sort(times[N_WARM_UP:])[: max(1, n_repeats // 3)].mean())
            # Nodes that bring a layer's operands into the form of its kernel are named below the layer.
            owner = owners.get(node, node.rpartition("/")[0])
            total[owner if owner in total else UNATTRIBUTED] += fastest
        return total

    def _feeds(self, inputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if len(inputs) != len(self._names):
            raise ValueError(f"{len(inputs)} inputs came for {len(self._names)}")
        return dict(zip(self._names, inputs))

    def _open(self, instruments: Path | None = None) -> Any:
        try:
            return open_session(self._path, instruments)
        except Exception as error:
            raise HwsmpqError(
                f"ONNX Runtime cannot load {self._path}", refusal(error), "build the engine again",
            ) from error

    def _profile(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_runs: int
    ) -> tuple[dict[str, Kernel], list[tuple[str, list[float]]]]:
        """The kernels of all layers, and (name, ms of every run) of the executed nodes.

        They come from a session of their own: a profile costs time that the timed engine should not pay.
        """
        with tempfile.TemporaryDirectory(prefix="hwsmpq-") as folder:
            session = self._open(Path(folder))
            for _ in range(n_runs):
                session.run(None, self._feeds(inputs))
            events = json.loads(Path(session.end_profiling()).read_text())
            found = kernels(read_nodes(self._path), read_nodes(Path(folder) / OPTIMISED_FILE))
        missing = [layer for layer in layers if layer not in found]
        if missing:
            raise HwsmpqError(
                f"layer {missing[0]!r} is not in the engine {self._path}",
                f"no node of the optimised graph computes it ({len(missing)} such layers)",
                "build the engine from an ONNX file whose nodes carry the layers' names",
            )
        # Nodes without a name are told apart by their index.
        samples: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in events:
            if event["name"].endswith(TIME):
                key = event["name"][: -len(TIME)], event["args"]["node_index"]
                samples[key].append(event["dur"] / 1e3)
        return found, [(name, times) for (name, _), times in samples.items()]

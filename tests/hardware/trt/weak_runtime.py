"""TensorRT 8 stood in for by ONNX Runtime: it is told of 16 bits apart from the file, and computes in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hwsmpq.device.runtime import UNATTRIBUTED, Engine, Runtime
from hwsmpq.types import PRECISION_KEY

FILE = "model.onnx"
OPSET = 16
MILLISECONDS = {"int8": 0.5, "fp16": 0.7, "fp32": 1.0}


class WeakRuntime(Runtime):
    """Answers as 8.5 does on a GPU of capability 9.0. ``builds`` are the layers of every build."""

    def __init__(self) -> None:
        self.builds: list[dict[str, str]] = []

    def unavailable(self) -> str | None:
        return None

    def describe(self) -> dict[str, str]:
        return {"runtime": "tensorrt 8.5.3.1", "device": "a stand-in", "compute_capability": "9.0"}

    def capabilities(self) -> dict[str, Any]:
        return {"scheme": "tensorrt", "capability": "sm90", "strongly_typed": False, "opset": OPSET}

    def build(self, path: Path, folder: Path, options: Mapping[str, Any]) -> None:
        model, layers = onnx.load(path), dict(options["layers"])
        assert model.opset_import[0].version == OPSET and set(layers.values()) <= MILLISECONDS.keys()
        onnx.save(_in_halves(model, layers), folder / FILE)
        self.builds.append(layers)

    def load(self, folder: Path, options: Mapping[str, Any]) -> Engine:
        return WeakEngine(folder / FILE)


class WeakEngine(Engine):
    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]
        properties = [(node.name, p) for node in onnx.load(path).graph.node for p in node.metadata_props]
        self._layers = {name: p.value for name, p in properties if p.key == PRECISION_KEY}

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return list(self._session.run(None, dict(zip(self._inputs, inputs, strict=True))))

    def milliseconds(self, inputs: Sequence[NDArray[Any]]) -> float:
        return float(np.sum([MILLISECONDS[precision] for precision in self._layers.values()]))

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        return {layer: self._layers[layer] for layer in layers}

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        return {UNATTRIBUTED: 0.0, **{layer: MILLISECONDS[self._layers[layer]] for layer in layers}}


def _in_halves(model: onnx.ModelProto, layers: Mapping[str, str]) -> onnx.ModelProto:
    """Operands and results of layers in fp16 rounded to it."""
    nodes: list[onnx.NodeProto] = []

    def rounded(name: str, to: str) -> str:
        types = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
        nodes.append(onnx.helper.make_node("Cast", [name], [f"{to}.half"], to=types[0]))
        nodes.append(onnx.helper.make_node("Cast", [f"{to}.half"], [to], to=types[1]))
        return to

    for node in list(model.graph.node):
        if layers.get(node.name) != "fp16":
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            node.input[i] = rounded(name, f"{node.name}.{i}")
        result, node.output[0] = node.output[0], f"{node.name}.result"
        nodes.append(node)
        rounded(node.output[0], result)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model

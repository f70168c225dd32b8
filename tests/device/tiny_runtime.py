"""A runtime for tests of the pipe: an engine multiplies its inputs by a number, and misbehaves as it is told."""

from __future__ import annotations

import json
import os
import time

import numpy as np

from hwsmpq.device.runtime import UNATTRIBUTED, Engine, Runtime
from hwsmpq.errors import HwsmpqError

FILE = "engine.json"


class TinyRuntime(Runtime):
    kept = ("builds",)

    def unavailable(self):
        return None

    def describe(self):
        return {"device": "tiny", "runtime": "tiny 1"}

    def capabilities(self):
        return {"opset": 13}

    def build(self, onnx, folder, options):
        if options.get("refuse"):
            raise HwsmpqError(f"tiny refuses {onnx}", f"it does not fit into {folder}", "give another")
        if options.get("die"):
            os.kill(os.getpid(), 9)
        folder.mkdir(parents=True, exist_ok=True)
        if self.workspace is not None:
            counter = self.workspace / "builds"
            counter.write_text(str(int(counter.read_text()) + 1 if counter.is_file() else 1))
            (self.workspace / "scrap").write_text("not kept")
        (folder / FILE).write_text(json.dumps({"factor": float(onnx.read_text())}))

    def load(self, folder, options):
        if not (folder / FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{FILE} is missing", "build the engine first")
        return TinyEngine(json.loads((folder / FILE).read_text())["factor"], options)


class TinyEngine(Engine):
    n_loads = 1

    def __init__(self, factor, options):
        self.factor, self.options = factor, options

    def infer(self, inputs):
        if self.options.get("chatter"):
            print("a library says something", flush=True)
            os.write(1, b"\x1ehwsmpq-device\x1e and so does its C part\n")
        time.sleep(self.options.get("hang", 0.0))
        return [np.asarray(x) * self.factor for x in inputs]

    def reload(self):
        self.n_loads += 1

    def realised(self, layers):
        return {layer: f"load {self.n_loads}" for layer in layers}

    def layer_ms(self, layers, inputs, n_repeats):
        return {**{layer: self.factor * n_repeats for layer in layers}, UNATTRIBUTED: 0.0}

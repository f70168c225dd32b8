"""Engines that trtexec could have built of the small network, on a machine that obeys the cost model exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import qdq_network as net

from hwsmpq.types import Assignment

SCALE, OFFSET_MS, SWITCH_MS, SWITCH_ELEMENT_MS = 1.1, 0.03, 0.004, 1e-6
SPEED = {"int8": 0.3, "fp16": 0.55, "bf16": 0.6, "fp32": 1.0}
DTYPE = {"int8": "Int8", "fp16": "Half", "bf16": "BFloat16", "fp32": "Float"}
SENTENCE = {
    "Int8": "Thirty-two wide channel vectorized row major Int8 format",
    "Half": "Channel major FP16 format where channel % 8 == 0",
    "Float": "Row major linear FP32",
}
OVERHEAD_MS = 0.01
"""What the kernels that belong to no layer take in every engine."""


def layer_ms(layer: str, precision: str) -> float:
    """Times of layers differ in how they depend on the precision."""
    index = net.NAMES.index(layer)
    return (0.02 + 0.01 * index) * SPEED[precision] ** (0.6 + 0.1 * index)


def group_ms(group: str, precision: str) -> float:
    return sum(layer_ms(layer, precision) for g in net.GROUPS if g.name == group for layer in g.layers)


def total_ms(assignment: Assignment) -> float:
    """Milliseconds of an engine."""
    crossed = [edge.n_elements for edge in net.network().switches(assignment)]
    layers = sum(group_ms(group, precision) for group, precision in assignment.items())
    return SCALE * layers + OFFSET_MS + SWITCH_MS * len(crossed) + SWITCH_ELEMENT_MS * sum(crossed)


def by_layer(assignment: Assignment) -> dict[str, str]:
    return {layer: assignment[group.name] for group in net.GROUPS for layer in group.layers}


def write_engine(
    folder: Path, name: str, precisions: Mapping[str, str], total: float, dialect: str = "11"
) -> tuple[Path, Path]:
    """Write the files of an engine by their usual names; returns layer information and profile."""
    layers, profile, times = (folder / f"{name}.{kind}.json" for kind in ("layers", "profile", "times"))
    write_files(layers, profile, times, precisions, total, dialect)
    (folder / f"{name}.log").write_text(log(dialect))
    return layers, profile


def write_files(
    layers: Path, profile: Path, times: Path, precisions: Mapping[str, str], total: float, dialect: str
) -> None:
    """Write what trtexec exports of an engine whose layers run in ``precisions``."""
    kernels, ms = _kernels(precisions, dialect)
    names = '"Bindings": ["x", "y"]' if dialect == "10" else '"I/O Tensors": [{"Name": "x"}, {"Name": "y"}]'
    layers.write_text(f'{{"Layers": {json.dumps(kernels)},\n{names}}}\n')
    entries = [{"name": k, "timeMs": 50 * t, "averageMs": 1.2 * t, "medianMs": t} for k, t in ms.items()]
    profile.write_text(json.dumps([{"count": 50}, *entries]))
    samples = total * (1 + 0.01 * np.linspace(-1, 1, 21))
    times.write_text(json.dumps([{"computeMs": t, "latencyMs": 2 * t} for t in samples]))


def log(dialect: str, device: str = "Made Up 1") -> str:
    version = {"10": "10.9.0", "11": "11.0.0"}[dialect]
    return f"[I] Selected Device: {device}\n[I] Compute Capability: 8.9\n[I] TensorRT version: {version}\n"


def _kernels(precisions: Mapping[str, str], dialect: str) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Entries of the layer information, and times by name.

    Of 10.x come convolutions that count their weights and products that do not mention them, of 11.x constants.
    """
    shapes = {layer[0]: layer[2] for layer in net.LAYERS}
    convolutions = {layer[0] for layer in net.LAYERS if layer[1].startswith("Conv")}
    kernels = [_kernel("reorder", "Reformat" if dialect == "10" else "kgen", [], ["Float"], (1, 3), dialect)]
    ms = {"reorder": OVERHEAD_MS}
    for i, layer in enumerate(net.NAMES):
        precision, time = precisions[layer], layer_ms(layer, precisions[layer])
        computed = [layer]
        if layer in ("left", "right") and precisions["left"] == precisions["right"]:
            # They read the same tensor: one kernel computes both.
            if layer == "right":
                continue
            computed, time = ["left", "right"], time + layer_ms("right", precision)
        elif precision == "int8":
            name = f"__myl_Quantize_myl0_{i}"
            kernels.append(_kernel(name, "kgen", [layer], ["Float"], (1, 8), dialect))
            ms[name] = 0.2 * time
            time *= 0.8
        # A residual keeps its type whatever the convolution that adds it runs in.
        dtypes = [DTYPE[precision], "Float"] if layer == "block.conv2" else [DTYPE[precision]]
        if layer in convolutions and dialect == "10":
            name, kind = f"{layer} + {layer}.relu", "CaskConvolution"
        else:
            name, kind = f"{layer}_myl0_{i}", "correlation" if layer in convolutions else "gemm"
        kernels.append(_kernel(name, kind, [*computed, f"{layer}.relu"], dtypes, shapes[layer], dialect))
        ms[name] = time
    return kernels, ms


def _kernel(
    name: str, kind: str, origins: list[str], dtypes: list[str], weight: tuple[int, ...], dialect: str
) -> dict[str, Any]:
    result = (1, weight[0], 6, 6)
    inputs = [("in", (1, 8, 6, 6), dtypes[0]), *(("residual", result, dtype) for dtype in dtypes[1:])]
    constants = [("weight", weight, dtypes[0]), ("bias", (1, weight[0], 1, 1), "Float")]

    def tensor(name: str, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        if dialect == "11":
            types = {"Datatype": dtype, "Format": "(NHWC) Channel major format"}
        else:
            types = {"Format/Datatype": SENTENCE[dtype] if kind.startswith("Cask") else dtype}
        return {"Name": name, "Dimensions": list(shape), **types}

    entry = {
        "Name": name, "LayerType": kind, "Inputs": [tensor(*i) for i in inputs],
        "Outputs": [tensor("out", result, "Float")],
        "Metadata": ("\x1e" if kind.startswith("Cask") else "\x1f").join(f"[ONNX Layer: {o}]" for o in origins),
    }
    if dialect == "11":
        entry["Constants"] = [tensor(*c) for c in constants] if kind in ("correlation", "gemm") else []
    elif kind.startswith("Cask"):
        counts = {c: {"Type": dtype, "Count": int(np.prod(shape))} for c, shape, dtype in constants}
        entry |= {"OutMaps": weight[0], "Weights": counts["weight"], "Bias": counts["bias"]}
    return entry

"""Kernels of compiled OpenVINO models: which compute a layer, and in which precision."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from hwsmpq.device.openvino_bf16 import ATTENTION
from hwsmpq.device.openvino_names import FUSED_STEPS, LAYER, WEIGHT
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SUBGRAPH, FULLY_CONNECTED = "Subgraph", "FullyConnected"
COMPUTE_KERNELS = {"Convolution", "Deconvolution", FULLY_CONNECTED, "MatMul", ATTENTION}
INTEGERS = {"i8", "u8"}
PRECISIONS = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
WEIGHT_ONLY = {"i4": "w4a16", "u4": "w4a16", "i8": "w8a16", "u8": "w8a16"}
"""Type of the stored weight -> precision of a product that reads floats."""
SUFFIXES = (
    WEIGHT,
    *(
        f"{LAYER}{step}{replaced}"
        for step in ("", *range(FUSED_STEPS)) for replaced in ("", "_original", "/DequantizationMultiply")
    ),
)
"""What a kernel's origins and constants append to a layer's name, as passes of the plugin replaced its operation."""


def read_kernels(compiled: Any) -> dict[str, dict[str, Any]]:
    """Runtime information of every executed node by name, with what it reads: the precision of its ``data``, and
    (name, precision) of its ``constants``."""
    keys = ("runtimePrecision", "layerType", "originalLayersNames")
    found: dict[str, dict[str, Any]] = {}
    for node in compiled.get_runtime_model().get_ops():
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


def layers_of_kernels(
    kernels: Mapping[str, Mapping[str, Any]], layers: Sequence[str], products: Mapping[str, str], file: Path
) -> dict[str, list[str]]:
    """Computing node -> the layers it computes, of those that the file has: the plugin may rename some.

    Args:
        kernels: as :func:`read_kernels` gives them.
        products: of layers that multiply two activations, the layer whose name their operation has; empty for none.
        file: what the engine was compiled from.

    Raises:
        HwsmpqError: the file has no operation of a layer.
    """
    computed_by: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        computed_by[products.get(layer) or layer].append(layer)
    wanted = {owner + suffix: names for owner, names in computed_by.items() for suffix in SUFFIXES}
    owners: dict[str, list[str]] = {}
    # Subgraphs last: they compute small chains of matrix products, but also leftovers of layers run elsewhere.
    for kinds in (COMPUTE_KERNELS, {SUBGRAPH}):
        done = {name for names in owners.values() for name in names}
        for node, info in kernels.items():
            # Its own name too: a cast that was removed before it leaves it the origins of what the cast read.
            origins = [node, *info["originalLayersNames"].split(","), *(name for name, _ in info["constants"])]
            origins = origins if info["layerType"] in kinds else []
            names = {name for origin in origins for name in wanted.get(origin, ())} - done
            if names:
                owners[node] = sorted(names)
    missing = {x for x in set(layers).difference(*owners.values()) if products.get(x) != ""}
    if missing:
        text = file.read_text(encoding="utf-8")
        missing = {layer for layer in missing if f'"{escape(products.get(layer, layer))}{LAYER}"' not in text}
    if missing:
        raise HwsmpqError(
            f"layer {min(missing)!r} is not in the engine {file}",
            f"no convolution or matrix product of its file comes from it ({len(missing)} such layers)",
            "build the engine from an ONNX file whose nodes carry the layers' names",
        )
    return owners


def precision_of(kernel: Mapping[str, Any], layer: str, hint: str, is_product: bool) -> str:
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

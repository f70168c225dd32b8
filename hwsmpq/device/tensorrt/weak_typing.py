"""Builds of TensorRT 8.x, whose networks have no types of their own.

Q/DQ nodes decide what is computed in int8. Between fp16 and fp32 the builder chooses by time, layer by layer, unless a
layer is constrained. So the layers that multiply are constrained to what was planned, and what lies between them is
left to the builder, which lets it follow its neighbours.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA_TYPES = {"fp16": "HALF", "fp32": "FLOAT"}
RUNS = ("int8", *DATA_TYPES)
OBEY, PREFER = "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"
OWN_SOURCES = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
WITHOUT_EXTERNAL = "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"
CUDNN, CUBLAS = ("libcudnn.so.8",), ("libcublas.so.11", "libcublas.so.12")
CUDNN_8 = 8000


def build(
    module: Any, builder: Any, network: Any, config: Any, layers: Mapping[str, str], log: Any
) -> tuple[Any, tuple[str, ...]]:
    """The serialized engine, or None, and what is worth knowing of it.

    Args:
        layers: precision of every layer by its name, which is the name of its node.

    Raises:
        HwsmpqError: a layer has a precision that these versions lack.
    """
    foreign = sorted(set(layers.values()) - set(RUNS))
    if foreign:
        raise HwsmpqError(
            f"TensorRT {module.__version__} runs no {', '.join(foreign)}", f"it knows {', '.join(RUNS)}",
            "leave it out of --ladder",
        )
    notes = [f"kernels of {_choose_sources(module, config)}"]
    flags = module.BuilderFlag
    if "int8" in layers.values():
        config.set_flag(flags.INT8)
    if "fp16" not in layers.values():
        return builder.build_serialized_network(network, config), tuple(notes)
    config.set_flag(flags.FP16)
    _constrain(module, network, layers)
    # Where int8 stands beside fp16, 8.5 finds no kernel that obeys (its own search for Q/DQ contradicts it), and builds
    # for as long to say so. What it prefers is what was asked for, which the audit reads back.
    if "int8" not in layers.values():
        config.set_flag(getattr(flags, OBEY))
        plan = builder.build_serialized_network(network, config)
        if plan is not None:
            return plan, tuple(notes)
        notes.append(f"constraints could not all be kept: {log.reason()}")
        config.clear_flag(getattr(flags, OBEY))
    config.set_flag(getattr(flags, PREFER))
    return builder.build_serialized_network(network, config), tuple(notes)


def _constrain(module: Any, network: Any, layers: Mapping[str, str]) -> None:
    """Give every layer in floating point the type that it computes in."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)  # named by its node
        precision = layers.get(layer.name)
        if precision in DATA_TYPES:
            layer.precision = getattr(module.DataType, DATA_TYPES[precision])


def _choose_sources(module: Any, config: Any) -> str:
    """Take kernels of cuDNN and cuBLAS only where these libraries are: 8.x asks them by default, and fails without."""
    known = module.TacticSource.__members__
    chosen = [name for name in OWN_SOURCES if name in known]
    if _has_cudnn():
        chosen.append("CUDNN")
    if _has_cublas():
        chosen += ["CUBLAS", "CUBLAS_LT"]
    mask = 0
    for name in chosen:
        mask += 1 << int(known[name])
    if not config.set_tactic_sources(mask):
        raise HwsmpqError("TensorRT refuses its own kernels", f"set_tactic_sources({mask})", "report its version")
    features = getattr(getattr(module, "PreviewFeature", None), "__members__", {})
    if len(chosen) == len(OWN_SOURCES) and WITHOUT_EXTERNAL in features:
        config.set_preview_feature(features[WITHOUT_EXTERNAL], True)
    return ", ".join(chosen)


def _has_cudnn() -> bool:
    return any(_answer(name, "cudnnGetVersion") >= CUDNN_8 for name in CUDNN)


def _has_cublas() -> bool:
    """Asked what it is: what only bears its name answers with an error."""
    major = ctypes.c_int()
    return any(_answer(name, "cublasGetProperty", 0, ctypes.byref(major)) == 0 and major.value > 0 for name in CUBLAS)


def _answer(library: str, function: str, *arguments: Any) -> int:
    """What a function of a library returns; -1 without the library or the function."""
    try:
        found = getattr(ctypes.CDLL(library), function)
    except (OSError, AttributeError):
        return -1
    found.restype = ctypes.c_size_t if function == "cudnnGetVersion" else ctypes.c_int
    return int(found(*arguments))

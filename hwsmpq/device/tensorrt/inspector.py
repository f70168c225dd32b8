"""The kernels of an engine from the JSON of TensorRT's engine inspector (``trtexec --exportLayerInfo``).

Dialects differ by version. Early ones name the origins of a kernel in its name, later ones in ``Metadata``. Up to 10.x
the type of a tensor is a word or a part of a sentence about its layout, in 11.x and TensorRT-RTX it has a key. Weights
are constants in 11.x and TensorRT-RTX, a count of elements for the convolutions of 10.x, and missing for the other
kernels of 10.x: the precision of those is what their activation says, so weight-only ones cannot be told there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hwsmpq.device.tensorrt.kernels import ONNX_LAYER, Kernel, TensorInfo
from hwsmpq.errors import HwsmpqError

DTYPES = {
    "fp32": "Float", "float": "Float", "fp16": "Half", "half": "Half", "bf16": "BFloat16", "bfloat16": "BFloat16",
    "fp8": "FP8", "int8": "Int8", "int4": "Int4", "int32": "Int32", "int64": "Int64", "uint8": "UInt8", "bool": "Bool",
}
"""Words for element types in the texts of all versions -> the names of :class:`TensorInfo`."""
DETAILED = "build the engine again with `trtexec --profilingVerbosity=detailed`"


def parse_inspector(text: str) -> tuple[Kernel, ...]:
    """Read what ``IEngineInspector.get_engine_information`` gives in its JSON format at detailed verbosity.

    Raises:
        HwsmpqError: the text is no such JSON, holds no kernel, or was written without the details.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise HwsmpqError("the layer information is not JSON", str(error), "export it again") from error
    entries = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise HwsmpqError(
            "the JSON is not the layer information of an engine", "it has no list of `Layers`",
            "give the file that `trtexec --exportLayerInfo=` wrote",
        )
    return tuple(_kernel(entry) for entry in entries)


def _kernel(entry: Any) -> Kernel:
    if not isinstance(entry, dict) or "LayerType" not in entry:
        raise HwsmpqError("the layer information has names only", "it lacks the types of all tensors", DETAILED)
    try:
        inputs, constants, outputs = (
            tuple(_tensor(tensor) for tensor in entry.get(key, ())) for key in ("Inputs", "Constants", "Outputs")
        )
        constants += _weights(entry)
        return Kernel(entry["Name"], entry["LayerType"].lower(), inputs, constants, outputs, _origins(entry))
    except (KeyError, TypeError, AttributeError) as error:
        raise HwsmpqError(
            f"cannot read kernel {entry.get('Name')!r} of the layer information", f"{type(error).__name__}: {error}",
            DETAILED,
        ) from error


def _tensor(tensor: Mapping[str, Any]) -> TensorInfo:
    text = tensor["Datatype"] if "Datatype" in tensor else tensor["Format/Datatype"]
    return TensorInfo(tuple(tensor["Dimensions"]), _dtype(text))


def _dtype(text: str) -> str:
    """Element type that a text speaks of: ``Int8``, or ``Thirty-two wide channel vectorized row major Int8 format``."""
    return next((DTYPES[word] for word in re.findall(r"\w+", text.lower()) if word in DTYPES), text)


def _weights(entry: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    """Weights and bias of a convolution that tells their counts only, as matrices with a row an output channel.

    They read ``"OutMaps": 64, "Weights": {"Type": "Int8", "Count": 9408}``; the keys have a prefix in some kernels.
    """
    counted = [value for value in entry.values() if isinstance(value, dict) and value.keys() >= {"Type", "Count"}]
    n_rows = next((value for key, value in entry.items() if key.endswith("OutMaps")), 1)
    return tuple(TensorInfo((n_rows, value["Count"] // n_rows), _dtype(value["Type"])) for value in counted)


def _origins(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """ONNX nodes that a kernel computes."""
    name = entry["Name"]
    if "Metadata" in entry:
        found = ONNX_LAYER.findall(entry["Metadata"])
    elif name.startswith("Reformatting CopyNode"):
        found = []
    else:  # "conv1.weight + conv1 + PWN(relu1) || conv2 + relu2"
        parts = re.split(r" \+ | \|\| |, |PWN\(|\)", name)
        found = [part for part in parts if part and not part.startswith("{ForeignNode[")]
    return tuple(dict.fromkeys(found))

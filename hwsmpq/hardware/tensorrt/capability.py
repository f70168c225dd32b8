"""What TensorRT has kernels for, by compute capability and kind of layer.

For TensorRT-RTX the tables were read off the kernels of built engines (version 1.7). There, eight-bit layers on 7.5 are
built without complaint and run in fp32, and so do transposed convolutions everywhere; matrix products in fp32 are
refused on 7.5. For classic TensorRT they follow NVIDIA's support matrix and are untested.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwsmpq.errors import HwsmpqError
from hwsmpq.types import Ladder, Layer

Kinds = Mapping[str, frozenset[str]]
"""Kind of layer -> precisions."""


def _kinds(conv: str, conv_transpose: str, linear: str, product: str = "") -> Kinds:
    named = {"conv": conv, "conv_transpose": conv_transpose, "linear": linear, "product": product}
    return {kind: frozenset(names.split()) for kind, names in named.items()}


_RTX_TURING = _kinds("fp16 fp32", "fp16 fp32", "w8a16 fp16")
_RTX_AMPERE = _kinds("int8 bf16 fp16 fp32", "bf16 fp16 fp32", "w4a16 int8 w8a16 bf16 fp16 fp32")
_RTX_ADA = _kinds("int8 fp8 bf16 fp16 fp32", "bf16 fp16 fp32", "w4a16 int8 fp8 w8a16 bf16 fp16 fp32")
_TURING = _kinds("int8 fp16 fp32", "int8 fp16 fp32", "int8 w8a16 fp16 fp32")
_AMPERE = _kinds("int8 bf16 fp16 fp32", "int8 bf16 fp16 fp32", "w4a16 int8 w8a16 bf16 fp16 fp32")
_ADA = _kinds("int8 fp8 bf16 fp16 fp32", "int8 bf16 fp16 fp32", "w4a16 int8 fp8 w8a16 bf16 fp16 fp32")

CAPABILITIES: dict[str, dict[str, Kinds]] = {
    "tensorrt-rtx": {
        "sm75": _RTX_TURING, "sm80": _RTX_AMPERE, "sm86": _RTX_AMPERE, "sm89": _RTX_ADA, "sm120": _RTX_ADA,
        "sm121": _RTX_ADA,
    },
    "tensorrt": {
        "sm75": _TURING, "sm80": _AMPERE, "sm86": _AMPERE, "sm87": _AMPERE, "sm89": _ADA, "sm90": _ADA, "sm100": _ADA,
        "sm103": _ADA, "sm110": _ADA, "sm120": _ADA, "sm121": _ADA,
    },
}
"""Flavour of TensorRT -> compute capability (sm89 is 8.9) -> precisions by kind of layer."""


def kinds_of(flavour: str, capability: str) -> Kinds:
    """Precisions by kind of layer.

    Raises:
        HwsmpqError: the compute capability is not known (lists those that are).
    """
    known = CAPABILITIES[flavour]
    if capability not in known:
        raise HwsmpqError(
            f"{flavour} knows no device {capability!r}", "a device is named by its compute capability, 8.9 as sm89",
            f"one of {', '.join(known)}",
        )
    return known[capability]


def weakly_typed(kinds: Kinds) -> Kinds:
    """What is left of them in versions whose networks have no types (8.x), which know neither bf16 nor fp8, nor weights
    alone in integers."""
    return {kind: names & {"int8", "fp16", "fp32"} for kind, names in kinds.items()}


def runs(kinds: Kinds, layer: Layer, precision: str) -> bool:
    """Whether there is a kernel for a layer at a precision."""
    if precision == "w4a16" and layer.block_size is None:
        return False
    return precision in kinds[layer.kind]


def in_order(names: frozenset[str]) -> tuple[str, ...]:
    """Names of precisions from cheap to expensive, as a ladder orders them."""
    return Ladder.parse(",".join(names)).names

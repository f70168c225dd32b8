"""What targets on processors have in common, whatever their runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TESTED = {"x86_64", "AMD64"}
"""Architectures whose kernels were compared with the simulation."""


def claim_of(architecture: str) -> str:
    """Measured wherever it runs; kernels of other processors than x86 were never seen by who wrote this."""
    measured = "latency and accuracy measured on the built engine"
    return measured if architecture in TESTED else f"{measured}; untested on {architecture}"


def scheme_of(name: str, capabilities: Mapping[str, Any]) -> str:
    """On x86 without a dot-product instruction int8 kernels saturate in int16 unless weights keep to half range."""
    return f"{name}_no_vnni" if capabilities["int8_saturates"] else name

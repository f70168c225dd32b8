"""How an ONNX file has to be written for a runtime."""

from __future__ import annotations

from dataclasses import dataclass

PRECISION_KEY = "hwsmpq.precision"
"""Key of a node's metadata that names the precision of the layer."""
SMOOTH = ".smooth"
"""Ends the name of a node that divides the input of a layer by the factors of its channels."""


@dataclass(frozen=True)
class OnnxForm:
    """What the parser of a runtime takes.

    Attributes:
        opset: of the file; None is the newest that is needed.
        strongly_typed: whether 16 bits stand in the file, as Cast nodes, and integer weights as integers. Otherwise the
            builder is told of 16 bits apart from the file, and quantizes weights itself, from float initializers.
        casts: whether layers in bf16 read, compute and write it by Cast nodes around them. Otherwise only their weight
            is stored in it, and their node says so.
    """

    opset: int | None = None
    strongly_typed: bool = True
    casts: bool = True

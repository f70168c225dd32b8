"""Rewrites of a float ONNX graph around kernels of OpenVINO that compute something else; one a file.

Each says which case needs it and in which version it was seen. Every one leaves what the graph computes as it is.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from hwsmpq.hardware.openvino_rewrites.attention import separate_attention
from hwsmpq.hardware.openvino_rewrites.factors import bound_products
from hwsmpq.hardware.openvino_rewrites.gathers import flatten_indices
from hwsmpq.hardware.openvino_rewrites.places import separate_positions
from hwsmpq.hardware.openvino_rewrites.reductions import bound_extremes, keep_reduced_dimensions
from hwsmpq.hardware.openvino_rewrites.zeros import keep_zero_rows

REWRITES = (
    keep_reduced_dimensions, bound_extremes, bound_products, separate_attention, keep_zero_rows, flatten_indices,
    separate_positions,
)


def rewrite(data: bytes) -> bytes:
    """A float ONNX file, rewritten."""
    model = ir.serde.deserialize_model(onnx.load_model_from_string(data))
    ShapeInferencePass()(model)
    for one in REWRITES:
        one(model.graph)
    return ir.serde.serialize_model(model).SerializeToString()

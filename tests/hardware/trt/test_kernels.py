"""What layers run in, read off listings of built engines and off kernels made for the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsmpq.device.tensorrt.kernels import (
    Kernel,
    TensorInfo,
    computing,
    parse_listing,
    read_kernels,
    realised,
    write_kernels,
)
from hwsmpq.errors import HwsmpqError

SAMPLES = Path(__file__).with_name("samples")


def kernel(
    inputs: str, constants: str = "", layers: str = "conv", kind: str = "correlation", name: str = "k"
) -> Kernel:
    """Tensors as words such as ``Int8:1x64x7x7``."""

    def tensors(text: str) -> tuple[TensorInfo, ...]:
        parts = (word.split(":") for word in text.split())
        return tuple(TensorInfo(tuple(map(int, shape.split("x"))), dtype) for dtype, shape in parts)

    return Kernel(name, kind, tensors(inputs), tensors(constants), tensors("Float:1x64x7x7"), tuple(layers.split()))


def test_a_listing_of_a_built_engine() -> None:
    kernels = parse_listing((SAMPLES / "rtx.listing.txt").read_text())
    found = {layer: realised(kernels, layer) for layer in ("conv1", "conv2", "fc1", "fc2")}
    assert found == {"conv1": "int8", "conv2": "fp32", "fc1": "fp16", "fc2": "w4a16"}
    assert all(k.name and k.kind == k.kind.lower() for k in kernels)
    assert len({k.name for k in kernels}) == len(kernels)
    convolution = computing(kernels, "conv1")
    assert convolution.inputs[0].dtype == convolution.constants[0].dtype == "Int8"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (kernel("Int8:1x64x7x7", "Int8:64x64x3x3 Float:1x64x1x1"), "int8"),
        (kernel("FP8:1x64x7x7", "FP8:64x64x3x3 Float:1x64x1x1"), "fp8"),
        (kernel("Half:16x384", "Int4:1x384x64 Half:1x3x64", kind="runtime_fusion"), "w4a16"),
        (kernel("Half:16x384", "Half:1x1x64 Int8:1x384x64", kind="runtime_fusion"), "w8a16"),
        (kernel("BFloat16:1x64x7x7", "BFloat16:64x64x3x3"), "bf16"),
        (kernel("Float:1x512", "Float:512x1", kind="gemm"), "fp32"),
        # The residual comes first, and has the shape of the result.
        (kernel("Float:1x64x7x7 Half:1x64x7x7", "Half:64x64x3x3 Float:1"), "fp16"),
        # The weight was dequantized by another kernel: what is left is a product of floats.
        (kernel("Float:1x64x14x14 Float:64x64x3x3", "Float:1 Float:1x64x1x1"), "fp32"),
        (kernel("Half:1x64x14x14 Half:64x64x3x3 Float:1x64x7x7", "Float:1"), "fp16"),
        # The input is converted inside.
        (kernel("Float:1x32x8x8", "Half:32x10", "head.in.cast head", "runtime_fusion"), "fp16"),
        (kernel("Float:1x32x8x8", "Int8:32x10", "head.in.quantize head", "runtime_fusion"), "int8"),
        (kernel("Float:1x32x8x8", "Int8:32x10", "head.in.cast head", "runtime_fusion"), "w8a16"),
        (kernel("Float:1x32x8x8", "Half:32x10", "head", "runtime_fusion"), "fp16"),
        # Another layer's input is converted inside, which says nothing of this one.
        (kernel("Float:1x32x8x8", "Int8:32x10", "head next.in.quantize", "runtime_fusion"), "Int8 x Float"),
    ],
)
def test_precision_of_a_kernel(found: Kernel, expected: str) -> None:
    assert realised([found], found.layers[-1] if "in." in found.layers[0] else found.layers[0]) == expected


def test_helpers_that_name_a_layer_do_not_compute_it() -> None:
    quantize = kernel("Float:1x64x7x7", "Float:1", "conv.in.quantize conv", "kgen", "__myl_q")
    product = kernel("Int8:1x64x7x7", "Int8:64x64x3x3", name="conv_myl0_1")
    scale = kernel("Float:1x64x7x7", "Float:1x64x1x1", "conv relu", "kgen", "__myl_s")
    assert computing([quantize, product, scale], "conv") is product
    assert computing([quantize], "conv") is quantize


def test_a_layer_that_is_missing_is_named() -> None:
    with pytest.raises(HwsmpqError, match=r"'absent'"):
        realised([kernel("Int8:1x64x7x7")], "absent")


def test_an_empty_listing_is_an_error() -> None:
    with pytest.raises(HwsmpqError, match="no kernels"):
        parse_listing("Layers:\n\nI/O Tensors:\n")


def test_kernels_are_kept(tmp_path: Path) -> None:
    kernels = parse_listing((SAMPLES / "rtx.listing.txt").read_text())
    write_kernels(kernels, tmp_path / "kernels.json")
    assert read_kernels(tmp_path / "kernels.json") == kernels
    for text in ("", '[{"name": "a"}]', '[1]'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(HwsmpqError, match=r"bad\.json"):
            read_kernels(tmp_path / "bad.json")

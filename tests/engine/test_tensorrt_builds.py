"""Real engines of real networks, built by TensorRT-RTX for devices that are not here, and audited layer by layer."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from hwsmpq.device.tensorrt import adapter
from hwsmpq.device.tensorrt.kernels import read_kernels
from hwsmpq.engine.build import Builder
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import Ladder, Precision, Ranges

TASKS = Path(__file__).parents[2] / "tools" / "tasks"
N_TOKENS = 32
DEVICES = ("sm80", "sm89", "sm120")
UNIFORM = ("int8", "fp8", "fp16", "bf16", "w4a16")
# What these engines are known to run otherwise: no eight-bit-float kernel takes the three channels of the first
# convolution (7x7, stride 2).
DIFFERENCES = {("resnet18", "fp8", "conv1"): "fp32"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        adapter.missing("tensorrt-rtx") is not None,
        reason="tensorrt_rtx is not installed (pip install '.[tensorrt-rtx]')",
    ),
]


@dataclass(frozen=True, eq=False)
class Case:
    captured: Captured
    ranges: Ranges


def encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """MiniLM-L6's encoder with random weights, on pairs of 32 tokens."""
    sys.path.insert(0, str(TASKS))
    try:
        spec = importlib.util.spec_from_file_location("minilm_stsb", TASKS / "minilm_stsb.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TASKS))
    ids = torch.randint(module.N_WORDS, (4, 2, N_TOKENS), generator=torch.Generator().manual_seed(0))
    return module.SentencePairEncoder(), (ids, torch.ones_like(ids))


@cache
def prepared(name: str) -> Case:
    torch.manual_seed(0)
    model, inputs = (resnet18(), (torch.randn(4, 3, 224, 224),)) if name == "resnet18" else encoder()
    captured = capture(model.eval(), inputs)
    return Case(captured, calibrate(captured, inputs, get_scheme("tensorrt"), [8]))


@cache
def builder(name: str, device: str) -> tuple[Captured, Builder]:
    """What builds a network for a device, in any precision that the device has."""
    case, target = prepared(name), get_target(f"tensorrt-rtx:{device}")
    ladder = Ladder.parse("int8,fp16,bf16,w4a16" + (",fp8" if "fp8" in target.native else ""))
    captured = case.captured.with_substitutes(substitutes(target, case.captured.network, ladder))
    return captured, Builder(captured, case.ranges, get_scheme(target.scheme_name), target)


@pytest.mark.parametrize("precision", [*UNIFORM, "mixed"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["resnet18", "minilm"])
def test_every_layer_runs_as_planned_or_is_known_not_to(
    name: str, device: str, precision: str, tmp_path: Path
) -> None:
    native = get_target(f"tensorrt-rtx:{device}").native
    if precision == "fp8" and device == "sm80":
        assert "fp8" not in native
        return
    captured, build = builder(name, device)
    network = captured.network
    mixture = [p for p in native if p not in ("w8a16", "fp32")]
    assignment = (
        network.uniform(precision) if precision != "mixed"
        else network.realise({g: mixture[i % len(mixture)] for i, g in enumerate(network.group_names)})
    )
    manifest = build.deliver(assignment, tmp_path / "engine")
    print(f"{name} {precision} {device}: {manifest.build_seconds:.2f} s, {manifest.n_bytes / 1e6:.1f} MB")
    assert len(manifest.layers) == len(network.layers) == (21 if name == "resnet18" else 36)
    expected = {}
    for layer in network.layers:
        planned = assignment[network.group_of(layer.name)]
        expected[layer.name] = DIFFERENCES.get((name, planned, layer.name), planned)
    assert {audit.layer: audit.realised for audit in manifest.layers} == expected
    if precision != "mixed":
        # The engine is of the precision, and not of its fallbacks.
        n_linear = sum(layer.kind == "linear" for layer in network.layers)
        n_expected = n_linear if precision == "w4a16" else len(network.layers) - (name, precision).count("fp8")
        assert sum(value == precision for value in expected.values()) >= n_expected
    else:
        assert len(set(expected.values())) >= 3
    # The engine holds the weights once, at their bits, and little else.
    weights = sum(network.size_bytes(g, Precision.parse(p)) for g, p in assignment.items())
    others = 4 * network.n_other_params
    assert weights < manifest.n_bytes < 1.15 * (weights + others) + 4e6


def test_a_residual_in_eight_bits_leaves_no_float_copy(tmp_path: Path) -> None:
    """Kernels before an identity branch write the tensor once, as integers, where scheme and plan allow it."""
    captured, build = builder("resnet18", "sm89")
    build.deliver(captured.network.uniform("int8"), tmp_path / "engine")
    kernels = read_kernels(tmp_path / "engine" / "kernels.json")
    # The four additions of identity branches, with the ReLU and the next layer's quantizer in the same kernel.
    adding = [
        k for k in kernels
        if any("Add" in layer for layer in k.layers) and any(layer.endswith(".in.quantize") for layer in k.layers)
    ]
    assert len(adding) >= 7
    assert all({tensor.dtype for tensor in k.outputs} == {"Int8"} for k in adding)

"""Times of kernels as times of layers."""

from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.device.tensorrt.attribution import layer_ms
from hwsmpq.device.tensorrt.kernels import Kernel
from hwsmpq.errors import HwsmpqError


def kernel(name: str, kind: str, *layers: str) -> Kernel:
    return Kernel(name, kind, (), (), (), layers)


CONV, FC = kernel("conv_0", "correlation", "conv", "conv.in.dequantize"), kernel("fc_9", "gemm", "fc")


def test_a_layer_has_the_time_of_its_kernel():
    found = layer_ms({"conv_0": 2.0, "fc_9": 0.5}, (CONV, FC), ["fc", "conv"])
    assert found == {"fc": 0.5, "conv": 2.0, UNATTRIBUTED: 0.0}


def test_fused_layers_share_equally():
    fused = kernel("qkv", "gemm", "q", "k", "v", "Softmax_3")
    assert layer_ms({"qkv": 3.0}, [fused], ["q", "k", "v"]) == {"q": 1.0, "k": 1.0, "v": 1.0, UNATTRIBUTED: 0.0}


def test_only_the_layers_that_are_asked_for_share():
    fused = kernel("qkv", "gemm", "q", "k", "v")
    assert layer_ms({"qkv": 3.0}, [fused], ["q", "k"]) == {"q": 1.5, "k": 1.5, UNATTRIBUTED: 0.0}


@pytest.mark.parametrize("kind", ["kgen", "reformat"])
def test_helpers_count_to_the_one_layer_that_they_name(kind):
    kernels = [
        CONV, FC, kernel("h1", kind, "conv", "fc.in.quantize", "Relu_1"), kernel("h2", kind, "conv", "fc", "Add_2"),
        kernel("h3", kind, "Relu_1"), kernel("h4", kind),
    ]
    times = {"conv_0": 1.0, "fc_9": 2.0, "h1": 0.1, "h2": 0.2, "h3": 0.4, "h4": 0.8}
    assert layer_ms(times, kernels, ["conv", "fc"]) == pytest.approx({"conv": 1.1, "fc": 2.0, UNATTRIBUTED: 1.4})


def test_a_split_layer_has_all_of_its_parts():
    parts = [kernel("fc_0", "gemm", "fc"), kernel("fc_1", "reduce", "fc"), kernel("mix", "kgen", "fc")]
    assert layer_ms({"fc_0": 1.0, "fc_1": 0.5, "mix": 0.25}, parts, ["fc"]) == {"fc": 1.75, UNATTRIBUTED: 0.0}


def test_a_helper_that_computes_layers_itself_is_theirs():
    """A product with a vector may be generated like a sum."""
    kernels = [kernel("small", "kgen", "a", "b", "conv"), CONV]
    found = layer_ms({"small": 1.0, "conv_0": 2.0}, kernels, ["a", "b", "conv"])
    assert found == {"a": 0.5, "b": 0.5, "conv": 2.0, UNATTRIBUTED: 0.0}


def test_kernels_that_nobody_listed_belong_to_no_layer():
    assert layer_ms({"conv_0": 1.0, "mystery": 0.5}, [CONV], ["conv"]) == {"conv": 1.0, UNATTRIBUTED: 0.5}


def test_kernels_of_one_name_are_one():
    twins = [kernel("twin", "correlation", "a"), kernel("twin", "correlation", "b")]
    assert layer_ms({"twin": 1.0}, twins, ["a", "b"]) == {"a": 0.5, "b": 0.5, UNATTRIBUTED: 0.0}


def test_a_layer_without_a_time_is_an_error_not_a_zero():
    with pytest.raises(HwsmpqError, match="'fc'") as error:
        layer_ms({"conv_0": 1.0, "renamed": 2.0}, [CONV, FC], ["conv", "fc"])
    assert "fc_9" in error.value.why
    assert "renamed" in error.value.why


def test_an_unknown_layer_is_an_error():
    with pytest.raises(HwsmpqError, match="missing"):
        layer_ms({"conv_0": 1.0}, [CONV], ["missing"])


@pytest.mark.parametrize("seed", range(20))
def test_no_time_is_lost_or_counted_twice(seed):
    rng = np.random.default_rng(seed)
    layers = [f"layer{i}" for i in range(6)]
    kernels = [kernel(f"own{i}", "correlation", layer) for i, layer in enumerate(layers)]
    for i in range(12):
        some = rng.choice([*layers, "Relu_1", "Add_2"], size=rng.integers(0, 5), replace=False)
        kernels.append(kernel(f"more{i}", str(rng.choice(["kgen", "gemm", "signal"])), *some))
    times = {k.name: float(rng.exponential()) for k in kernels} | {"unlisted": 1.0}
    found = layer_ms(times, kernels, layers)
    assert sum(found.values()) == pytest.approx(sum(times.values()))
    assert found[UNATTRIBUTED] >= 1.0
    assert all(found[layer] >= times[f"own{i}"] for i, layer in enumerate(layers))

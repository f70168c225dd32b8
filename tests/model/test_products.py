"""Products of two activations as layers: which they are, what they read and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention import FORMS, N_CHANNELS, N_HEADS, N_TOKENS, attention, tokens
from torch import Tensor, nn

from hwsmpq.artifacts import architecture_digest, digest, plain
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.types import PRECISIONS, WITH_WEIGHTS, Ladder, Layer

KINDS = WITH_WEIGHTS | {"product"}
WIDTH = N_CHANNELS // N_HEADS


def captured(form: str = "none") -> Captured:
    return capture(attention(form), (tokens(),), kinds=KINDS)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_two_products_and_computes_the_same(form: str) -> None:
    found, x = captured(form), tokens()
    assert found.network.products == ("product", "product#2")
    with torch.no_grad():
        torch.testing.assert_close(found.graph(x), attention(form)(x), rtol=1e-4, atol=1e-5)


def test_what_products_are() -> None:
    network = captured().network
    first, second = (layer for layer in network.layers if not layer.has_weight)
    heads = (N_HEADS, N_TOKENS, WIDTH)
    assert (first.input_shape, first.operand_shape) == (heads, (N_HEADS, WIDTH, N_TOKENS))
    assert (second.input_shape, second.operand_shape) == ((N_HEADS, N_TOKENS, N_TOKENS), heads)
    assert first.output_shape == second.input_shape and second.output_shape == heads
    for layer in (first, second):
        assert layer.n_macs == N_HEADS * N_TOKENS * N_TOKENS * WIDTH
        assert (layer.n_weights, layer.n_biases, layer.n_channels, layer.block_size) == (0, 0, 0, None)
    assert (first.n_terms, second.n_terms) == (WIDTH, N_TOKENS)
    writers = {read.tensor: read.writer for read in network.reads}
    read = [tensor for layer in (first, second) for tensor in layer.tensors]
    assert [writers[tensor] for tensor in read] == ["qkv", "qkv", "product", "qkv"]


def test_bitops_and_bytes() -> None:
    network = captured().network
    n_macs = N_HEADS * N_TOKENS * N_TOKENS * WIDTH
    assert [network.bitops("product", PRECISIONS[p]) for p in ("int8", "fp32")] == [64 * n_macs, 1024 * n_macs]
    assert {network.size_bytes("product", PRECISIONS[p]) for p in ("int8", "fp8", "fp32")} == {0}


def test_names_are_those_of_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([attention(), attention("written out")])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + block(x)
            return x

    products = capture(Net().eval(), (tokens(),), kinds=KINDS).network.products
    assert products == ("blocks.0.product", "blocks.0.product#2", "blocks.1.product", "blocks.1.product#2")


def test_without_kernels_everything_is_as_it_was() -> None:
    plain_one, with_products = capture(attention(), (tokens(),)), captured()
    assert plain_one.network.products == () and plain_one.network.layers == with_products.network.weighted
    assert plain_one.network.model_sha256 == with_products.network.model_sha256, "the model is the same"
    operations = {str(node.target) for node in plain_one.graph.graph.nodes}
    assert "aten.scaled_dot_product_attention.default" in operations


def test_a_product_with_what_is_stored_is_none() -> None:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.head = nn.Parameter(torch.randn(4, N_TOKENS, N_TOKENS)), nn.Linear(N_CHANNELS, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.w @ x[:, None])

    assert capture(Stored().eval(), (tokens(),), kinds=KINDS).network.products == ()


def test_what_reads_one_tensor_is_one_group() -> None:
    class NonLocal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(N_CHANNELS, 4), nn.Linear(N_CHANNELS, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1) @ x

    groups = capture(NonLocal().eval(), (tokens(),), kinds=KINDS).network.groups
    assert [group.layers for group in groups] == [("query", "key", "product#2"), ("product",)]


def test_openvino_ties_the_products_of_one_attention() -> None:
    target = get_target("openvino-cpu")
    ties = {form: target.ties(captured(form)) for form in ("none", "mask", "cosine", "linear")}
    pair = (("product", "product#2"),)
    assert ties == {"none": pair, "mask": pair, "cosine": pair, "linear": ()}
    assert get_target("onnx-qdq").ties(captured()) == ()


@pytest.mark.parametrize(
    ("ladder", "runs"),
    [
        ("int8,fp32", ["int8", "fp32"]),
        ("w4a4,w4a8,int8,fp32", ["int8", "int8", "int8", "fp32"]),
        ("w4a4,w6a6,fp32", ["fp32"] * 3),
        ("w4a8,w6a6", ["fp32"] * 2),
        ("w2a2,int8,w8a16", ["int8", "int8", "fp32"]),
    ],
)
def test_candidates(ladder: str, runs: list[str]) -> None:
    """Eight bits on both sides, or what stands above; never fewer bits than were asked for."""

    class Everything(type(get_target("onnx-qdq"))):  # type: ignore[misc]
        native = tuple(PRECISIONS)

    network, levels = captured().network, Ladder.parse(ladder)
    network = replace(network, substitutes=substitutes(Everything(), network, levels))
    assert list(network.levels(levels.names)["product"]) == runs
    assert list(network.levels(levels.names)["qkv"]) == list(levels.names)


def test_the_digest_of_an_architecture_without_products_is_that_of_earlier_versions() -> None:
    network = capture(attention(), (tokens(),)).network
    payload = plain(network)
    place = {read.tensor: index for index, read in enumerate(network.reads)}
    added = ("n_kept", "operand_tensor", "operand_shape")
    layers = [{key: value for key, value in layer.items() if key not in added} for layer in payload["layers"]]
    layers = [{**layer, "input_tensor": place[layer["input_tensor"]]} for layer in layers]
    reads = [{**read, "tensor": place[read["tensor"]]} for read in payload["reads"]]
    assert architecture_digest(network) == digest({"layers": layers, "groups": payload["groups"], "reads": reads})
    assert architecture_digest(captured().network) != architecture_digest(network)


def test_a_layer_with_a_weight_takes_every_precision() -> None:
    layers: list[Layer] = list(captured().network.weighted)
    assert all(layer.takes(precision) for layer in layers for precision in PRECISIONS.values())

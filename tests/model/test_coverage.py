"""Computed, turned and sliced weights against the modules that compute them, and the count of what is in layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.report.formats import covered
from hwsmpq.types import Coverage, OtherWeight


class Standardized(nn.Conv2d):
    """Weights of mean 0 and variance 1 a filter, as in BiT."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.standard(), self.bias, self.stride, self.padding)

    def standard(self) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        return functional.batch_norm(rows, None, None, training=True, eps=1e-6).reshape_as(self.weight)


class Turned(nn.Module):
    """A linear layer with the matrix the other way round, as GPT-2's."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(n_inputs, n_outputs)), nn.Parameter(torch.randn(n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return rows.view(*x.shape[:-1], -1)


def check(captured: Captured, model: nn.Module, *inputs: Tensor) -> None:
    """Same outputs, and every layer is found again in the ONNX file."""
    with torch.no_grad():
        expected = model.eval()(*inputs)
    rounding = 1e-5 * max(1.0, float(expected.abs().max()))  # of sums that cancel, too
    torch.testing.assert_close(captured.graph(*inputs), expected, rtol=1e-4, atol=rounding)
    export_onnx(captured)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")
@pytest.mark.parametrize("make", [
    parametrizations.weight_norm, weight_norm, parametrizations.spectral_norm, spectral_norm,
    lambda conv: parametrizations.weight_norm(conv, dim=2),
])
def test_normalized_weights_are_stored_as_the_layer_uses_them(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = nn.Sequential(make(nn.Conv1d(3, 8, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    x = torch.randn(4, 3, 10)
    captured = capture(model, (x,))
    assert [layer.name for layer in captured.network.layers] == ["0", "3"]
    model(x)  # spectral_norm of old computes its weight when it is called
    weight = captured.weight_of(captured.network.layers[0])
    torch.testing.assert_close(weight, model[0].weight.detach(), rtol=1e-4, atol=1e-6)
    coverage = captured.network.coverage
    assert coverage is not None and not coverage.others
    assert coverage.n_in_layers == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    check(captured, model, x)


def test_standardized_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Standardized(3, 600, 13), nn.ReLU(), Standardized(600, 4, 1))
    x = torch.randn(2, 3, 14, 14)
    captured = capture(model, (x,))
    names = [layer.weight_name for layer in captured.network.layers]
    assert names == ["0.weight", "2.weight"]
    torch.testing.assert_close(captured.weight_of(captured.network.layers[0]), model[0].standard().detach())
    check(captured, model, x)


def test_a_matrix_the_other_way_round_is_a_linear_layer_of_the_whole_tensor() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Turned(6, 8), nn.GELU(), Turned(8, 4))
    x = torch.randn(3, 5, 6)
    captured = capture(model, (x,))
    first, second = captured.network.layers
    assert (first.name, first.kind, first.weight_shape, first.input_shape, first.output_shape) == (
        "0", "linear", (8, 6), (5, 6), (5, 8),
    )
    assert second.n_biases == 4 and second.n_macs == 5 * 8 * 4
    check(captured, model, x)


def test_products_with_a_stored_matrix_are_layers_and_those_of_it_from_the_left_are_not() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.right, self.left = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.left @ (x @ self.right)

    torch.manual_seed(0)
    model, x = Products(), torch.randn(2, 5, 6)
    captured = capture(model, (x,))
    assert [layer.weight_name for layer in captured.network.layers] == ["right"]
    assert captured.network.coverage == Coverage(24, (OtherWeight("left", 15, "matmul"),))
    check(captured, model, x)


@pytest.mark.parametrize("n_inputs", [2, 3])
def test_projections_of_attention_over_other_inputs(n_inputs: int) -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.attention(q, k, v if n_inputs == 3 else k, need_weights=False)[0]

    torch.manual_seed(0)
    model = Cross()
    inputs = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    captured = capture(model, inputs)
    names = [layer.name for layer in captured.network.layers]
    assert names == ["attention", *(f"attention#{i}" for i in range(2, n_inputs + 1)), "attention.out_proj"]
    assert captured.network.coverage == Coverage(3 * 64 + 64, ())
    assert sum(layer.n_weights for layer in captured.network.layers) == 4 * 64
    check(captured, model, *inputs)


def test_what_is_in_no_layer_is_named() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(20, 8), nn.Embedding(6, 8)
            self.kinds = nn.Parameter(torch.randn(1, 1, 8))
            self.memory, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 20)
            self.head.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            x = self.words(ids) + self.places(torch.arange(ids.shape[1])) + self.kinds
            return self.head(self.memory(x)[0])

    torch.manual_seed(0)
    model, ids = Language(), torch.randint(20, (2, 6))
    coverage = capture(model, (ids,)).network.coverage
    assert coverage is not None
    assert {(w.name, w.n_weights, w.reader) for w in coverage.others} == {
        ("places.weight", 48, "embedding"), ("kinds", 8, "add"),
        ("memory.weight_ih_l0", 256, "lstm"), ("memory.weight_hh_l0", 256, "lstm"),
    }
    assert coverage.n_in_layers == 160 and coverage.n_weights == 160 + 8 + 512
    assert covered(coverage) == (
        "160 of 680 weights are in layers that can be quantized; not in layers: memory.weight_ih_l0 (256, lstm),"
        " memory.weight_hh_l0 (256, lstm), kinds (8, add); embeddings apart: places.weight (48, embedding)"
    )
    assert covered(replace(coverage, others=())) == "All 160 weights are in layers that can be quantized"


def test_tensors_that_are_only_repeated_are_not_stored() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.head = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.token.expand(600, 600, 8)[:, 0])

    captured = capture(Repeated(), (torch.randn(2, 600, 8),))
    assert captured.network.n_other_params == 8


def test_a_product_of_constants_is_no_layer() -> None:
    """As in ConViT, whose positions are repeated for every sample before they are multiplied."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.places = nn.Linear(8, 6), nn.Linear(1, 6)

        def forward(self, x: Tensor) -> Tensor:
            places = torch.arange(5.0)[None, :, None].expand(x.shape[0], -1, -1)
            return self.head(x) + self.places(places)

    torch.manual_seed(0)
    model, x = Placed(), torch.randn(3, 5, 8)
    captured = capture(model, (x,))
    assert [layer.name for layer in captured.network.layers] == ["head"]
    assert captured.network.coverage == Coverage(48, (OtherWeight("places.weight", 6, "linear"),))
    check(captured, model, x)

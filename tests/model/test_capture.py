"""Capture: layers, groups, edges and MACs against hand counts; what cannot be captured says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from hwsmpq import artifacts
from hwsmpq.artifacts import architecture_digest
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import fit
from hwsmpq.model.capture import capture
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.report.formats import count
from hwsmpq.types import CostTable, Network

PROFILES = Path(__file__).parents[2] / "profiles"


def network_of(model: nn.Module, *inputs: Tensor, ties: tuple[tuple[str, ...], ...] = ()) -> Network:
    return capture(model, inputs).with_ties(ties).network


def groups_of(network: Network) -> list[tuple[str, ...]]:
    return [group.layers for group in network.groups]


def edges_of(network: Network) -> dict[tuple[str, str], int]:
    return {(edge.source, edge.target): edge.n_elements for edge in network.edges}


@pytest.mark.parametrize(
    ("module", "shape", "n_macs", "n_weights"),
    [
        # output 6 x 6, every output reads 3 x 3 x 4
        (nn.Conv2d(4, 8, 3), (4, 8, 8), 8 * 36 * 36, 8 * 36),
        # depthwise: every output reads 3 x 3 x 1
        (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 8, 8), 4 * 64 * 9, 36),
        (nn.Conv2d(4, 8, 3, groups=2, stride=2), (4, 9, 9), 8 * 16 * 18, 8 * 18),
        (nn.Conv1d(4, 6, 5), (4, 20), 6 * 16 * 20, 120),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 3 * 27 * 16, 48),
        # transposed: every one of 25 inputs a channel meets 8 x 2 x 2 weights
        (nn.ConvTranspose2d(4, 8, 2, stride=2), (4, 5, 5), 4 * 25 * 32, 128),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), (4, 5, 5), 4 * 25 * 36, 4 * 36),
        (nn.Linear(12, 5), (12,), 60, 60),
        (nn.Linear(12, 5), (7, 12), 7 * 60, 60),
        (nn.Linear(12, 5), (3, 7, 12), 21 * 60, 60),
    ],
)
def test_macs_by_hand(module: nn.Module, shape: tuple[int, ...], n_macs: int, n_weights: int) -> None:
    (layer,) = network_of(nn.Sequential(module, nn.ReLU()), torch.randn(1, *shape)).layers
    assert (layer.n_macs, layer.n_weights) == (n_macs, n_weights)
    assert layer.name == "0"
    assert layer.input_shape == shape
    assert layer.weight_shape == tuple(module.weight.shape)


def test_resnet18_has_its_published_macs() -> None:
    """1.814 billion multiply-adds at 224 x 224, the count that the literature gives."""
    network = network_of(models.resnet18(), torch.randn(1, 3, 224, 224))
    assert sum(layer.n_macs for layer in network.layers) == pytest.approx(1.814e9, rel=1e-3)
    assert sum(layer.n_weights for layer in network.layers) == 11_678_912


def test_resnet101_search_space_is_the_papers() -> None:
    """One group a residual branch input: 105 layers, of which the four downsampling ones join their block's first."""
    network = network_of(models.resnet101(num_classes=10), torch.randn(1, 3, 32, 32))
    assert len(network.layers) == 105
    assert len(network.groups) == 101
    assert count(network.n_configurations(6)) == "3.9e78"
    assert ("layer2.0.conv1", "layer2.0.downsample.0") in groups_of(network)


class Branches(nn.Module):
    """conv -> relu -> (left, right) -> cat -> head, beside an untouched side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.head(torch.cat([self.left(y), self.right(y)], 1).mean((2, 3)))


def test_groups_and_edges_by_hand() -> None:
    network = network_of(Branches(), torch.randn(1, 3, 8, 8))
    assert groups_of(network) == [("stem",), ("left", "right"), ("head",)]
    # left is the larger half of what is concatenated.
    assert [(read.writer, read.n_elements) for read in network.reads] == [(None, 3 * 64), ("stem", 4 * 64), ("left", 6)]
    assert edges_of(network) == {("stem", "left"): 4 * 64, ("left", "head"): 6}


class Attention(nn.Module):
    """Pre-norm blocks on one residual stream: attention over separate queries, keys and values, then two layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        names = ("q", "k", "v", "out", "up", "down")
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(8), **{name: nn.Linear(8, 8) for name in names}}) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            y = block["norm"](x)
            x = x + block["out"](functional.scaled_dot_product_attention(block["q"](y), block["k"](y), block["v"](y)))
            x = x + block["down"](functional.gelu(block["up"](block["norm"](x))))
        return self.head(x)


@pytest.mark.parametrize("depth", [1, 4])
def test_a_residual_stream_is_read_from_the_layer_that_wrote_it_last(depth: int) -> None:
    network = network_of(Attention(depth), torch.randn(1, 5, 4))
    ends = ["stem"]
    for i in range(depth):
        ends += [f"blocks.{i}.{name}" for name in ("q", "out", "up", "down")]
    assert edges_of(network) == dict.fromkeys(pairwise([*ends, "head"]), 40)
    writers = {read.tensor: read.writer for read in network.reads}
    assert {writers[x.input_tensor] for x in network.layers if x.name.endswith("out")} == {
        f"blocks.{i}.v" for i in range(depth)
    }
    mixed = {**network.uniform("int8"), "head": "fp32"}
    assert [(e.source, e.target) for e in network.switches(mixed)] == [(ends[-1], "head")]
    assert network.switches(network.uniform("int8")) == ()
    assert network.switches({**network.uniform("int8"), "blocks.0.out": "w4a8"}) == ()  # reads the same integers


def test_a_gate_is_no_writer() -> None:
    """What a squeeze-and-excitation block scales was written by the layer before it, not by the one of the scales."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.squeeze, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            return self.b(y * self.squeeze(y.mean((2, 3), keepdim=True)).sigmoid())

    network = network_of(Gated(), torch.randn(1, 4, 8, 8))
    assert edges_of(network) == {("a", "squeeze"): 4, ("a", "b"): 4 * 64}


def test_an_architecture_is_the_same_whatever_torch_calls_its_tensors() -> None:
    network = network_of(Branches(), torch.randn(1, 3, 8, 8))
    renamed = replace(
        network, layers=tuple(replace(x, input_tensor=f"{x.input_tensor}_1") for x in network.layers),
        reads=tuple(replace(read, tensor=f"{read.tensor}_1") for read in network.reads),
    )
    assert architecture_digest(renamed) == architecture_digest(network)
    first, *others = network.reads
    moved = replace(network, reads=(replace(first, writer="head"), *others))
    assert architecture_digest(moved) != architecture_digest(network)


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*/resnet18.*.json")), ids=lambda path: path.parent.name)
def test_a_shipped_table_is_of_the_network_of_its_name_and_fits_its_engines(path: Path) -> None:
    network = network_of(models.resnet18(), torch.randn(1, 3, 224, 224))
    table = artifacts.read(path, CostTable)
    assert table.architecture == architecture_digest(network)
    model = fit(table, network)
    for name, measured in table.uniform_ms.items():
        assert model.predict(network.uniform(name)) == pytest.approx(measured.median_ms, rel=0.05)
    assert 0 < model.fit_error_ms < 0.1 * table.top_ms


def test_ties_merge_groups_transitively() -> None:
    x = torch.randn(1, 3, 8, 8)
    assert groups_of(network_of(Branches(), x, ties=(("head", "stem"),))) == [("stem", "head"), ("left", "right")]
    assert groups_of(network_of(Branches(), x, ties=(("head", "right"), ("stem", "head")))) == [
        ("stem", "left", "right", "head")
    ]
    with pytest.raises(HwsmpqError, match="'nowhere' does not exist"):
        network_of(Branches(), x, ties=(("head", "nowhere"),))


class Through(nn.Module):
    """Data reaches the second layer only through an operation that returns several tensors."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y.chunk(2, 1)[0],
        lambda y: y.split([2, 2], 1)[1],
        lambda y: y.topk(2, 1)[0],
        lambda y: nn.functional.batch_norm(y.relu(), torch.zeros(4), torch.ones(4))[:, :2],
        lambda y: y.reshape(y.shape[0], 2, 2, 64).flatten(2).reshape(y.shape[0], 2, 16, 8),
    ],
    ids=["chunk", "split", "topk", "batch_norm", "reshape"],
)
def test_edges_pass_through_every_operation(between: Callable[[Tensor], Tensor]) -> None:
    network = network_of(Through(between), torch.randn(1, 4, 8, 8))
    (edge,) = network.edges
    assert (edge.source, edge.target) == ("a", "b")


def test_sizes_are_no_data_flow() -> None:
    """The second branch takes only the batch size from the first."""

    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(z.reshape(y.shape[0], 6)) + y

    assert network_of(Sizes(), torch.randn(1, 4), torch.randn(1, 2, 3)).edges == ()


class Reuse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(x).relu()).relu() * self.scale)


def test_a_module_used_twice_is_two_layers_of_one_group_stored_once() -> None:
    network = network_of(Reuse(), torch.randn(1, 6))
    assert [layer.name for layer in network.layers] == ["body", "body#2", "head"]
    assert groups_of(network) == [("body", "body#2"), ("head",)]
    assert [layer.n_macs for layer in network.layers] == [36, 36, 18]
    assert sum(layer.n_weights for layer in network.layers) == 36 + 18
    assert sum(layer.n_biases for layer in network.layers) == 6 + 3
    assert network.n_other_params == 6


def test_weights_tied_under_two_names_are_one_group() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    network = network_of(model, torch.randn(1, 6))
    assert [len(group.layers) for group in network.groups] == [2, 1]
    assert sum(layer.n_weights for layer in network.layers) == 36 + 18


def test_capture_leaves_the_model_alone() -> None:
    model = models.resnet18(num_classes=4).train()
    model.layer1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    capture(model, (torch.randn(2, 3, 32, 32),))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_capture_is_deterministic_and_its_hash_sees_weights_and_structure() -> None:
    torch.manual_seed(0)
    model, x = Branches(), torch.randn(1, 3, 8, 8)
    first = network_of(model, x)
    assert network_of(model, torch.randn(1, 3, 8, 8)) == first
    with torch.no_grad():
        model.left.weight[0, 0] += 1e-3
    assert network_of(model, x).model_sha256 != first.model_sha256
    chain = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    other = nn.Sequential(chain[0], nn.Tanh())
    y = torch.randn(1, 4)
    assert network_of(chain, y).model_sha256 != network_of(other, y).model_sha256
    in_place = nn.Sequential(chain[0], nn.ReLU(inplace=True))
    assert network_of(chain, y).model_sha256 == network_of(in_place, y).model_sha256


class InPlace(nn.Module):
    """Overwrites what nothing else reads, what is read afterwards, and what a view shows."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.norm(self.convs[0](x)), inplace=True)
        y = self.convs[1](x)
        y = functional.relu(y, inplace=True) + 2 * y
        z = self.convs[2](y)
        view = z.flatten(1)
        functional.hardtanh(z, 0.0, 0.2, inplace=True)
        return view


def test_operations_in_place_give_what_they_gave() -> None:
    torch.manual_seed(0)
    model, x = InPlace().eval(), torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(capture(model, (x,)).graph(x), model(x))


class DataDependent(Reuse):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) if x.sum() > 0 else self.body(x)


class Numpy(Reuse):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.from_numpy(x.numpy() * 2))


class One(Reuse):
    """As exporters write networks that were shown one sample."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).reshape(1, 6))


def test_a_network_of_one_sample_is_captured_for_one() -> None:
    torch.manual_seed(0)
    model, x, scheme = One().eval(), torch.randn(5, 6), get_scheme("unsigned_activations")
    captured = capture(model, (x,))
    assert captured.takes_one and not capture(Reuse().eval(), (x,)).takes_one
    assert [layer.n_macs for layer in captured.network.layers] == [layer.n_weights for layer in captured.network.layers]
    simulator = Simulator(captured, calibrate(captured, (x,), scheme, [8]), scheme)
    found = simulator.scores([captured.network.uniform("fp32")], (x,), lambda out, rows: out)[0]
    torch.testing.assert_close(found, torch.cat([model(one[None]) for one in x]))
    with pytest.raises(HwsmpqError, match="takes one sample at a time"):
        export_onnx(captured, 4)


class FixedBatch(Reuse):
    def __init__(self, n: int = 2) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(self.n, 6))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (DataDependent(), r"DataDependent cannot be exported: .*data-dependent[\s\S]*test_capture\.py"),
        (Numpy(), r"Numpy cannot be exported: .*numpy"),
        (FixedBatch(), r"FixedBatch fixes the batch size\n  why: .*constant \(2\)"),
        (FixedBatch(16), r"FixedBatch fixes the batch size\n  why: it runs on 16 samples .*\n.*x.shape\[0\], -1"),
        (nn.Sequential(nn.ReLU()), "has no convolution or linear layer"),
        (Reuse().double(), r"float64 tensors \(scale\)"),
        (Reuse().half(), r"float16 tensors \(scale\)"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_captured_says_why(model: nn.Module, message: str) -> None:
    with pytest.raises(HwsmpqError, match=message):
        capture(model, (torch.randn(2, 6),))


@pytest.mark.filterwarnings("ignore")
def test_a_failed_capture_leaves_the_mode_alone() -> None:
    model = DataDependent().train()
    with pytest.raises(HwsmpqError):
        capture(model, (torch.randn(2, 6),))
    assert model.training and model.body.training


class BiasedAttention(nn.Module):
    """Attention with an additive bias, which kernels lay out otherwise than the export does, behind a view."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.bias = nn.Linear(32, 96), nn.Linear(32, 5), nn.Parameter(torch.randn(6, 6, 2))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.permute(2, 0, 1)[None])
        return self.out(y.transpose(1, 2).reshape(n, tokens, width).mean(1))


@pytest.mark.parametrize("frozen", [False, True])
def test_attention_behind_a_view_is_captured_and_written(frozen: bool) -> None:
    torch.manual_seed(0)
    model = BiasedAttention().requires_grad_(not frozen)
    x = torch.randn(3, 6, 32)
    captured = capture(model, (x,))
    torch.testing.assert_close(captured.graph(x), model(x), rtol=1e-5, atol=1e-5)
    assert export_onnx(captured)


class Anchored(nn.Module):
    """Keeps places for the size of its last input, as ultralytics' heads do."""

    shape: torch.Size | None = None
    places = torch.empty(0)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        y = self.conv(x)
        if self.shape != y.shape:
            self.places, self.shape = torch.arange(y.shape[-1]).float() + y.new_zeros(y.shape), y.shape
        return y + self.places


@pytest.mark.parametrize("n_before", [0, 1, 2, 5])
def test_what_a_module_keeps_of_earlier_calls_is_not_captured(n_before: int) -> None:
    model, x = Anchored().eval(), torch.randn(4, 1, 6, 6)
    if n_before:
        model(x[:1].expand(n_before, 1, 6, 6))
    before = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    captured = capture(model, (x,))
    after = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    torch.testing.assert_close(captured.graph(x).detach(), model(x).detach())


def test_a_network_that_does_not_run_says_how_it_was_called() -> None:
    with pytest.raises(HwsmpqError, match=r"(?s)does not run on its inputs: RuntimeError.*called with \(2, 1, 2, 2\)"):
        capture(nn.Sequential(nn.Conv2d(1, 2, 3)), (torch.randn(4, 1, 2, 2),))
    with pytest.raises(HwsmpqError, match=r"(?s)missing a required argument.*one tensor an argument"):
        capture(nn.Bilinear(2, 2, 3), (torch.randn(4, 2),))
    with pytest.raises(HwsmpqError, match=r"(?s)does not run.*inputs are float64, its weights float32"):
        capture(nn.Sequential(nn.Linear(2, 2)), (torch.randn(4, 2).double(),))

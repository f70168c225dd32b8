"""Reconstruction: blocks cover the graph, rounding is on the grid, errors fall, an interruption changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quantize.networks import NETWORKS, Case, make_case
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.blocks import blocks_of
from hwsmpq.train.network import QuantizedNetwork, quantized
from hwsmpq.train.reconstruct import reconstruct
from hwsmpq.types import PRECISIONS, Reconstruction

SHORT = Reconstruction(n_iterations=40, batch_size=16, seed=3)


def samples(name: str, n: int = 48) -> tuple[Tensor, ...]:
    return (torch.randn(n, *NETWORKS[name][1], generator=torch.Generator().manual_seed(5)),)


def network(case: Case, precision: str = "w3a5") -> QuantizedNetwork:
    return quantized(case.captured, case.ranges, case.scheme, case.captured.network.uniform(precision))


def layer_nodes(case: Case) -> set[str]:
    return {node.name for node in case.captured.layer_nodes.values()}


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_after_each_other_are_the_network(name: str) -> None:
    case, x = make_case(name), samples(name, 4)[0]
    blocks = blocks_of(case.captured.graph, layer_nodes(case))
    assert sorted(n for block in blocks for n in block.layers) == sorted(layer_nodes(case))
    placeholder = next(n.name for n in case.captured.graph.graph.nodes if n.op == "placeholder")
    env = {placeholder: x}
    for block in blocks:
        y = block.run(case.captured.graph, env)
        env = {placeholder: x, block.outputs[0].name: y[0]}
    torch.testing.assert_close(y[0], case.captured.graph(x), rtol=0, atol=0)


class Chain(nn.Module):
    """Convolutions one after the other, then a residual block, whose addition ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)))
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.chain(x)
        return self.b(self.a(x).relu()) + x


def test_a_residual_is_never_cut_and_a_chain_is_cut_in_pieces() -> None:
    captured = capture(Chain(), (torch.randn(2, 4, 6, 6),))
    blocks = blocks_of(captured.graph, {node.name for node in captured.layer_nodes.values()})
    assert [len(block.layers) for block in blocks] == [3, 3]
    assert {captured.layer_nodes[name].name for name in ("a", "b")} <= set(blocks[1].layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_learned_is_on_the_grid_and_closer_to_the_network(name: str) -> None:
    case, x = make_case(name), samples(name)
    net = network(case)
    outcomes = reconstruct(net, case.captured, x, replace(SHORT, n_iterations=150))
    assert sum(one.is_kept for one in outcomes) >= len(outcomes) / 2
    # Weights that are on their grid round to themselves: the simulator computes what was learned.
    captured, ranges = case.captured.with_weights(net.weights()), net.ranges()
    fresh = samples(name, 60)[0][48:]
    assignment = case.captured.network.uniform("w3a5")
    plain, learned = (
        simulator.scores([assignment], (fresh,), lambda out, rows: out)[0]
        for simulator in (case.simulator(), Simulator(captured, ranges, case.scheme, 64))
    )
    with torch.no_grad():
        torch.testing.assert_close(net(fresh), learned, rtol=1e-4, atol=1e-5)
        target = case.captured.graph(fresh)
    assert (learned - target).square().mean() < (plain - target).square().mean()
    weights = [layer.weight_name for layer in case.captured.network.layers]
    kept = {name for one in outcomes if one.is_kept for name in one.layers}
    for layer in case.captured.network.layers:
        if layer.name not in kept or weights.count(layer.weight_name) > 1:
            continue
        weight, one = net.weights()[layer.weight_name], PRECISIONS["w3a5"]
        read = QuantizedLayer.of(layer, one, ranges, case.scheme)
        torch.testing.assert_close(read.weight(weight), read.smoothed(weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("words", ["power-of-two", "per-tensor"])
def test_scales_stay_as_the_scheme_has_them(words: str) -> None:
    case = make_case("residual", f"vendor:{words}")
    net, x = network(case), samples("residual")
    assert any(one.is_kept for one in reconstruct(net, case.captured, x, SHORT))
    simulator = Simulator(case.captured.with_weights(net.weights()), net.ranges(), case.scheme, 64)
    found = simulator.scores([case.captured.network.uniform("w3a5")], x, lambda out, rows: out)[0]
    with torch.no_grad():
        torch.testing.assert_close(net(*x), found, rtol=1e-4, atol=1e-5)


def test_what_did_not_lower_the_error_is_as_before() -> None:
    case = make_case("residual")
    net, untouched = network(case), network(case)
    # Nothing can be learned from one sample that the others have nothing in common with.
    x = torch.cat((torch.zeros(7, *NETWORKS["residual"][1]), samples("residual", 1)[0]))
    outcomes = reconstruct(net, case.captured, (x,), replace(SHORT, n_iterations=400))
    lost = [one for one in outcomes if not one.is_kept]
    assert lost
    before, after = untouched.weights(), net.weights()
    for layer in case.captured.network.layers:
        same = torch.equal(before[layer.weight_name], after[layer.weight_name])
        assert same or any(layer.name in one.layers for one in outcomes if one.is_kept)


class Pairs(nn.Module):
    """Two rows a sample, which run as if they were samples: one pair after the other, or all first ones first."""

    def __init__(self, by_sample: bool) -> None:
        super().__init__()
        self.by_sample, self.first, self.body = by_sample, nn.Linear(6, 12), nn.Linear(12, 12)
        self.middle, self.last = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = (x if self.by_sample else x.transpose(0, 1)).flatten(0, 1)
        y = self.last(self.middle(self.body(self.first(y).relu()).relu()).relu())
        return y.unflatten(0, (-1, 2)) if self.by_sample else y.unflatten(0, (2, -1)).transpose(0, 1)


@pytest.mark.parametrize("by_sample", [True, False])
def test_samples_may_have_several_rows(by_sample: bool) -> None:
    torch.manual_seed(0)
    x, scheme = torch.randn(64, 2, 6), get_scheme("unsigned_activations")
    captured = capture(Pairs(by_sample).eval(), (x[:4],))
    ranges = calibrate(captured, (x,), scheme, [5])
    net = quantized(captured, ranges, scheme, captured.network.uniform("w3a5"))
    if not by_sample:
        with pytest.raises(HwsmpqError, match="samples cannot be told apart"):
            reconstruct(net, captured, (x,), SHORT)
        return
    outcomes = reconstruct(net, captured, (x,), SHORT)
    assert len(outcomes) > 1 and any(one.is_kept for one in outcomes)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("precision", "n_before"), [("w3a5", 1), ("w3a5", 2), ("w4a16", 3)])
def test_an_interrupted_reconstruction_ends_as_if_it_had_not_been(
    tmp_path: Path, precision: str, n_before: int
) -> None:
    case, x, file = make_case("tokens"), samples("tokens"), tmp_path / "c.pt"

    def stop(done: int, n: int, said: str) -> None:
        if done == n_before:
            raise Interrupted

    whole, again = network(case, precision), network(case, precision)
    outcomes = reconstruct(whole, case.captured, x, SHORT)
    with pytest.raises(Interrupted):
        reconstruct(network(case, precision), case.captured, x, SHORT, checkpoint=file, progress=stop)
    resumed = reconstruct(again, case.captured, x, SHORT, checkpoint=file)
    assert [replace(one, seconds=0) for one in resumed] == [replace(one, seconds=0) for one in outcomes]
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert again.ranges() == whole.ranges()


def test_minutes_are_kept_to(tmp_path: Path) -> None:
    case = make_case("residual")
    outcomes = reconstruct(network(case), case.captured, samples("residual"), Reconstruction(minutes=1e-9))
    assert {one.n_iterations for one in outcomes} == {4}


def test_nonsense_is_refused() -> None:
    with pytest.raises(HwsmpqError, match="minutes"):
        Reconstruction(minutes=0)
    with pytest.raises(HwsmpqError, match="n_iterations"):
        Reconstruction(n_iterations=0)

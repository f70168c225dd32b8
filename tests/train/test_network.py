"""The trainable network against the simulator: the same outputs before training, and after it with what it learned."""

from __future__ import annotations

import random

import pytest
import torch
from quantize.networks import LADDER, NETWORKS, Case, make_case, smoothed_case
from torch import Tensor

from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.network import QuantizedNetwork, quantized
from hwsmpq.types import Assignment

SCHEMES = ("unsigned_activations_no_vnni", "signed_symmetric", "tensorrt")


def simulated(case: Case, network: QuantizedNetwork, assignment: Assignment) -> Tensor:
    simulator = Simulator(case.captured.with_weights(network.weights()), network.ranges(), case.scheme, device="cpu")
    return simulator.scores([assignment], case.inputs, lambda out, rows: out)[0]


def train_a_little(case: Case, network: QuantizedNetwork) -> None:
    """Some steps along the gradient that move weights and steps visibly."""
    optimizer = torch.optim.SGD(network.parameters(), 0.02)
    for _ in range(3):
        optimizer.zero_grad()
        network(*case.inputs).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        network.constrain()


def assert_same(case: Case, assignment: Assignment) -> None:
    network = quantized(case.captured, case.ranges, case.scheme, assignment)
    first = case.simulator().scores([assignment], case.inputs, lambda out, rows: out)[0]
    with torch.no_grad():
        torch.testing.assert_close(network(*case.inputs), first, rtol=1e-4, atol=1e-4)
    train_a_little(case, network)
    with torch.no_grad():
        trained = network(*case.inputs)
    torch.testing.assert_close(simulated(case, network, assignment), trained, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(trained, first, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_outputs_are_those_of_the_simulator(network: str, scheme: str, seed: int) -> None:
    case, rng = make_case(network, scheme), random.Random(seed)
    assert_same(case, {group: rng.choice(LADDER.names) for group in case.captured.network.group_names})


@pytest.mark.parametrize("precision", ["w2a2", "w3a5", "int8", "fp8", "w8a16"])
def test_every_kind_of_precision(precision: str) -> None:
    case = make_case("residual")
    assert_same(case, case.captured.network.uniform(precision))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_smoothed_inputs(precision: str) -> None:
    case = smoothed_case("signed_symmetric")
    assert case.ranges.smoothed[precision]
    assert_same(case, case.captured.network.uniform(precision))


def test_every_learned_thing_moves() -> None:
    case = make_case("residual")
    network = quantized(case.captured, case.ranges, case.scheme, case.captured.network.uniform("w3a5"))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    train_a_little(case, network)
    assert {name for name, p in network.named_parameters() if torch.equal(p, before[name])} == set()
    grouped = [p for _, part in network.parameter_groups() for p in part]
    assert len(grouped) == len(before) and {id(p) for p in grouped} == {id(p) for p in network.parameters()}


def test_the_original_network_is_left_alone() -> None:
    case = make_case("residual")
    assignment = case.captured.network.uniform("w3a5")
    before = case.simulator().scores([assignment], case.inputs, lambda out, rows: out)[0]
    train_a_little(case, quantized(case.captured, case.ranges, case.scheme, assignment))
    assert torch.equal(case.simulator().scores([assignment], case.inputs, lambda out, rows: out)[0], before)


def test_fp32_is_the_model() -> None:
    case = make_case("tokens")
    network = quantized(case.captured, case.ranges, case.scheme, case.captured.network.uniform("fp32"))
    assert not network.is_quantized
    torch.testing.assert_close(network(*case.inputs), case.model(*case.inputs), rtol=1e-5, atol=1e-5)

"""The supernet against plainly quantized networks, and the game over its operations against masks set by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from quantize.networks import NETWORKS, Case, make_case, smoothed_case
from torch import Tensor

from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.paper_like import PaperLike
from hwsmpq.contribution.stop import Stop
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import cross_entropy, top1
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.fit import fit
from hwsmpq.train.network import quantized
from hwsmpq.train.operations import OperationGame
from hwsmpq.train.supernet import Supernet, penalised
from hwsmpq.types import Ladder, Recipe

SQUARE = Ladder.parse("w2a2,w3a3,w5a5")
PRODUCT = Ladder.parse("w2a2,w2a5,w5a2,w5a5")
TARGETS = torch.arange(6) % 5


def supernet(ladder: Ladder = SQUARE, network: str = "residual") -> tuple[Case, Supernet]:
    case = make_case(network)
    ranges = calibrate(case.captured, case.inputs, case.scheme, [2, 3, 5])
    case = Case(case.model, case.inputs, case.captured, ranges, case.scheme)
    return case, Supernet(case.captured, ranges, case.scheme, ladder)


def trained(ladder: Ladder = SQUARE) -> tuple[Case, Supernet]:
    case, net = supernet(ladder)
    samples = Samples(case.inputs, TARGETS)
    fit(net, samples, penalised(net, cross_entropy, 0.1), Recipe(3, 0.02, 3))
    return case, net


def simulated(case: Case, net: Supernet, assignment: dict[str, str]) -> Tensor:
    simulator = Simulator(case.captured.with_weights(net.weights()), net.ranges(), case.scheme, device="cpu")
    return simulator.scores([assignment], case.inputs, lambda out, rows: out)[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_one_candidate_is_the_plainly_quantized_network(network: str) -> None:
    ladder = Ladder.parse("w3a5,w5a5")
    case, net = supernet(ladder, network)
    for name in ladder.names:
        uniform = case.captured.network.uniform(name)
        net.keep({group: [name] for group in uniform})
        plain = quantized(case.captured, case.ranges, case.scheme, uniform)
        with torch.no_grad():
            assert torch.equal(net(*case.inputs), plain(*case.inputs))
        torch.testing.assert_close(net(*case.inputs), simulated(case, net, uniform), rtol=1e-4, atol=1e-4)


def test_after_training_every_mixture_is_that_of_the_simulator() -> None:
    case, net = trained()
    rng = np.random.default_rng(0)
    for _ in range(3):
        mixture = {g: str(rng.choice(SQUARE.names)) for g in case.captured.network.group_names}
        net.keep({group: [name] for group, name in mixture.items()})
        with torch.no_grad():
            torch.testing.assert_close(net(*case.inputs), simulated(case, net, mixture), rtol=1e-4, atol=1e-4)


def test_expected_bitops_of_one_hot_alphas_is_the_sum_over_layers() -> None:
    case, net = supernet(PRODUCT)
    network = case.captured.network
    rng = np.random.default_rng(0)
    for _ in range(5):
        chosen = {group: PRODUCT[str(rng.choice(PRODUCT.names))] for group in network.group_names}
        with torch.no_grad():
            for row, precision in enumerate(chosen.values()):
                net.alphas[0][row] = torch.tensor([0.0, 90.0] if precision.weight_bits == 5 else [90.0, 0.0])
                net.alphas[1][row] = torch.tensor([0.0, 90.0] if precision.activation_bits == 5 else [90.0, 0.0])
        expected = sum(
            layer.n_macs * p.weight_bits * p.activation_bits
            for group, p in chosen.items() for layer in network.layers_of(group)
        )
        assert float(net.expected_bitops().detach()) == pytest.approx(expected)
        assert net.argmax() == {group: p.name for group, p in chosen.items()}


def test_expected_bitops_of_equal_alphas_is_the_mean_over_pairs() -> None:
    case, net = supernet(SQUARE)
    n_macs = sum(layer.n_macs for layer in case.captured.network.layers)
    pairs = itertools.product([2, 3, 5], repeat=2)
    assert float(net.expected_bitops().detach()) == pytest.approx(n_macs * np.mean([w * a for w, a in pairs]))


def test_scores_are_log_shares() -> None:
    _, net = trained(PRODUCT)
    table = np.exp(net.scores())
    np.testing.assert_allclose(table.sum(1), 1, rtol=1e-6)  # of a full product, they are a distribution
    group = net.network.group_names[0]
    weights, inputs = (share.detach().numpy() for share in net.shares(group))
    np.testing.assert_allclose(table[0], np.outer(weights, inputs).ravel(), rtol=1e-5)


def test_penalty_moves_alphas_to_fewer_bits() -> None:
    case, net = supernet()
    samples = Samples(case.inputs, TARGETS)
    before = float(net.expected_bitops().detach())
    fit(net, samples, penalised(net, lambda out, targets: out.sum(1) * 0, 10.0), Recipe(30, 0.02, 6))
    assert float(net.expected_bitops().detach()) < 0.8 * before


def test_shared_weights_have_a_gradient_through_every_copy() -> None:
    case, net = supernet()
    cross_entropy(net(*case.inputs), TARGETS).mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize("names", ["w2a2,fp32", "fp8,int8"])
def test_other_formats_are_refused(names: str) -> None:
    case = make_case("residual")
    with pytest.raises(HwsmpqError, match="a supernet cannot hold"):
        Supernet(case.captured, case.ranges, case.scheme, Ladder.parse(names))


def test_smoothed_inputs_are_refused() -> None:
    case = smoothed_case("signed_symmetric")
    with pytest.raises(HwsmpqError, match="smoothed inputs"):
        Supernet(case.captured, case.ranges, case.scheme, Ladder.parse("w3a5,int8"))


def batches(case: Case):
    return lambda index: Samples(tuple(x.roll(index, 0) for x in case.inputs), TARGETS)


def test_the_game_masks_operations() -> None:
    case, net = trained()
    game = OperationGame(net, batches(case), lambda out, targets: -cross_entropy(out, targets), chunk_size=4)
    everyone = np.ones(game.n_players, dtype=np.int64)
    one_gone = everyone.copy()
    one_gone[game.operations.index((net.network.group_names[1], "w3a3"))] = 0
    found = game(np.stack([everyone, one_gone, 0 * everyone]))
    with torch.no_grad():
        full = -cross_entropy(net(*case.inputs), TARGETS).mean()
        net.keep({net.network.group_names[1]: ["w2a2", "w5a5"]})
        masked = -cross_entropy(net(*case.inputs), TARGETS).mean()
        net.keep({group: [] for group in net.network.group_names})
        empty = -cross_entropy(net(*case.inputs), TARGETS).mean()
    assert found == pytest.approx([float(full), float(masked), float(empty)])
    assert len({round(float(v), 6) for v in found}) == 3


@pytest.mark.parametrize(
    "estimator", [antithetic, PaperLike(tolerance=0.01, fresh_batch=True, momentum=0.8)], ids=["antithetic", "paper"]
)
def test_estimators_play_the_game(estimator) -> None:
    case, net = trained()
    game = OperationGame(net, batches(case), top1)
    table = estimator(game, Stop(n_draws=2), 0)
    by_group = game.by_group(table.phi)
    assert by_group.shape == net.scores().shape
    if estimator is antithetic:  # efficient in every draw
        assert by_group.sum() == pytest.approx(table.top_value - table.floor_value)
    assert float(net.shares(net.network.group_names[0])[0].detach().min()) > 0, "all operations are back"

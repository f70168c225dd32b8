"""Precisions, ladders, budgets, and what a network counts."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hwsmpq.device.runtime import NOT_AUDITED
from hwsmpq.errors import HwsmpqError
from hwsmpq.report.formats import count
from hwsmpq.types import (
    CHOSEN,
    AccuracyOutcome,
    Agreement,
    Audit,
    Budget,
    BudgetOutcome,
    Certificate,
    Cost,
    Format,
    Group,
    Ladder,
    Layer,
    LayerAudit,
    Network,
    Precision,
    Settings,
)


@pytest.mark.parametrize(
    ("name", "canonical", "weight", "activation"),
    [
        ("w4a8", "w4a8", ("int", 4), ("int", 8)), ("W2A2", "w2a2", ("int", 2), ("int", 2)),
        ("int8", "int8", ("int", 8), ("int", 8)), (" w8a8 ", "int8", ("int", 8), ("int", 8)),
        ("fp32", "fp32", ("fp32", 32), ("fp32", 32)), ("BF16", "bf16", ("bf16", 16), ("bf16", 16)),
        ("fp8", "fp8", ("fp8", 8), ("fp8", 8)), ("w8a16", "w8a16", ("int", 8), ("fp16", 16)),
        ("W4A16", "w4a16", ("int", 4), ("fp16", 16)),
    ],
)
def test_precision_names(
    name: str, canonical: str, weight: tuple[Format, int], activation: tuple[Format, int]
) -> None:
    precision = Precision.parse(name)
    assert precision == Precision(canonical, *weight, *activation)
    assert Precision.parse(precision.name) == precision
    assert precision.bitops_per_mac == weight[1] * activation[1]
    assert precision.is_float == (name.lower() in ("fp32", "bf16"))


@pytest.mark.parametrize("name", ["", "w1a8", "w9a9", "w8", "a8w8", "int4", "fp64", "w4a4x", "w-4a4", "w\uff14a4"])
def test_unknown_precisions(name: str) -> None:
    with pytest.raises(HwsmpqError, match="unknown precision"):
        Precision.parse(name)


def test_every_width_has_one_name() -> None:
    names = [Precision.parse(f"w{w}a{a}").name for w, a in itertools.product(range(2, 9), repeat=2)]
    assert len(set(names)) == 49 and "int8" in names and "w8a8" not in names


def test_ladder_is_ordered_from_floor_to_top_whatever_was_given() -> None:
    given = ["fp32", "w4a8", "w8a4", "int8", "w4a4"]
    ladders = {Ladder.parse(",".join(order)).names for order in itertools.permutations(given)}
    assert ladders == {("w4a4", "w4a8", "w8a4", "int8", "fp32")}


def test_ladder_range_and_repetition() -> None:
    ladder = Ladder.parse("w3a3..w8a8, fp32, int8,")
    assert ladder.names == ("w3a3", "w4a4", "w5a5", "w6a6", "w7a7", "int8", "fp32")
    assert (ladder.floor, ladder.top, ladder["w5a5"].weight_bits) == ("w3a3", "fp32", 5)


@pytest.mark.parametrize("text", ["", "int8", "int8,w8a8", ",", "w8a8..w3a3"])
def test_ladders_without_a_choice(text: str) -> None:
    with pytest.raises(HwsmpqError, match="leaves nothing to choose"):
        Ladder.parse(text)


@pytest.mark.parametrize("text", ["w4a8..w8a8", "w4a4..w6a8", "w4a4..", "int8..fp32"])
def test_ladder_ranges_that_mean_nothing(text: str) -> None:
    with pytest.raises(HwsmpqError):
        Ladder.parse(text)


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf"), -float("inf"), 0.0])
@pytest.mark.parametrize("kind", ["latency_ms", "bitops", "size_mb"])
def test_budgets_are_positive(kind: str, limit: float) -> None:
    with pytest.raises(HwsmpqError, match=f"{kind} budget"):
        Budget(kind, limit)  # type: ignore[arg-type]


def test_a_drop_of_nothing_is_a_budget() -> None:
    assert Budget("max_drop", 0.0).limit == 0
    with pytest.raises(HwsmpqError):
        Budget("max_drop", -0.1)


def test_a_budget_is_met_up_to_the_rounding_of_sums() -> None:
    for kind, limit in itertools.product(("latency_ms", "bitops", "size_mb", "max_drop"), (1e-6, 0.3, 7e12)):
        budget = Budget(kind, limit)  # type: ignore[arg-type]
        assert budget.met(limit) and budget.met(limit * (1 + 1e-12)) and not budget.met(limit * 1.001 + 1e-6)
        assert not budget.met(None) and not budget.met(float("nan"))
    assert Budget("max_drop", 0.0).met(1e-12) and not Budget("max_drop", 0.0).met(1e-5)


def test_settings_name_what_is_too_small() -> None:
    for name, value in (("n_pairs", 1), ("n_score_samples", 7), ("n_candidates", 0), ("n_mixtures", -1)):
        with pytest.raises(HwsmpqError, match=f"{name} is {value}"):
            Settings("task", **{name: value})
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(HwsmpqError, match="timing_seconds"):
            Settings("task", timing_seconds=seconds)


def layer(name: str, n_weights: int, n_macs: int, n_channels: int, n_biases: int = 0) -> Layer:
    return Layer(
        name, "conv", f"{name}.weight", (n_channels, n_weights // n_channels), 0, "x", (1,), (n_channels,), n_macs,
        n_weights, n_biases,
    )


@pytest.fixture
def network() -> Network:
    layers = (layer("a", 100, 1000, 10, 10), layer("b", 60, 300, 6), layer("c", 8, 16, 2, 2))
    return Network("sha", layers, (Group("a", ("a", "c")), Group("b", ("b",))), (), 5)


def test_bitops_and_bytes_by_hand(network: Network) -> None:
    w4a8, fp32 = Precision.parse("w4a8"), Precision.parse("fp32")
    assert network.bitops("a", w4a8) == (1000 + 16) * 4 * 8
    assert network.bitops("b", fp32) == 300 * 1024
    # Half a byte a weight, four bytes a channel's scale, four bytes a bias.
    assert network.size_bytes("a", w4a8) == 108 / 2 + 4 * 12 + 4 * 12
    assert network.size_bytes("b", fp32) == 60 * 4


def test_what_is_asked_for_is_substituted_once(network: Network) -> None:
    """An engine's float16 layers may fall back where they are asked for, and still run where int8 was."""
    network = replace(network, substitutes={"a": {"int8": "fp16", "fp16": "fp32"}})
    assert network.realise({"a": "int8", "b": "int8"}) == {"a": "fp16", "b": "int8"}
    assert network.uniform("fp16") == {"a": "fp32", "b": "fp16"}
    assert network.levels(("int8", "fp16", "fp32")) == {
        "a": ("fp16", "fp32", "fp32"), "b": ("int8", "fp16", "fp32"),
    }


def test_groups(network: Network) -> None:
    assert network.group_names == ("a", "b")
    assert [x.name for x in network.layers_of("a")] == ["a", "c"]
    assert [network.group_of(x) for x in "abc"] == ["a", "b", "a"]
    assert network.uniform("int8") == {"a": "int8", "b": "int8"}


def test_size_of_the_search_space_of_the_paper() -> None:
    layers = tuple(layer(f"l{i}", 4, 4, 2) for i in range(101))
    network = Network("sha", layers, tuple(Group(x.name, (x.name,)) for x in layers), (), 0)
    assert count(network.n_configurations(6)) == "3.9e78"


def test_a_search_space_beyond_what_floats_hold() -> None:
    layers = tuple(layer(f"l{i}", 4, 4, 2) for i in range(1024))
    network = Network("sha", layers, tuple(Group(x.name, (x.name,)) for x in layers), (), 0)
    assert count(network.n_configurations(2)) == "1.8e308"


def test_cost_adds_up_what_its_tables_hold() -> None:
    rng = np.random.default_rng(0)
    unary, table = rng.random((3, 2)), rng.random((2, 2))
    cost = Cost(unary, ((0, 2, table),), constant=1.5)
    for choice in itertools.product(range(2), repeat=3):
        by_hand = 1.5 + sum(unary[g, level] for g, level in enumerate(choice)) + table[choice[0], choice[2]]
        assert cost(np.array(choice)) == pytest.approx(by_hand)


def test_verified_needs_every_budget_a_clean_audit_and_agreement() -> None:
    def certificate(met: bool, *mismatches: LayerAudit, error: float | None = 0.1) -> Certificate:
        return Certificate(
            "t", {}, "sha", "claim", (BudgetOutcome("bitops", 1, 1, 1, True), BudgetOutcome("size_mb", 1, 2, 2, met)),
            None, AccuracyOutcome(1, 1, 10, 0.0), Audit(3, 3 - len(mismatches), mismatches), (),
            agreement={} if error is None else {CHOSEN: Agreement(error, 0.2, 32)},
        )

    wrong = LayerAudit("conv", "int8", "fp32")
    assert not wrong.as_requested
    assert [certificate(True).verified, certificate(False).verified, certificate(True, wrong).verified] == [
        True, False, False,
    ]
    assert not certificate(True, error=0.3).verified
    assert not certificate(True, error=None).verified  # nothing was compared


def test_an_audit_sees_almost_all_macs() -> None:
    def layer(name: str, n_macs: int) -> Layer:
        return Layer(name, "linear", f"{name}.weight", (1, 1), 0, "x", (1,), (1,), n_macs, 1, 0)

    for n_macs, is_clean in ((9, True), (11, False)):
        network = Network("sha", (layer("a", 1000 - n_macs), layer("b", n_macs)), (), (), 0)
        audit = Audit.of((LayerAudit("a", "int8", "int8"), LayerAudit("b", "int8", NOT_AUDITED)), network)
        assert audit.not_audited == {"b": n_macs / 1000} and not audit.mismatches and audit.n_as_requested == 1
        assert audit.is_clean == is_clean
    damaged = LayerAudit("b", "int8", NOT_AUDITED, "another weight")
    assert Audit.of((LayerAudit("a", "int8", "int8"), damaged), network).mismatches == (damaged,)

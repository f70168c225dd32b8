"""An engine that computes something else is seen by its outputs, and where it does."""

from __future__ import annotations

import pytest

from hwsmpq.engine.agree import locate
from hwsmpq.hardware.targets import get_target
from hwsmpq.types import Agreement

from .networks import NETWORKS, TARGETS, Case, scaled, swapped


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_faults_are_seen_and_located(name: str, target: str) -> None:
    case = Case(NETWORKS[name], get_target(target))
    layers = case.layers
    for assignment in (case.int8(), case.int8(case.groups[1]), dict.fromkeys(case.groups, "fp32")):
        assert case.check(assignment).agrees, case.check(assignment)
    for factor in (4.0, 0.25):
        case.builder.fault = scaled(layers[1], factor)
        found = case.check()
        assert not found.agrees and found.where == (layers[1],)
    case.builder.fault = swapped(layers[-3], layers[-2])
    found = case.check()
    assert not found.agrees and {layers[-3], layers[-2]} <= {*found.where}  # both have to be quantized for it
    case.builder.fault = None
    assert not case.check(other=Case(NETWORKS[name], get_target(target), seed=1)).agrees


def test_a_region_is_halved_until_neither_half_is_wrong() -> None:
    groups = list("abcdefgh")
    assert locate(groups, lambda some: "c" in some) == ("c",)
    assert locate(groups, lambda some: {"c", "d"} <= {*some}) == ("c", "d")
    assert locate(groups, lambda some: {"b", "g"} <= {*some}) == tuple(groups)


def test_a_disagreement_is_said_with_its_place() -> None:
    one = Agreement(0.25, 0.001, 32, ("a", "b"))
    assert not one.agrees
    assert "0.25" in one.said and "a to b" in one.said

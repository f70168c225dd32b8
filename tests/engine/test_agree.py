"""An engine that computes something else is seen by its outputs, and where it does."""

from __future__ import annotations

from hwsmpq.engine.agree import locate
from hwsmpq.types import Agreement


def test_a_region_is_halved_until_neither_half_is_wrong() -> None:
    groups = list("abcdefgh")
    assert locate(groups, lambda some: "c" in some) == ("c",)
    assert locate(groups, lambda some: {"c", "d"} <= {*some}) == ("c", "d")
    assert locate(groups, lambda some: {"b", "g"} <= {*some}) == tuple(groups)


def test_a_disagreement_is_said_with_its_place() -> None:
    one = Agreement(0.25, 0.001, 32, ("a", "b"))
    assert not one.agrees
    assert "0.25" in one.said and "a to b" in one.said
    assert "built again" in Agreement(0.25, 0.001, 32, is_another=True).said

"""An engine that computes something else is seen by its outputs, and where it does."""

from __future__ import annotations

from collections.abc import Sequence

from hwsmpq.engine.agree import locate
from hwsmpq.types import Agreement


def test_the_shortest_region_is_found() -> None:
    groups = list("abcdefgh")
    for first in range(8):
        for last in range(first, 8):
            wanted = {groups[first], groups[last]}
            asked: list[int] = []

            def disagrees(some: Sequence[str], wanted: set[str] = wanted, asked: list[int] = asked) -> bool:
                asked.append(1)
                return wanted <= {*some}

            assert locate(groups, disagrees) == tuple(groups[first : last + 1])
            assert len(asked) <= 6
    assert locate(groups, lambda some: "c" in some or "f" in some) == ("c",)


def test_a_disagreement_is_said_with_its_place() -> None:
    one = Agreement(0.25, 0.001, 32, ("a", "b"))
    assert not one.agrees
    assert "0.25" in one.said and "a to b" in one.said
    assert "built again" in Agreement(0.25, 0.001, 32, is_another=True).said

"""Two runs side by side: what they reached, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwsmpq.report.view import Fact, GroupRow, View

ABSENT = "not there"


@dataclass(frozen=True)
class Difference:
    """One thing that the runs state differently, as text."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class ContributionChange:
    """Contributions of one (group, precision) in both runs, and their distance in combined standard errors."""

    group: str
    precision: str
    first: float
    second: float
    distance: float | None


@dataclass(frozen=True)
class Comparison:
    first: View
    second: View
    notices: tuple[str, ...]
    budgets: tuple[Difference, ...]
    facts: tuple[Difference, ...]
    precisions: tuple[Difference, ...]
    n_common: int
    contributions: tuple[ContributionChange, ...]

    @property
    def views(self) -> tuple[View, View]:
        return self.first, self.second

    @property
    def has_chart(self) -> bool:
        """Whether the engines of both runs fit on one chart."""
        found = [view.tradeoff for view in self.views]
        return all(found) and len({t.cost for t in found if t}) == 1


def compare(first: View, second: View) -> Comparison:
    """What differs between two runs; groups are matched by name."""
    common = [(a, b) for a in first.groups for b in second.groups if a.name == b.name]
    return Comparison(
        first, second, tuple(_notices(first, second, len(common))),
        tuple(_differences(_budgets(first), _budgets(second), keep_equal=True)),
        tuple(_differences(*(
            [*view.facts, *view.settings, *view.machine, *view.hashes] for view in (first, second)
        ))),
        tuple(Difference(a.name, a.precision or ABSENT, b.precision or ABSENT)
              for a, b in common if a.precision != b.precision),
        len(common),
        tuple(sorted(_contributions(common), key=lambda c: -(c.distance or 0.0)))
        if (first.value, first.base) == (second.value, second.base) else (),
    )


def _notices(first: View, second: View, n_common: int) -> Iterator[str]:
    if first.network.model_sha256 != second.network.model_sha256:
        yield f"The runs are of different models; {n_common} groups have the same name and are compared."
    for view in (first, second):
        for notice in view.notices:
            yield f"{view.name}: {notice}"
    if (first.value, first.base) != (second.value, second.base):
        yield "Contributions are not compared: the runs have other values, or start from other precisions."


def _budgets(view: View) -> list[Fact]:
    state = {None: "not verified", True: "✓ met", False: "✗ missed"}
    return [Fact(row.label, f"{row.measured} ({row.limit}, {state[row.met]})") for row in view.budgets]


def _differences(first: Sequence[Fact], second: Sequence[Fact], keep_equal: bool = False) -> Iterator[Difference]:
    a, b = ({fact.name: fact.value for fact in facts} for facts in (first, second))
    for name in dict.fromkeys((*a, *b)):
        if keep_equal or a.get(name) != b.get(name):
            yield Difference(name, a.get(name, ABSENT), b.get(name, ABSENT))


def _contributions(common: Sequence[tuple[GroupRow, GroupRow]]) -> Iterator[ContributionChange]:
    for a, b in common:
        for precision in a.phi.keys() & b.phi.keys():
            (first, error_a), (second, error_b) = a.phi[precision], b.phi[precision]
            error = ((error_a or 0.0) ** 2 + (error_b or 0.0) ** 2) ** 0.5
            yield ContributionChange(
                a.name, precision, first, second, abs(second - first) / error if error else None
            )

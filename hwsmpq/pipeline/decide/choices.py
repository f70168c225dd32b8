"""The one object of allowed choices of a run: what the target offers and the user leaves, and the problem on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.pipeline.decide.costs import allowed, costs_of
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.search.allowed import Allowed, Rule
from hwsmpq.search.optimum import optimum
from hwsmpq.search.problem import Problem
from hwsmpq.types import PRECISIONS, Constraints, Cost, Held, Ladder, Network
from hwsmpq.types.constraints import FORGOTTEN, groups_of, of_precision, option, patterns_of

SECONDS = 60.0
"""That the solver may take to say what binds."""
SWITCHES = "switches"
"""The cost that a largest number of switches limits."""


def problem_of(
    prepared: Prepared, costs: Mapping[str, Cost], limits: Mapping[str, float], value: Cost | None = None
) -> Problem:
    """A problem on the network and ladder of a run, on the choices that there are.

    Args:
        value: by default 0 for every choice.

    Raises:
        HwsmpqError: the constraints of the run leave a group no precision.
    """
    run, network = prepared.run, prepared.network
    most = run.constraints.max_switches
    if most is not None:
        costs = {**costs, SWITCHES: switches(network, run.ladder)}
        limits = {**limits, SWITCHES: float(most)}
    unvalued = Cost(np.zeros((len(network.groups), len(run.ladder.names))))
    return Problem(value or unvalued, costs, limits, allowed=left(network, run.ladder, run.constraints))


def switches(network: Network, ladder: Ladder) -> Cost:
    """Tensors that are converted, as the solver counts them."""
    place = {group: i for i, group in enumerate(network.group_names)}
    levels = network.levels(ladder.names)
    formats = {group: [PRECISIONS[name].activations for name in names] for group, names in levels.items()}
    pairs = tuple(
        (place[e.source], place[e.target], np.array(
            [[float(one != other) for other in formats[e.target]] for one in formats[e.source]]
        ))
        for e in network.edges
    )
    return Cost(np.zeros((len(place), len(ladder.names))), pairs)


def left(network: Network, ladder: Ladder, constraints: Constraints) -> Allowed:
    """What the target offers as far as the constraints leave it.

    Raises:
        HwsmpqError: a constraint that fits no layer, or constraints that leave a group no precision (names them).
    """
    rules = [*_single(network, ladder, constraints), *_together(network, ladder, constraints)]
    found = Allowed(allowed(network, ladder), tuple(rules))
    empty = np.flatnonzero(~found.mask.any(axis=1))
    if empty.size:
        raise _no_precision(network, ladder, found, int(empty[0]))
    return found


def held(network: Network, constraints: Constraints) -> tuple[Held, ...]:
    """The constraints with the groups that they bind."""
    found = [
        Held(option(name, text), groups_of(network, of_precision(text, name)[0], option(name, text)))
        for name in ("pin", "at_least") for text in getattr(constraints, name)
    ]
    found += [Held(option("exclude", text), groups_of(network, text, option("exclude", text)))
              for text in constraints.exclude]
    found += [Held(option("together", text), _members(network, text)) for text in constraints.together]
    if constraints.max_switches is not None:
        found.append(Held(option("max_switches", constraints.max_switches), network.group_names))
    return tuple(found)


def blaming_exclusion(prepared: Prepared, limits: Mapping[str, float], error: InfeasibleError) -> InfeasibleError:
    """The error of budgets that cannot be kept, which names the excluded layers where these alone put the counted ones
    (BitOps, size) out of reach."""
    run, network = prepared.run, replace(prepared.network, excluded={})
    costs = costs_of(network, run.ladder, None)
    counted = {kind: limit for kind, limit in limits.items() if kind in costs}
    unvalued = Cost(np.zeros((len(network.groups), len(run.ladder.names))))
    free = Problem(unvalued, costs, counted, allowed=Allowed(allowed(network, run.ladder)))
    if not prepared.network.excluded or not counted or optimum(free, (), SECONDS) is None:
        return error
    said = " and ".join(option("exclude", pattern) for pattern in run.constraints.exclude)
    return InfeasibleError(
        f"{error.what} with {said}", f"BitOps and size allow it without; {error.why}",
        f"exclude fewer layers, or {error.fix}",
    )


def _single(network: Network, ladder: Ladder, constraints: Constraints) -> list[Rule]:
    """Rules of groups by themselves. Excluded groups have one precision, and need none."""
    levels, names = network.levels(ladder.names), network.group_names
    rules = []
    for name in ("pin", "at_least"):
        for text in getattr(constraints, name):
            said = option(name, text)
            pattern, wanted = of_precision(text, name)
            if name == "pin" and not any(wanted.name in row for row in levels.values()):
                raise HwsmpqError(
                    f"{said}: no layer runs in {wanted.name}", f"the ladder is {','.join(ladder.names)}",
                    f"add it, as in --ladder {','.join((*ladder.names, wanted.name))}, or name another." + FORGOTTEN,
                )
            mask = np.ones((len(names), len(ladder.names)), dtype=bool)
            for group in groups_of(network, pattern, said):
                runs = [PRECISIONS[one] for one in levels[group]]
                mask[names.index(group)] = [
                    one == wanted if name == "pin"
                    else one.weight_bits >= wanted.weight_bits and one.activation_bits >= wanted.activation_bits
                    for one in runs
                ]
            rules.append(Rule(said, mask))
    return rules


def _together(network: Network, ladder: Ladder, constraints: Constraints) -> list[Rule]:
    """Rules of groups that take one precision: levels at which they run in different ones are left out."""
    levels, names = network.levels(ladder.names), network.group_names
    rules = []
    for text in constraints.together:
        members = _members(network, text)
        rows = [names.index(group) for group in members]
        mask = np.ones((len(names), len(ladder.names)), dtype=bool)
        mask[rows] = [len({levels[group][i] for group in members}) == 1 for i in range(len(ladder.names))]
        rules.append(Rule(option("together", text), mask, tuple(rows)))
    return rules


def _members(network: Network, text: str) -> tuple[str, ...]:
    said = option("together", text)
    found = {group for pattern in patterns_of(text) for group in groups_of(network, pattern, said)}
    return tuple(group for group in network.group_names if group in found)


def _no_precision(network: Network, ladder: Ladder, found: Allowed, group: int) -> HwsmpqError:
    """The fewest constraints that leave a group nothing."""
    name = network.group_names[group]

    def leave_nothing(rules: Sequence[Rule]) -> bool:
        mask: NDArray[np.bool_] = Allowed(found.offered, tuple(rules)).mask
        return not mask[group].any()

    subsets = chain.from_iterable(combinations(found.rules, n) for n in range(1, len(found.rules) + 1))
    fewest = next(rules for rules in subsets if leave_nothing(rules))
    runs = dict.fromkeys(network.levels(ladder.names)[name])
    return HwsmpqError(
        f"{' and '.join(rule.said for rule in fewest)} leave{'s' * (len(fewest) == 1)} {name} no precision",
        f"it runs in {', '.join(runs)} here",
        "change or drop one of them, or add a precision to the ladder." + FORGOTTEN,
    )

"""Which choices there are: what a target offers, and what the user leaves of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwsmpq.types import Cost

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rule:
    """What the user leaves, by (group, level), and groups that are to take the same level. ``said`` is how it was
    asked for."""

    said: str
    mask: Mask
    together: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Allowed:
    """The allowed choices: ``offered`` (n_groups, n_levels) as far as all ``rules`` leave them."""

    offered: Mask
    rules: tuple[Rule, ...] = ()

    @cached_property
    def mask(self) -> Mask:
        """Levels that each group may take, (n_groups, n_levels); those of a set may all take the same."""
        mask = self.offered.copy()
        for rule in self.rules:
            mask &= rule.mask
        for members in self.sets:
            mask[members] = mask[members].all(axis=0)
        return mask

    @cached_property
    def sets(self) -> tuple[NDArray[np.int64], ...]:
        """Groups that take one level, every group in one set, in order of their first members."""
        of = np.arange(len(self.offered))
        for rule in self.rules:
            if rule.together:
                joined = np.isin(of, of[list(rule.together)])
                of[joined] = of[joined].min()
        return tuple(np.flatnonzero(of == first) for first in np.unique(of))

    @property
    def are_tied(self) -> bool:
        """Whether some groups take one level."""
        return len(self.sets) < len(self.offered)

    def permits(self, choice: NDArray[np.int64]) -> bool:
        """Whether a choice (n_groups,) is one of them."""
        if not self.mask[np.arange(len(choice)), choice].all():
            return False
        return not self.are_tied or all((choice[members] == choice[members[0]]).all() for members in self.sets)

    def nearest(self, level: int) -> NDArray[np.int64]:
        """The choice (n_groups,) of every group at a level, or at the next one above (else below) that it may take."""
        n_levels = self.mask.shape[1]
        distance = np.arange(n_levels) - level
        rank = np.where(distance >= 0, distance, n_levels - distance)
        return np.asarray(np.where(self.mask, rank, 3 * n_levels).argmin(axis=1))

    def without(self, rule: Rule) -> Allowed:
        return replace(self, rules=tuple(one for one in self.rules if one is not rule))

    def joined(self) -> Allowed:
        """The same with one group for every set."""
        return Allowed(np.array([self.mask[members[0]] for members in self.sets]))

    def join(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """A permitted choice (n_groups,) as one level a set, (n_sets,)."""
        return choice[[members[0] for members in self.sets]]

    def spread(self, levels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The choice (n_groups,) of levels (n_sets,)."""
        choice = np.empty(len(self.offered), dtype=np.int64)
        for members, level in zip(self.sets, levels, strict=True):
            choice[members] = level
        return choice

    def join_cost(self, cost: Cost) -> Cost:
        """A cost of choices as one of levels (n_sets,)."""
        place = np.empty(len(self.offered), dtype=np.int64)
        for index, members in enumerate(self.sets):
            place[members] = index
        unary = np.array([cost.unary[members].sum(axis=0) for members in self.sets])
        pairs = tuple((int(place[i]), int(place[j]), table) for i, j, table in cost.pairs)
        return Cost(unary, pairs, cost.constant)

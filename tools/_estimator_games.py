"""Two-level games whose Shapley values are known: synthetic ones, and one that is a fully enumerated network."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

TASKS = Path(__file__).with_name("tasks")
TIED_BLOCKS = ("layer1.0", "layer1.1", "layer1.2", "layer2.0")
"""Blocks of ResNet-20 whose two convolutions share a precision, which leaves 16 groups."""
FLOOR, TOP = "w3a3", "w8a8"
N_SAMPLES = 32
N_CALIBRATION = 128
TEAMS_PER_PLAYER = {2: 2, 3: 2}
"""Interactions of the synthetic games by their size; plain permutations then err about as much as on networks."""


@dataclass(frozen=True, eq=False)
class KnownGame:
    """A two-level game over coalitions, bool (n_coalitions, n_players), with its Shapley values (n_players,)."""

    name: str
    n_players: int
    shapley: NDArray[np.float64]

    n_levels = 2
    base = 0

    def value(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        raise NotImplementedError

    def __call__(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.value(levels.astype(bool))


class Unanimity(KnownGame):
    """A sum of dividends, each paid where all of its players are in; a player's value is its share of them.

    Every player, and some pairs and triples, have a standard normal dividend.
    """

    def __init__(self, n_players: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        teams: list[tuple[int, ...]] = [(player,) for player in range(n_players)]
        for size, per_player in TEAMS_PER_PLAYER.items():
            known = list(combinations(range(n_players), size))
            teams += [known[index] for index in rng.choice(len(known), per_player * n_players, replace=False)]
        dividends = rng.normal(size=len(teams))
        self._members = np.zeros((n_players, len(teams)))
        for index, team in enumerate(teams):
            self._members[list(team), index] = 1
        self._sizes, self._dividends = self._members.sum(axis=0), dividends
        super().__init__(f"syn{n_players}", n_players, self._members @ (dividends / self._sizes))

    def value(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray((coalitions @ self._members == self._sizes) @ self._dividends)


class Enumerated(KnownGame):
    """A game given by the values of all coalitions, (2**n_players,); player 0 is the highest bit."""

    def __init__(self, name: str, values: NDArray[np.float64]) -> None:
        self._values = values
        n = int(np.log2(len(values)))
        self._bits = 1 << np.arange(n)[::-1]
        coalitions = np.arange(len(values))
        sizes = ((coalitions[:, None] & self._bits) > 0).sum(axis=1)
        weight = np.array([1 / (n * comb(n - 1, size)) for size in range(n)])
        shapley = np.zeros(n)
        for player, bit in enumerate(self._bits):
            without = coalitions[(coalitions & bit) == 0]
            shapley[player] = weight[sizes[without]] @ (values[without | bit] - values[without])
        super().__init__(name, n, shapley)

    def value(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(self._values[coalitions @ self._bits])


def net16(cache: Path) -> Enumerated:
    """CIFAR ResNet-20 in 16 groups at two precisions, minus the cross-entropy of the first ``N_SAMPLES`` of the search
    part; all 65,536 values are measured once, in about five minutes of one core, and kept in ``cache``.
    """
    file = cache / f"net16_{FLOOR}_{TOP}_{N_SAMPLES}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        values = _enumerate_network()
        np.savez_compressed(file, values=values)
    with np.load(file) as arrays:
        return Enumerated("net16", arrays["values"])


def _enumerate_network() -> NDArray[np.float64]:
    sys.path.insert(0, str(TASKS))
    import cifar_resnet20

    from hwsmpq.model.capture import capture
    from hwsmpq.quantize.evaluate import Evaluator
    from hwsmpq.quantize.ranges import calibrate
    from hwsmpq.quantize.scheme import get_scheme
    from hwsmpq.quantize.simulator import Simulator
    from hwsmpq.types import Precision

    torch.set_num_threads(1)
    task = cifar_resnet20.task()
    captured = capture(task.model, task.calibration).with_ties((f"{b}.conv1", f"{b}.conv2") for b in TIED_BLOCKS)
    names, scheme = captured.network.group_names, get_scheme("unsigned_activations")
    bits = [Precision.parse(name).activation_bits for name in (FLOOR, TOP)]
    ranges = calibrate(captured, tuple(x[:N_CALIBRATION] for x in task.calibration), scheme, bits, "mse")
    samples = task.split(0)[0].take(slice(0, N_SAMPLES))
    evaluator = Evaluator(
        Simulator(captured, ranges, scheme), task, samples, "loss", captured.network.uniform(TOP),
    )
    # Counting up changes the last layers most often, which costs least to recompute.
    coalitions = (np.arange(2 ** len(names))[:, None] >> np.arange(len(names))[::-1]) & 1
    values = []
    for part in np.array_split(coalitions, 64):
        rows = evaluator([{g: (FLOOR, TOP)[bit] for g, bit in zip(names, row, strict=True)} for row in part])
        values.append(rows[:, :N_SAMPLES].mean(axis=1, dtype=np.float64))
        print(f"net16: {sum(map(len, values))} of {len(coalitions)} assignments", flush=True)
    return np.concatenate(values)

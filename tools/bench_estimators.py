"""Error of every estimator of Shapley values at equal numbers of evaluations, against shapiq's.

Games of two levels whose values are known: ``syn20`` and ``syn40`` (sums of dividends of single players, pairs and
triples) and ``net16`` (a quantized network, enumerated once; needs HWSMPQ_DATA). The figure is
``||estimate - phi||^2 / ||phi||^2``, averaged over seeds, at k evaluations a player in all, both ends included.
Needs shapiq, and lightgbm for one of its estimators.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from _bench import Bench, arguments
from _estimator_games import N_SAMPLES, KnownGame, Unanimity, net16
from numpy.typing import NDArray

from hwsmpq.contribution.estimators import ESTIMATORS
from hwsmpq.contribution.stop import Stop

EVALUATIONS_PER_PLAYER = (5, 10, 20, 50)
OURS = ("permutation", "antithetic", "sobol", "regression")
N_SEEDS = {0.0: 100, 0.03: 20, 1.5: 4}
"""Seeds by the least CPU seconds that one estimate takes."""
N_SEEDS_QUICK = {0.0: 5, 0.03: 3, 1.5: 1}

Estimate = Callable[[KnownGame, int, int], NDArray[np.float64]]
"""(game, budget of evaluations, seed) -> Shapley values (n_players,)."""


def ours(name: str, game: KnownGame, budget: int, seed: int) -> NDArray[np.float64]:
    table = ESTIMATORS[name](game, Stop(n_evaluations=budget), seed)
    if table.n_evaluations > budget:
        raise RuntimeError(f"{name} took {table.n_evaluations} evaluations of {budget}")
    return table.phi[:, 1]


def shapiqs() -> dict[str, Estimate]:
    """shapiq's estimators of Shapley values, with and without its pairing of complements where that is an option.

    SPEX is left to its successor ProxySPEX: it takes up to 20 seconds an estimate and refuses most of these budgets.
    """
    from shapiq import approximator

    def estimate(make: Callable[..., object], game: KnownGame, budget: int, seed: int) -> NDArray[np.float64]:
        found = make(n=game.n_players, random_state=seed).approximate(budget, lambda c: game.value(np.atleast_2d(c)))
        return np.array([found[(player,)] for player in range(game.n_players)])

    made = {
        "permutation": approximator.PermutationSamplingSV,
        "stratified": approximator.StratifiedSamplingSV,
        "owen": approximator.OwenSamplingSV,
        "kernelshap": approximator.KernelSHAP,
        "kernelshap_paired": partial(approximator.KernelSHAP, pairing_trick=True),
        "unbiased_kernelshap": approximator.UnbiasedKernelSHAP,
        "unbiased_kernelshap_paired": partial(approximator.UnbiasedKernelSHAP, pairing_trick=True),
        "svarm": approximator.SVARM,
        "svarm_paired": partial(approximator.SVARM, pairing_trick=True),
        "kadd_shap": approximator.kADDSHAP,
        "kadd_shap_paired": partial(approximator.kADDSHAP, pairing_trick=True),
        "proxyspex": partial(approximator.ProxySPEX, index="SII", max_order=1),
    }
    return {f"shapiq_{name}": partial(estimate, make) for name, make in made.items()}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("runs/bench_estimators"), help="folder of enumerated values")
    options = parser.parse_args()
    n_seeds = N_SEEDS_QUICK if options.quick else N_SEEDS
    samples = {"n_seeds_most": max(n_seeds.values()), "n_seeds_least": min(n_seeds.values()), "net16": N_SAMPLES}
    bench = Bench("bench_estimators", options, samples, packages=("shapiq", "lightgbm"))
    estimators: dict[str, Estimate] = {name: partial(ours, name) for name in OURS} | shapiqs()
    warnings.simplefilter("ignore")
    for game in (Unanimity(20, options.seed), Unanimity(40, options.seed), net16(options.cache)):
        for name, estimate in estimators.items():
            for k in EVALUATIONS_PER_PLAYER:
                measure(bench, game, name, estimate, k, n_seeds)
    bench.finish()


def measure(
    bench: Bench, game: KnownGame, name: str, estimate: Estimate, k: int, n_seeds: dict[float, int]
) -> None:
    """Average the relative squared error of one estimator over seeds."""
    first_seed, started = 1000 * bench.options.seed, time.process_time()

    def error(index: int) -> float:
        phi = estimate(game, k * game.n_players, first_seed + index)
        return float(np.sum((phi - game.shapley) ** 2) / np.sum(game.shapley**2))

    errors = [error(0)]
    seconds = time.process_time() - started
    errors += [error(index) for index in range(1, n_seeds[max(s for s in n_seeds if s <= seconds)])]
    spread = float(np.std(errors, ddof=1) / np.sqrt(len(errors))) if len(errors) > 1 else 0.0
    bench.figures[f"{game.name}.{name}.err_{k}"] = float(np.mean(errors))
    bench.row(
        game=game.name, estimator=name, k=k, err=float(np.mean(errors)), err_stderr=spread, n_seeds=len(errors),
        cpu_s=(time.process_time() - started) / len(errors),
    )


if __name__ == "__main__":
    main()

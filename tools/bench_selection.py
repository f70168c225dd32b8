"""Which selector finds the best assignment: CIFAR ResNet-20, matched budgets, judged on images that no selector saw.

Every unit of work (ladder, seed) is kept in the work folder, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from _bench import Bench, arguments
from numpy.typing import NDArray

TASK = str(Path(__file__).parent / "tasks" / "cifar_resnet20.py")
LADDERS = {"w3_w8": "w3a3,w4a4,w5a5,w6a6,w8a8", "w4_w8": "w4a4,w6a6,w8a8"}
BITS = (3.5, 4.0, 4.5, 5.0, 5.5)
SIZE_BITS = (4.5, 5.5)
TABLES = ("both-ends", "one-at-a-time", "fisher", "hessian", "output-mse", "output-kl", "permutation")
LABELS = {"permutation": "shapley_additive"}
N_SPLIT = 2500
N_RANDOM = 20
N_LOCAL = 2000
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Unit:
    """One ladder and one seed of the score batch."""

    ladder: str
    seed: int
    n_score: int
    n_report: int
    n_permutations: int
    tables: tuple[str, ...]
    budgets: tuple[str, ...]
    local_search: bool
    folder: str

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.ladder}-{self.seed}{'-local' if self.local_search else ''}.npz"


@dataclass
class Chosen:
    """What one method chose for one budget, and what that took (evaluations in score batches, CPU seconds)."""

    levels: NDArray[np.int64]
    evaluations: float
    cpu_s: float


@dataclass
class Chooser:
    """What the methods of one unit share."""

    run: Any
    game: Any
    problems: dict[str, Any]
    rng: np.random.Generator
    results: dict[tuple[str, str], Chosen] = field(default_factory=dict)

    def value(self, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean values of assignments (n, n_groups) on the score batch."""
        samples = self.game.samples(levels)
        return samples[:, : samples.shape[1] // 2].mean(1, dtype=np.float64)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_selection"), help="where finished units are kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="units at a time, on one thread each")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", default=",".join(TABLES), help="the additive ones; several, separated by commas")
    parser.add_argument("--local-search-seeds", type=int, default=1, help="seeds that the local search is run for")
    parser.add_argument("--local-search-budgets", default="4.0,5.0", help="its BitOps budgets, in uniform bits")
    options = parser.parse_args()
    units = list(_units(options))
    n_report = units[0].n_report
    bench = Bench("bench_selection", options, {
        "score": units[0].n_score, "search_part": N_SPLIT, "report_part": n_report, "seeds": options.seeds,
    })
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as processes:
        for unit, seconds in zip(units, processes.map(_work, units), strict=True):
            print(f"{unit.path.name}: {seconds:.0f} s", flush=True)
    _figures(bench, units)
    bench.finish()


def _units(options: Any) -> Iterator[Unit]:
    n_seeds = 1 if options.quick else options.seeds
    n_score, n_report, n_permutations = (64, 500, 2) if options.quick else (256, N_SPLIT, 10)
    every = tuple([*(f"bitops_{b}" for b in BITS), *(f"size_{b}" for b in SIZE_BITS)])
    tables = tuple(options.tables.split(","))
    local = tuple(f"bitops_{float(b)}" for b in options.local_search_budgets.split(",") if b)
    for seed, ladder in product(range(n_seeds), LADDERS):
        budgets = every[1:3] if options.quick else every
        yield Unit(
            ladder, options.seed + seed, n_score, n_report, n_permutations, tables, budgets, False, str(options.work)
        )
    if not options.quick:
        for seed in range(options.local_search_seeds):
            yield Unit(
                "w3_w8", options.seed + seed, n_score, n_report, n_permutations, tables, local, True, str(options.work)
            )


def _work(unit: Unit) -> float:
    """Run all methods of a unit and store the per-sample results of what they chose."""
    if unit.path.exists():
        return 0.0
    import torch

    from hwsmpq import Settings, Task
    from hwsmpq.model.load import load_task
    from hwsmpq.pipeline.decide.costs import costs_of
    from hwsmpq.pipeline.evaluate.game import evaluation_game
    from hwsmpq.pipeline.prepare.calibrate import calibrated
    from hwsmpq.pipeline.run import Run
    from hwsmpq.search.problem import Problem
    from hwsmpq.types import Cost, Ladder, Precision

    torch.set_num_threads(1)
    started = time.monotonic()

    class FixedSplit(Task):
        """The seed orders the search part, and so decides the score batch; the report part is always the same."""

        def split(self, seed: int, report_fraction: float = 0.5, most_searched: int | None = None) -> Any:
            search, report = super().split(0)
            order = torch.randperm(len(search), generator=torch.Generator().manual_seed(seed))
            return search.take(order), report.take(slice(0, unit.n_report))

    def open_run(name: str, value: str | None, n_score: int | None) -> Run:
        plain = load_task(TASK)
        evaluation = (plain.evaluation.inputs, plain.evaluation.targets)
        settings = Settings(
            task=TASK, target="onnx-qdq", ladder=Ladder.parse(LADDERS[unit.ladder]).names,
            seed=unit.seed, n_score_samples=n_score, value=value, correct_bias=False,
        )
        folder = unit.path.with_suffix("") / name
        opened = Run(folder, settings, FixedSplit(plain.model, plain.calibration, evaluation, name=plain.name))
        return opened

    run = open_run("others", "loss", unit.n_score)
    costs, ladder, network = costs_of(run.network, run.ladder, None), run.ladder, run.network

    def problem(name: str) -> Problem:
        kind, _, bits = name.partition("_")
        four = Precision.parse("w4a4")
        if kind == "bitops":
            limit = sum(network.bitops(g, four) for g in network.group_names) * float(bits) ** 2 / 16
            limits = {"bitops": limit}
        else:
            n_weights = sum(layer.n_weights for layer in network.layers)
            at_four = sum(network.size_bytes(g, four) for g in network.group_names) + 4 * network.n_other_params
            limits = {"size_mb": (at_four + n_weights * (float(bits) - 4) / 8) / 1e6}
        return Problem(Cost(np.zeros((len(network.groups), len(ladder.names)))), costs, limits)

    problems = {name: problem(name) for name in unit.budgets}
    floor = np.zeros(len(network.groups), dtype=np.int64)
    problems = {name: p for name, p in problems.items() if p.keeps_limits(floor)}
    game = evaluation_game(calibrated(run), run.score_batch, lambda done, n: None)
    chooser = Chooser(run, game, problems, np.random.default_rng(unit.seed))
    if unit.local_search:
        _local_search(chooser)
    else:
        _uniform(chooser)
        _random(chooser)
        _tables(chooser, unit)
        _default(chooser, open_run("default", None, None), unit.n_score)

    report = run.parts[1]
    reported = evaluation_game(calibrated(run), report, lambda done, n: None)
    distinct = np.unique([chosen.levels for chosen in chooser.results.values()], axis=0)
    found = {tuple(row.tolist()): values for row, values in zip(distinct, reported.samples(distinct), strict=True)}
    keys = [f"{budget}/{method}" for budget, method in chooser.results]
    arrays = [found[tuple(c.levels.tolist())] for c in chooser.results.values()]
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unit.path.with_suffix(".tmp.npz")
    np.savez(
        temporary, keys=keys, samples=np.array(arrays),
        evaluations=[c.evaluations for c in chooser.results.values()],
        cpu_s=[c.cpu_s for c in chooser.results.values()],
        levels=np.array([c.levels for c in chooser.results.values()]),
    )
    temporary.rename(unit.path)
    return time.monotonic() - started


def _uniform(chooser: Chooser) -> None:
    """The highest uniform precision that keeps the budget."""
    for name, problem in chooser.problems.items():
        n_groups, n_levels = problem.value.unary.shape
        fitting = [np.full(n_groups, level) for level in range(n_levels)]
        chooser.results[name, "uniform"] = Chosen([c for c in fitting if problem.keeps_limits(c)][-1], 0, 0.0)


def _random_choice(problem: Any, rng: np.random.Generator) -> NDArray[np.int64]:
    """Groups rise by one level in random order until none can rise any more."""
    n_groups, n_levels = problem.value.unary.shape
    choice = np.zeros(n_groups, dtype=np.int64)
    open_groups = list(range(n_groups))
    while open_groups:
        group = int(rng.choice(open_groups))
        choice[group] += 1
        if choice[group] >= n_levels or not problem.keeps_limits(choice):
            choice[group] -= 1
            open_groups.remove(group)
    return choice


def _random(chooser: Chooser) -> None:
    for name, problem in chooser.problems.items():
        choices = np.array([_random_choice(problem, chooser.rng) for _ in range(N_RANDOM)])
        before = time.process_time()
        values = chooser.value(choices)
        spent = time.process_time() - before
        chooser.results[name, "random_20"] = Chosen(choices[values.argmax()], N_RANDOM, spent)


def _tables(chooser: Chooser, unit: Unit) -> None:
    """Additive tables: one estimate for all budgets, whose cost every budget is charged with."""
    from dataclasses import replace

    from hwsmpq.contribution.estimators import ESTIMATORS
    from hwsmpq.contribution.stop import Stop
    from hwsmpq.pipeline.evaluate.contribute import ValueGame
    from hwsmpq.search.milp import solve
    from hwsmpq.sensitivity.registry import SENSITIVITIES
    from hwsmpq.sensitivity.request import Request
    from hwsmpq.types import Cost, Ranges

    run, batch = chooser.run, chooser.run.score_batch
    for method in unit.tables:
        before = time.process_time()
        if method in ESTIMATORS:
            table = ESTIMATORS[method](ValueGame(chooser.game, 0), Stop(unit.n_permutations), unit.seed)
        else:
            table = SENSITIVITIES[method](
                Request(run.captured, run.read(Ranges), run.scheme, run.task, batch, run.ladder, "loss", unit.seed)
            )
        spent = time.process_time() - before
        for name, problem in chooser.problems.items():
            choice = solve(replace(problem, value=Cost(table.phi))).choice
            chooser.results[name, LABELS.get(method, method)] = Chosen(choice, table.n_evaluations, spent)


def _local_search(chooser: Chooser) -> None:
    """Random swaps and shifts, each kept if it is better on the score batch."""
    for name, problem in chooser.problems.items():
        rng, before = np.random.default_rng(chooser.run.settings.seed), time.process_time()
        choice = _random_choice(problem, rng)
        best, n = float(chooser.value(choice[None])[0]), 1
        n_groups, n_levels = problem.value.unary.shape
        while n < N_LOCAL:
            moved = choice.copy()
            moved[rng.choice(n_groups, size=2, replace=False)] = rng.integers(n_levels, size=2)
            if np.array_equal(moved, choice) or not problem.keeps_limits(moved):
                continue
            value, n = float(chooser.value(moved[None])[0]), n + 1
            if value > best:
                choice, best = moved, value
        chooser.results[name, "local_search"] = Chosen(choice, n, time.process_time() - before)


def _default(chooser: Chooser, run: Any, n_score: int) -> None:
    """The search of the product, from contributions to plan; evaluations count by their samples."""
    from hwsmpq.pipeline.decide.solve import search
    from hwsmpq.pipeline.prepare.survey import prepare
    from hwsmpq.stages import MEMO_FILE
    from hwsmpq.types import Budget, Scores

    prepare(run)
    names = list(run.ladder.names)
    for name, problem in chooser.problems.items():
        ((kind, limit),) = problem.limits.items()
        # Contributions depend on the budget: each pays for its own.
        for file in (*run.folder.glob(f"{MEMO_FILE}*"), run.path(Scores)):
            file.unlink(missing_ok=True)
        before = time.process_time()
        plan = search(run, (Budget(kind, limit),))
        spent = time.process_time() - before
        choice = np.array([names.index(plan.assignment[group]) for group in run.network.group_names])
        with sqlite3.connect(run.folder / MEMO_FILE) as memo:
            (n_bytes,) = memo.execute("SELECT sum(length(samples)) FROM evaluations").fetchone()  # two float32 a sample
        n = n_bytes / (8 * n_score) + sum(t.n_evaluations for t in run.read(Scores).tables if t.estimator == "fisher")
        chooser.results[name, "default"] = Chosen(choice, n, spent)


def _figures(bench: Bench, units: list[Unit]) -> None:
    """Averages over seeds and budgets, and paired tests on the images of the report part."""
    losses: dict[tuple[str, str, str], dict[int, NDArray[np.float64]]] = defaultdict(dict)
    correct: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for unit in units:
        with np.load(unit.path) as stored:
            for i, key in enumerate(stored["keys"]):
                budget, _, method = str(key).partition("/")
                value, metric = np.split(stored["samples"][i].astype(np.float64), 2)
                losses[unit.ladder, budget, method][unit.seed] = -value
                correct[unit.ladder, budget, method][unit.seed] = float(metric.mean())
                spent[method].append((float(stored["evaluations"][i]), float(stored["cpu_s"][i])))
    budgets = sorted({(ladder, budget) for ladder, budget, _ in losses})
    methods = sorted({method for _, _, method in losses})
    everywhere = [m for m in methods if all(len(losses.get((*b, m), {})) == len(losses[(*b, "default")])
                                            for b in budgets)]
    mean = {key: float(np.mean([loss.mean() for loss in seeds.values()])) for key, seeds in losses.items()}
    for (ladder, budget, method), value in sorted(mean.items()):
        against, error = _paired(losses[ladder, budget, method], losses[ladder, budget, "default"])
        bench.row(
            ladder=ladder, budget=budget, method=method, ce=value,
            top1=100 * float(np.mean(list(correct[ladder, budget, method].values()))),
            ce_minus_default=against, paired_stderr=error, n_seeds=len(losses[ladder, budget, method]),
        )
        bench.figures[f"{ladder}.{budget}.{method}.ce"] = value
    for method in methods:
        has = [b for b in budgets if (*b, method) in mean]
        bench.figures[f"{method}.mean_ce"] = float(np.mean([mean[(*b, method)] for b in has]))
        bench.figures[f"{method}.mean_top1"] = 100 * float(
            np.mean([np.mean(list(correct[(*b, method)].values())) for b in has])
        )
        bench.figures[f"{method}.evaluations"] = float(np.mean([e for e, _ in spent[method]]))
        bench.figures[f"{method}.evaluations_max"] = float(np.max([e for e, _ in spent[method]]))
        bench.figures[f"{method}.cpu_s"] = float(np.mean([s for _, s in spent[method]]))
        bench.figures[f"{method}.n_budgets"] = len(has)
    # Every other method at every budget could have turned out best, so all of these comparisons count.
    least_z = NormalDist().inv_cdf(1 - SIGNIFICANCE / (len(budgets) * (len(everywhere) - 1)))
    for method in everywhere:
        others = [m for m in everywhere if m != method]
        behind = 0
        for budget in budgets:
            best = min(others, key=lambda other, budget=budget: mean[(*budget, other)])
            difference, error = _paired(losses[(*budget, method)], losses[(*budget, best)])
            behind += difference > least_z * error
        average = {m: float(np.mean([mean[(*b, m)] for b in budgets])) for m in everywhere}
        bench.figures[f"{method}.n_significantly_behind"] = behind
        bench.figures[f"{method}.mean_ce_minus_best_other"] = average[method] - min(average[m] for m in others)
        bench.figures[f"{method}.mean_ce_minus_best_at_each_budget"] = float(
            np.mean([mean[(*b, method)] - min(mean[(*b, m)] for m in others) for b in budgets])
        )
    bench.figures["least_z"] = least_z


def _paired(one: dict[int, NDArray[np.float64]], other: dict[int, NDArray[np.float64]]) -> tuple[float, float]:
    """Mean difference over the seeds that both have, with its standard error over images."""
    seeds = sorted(one.keys() & other.keys())
    difference = np.mean([one[seed] - other[seed] for seed in seeds], axis=0)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))



if __name__ == "__main__":
    main()

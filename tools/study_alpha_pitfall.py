"""Does the size of a learned alpha say what a bit-width is worth? Ranks of bit-widths in every layer of a ResNet-20.

One supernet is trained on the weights part. For every layer and bit-width, the layer is discretised to it, the rest of
the supernet fine-tuned shortly on the weights part with several seeds, and judged on the report part. How scores rank
the bit-widths of a layer is compared with how these accuracies do (Kendall's tau, mean over layers).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from _bench import Bench, arguments
from _study import (
    BATCH_SIZE,
    LEARNING_RATE,
    NAMES,
    Search,
    Training,
    add_options,
    interval,
    judged,
    kendall,
    material,
    plots_folder,
    save_plot,
    some,
    store,
    store_arrays,
    stored,
    supernet,
    table,
    work_through,
)
from numpy.typing import NDArray

SCORES = (
    "alpha", "contributions", "smpq_paper_like", "smpq_antithetic", "one_at_a_time", "more_bits",
)
LABELS = {
    "alpha": "alpha (log share)", "contributions": "contributions of layers", "smpq_paper_like": "SMPQ, paper-like",
    "smpq_antithetic": "SMPQ, antithetic", "one_at_a_time": "one at a time", "more_bits": "more bits is better",
}
LEAST_CEILING = 0.5
LEAST_LOSS_POINTS = 5.0
N_RESAMPLES = 1000
MOMENTUM, TOLERANCE = 0.8, 0.01
UNIFORM = "uniform"


@dataclass(frozen=True)
class Size:
    """How much work: samples and epochs of the supernet, samples of a fine-tuning and of the report, layers (None for
    all), score samples, antithetic pairs on layers, walks over operations and their batch."""

    n_weights: int
    n_epochs: int
    n_finetune: int
    n_report: int
    n_layers: int | None
    n_score: int
    n_pairs: int
    n_walks: int
    n_batch: int


SIZES = {
    "quick": Size(640, 1, 64, 200, 3, 32, 2, 2, 8),
    "default": Size(5000, 2, 320, 1000, None, 256, 4, 8, 128),
    "full": Size(1 << 30, 10, 5000, 2500, None, 512, 16, 20, 512),
}


@dataclass(frozen=True)
class Study:
    size: Size
    search: Search
    folder: Path

    def groups(self) -> list[str]:
        """The layers (groups) that are looked at, spread evenly over the network."""
        names = list(material(self.search.training).captured.network.group_names)
        if self.size.n_layers is None:
            return names
        return [names[i] for i in np.linspace(0, len(names) - 1, self.size.n_layers).round().astype(int)]


@dataclass(frozen=True)
class Discretised:
    """One layer (or all of them) at one precision, fine-tuned with one seed and judged on the report part."""

    study: Study
    group: str
    precision: str
    seed: int

    @property
    def path(self) -> Path:
        return self.study.folder / "finetuned" / f"{self.group}-{self.precision}-{self.seed}.npz"

    def __call__(self) -> None:
        from hwsmpq.model.task import cross_entropy
        from hwsmpq.train.fit import fit
        from hwsmpq.train.supernet import penalised
        from hwsmpq.types import Recipe

        size, m = self.study.size, material(self.study.search.training)
        net = supernet(self.study.folder, self.study.search)
        groups = m.captured.network.group_names if self.group == UNIFORM else [self.group]
        net.keep({group: [self.precision] for group in groups})
        samples = some(m.weights, size.n_finetune, 1000 + self.seed)
        fit(net, samples, penalised(net, cross_entropy, 0.0), Recipe(1, LEARNING_RATE / 2, BATCH_SIZE, self.seed))
        store_arrays(self.path, **judged(net, m.report.take(slice(0, size.n_report))))


@dataclass(frozen=True)
class Score:
    """One table of scores (n_groups, n_precisions) on the supernet, from the scores part."""

    study: Study
    name: str

    @property
    def path(self) -> Path:
        return self.study.folder / f"score-{self.name}.json"

    def __call__(self) -> None:
        self._net()  # what is loaded once a process counts for none of them
        started = time.process_time()
        values, n_evaluations = getattr(self, f"_{self.name}")()
        store(
            self.path, values=np.asarray(values).tolist(), n_evaluations=n_evaluations,
            cpu_s=time.process_time() - started,
        )

    def _net(self) -> Any:
        return supernet(self.study.folder, self.study.search)

    def _alpha(self) -> tuple[Any, int]:
        return self._net().scores(), 0

    def _more_bits(self) -> tuple[Any, int]:
        n_groups = len(material(self.study.search.training).captured.network.groups)
        return np.tile(np.arange(len(NAMES), dtype=float), (n_groups, 1)), 0

    def _contributions(self) -> tuple[Any, int]:
        from hwsmpq.contribution.antithetic import antithetic
        from hwsmpq.contribution.stop import Stop

        found = antithetic(self._level_game(), Stop(self.study.size.n_pairs), self.study.search.seed)
        return found.phi, found.n_evaluations

    def _one_at_a_time(self) -> tuple[Any, int]:
        from hwsmpq.contribution.one_at_a_time import one_at_a_time

        found = one_at_a_time(self._level_game())
        return found.phi, found.n_evaluations

    def _level_game(self) -> Any:
        """Every layer of the supernet discretised to a level: the game that the product plays, on its weights."""
        from hwsmpq.contribution.memo import Memo
        from hwsmpq.contribution.memoized import MemoizedGame
        from hwsmpq.pipeline.evaluate.contribute import ValueGame
        from hwsmpq.pipeline.evaluate.serial import Serial
        from hwsmpq.quantize.evaluate import Evaluator
        from hwsmpq.quantize.simulator import Simulator

        m, net = material(self.study.search.training), self._net()
        simulator = Simulator(m.captured.with_weights(net.weights()), net.ranges(), m.scheme)
        samples, network = m.scores.take(slice(0, self.study.size.n_score)), m.captured.network
        execute = Serial(
            lambda tell: Evaluator(simulator, m.task, samples, "loss", network.uniform(NAMES[-1]), tell),
            lambda done, n: None,
        )
        memo = Memo(self.study.folder / f"memo-{self.name}.sqlite")
        return ValueGame(MemoizedGame(execute, memo, "study", network.levels(NAMES)), 0)

    def _smpq_paper_like(self) -> tuple[Any, int]:
        from hwsmpq.contribution.paper_like import PaperLike

        return self._operations(PaperLike(TOLERANCE, fresh_batch=True, momentum=MOMENTUM), self.study.size.n_walks)

    def _smpq_antithetic(self) -> tuple[Any, int]:
        from hwsmpq.contribution.antithetic import antithetic

        return self._operations(antithetic, max(2, self.study.size.n_walks // 4))

    def _operations(self, estimator: Any, n_draws: int) -> tuple[Any, int]:
        from hwsmpq.contribution.stop import Stop
        from hwsmpq.model.task import top1
        from hwsmpq.train.operations import OperationGame

        m, size = material(self.study.search.training), self.study.size
        game = OperationGame(self._net(), lambda index: some(m.scores, size.n_batch, index), top1)
        found = estimator(game, Stop(n_draws), self.study.search.seed)
        return game.by_group(found.phi), found.n_evaluations


def main() -> None:
    parser = arguments(__doc__ or "")
    add_options(parser, "study_alpha_pitfall", 5)
    options = parser.parse_args()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text())))
        return
    name = "quick" if options.quick else "full" if options.full else "default"
    size, n_seeds = SIZES[name], 2 if options.quick else options.seeds
    n_weights = min(size.n_weights, len(material(options.training).weights))
    search = Search(0.0, n_weights, size.n_epochs, options.seed, options.training)
    study = Study(size, search, options.work / f"{name}-{options.seed}")
    groups = study.groups()
    bench = Bench("study_alpha_pitfall", options, {
        "weights": n_weights, "finetuning": min(size.n_finetune, n_weights), "scores": size.n_score,
        "scores_of_operations": size.n_batch, "report": size.n_report, "seeds": n_seeds, "layers": len(groups),
        "resamples": N_RESAMPLES,
    })
    pieces = list(_finetunings(study, groups, n_seeds))
    work_through("supernet", [Training(study.folder, study.search)], 1)
    work_through("scores", [Score(study, score) for score in SCORES], options.jobs)
    work_through("fine-tuning", pieces, options.jobs)
    correct = np.array([_correct(piece) for piece in pieces]).reshape(len(groups) + 1, len(NAMES), n_seeds, -1)
    _figures(bench, study, groups, correct[:-1])
    _uniform(bench, study, correct[-1])
    bench.finish()
    folder = plots_folder(options)
    if folder:
        _plots(folder, bench, groups)


def _finetunings(study: Study, groups: list[str], n_seeds: int) -> Iterator[Discretised]:
    """Every layer at every precision with every seed, and the same for all layers together."""
    for group in (*groups, UNIFORM):
        for precision in NAMES:
            for seed in range(n_seeds):
                yield Discretised(study, group, precision, seed)


def _correct(piece: Discretised) -> NDArray[np.float64]:
    with np.load(piece.path) as arrays:
        return arrays["correct"].astype(np.float64)


def _figures(bench: Bench, study: Study, groups: list[str], correct: NDArray[np.float64]) -> None:
    """Tau of every score, its bootstrap interval, and the ceiling.

    ``correct`` is (n_layers, n_precisions, n_seeds, n_images). Resamples draw layers, seeds and images. The ceiling is
    the tau between the mean accuracies of two halves of the seeds, which no score can be expected to exceed by much.
    """
    all_groups = material(study.search.training).captured.network.group_names
    rows = [all_groups.index(group) for group in groups]
    tables = {score: stored(Score(study, score).path) for score in SCORES}
    values = {score: np.array(found["values"])[rows] for score, found in tables.items()}
    rng = np.random.default_rng(bench.options.seed)
    n_layers, _, n_seeds, n_images = correct.shape

    def halves(accuracy: NDArray[np.float64], layers: Any) -> float:
        found = []
        for half in combinations(range(n_seeds), n_seeds // 2):
            rest = [seed for seed in range(n_seeds) if seed not in half]
            found.append(kendall(accuracy[layers][..., list(half)].mean(-1), accuracy[layers][..., rest].mean(-1)))
        return float(np.mean(found))

    per_seed = correct.mean(-1)
    accuracy, everything = per_seed.mean(-1), np.arange(n_layers)
    draws: dict[str, list[float]] = {name: [] for name in (*SCORES, "ceiling", "alpha_minus_contributions")}
    for _ in range(N_RESAMPLES):
        layers, seeds = rng.integers(n_layers, size=n_layers), rng.integers(n_seeds, size=n_seeds)
        images = np.bincount(rng.integers(n_images, size=n_images), minlength=n_images) / n_images
        resampled = correct @ images
        mean = resampled[layers][..., seeds].mean(-1)
        for score in SCORES:
            draws[score].append(float(kendall(values[score][layers], mean).mean()))
        draws["ceiling"].append(halves(resampled, layers))  # seeds stay distinct: a half must not meet itself
        draws["alpha_minus_contributions"].append(draws["alpha"][-1] - draws["contributions"][-1])
    ceiling = halves(per_seed, everything)
    bench.figures["noise_ceiling"] = ceiling
    bench.figures["noise_ceiling.lo"], bench.figures["noise_ceiling.hi"] = interval(draws["ceiling"])
    for score in SCORES:
        tau = float(kendall(values[score], accuracy).mean())
        bench.figures[f"tau.{score}"] = tau
        bench.figures[f"tau.{score}.lo"], bench.figures[f"tau.{score}.hi"] = interval(draws[score])
        best = float((values[score].argmax(1) == accuracy.argmax(1)).mean())
        bench.figures[f"best_bits_found.{score}"] = best
        bench.figures[f"points_lost.{score}"] = 100 * float(
            (accuracy.max(1) - accuracy[everything, values[score].argmax(1)]).mean()
        )
        bench.figures[f"evaluations.{score}"] = tables[score]["n_evaluations"]
        bench.figures[f"cpu_s.{score}"] = tables[score]["cpu_s"]
    bench.figures["alpha_minus_contributions"] = bench.figures["tau.alpha"] - bench.figures["tau.contributions"]
    (
        bench.figures["alpha_minus_contributions.lo"], bench.figures["alpha_minus_contributions.hi"]
    ) = interval(draws["alpha_minus_contributions"])
    spread = per_seed.std(-1, ddof=1)
    for i, group in enumerate(groups):
        for j, precision in enumerate(NAMES):
            bench.row(
                group=group, precision=precision, top1=100 * float(accuracy[i, j]), std=100 * float(spread[i, j]),
                **{score: float(values[score][i, j]) for score in SCORES if score != "more_bits"},
            )


def _uniform(bench: Bench, study: Study, correct: NDArray[np.float64]) -> None:
    """What uniform bits lose against full precision, fine-tuned as the layers are; and whether a claim may be made."""
    from hwsmpq.train.network import quantized

    m = material(study.search.training)
    reference = quantized(m.captured, m.ranges, m.scheme, m.captured.network.uniform("fp32"))
    fp32 = 100 * float(judged(reference, m.report.take(slice(0, study.size.n_report)))["correct"].mean())
    bench.figures["fp32.top1"] = fp32
    for precision, row in zip(NAMES, correct, strict=True):
        bench.figures[f"uniform.{precision}.top1"] = 100 * float(row.mean())
        bench.figures[f"uniform.{precision}.loss_points"] = fp32 - 100 * float(row.mean())
    enough = bench.figures[f"uniform.{NAMES[0]}.loss_points"] >= LEAST_LOSS_POINTS
    bench.figures["claim"] = float(enough and bench.figures["noise_ceiling"] >= LEAST_CEILING)


def _plots(folder: Path, bench: Bench, groups: list[str]) -> None:
    figures = bench.figures

    def taus(axes: Any, palette: dict[str, str]) -> None:
        for y, score in enumerate(reversed(SCORES)):
            low, tau, high = (figures[f"tau.{score}{end}"] for end in (".lo", "", ".hi"))
            axes.plot([low, high], [y, y], color=palette["accent"], linewidth=2)
            axes.plot([tau], [y], "o", color=palette["accent"])
        axes.axvline(figures["noise_ceiling"], color=palette["warn"], linestyle="--")
        axes.axvline(0, color=palette["muted"], linewidth=0.8)
        axes.set_yticks(range(len(SCORES)), [LABELS[score] for score in reversed(SCORES)])
        axes.set_xlabel("Kendall's tau, mean over layers (dashed: noise ceiling)")

    def layers(axes: Any, palette: dict[str, str]) -> None:
        for i, group in enumerate(groups):
            rows = [row for row in bench.rows if row["group"] == group]
            top1 = np.array([row["top1"] for row in rows])
            axes.plot(range(len(NAMES)), top1 - top1.mean(), color=palette["muted"], linewidth=0.8, alpha=0.6)
            chosen = int(np.argmax([row["alpha"] for row in rows]))
            label = "largest alpha" if i == 0 else None
            axes.plot([chosen], [top1[chosen] - top1.mean()], "o", color=palette["warn"], label=label)
        axes.set_xticks(range(len(NAMES)), NAMES)
        axes.set_ylabel("top-1 against the layer's mean, points")
        axes.legend()

    save_plot(folder / f"{bench.name}.tau.svg", (7.5, 3.2), taus)
    save_plot(folder / f"{bench.name}.layers.svg", (6.5, 4), layers)


def markdown(result: dict[str, Any]) -> str:
    """The tables of docs/study.md."""
    figures, samples = result["figures"], result["samples"]
    rows = [
        [
            LABELS[score], f"{figures[f'tau.{score}']:+.2f}",
            f"{figures[f'tau.{score}.lo']:+.2f} .. {figures[f'tau.{score}.hi']:+.2f}",
            f"{figures[f'points_lost.{score}']:.2f}", f"{figures[f'best_bits_found.{score}']:.0%}",
            f"{figures[f'evaluations.{score}']:.0f}", f"{figures[f'cpu_s.{score}']:.0f}",
        ]
        for score in SCORES
    ]
    uniform = [
        [name, f"{figures[f'uniform.{name}.top1']:.2f}", f"{figures[f'uniform.{name}.loss_points']:.2f}"]
        for name in NAMES
    ]
    verdict = "a claim may be made" if figures["claim"] else "no claim is made"
    difference = (
        f"tau of alpha minus tau of contributions: {figures['alpha_minus_contributions']:+.2f} "
        f"({figures['alpha_minus_contributions.lo']:+.2f} .. {figures['alpha_minus_contributions.hi']:+.2f})"
    )
    return "\n\n".join([
        f"{samples['layers']} layers, {samples['seeds']} seeds, {samples['report']} report images, "
        f"{result['machine']['cpu']}, torch {result['versions']['torch']}, seed {result['seed']}, "
        f"{result['wall_s'] / 60:.0f} min.",
        f"Noise ceiling {figures['noise_ceiling']:.2f} ({figures['noise_ceiling.lo']:.2f} .. "
        f"{figures['noise_ceiling.hi']:.2f}), of which {LEAST_CEILING} is needed: {verdict}. {difference}.",
        table(["score", "tau", "95 % interval", "points lost by its best", "best found", "evaluations", "CPU s"], rows),
        f"Full precision {figures['fp32.top1']:.2f} % top-1. Every layer at one precision, fine-tuned alike:",
        table(["uniform", "top-1 %", "points lost"], uniform),
    ])


if __name__ == "__main__":
    main()

"""Which selection gives the best retrained network at equal BitOps? A ResNet-20, budgets near uniform 2, 3 and 4 bits.

Supernets are trained on the weights part, at several strengths of the BitOps penalty. Plans come from their alphas
(argmax, and through the MILP), from Shapley values of operations on a supernet, from this project's contributions (the
additive choice, and the default search), and from uniform bits. All are retrained alike on the weights part and judged
on the report part.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _bench import Bench, arguments
from _study import (
    BATCH_SIZE,
    LEARNING_RATE,
    NAMES,
    SPLIT_SEED,
    TASK,
    Search,
    Training,
    add_options,
    interval,
    judged,
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

BUDGETS = {"2": ("w2a2", 1.25), "3": ("w3a3", 1.0), "4": ("w4a4", 1.0)}
"""Name -> a uniform precision, and the limit as a multiple of its BitOps: those of the floor itself leave no choice."""
METHODS = {
    "alpha_argmax": "alpha, argmax", "alpha_milp": "alpha, MILP", "smpq_supernet": "SMPQ on the supernet, MILP",
    "smpq_additive": "contributions, MILP", "default": "default search", "uniform": "uniform",
}
STRENGTHS = (0.0, 0.3, 1.0, 5.0, 10.0)
"""Of the penalty on expected BitOps. SMPQ on the supernet plays on the first, which knows of accuracy alone."""
N_RESAMPLES = 2000
MOMENTUM, TOLERANCE = 0.8, 0.01
IMAGENET_IMAGES, EDMIPS_EPOCHS = 1_281_167, 25
"""Images of ILSVRC2012, and the epochs of a search in EdMIPS's published commands."""
GPU_HOURS = 10.0


@dataclass(frozen=True)
class Size:
    """How much work: samples and epochs of a supernet, samples and epochs of a retraining, report and score samples,
    antithetic pairs, walks over operations and their batch."""

    n_search: int
    n_search_epochs: int
    n_retrain: int
    n_retrain_epochs: int
    n_report: int
    n_score: int
    n_pairs: int
    n_walks: int
    n_batch: int
    budgets: tuple[str, ...] = tuple(BUDGETS)
    strengths: tuple[float, ...] = STRENGTHS


SIZES = {
    "quick": Size(256, 1, 256, 1, 200, 16, 2, 2, 8, ("3",), (0.0, 3.0)),
    "default": Size(5000, 2, 2500, 1, 2500, 256, 2, 6, 128),
    "full": Size(
        1 << 30, 20, 1 << 30, 20, 2500, 512, 4, 20, 512, strengths=(0.0, 0.2, 0.4, 0.7, 1.0, 2.0, 3.0, 6.0, 10.0, 30.0)
    ),
}


@dataclass(frozen=True)
class Study:
    size: Size
    seed: int
    n_seeds: int
    training: str | None
    folder: Path

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.n_seeds)

    def search(self, strength: float) -> Search:
        n = min(self.size.n_search, len(material(self.training).weights))
        return Search(strength, n, self.size.n_search_epochs, self.seed, self.training)

    def limit(self, budget: str) -> float:
        name, factor = BUDGETS[budget]
        return factor * self.bitops(self.network.uniform(name))

    def bitops(self, assignment: dict[str, str]) -> float:
        ladder = material(self.training).ladder
        return float(sum(self.network.bitops(group, ladder[name]) for group, name in assignment.items()))

    def supernet(self, strength: float) -> Training:
        return Training(self.folder, self.search(strength))

    @property
    def network(self) -> Any:
        return material(self.training).captured.network

    def best(self, table: Any, budget: str) -> dict[str, str]:
        """The assignment with the largest sum of a table (n_groups, n_precisions) within a budget."""
        from hwsmpq.pipeline.decide.costs import costs_of
        from hwsmpq.search.milp import solve
        from hwsmpq.search.problem import Problem
        from hwsmpq.types import Cost

        costs = costs_of(self.network, material(self.training).ladder, None)
        choice = solve(Problem(Cost(np.asarray(table)), costs, {"bitops": self.limit(budget)})).choice
        return {group: NAMES[level] for group, level in zip(self.network.group_names, choice, strict=True)}


@dataclass(frozen=True)
class Operations:
    """Shapley values of the operations of the first supernet, by the paper-like schedule on accuracy."""

    study: Study

    @property
    def path(self) -> Path:
        return self.study.folder / "select-smpq_supernet.json"

    def __call__(self) -> None:
        from hwsmpq.contribution.paper_like import PaperLike
        from hwsmpq.contribution.stop import Stop
        from hwsmpq.model.task import top1
        from hwsmpq.train.operations import OperationGame

        study, m = self.study, material(self.study.training)
        net = supernet(study.folder, study.search(study.size.strengths[0]))
        started = time.process_time()
        game = OperationGame(net, lambda index: some(m.scores, study.size.n_batch, index), top1)
        estimator = PaperLike(TOLERANCE, fresh_batch=True, momentum=MOMENTUM)
        found = estimator(game, Stop(study.size.n_walks), study.seed)
        values = game.by_group(found.phi)
        store(
            self.path, cpu_s=time.process_time() - started, n_evaluations=found.n_evaluations,
            plans={budget: study.best(values, budget) for budget in study.size.budgets},
        )


@dataclass(frozen=True)
class Measured:
    """This project's contributions on the network as it came, and the plans made of them, for one seed."""

    study: Study
    seed: int

    @property
    def path(self) -> Path:
        return self.study.folder / f"select-measured-{self.seed}.json"

    def __call__(self) -> None:
        from hwsmpq.pipeline.decide.solve import search
        from hwsmpq.pipeline.evaluate.contribute import contribute, scores
        from hwsmpq.types import Budget

        study, run = self.study, self._open()
        started = time.process_time()
        contributions = contribute(run)
        additive_s = time.process_time() - started
        table = [[contributions.phi[group][name] for name in NAMES] for group in study.network.group_names]
        # The floor check evaluates every uniform network and the reference.
        n_additive = len(NAMES) + 1 + contributions.n_evaluations
        found: dict[str, Any] = {
            "smpq_additive": {
                budget: {
                    "plan": study.best(table, budget), "n_evaluations": n_additive, "cpu_s": additive_s,
                }
                for budget in study.size.budgets
            },
            "default": {},
        }
        cheap = scores(run, contributions)
        shared_s = time.process_time() - started
        n_shared = n_additive + sum(one.n_evaluations for one in cheap.tables)
        for budget in study.size.budgets:
            started = time.process_time()
            plan = search(run, (Budget("bitops", study.limit(budget)),))
            found["default"][budget] = {
                "plan": plan.assignment, "n_evaluations": n_shared + plan.n_evaluations,
                "cpu_s": shared_s + time.process_time() - started,
            }
        store(self.path, **found)

    def _open(self) -> Any:
        """An empty run folder: what an interrupted attempt had evaluated would hide its cost."""
        import torch

        from hwsmpq import Run, Settings, Task

        m, seed, size = material(self.study.training), self.seed, self.study.size

        class FixedSplit(Task):
            """The seed orders the scores part, and so decides the score batch; the report part is always the same."""

            def split(self, ignored: int, report_fraction: float = 0.5) -> Any:
                search, report = super().split(SPLIT_SEED)
                return search.take(torch.randperm(len(search), generator=torch.Generator().manual_seed(seed))), report

        folder = self.path.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        settings = Settings(
            task=TASK, target="onnx-qdq", ladder=NAMES, seed=seed, n_score_samples=size.n_score, n_pairs=size.n_pairs,
            smooth=False, correct_bias=False,
        )
        data = (m.task.evaluation.inputs, m.task.evaluation.targets)
        return Run(folder, settings, FixedSplit(m.task.model, m.task.calibration, data, name=m.task.name))


@dataclass(frozen=True)
class Retrained:
    """One plan, retrained with one seed and judged on the report part; before training too, for the first seed."""

    study: Study
    plan: tuple[tuple[str, str], ...]
    seed: int

    @property
    def path(self) -> Path:
        from hwsmpq.artifacts import digest

        return self.study.folder / "retrained" / f"{digest(dict(self.plan))[:16]}-{self.seed}.npz"

    def __call__(self) -> None:
        from hwsmpq.train.fit import fit
        from hwsmpq.train.network import quantized
        from hwsmpq.train.objective import negative_value
        from hwsmpq.types import Recipe

        m, size = material(self.study.training), self.study.size
        report = m.report.take(slice(0, size.n_report))
        net, reference = (
            quantized(m.captured, m.ranges, m.scheme, plan)
            for plan in (dict(self.plan), self.study.network.uniform("fp32"))
        )
        arrays = {}
        if self.seed == self.study.seed:
            arrays["untrained"] = judged(net, report)["correct"]
        n = min(size.n_retrain, len(m.weights))
        recipe = Recipe(size.n_retrain_epochs, LEARNING_RATE, BATCH_SIZE, self.seed)
        checkpoint = self.path.with_suffix(".pt")
        objective = negative_value("soft", m.task, reference)
        fit(net, some(m.weights, n, self.seed), objective, recipe, checkpoint=checkpoint, identity=repr(self))
        store_arrays(self.path, **arrays, **judged(net, report))
        checkpoint.unlink(missing_ok=True)


@dataclass(frozen=True)
class Chosen:
    """What a method chose for a budget with a seed, and what that took."""

    plan: dict[str, str]
    n_evaluations: float
    cpu_s: float


@cache
def chosen(study: Study, method: str, budget: str, seed: int) -> Chosen:
    if method in ("smpq_additive", "default"):
        found = stored(Measured(study, seed).path)[method][budget]
        return Chosen(found["plan"], found["n_evaluations"], found["cpu_s"])
    if method == "smpq_supernet":
        found, training = stored(Operations(study).path), study.supernet(study.size.strengths[0])
        return Chosen(found["plans"][budget], found["n_evaluations"], found["cpu_s"] + training.cpu_s)
    if method == "uniform":
        plans = [study.network.uniform(name) for name in NAMES]
        return Chosen([p for p in plans if study.bitops(p) <= study.limit(budget)][-1], 0, 0.0)
    limit, trainings = study.limit(budget), [study.supernet(strength) for strength in study.size.strengths]
    nets = [supernet(training.folder, training.search) for training in trainings]
    plans = [net.argmax() for net in nets]
    if method == "alpha_argmax":
        # One has to try strengths until the budget is met: all of them count.
        kept = [p for p in plans if study.bitops(p) <= limit] or [min(plans, key=study.bitops)]
        return Chosen(max(kept, key=study.bitops), 0, sum(training.cpu_s for training in trainings))
    nearest = int(np.argmin([abs(study.bitops(p) - limit) for p in plans]))
    return Chosen(study.best(nets[nearest].scores(), budget), 0, trainings[nearest].cpu_s)


def main() -> None:
    parser = arguments(__doc__ or "")
    add_options(parser, "study_matched_budgets", 3)
    options = parser.parse_args()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text())))
        return
    name = "quick" if options.quick else "full" if options.full else "default"
    n_seeds = 2 if options.quick else options.seeds
    study = Study(SIZES[name], options.seed, n_seeds, options.training, options.work / f"{name}-{options.seed}")
    size, n_weights = study.size, len(material(options.training).weights)
    bench = Bench("study_matched_budgets", options, {
        "search": min(size.n_search, n_weights), "search_epochs": size.n_search_epochs,
        "retraining": min(size.n_retrain, n_weights), "retraining_epochs": size.n_retrain_epochs,
        "report": size.n_report, "score": size.n_score, "score_of_operations": size.n_batch, "seeds": n_seeds,
    })
    work_through("supernets", [study.supernet(strength) for strength in size.strengths], options.jobs)
    work_through("selection", [Operations(study), *(Measured(study, seed) for seed in study.seeds)], options.jobs)
    work_through("retraining", dict.fromkeys(piece for *_, piece in _retrainings(study)), options.jobs)
    _figures(bench, study)
    _cost(bench, study)
    bench.finish()
    folder = plots_folder(options)
    if folder:
        _plot(folder, bench, study)


def _retrainings(study: Study) -> Iterator[tuple[str, str, Retrained]]:
    """(budget, method, piece) for every seed; equal plans are the same piece."""
    for budget in study.size.budgets:
        for method in METHODS:
            for seed in study.seeds:
                plan = chosen(study, method, budget, seed).plan
                yield budget, method, Retrained(study, tuple(plan.items()), seed)


def _figures(bench: Bench, study: Study) -> None:
    """Top-1 after retraining with bootstrap intervals over seeds and images, also of differences from the default."""
    correct: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    untrained: dict[tuple[str, str], list[float]] = {}
    for budget, method, piece in _retrainings(study):
        with np.load(piece.path) as arrays:
            correct.setdefault((budget, method), []).append(arrays["correct"].astype(np.float64))
            if "untrained" in arrays:
                untrained.setdefault((budget, method), []).append(float(arrays["untrained"].mean()))
    rng = np.random.default_rng(bench.options.seed)
    n_seeds, n_images = study.n_seeds, study.size.n_report
    resamples = [
        (rng.integers(n_seeds, size=n_seeds), np.bincount(rng.integers(n_images, size=n_images), minlength=n_images))
        for _ in range(N_RESAMPLES)
    ]

    def resampled(key: tuple[str, str]) -> NDArray[np.float64]:
        rows = np.array(correct[key])
        return 100 * np.array([(rows[seeds].mean(0) @ images) / n_images for seeds, images in resamples])

    for budget in study.size.budgets:
        default = resampled((budget, "default"))
        for method in METHODS:
            name, draws = f"{budget}.{method}", resampled((budget, method))
            per_seed = [chosen(study, method, budget, seed) for seed in study.seeds]
            bitops = [study.bitops(one.plan) for one in per_seed]
            top1 = 100 * float(np.mean(correct[budget, method]))
            figures = {
                "top1": top1, "untrained_top1": 100 * float(np.mean(untrained[budget, method])),
                "bitops": float(np.mean(bitops)), "bitops_share": float(np.mean(bitops)) / study.limit(budget),
                "keeps_budget": float(all(b <= study.limit(budget) * (1 + 1e-9) for b in bitops)),
                "search_s": float(np.mean([one.cpu_s for one in per_seed])),
                "evaluations": float(np.mean([one.n_evaluations for one in per_seed])),
                "minus_default": top1 - 100 * float(np.mean(correct[budget, "default"])),
            }
            for end, value, gap in zip(("lo", "hi"), interval(draws), interval(draws - default), strict=True):
                figures |= {f"top1.{end}": value, f"minus_default.{end}": gap}
            bench.figures |= {f"{name}.{key}": value for key, value in figures.items()}
            bench.row(budget=budget, method=method, **figures)
            for seed, values in zip(study.seeds, correct[budget, method], strict=True):
                bench.rows.append({
                    "budget": budget, "method": method, "seed": seed, "top1": 100 * float(values.mean()),
                    "plan": " ".join(chosen(study, method, budget, seed).plan.values()),
                })


def _cost(bench: Bench, study: Study) -> None:
    """The cost of searches as shares of the supernets', here and by arithmetic for ImageNet.

    Costs are counted in forward passes of one image in full precision, of the network in question: what an image costs
    a supernet's training, and an evaluation, in these units is measured here and taken to carry over.
    """
    import torch

    from hwsmpq.model.capture import capture
    from hwsmpq.model.load import torchvision_architecture

    m, figures, size = material(study.training), bench.figures, study.size
    images = (m.report.inputs[0][:256].contiguous(memory_format=torch.channels_last),)
    with torch.no_grad():
        m.captured.graph(*images)
        started = time.process_time()
        m.captured.graph(*images)
    forward_s = (time.process_time() - started) / len(images[0])
    n_trained = bench.samples["search"] * size.n_search_epochs
    supernet_s = float(np.mean([study.supernet(strength).cpu_s for strength in size.strengths]))
    additive = [chosen(study, "smpq_additive", size.budgets[0], seed) for seed in study.seeds]
    additive_s = float(np.mean([one.cpu_s for one in additive]))
    n_default = float(np.mean([
        chosen(study, "default", budget, seed).n_evaluations for budget in size.budgets for seed in study.seeds
    ]))
    default_s = float(np.mean([
        chosen(study, "default", budget, seed).cpu_s for budget in size.budgets for seed in study.seeds
    ]))
    figures["cost.forward_s"] = forward_s
    figures["cost.forwards_a_trained_image"] = supernet_s / n_trained / forward_s
    n_scored = float(np.mean([one.n_evaluations for one in additive])) * size.n_score
    figures["cost.forwards_an_evaluated_image"] = additive_s / n_scored / forward_s
    figures["cost.share_of_one_supernet"] = default_s / supernet_s
    figures["cost.share_of_the_sweep"] = default_s / (supernet_s * len(size.strengths))
    for name in ("resnet18", "resnet50"):
        n_groups = len(capture(*torchvision_architecture(name)).network.groups)
        n_evaluations = n_default * n_groups / len(study.network.groups)
        search = n_evaluations * size.n_score * figures["cost.forwards_an_evaluated_image"]
        edmips = EDMIPS_EPOCHS * IMAGENET_IMAGES * figures["cost.forwards_a_trained_image"]
        figures |= {
            f"imagenet.{name}.groups": n_groups,
            f"imagenet.{name}.evaluations": n_evaluations,
            f"imagenet.{name}.search_forwards": search,
            f"imagenet.{name}.edmips_forwards": edmips,
            f"imagenet.{name}.share": search / edmips,
            f"imagenet.{name}.forwards_per_s_for_10_gpu_hours": search / (GPU_HOURS * 3600),
        }


def _plot(folder: Path, bench: Bench, study: Study) -> None:
    def top1(axes: Any, palette: dict[str, str]) -> None:
        n = len(METHODS)
        for i, method in enumerate(METHODS):
            x = np.arange(len(study.size.budgets)) + (i - (n - 1) / 2) / (n + 2)
            low, middle, high = (
                np.array([bench.figures[f"{budget}.{method}.top1{end}"] for budget in study.size.budgets])
                for end in (".lo", "", ".hi")
            )
            axes.errorbar(
                x, middle, [middle - low, high - middle], fmt="osD^vP"[i], label=METHODS[method], linewidth=1.5,
                color=palette["warn" if method.startswith("alpha") else "muted" if method == "uniform" else "accent"],
            )
        axes.set_xticks(range(len(study.size.budgets)), [f"near {budget} bits" for budget in study.size.budgets])
        axes.set_ylabel("top-1 after retraining, %")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    save_plot(folder / f"{bench.name}.top1.svg", (9.5, 4), top1)


def markdown(result: dict[str, Any]) -> str:
    """The tables of docs/study.md."""
    figures, samples = result["figures"], result["samples"]
    parts = [
        f"{samples['seeds']} seeds, {samples['report']} report images, retrained for {samples['retraining_epochs']} "
        f"epoch(s) of {samples['retraining']} images, supernets trained for {samples['search_epochs']} of "
        f"{samples['search']}, {result['machine']['cpu']}, torch {result['versions']['torch']}, seed {result['seed']}, "
        f"{result['wall_s'] / 60:.0f} min."
    ]
    for budget in BUDGETS:
        if f"{budget}.default.top1" not in figures:
            continue
        rows = []
        for method, label in METHODS.items():
            f = {k.removeprefix(f"{budget}.{method}."): v for k, v in figures.items()}
            over = "" if f["keeps_budget"] else " (over)"
            rows.append([
                label, f"{f['top1']:.2f}", f"{f['top1.lo']:.2f} .. {f['top1.hi']:.2f}", f"{f['minus_default']:+.2f}",
                f"{f['minus_default.lo']:+.2f} .. {f['minus_default.hi']:+.2f}", f"{f['untrained_top1']:.2f}",
                f"{f['bitops'] / 1e6:.0f}{over}", f"{f['evaluations']:.0f}", f"{f['search_s']:.0f}",
            ])
        header = [
            "method", "top-1 %", "95 %", "minus default", "95 %", "before retraining", "MBitOps", "evaluations",
            "search CPU s",
        ]
        name, factor = BUDGETS[budget]
        parts += [f"Budget near {budget} bits: {factor:g} times the BitOps of uniform {name}.", table(header, rows)]
    trained, evaluated = (figures[f"cost.forwards_{kind}_image"] for kind in ("a_trained", "an_evaluated"))
    shown = [
        ["an image in a supernet's training, in fp32 forward passes", f"{trained:.1f}"],
        ["an image in an evaluation, likewise", f"{evaluated:.2f}"],
        ["default search, share of one supernet's training", f"{figures['cost.share_of_one_supernet']:.2f}"],
        ["default search, share of the sweep over strengths", f"{figures['cost.share_of_the_sweep']:.2f}"],
    ]
    for name in ("resnet18", "resnet50"):
        f = {k.removeprefix(f"imagenet.{name}."): v for k, v in figures.items()}
        shown += [
            [
                f"{name}, ImageNet: default search",
                f"{f['evaluations']:.0f} evaluations x {samples['score']} images x "
                f"{evaluated:.2f} = {f['search_forwards']:.2e} forward passes",
            ],
            [
                f"{name}, ImageNet: EdMIPS-like search", f"{EDMIPS_EPOCHS} epochs x {IMAGENET_IMAGES} images x "
                f"{trained:.1f} = {f['edmips_forwards']:.2e} forward passes",
            ],
            [f"{name}, ImageNet: share", f"{f['share']:.1e}"],
            [
                f"{name}, ImageNet: rate that keeps the search in {GPU_HOURS:g} GPU hours",
                f"{f['forwards_per_s_for_10_gpu_hours']:.1f} forward passes a second",
            ],
        ]
    return "\n\n".join([*parts, table(["cost", "measured or computed"], shown)])


if __name__ == "__main__":
    main()

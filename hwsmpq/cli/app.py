"""The verbs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hwsmpq import artifacts
from hwsmpq._version import __version__
from hwsmpq.cli import display
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import Ladder, Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Mixed-precision quantization that is measured, solved exactly, built and proven on the real device.",
)

QUICKSTART = "hwsmpq.quickstart.task:task"
FLEXIBLE_TARGET = "onnx-qdq"
SETTINGS_FILE = "settings.json"

TaskArg = Annotated[
    str | None,
    typer.Argument(
        help="Task: file.py, module:callable or torchvision:NAME. Remembered by the run folder.", show_default=False
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; a run resumes from what it holds.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Data = Annotated[str | None, typer.Option(help="imagefolder:DIR, for torchvision models.")]
Weights = Annotated[str | None, typer.Option(help="State dict of a torchvision model (loaded with weights_only).")]
TargetOpt = Annotated[str | None, typer.Option(help="Hardware target; see `hwsmpq targets`.")]
LadderOpt = Annotated[str | None, typer.Option(help="Candidate precisions, e.g. int8,fp32 or w3a3..w8a8.")]
Observer = Annotated[str | None, typer.Option(help="Range observer: mse, minmax or percentile.")]
Value = Annotated[str | None, typer.Option(help="What scores an assignment: loss, metric or kl.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
ScoreSamples = Annotated[int | None, typer.Option(help="Samples of the search part that score contributions.")]
Pairs = Annotated[int | None, typer.Option(help="Antithetic pairs of permutations.")]
Mixtures = Annotated[int | None, typer.Option(help="Random engines that fit the cost model.")]
Candidates = Annotated[int | None, typer.Option(help="Solutions that are truly evaluated before one is chosen.")]
TimingSeconds = Annotated[float | None, typer.Option(help="Seconds that a set of engines is timed.")]
MemoryMb = Annotated[int | None, typer.Option(help="Memory for intermediate tensors of the simulator.")]
LatencyMs = Annotated[float | None, typer.Option(help="Largest latency in ms.")]
Speedup = Annotated[float | None, typer.Option(help="Least speedup against the reference engine.")]
Bitops = Annotated[str | None, typer.Option(help="Largest BitOps, a number or a uniform precision such as w4a4.")]
SizeMb = Annotated[str | None, typer.Option(help="Largest size in MB, a number or a uniform precision.")]
MaxDrop = Annotated[float | None, typer.Option(help="Largest loss in points of the metric.")]


def _settings(folder: Path, task: str | None, given: dict[str, Any]) -> Settings:
    """What the folder remembers, changed by what the command line says."""
    path = folder / SETTINGS_FILE
    changes = {name: value for name, value in given.items() if value is not None}
    if "ladder" in changes:
        changes["ladder"] = Ladder.parse(changes["ladder"]).names
        if "target" not in changes and not set(changes["ladder"]) <= {"int8", "fp32"}:
            changes["target"] = FLEXIBLE_TARGET
    if path.exists():
        return replace(artifacts.read(path, Settings), **({"task": task} if task else {}), **changes)
    if task is None:
        raise HwsmpqError(
            f"no task given, and {folder} remembers none",
            fix="name a task, for example `hwsmpq run task.py -o runs/mine`",
        )
    return Settings(task=task, **changes)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(Settings)} - {"task"}
    return {name: value for name, value in values.items() if name in names}


def _stage(values: dict[str, Any], work: Callable[[Any], Any], show: Callable[[Any], None] | None) -> None:
    """Open the run folder, do one stage under progress bars, and print its result."""
    from torch._logging import set_logs

    from hwsmpq.pipeline.run import Run

    # Torch logs its own view of a failing export; the error that follows says it in one message.
    set_logs(all=logging.ERROR)
    settings = _settings(values["out"], values["task"], _given(values))
    with display.progress_bars(not values["json"]) as progress:
        result = work(Run(values["out"], settings, progress=progress))
    if values["json"]:
        display.show_json(result)
    elif show and result is not None:
        show(result)


@app.command()
def inspect(
    task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False, data: Data = None,
    weights: Weights = None, target: TargetOpt = None, ladder: LadderOpt = None,
) -> None:
    """Layers, groups, MACs, parameters and the size of the search space.

    A torchvision model is inspected without data and weights too; then no run folder is made.
    """
    from hwsmpq.pipeline.measure import inspect as stage

    if task and task.startswith("torchvision:") and not data:
        from hwsmpq.model.capture import capture
        from hwsmpq.model.load import torchvision_architecture

        network = capture(*torchvision_architecture(task.partition(":")[2])).network
        names = Ladder.parse(ladder).names if ladder else Settings(task).ladder
        display.show_json(network) if json else display.show_network(network, names)
        return
    _stage(
        locals(), stage,
        lambda network: display.show_network(network, artifacts.read(out / SETTINGS_FILE, Settings).ladder),
    )


@app.command()
def calibrate(
    task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False, data: Data = None,
    weights: Weights = None, target: TargetOpt = None, ladder: LadderOpt = None, observer: Observer = None,
) -> None:
    """Take activation ranges from the calibration samples."""
    from hwsmpq.pipeline.measure import calibrate as stage

    _stage(
        locals(), stage,
        lambda r: display.console.print(f"ranges of {len(r.layers)} layers from {r.n_samples} samples ({r.observer})"),
    )


@app.command()
def profile(
    task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False, data: Data = None,
    weights: Weights = None, target: TargetOpt = None, ladder: LadderOpt = None, observer: Observer = None,
    seed: Seed = None, n_mixtures: Mixtures = None, timing_seconds: TimingSeconds = None,
) -> None:
    """Measure what every precision costs on the target."""
    from hwsmpq.pipeline.measure import profile as stage

    _stage(locals(), stage, display.show_cost_table)


@app.command()
def contribute(
    task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False, data: Data = None,
    weights: Weights = None, target: TargetOpt = None, ladder: LadderOpt = None, observer: Observer = None,
    value: Value = None, seed: Seed = None, n_score_samples: ScoreSamples = None, n_pairs: Pairs = None,
    memory_mb: MemoryMb = None,
) -> None:
    """Measure what every (group, precision) contributes to accuracy (Shapley values)."""
    from hwsmpq.pipeline.measure import contribute as stage

    _stage(locals(), stage, display.show_contributions)


def _budgets(run: Any, values: dict[str, Any]) -> Any:
    from hwsmpq.pipeline.budgets import resolve_budgets

    return resolve_budgets(run, **{k: values[k] for k in ("latency_ms", "speedup", "bitops", "size_mb", "max_drop")})


@app.command()
def search(
    task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False, data: Data = None,
    weights: Weights = None, target: TargetOpt = None, ladder: LadderOpt = None, observer: Observer = None,
    value: Value = None, seed: Seed = None, n_score_samples: ScoreSamples = None, n_pairs: Pairs = None,
    n_mixtures: Mixtures = None, n_candidates: Candidates = None, timing_seconds: TimingSeconds = None,
    memory_mb: MemoryMb = None, latency_ms: LatencyMs = None, speedup: Speedup = None, bitops: Bitops = None,
    size_mb: SizeMb = None, max_drop: MaxDrop = None,
) -> None:
    """Solve for the budgets: the plan."""
    from hwsmpq.pipeline.solve import search as stage

    values = locals()
    _stage(values, lambda run: stage(run, _budgets(run, values)), display.show_plan)


@app.command()
def build(task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False) -> None:
    """Build the plan's engine and audit the precision of every layer."""
    from hwsmpq.pipeline.prove import build as stage

    def show(manifest: Any) -> None:
        as_requested = sum(layer.as_requested for layer in manifest.layers)
        display.console.print(
            f"engine in {out / 'engine'}: {as_requested} of {len(manifest.layers)} layers as requested",
            markup=False, soft_wrap=True,
        )

    _stage(locals(), stage, show)


@app.command()
def verify(task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False) -> None:
    """Measure the built engine and write the certificate."""
    from hwsmpq.pipeline.prove import verify as stage

    values = locals()
    _stage(values, stage, display.show_certificate)
    _exit_unless_verified(out)


@app.command()
def report(out: Out = Path("runs/default")) -> None:
    """Write the HTML report of a run folder."""
    from hwsmpq.report.render import render

    display.console.print(f"report: {render(out)}", markup=False, soft_wrap=True)


@app.command()
def run(
    task: TaskArg = None, out: Out = Path("runs/default"), json: Json = False, data: Data = None,
    weights: Weights = None, target: TargetOpt = None, ladder: LadderOpt = None, observer: Observer = None,
    value: Value = None, seed: Seed = None, n_score_samples: ScoreSamples = None, n_pairs: Pairs = None,
    n_mixtures: Mixtures = None, n_candidates: Candidates = None, timing_seconds: TimingSeconds = None,
    memory_mb: MemoryMb = None, latency_ms: LatencyMs = None, speedup: Speedup = None, bitops: Bitops = None,
    size_mb: SizeMb = None, max_drop: MaxDrop = None,
) -> None:
    """Everything from the task to certificate and report; resumes where it was interrupted."""
    _run(locals())


@app.command()
def quickstart(out: Out = Path("runs/quickstart"), json: Json = False, seed: Seed = None) -> None:
    """The whole of it on a small network that comes with the package, in under two minutes."""
    _run({
        "task": QUICKSTART, "out": out, "json": json, "seed": seed, "n_pairs": 4, "timing_seconds": 10.0,
        "speedup": 1.2, "latency_ms": None, "bitops": None, "size_mb": None, "max_drop": 1.0,
    })


@app.command()
def targets(json: Json = False) -> None:
    """What this machine can do, and why not."""
    from rich.markup import escape

    from hwsmpq.hardware.target import targets as known

    rows = {
        name: {"unavailable": t.unavailable(), "precisions": list(t.native), "latency": t.has_latency,
               "machine": {} if t.unavailable() else t.machine()}
        for name, t in known().items()
    }
    if json:
        display.show_json(rows)
        return
    for name, row in rows.items():
        precisions = row["precisions"]
        shown = ", ".join(precisions)
        if len(precisions) > 8:
            shown = f"any of {len(precisions)} from {precisions[0]} to {precisions[-1]}"
        display.console.print(
            f"[bold]{name}[/]: {escape(row['unavailable'] or 'ready')}; {shown};"
            f" {'measures latency' if row['latency'] else 'no latency claim'}",
            highlight=False, soft_wrap=True,
        )
        for key, text in row["machine"].items():
            display.console.print(f"  {key}: {escape(text)}", highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        display.console.print(__version__)
        raise typer.Exit


def _run(values: dict[str, Any]) -> None:
    from hwsmpq.pipeline.prove import refine
    from hwsmpq.report.render import render

    def work(run: Any) -> Any:
        certificate = refine(run, _budgets(run, values))
        render(run.folder)
        return certificate

    _stage(values, work, display.show_certificate)
    if not values["json"]:
        folder = values["out"]
        display.console.print(
            f"certificate: {folder / 'certificate.json'}\nreport: {folder / 'report.html'}",
            markup=False, soft_wrap=True,
        )
    _exit_unless_verified(values["out"])


def _exit_unless_verified(folder: Path) -> None:
    from hwsmpq.types import Certificate

    if not artifacts.read(folder / "certificate.json", Certificate).verified:
        raise typer.Exit(1)

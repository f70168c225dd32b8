"""The verbs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hwsmpq._version import __version__
from hwsmpq.cli import display
from hwsmpq.cli.options import (
    BUDGETS,
    CALIBRATION,
    CONSTRAINTS,
    EXECUTION,
    FOLDER,
    MODEL,
    PROFILING,
    SCORING,
    SEARCH,
    ManyValues,
    parse_budgets,
    takes,
)
from hwsmpq.cli.stage import in_folder
from hwsmpq.cli.verdict import show_verdict
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.types import (
    FLEXIBLE_TARGET,
    Certificate,
    CostTable,
    Front,
    Ladder,
    Network,
    Recipe,
    Reconstruction,
    Settings,
    StageTimes,
)

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False,
    help="Mixed-precision quantization that is measured, solved exactly, built and proven on the real device.",
)

QUICKSTART = "hwsmpq.quickstart.task:task"


@app.command()
@takes(*MODEL)
def inspect(values: dict[str, Any]) -> None:
    """Layers, groups, MACs, parameters and the size of the search space.

    A torchvision model is inspected without data and weights too; then no run folder is made.
    """
    task, ladder, out = values["task"], values["ladder"], values["out"]
    if task and task.startswith("torchvision:") and not values["data"]:
        from hwsmpq.hardware.targets import get_target
        from hwsmpq.model.capture import capture
        from hwsmpq.model.load import torchvision_architecture

        target = get_target(values["target"] or Settings(task).target, values["device"] or "")
        captured = capture(*torchvision_architecture(task.partition(":")[2]), kinds=target.kinds)
        network = captured.with_ties(target.ties(captured)).network
        names = Ladder.parse(ladder).names if ladder else target.default_ladder
        display.show_json(network) if values["json"] else display.show_network(network, names)
        return
    from hwsmpq.artifacts import write_bytes
    from hwsmpq.pipeline.prepare.calibrate import inspect as stage
    from hwsmpq.report.network import PICTURE_FILE, draw

    def work(run: Any) -> Network:
        network = stage(run)
        write_bytes(out / PICTURE_FILE, draw(network))
        return network

    def show(network: Network) -> None:
        display.show_network(network, Folder(out).read(Settings).ladder)
        display.console.print(f"picture: {out / PICTURE_FILE}", markup=False, soft_wrap=True)

    in_folder(values, work, show)


@app.command()
@takes(*CALIBRATION, "from_ranges", "from_cache", "export_cache")
def calibrate(values: dict[str, Any]) -> None:
    """Take activation ranges from the calibration samples; or take what was calibrated elsewhere."""
    from hwsmpq.pipeline.prepare import ranges_elsewhere as elsewhere
    from hwsmpq.pipeline.prepare.calibrate import calibrate as stage

    stages = {
        "from_ranges": elsewhere.import_ranges, "from_cache": elsewhere.import_cache,
        "export_cache": elsewhere.export_cache,
    }
    asked = [name for name in stages if values[name]]
    if {"from_ranges", "from_cache"} <= set(asked):
        raise HwsmpqError("both --from-ranges and --from-cache are given", "each gives all ranges", "give one of them")

    def work(run: Any) -> Any:
        ranges = [stages[name](run, values[name]) for name in asked]
        return ranges[-1] if ranges else stage(run)

    in_folder(
        values, work,
        lambda r: display.console.print(
            f"ranges of {len(r.layers)} layers from {r.n_samples} samples ({r.observer})"
            if r.n_samples else f"ranges of {len(r.layers)} layers from a {r.observer}"
        ),
    )


@app.command()
@takes(
    *FOLDER, "data", "weights", "target", "observer", "smooth", "correct_bias", "seed", "value", "n_score_samples",
    *EXECUTION,
    out=Path("runs/ladder"), target=FLEXIBLE_TARGET, n_score_samples=256,
)
def ladder(values: dict[str, Any]) -> None:
    """Propose precisions to search among, from uniform networks of few weight or activation bits."""
    from hwsmpq.hardware.targets import get_target
    from hwsmpq.pipeline.evaluate.ladder import sweep, swept

    asked = swept(get_target(values["target"]).native)
    folder = Folder(values["out"])
    known = folder.read(Settings) if folder.has(Settings) else None
    if known and (known.target, set(known.ladder)) != (values["target"], set(asked)):
        raise HwsmpqError(
            f"{folder.root} holds a run on {known.target} with the ladder {','.join(known.ladder)}",
            "a proposal has a folder of its own, and changes no run", "choose another folder with -o",
        )
    values["ladder"] = ",".join(asked)
    in_folder(values, sweep, display.show_sweep)


@app.command(cls=ManyValues)
@takes(*CALIBRATION, "seed", *PROFILING, "from_table", "from_trtexec", "emit_trtexec")
def profile(values: dict[str, Any]) -> None:
    """Measure what every precision costs on the target; or take what was measured elsewhere."""
    from hwsmpq.pipeline.prepare import elsewhere
    from hwsmpq.pipeline.prepare.profile import profile as stage

    def show(table: CostTable) -> None:
        from hwsmpq.report.folder import read_folder

        model = read_folder(values["out"]).model
        if model:
            display.show_cost_model(model)

    folder, files, table = values["emit_trtexec"], values["from_trtexec"], values["from_table"]
    if folder:
        in_folder(
            values, lambda run: str(elsewhere.emit_profile(run, folder)),
            lambda folder: display.console.print(f"read {folder}/README.txt", markup=False, soft_wrap=True),
        )
    elif files:
        in_folder(values, lambda run: elsewhere.import_profile(run, files), show)
    elif table:
        in_folder(values, lambda run: elsewhere.import_table(run, table), show)
    else:
        in_folder(values, stage, show)


@app.command()
@takes(*CALIBRATION, "seed", *SCORING)
def contribute(values: dict[str, Any]) -> None:
    """Measure what every (group, precision) contributes to accuracy (Shapley values)."""
    from hwsmpq.pipeline.evaluate.contribute import contribute as stage

    in_folder(values, stage, display.show_contributions)


def _budgets(run: Any, values: dict[str, Any], whole: bool = False) -> Any:
    from hwsmpq.pipeline.decide.budgets import resolve_budgets

    return resolve_budgets(run, **{name: values[name] for name in BUDGETS}, whole=whole)


@app.command()
@takes(*CALIBRATION, "seed", *SCORING, *PROFILING, *SEARCH)
def search(values: dict[str, Any]) -> None:
    """Solve for the budgets: the plan."""
    from hwsmpq.pipeline.decide.solve import search as stage

    in_folder(values, lambda run: stage(run, _budgets(run, values)), display.show_plan)


@app.command()
@takes(*CALIBRATION, "seed", *SCORING, *PROFILING, *CONSTRAINTS, "points", "measure")
def pareto(values: dict[str, Any]) -> None:
    """Trace the whole front of latency (or BitOps) against value, and draw it."""
    from hwsmpq.pipeline.prove.front import CHART_FILE, N_POINTS, spread
    from hwsmpq.pipeline.prove.front import pareto as stage

    n_points = N_POINTS if values["points"] is None else values["points"]
    n_built = values["measure"] or 0
    in_folder(
        values, lambda run: stage(run, n_points, n_built),
        lambda front: display.show_front(front, sorted(spread(front, n_built), key=front.cost_of)),
    )
    if not values["json"]:
        folder = values["out"]
        display.console.print(
            f"front: {Folder(folder).path(Front)}\nchart: {folder / CHART_FILE}", markup=False, soft_wrap=True
        )


@app.command()
@takes("folder", "out", "iterations", "minutes", "batch_size", "seed", "train_on", "json")
def reconstruct(values: dict[str, Any]) -> None:
    """Learn the plan's rounding on the calibration samples, without labels; `build` and `verify` then take it."""
    from hwsmpq.pipeline.prove.reconstruct import reconstruct as stage

    recipe = _recipe(Reconstruction, values, iterations="n_iterations", minutes="minutes")
    _learn(values, lambda run, device: stage(run, recipe, device), display.show_reconstructed)


@app.command()
@takes("folder", "out", "epochs", "lr", "batch_size", "seed", "train_on", "json")
def finetune(values: dict[str, Any]) -> None:
    """Retrain the plan's quantized network; `build` and `verify` then take the trained weights."""
    from hwsmpq.pipeline.prove.finetune import finetune as stage

    recipe = _recipe(Recipe, values, epochs="n_epochs", lr="learning_rate")
    _learn(values, lambda run, device: stage(run, recipe, device), display.show_trained)


@app.command()
@takes(*FOLDER)
def build(values: dict[str, Any]) -> None:
    """Build the plan's engine and audit the precision of every layer."""
    from hwsmpq.pipeline.prove.build import build as stage

    in_folder(values, stage, lambda manifest: display.show_manifest(manifest, values["out"] / "engine"))


@app.command()
@takes(*FOLDER)
def verify(values: dict[str, Any]) -> None:
    """Measure the built engine and write the certificate."""
    from hwsmpq.pipeline.prove.verify import verify as stage

    def show(certificate: Certificate) -> None:
        show_verdict(certificate, values["out"])
        if any(not budget.met for budget in certificate.budgets):
            display.console.print(
                "`hwsmpq run` with the same budgets goes on from here: it corrects its model by what was measured, and"
                " tries again", soft_wrap=True,
            )

    in_folder(values, stage, show)
    _exit_unless_verified(values["out"])


@app.command()
@takes("to", "out", "aimet")
def export(values: dict[str, Any]) -> None:
    """Copy what serves the engine without this package: its files, README.md and a script that runs it."""
    from hwsmpq.engine.encodings import export_encodings
    from hwsmpq.engine.handout import export as copied

    reason = Folder(values["out"]).why_not_certified()
    if reason:
        display.notify(f"this engine is not verified: {reason}")
    for path in (export_encodings if values["aimet"] else copied)(values["out"], values["to"]):
        display.console.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command()
@takes("folders", "out")
def report(values: dict[str, Any]) -> None:
    """Write the HTML report of a run folder, or set the run of a second folder against the first."""
    from hwsmpq.report.render import render, render_comparison

    folders = values["folders"] or [values["out"]]
    if len(folders) > 2:
        raise HwsmpqError(f"a report of {len(folders)} folders", "it shows one, or compares two", "name one or two")
    written = render_comparison(*folders) if len(folders) == 2 else render(*folders)
    display.console.print(f"{written.stem}: {written}", markup=False, soft_wrap=True)


@app.command()
@takes(*CALIBRATION, "seed", *SCORING, *PROFILING, *SEARCH, "reconstruct", "minutes")
def run(values: dict[str, Any]) -> None:
    """Everything from the task to certificate and report; resumes where it was interrupted."""
    _run(values)


@app.command()
@takes("out", "json", "seed", out=Path("runs/quickstart"))
def quickstart(values: dict[str, Any]) -> None:
    """The whole of it on a small network that comes with the package, in a few minutes."""
    _run({
        **dict.fromkeys(BUDGETS), **values, "task": QUICKSTART, "n_pairs": 4, "timing_seconds": 10.0, "speedup": 1.2,
        "max_drop": 1.0,
    })


@app.command()
@takes("device", "json")
def targets(values: dict[str, Any]) -> None:
    """What this machine can do, or another one, and why not."""
    from hwsmpq.hardware.targets import targets as known

    rows = {}
    for name, target in known(values["device"] or "").items():
        reason = target.unavailable()
        rows[name] = {
            "unavailable": reason, "precisions": [] if reason else list(target.native),
            "latency": target.has_latency, "machine": {} if reason else target.machine(),
        }
    if values["json"]:
        display.show_json(rows)
        return
    display.show_targets(rows)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        display.console.print(__version__)
        raise typer.Exit


def _ask_for_budgets(values: dict[str, Any]) -> dict[str, Any]:
    """Show what can be had, and ask for a budget where somebody can answer.

    Raises:
        HwsmpqError: nobody can, or the answer is no budget.
    """
    from hwsmpq.pipeline.prove.front import uniform_front

    shown: list[Front] = []

    def uniform(run: Any) -> Front:
        shown.append(uniform_front(run))
        return shown[0]

    in_folder(values, uniform, lambda front: display.show_front(front, title="One precision everywhere"))
    cost = "--speedup 1.3" if shown[0].cost == "latency_ms" else "--bitops int8"
    example = f"--max-drop 0.5 (the cheapest plan that loses at most half a point) or {cost} (the most accurate one)"
    if values["json"] or not sys.stdin.isatty():
        raise HwsmpqError(
            "no budget to search for", "the rows above are what one precision everywhere costs and loses",
            f"say what you want, for example {example}",
        )
    return parse_budgets(typer.prompt(f"Which budget? For example {example}"))


def _recipe(kind: Any, values: dict[str, Any], **fields: str) -> Any:
    """How to train or reconstruct, as given: ``fields`` are options by name of the recipe's field."""
    names = {**fields, "batch_size": "batch_size", "seed": "seed"}
    return kind(**{field: values[name] for name, field in names.items() if values[name] is not None})


def _learn(values: dict[str, Any], work: Callable[[Any, str], Any], show: Callable[[Any], None]) -> None:
    """Work on the plan of a run folder, with the device that is computed on."""
    where = {"task": None, "out": values["folder"] or values["out"], "json": values["json"]}
    in_folder(where, lambda run: work(run, values["train_on"] or "cpu"), show)


def _run(values: dict[str, Any]) -> None:
    if all(values[name] is None for name in BUDGETS):
        values = {**values, **_ask_for_budgets(values)}

    from hwsmpq.pipeline.prove.refine import refine
    from hwsmpq.report.render import render

    def work(run: Any) -> Any:
        certificate = refine(run, _budgets(run, values, whole=True))
        render(run.folder)
        return certificate

    in_folder(values, work, lambda certificate: show_verdict(certificate, values["out"]))
    if not values["json"]:
        folder = values["out"]
        display.show_times(Folder(folder).read(StageTimes))
        display.console.print(
            f"certificate: {folder / 'certificate.json'}\nreport: {folder / 'report.html'}",
            markup=False, soft_wrap=True,
        )
    _exit_unless_verified(values["out"])


def _exit_unless_verified(folder: Path) -> None:
    if not Folder(folder).read(Certificate).verified:
        raise typer.Exit(1)

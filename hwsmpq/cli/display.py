"""What the command line prints: progress with time left, tables, and the verdict."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pydantic import TypeAdapter
from rich.box import ROUNDED
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from hwsmpq.cli.tree import network_tree
from hwsmpq.pipeline.outlook import WHOLE
from hwsmpq.report.formats import bounded, count, covered, error_over, held
from hwsmpq.types import (
    Assignment,
    Candidate,
    Contributions,
    Front,
    Held,
    LayerAudit,
    Manifest,
    Network,
    Plan,
    Reconstructed,
    StageTimes,
    Sweep,
    Trained,
)

if TYPE_CHECKING:
    from hwsmpq.hardware.cost_model import CostModel

LINE_SECONDS = 30.0
"""Between two lines of a stage in a log file."""
PIPED_WIDTH = 200
"""Of lines that go to a file or another program, which no terminal would wrap."""


def _console(stream: TextIO) -> Console:
    console = Console(stderr=stream is sys.stderr)
    return console if console.is_terminal else Console(stderr=stream is sys.stderr, width=PIPED_WIDTH)


console, errors = _console(sys.stdout), _console(sys.stderr)


def notify(message: str) -> None:
    """A sentence for the user, on the error stream."""
    errors.print(message, markup=False, highlight=False, soft_wrap=True)


def table(*columns: str, title: str | None = None) -> Table:
    """A table; without frames where no terminal shows it."""
    return Table(*columns, title=title, box=ROUNDED if console.is_terminal else None, title_justify="left")


class Teller(Protocol):
    """Tells the user how far a command is, on the error stream, so that the output stays clean for scripts."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...

    def status(self, stage: str, text: str) -> None:
        """What a stage has found so far."""
        ...

    def notify(self, message: str) -> None:
        """A sentence for the user."""
        ...


class ProgressBars:
    """One bar a stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._tasks = bars, dict[str, TaskID]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(escape(stage), total=total, found="")
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def status(self, stage: str, text: str) -> None:
        """Shown beside the bar; above the bars what is said of the whole."""
        if stage == WHOLE:
            self.notify(text)
        elif stage in self._tasks:
            self._bars.update(self._tasks[stage], found=text)

    def notify(self, message: str) -> None:
        """Shown above the bars."""
        self._bars.console.print(escape(message), highlight=False, soft_wrap=True)


class ProgressLines:
    """For a file: a line a stage when it is over, if it took a second, and one every :data:`LINE_SECONDS`."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._stage, self._found = shown, "", ""
        self._done = self._total = 0
        self._began = self._now = self._told = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.close()
            self._stage, self._found, self._began = stage, "", self._now
        self._done, self._total, self._now = done, total, time.monotonic()
        if self._now - self._told >= LINE_SECONDS:
            self._tell()

    def status(self, stage: str, text: str) -> None:
        if stage == WHOLE:
            if self._shown:
                notify(text)
        elif stage == self._stage:
            self._found = text

    def notify(self, message: str) -> None:
        notify(message)

    def close(self) -> None:
        """Tell of the stage that is over."""
        if self._stage and self._now - self._began >= 1:
            self._tell()

    def _tell(self) -> None:
        self._told = self._now
        if self._shown:
            found = f", {self._found}" if self._found else ""
            notify(f"{self._stage}: {self._done} of {self._total}, {self._now - self._began:.0f} s{found}")


@contextmanager
def progress_bars(enabled: bool) -> Iterator[Teller]:
    """What tells of progress while a command runs: bars on a terminal, else lines; nothing with ``--json``."""
    if not errors.is_terminal:
        lines = ProgressLines(enabled)
        yield lines
        lines.close()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[found]}", markup=False),
    )
    with Progress(*columns, console=errors, disable=not enabled) as bars:
        yield ProgressBars(bars)


def show_json(value: Any) -> None:
    """A result as JSON on the output stream."""
    payload = TypeAdapter(type(value)).dump_python(value, mode="json")
    sys.stdout.write(json.dumps(payload, sort_keys=True, indent=1) + "\n")


def show_targets(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """What every target offers on a machine, or why it does not."""
    for name, row in rows.items():
        if row["unavailable"]:
            console.print(f"[bold]{name}[/]: {escape(row['unavailable'])}", highlight=False, soft_wrap=True)
            continue
        precisions = row["precisions"]
        shown = ", ".join(precisions)
        if len(precisions) > 8:
            shown = f"any of {len(precisions)} from {precisions[0]} to {precisions[-1]}"
        console.print(
            f"[bold]{name}[/]: ready; {shown};"
            f" {'measures latency' if row['latency'] else 'no latency claim'}",
            highlight=False, soft_wrap=True,
        )
        for key, text in row["machine"].items():
            console.print(f"  {key}: {escape(text)}", highlight=False, soft_wrap=True)


def show_network(network: Network, ladder: tuple[str, ...]) -> None:
    n_macs = sum(layer.n_macs for layer in network.layers)
    n_params = network.n_other_params + sum(layer.n_weights + layer.n_biases for layer in network.layers)
    title = f"{len(network.layers)} layers in {len(network.groups)} groups, {n_macs:,} MACs, {n_params:,} parameters"
    console.print(network_tree(network, title), soft_wrap=not console.is_terminal)
    if network.coverage:
        console.print(covered(network.coverage), markup=False, highlight=False, soft_wrap=True)
    n, n_free = len(ladder), len(network.groups) - len(network.excluded)
    console.print(f"{len(network.edges)} tensors pass from group to group, converted where precisions change")
    console.print(
        f"search space: {n}^{n_free} = {count(network.n_configurations(n))} configurations"
        f" ({', '.join(ladder)})"
    )
    if network.excluded:
        console.print(
            f"excluded, never quantized: {', '.join(network.excluded)}", markup=False, highlight=False, soft_wrap=True
        )


def show_times(times: StageTimes) -> None:
    """The whole, and the stages that took most of it."""
    most = sorted((one for one in times.stages if one.wall_s >= 1), key=lambda one: -one.wall_s)
    parts = ", ".join(f"{one.stage} {one.wall_s:.0f}" for one in most)
    console.print(
        f"took {sum(one.wall_s for one in times.stages):.0f} s ({sum(one.cpu_s for one in times.stages):.0f} s CPU)"
        + (f": {parts}" if parts else ""), highlight=False, soft_wrap=True,
    )


def show_sweep(sweep: Sweep) -> None:
    shown = table("uniform", f"{sweep.value} lost", "points lost", title=f"On {sweep.n_samples} samples")
    for name, point in sweep.points.items():
        dead = "" if point.alive else "  (destroyed)"
        shown.add_row(
            name, f"{sweep.reference_value - point.value:.4g}",
            f"{point.drop_points:.2f} +- {point.drop_stderr_points:.2f}{dead}",
        )
    console.print(shown)
    console.print(f"proposed: --ladder {','.join(sweep.ladder)}", highlight=False)


def show_cost_model(model: CostModel) -> None:
    cost = model.table
    shown = table("engine", "median ms", "spread ms", title=f"Measured on {escape(cost.target)}")
    for name, measured in cost.uniform_ms.items():
        shown.add_row(f"uniform {name}", f"{measured.median_ms:.4g}", f"{measured.spread_ms:.2g}")
    console.print(shown)
    switches = [
        f"from {f'int{bits}' if name == 'int' else name} {ms:.3g} ms + {model.switch_element_ms[name, bits]:.3g} ms an"
        " element" for (name, bits), ms in model.switch_ms.items()
    ]
    console.print(
        f"T = {model.scale:.4g} * counters + {model.offset_ms:.4g} ms"
        + (f", a switch costs {', '.join(switches)}" if switches else "")
        + f"; error {model.fit_error_ms:.2g} ms on {model.n_checks} mixtures", soft_wrap=True,
    )


def show_contributions(contributions: Contributions) -> None:
    shown = [p for p in contributions.ladder if p != contributions.start]
    rows = table("group", *shown, title=f"Contributions to {contributions.value} (+- standard error)")
    for group, row in contributions.phi.items():
        rows.add_row(
            escape(group), *(
                f"{row[p]:+.4g} +- {contributions.stderr[group][p]:.2g}" if p in row else "not measured" for p in shown
            )
        )
    console.print(rows)
    console.print(
        f"{contributions.estimator}: value {contributions.floor_value:.4g} at"
        f" {contributions.start}, {contributions.top_value:.4g} at the top;"
        f" {contributions.n_evaluations} evaluations on {contributions.n_samples} samples;"
        f" +- {error_over(contributions.drawn)}", soft_wrap=True,
    )


def show_plan(plan: Plan) -> None:
    names = dict.fromkeys((*plan.ladder, *plan.assignment.values()))
    counts = {p: sum(v == p for v in plan.assignment.values()) for p in names}
    parts = [f"{n} x {p}" for p, n in counts.items()]
    bound = f", {bounded(plan.drop_bound)}" if plan.drop_bound else ""
    latency = f", {plan.predicted_latency_ms:.4g} ms" if plan.predicted_latency_ms is not None else ""
    console.print(
        f"plan: {', '.join(parts)}{latency}, {plan.bitops:.4g} BitOps, {plan.size_mb:.4g} MB,"
        f" {plan.predicted_drop_points:+.2f} points lost on the search part{bound}"
        f" ({len(plan.candidates)} candidates; solver: {plan.status}, gap {plan.gap:.1g})"
    )
    if plan.n_search_samples:
        console.print(
            f"search part: {plan.n_search_samples:,} samples; report part, unseen so far: {plan.n_report_samples:,}"
        )
    show_held(plan.held)
    if plan.stability:
        unsure = sorted((share, escape(group)) for group, share in plan.stability.certainty.items() if share < 0.9)
        drawn = plan.stability.drawn or "draws of the contributions"
        console.print(
            f"stability: as many fresh {drawn} would give the same additive plan"
            f" in {plan.stability.share:.0%} of cases"
            + (f"; least sure: {', '.join(f'{g} {s:.0%}' for s, g in unsure[:5])}" if unsure else ""),
            soft_wrap=True,
        )


def show_held(found: Sequence[Held]) -> None:
    """What the user held a plan to."""
    for line in held(found):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def show_trained(trained: Trained) -> None:
    losses, best = trained.losses, trained.best_epoch
    kept = f"weights of epoch {best}, the best on samples held out" if best else "no epoch was better than the start"
    console.print(
        f"trained for {len(losses)} epochs on {trained.n_samples} samples ({trained.data}):"
        f" {trained.objective} objective {losses[0]:.4g} in the first epoch, {losses[-1]:.4g} in the last; {kept};"
        " `hwsmpq build` and `hwsmpq verify` take the result", soft_wrap=True,
    )


def show_reconstructed(result: Reconstructed) -> None:
    shown = table("layers", "iterations", "error before", "after", "", title="Error of blocks on held-out samples")
    for block in result.blocks:
        layers = block.layers[0] if len(block.layers) == 1 else f"{block.layers[0]} .. {block.layers[-1]}"
        shown.add_row(
            escape(layers), str(block.n_iterations), f"{block.error_before:.4g}", f"{block.error_after:.4g}",
            "" if block.is_kept else "not kept" if block.n_iterations else "nothing to learn",
        )
    console.print(shown)
    n_kept = sum(block.is_kept for block in result.blocks)
    console.print(
        f"rounding learned on {result.n_samples} calibration samples: {n_kept} of {len(result.blocks)} blocks are"
        " closer to the network; `hwsmpq build` and `hwsmpq verify` take the result", soft_wrap=True,
    )


def show_front(front: Front, measured: Sequence[Candidate] = (), title: str | None = None) -> None:
    """Print a front, and the engines of the points that were asked to be measured."""
    unit = "latency ms" if front.cost == "latency_ms" else "BitOps"
    n_samples = front.points[0].n_samples
    rows = table(
        unit, "MB", f"value ({front.value})", "points lost", "precisions",
        title=f"{title or f'Front from {front.n_compared} assignments'}, on {n_samples} samples of the search part",
    )
    for point in front.points:
        rows.add_row(
            f"{front.cost_of(point):.4g}", f"{point.size_mb:.3g}", f"{point.value:.4f} +- {point.stderr:.2g}",
            f"{point.drop_points:+.2f} +- {point.drop_stderr_points:.2f}", _counts(point.assignment, front.ladder),
        )
    console.print(rows)
    if measured:
        _show_engines(front, measured)


def _show_engines(front: Front, points: Sequence[Candidate]) -> None:
    engines = [engine for point in points if (engine := front.engine_of(point.assignment))]
    rows = table(
        "predicted ms", "measured ms", "points lost", "KL", "precisions",
        title=f"Engines, on {engines[0].accuracy.n_samples} samples of the report part",
    )
    for point, engine in zip(points, engines, strict=True):
        predicted = f"{point.latency_ms:.4g}"
        accuracy = engine.accuracy
        rows.add_row(
            predicted, f"{engine.latency.median_ms:.4g} +- {engine.latency.spread_ms:.2g}",
            f"{engine.drop_points:+.2f} +- {100 * accuracy.paired_stderr:.2f}",
            "" if accuracy.kl is None else f"{accuracy.kl:.2g}", _counts(engine.assignment, front.ladder),
        )
    console.print(rows)
    for engine in engines:
        show_mismatches(engine.audit.mismatches)


def _counts(assignment: Assignment, ladder: tuple[str, ...]) -> str:
    names = dict.fromkeys((*ladder, *assignment.values()))
    counts = {name: list(assignment.values()).count(name) for name in names}
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)


def show_manifest(manifest: Manifest, folder: Path) -> None:
    others = [layer for layer in manifest.layers if not layer.as_requested]
    console.print(
        f"engine in {folder}: {len(manifest.layers) - len(others)} of {len(manifest.layers)} layers as requested,"
        f" {manifest.n_bytes / 1e6:.4g} MB, built in {manifest.build_seconds:.2g} s",
        markup=False, soft_wrap=True,
    )
    show_mismatches(others)
    if manifest.dynamic_batch is not None:
        console.print(f"  {manifest.dynamic_batch.said}", markup=False, soft_wrap=True)


def show_mismatches(layers: Iterable[LayerAudit]) -> None:
    """Layers that run otherwise than they were asked to."""
    for layer in layers:
        console.print(f"  {layer.layer}: {layer.requested} asked for, {layer.found} runs", markup=False)

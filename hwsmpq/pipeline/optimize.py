"""The whole path in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Progress, Run, silent
from hwsmpq.report.render import render
from hwsmpq.types import Certificate, Ladder, Settings


def optimize(
    task: Task,
    folder: str | Path,
    *,
    latency_ms: float | None = None,
    speedup: float | None = None,
    bitops: str | float | None = None,
    size_mb: str | float | None = None,
    max_drop: float | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Certificate:
    """Profile, contribute, search, build and verify until the engine keeps the budgets; write engine and report.

    Called again on the same folder, it goes on where it was, and measures nothing twice.

    Args:
        task: the model with its data.
        folder: where everything is kept: ``engine/``, ``certificate.json`` and ``report.html`` in the end.
        latency_ms: largest latency of the engine, in ms.
        speedup: least speedup against the engine of the ladder's top precision.
        bitops: most BitOps, a number or a precision whose uniform assignment sets the limit (``"w4a4"``).
        size_mb: most megabytes (10^6 bytes), likewise.
        max_drop: most points (hundredths) of the metric that may be lost.
        progress: told (stage, done, total).
        settings: fields of :class:`hwsmpq.Settings`; ``ladder`` may be text, as on the command line.

    Returns:
        The last certificate, whether or not it meets every budget.

    Raises:
        HwsmpqError: budgets that cannot be kept, or a model, target or setting that does not work.
    """
    if isinstance(settings.get("ladder"), str):
        settings["ladder"] = Ladder.parse(settings["ladder"]).names
    run = Run(folder, Settings(**settings), task, progress)
    budgets = resolve_budgets(
        run, latency_ms, speedup, None if bitops is None else str(bitops), None if size_mb is None else str(size_mb),
        max_drop,
    )
    certificate = refine(run, budgets)
    render(run.folder)
    return certificate

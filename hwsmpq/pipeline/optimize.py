"""The whole path in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

from hwsmpq.hardware.targets import target_for
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.pipeline.telling import Progress, logged, silent, unseen
from hwsmpq.report.render import render
from hwsmpq.types import Certificate, Ladder, Options, Settings


def optimize(
    task: Task,
    folder: str | Path,
    *,
    latency_ms: float | None = None,
    speedup: float | None = None,
    bitops: str | float | None = None,
    size_mb: str | float | None = None,
    throughput: float | None = None,
    peak_mb: float | None = None,
    max_drop: float | None = None,
    ladder: str | Sequence[str] = Settings.ladder,
    progress: Progress = silent,
    notify: Callable[[str], None] = logged,
    status: Callable[[str, str], None] = unseen,
    workers: int = 0,
    ray_address: str | None = None,
    **settings: Unpack[Options],
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
        throughput: least inferences a second, of all ``streams`` together.
        peak_mb: most megabytes of memory that loading and running the engine takes, besides the runtime's own.
        max_drop: most points (hundredths) of the metric that may be lost.
        ladder: candidate precisions, by name or as text (``"w3a3..w8a8"``); by default those of the target.
        progress: told (stage, done, total).
        notify: told in a sentence what the user should know of; by default a warning of the logger ``hwsmpq``.
        status: told (stage, what it has found so far).
        workers: processes of this machine that evaluate assignments; by default one a core, 1 is this process.
        ray_address: of a Ray cluster that evaluates instead.
        settings: the other fields of :class:`hwsmpq.Settings`. Where no ``target`` is given and the usual one lacks a
            precision of the ladder, it is ``onnx-qdq``.

    Returns:
        The last certificate, whether or not it meets every budget.

    Raises:
        HwsmpqError: budgets that cannot be kept, or a model, target or setting that does not work.
    """
    names = Ladder.parse(ladder if isinstance(ladder, str) else ",".join(ladder)).names if ladder else ()
    if "target" not in settings:
        settings["target"] = target_for(names, notify)
    asked = Settings(ladder=names, **settings)
    run = Run(folder, asked, task, progress, workers, ray_address, notify, status)
    budgets = resolve_budgets(run, latency_ms, speedup, bitops, size_mb, throughput, peak_mb, max_drop, whole=True)
    certificate = refine(run, budgets)
    render(run.folder)
    return certificate

"""This project's plans for the comparison: as a user asks for them, and matched to an engine of another tool."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from _peer_networks import Network
from torch import Tensor

from hwsmpq import Run, Settings, calibrate, contribute, pareto, refine, resolve_budgets
from hwsmpq.device.openvino import OpenvinoEngine
from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.model.task import Task
from hwsmpq.pipeline.prepare.survey import survey
from hwsmpq.search.paired import paired_stderr
from hwsmpq.types import REFERENCE, Assignment, Manifest, Plan

MAX_DROP_POINTS = 1.0
"""What the default asks for: the fastest plan that loses at most this, which is accuracy control's default too."""
N_POINTS, N_POINTS_QUICK = 24, 4
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {}, "ours_cheap": {"estimator": "one-at-a-time", "n_score_samples": 64},
}
"""Settings that differ from the default: what an evaluation of every group alone on few samples is worth."""
QUICK: dict[str, Any] = {"n_score_samples": 16, "n_mixtures": 2, "search_evaluations": 20, "timing_seconds": 2.0}

T = TypeVar("T")
Record = dict[str, Any]


@dataclass
class Clock:
    """Wall and CPU seconds of stages."""

    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str, work: Callable[[], T]) -> T:
        wall, cpu = time.monotonic(), time.process_time()
        result = work()
        self.wall_s[stage], self.cpu_s[stage] = time.monotonic() - wall, time.process_time() - cpu
        print(f"    {stage}: {self.wall_s[stage]:.1f} s ({self.cpu_s[stage]:.1f} s CPU)", flush=True)
        return result

    def record(self) -> Record:
        return {
            "search_s": sum(self.wall_s.values()), "search_cpu_s": sum(self.cpu_s.values()),
            "stages_s": self.wall_s, "stages_cpu_s": self.cpu_s,
        }


class Ours:
    """The run folder of one network and one variant of the settings, which all plans share."""

    def __init__(self, variant: str, folder: Path, network: Network, task: Task, seed: int, quick: bool) -> None:
        self._folder, self._network, self._task, self._quick = folder, network, task, quick
        self._settings = Settings(
            network.task_file, target=network.target, value=network.value, seed=seed,
            **{**VARIANTS[variant], **(QUICK if quick else {})},
        )
        self.run = self._open()

    def _open(self) -> Run:
        return Run(self._folder, self._settings, self._task, notify=lambda text: print(f"    {text}", flush=True))

    def default(self, folder: Path) -> Record:
        """The fastest plan that keeps the metric, from nothing to the certificate, as `hwsmpq run` goes."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.run = self._open()
        run, clock = self.run, Clock()
        clock("capture", lambda: run.network)
        clock("calibrate", lambda: calibrate(run))
        clock("survey", lambda: survey(run))
        clock("refine", lambda: refine(run, resolve_budgets(run, max_drop=MAX_DROP_POINTS)))
        return {**clock.record(), **self._deliver(folder), "n_search_evaluations": run.read(Plan).n_evaluations}

    def at_latency(self, folder: Path, ratio: float) -> Record:
        """The most accurate plan whose engine takes at most this share of the fp32 engine's time.

        Where no plan is predicted to, the lowest precision throughout stands for it. The run folder's profile is taken
        as it is, as are contributions that an earlier plan needed, and their time is not counted again.
        """
        clock, run = Clock(), self.run
        clock("contribute", lambda: contribute(run))
        try:
            certificate = clock("refine", lambda: refine(run, resolve_budgets(run, speedup=1 / ratio)))
        except InfeasibleError as error:
            print(f"    {error}", flush=True)
            return {**self._build(folder, run.network.uniform(run.ladder.names[0]), clock), "met": False}
        return {**clock.record(), **self._deliver(folder), "met": all(b.met for b in certificate.budgets)}

    def at_distance(self, folder: Path, peer: Tensor, reference: Tensor) -> Record:
        """The fastest plan of the front that is no farther from the reference than the peer.

        Both are compared on the search part, with one paired standard error on top, as plans are chosen elsewhere.

        Args:
            peer: outputs of the peer's engine on the search part.
            reference: outputs of the fp32 engine there.
        """
        clock, run = Clock(), self.run
        clock("contribute", lambda: contribute(run))
        front = clock("pareto", lambda: pareto(run, N_POINTS_QUICK if self._quick else N_POINTS))
        outputs = run.simulator.scores(
            [point.assignment for point in front.points], run.parts[0].inputs, lambda out, rows: out
        )
        limit = self._network.distance(reference, peer).double().numpy()
        for point, found in zip(front.points, outputs, strict=True):  # in order of latency
            excess = self._network.distance(reference, found).double().numpy() - limit
            if float(np.mean(excess)) + paired_stderr(excess) <= 0:
                return self._build(folder, point.assignment, clock)
        raise HwsmpqError("no point of the front is as close to the fp32 network", "its top should be", "report it")

    def _build(self, folder: Path, assignment: Assignment, clock: Clock) -> Record:
        clock("build", lambda: self.run.builder.write(assignment, folder))
        return {**clock.record(), **self._described(assignment)}

    def _deliver(self, folder: Path) -> Record:
        run = self.run
        for path in filter(Path.is_file, run.path(Manifest).parent.iterdir()):
            shutil.copy2(path, folder)
        return self._described(run.read(Plan).assignment)

    def _described(self, assignment: Assignment) -> Record:
        names = list(assignment.values())
        return {"n_groups": len(names), "n_fp32": names.count(REFERENCE), "assignment": assignment}


def engine_in(folder: Path, plain: bool = False) -> OpenvinoEngine:
    """The engine of any tool, on one thread and its CPU time, in f32 or what its file says, or ``plain``: without
    settings."""
    path = folder / "model.xml"
    if not path.is_file():
        raise HwsmpqError(f"no engine in {folder}", fix="remove that folder and run again")
    return OpenvinoEngine(path, plain=plain)

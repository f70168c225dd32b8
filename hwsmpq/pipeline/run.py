"""A run folder: settings, artifacts and their freshness, and what the stages share in memory."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from hwsmpq import artifacts
from hwsmpq.engine.build import Builder
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.hardware.device import HERE
from hwsmpq.hardware.target import Target, substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.lock import hold
from hwsmpq.model.capture import Captured
from hwsmpq.model.load import load_task
from hwsmpq.model.parts import Samples, tensors_sha256
from hwsmpq.model.task import Task
from hwsmpq.pipeline.claim import claim
from hwsmpq.pipeline.clock import Clock
from hwsmpq.pipeline.evaluate.forked import n_processes
from hwsmpq.pipeline.evaluate.job import Job
from hwsmpq.pipeline.evaluate.workers import Workers
from hwsmpq.pipeline.outlook import WHOLE, Outlook
from hwsmpq.pipeline.possible import check_settings
from hwsmpq.pipeline.roles import Roles
from hwsmpq.pipeline.telling import LOGGER, Progress, logged, silent, unseen
from hwsmpq.quantize.evaluate import Runner
from hwsmpq.quantize.scheme import Scheme, get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import (
    Constraints,
    CostTable,
    Ladder,
    Network,
    Plan,
    Precision,
    Ranges,
    Settings,
    StageTimes,
)

T = TypeVar("T")
P = ParamSpec("P")

ENGINES_GAIN = 2
"""How many times as long a sample takes in the simulator as in an engine of as many threads, at least (fp32 and int8
together, on a processor: ResNet-20 1.6, EfficientNet-Lite0 2.4)."""


def holding(stage: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """A stage: a function of a run that has the folder to itself while it works, and whose time is counted by its name.
    Those that it calls share the lock."""

    @wraps(stage)
    def held(run: Run, *args: P.args, **kwargs: P.kwargs) -> T:
        lock = hold(run.folder)
        try:
            with run.clock(stage.__name__):
                result = stage(run, *args, **kwargs)
            if run.outlook is not None and run.outlook.finish(stage.__name__):
                run.tell_outlook()
            return result
        finally:
            del lock

    return held


class Run:
    """One run folder.

    Args:
        folder: where everything is kept; created if missing.
        settings: what to run; by default what the folder was made with.
        task: the task as an object, in place of ``settings.task``.
        progress: told how far every stage is.
        workers: processes of this machine that evaluate assignments; 1 is this one. By default one a core, of those
            that find memory. The results are the same.
        ray_address: of a Ray cluster that evaluates instead, with one worker a device, or ``workers`` if given.
        notify: told in a sentence what the user should know of, such as a precision that destroys the network; by
            default a warning of the logger ``hwsmpq``.
        status: told (stage, what it has found so far).

    Raises:
        HwsmpqError: no settings, an unknown target, or a ladder that the target cannot write.
    """

    def __init__(
        self, folder: str | Path, settings: Settings | None = None, task: Task | None = None,
        progress: Progress = silent, workers: int = 0, ray_address: str | None = None,
        notify: Callable[[str], None] = logged, status: Callable[[str, str], None] = unseen,
    ) -> None:
        self._began = time.monotonic()
        self.outlook: Outlook | None = None
        self.sample_s: float | None = None
        """Seconds of one sample of an evaluation, once one was timed."""
        self.within_minutes: Run | None = None
        self.folder = folder = Path(folder)
        self.artifacts = Folder(folder)
        self.progress, self.notify, self.status = progress, notify, status
        self._n_workers, self._ray_address = workers, ray_address
        self.asked = settings or self.read(Settings)
        self.settings = self.asked.resolved()
        target = get_target(self.settings.target, self.settings.device)
        self.target: Target = target.with_threads(self.settings.threads).with_streams(self.settings.streams)
        if not self.settings.ladder:
            ladder = self._default_ladder()
            self.asked, self.settings = (replace(one, ladder=ladder) for one in (self.asked, self.settings))
        self.ladder = Ladder(tuple(Precision.parse(name) for name in self.settings.ladder))
        self._task = task
        self.clock = Clock(self.read(StageTimes).stages if self.artifacts.has(StageTimes) else ())
        self.target.workspace(folder)
        check_settings(self.settings, self.target, self.ladder, workers, ray_address)

    @property
    def seconds_left(self) -> float:
        """Of the budget of time, since this run was opened; infinite without one."""
        minutes = self.settings.minutes
        return math.inf if minutes is None else 60 * minutes - (time.monotonic() - self._began)

    def tell_outlook(self) -> None:
        """Say how long what is left will take."""
        if self.outlook is not None and self.outlook.left:
            self.status(WHOLE, self.outlook.said())

    def with_settings(self, settings: Settings) -> Run:
        """The same run with the settings that a budget of time leaves room for, from now on ``within_minutes``."""
        other = self._copied(settings, "score_batch")
        self.within_minutes = other.within_minutes = other
        return other

    def on_engines(self) -> Run:
        """The same run, where assignments of which there are engines anyway are evaluated by these if that is faster:
        where they compute on this machine's processor, as the simulator does, which has not many more threads."""
        here = self.target.has_latency and self.target.device is HERE and not torch.cuda.is_available()
        if not here or torch.get_num_threads() > ENGINES_GAIN * self.settings.threads:
            return self
        other = self._copied(replace(self.settings, evaluate="engine"))
        other._ray_address = None
        return other

    def _copied(self, settings: Settings, *changed: str) -> Run:
        """The same run with other settings, without what was made from these: identities, workers and ``changed``."""
        other = copy.copy(self)
        other.settings = settings
        for name in (*changed, "roles", "cluster"):
            vars(other).pop(name, None)
        return other

    def _default_ladder(self) -> tuple[str, ...]:
        """What the folder remembers for the target, else what the target takes."""
        known = self.read(Settings) if self.artifacts.has(Settings) else None
        same = known is not None and known.target == self.settings.target
        return known.ladder if same else self.target.default_ladder

    @cached_property
    def task(self) -> Task:
        weights = self.settings.weights
        with self.clock("load"):
            return self._task or load_task(self.settings.task, self.settings.data, Path(weights) if weights else None)

    @cached_property
    def captured(self) -> Captured:
        """The captured network; claims the folder for it.

        Raises:
            HwsmpqError: the folder belongs to another model.
        """
        task = self.task  # a task that cannot be loaded makes no folder
        with self.clock("capture"):
            return claim(self, task)

    @property
    def constraints(self) -> Constraints:
        """What plans are held to, by task and settings."""
        return self.task.constraints & self.settings.constraints

    @property
    def judge(self) -> Task:
        """The task, to judge what the simulator and engines give."""
        return self.task.judging(self.captured.form)

    @property
    def network(self) -> Network:
        """The captured network, with what the target itself says that it runs. What engines show counts besides:
        :class:`hwsmpq.pipeline.prepare.prepared.Prepared`."""
        return self.captured.network

    @cached_property
    def substitutes(self) -> dict[str, dict[str, str]]:
        """What the target runs in place of precisions that it has no kernels for, before any engine says more."""
        return substitutes(self.target, self.network, self.ladder)

    @property
    def imported_costs(self) -> CostTable | None:
        """The cost table that was measured elsewhere, if the folder holds one for this target and ladder."""
        if artifacts.IMPORTED not in self.artifacts.made_from(CostTable):
            return None
        table = self.read(CostTable)
        return table if (table.target, table.ladder) == (self.target.name, self.ladder.names) else None

    @property
    def measures_latency(self) -> bool:
        """Whether engines are timed in this run."""
        return self.target.has_latency and self.settings.cost != "bitops" and self.imported_costs is None

    @cached_property
    def parts(self) -> tuple[Samples, Samples]:
        """(search part, report part)."""
        return self.task.split(self.settings.seed, most_searched=self.settings.n_search_samples)

    @cached_property
    def calibration_sha256(self) -> str:
        return tensors_sha256(self.task.calibration)

    @cached_property
    def score_batch(self) -> Samples:
        """The fixed batch that scores contributions: the first samples of the (shuffled) search part."""
        return self.parts[0].take(slice(0, self.settings.n_score_samples))

    @property
    def integer_bits(self) -> list[int]:
        """Widths that activations are quantized to."""
        return sorted({p.activation_bits for p in self.ladder.precisions if p.activation_format == "int"})

    @property
    def smoothed(self) -> list[Precision]:
        """Precisions that inputs may be smoothed for."""
        return self._quantized if self.settings.smooth else []

    @property
    def corrected(self) -> list[Precision]:
        """Precisions that biases may be corrected for."""
        return self._quantized if self.settings.correct_bias else []

    @property
    def _quantized(self) -> list[Precision]:
        return [p for p in self.ladder.precisions if not p.is_float]

    @property
    def value(self) -> str:
        """Name of the value function."""
        return self.settings.value or ("soft" if self.task.is_classification else "loss")

    @property
    def scheme(self) -> Scheme:
        return get_scheme(self.target.scheme_name)

    @cached_property
    def simulator(self) -> Simulator:
        """One for all stages, so that every weight is quantized once a precision."""
        return Simulator(self.captured, self.read(Ranges), self.scheme, self.settings.memory_mb)

    @property
    def runner(self) -> Runner:
        """What runs assignments to evaluate them."""
        if self.settings.evaluate != "engine":
            return self.simulator
        from hwsmpq.engine.runner import EngineRunner  # which imports scipy

        return EngineRunner(self.builder)

    @property
    def n_workers(self) -> int:
        """Processes that evaluate assignments at once."""
        if self.cluster is not None:
            return self.cluster.n_workers
        if self.settings.evaluate == "engine":
            return 1
        return self._n_workers or n_processes(self.settings.memory_mb)

    @cached_property
    def cluster(self) -> Workers | None:
        """What evaluates assignments on a Ray cluster, kept over all stages; None where none was named."""
        if self._ray_address is None:
            return None
        settings = replace(self.settings, value=self.value)
        job = Job(self._task, settings, self.read(Ranges), self.scheme.name, self.network)
        return Workers(job, self._n_workers, self._ray_address)

    @cached_property
    def builder(self) -> Builder:
        return self.builder_with(self.captured, self.read(Ranges))

    def builder_with(self, captured: Captured, ranges: Ranges) -> Builder:
        """A builder of a network with other weights and ranges."""
        settings = self.settings
        return Builder(
            captured, ranges, self.scheme, self.target, settings.batch, settings.threads, settings.streams
        )

    @cached_property
    def roles(self) -> Roles:
        return Roles(self)

    def plan(self) -> Plan:
        """The plan of the folder.

        Raises:
            HwsmpqError: there is none, or it is of another ladder or other groups than the run.
        """
        plan = self.read(Plan)
        if plan.ladder != self.ladder.names or plan.assignment.keys() != set(self.network.group_names):
            what = "other groups" if plan.ladder == self.ladder.names else f"the ladder {','.join(plan.ladder)}"
            raise HwsmpqError(
                f"{self.path(Plan)} was made for {what}", f"this run has the ladder {','.join(self.ladder.names)}",
                "run `hwsmpq search` again, or give --ladder as it was",
            )
        return plan

    def path(self, kind: type) -> Path:
        return self.artifacts.path(kind)

    def read(self, kind: type[T]) -> T:
        return self.artifacts.read(kind)

    def sha256(self, kind: type) -> str:
        """Hash of the payload of an artifact that exists."""
        return self.artifacts.sha256(kind)

    def inputs(self, kind: type, without: Collection[type] = (), **asked: Any) -> dict[str, str]:
        """What an artifact would be made from now; see :meth:`hwsmpq.folder.Folder.inputs`."""
        return self.artifacts.inputs(kind, self.settings, self.roles, asked, without)

    def stage(self, kind: type[T], make: Callable[[], T], without: Collection[type] = (), **asked: Any) -> T:
        """The artifact of a stage: read if it was made from the same inputs, else made and written.

        Args:
            without: artifacts further up that are not used this time.
            asked: what the row of the artifact names beyond artifacts, roles and settings.
        """
        inputs = self.inputs(kind, without, **asked)
        if self.artifacts.has(kind) and self.artifacts.made_from(kind) == inputs:
            LOGGER.info("%s is as it was", self.path(kind))
            return self.read(kind)
        start = time.monotonic()
        value = make()
        self.artifacts.write(value, inputs)
        LOGGER.info("%s made in %.1f s", self.path(kind), time.monotonic() - start)
        self.artifacts.write(StageTimes(self.clock.times), {})
        return value

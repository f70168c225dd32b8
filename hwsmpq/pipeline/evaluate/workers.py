"""Evaluation by Ray actors on a cluster: the only file that knows Ray.

Actors hold no state that matters. Only the driver stores results, so a lost actor loses the task it was at and nothing
else; that task is given out again. Every task gives the same bits wherever it runs, as long as all actors run on the
same kind of processor.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.pipeline.evaluate.job import Job
from hwsmpq.pipeline.evaluate.serial import Tell
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.types import Assignment

N_BATCHES_KEPT = 8
"""Sample sets that an actor keeps an evaluator for."""
MAX_LOSSES = 3
"""Workers that one task may lose before it is taken to be the reason."""
START_SECONDS = 300.0
"""How long to wait for a worker while none is at work."""

ENVIRONMENT = {
    # Ray starts workers at niceness 15, where any other process on the machine starves them.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Every line that Ray would print about dead workers, to standard output.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
"""Environment that Ray reads when it is imported; what the user set stays."""


class _Actor:
    """Evaluates tasks in a process of its own. Loads at the first task, so that a failure is the task's, not a loss.

    Args:
        job: a reference to the job.
        sys_path: where the driver finds modules, of which the task's may be one.
    """

    def __init__(self, job: list[Any], sys_path: list[str]) -> None:
        sys.path.extend(folder for folder in sys_path if folder not in sys.path)
        torch.set_num_threads(1)
        self._job_reference = job[0]
        self._evaluators: OrderedDict[str, Evaluator] = OrderedDict()

    def ready(self) -> None:
        """Answer, which an actor without a process cannot."""

    def evaluate(self, key: str, samples: list[Any], assignments: list[Assignment]) -> NDArray[np.float32]:
        """Rows of values and metric.

        Args:
            key: names the sample set.
            samples: one reference to it; fetched only where no evaluator for it is kept.
        """
        import ray

        if key not in self._evaluators:
            self._evaluators[key] = self._make(ray.get(samples[0]))
            if len(self._evaluators) > N_BATCHES_KEPT:
                self._evaluators.popitem(last=False)
        return self._evaluators[key](assignments)

    @cached_property
    def _make(self) -> Callable[[Samples], Evaluator]:
        import ray

        job: Job = ray.get(self._job_reference)
        return job.prepare()


class Workers:
    """Actors that start at the first request and are kept until :meth:`close`.

    Args:
        n_workers: actors at most, 0 for one a device (GPU, else CPU core).
        address: of the cluster (``auto``, ``host:port`` or ``ray://host:port``).

    Raises:
        HwsmpqError: from every method, if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, job: Job, n_workers: int, address: str) -> None:
        self._job, self._limit, self._address = job, n_workers, address
        self._samples: dict[str, Any] = {}
        self._starting: dict[Any, Any] = {}
        self._idle: deque[Any] = deque()
        self._running: dict[Any, tuple[Any, int]] = {}

    @property
    def n_workers(self) -> int:
        """Actors at work while all live."""
        return self._cluster_devices[1]

    def evaluate(
        self, samples: Samples, progress: Tell, tasks: Sequence[list[Assignment]]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Evaluate tasks on ``samples``, as :data:`~hwsmpq.contribution.memoized.Executor` does.

        Anything that ends it early, an interrupt above all, closes the workers, since they may be at work still.

        Raises:
            HwsmpqError: no worker could be had, or one task lost several.
            Exception: what the user's code raised in a worker, as it was raised there.
        """
        try:
            yield from self._evaluate(samples, progress, tasks)
        except BaseException:
            self.close()
            raise

    def _evaluate(
        self, samples: Samples, progress: Tell, tasks: Sequence[list[Assignment]]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        ray, key = self._ray, samples.sha256()
        self._start(samples, key)
        queue, losses = deque(range(len(tasks))), Counter[int]()
        n_done, n_total = 0, sum(map(len, tasks))
        while queue or self._running:
            while queue and self._idle:
                actor, index = self._idle.popleft(), queue.popleft()
                self._running[actor.evaluate.remote(key, [self._samples[key]], tasks[index])] = (actor, index)
            ref = self._next_finished()
            lost = self._lost(ref)
            if ref in self._starting:
                actor = self._starting.pop(ref)
                if lost is None:
                    self._idle.append(actor)
                elif not (self._idle or self._running or self._starting):
                    raise HwsmpqError(
                        "no worker is left, and none can be started", _first_line(lost),
                        "run again when there is room for one; finished work is kept",
                    )
                continue
            actor, index = self._running.pop(ref)
            if lost is not None:
                losses[index] += 1
                if losses[index] == MAX_LOSSES:
                    raise HwsmpqError(
                        f"{MAX_LOSSES} workers died one after another at the same {len(tasks[index])} evaluations",
                        _first_line(lost),
                        "take fewer --workers or a lower --memory-mb if memory ran out; finished work is kept",
                    )
                ray.kill(actor)
                queue.appendleft(index)
                self._start_one()
                continue
            self._idle.append(actor)
            n_done += len(tasks[index])
            progress(n_done, n_total)
            yield index, ray.get(ref)

    def close(self) -> None:
        """Stop all actors; a later request starts new ones. A Ray started here ends with this process."""
        actors = [*self._starting.values(), *self._idle, *(actor for actor, _ in self._running.values())]
        for actor in actors:
            self._ray.kill(actor)
        self._starting, self._idle, self._running = {}, deque(), {}

    def _start(self, samples: Samples, key: str) -> None:
        if key not in self._samples:
            self._samples[key] = self._ray.put(samples)
        for _ in range(self.n_workers - len(self._starting) - len(self._idle)):
            self._start_one()

    def _start_one(self) -> None:
        # An actor takes work only once it answers: one that finds no machine would hold its task for ever.
        actor = self._ray.remote(**self._needs)(_Actor).remote([self._job_reference], sys.path)
        self._starting[actor.ready.remote()] = actor

    def _next_finished(self) -> Any:
        timeout = None if self._running else START_SECONDS
        ready, _ = self._ray.wait([*self._running, *self._starting], num_returns=1, timeout=timeout)
        if not ready:
            raise HwsmpqError(
                f"no worker started within {START_SECONDS:.0f} seconds",
                f"each needs {self._needs}, and the cluster has {self._ray.available_resources()} free",
                "free resources of the cluster, or evaluate on this machine with --workers",
            )
        return ready[0]

    def _lost(self, ref: Any) -> Exception | None:
        """Why the actor behind a finished call is lost, None if it is not; raises what user code raised."""
        errors = self._ray.exceptions
        try:
            self._ray.get(ref)
        except errors.RayTaskError as error:
            raise error.cause from error
        except (
            errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError,
            errors.ObjectLostError,
        ) as error:
            return error
        return None

    @cached_property
    def _ray(self) -> Any:
        return _connect(self._address)

    @cached_property
    def _job_reference(self) -> Any:
        return self._ray.put(self._job)

    @property
    def _needs(self) -> dict[str, int]:
        """What an actor reserves."""
        return {"num_gpus": 1} if self._cluster_devices[0] == "GPU" else {"num_cpus": 1}

    @cached_property
    def _cluster_devices(self) -> tuple[str, int]:
        """(kind of device, number of actors)."""
        resources = self._ray.cluster_resources()
        kind = "GPU" if resources.get("GPU", 0) >= 1 else "CPU"
        n_devices = int(resources.get(kind, 0))
        if n_devices == 0:
            raise HwsmpqError(f"the Ray cluster {self._address} has no device", f"it offers {resources}", "add a node")
        return kind, min(n_devices, self._limit) if self._limit else n_devices


def _connect(address: str) -> Any:
    """The ``ray`` module, connected; what it says goes to its own log files, not into the output of a run."""
    for name, setting in ENVIRONMENT.items():
        os.environ.setdefault(name, setting)
    try:
        import ray
    except ImportError as error:
        raise HwsmpqError(
            "--ray needs Ray", "it is not installed", "pip install 'hwsmpq[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise HwsmpqError(
            f"cannot connect to Ray at {address}",
            _first_line(error), "check the address and that `ray status` answers there",
        ) from error
    return ray


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

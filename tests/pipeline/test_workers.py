"""Workers give what one process gives, bit for bit, also where those of a cluster die, fail or are interrupted."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QDQ_SETTINGS, TASK_FILE
from tiny_task import task

from hwsmpq.contribution.antithetic import antithetic
from hwsmpq.contribution.memoized import MemoizedGame
from hwsmpq.contribution.stop import Stop
from hwsmpq.contribution.table import Table
from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.evaluate import workers
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.prepare.calibrate import calibrate
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Budget, Settings

# The tasks of the workers have a loss of their own, with the loss's values.
SETTINGS = replace(QDQ_SETTINGS, value="loss")

TESTS = Path(TASK_FILE).parent

JOINED = "auto"
"""Address under which a run takes the Ray of this process as its cluster."""

TASK = """
import os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
from hwsmpq import HwsmpqError
from tiny_task import task as tiny

folder, in_worker = pathlib.Path({folder!r}), os.getpid() != {driver}
seed = 0
if in_worker:
    with open(folder / "pids", "a") as file:
        print(os.getpid(), file=file)

def in_loss():
    pass

{code}

def task():
    made = tiny(seed)
    loss = made.loss
    def watched(outputs, targets):
        if in_worker:
            in_loss()
        return loss(outputs, targets)
    made.loss = watched
    return made
"""
DIE_ONCE = """
def in_loss():
    marker = folder / "died"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""
DIE_ALWAYS = "if in_worker: os.kill(os.getpid(), signal.SIGKILL)"
OTHER_WEIGHTS = "seed = int(in_worker)"
FAIL = """
def in_loss():
    with open(folder / "calls", "a") as file:
        print("call", file=file)
    raise ValueError("the loss is broken")
"""
THEN_LAG = """
import time

die_once = in_loss

def in_loss():
    die_once()
    time.sleep(1)
"""


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """One Ray for all tests here, with a device for each of two workers."""
    os.environ.update({name: os.environ.get(name, value) for name, value in workers.ENVIRONMENT.items()})
    import ray

    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, logging_level=logging.CRITICAL)
    yield
    ray.shutdown()


@pytest.fixture
def open_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Runs on one worker, with a task file that ``code`` changes in the workers only."""
    opened: list[Run] = []

    def make(code: str = "", **kwargs: object) -> Run:
        run = Run(tmp_path / "run", settings(tmp_path, code), **{"workers": 1, "ray_address": JOINED, **kwargs})
        opened.append(run)
        return run

    yield make
    for run in opened:
        if vars(run).get("cluster"):
            run.cluster.close()


def settings(folder: Path, code: str) -> Settings:
    path = folder / "changed_task.py"
    path.write_text(TASK.format(tests=str(TESTS), folder=str(folder), driver=os.getpid(), code=code))
    return replace(SETTINGS, task=str(path))


def open_game(run: Run, progress: Callable[[int, int], None] = lambda done, n: None) -> MemoizedGame:
    calibrate(run)
    return evaluation_game(prepare(run), run.score_batch, progress)


def contributions(game: MemoizedGame) -> Table:
    """Of rows of values and metrics together: one number that depends on both."""
    return antithetic(game, Stop(n_draws=2), seed=0)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, int]:
    """Contributions measured in one process, and what they took."""
    game = open_game(Run(tmp_path_factory.mktemp("serial") / "run", SETTINGS, task(), workers=1))
    return contributions(game), game.memo.count()


def assert_same(table: Table, expected: Table) -> None:
    np.testing.assert_array_equal(table.phi, expected.phi)
    np.testing.assert_array_equal(table.stderr, expected.stderr)


@pytest.mark.parametrize("where", [{"workers": 2}, {"workers": 2, "ray_address": JOINED}], ids=["here", "cluster"])
def test_same_as_serial_for_a_task_object_on_several_batches(
    tmp_path: Path, serial: tuple[Table, int], where: dict[str, Any]
) -> None:
    alone = Run(tmp_path / "alone", SETTINGS, task(), workers=1)
    shared = Run(tmp_path / "shared", SETTINGS, task(), **where)
    told: list[tuple[int, int]] = []
    assert_same(contributions(open_game(shared, lambda *step: told.append(step))), serial[0])
    assert told[-1] == (serial[1], serial[1]) and told == sorted(told)

    rows = np.random.default_rng(0).integers(0, 3, (30, len(alone.network.groups)))
    open_game(alone)
    for part in (slice(0, 16), slice(16, 21), slice(21, None)):
        one, two = (
            evaluation_game(prepare(run), run.parts[0].take(part), lambda done, n: None).samples(rows)
            for run in (alone, shared)
        )
        np.testing.assert_array_equal(one, two)

    limit = sum(alone.network.bitops(group, alone.ladder["int8"]) for group in alone.network.group_names)
    budgets = [Budget("bitops", limit / 2)]
    assert search(alone, budgets) == search(shared, budgets)
    if shared.cluster:
        shared.cluster.close()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_killed_worker_loses_and_repeats_nothing(
    open_run, serial: tuple[Table, int], tmp_path: Path, n_workers: int
) -> None:
    game = open_game(open_run(DIE_ONCE, workers=n_workers))
    assert_same(contributions(game), serial[0])
    assert (tmp_path / "died").exists()
    assert game.memo.count() == game.n_evaluations == serial[1]
    assert n_workers == 2 or len(set((tmp_path / "pids").read_text().split())) == 2  # it had to be replaced


def test_task_that_kills_every_worker_is_named(open_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_LOSSES", 2)
    with pytest.raises(HwsmpqError, match=r"2 workers died one after another at the same [0-9]+ evaluations"):
        contributions(open_game(open_run(DIE_ALWAYS)))


def test_error_of_the_user_surfaces_and_is_not_retried(open_run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the loss is broken$"):
        contributions(open_game(open_run(FAIL)))
    assert (tmp_path / "calls").read_text().split() == ["call"]


def test_worker_with_another_model_is_refused(open_run) -> None:
    with pytest.raises(HwsmpqError, match="a worker loads another model") as raised:
        contributions(open_game(open_run(OTHER_WEIGHTS)))
    assert "every machine of the cluster" in raised.value.fix


def test_interrupted_run_on_a_cluster_resumes_in_one_process(open_run, serial: tuple[Table, int]) -> None:
    done: list[int] = []

    def stop_late(n_done: int, n: int) -> None:
        done.append(n_done)
        if len(done) == 3:
            raise KeyboardInterrupt

    cut = open_game(open_run(), stop_late)
    with pytest.raises(KeyboardInterrupt):
        contributions(cut)
    assert cut.memo.count() == cut.n_evaluations == done[1]

    resumed = open_game(open_run(workers=1, ray_address=None))
    assert_same(contributions(resumed), serial[0])
    assert cut.n_evaluations + resumed.n_evaluations == serial[1] == resumed.memo.count()


def test_cluster_offers_one_worker_a_device(open_run) -> None:
    run = open_run(workers=0)
    calibrate(run)
    assert run.n_workers == 2


def test_cluster_without_free_devices_is_named(open_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START_SECONDS", 0.01)
    with pytest.raises(HwsmpqError, match="no worker started within"):
        contributions(open_game(open_run()))


def test_ray_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HwsmpqError, match=r"pip install 'hwsmpq\[ray\]'"):
        contributions(open_game(Run(tmp_path / "run", QDQ_SETTINGS, task(), ray_address=JOINED)))


DRIVER = """
import logging, os, pathlib, sys
sys.path.insert(0, {tests!r})
from hwsmpq.pipeline.evaluate.workers import ENVIRONMENT
os.environ.update(ENVIRONMENT)
import ray
ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.CRITICAL, log_to_driver=False)
import numpy as np
from conftest import QDQ_SETTINGS
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.prepare.calibrate import calibrated
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Settings

settings = Settings(**{{**vars(QDQ_SETTINGS), "task": {task!r}}})
run = Run(pathlib.Path({folder!r}), settings, workers=2, ray_address="auto")
game = evaluation_game(calibrated(run), run.score_batch, lambda done, n: None)
try:
    game(np.random.default_rng(0).integers(0, 3, (60, 4)))
except KeyboardInterrupt:
    sys.exit(130)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_nothing_is_said_of_dead_ones(tmp_path: Path) -> None:
    path = settings(tmp_path, DIE_ONCE + THEN_LAG).task
    script = DRIVER.format(tests=str(TESTS), folder=str(tmp_path / "run"), task=path)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )
    pids = tmp_path / "pids"
    end = time.monotonic() + 120
    # The script itself, which is not the driver that the task file knows, two workers, and one in place of the dead.
    while not pids.exists() or len(pids.read_text().split()) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    end = time.monotonic() + 10
    while any(alive(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.05)

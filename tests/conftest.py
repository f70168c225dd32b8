"""Runs of the whole path that tests share; they copy a folder before they change it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_task import task

from hwsmpq.contribution.memo import Memo
from hwsmpq.hardware.remote import reach
from hwsmpq.lock import LOCK_FILE
from hwsmpq.pipeline.decide import decision as deciding
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.report.network import PICTURE_FILE
from hwsmpq.report.render import render
from hwsmpq.search import preferred as preferring
from hwsmpq.stages import MEMO_FILE
from hwsmpq.types import Budget, Certificate, Settings

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and all they start, ignore it

TASK_FILE = str(Path(__file__).with_name("tiny_task.py"))
SMALL = {"task": TASK_FILE, "n_pairs": 2, "n_mixtures": 2, "n_candidates": 4, "n_score_samples": 16}
OPENVINO_SETTINGS = Settings(**SMALL, target="openvino-cpu", ladder=("int8", "fp32"), timing_seconds=0.5)
QDQ_SETTINGS = Settings(**SMALL, target="onnx-qdq", ladder=("w4a4", "int8", "fp32"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: processes take whole files, and one that begins late ends alone."""
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, what it was asked, and what it returned."""

    folder: Path
    settings: Settings
    budgets: tuple[Budget, ...]
    certificate: Certificate

    def open(self, folder: Path | None = None) -> Run:
        return Run(folder or self.folder, self.settings, task())


def finish(folder: Path, settings: Settings, **limits: float | str) -> Finished:
    run = Run(folder, settings, task())
    budgets = resolve_budgets(run, **limits)
    certificate = refine(run, budgets)
    render(folder)
    return Finished(folder, settings, budgets, certificate)


@contextmanager
def never_enough() -> Iterator[None]:
    """The fastest plan of all is not taken for what it is worth: a search takes all that it can."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "worth_as_much", lambda than, batches: lambda choice, n_samples, is_whole: False)
        yield


@contextmanager
def all_told_apart() -> Iterator[None]:
    """Samples tell every difference of value, so that no speed is preferred to a few of them: what is chosen hangs on
    no timing."""
    with pytest.MonkeyPatch.context() as patch, never_enough():
        patch.setattr(preferring, "Z_SURE", 1e-9)
        yield


@pytest.fixture
def told_apart() -> Iterator[None]:
    with all_told_apart():
        yield


def contents(folder: Path) -> dict[str, bytes | int]:
    """Every file of a run folder but the picture of its network, and how much its store holds (how SQLite lays it out
    is its own affair)."""
    others = (MEMO_FILE, LOCK_FILE, PICTURE_FILE)
    kept = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(others)]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in kept}
    return {**files, MEMO_FILE: Memo(folder / MEMO_FILE).count()}


def unchanged(run: Finished) -> Iterator[Finished]:
    """A run for tests to share, which none of them may change: the next would see another run than alone."""
    before = contents(run.folder)
    yield run
    after = contents(run.folder)
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert not changed, f"a test changed {changed} of a run folder that tests share: it must copy the folder first"


@pytest.fixture(scope="session")
def openvino_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Budgets wide enough that timing noise on a busy machine cannot miss them."""
    folder = tmp_path_factory.mktemp("openvino") / "run"
    with all_told_apart():
        finished = finish(folder, OPENVINO_SETTINGS, speedup=0.2, size_mb="fp32", max_drop=50)
    yield from unchanged(finished)


@pytest.fixture(scope="session")
def qdq_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    yield from unchanged(finish(tmp_path_factory.mktemp("qdq") / "run", QDQ_SETTINGS, bitops="int8"))


@pytest.fixture
def qdq_copy(qdq_run: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run on onnx-qdq, to change."""
    return Path(shutil.copytree(qdq_run.folder, tmp_path / "run"))


def oldest_python() -> str:
    """The oldest Python of this machine that a device may have, on the path or of pyenv."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(8, sys.version_info.minor):
        for python in (shutil.which(f"python3.{minor}"), *versions.glob(f"3.{minor}.*/bin/python")):
            # Some on the path are stubs, and some distributions have no venv.
            if python and subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
                return str(python)
    return sys.executable


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Makes environments of a runtime and what that needs, with the oldest Python there is, and gives the commands that
    reach them."""
    commands: dict[str, str] = {}

    def bare(package: str) -> str:
        if package not in commands:
            folder = tmp_path_factory.mktemp("bare")
            subprocess.run([oldest_python(), "-m", "venv", folder], check=True)
            python = folder / "bin" / "python"
            install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", package]
            done = subprocess.run(install, capture_output=True, text=True, timeout=300)
            if done.returncode:
                pytest.skip(f"no package registry: {done.stderr.strip().splitlines()[-1:]}")
            commands[package] = shlex.quote(str(python))
        return commands[package]

    yield bare
    for command in commands.values():
        reach(command).close()


def at_four_bits(finished: Finished, folder: Path, notify: Callable[[str], None]) -> Run:
    """A copy of the finished run on onnx-qdq, opened with a plan within the BitOps of w4a4."""
    opened = Run(folder, finished.settings, task(), notify=notify)
    search(opened, resolve_budgets(opened, bitops="w4a4"))
    return opened

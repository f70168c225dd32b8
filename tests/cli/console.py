"""The command line as a user meets it: arguments in, exit code and the two streams out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwsmpq.cli import main
from hwsmpq.lock import LOCK_FILE

ROOT = Path(__file__).parents[2]
NOTICES = ("this machine is too noisy", "target onnx-qdq is taken, since")
"""How notices begin that may come before anything else: on a machine with other work, and where a ladder alone says
what it is for."""
PROGRESS = re.compile(r"[\w :-]+: \d+ of \d+, \d+ s")
COMMAND = [sys.executable, "-c", "from hwsmpq.cli import main; main()"]
SMALL = ["--n-pairs", "2", "--n-candidates", "4", "--n-score-samples", "16"]
QDQ = ["--ladder", "w4a4,int8,fp32", *SMALL]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[str]:
        """Lines of the error stream, without notices and what tells of progress."""
        return [line for line in self.err.splitlines() if not line.startswith(NOTICES) and not PROGRESS.match(line)]

    def assert_one_message(self, *words: str) -> None:
        """Failed with exactly one message on the error stream, that holds ``words``; notices aside."""
        assert self.code not in (0, None), self
        assert self.out == ""
        assert "Traceback" not in self.err
        assert self.err.count("error: ") == 1
        assert self.messages[0].startswith("error: ")
        for word in words:
            assert word in self.err, (word, self.err)


class Cli:
    """Runs commands in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *args: object) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["hwsmpq", *map(str, args)])
        self._capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = self._capsys.readouterr()
        return Result(code, out, err)


def start(*args: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Starts a command in another process."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd or ROOT,
        env=environment(),
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

def stored(folder: Path) -> dict[str, bytes]:
    """All files of a run folder but its lock and the store of evaluations, which may only grow."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(("evaluations.sqlite", LOCK_FILE))}

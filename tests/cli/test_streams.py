"""Terminals that lack characters, readers that leave, and a second Ctrl-C: the exit code is that of the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from cli.console import environment

WORK = """
import sys, time
import hwsmpq.cli as cli
class app:
    def __new__(cls):
        {body}
sys.modules["hwsmpq.cli.app"] = type(sys)("app"); sys.modules["hwsmpq.cli.app"].app = app
cli.main()
"""


def start(body: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment(), **env},
    )


def test_characters_that_cannot_be_shown() -> None:
    out, err = (process := start(r'print("5 \u00b1 1")', PYTHONIOENCODING="ascii")).communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "5 ? 1\n", "")


def test_a_reader_that_leaves() -> None:
    process = start('[print("line " * 1000, flush=True) for _ in range(200)]; sys.exit(3)')
    assert process.stdout is not None and process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 3
    assert process.stderr is not None and process.stderr.read() == ""


def test_a_second_interrupt_while_files_are_put_in_order() -> None:
    body = (
        'try: print("begun", flush=True); time.sleep(60)\n'
        '        finally: print("cleaning", flush=True); time.sleep(0.5); print("clean", flush=True)'
    )
    process = start(body)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == "clean\n" and process.returncode == 130
    assert err.startswith("interrupted: ") and "Traceback" not in err


def test_memory_that_is_not_there() -> None:
    out, err = (process := start("raise MemoryError")).communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: there is not enough memory") and "Traceback" not in err

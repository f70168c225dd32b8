from __future__ import annotations

import io
import shlex
import sys
import zipfile
from pathlib import Path

import pytest

from hwsmpq.device import runtimes
from hwsmpq.hardware import remote
from hwsmpq.hardware.remote import line

TINY = "tiny_runtime:TinyRuntime"


@pytest.fixture
def tiny(monkeypatch):
    """The tiny runtime, here and in what devices are sent."""
    plain = line.agent()

    def agent() -> bytes:
        archive = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(archive, "w") as new:
            for name in old.namelist():
                text = old.read(name).decode()
                new.writestr(name, text.replace("RUNTIMES = {", f'RUNTIMES = {{"tiny": "{TINY}",', 1))
            new.write(Path(__file__).with_name("tiny_runtime.py"), "tiny_runtime.py")
        return archive.getvalue()

    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr(line, "agent", agent)
    monkeypatch.setitem(runtimes.RUNTIMES, "tiny", TINY)
    return "tiny"


@pytest.fixture
def connect():
    """Makes devices of a command (by default this Python), and ends them after the test."""
    opened = []

    def connect(command: str = shlex.quote(sys.executable), **patience: float) -> remote.RemoteDevice:
        opened.append(remote.RemoteDevice(command, remote.Patience(**patience)))
        return opened[-1]

    yield connect
    for device in opened:
        device.close()

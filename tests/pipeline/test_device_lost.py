"""A device that is lost in the middle of a run: the same command goes on, and measures nothing complete again."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import OPENVINO_SETTINGS, never_enough
from tiny_task import task

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware import remote
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.stages import FILES
from hwsmpq.types import Certificate, Contributions, CostTable, Ranges, Rounds, Scores, Survey

MEASURED = [FILES[kind] for kind in (Ranges, Survey, Contributions, Scores)]
TABLE, ROUNDS = FILES[CostTable], FILES[Rounds]
SETTINGS = replace(OPENVINO_SETTINGS, device=shlex.quote(sys.executable), timing_seconds=0.1)


LOST_IN = (("build", 1), ("realised", 2), ("layer_ms", 3), ("measure", 1), ("measure", 2), ("infer", 40))
"""Operations and their numbers in one attempt; an attempt gets further than the one before it."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch):
    """What the device of the settings was asked for, and in which operation it dies."""
    device, request = remote.reach(SETTINGS.device), remote.RemoteDevice.request
    state: dict[str, Any] = {"dies_in": None, "asked": []}

    def dying(self: remote.RemoteDevice, doing: str, header: Mapping[str, Any], *more: Any) -> Any:
        state["asked"].append(header["op"])
        if (header["op"], state["asked"].count(header["op"])) == state["dies_in"]:
            assert self._line is not None
            os.kill(self._line._process.pid, signal.SIGKILL)
        return request(self, doing, header, *more)

    monkeypatch.setattr(remote.RemoteDevice, "request", dying)
    yield state
    device.close()


def attempt(folder: Path) -> Certificate:
    run = Run(folder, SETTINGS, task())
    return refine(run, resolve_budgets(run, latency_ms=1e3, max_drop=50.0))


def complete(folder: Path) -> tuple[dict[str, bytes], list[Any]]:
    """What was measured, as it lies in its files (one that is written again says another time), and what grows: the
    mixtures of the cost table, and the rounds."""
    grown = [
        json.loads((folder / file).read_text())["payload"][name] if (folder / file).exists() else []
        for file, name in ((TABLE, "engines"), (ROUNDS, "rounds"))
    ]
    return {name: (folder / name).read_bytes() for name in MEASURED if (folder / name).exists()}, grown


def test_a_run_goes_on_wherever_its_device_was_lost(device: dict[str, Any], tmp_path: Path) -> None:
    known, grown = complete(tmp_path)
    n_complete = []
    for moment in LOST_IN:
        device.update(asked=[], dies_in=moment)
        with pytest.raises(HwsmpqError) as caught, never_enough():
            attempt(tmp_path)
        assert "run the same command again" in caught.value.fix
        now, more = complete(tmp_path)
        assert {name: now.get(name) for name in known} == known
        assert all(new[: len(old)] == old for new, old in zip(more, grown, strict=True))
        known, grown = now, more
        n_complete.append(len(known))
    assert n_complete == sorted(n_complete) and n_complete[0] < n_complete[-1] == len(MEASURED)
    device.update(asked=[], dies_in=None)
    with never_enough():
        assert attempt(tmp_path).verified
    assert "layer_ms" not in device["asked"] and complete(tmp_path)[0] == known

"""The script against a stand-in for trtexec that knows trtexec's options."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import qdq_network as net

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import fit
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.hardware.tensorrt.trtexec import cost_table, import_engine
from hwsmpq.hardware.tensorrt.trtexec_kit import emit
from hwsmpq.types import Assignment, Ladder

from . import synthetic as syn

LADDER = Ladder.parse("int8,fp32")
NETWORK = net.network()
MIXTURES = draw_mixtures(NETWORK, LADDER, 3, seed=0)
NAMES = ["fp32", "int8", "mixture01", "mixture02", "mixture03"]


def write_onnx(assignment: Assignment, path: Path) -> None:
    path.write_text(json.dumps(assignment))


@pytest.fixture
def folder(tmp_path) -> Path:
    emit(tmp_path / "kit", NETWORK, LADDER, MIXTURES, write_onnx)
    return tmp_path / "kit"


@pytest.fixture
def run(tmp_path, folder):
    """Runs the script with the stand-in on the PATH; gives the process and the engines that trtexec was called for."""
    calls, tools = tmp_path / "calls", tmp_path / "tools"
    tools.mkdir()
    fake = tools / "trtexec"
    fake.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("fake_trtexec.py")}" "$@"\n')
    fake.chmod(0o755)

    def run(path: str = f"{tools}:/usr/bin:/bin") -> tuple[subprocess.CompletedProcess[str], list[str]]:
        calls.write_text("")
        environment = {**os.environ, "PATH": path, "FAKE_TRTEXEC_CALLS": str(calls)}
        done = subprocess.run([folder / "profile.sh"], capture_output=True, text=True, env=environment, cwd=tmp_path)
        return done, [Path(line).stem for line in calls.read_text().splitlines()]

    return run


def test_writes_every_engine(folder):
    assert sorted(path.stem for path in folder.glob("*.onnx")) == NAMES
    assert json.loads((folder / "int8.onnx").read_text()) == NETWORK.uniform("int8")
    assert json.loads((folder / "mixture02.onnx").read_text()) == MIXTURES[1]
    assert (folder / "profile.sh").stat().st_mode & stat.S_IXUSR
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".onnx") == ["README.txt", "profile.sh"]


def test_what_the_script_leaves_makes_the_cost_table(folder, run):
    done, called = run()
    assert (done.returncode, done.stderr, called) == (0, "", NAMES)
    # The command of the README, with its files in its order.
    command = (folder / "README.txt").read_text().split("RUN your run folder:")[1].split("\n\n")[1]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:5] == ["hwsmpq", "profile", "-o", "RUN", "--from-trtexec"]
    files = [folder / word for word in words[5:]]
    engines = [import_engine(*pair) for pair in zip(files[::2], files[1::2], strict=True)]
    table = cost_table(engines, NETWORK, LADDER, "tensorrt", engines[0].machine)
    assert [timing.assignment for timing in table.engines] == MIXTURES
    assert table.machine == {"device": "Made Up 1", "compute_capability": "8.9", "runtime": "tensorrt 10.9.0"}
    for x in draw_mixtures(NETWORK, LADDER, 5, seed=3):
        assert fit(table, NETWORK).predict(x) == pytest.approx(syn.total_ms(x))


def test_goes_on_where_it_stopped(folder, run):
    run()
    assert run()[1] == []
    (folder / "mixture01.profile.json").unlink()
    assert run()[1] == ["mixture01"]


def test_stops_at_a_refused_network(folder, run):
    write_onnx({"refused": ""}, folder / "mixture01.onnx")
    done, called = run()
    assert done.returncode == 1
    assert called == NAMES[:3]
    assert "made-up reason" in done.stderr
    assert "profile.sh: trtexec failed on mixture01.onnx" in done.stderr
    assert sorted(p.name for p in folder.glob("*.profile*")) == ["fp32.profile.json", "int8.profile.json"]
    write_onnx(MIXTURES[0], folder / "mixture01.onnx")
    assert run()[1] == NAMES[2:]


def test_without_trtexec(run):
    done, _ = run(path="/usr/bin:/bin")
    assert done.returncode == 1
    assert "cannot find trtexec" in done.stderr
    assert "TRTEXEC" in done.stderr


def test_without_networks(folder, run):
    for path in folder.glob("*.onnx"):
        path.unlink()
    done, called = run()
    assert (done.returncode, called) == (1, [])
    assert "no ONNX file" in done.stderr


def test_old_results_never_pass_for_new_ones(folder):
    with pytest.raises(HwsmpqError, match="not empty"):
        emit(folder, NETWORK, LADDER, MIXTURES, write_onnx)


def test_script_is_portable(folder):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "--shell=sh", folder / "profile.sh"], check=True)

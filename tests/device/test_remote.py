"""A device at the other end of a pipe: it computes what it would here, and its failures are one message each."""

from __future__ import annotations

import os
import random
import shlex
import signal
import sys
import threading
import time

import numpy as np
import pytest

from hwsmpq.device.timing import TimingRequest
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import HERE

PYTHON = shlex.quote(sys.executable)
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def script(tmp_path, text: str) -> str:
    path = tmp_path / "command.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return shlex.quote(str(path))


@pytest.fixture
def engine(tiny, tmp_path):
    """Builds an engine of a factor on a device and loads it with options."""

    def engine(device, factor: float = 2.0, folder: str = "engine", **options):
        runtime = device.runtime(tiny)
        (tmp_path / "m.onnx").write_text(str(factor))
        runtime.build(tmp_path / "m.onnx", tmp_path / folder, {})
        return runtime.load(tmp_path / folder, options)

    return engine


def test_it_does_what_this_machine_does(connect, tiny, engine):
    found = []
    for device in (HERE, connect()):
        one, runtime = engine(device), device.runtime(tiny)
        outputs = one.infer([X])
        one.reload()
        found.append((
            [x.tolist() for x in outputs], one.realised(["a", "b"]), one.layer_ms(["a"], [X], 3), runtime.describe(),
            runtime.capabilities(), runtime.conditions(), runtime.unavailable(),
        ))
        assert one.milliseconds([X]) >= 0 and one.clock() <= one.clock()
    assert found[0] == found[1]


def test_engines_are_timed_there(connect, engine):
    device, seen = connect(), []
    engines = {name: engine(device, hang=s) for name, s in (("slow", 0.004), ("fast", 0.001))}
    timing = device.measure(engines, TimingRequest([X], 0, 0.1), lambda *event: seen.append(event))
    assert list(timing.measured) == ["slow", "fast"]
    assert timing.measured["slow"].median_ms > timing.measured["fast"].median_ms
    assert seen and all(0 < done <= n for done, n in seen)


def test_engines_are_loaded_from_their_files_by_another_session(connect, tiny, engine, tmp_path):
    engine(connect(), 3.0)
    again = connect().runtime(tiny).load(tmp_path / "engine", {})
    assert np.array_equal(again.infer([X])[0], 3 * X)
    with pytest.raises(HwsmpqError, match=f"no engine at {tmp_path}/nothing"):
        connect().runtime(tiny).load(tmp_path / "nothing", {})


def test_what_a_runtime_keeps_follows_the_run(connect, tiny, tmp_path):
    (tmp_path / "m.onnx").write_text("1")
    for n_builds in (1, 2):
        runtime = connect().runtime(tiny)
        runtime.workspace = tmp_path / "kept"
        runtime.build(tmp_path / "m.onnx", tmp_path / "engine", {})
        assert {p.name: p.read_text() for p in (tmp_path / "kept").iterdir()} == {"builds": str(n_builds)}


def test_engines_that_nobody_holds_are_dropped(connect, engine):
    device = connect()
    number = engine(device).number
    kept = engine(device)
    assert kept.clock() > 0
    with pytest.raises(HwsmpqError, match="dropped"):
        device.request("x", {"op": "clock", "engine": number})


def test_errors_name_files_of_this_machine(connect, tiny, tmp_path):
    (tmp_path / "m.onnx").write_text("1")
    with pytest.raises(HwsmpqError) as caught:
        connect().runtime(tiny).build(tmp_path / "m.onnx", tmp_path / "engine", {"refuse": True})
    error = caught.value
    assert (error.what, error.why) == (f"tiny refuses {tmp_path}/m.onnx", f"it does not fit into {tmp_path}/engine")


def test_an_operation_that_fails_leaves_the_device_usable(connect, engine):
    one = engine(connect())
    with pytest.raises(HwsmpqError, match="failed on the device"):
        one.layer_ms(["a"], [X], None)
    assert np.array_equal(one.infer([X])[0], 2 * X)


def test_noise_does_not_break_the_protocol(connect, engine, tmp_path):
    banner = script(tmp_path, f'echo "Welcome"; printf "\\036 hwsmpq-dev\\036ice"; exec {PYTHON} "$@"')
    one = engine(connect(banner), chatter=True)
    for _ in range(3):
        assert np.array_equal(one.infer([X])[0], 2 * X)


def test_nothing_is_left_behind(connect, engine, tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    closed, killed = connect(), connect()
    for device in (closed, killed):
        engine(device)
    assert len(list(place.iterdir())) == 2
    closed.close()
    assert len(list(place.iterdir())) == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_line_cut_at_a_random_moment_is_one_message(connect, engine, tiny, seed):
    device, rng = connect(), random.Random(seed)
    engines = {"a": engine(device, hang=0.001), "b": engine(device, hang=0.002)}
    pid = device._line._process.pid
    threading.Timer(rng.random() * 0.3, os.kill, (pid, signal.SIGKILL)).start()
    start = time.monotonic()
    with pytest.raises(HwsmpqError, match="command ended") as caught:
        while True:
            device.measure(engines, TimingRequest([X], 0, 0.02))
            engine(device)
    assert "was to" in caught.value.why and "run the same command again" in caught.value.fix
    assert time.monotonic() - start < 10
    assert np.array_equal(engine(connect()).infer([X])[0], 2 * X)


def test_a_build_that_is_killed_says_so(connect, tiny, tmp_path):
    (tmp_path / "m.onnx").write_text("1")
    with pytest.raises(HwsmpqError, match="build an engine") as caught:
        connect().runtime(tiny).build(tmp_path / "m.onnx", tmp_path / "engine", {"die": True})
    assert "memory" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "words"), [("import os; os.abort()", "status -6"), ("raise ImportError('no libgomp')", "no libgomp")]
)
def test_a_runtime_that_cannot_be_loaded_is_named_and_others_are_used(connect, tiny, tmp_path, text, words):
    (tmp_path / "onnxruntime.py").write_text(text)
    device = connect(f"env PYTHONPATH={shlex.quote(str(tmp_path))} {PYTHON}")
    reason = device.runtime("onnxruntime").unavailable()
    assert reason.startswith("onnxruntime cannot be loaded there (") and words in reason
    assert device.runtime(tiny).unavailable() is None


def test_an_engine_that_hangs_is_waited_for_so_long(connect, engine):
    device = connect(step=1.0)
    one = engine(device, hang=60.0)
    process = device._line._process
    with pytest.raises(HwsmpqError, match=r"hangs.*\n.*run an engine in 1 s"):
        one.infer([X])
    assert process.poll() is not None
    # The next request starts the device anew; what was loaded there is gone.
    with pytest.raises(HwsmpqError, match="dropped"):
        one.infer([X])
    assert np.array_equal(engine(device, 3.0).infer([X])[0], 3 * X)


def test_a_device_that_is_silent_is_waited_for_so_long(connect, engine):
    device = connect(silent=1.0)
    one = engine(device)
    os.kill(device._line._process.pid, signal.SIGSTOP)
    with pytest.raises(HwsmpqError, match="hangs"):
        one.infer([X])


OLD = "import sys; sys.version_info = (3, 6, 9); sys.version = '3.6.9 (default)'; exec(sys.stdin.readline())"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exit 3", "status 3"),
        ("echo 'ssh: connect to host orin port 22: No route to host' >&2; exit 255", "No route to host"),
        ("exec no-such-python-anywhere", "status 127"),
        (f'exec {PYTHON} -c "{OLD}"', "Python is 3.6.9"),
        (f'exec {PYTHON} -S "$@"', "numpy cannot be imported"),
        ("exec sleep 60", "did not start in 3 s"),
        ("exec yes", "prints without end"),
    ],
)
def test_why_a_device_cannot_be_used(connect, tmp_path, text, words):
    with pytest.raises(HwsmpqError) as caught:
        connect(script(tmp_path, text), start=3.0).runtime("openvino").describe()
    assert words in str(caught.value) and caught.value.fix


@pytest.mark.parametrize("command", ["no-such-command-anywhere", "'unclosed"])
def test_a_command_that_cannot_be_started(connect, command):
    with pytest.raises(HwsmpqError, match="cannot be started"):
        connect(command).runtime("openvino").describe()

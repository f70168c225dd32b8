"""A device at the other end of a pipe, started by a command such as ``ssh orin python3``.

Nothing is installed there: the modules of :mod:`hwsmpq.device` go through the pipe as one archive.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import itertools
import os
import shlex
import signal
import subprocess
import threading
import time
import weakref
import zipfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from numpy.typing import NDArray

from hwsmpq.artifacts import file_digest
from hwsmpq.device import frames
from hwsmpq.device.files import write_bytes
from hwsmpq.device.measurement import Measurement
from hwsmpq.device.runtime import Engine, Runtime
from hwsmpq.device.runtimes import get_runtime
from hwsmpq.device.timing import Timing
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import Device

ARGUMENTS = ("-u", "-i")
"""Python then takes statements line by line, and one line starts all: an argument with it would not outlive the shell
of ``ssh``."""
HELLO = b"\x1ehwsmpq-device\x1e"
LARGEST_NOISE = 1 << 20
N_SAID = 4000
START = r"""
import os, sys
def refuse(why, fix):
    os.write(1, b"{hello}" + (why + "\x1e" + fix).encode() + b"\x1e")
    os._exit(3)
if sys.version_info < (3, 8):
    refuse("its Python is " + sys.version.split()[0], "name a Python 3.8 or newer in the command")
try:
    import numpy
except Exception as error:
    refuse("numpy cannot be imported there (%s)" % error, "install numpy for " + sys.executable)
try:
    import shutil, struct, tempfile
    root = tempfile.mkdtemp(prefix="hwsmpq-")
except Exception as error:
    refuse("it has no place for files (%s)" % error, "free space there, or set TMPDIR")
try:
    os.write(1, b"{hello}\x1e\x1e")
    left, parts = struct.unpack(">Q", os.read(0, 8))[0], []
    while left:
        part = os.read(0, min(left, 65536))
        if not part:
            os._exit(4)
        parts.append(part)
        left -= len(part)
    archive = os.path.join(root, "hwsmpq.zip")
    with open(archive, "wb") as stream:
        stream.write(b"".join(parts))
    for name in [name for name in sys.modules if name.split(".")[0] == "hwsmpq"]:
        del sys.modules[name]
    sys.path.insert(0, archive)
    from hwsmpq.device.serve import main
    main(0, 1, root)
finally:
    shutil.rmtree(root, ignore_errors=True)
    os._exit(1)
"""
AGAIN = "check the device and the line to it, then run the same command again: what was measured is kept"


@dataclass(frozen=True)
class Patience:
    """Seconds to wait: for the device to start, for a sign of life, for an engine, and for a build."""

    start: float = 60.0
    silent: float = 300.0
    step: float = 900.0
    build: float = 7200.0


class RemoteDevice(Device):
    """A device that a command reaches; it is started when it is first asked for something.

    Args:
        command: starts a Python 3.8 or newer whose standard input and output are ours.
        patience: how long to wait for what.
    """

    def __init__(self, command: str, patience: Patience | None = None) -> None:
        self.command, self._patience = command, patience or Patience()
        self._line: _Line | None = None
        self._runtimes: dict[str, RemoteRuntime] = {}
        self.dropped: list[int] = []
        self.numbers = itertools.count(1)

    def runtime(self, name: str) -> Runtime:
        if name not in self._runtimes:
            self._runtimes[name] = RemoteRuntime(self, name)
        return self._runtimes[name]

    def measure(
        self,
        engines: Mapping[str, Engine],
        inputs: Sequence[NDArray[Any]],
        seed: int,
        seconds: float = 10.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Timing:
        numbers = {name: engine.number for name, engine in engines.items() if isinstance(engine, RemoteEngine)}
        told, body = frames.pack_arrays(inputs)
        result, _ = self.request(
            "time engines", {"op": "measure", "engines": numbers, "arrays": told, "seed": seed, "seconds": seconds},
            body, progress,
        )
        measured = {
            name: Measurement(float(ms), float(spread), int(n)) for name, (ms, spread, n) in result["measured"].items()
        }
        if measured.keys() != engines.keys():
            raise HwsmpqError("the device timed other engines than it was asked for", f"{list(measured)}", AGAIN)
        return Timing(measured, float(result["noise"]))

    def request(
        self, doing: str, header: Mapping[str, Any], body: bytes = b"",
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Any, bytes]:
        """Result of an operation of :class:`hwsmpq.device.serve.Server`, and the bytes behind it.

        Args:
            doing: what it is, for a message of what failed.

        Raises:
            HwsmpqError: the operation's own, or the device cannot be reached, fell silent or ended.
        """
        if self._line is None or not self._line.is_open:
            self._line = _Line(self.command, self._patience)
        dropped, self.dropped[:] = list(self.dropped), []
        return self._line.request(doing, {**header, "drop": dropped}, body, progress)

    def close(self) -> None:
        """End what the command started."""
        if self._line is not None:
            self._line.close()
        self._line = None


class _Line:
    """A started command and the conversation with it."""

    def __init__(self, command: str, patience: Patience) -> None:
        self._command, self._patience, self._n_requests = command, patience, 0
        self._said: deque[bytes] = deque(maxlen=64)
        self._frames: SimpleQueue[tuple[dict[str, Any], bytes] | Exception] = SimpleQueue()
        self._to_send: SimpleQueue[bytes | None] = SimpleQueue()
        try:
            words = shlex.split(command)
            if not words:
                raise ValueError("it is empty")
            self._process = subprocess.Popen(
                [*words, *ARGUMENTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise HwsmpqError(
                f"the device's command cannot be started: {command}", str(error),
                "give --device a command that starts Python there, such as \"ssh orin python3\"",
            ) from error
        self._end = weakref.finalize(self, _kill, self._process)
        for work in (self._write, self._listen, self._overhear):
            threading.Thread(target=work, daemon=True).start()
        line = START.replace("{hello}", HELLO.decode().replace("\x1e", r"\x1e"))
        self._to_send.put(f"exec({line!r})\n".encode())
        self._next("start", time.monotonic() + patience.start, patience.start)
        archive = agent()
        self._to_send.put(len(archive).to_bytes(8, "big") + archive)
        self.hello, _ = self._next("start", time.monotonic() + patience.start, patience.start)

    def request(
        self, doing: str, header: Mapping[str, Any], body: bytes, progress: Callable[[int, int], None] | None
    ) -> tuple[Any, bytes]:
        self._n_requests += 1
        self._to_send.put(frames.encode({**header, "id": self._n_requests}, body))
        limit = self._patience.build if header["op"] == "build" else self._patience.step
        end = time.monotonic() + limit
        while True:
            reply, data = self._next(doing, end, limit)
            if reply.get("alive"):
                continue
            if reply.get("id") != self._n_requests:
                self.close()
                raise HwsmpqError(f"the device answers something else ({doing})", f"{sorted(reply)}", AGAIN)
            if "progress" in reply:
                end = time.monotonic() + limit
                if progress is not None:
                    progress(*(int(n) for n in reply["progress"]))
            elif "error" in reply:
                raise HwsmpqError(*(str(text) for text in reply["error"]))
            else:
                return reply["result"], data

    @property
    def is_open(self) -> bool:
        return self._end.alive

    def close(self) -> None:
        self._to_send.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._end()

    def _next(self, doing: str, end: float, limit: float) -> tuple[dict[str, Any], bytes]:
        """The next frame, before ``end`` and before the device was silent for too long."""
        silent = min(self._patience.silent, max(0.0, end - time.monotonic()))
        try:
            found = self._frames.get(timeout=silent) if silent else self._frames.get_nowait()
        except Empty:
            self._end()
            waited = limit if time.monotonic() >= end else self._patience.silent
            raise HwsmpqError(
                f"the device hangs: {self._command}", f"it did not {doing} in {waited:.0f} s{self._last_words()}", AGAIN
            ) from None
        if isinstance(found, HwsmpqError):
            self._end()
            raise found
        if isinstance(found, Exception):
            code = self._ended()
            raise HwsmpqError(
                f"the device's command ended: {self._command}",
                f"with status {code}, when it was to {doing}{self._last_words()}",
                f"{_advice(code, doing)}",
            )
        return found

    def _ended(self) -> int | None:
        """How the command ended; waits for it and for its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        time.sleep(0.05)
        self._end()
        return self._process.returncode

    def _last_words(self) -> str:
        lines = [x.strip().removeprefix(">>> ") for x in b"".join(self._said).decode(errors="replace").splitlines()]
        kept = [x for x in lines if x and x != ">>>" and not x.startswith(("Python ", "[GCC", "[Clang", 'Type "help"'))]
        return f"; its last words: {' / '.join(kept[-4:])[-600:]}" if kept else ""

    def _write(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while (data := self._to_send.get()) is not None:
                stream.write(data)
                stream.flush()
        with contextlib.suppress(OSError):
            stream.close()

    def _listen(self) -> None:
        """Put frames into the queue, behind one for the hello, and at last why there are no more."""
        stream = self._process.stdout
        assert stream is not None
        try:
            why, fix = _hello(stream)
            if why:
                raise HwsmpqError(f"the device cannot be used: {self._command}", why, fix)
            self._frames.put(({}, b""))
            while True:
                self._frames.put(frames.read(stream))
        except (HwsmpqError, frames.Closed) as error:
            self._frames.put(error)
        except (OSError, ValueError):
            self._frames.put(frames.Closed())

    def _overhear(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(stream.fileno(), N_SAID):
                self._said.append(data)


def _hello(stream: Any) -> tuple[str, str]:
    """Why the device refuses and what to do, empty where it does not. What a shell says before that is skipped."""
    seen = bytearray()
    while not seen.endswith(HELLO):
        byte = stream.read(1)
        if not byte:
            raise frames.Closed
        seen += byte
        if len(seen) > LARGEST_NOISE:
            raise HwsmpqError("the device's command prints without end", repr(bytes(seen[:80])), AGAIN)
    texts = []
    for _ in range(2):
        text = b""
        while (byte := stream.read(1)) not in (b"\x1e", b""):
            text += byte
        texts.append(text.decode(errors="replace"))
    return texts[0], texts[1]


def _advice(code: int | None, doing: str) -> str:
    if code in (126, 127):
        return "check the command: the program that it names is not there"
    if code == 255:
        return "check that the command reaches the device, by running it by hand"
    if code in (-9, 137) or doing.startswith("build"):
        return f"memory may have run out there: free some, or build for a smaller --batch; else {AGAIN}"
    return AGAIN


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command with all that it started."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def agent() -> bytes:
    """The archive that a device gets: what may run there, below an empty package."""
    root = Path(__file__).parent.parent
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("hwsmpq/__init__.py", "")
        for path in (root / "errors.py", *sorted((root / "device").rglob("*.py"))):
            files.write(path, path.relative_to(root.parent))
    return archive.getvalue()


class RemoteRuntime(Runtime):
    """A runtime of a remote device."""

    def __init__(self, device: RemoteDevice, name: str) -> None:
        self._device, self._name = device, name
        self.kept = get_runtime(name).kept

    def unavailable(self) -> str | None:
        reason = self._ask("unavailable")
        return None if reason is None else str(reason)

    def describe(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self._ask("describe").items()}

    def conditions(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self._ask("conditions").items()}

    def capabilities(self) -> dict[str, Any]:
        return self._capabilities

    @cached_property
    def _capabilities(self) -> dict[str, Any]:
        return dict(self._ask("capabilities"))

    def _ask(self, what: str) -> Any:
        asked = {"op": "ask", "runtime": self._name, "what": what}
        return self._device.request(f"describe {self._name}", asked)[0]

    def build(self, onnx: Path, folder: Path, options: Mapping[str, Any]) -> None:
        kept = [self.workspace / name for name in self.kept] if self.workspace else []
        hashes = self._send([onnx, *(path for path in kept if path.is_file())])
        asked = {
            "op": "build", "runtime": self._name, "options": dict(options), "folder": str(folder),
            "onnx": {"name": onnx.name, "path": str(onnx), "sha256": hashes.pop(onnx)},
            "kept": {path.name: sha256 for path, sha256 in hashes.items()},
        }
        result, body = self._device.request("build an engine", asked)
        n_bytes = sum(int(one["n_bytes"]) for one in result["files"])
        for name, data in frames.unpack_files(result["files"], body[:n_bytes]).items():
            write_bytes(folder / name, data)
        if self.workspace:
            for name, data in frames.unpack_files(result["kept"], body[n_bytes:]).items():
                if name in self.kept:
                    write_bytes(self.workspace / name, data)

    def load(self, folder: Path, options: Mapping[str, Any]) -> Engine:
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        asked = {
            "op": "load", "runtime": self._name, "options": dict(options), "folder": str(folder),
            "files": {path.name: sha256 for path, sha256 in self._send(files).items()},
        }
        engine = RemoteEngine(self._device, next(self._device.numbers))
        self._device.request("load an engine", {**asked, "number": engine.number})
        return engine

    def _send(self, paths: Sequence[Path]) -> dict[Path, str]:
        """Send what the device lacks of some files; their hashes."""
        try:
            hashes = {path: file_digest(path) for path in paths}
            asked = {"op": "lacks", "hashes": sorted(set(hashes.values()))}
            lacking = set(self._device.request("take files", asked)[0]) if hashes else set()
            for path in paths:
                if hashes[path] in lacking:
                    told, body = frames.pack_files([path])
                    self._device.request("take files", {"op": "put", "files": told}, body)
        except OSError as error:
            raise HwsmpqError("cannot read an engine's files", str(error), "build the engine again") from error
        return hashes


class RemoteEngine(Engine):
    """An engine that is loaded on a remote device, by its ``number``, which no other one of the device ever has."""

    def __init__(self, device: RemoteDevice, number: int) -> None:
        self._device, self.number = device, number
        weakref.finalize(self, device.dropped.append, number)

    def clock(self) -> float:
        return float(self._request("tell the time", "clock"))

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        told, body = frames.pack_arrays(inputs)
        asked = {"op": "infer", "engine": self.number, "arrays": told}
        result, data = self._device.request("run an engine", asked, body)
        return frames.unpack_arrays(result, data)

    def reload(self) -> None:
        self._request("load an engine", "reload")

    def milliseconds(self, inputs: Sequence[NDArray[Any]]) -> float:
        told, body = frames.pack_arrays(inputs)
        asked = {"op": "milliseconds", "engine": self.number, "arrays": told}
        return float(self._device.request("run an engine", asked, body)[0])

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        found = self._request("read an engine back", "realised", layers=list(layers))
        return {layer: str(found[layer]) for layer in layers}

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        told, body = frames.pack_arrays(inputs)
        asked = {
            "op": "layer_ms", "engine": self.number, "layers": list(layers), "arrays": told, "n_repeats": n_repeats,
        }
        found, _ = self._device.request("time layers", asked, body)
        return {str(layer): float(ms) for layer, ms in found.items()}

    def _request(self, doing: str, operation: str, **more: Any) -> Any:
        return self._device.request(doing, {"op": operation, "engine": self.number, **more})[0]


_OPEN: dict[str, RemoteDevice] = {}


def reach(command: str) -> RemoteDevice:
    """The device of a command: one in a process, closed when that ends."""
    if command not in _OPEN:
        _OPEN[command] = RemoteDevice(command)
        atexit.register(_OPEN[command].close)
    return _OPEN[command]

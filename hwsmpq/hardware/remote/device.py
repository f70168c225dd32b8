"""A remote device with its runtimes and engines, each a stand-in for what is there."""

from __future__ import annotations

import atexit
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hwsmpq.artifacts import file_digest
from hwsmpq.device import frames
from hwsmpq.device.files import write_bytes
from hwsmpq.device.measurement import Measurement
from hwsmpq.device.runtime import Engine, Runtime
from hwsmpq.device.runtimes import get_runtime
from hwsmpq.device.timing import Timing, TimingRequest
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import Device
from hwsmpq.hardware.remote.line import AGAIN, Line, Patience


class RemoteDevice(Device):
    """A device that a command reaches; it is started when it is first asked for something.

    Args:
        command: starts a Python 3.8 or newer whose standard input and output are ours.
        patience: how long to wait for what.
    """

    def __init__(self, command: str, patience: Patience | None = None) -> None:
        self.command, self._patience = command, patience or Patience()
        self._line: Line | None = None
        self._runtimes: dict[str, RemoteRuntime] = {}
        self.dropped: list[int] = []
        self.numbers = itertools.count(1)

    def runtime(self, name: str) -> Runtime:
        if name not in self._runtimes:
            self._runtimes[name] = RemoteRuntime(self, name)
        return self._runtimes[name]

    def measure(
        self, engines: Mapping[str, Engine], how: TimingRequest, progress: Callable[[int, int], None] | None = None
    ) -> Timing:
        numbers = {name: engine.number for name, engine in engines.items() if isinstance(engine, RemoteEngine)}
        told, body = frames.pack_arrays(how.inputs)
        asked = {"op": "measure", "engines": numbers, "arrays": told, "seed": how.seed, "seconds": how.seconds}
        result, _ = self.request("time engines", asked, body, progress)
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
        dropped, self.dropped[:] = list(self.dropped), []
        return self.open().request(doing, {**header, "drop": dropped}, body, progress)

    def open(self) -> Line:
        """The conversation with the device, which is started where there is none.

        Raises:
            HwsmpqError: the device cannot be reached.
        """
        if self._line is None or not self._line.is_open:
            self._line = Line(self.command, self._patience)
        return self._line

    def close(self) -> None:
        """End what the command started."""
        if self._line is not None:
            self._line.close()
        self._line = None


class RemoteRuntime(Runtime):
    """A runtime of a remote device."""

    def __init__(self, device: RemoteDevice, name: str) -> None:
        self._device, self._name = device, name
        self.kept = get_runtime(name).kept

    def unavailable(self) -> str | None:
        """Why the runtime cannot be used there. It is loaded to see: a broken one may end the Python that tries."""
        self._device.open()
        try:
            reason = self._ask("unavailable")
            if reason is None:
                self._ask("describe")
        except HwsmpqError as error:
            return f"{self._name} cannot be loaded there ({error.why})"
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

    def peak_mb(self, inputs: Sequence[NDArray[Any]]) -> float | None:
        told, body = frames.pack_arrays(inputs)
        asked = {"op": "peak_mb", "engine": self.number, "arrays": told}
        found, _ = self._device.request("measure memory", asked, body)
        return None if found is None else float(found)

    def _request(self, doing: str, operation: str, **more: Any) -> Any:
        return self._device.request(doing, {"op": operation, "engine": self.number, **more})[0]


_OPEN: dict[str, RemoteDevice] = {}


def reach(command: str) -> RemoteDevice:
    """The device of a command: one in a process, closed when that ends."""
    if command not in _OPEN:
        _OPEN[command] = RemoteDevice(command)
        atexit.register(_OPEN[command].close)
    return _OPEN[command]

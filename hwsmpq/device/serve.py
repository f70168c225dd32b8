"""The device's end of the pipe: does what frames ask for, with runtimes and engines of this machine."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import threading
import traceback
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hwsmpq.device import frames, timing
from hwsmpq.device.runtimes import get_runtime
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hwsmpq.device.runtime import Engine, Runtime

SECONDS_BETWEEN_SIGNS = 5.0
"""How often a device that works says that it is alive."""


def main(incoming: int, outgoing: int, root: str) -> None:
    """Serve until the pipe is closed; then remove the folder ``root`` and end the process.

    What libraries print goes to standard error: frames alone may come out of ``outgoing``.
    """
    reader, writer = os.fdopen(os.dup(incoming), "rb"), os.fdopen(os.dup(outgoing), "wb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    requests: Queue[tuple[dict[str, Any], bytes]] = Queue()
    send = _Sender(writer)

    def listen() -> None:
        with contextlib.suppress(Exception):
            while True:
                requests.put(frames.read(reader))
        # Also in the middle of a build: nobody waits for it any more.
        shutil.rmtree(root, ignore_errors=True)
        os._exit(0)

    def live() -> None:
        while True:
            threading.Event().wait(SECONDS_BETWEEN_SIGNS)
            send({"alive": True})

    for work in (listen, live):
        threading.Thread(target=work, daemon=True).start()
    send({"ready": True, "python": platform.python_version(), "numpy": np.__version__})
    server = Server(Path(root), send)
    while True:
        server.answer(*requests.get())


class _Sender:
    """Writes frames, of one thread at a time."""

    def __init__(self, writer: BinaryIO) -> None:
        self._writer, self._lock = writer, threading.Lock()

    def __call__(self, header: Mapping[str, Any], body: bytes = b"") -> None:
        data = frames.encode(header, body)
        with self._lock, contextlib.suppress(OSError):
            self._writer.write(data)
            self._writer.flush()


class Server:
    """Answers one request after the other.

    Args:
        root: a folder for engines and files.
        send: takes the header and the body of a frame.
    """

    def __init__(self, root: Path, send: Callable[..., None]) -> None:
        self._root, self._send = root, send
        self._files = root / "files"
        self._files.mkdir()
        self._runtimes: dict[str, Runtime] = {}
        self._engines: dict[int, Engine] = {}
        self._names: dict[int, dict[str, str]] = {}
        self._n_folders = 0

    def answer(self, header: dict[str, Any], body: bytes) -> None:
        number = header.get("id")
        names: dict[str, str] = {}
        try:
            for engine in header.get("drop", ()):
                self._engines.pop(engine, None)
                self._names.pop(engine, None)
            names = self._names.get(header.get("engine", -1), names)
            result, data = getattr(self, f"do_{header['op']}")(header, body, names)
            self._send({"id": number, "result": result}, data)
        except HwsmpqError as error:
            self._send({"id": number, "error": [_renamed(text, names) for text in (error.what, error.why, error.fix)]})
        except Exception as error:
            traceback.print_exc()
            what = f"{header.get('op')} failed on the device"
            why = _renamed(f"{type(error).__name__}: {error}"[:1000], names)
            self._send({"id": number, "error": [what, why, "what the device printed says more"]})

    def do_ask(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        """What a runtime says of itself: ``unavailable``, ``describe``, ``conditions`` or ``capabilities``."""
        asked = header["what"]
        if asked not in ("unavailable", "describe", "conditions", "capabilities"):
            raise HwsmpqError(f"a runtime is not asked for {asked!r}", fix=frames.UPDATE)
        return getattr(self._runtime(header["runtime"]), asked)(), b""

    def do_put(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        """Keep files by their hashes."""
        for data in frames.unpack_files(header["files"], body).values():
            self._keep(data)
        return None, b""

    def do_lacks(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        """Which of some hashes no file here has."""
        return [sha256 for sha256 in header["hashes"] if not (self._files / str(sha256)).is_file()], b""

    def do_build(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        """Build the engine of a file that is here; the engine's files, and what the runtime keeps, come back."""
        runtime, folder = self._runtime(header["runtime"]), self._folder()
        onnx = folder / "of" / header["onnx"]["name"]
        built = folder / "engine"
        names.update({str(onnx): header["onnx"]["path"], str(built): header["folder"]})
        onnx.parent.mkdir()
        built.mkdir()
        os.link(self._kept(header["onnx"]["sha256"]), onnx)
        workspace = runtime.workspace
        assert workspace is not None
        for name, sha256 in header["kept"].items():
            if Path(name).name == name:
                shutil.copyfile(self._kept(sha256), workspace / name)
        try:
            runtime.build(onnx, built, header["options"])
            files, data = frames.pack_files(sorted(path for path in built.iterdir() if path.is_file()))
            for path in built.iterdir():
                self._keep(path.read_bytes())
            kept, more = frames.pack_files(sorted(path for path in workspace.iterdir() if path.is_file()))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {"files": files, "kept": kept}, data + more

    def do_load(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        """Load an engine of files that are here, under the number that the host has chosen."""
        folder = self._folder()
        names[str(folder)] = header["folder"]
        for name, sha256 in header["files"].items():
            if Path(name).name == name:
                os.link(self._kept(sha256), folder / name)
        engine = self._runtime(header["runtime"]).load(folder, header["options"])
        self._engines[header["number"]], self._names[header["number"]] = engine, names
        return None, b""

    def do_infer(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        outputs = self._engine(header).infer(frames.unpack_arrays(header["arrays"], body))
        return frames.pack_arrays(outputs)

    def do_milliseconds(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        return float(self._engine(header).milliseconds(frames.unpack_arrays(header["arrays"], body))), b""

    def do_clock(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        return float(self._engine(header).clock()), b""

    def do_reload(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        self._engine(header).reload()
        return None, b""

    def do_realised(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        return self._engine(header).realised(header["layers"]), b""

    def do_layer_ms(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        inputs = frames.unpack_arrays(header["arrays"], body)
        found = self._engine(header).layer_ms(header["layers"], inputs, header["n_repeats"])
        return {layer: float(ms) for layer, ms in found.items()}, b""

    def do_peak_mb(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        return self._engine(header).peak_mb(frames.unpack_arrays(header["arrays"], body)), b""

    def do_measure(self, header: dict[str, Any], body: bytes, names: dict[str, str]) -> tuple[Any, bytes]:
        """The whole timing protocol, here."""
        engines = {name: self._engine({"engine": number}) for name, number in header["engines"].items()}
        timed = timing.measure(
            engines,
            timing.TimingRequest(frames.unpack_arrays(header["arrays"], body), header["seed"], header["seconds"]),
            lambda done, n: self._send({"id": header["id"], "progress": [done, n]}),
        )
        measured = {name: [m.median_ms, m.spread_ms, m.n_repeats] for name, m in timed.measured.items()}
        return {"measured": measured, "noise": timed.noise}, b""

    def _runtime(self, name: str) -> Runtime:
        if name not in self._runtimes:
            self._runtimes[name] = get_runtime(name)
            self._runtimes[name].workspace = self._folder()
        return self._runtimes[name]

    def _engine(self, header: Mapping[str, Any]) -> Engine:
        engine = self._engines.get(header["engine"])
        if engine is None:
            raise HwsmpqError(f"engine {header['engine']} is not on the device", "it was dropped", "load it again")
        return engine

    def _folder(self) -> Path:
        self._n_folders += 1
        folder = self._root / str(self._n_folders)
        folder.mkdir()
        return folder

    def _keep(self, data: bytes) -> None:
        path = self._files / frames.sha256(data)
        if not path.is_file():
            path.with_suffix(".part").write_bytes(data)
            os.replace(str(path.with_suffix(".part")), str(path))

    def _kept(self, sha256: str) -> Path:
        path = self._files / Path(str(sha256)).name
        if not path.is_file():
            raise HwsmpqError("a file is not on the device", f"none has the hash {sha256}", "run the command again")
        return path


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """A message with the host's names of files in the place of the device's."""
    for here, there in names.items():
        text = text.replace(here, there)
    return text


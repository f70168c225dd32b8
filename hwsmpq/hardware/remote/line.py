"""A started command and the conversation with the agent behind it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from hwsmpq.device import frames
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.remote.agent import HELLO, agent, first_line

ARGUMENTS = ("-u", "-i")
"""Python then takes statements line by line, and one line starts all: an argument with it would not outlive the shell
of ``ssh``."""
LARGEST_NOISE = 1 << 20
N_SAID = 4000
AGAIN = "check the device and the line to it, then run the same command again: what was measured is kept"


@dataclass(frozen=True)
class Patience:
    """Seconds to wait: for the device to start, for a sign of life, for an engine, and for a build."""

    start: float = 60.0
    silent: float = 300.0
    step: float = 900.0
    build: float = 7200.0


class Line:
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
        self._to_send.put(first_line())
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

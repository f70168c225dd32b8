"""The streams and signals of a command: what a terminal or a reader cannot take does not end the work."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

CLEANING_SECONDS = 5.0
"""After an interrupt, further ones are taken to be the same one for so long: files are being put in order."""


class _Bearing:
    """A text stream: characters that it cannot show are replaced, and a reader that leaves is not missed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        """From now on, write to nowhere; also what is still buffered."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def streams_that_bear() -> Iterator[None]:
    """Output and error stream as :class:`_Bearing` inside the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Bearing(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Inside the block, an interrupt that follows another while files are put in order is ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    last = -CLEANING_SECONDS

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > CLEANING_SECONDS:
            last = time.monotonic()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if last > 0 else signal.default_int_handler)

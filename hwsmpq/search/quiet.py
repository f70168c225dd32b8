"""Keeps the solver from writing to the standard output."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard what native code prints inside the block; not for use while another thread prints.

    HiGHS 1.12 (scipy 1.17) prints a debugging line at random, whatever its options say (ERGO-Code/HiGHS#2783),
    which would break a command whose output is read by a program.
    """
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # the standard output is closed: nothing to protect
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        if os.name == "posix":  # buffered by the C library, it would come out after the block
            ctypes.CDLL(None).fflush(None)
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)

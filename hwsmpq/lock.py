"""One process a folder at a time: a lock that names its holder and ends with it."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

from hwsmpq.errors import HwsmpqError, MachineError

LOCK_FILE = ".lock"
BUILDING = ".building-"
"""Begins the name of a folder that becomes an engine when it is whole."""


class Lock:
    """Holds a folder as long as it lives; the system frees it with the process, however that ends.

    What a killed process left half done is removed.

    Raises:
        HwsmpqError: another process holds the folder (says which, and since when), or the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_FILE
        self._folder, self._was_there = folder, folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held as long as the lock
        except OSError as error:
            raise MachineError(
                f"cannot write {path}", error.strerror or str(error), "choose another folder with -o"
            ) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._handle.seek(0)
            holder = self._handle.read().strip() or "another process"
            self._handle.close()
            raise HwsmpqError(
                f"{folder} is in use", f"{holder} works in it", "wait for it, end it, or choose another folder with -o"
            ) from error
        except OSError:
            return  # a file system without locks: the folder is held by nobody
        self._handle.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._handle.write(f"process {os.getpid()} on {platform.node()} ({Path(sys.argv[0]).name}, since {since})")
        self._handle.flush()
        for left in (*folder.glob(f"{BUILDING}*"), *folder.glob("*/.*.tmp"), *folder.glob(".*.tmp")):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    def __del__(self) -> None:
        """A folder that nothing was put into goes again: what is refused at once leaves none behind."""
        with suppress(OSError):
            if not self._was_there and list(self._folder.iterdir()) == [self._folder / LOCK_FILE]:
                (self._folder / LOCK_FILE).unlink()
                self._folder.rmdir()


_HELD: WeakValueDictionary[Path, Lock] = WeakValueDictionary()


def hold(folder: Path) -> Lock:
    """The lock on a folder, which all of this process share; it is freed when the last of them lets it go."""
    key = folder.resolve()
    lock = _HELD.get(key) or Lock(folder)
    _HELD[key] = lock
    return lock

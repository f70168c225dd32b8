"""The store of evaluations: a run that stops, or a budget that changes, measures nothing twice."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError, MachineError

KEYS_PER_QUERY = 500
STORED = np.dtype("<f4")
VERSION = 2


class Memo:
    """Per-sample values by (context, assignment key) in one SQLite file; every put is committed.

    A context is the SHA-256 of everything besides the assignment that a value depends on (model, data, scheme).

    Args:
        notify: told in a sentence of rows that were damaged.

    Raises:
        HwsmpqError: from every method, if the file is not a database, is damaged, or cannot be written.
    """

    def __init__(self, path: Path, notify: Callable[[str], None] = lambda message: None) -> None:
        self.path, self._notify = path, notify
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # A power cut may lose the last commits, a killed process none; the file stays whole in both.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            with self._connection:
                (version,) = self._connection.execute("PRAGMA user_version").fetchone()
                if version < VERSION:
                    # Rows of version 1 say neither all that they were computed from nor whether they are whole.
                    self._connection.execute("DROP TABLE IF EXISTS evaluations")
                    self._connection.execute(f"PRAGMA user_version = {VERSION}")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS evaluations (context TEXT NOT NULL, key TEXT NOT NULL,"
                    " samples BLOB NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (context, key))"
                )

    def get_many(self, context: str, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The stored vectors (n_samples,) among ``keys``; rows that do not fit their checksum are removed."""
        found: dict[str, NDArray[np.float32]] = {}
        damaged: list[str] = []
        with self._errors():
            for start in range(0, len(keys), KEYS_PER_QUERY):
                part = keys[start : start + KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT key, samples, sha256 FROM evaluations WHERE context = ? AND key IN ({marks})",
                    (context, *part),
                )
                for key, samples, sha256 in rows:
                    if isinstance(samples, bytes) and sha256 == _checksum(context, key, samples):
                        found[key] = np.frombuffer(samples, STORED).astype(np.float32)
                    else:
                        damaged.append(key)
            if damaged:
                self._remove(context, damaged)
        return found

    def put_many(self, context: str, samples: Mapping[str, NDArray[np.float32]]) -> None:
        """Store vectors (n_samples,) by key, keeping those stored before; on an error none of them is stored."""
        blobs = {key: np.asarray(vector, STORED).tobytes() for key, vector in samples.items()}
        rows = [(context, key, blob, _checksum(context, key, blob)) for key, blob in blobs.items()]
        with self._errors(), self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?)", rows)

    def _remove(self, context: str, keys: Sequence[str]) -> None:
        with self._connection:
            self._connection.executemany(
                "DELETE FROM evaluations WHERE context = ? AND key = ?", [(context, key) for key in keys]
            )
        self._notify(
            f"{len(keys)} row(s) of {self.path} were changed after they were stored: they are evaluated again"
        )

    def count(self) -> int:
        """Number of stored evaluations, over all contexts."""
        with self._errors():
            return int(self._connection.execute("SELECT count(*) FROM evaluations").fetchone()[0])

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise MachineError(
                f"cannot use the store of evaluations {self.path}", str(error),
                "free space or choose a folder that can be written, then run again: stored evaluations are kept",
            ) from error
        except sqlite3.DatabaseError as error:
            raise HwsmpqError(
                f"the store of evaluations {self.path} is damaged", str(error),
                f"delete {self.path.name} and run again: its evaluations are measured anew",
            ) from error


def _checksum(context: str, key: str, samples: bytes) -> str:
    return hashlib.sha256(f"{context} {key} ".encode() + samples).hexdigest()

"""The store of evaluations: a run that stops, or a budget that changes, measures nothing twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError

KEYS_PER_QUERY = 500
STORED = np.dtype("<f4")


class Memo:
    """Per-sample values by (context, assignment key) in one SQLite file; every put is committed.

    A context is the SHA-256 of everything besides the assignment that a value depends on (model, data, scheme).

    Raises:
        HwsmpqError: from every method, if the file is not a database, is damaged, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # A power cut may lose the last commits, a killed process none; the file stays whole in both.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS evaluations"
                    " (context TEXT NOT NULL, key TEXT NOT NULL, samples BLOB NOT NULL, PRIMARY KEY (context, key))"
                )

    def get_many(self, context: str, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The stored vectors (n_samples,) among ``keys``."""
        found: dict[str, NDArray[np.float32]] = {}
        with self._errors():
            for start in range(0, len(keys), KEYS_PER_QUERY):
                part = keys[start : start + KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT key, samples FROM evaluations WHERE context = ? AND key IN ({marks})", (context, *part)
                )
                found.update((key, np.frombuffer(samples, STORED).astype(np.float32)) for key, samples in rows)
        return found

    def put_many(self, context: str, samples: Mapping[str, NDArray[np.float32]]) -> None:
        """Store vectors (n_samples,) by key, keeping those stored before; on an error none of them is stored."""
        rows = [(context, key, np.asarray(vector, STORED).tobytes()) for key, vector in samples.items()]
        with self._errors(), self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?)", rows)

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
            raise HwsmpqError(
                f"cannot use the store of evaluations {self.path}", str(error),
                "free space or choose a folder that can be written, then run again: stored evaluations are kept",
            ) from error
        except sqlite3.DatabaseError as error:
            raise HwsmpqError(
                f"the store of evaluations {self.path} is damaged", str(error),
                f"delete {self.path.name} and run again: its evaluations are measured anew",
            ) from error

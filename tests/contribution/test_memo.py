from __future__ import annotations

import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from hwsmpq.contribution.memo import Memo
from hwsmpq.errors import HwsmpqError


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=6).astype(np.float32)


def test_returns_what_was_put_and_nothing_else(tmp_path):
    memo = Memo(tmp_path / "new folder" / "memo.sqlite")
    memo.put_many("c", {"a": vector(0), "b": vector(1)})
    found = memo.get_many("c", ["a", "b", "absent"])
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["b"], vector(1))
    assert found["b"].dtype == np.float32
    assert memo.get_many("c", []) == {}


def test_contexts_do_not_mix(tmp_path):
    memo = Memo(tmp_path / "memo.sqlite")
    memo.put_many("c", {"a": vector(0)})
    memo.put_many("d", {"a": vector(1)})
    np.testing.assert_array_equal(memo.get_many("c", ["a"])["a"], vector(0))
    assert memo.get_many("e", ["a"]) == {}
    assert memo.count() == 2


def test_more_keys_than_one_query_takes(tmp_path):
    memo = Memo(tmp_path / "memo.sqlite")
    memo.put_many("c", {str(i): np.array([i], np.float32) for i in range(1203)})
    found = memo.get_many("c", [str(i) for i in range(1203)])
    assert all(found[str(i)][0] == i for i in range(1203)) and len(found) == 1203


def test_survives_a_killed_process(tmp_path):
    path = tmp_path / "memo.sqlite"
    script = (
        "import os, signal, sys, pathlib, numpy as np\n"
        "from hwsmpq.contribution.memo import Memo\n"
        "memo = Memo(pathlib.Path(sys.argv[1]))\n"
        "memo.put_many('c', {'a': np.ones(3, np.float32)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    np.testing.assert_array_equal(Memo(path).get_many("c", ["a"])["a"], [1, 1, 1])


def test_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "memo.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(HwsmpqError, match=r"(?s)memo\.sqlite is damaged.*delete memo\.sqlite"):
        Memo(path)


def test_database_with_overwritten_pages_is_named(tmp_path):
    path = tmp_path / "memo.sqlite"
    memo = Memo(path)
    memo.put_many("c", {str(i): np.zeros(500, np.float32) for i in range(50)})
    memo.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(HwsmpqError, match="damaged"):
        Memo(path).get_many("c", ["1", "2"])


def test_full_disk_keeps_what_was_stored(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def limited(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 10")
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)
    memo = Memo(tmp_path / "memo.sqlite")
    memo.put_many("c", {"small": vector(0)})
    with pytest.raises(HwsmpqError, match=r"(?s)cannot use.*full.*free space"):
        memo.put_many("c", {"next": vector(1), "large": np.zeros(100_000, np.float32)})
    assert memo.count() == 1
    np.testing.assert_array_equal(memo.get_many("c", ["small"])["small"], vector(0))


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HwsmpqError, match="cannot use the store"):
        Memo(tmp_path / "file" / "memo.sqlite")


@pytest.mark.parametrize(
    "damage", ["samples = zeroblob(24)", "samples = substr(samples, 1, 8)", "samples = 5", "context = 'd', key = 'b'"]
)
def test_rows_that_do_not_fit_their_checksum_are_dropped_with_a_word(tmp_path, damage):
    heard = []
    memo = Memo(tmp_path / "memo.sqlite", heard.append)
    memo.put_many("c", {"a": vector(0), "b": vector(1)})
    with sqlite3.connect(memo.path) as connection:
        connection.execute(f"UPDATE evaluations SET {damage} WHERE key = 'a'")
    assert set(memo.get_many("c", ["a", "b"])) == {"b"}
    if "context" in damage:
        assert memo.get_many("d", ["b"]) == {}
    assert len(heard) == 1 and "1 row(s)" in heard[0]
    memo.put_many("c", {"a": vector(2)})
    np.testing.assert_array_equal(memo.get_many("c", ["a"])["a"], vector(2))


def test_rows_of_the_first_version_are_measured_again(tmp_path):
    path = tmp_path / "memo.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE evaluations (context TEXT, key TEXT, samples BLOB)")
        connection.execute("INSERT INTO evaluations VALUES ('c', 'a', zeroblob(24))")
    memo = Memo(path)
    assert memo.get_many("c", ["a"]) == {}
    memo.put_many("c", {"a": vector(0)})
    assert memo.count() == 1 == Memo(path).count()

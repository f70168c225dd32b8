"""Artifacts: what goes in comes out, and anything else is refused with the file and the field."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsmpq import artifacts
from hwsmpq.errors import HwsmpqError
from hwsmpq.types import Measurement, Network, Rounds, Settings, TensorRange

SETTINGS = Settings(task="task.py", ladder=("w4a4", "fp32"), seed=7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "settings.json"
    artifacts.write(path, SETTINGS, {"model": "abc"})
    return path


def rewrite(path: Path, **payload: Any) -> None:
    """Change the payload and hash it anew, as another version of the program might write it."""
    envelope = json.loads(path.read_text())
    envelope["payload"].update(payload)
    envelope["payload_sha256"] = artifacts.digest(envelope["payload"])
    path.write_text(json.dumps(envelope))


def test_round_trip(path: Path) -> None:
    assert artifacts.read(path, Settings) == SETTINGS


def test_envelope(path: Path) -> None:
    envelope = artifacts.read_envelope(path, Settings)
    assert set(envelope) == {
        "schema", "schema_version", "hwsmpq_version", "created_utc", "inputs", "payload", "payload_sha256",
    }
    assert (envelope["schema"], envelope["inputs"]) == ("settings", {"model": "abc"})
    assert list(json.loads(path.read_text())) == sorted(envelope)


def test_digest_is_sha256_of_the_canonical_form() -> None:
    assert artifacts.digest({"b": [1, 2.5], "a": None}) == hashlib.sha256(b'{"a":null,"b":[1,2.5]}').hexdigest()


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"bytes")
    assert artifacts.file_digest(tmp_path / "x") == hashlib.sha256(b"bytes").hexdigest()


def test_numbers_come_back_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(artifacts.SCHEMAS, TensorRange, "range")
    value = TensorRange(-1 / 3, 1e-300, {4: (0.1, 2 / 3), 8: (-0.0, 1e300)})
    artifacts.write(tmp_path / "x.json", value)
    assert artifacts.read(tmp_path / "x.json", TensorRange) == value


def test_what_was_read_is_read_again_only_where_it_was_written_since(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert artifacts.read(path, Settings) == SETTINGS
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", lambda *args, **kwargs: pytest.fail("it was read again"))
        assert artifacts.read(path, Settings) == SETTINGS
    other = replace(SETTINGS, seed=8)  # as many bytes
    artifacts.write(path, other)
    assert artifacts.read(path, Settings) == other
    path.write_text("edited")
    with pytest.raises(HwsmpqError, match="not readable JSON"):
        artifacts.read(path, Settings)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match=r"no network at .*network\.json"):
        artifacts.read(tmp_path / "network.json", Network)


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole) - 2):  # the last two bytes are the brace and the end of the line
        path.write_bytes(whole[:length])
        with pytest.raises(HwsmpqError, match=r"settings\.json is not readable JSON"):
            artifacts.read(path, Settings)


def test_every_changed_value_is_refused(path: Path) -> None:
    envelope = json.loads(path.read_text())
    for field, value in envelope["payload"].items():
        changed = {**envelope, "payload": {**envelope["payload"], field: "x" if value is None else None}}
        path.write_text(json.dumps(changed))
        with pytest.raises(HwsmpqError, match="was changed after it was written"):
            artifacts.read(path, Settings)


@pytest.mark.parametrize(
    ("version", "fix"),
    [(artifacts.SCHEMA_VERSION + 1, "upgrade hwsmpq"), (0, "delete"), (None, "delete"), ("1", "delete")],
)
def test_other_versions_are_refused_by_name(path: Path, version: object, fix: str) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(HwsmpqError, match=f"schema_version {version!r}") as caught:
        artifacts.read(path, Settings)
    assert caught.value.fix.startswith(fix)


def test_another_kind_is_refused(path: Path) -> None:
    with pytest.raises(HwsmpqError, match="is not a network") as caught:
        artifacts.read(path, Network)
    assert caught.value.why == "field 'schema' says 'settings'"


def test_a_field_of_a_wrong_type_is_named(path: Path) -> None:
    rewrite(path, n_pairs="several")
    with pytest.raises(HwsmpqError, match=r"field 'payload\.n_pairs' is invalid"):
        artifacts.read(path, Settings)


def test_a_missing_field_is_named(path: Path) -> None:
    artifacts.write(path, Rounds(()))
    envelope = json.loads(path.read_text())
    del envelope["payload"]["rounds"]
    envelope["payload_sha256"] = artifacts.digest(envelope["payload"])
    path.write_text(json.dumps(envelope))
    with pytest.raises(HwsmpqError, match=r"field 'payload\.rounds' is invalid"):
        artifacts.read(path, Rounds)


def test_a_value_out_of_range_is_refused(path: Path) -> None:
    rewrite(path, n_pairs=0)
    with pytest.raises(HwsmpqError, match="n_pairs is 0"):
        artifacts.read(path, Settings)


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_full_disk_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    whole = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(HwsmpqError, match=r"cannot write .*settings\.json") as caught:
        artifacts.write(path, Settings(task="other.py"))
    assert caught.value.why == "No space left on device"
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_is_stopped_leaves_no_half_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = path.read_bytes()

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        artifacts.write(path, Settings(task="other.py"))
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "settings.json" / "x").mkdir(parents=True)
    with pytest.raises(HwsmpqError, match="cannot write"):
        artifacts.write(tmp_path / "settings.json", SETTINGS)
    with pytest.raises(HwsmpqError, match=r"cannot read .*settings\.json"):
        artifacts.read(tmp_path / "settings.json", Settings)
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    monkeypatch.setitem(artifacts.SCHEMAS, Measurement, "measurement")
    artifacts.write(tmp_path / "x.json", Measurement(1.0, 0.5, 3))
    with pytest.raises(HwsmpqError, match=r"x\.json would hold a number that is not finite"):
        artifacts.write(tmp_path / "x.json", Measurement(number, 0.5, 3))
    assert artifacts.read(tmp_path / "x.json", Measurement) == Measurement(1.0, 0.5, 3)

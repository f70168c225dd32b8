"""Engines are built once, and what is delivered is what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwsmpq.engine.build import Builder

if TYPE_CHECKING:
    from .conftest import Prepared


def test_what_was_built_is_delivered_and_told_from_other_files(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, int8, fp32 = prepared.builder, prepared.network.uniform("int8"), prepared.network.uniform("fp32")
    builder.engine(int8)
    builder.engine(fp32)
    with monkeypatch.context() as patch:
        patch.setattr(Builder, "write", None)
        in_another_order = dict(sorted(int8.items(), reverse=True))
        assert list(in_another_order) != list(int8)
        manifest = builder.deliver(in_another_order, tmp_path / "engine")
    assert manifest.build_seconds > 0 and manifest.assignment == int8
    assert builder.is_in(tmp_path / "engine", int8) and not builder.is_in(tmp_path / "engine", fp32)
    assert not builder.is_in(tmp_path, int8)
    weights = tmp_path / "engine" / "model.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not builder.is_in(tmp_path / "engine", int8)

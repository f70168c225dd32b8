"""What a Jetson says of its clocks, from files and a script in their places."""

from __future__ import annotations

from hwsmpq.device import jetson


def test_a_jetson_tells_board_power_mode_and_clocks(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvpmodel").write_text("#!/bin/sh\necho 'NV Power Mode: MAXN'\necho 0\n")
    (tmp_path / "nvpmodel").chmod(0o755)
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    gpu = tmp_path / "devfreq" / "17000000.gpu"
    gpu.mkdir(parents=True)
    (gpu / "min_freq").write_text("306000000\n")
    (gpu / "max_freq").write_text("1300500000\n")
    monkeypatch.setattr(jetson, "MODEL", tmp_path / "model")
    monkeypatch.setattr(jetson, "CLOCKS", tmp_path / "devfreq")
    assert jetson.describe() == {
        "board": "NVIDIA Jetson AGX Orin Developer Kit", "power_mode": "MAXN",
        "gpu_clock_hz": "306000000 to 1300500000",
    }


def test_other_machines_tell_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(jetson, "MODEL", tmp_path / "none")
    assert jetson.describe() == {}

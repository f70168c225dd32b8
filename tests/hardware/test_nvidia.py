"""What nvidia-smi says, from recorded answers and through a script in its place."""

from __future__ import annotations

import pytest

from hwsmpq.device import nvidia
from hwsmpq.device.nvidia import conditions, describe, gpu_count, parse, visible

RTX_4090 = "0, GPU-5d2c8f1e-0a4b-7d11-9b0e-3f6a1c2d4e5f, NVIDIA GeForce RTX 4090"
T4 = "1, GPU-91ab03c7-6f2e-1d0a-8c4b-7e5d9f0a1b2c, Tesla T4"
JETSON = "0, [N/A], Orin (nvgpu)"
KEYS = ("index", "uuid", "device")
BROKEN = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a script called nvidia-smi on an otherwise empty path that answers by the fields it is asked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(answers: dict[str, str], code: int = 0) -> None:
        cases = "\n".join(f"'--query-gpu={fields} --format=csv,noheader,nounits') echo '{text}';;"
                          for fields, text in answers.items())
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncase \"$*\" in\n{cases}\n*) echo 'Field is not a valid field'; exit 2;;\nesac\n"
                          f"exit {code}\n")
        script.chmod(0o755)

    return install


STATIC_FIELDS = "index,uuid,name,compute_cap,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
MOMENTARY_FIELDS = "index,uuid,pstate,clocks.sm,clocks.mem,temperature.gpu,power.draw,persistence_mode"


def test_a_desktop_gpu_describes_itself(nvidia_smi):
    nvidia_smi({STATIC_FIELDS: f"{RTX_4090}, 8.9, 580.65.06, 24564, 3120, 10501, 450.00"})
    assert describe() == {
        "device": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9", "driver": "580.65.06", "memory_mib": "24564",
        "max_sm_clock_mhz": "3120", "max_memory_clock_mhz": "10501", "power_limit_w": "450.00",
    }


def test_conditions_leave_out_what_is_not_reported(nvidia_smi):
    nvidia_smi({MOMENTARY_FIELDS: "0, GPU-5d2c8f1e, P2, 2520, 10251, 61, [Not Supported], Enabled"})
    assert conditions() == {
        "power_state": "P2", "sm_clock_mhz": "2520", "memory_clock_mhz": "10251", "temperature_celsius": "61",
        "persistence_mode": "Enabled",
    }


def test_jetson_reports_little(nvidia_smi):
    nvidia_smi({
        "index,uuid": "0, [N/A]",
        STATIC_FIELDS: f"{JETSON}, 8.7, 540.4.0, [N/A], [N/A], [N/A], [Unknown Error]",
        MOMENTARY_FIELDS: "0, [N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]",
    })
    assert gpu_count() == 1
    assert describe() == {"device": "Orin (nvgpu)", "compute_capability": "8.7", "driver": "540.4.0"}
    assert conditions() == {}


def test_the_described_gpu_is_the_one_that_cuda_uses(nvidia_smi, monkeypatch):
    rest = "575.57.08, 16384, 1590, 5001, 70.00"
    nvidia_smi({
        "index,uuid": "0, GPU-5d2c8f1e\n1, GPU-91ab03c7",
        STATIC_FIELDS: f"{RTX_4090}, 8.9, {rest}\n{T4}, 7.5, {rest}",
    })
    assert gpu_count() == 2
    assert describe()["device"] == "NVIDIA GeForce RTX 4090"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_count() == 1
    assert (describe()["device"], describe()["compute_capability"]) == ("Tesla T4", "7.5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_count() == 0
    assert describe() == {}


@pytest.mark.parametrize("answers", [None, {}, {"index,uuid": BROKEN, STATIC_FIELDS: BROKEN, MOMENTARY_FIELDS: BROKEN}])
@pytest.mark.parametrize("code", [0, 9])
def test_without_a_working_nvidia_smi_nothing_is_known(nvidia_smi, answers, code):
    if answers is not None:
        nvidia_smi(answers, code)
    assert gpu_count() == 0
    assert describe() == conditions() == {}


def test_a_failing_nvidia_smi_is_not_believed(nvidia_smi):
    nvidia_smi({"index,uuid": "0, GPU-5d2c8f1e"}, code=14)
    assert gpu_count() == 0


def test_a_hanging_nvidia_smi_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n/bin/sleep 3\necho 0, GPU-5d2c8f1e\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia, "TIMEOUT_SECONDS", 0.2)
    assert gpu_count() == 0


def test_other_lines_are_no_gpus():
    text = f"Warning: infoROM is corrupted at gpu 0000:01:00.0\n{RTX_4090}\n\nNo devices were found\n{T4}\n{T4}, 7.5\n"
    assert [gpu["device"] for gpu in parse(text, KEYS)] == ["NVIDIA GeForce RTX 4090", "Tesla T4"]


@pytest.mark.parametrize("value", ["[N/A]", "[Not Supported]", "[Unknown Error]", "[GPU is lost]"])
def test_unreported_values_are_left_out(value):
    assert parse(f"0, {value}, Tesla T4", KEYS) == [{"index": "0", "device": "Tesla T4"}]


@pytest.mark.parametrize(
    ("selection", "devices"),
    [
        (None, ["RTX", "T4"]), ("0", ["RTX"]), ("1,0", ["T4", "RTX"]), ("", []), ("-1", []), ("NoDevFiles", []),
        ("1,7,0", ["T4"]), ("GPU-91ab", ["T4"]), ("GPU-5d2c8f1e-0a4b-7d11-9b0e-3f6a1c2d4e5f", ["RTX"]),
        ("GPU-ffff", []), ("MIG-7c1d", [None]),
    ],
)
def test_visible_devices_are_read_as_cuda_does(selection, devices):
    gpus = parse(f"{RTX_4090}\n{T4}", KEYS)
    named = {"NVIDIA GeForce RTX 4090": "RTX", "Tesla T4": "T4", None: None}
    assert [named[gpu.get("device")] for gpu in visible(gpus, selection)] == devices


@pytest.mark.gpu
def test_a_real_gpu_describes_itself():
    if gpu_count() == 0:
        pytest.skip("nvidia-smi sees no GPU")
    described = describe()
    assert described["device"]
    major, _, minor = described["compute_capability"].partition(".")
    assert major.isdigit()
    assert minor.isdigit()
    assert conditions().keys() <= nvidia.MOMENTARY.keys()

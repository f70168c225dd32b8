"""Profiles from elsewhere on the command line."""

from __future__ import annotations

from pathlib import Path

from cli.console import Cli

TASK = Path(__file__).parents[1] / "tiny_task.py"


def test_a_kit_is_written_and_what_comes_back_is_read_in_pairs(cli: Cli, tmp_path: Path) -> None:
    run, kit = tmp_path / "run", tmp_path / "kit"
    device = ("--target", "tensorrt:sm87", "--ladder", "int8,fp16", "--n-mixtures", "1")
    written = cli("profile", TASK, *device, "--emit-trtexec", kit, "-o", run)
    assert written.code == 0 and f"{kit}/README.txt" in written.out.replace("\n", "")
    assert {path.name for path in kit.iterdir()} == {
        "README.txt", "profile.sh", "int8.onnx", "fp16.onnx", "mixture01.onnx"
    }
    again = cli("profile", "--emit-trtexec", kit, "-o", run)
    again.assert_one_message(str(kit), "not empty")
    # The option takes all files up to the next one; the run folder remembers task and device.
    files = [kit / name for name in ("int8.layers.json", "int8.profile.json", "fp16.layers.json")]
    cli("profile", "--from-trtexec", *files, "-o", run).assert_one_message("3 file(s) are no pairs")
    cli("profile", "-o", run, "--from-trtexec", *files[:2]).assert_one_message("int8.layers.json")
    cli("profile", TASK, "-o", tmp_path / "cpu", "--from-trtexec", *files[:2]).assert_one_message(
        "openvino-cpu is not profiled by trtexec"
    )


def test_a_precision_of_no_device_is_refused(cli: Cli, tmp_path: Path) -> None:
    refused = cli("run", TASK, "--target", "tensorrt-rtx:sm86", "--ladder", "fp8,fp16", "-o", tmp_path / "run")
    refused.assert_one_message("tensorrt-rtx:sm86 has no fp8")
    assert not (tmp_path / "run").exists()

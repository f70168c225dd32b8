"""A folder that profiles a network on a machine without Python, by ``trtexec`` alone.

The flags of ``profile.sh`` are those of trtexec 10.6 and 11.0 (there partly defaults); untested on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from hwsmpq.artifacts import write_bytes
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.tensorrt.trtexec import LAYERS, PROFILE
from hwsmpq.types import Assignment, Ladder, Network

SCRIPT = "profile.sh"
README = """\
Profile of a network by trtexec
===============================

This folder holds {n_engines} ONNX files: the network in every precision of the ladder {ladder}, and
{n_mixtures} random mixtures of them. On the machine with the GPU:

1. Copy the whole folder there. TensorRT 10.6 or newer has to be installed; Python is not needed.
2. Keep the GPU for this alone. If you may, hold its clock (`nvidia-smi -q -d SUPPORTED_CLOCKS` lists the choices):
       sudo nvidia-smi --lock-gpu-clocks=MHZ
3. Run
       ./profile.sh
   It builds and times one engine after the other, minutes each, and goes on where it stopped if it is started again.
   TRTEXEC names another trtexec than the one on the PATH, CUDA_VISIBLE_DEVICES the GPU.
4. Copy all *.json and *.log files back into this folder, and run in it, with RUN your run folder:

hwsmpq profile -o RUN --from-trtexec \\
{files}

What is measured: one inference on the GPU with its inputs there already, launched as a CUDA graph.
"""


def emit(
    folder: Path,
    network: Network,
    ladder: Ladder,
    mixtures: Sequence[Assignment],
    write_onnx: Callable[[Assignment, Path], None],
) -> None:
    """Write the ONNX files of the uniform engines and of mixtures, the script that times them, and how to use it.

    Args:
        folder: new, or empty.
        mixtures: assignments besides those that are uniform at a precision of the ladder.
        write_onnx: writes the Q/DQ ONNX file of an assignment.

    Raises:
        HwsmpqError: the folder is not empty or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise HwsmpqError(f"cannot write into {folder}", str(error), "name another folder") from error
    if present:
        raise HwsmpqError(
            f"{folder} is not empty", f"what lies there ({present[0]}) could pass for results of the new files",
            "name a new folder",
        )
    assignments = {name: network.uniform(name) for name in ladder.names}
    assignments |= {f"mixture{i:02d}": mixture for i, mixture in enumerate(mixtures, 1)}
    for name, assignment in assignments.items():
        write_onnx(assignment, folder / f"{name}.onnx")
    readme = README.format(
        n_engines=len(assignments), ladder=",".join(ladder.names), n_mixtures=len(mixtures),
        files=" \\\n".join(f"    {name}{LAYERS} {name}{PROFILE}" for name in assignments),
    )
    write_bytes(folder / "README.txt", readme.encode())
    write_bytes(folder / SCRIPT, resources.files(__package__).joinpath(SCRIPT).read_bytes())
    (folder / SCRIPT).chmod(0o755)

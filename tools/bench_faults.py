"""What certificates say of engines with deliberate faults: three networks, every target that runs engines on a CPU.

Of every network, target and fault of ``tests/hardware/faulty.py``: the exit code of ``hwsmpq``, whether the
certificate says "verified", the layers that have the fault and those that it names (read in the files, or else found
by bisection), and the error of the outputs beside the one that is allowed.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _bench import Bench, arguments

from hwsmpq.hardware.target import Target
from hwsmpq.hardware.targets import get_target
from hwsmpq.hardware.torch_cuda import TorchCudaTarget
from hwsmpq.types import CHOSEN

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hardware"))
from faulty import NETWORKS, RIGHT, Outcome, outcomes


class OnCpu(TorchCudaTarget):
    """Every call but the CUDA graph is the same."""

    def __init__(self) -> None:
        super().__init__(device="cpu")

    def machine(self) -> dict[str, str]:
        return {"device": "a CPU in a GPU's place"}


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    bench = Bench("bench_faults", options, {"outputs": 20}, ("openvino", "onnxruntime"))
    targets: list[Target] = [get_target("openvino-cpu"), get_target("onnxruntime-cpu"), OnCpu()]
    for target in targets:
        if (reason := target.unavailable()) is not None:
            print(f"{target.name}: {reason}")
            continue
        for network in list(NETWORKS)[: 1 if options.quick else None]:
            with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                found = list(outcomes(network, target, Path(folder)))
            for one in found:
                bench.row(network=network, target=target.name, **row(one))
    faults = [row for row in bench.rows if row["fault"] != RIGHT]
    bench.figures = {
        "right": len(bench.rows) - len(faults),
        "right.verified": sum(row["verified"] for row in bench.rows if row["fault"] == RIGHT),
        "faults": len(faults),
        "faults.verified": sum(row["verified"] for row in faults),
        "faults.exit_code_0": sum(row["code"] == 0 for row in faults),
        "faults.located": sum(row["named"] == row["places"] for row in faults),
        "faults.seen_by_outputs": sum(row["error"] > row["allowed"] for row in faults),
    }
    bench.finish()


def row(one: Outcome) -> dict[str, object]:
    agreement = one.certificate.agreement[CHOSEN]
    return {
        "fault": one.fault, "code": one.code, "verified": one.certificate.verified, "places": sorted(one.places),
        "named": sorted(one.named), "error": agreement.error, "allowed": agreement.allowed,
    }


if __name__ == "__main__":
    main()

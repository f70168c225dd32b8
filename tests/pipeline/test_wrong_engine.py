"""A wrong engine is never verified."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hwsmpq
from hwsmpq.hardware.openvino_cpu import OpenvinoCpuTarget
from hwsmpq.types import CHOSEN, REFERENCE


class Pooled(nn.Module):
    """A text network whose maximum over time OpenVINO computes wrong in front of a quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.o = nn.Conv1d(32, 32, 3, padding=1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.p(x).amax(2))


@pytest.mark.parametrize("is_cured", [True, False])
def test_a_wrong_kernel_is_never_verified(is_cured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := OpenvinoCpuTarget().unavailable()) is not None:
        pytest.skip(reason)
    if not is_cured:
        monkeypatch.setattr(OpenvinoCpuTarget, "rewrite", lambda self, onnx: onnx)
    torch.manual_seed(0)
    with torch.no_grad():
        net = Pooled().eval()
        x = torch.randn(200, 32, 1) + 0.5 * torch.randn(200, 32, 16)
        net.o.bias.data -= net(x).mean(0)
        y = net(x).argmax(1)
    found = hwsmpq.optimize(
        hwsmpq.Task(net, x[:64], (x[64:], y[64:])), tmp_path, cost="bitops", bitops="int8", ladder=("int8", "fp32")
    )
    assert found.accuracy.reference == 1.0  # the network's own answers
    assert found.agreement[REFERENCE].agrees
    if not is_cured and found.agreement[CHOSEN].agrees:
        pytest.skip(f"{found.machine['runtime']} computes it right here without the rewrite")
    assert found.verified == is_cured, found.agreement

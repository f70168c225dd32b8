"""A wrong engine is never verified."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hwsmpq
from hwsmpq.device.runtime import Engine
from hwsmpq.hardware.openvino_cpu import OpenvinoCpuTarget
from hwsmpq.pipeline.prepare import survey
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.types import CHOSEN, REFERENCE, Assignment


class Pooled(nn.Module):
    """A text network whose maximum over time OpenVINO computes wrong in front of a quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.o = nn.Conv1d(32, 32, 3, padding=1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.p(x).amax(2))


@pytest.mark.parametrize("is_rewritten", [True, False])
def test_the_survey_finds_a_wrong_kernel(is_rewritten: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rewrite that goes around it, the layer behind it runs in fp32."""
    if (reason := OpenvinoCpuTarget().unavailable()) is not None:
        pytest.skip(reason)
    if not is_rewritten:
        monkeypatch.setattr(OpenvinoCpuTarget, "rewrite", lambda self, onnx: onnx)
    torch.manual_seed(0)
    with torch.no_grad():
        net = Pooled().eval()
        x = torch.randn(200, 32, 1) + 0.5 * torch.randn(200, 32, 16)
        net.o.bias.data -= net(x).mean(0)
        y = net(x).argmax(1)
    task = hwsmpq.Task(net, x[:64], (x[64:], y[64:]))
    found = hwsmpq.optimize(task, tmp_path, cost="bitops", bitops="int8", ladder=("int8", "fp32"))
    assert found.accuracy.reference == 1.0  # the network's own answers
    assert found.agreement[REFERENCE].agrees
    if not is_rewritten and not found.fallbacks:
        pytest.skip(f"{found.machine['runtime']} computes it right here without the rewrite")
    assert found.verified and found.agreement[CHOSEN].agrees
    assert found.fallbacks == ({} if is_rewritten else {"o": {"int8": "fp32"}})


def test_only_what_runs_as_asked_for_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO has no int8 kernel for grouped transposed convolutions of few channels. The simulation of int8 says
    nothing of an engine that computes them in fp32."""
    if (reason := OpenvinoCpuTarget().unavailable()) is not None:
        pytest.skip(reason)
    compared: list[tuple[Assignment, dict[str, str]]] = []

    def look(prepared: Prepared, assignment: Assignment, engine: Engine) -> dict[str, str]:
        compared.append((assignment, dict(engine.realised(["0", "4"]))))
        return {}

    monkeypatch.setattr(survey, "_wrong", look)
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 8, 2, 2, groups=2)
    net = nn.Sequential(up, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    x, y = torch.randn(40, 4, 8, 8), torch.randint(2, (40,))
    settings = hwsmpq.Settings(target="openvino-cpu", ladder=("int8", "fp32"), cost="bitops")
    run = hwsmpq.Run(tmp_path, settings, task=hwsmpq.Task(net, x[:16], (x[16:], y[16:])))
    seen = survey.survey(run)
    assert seen.fallbacks(run.network) == {"0": {"int8": "fp32"}}
    assert compared == [({"0": "fp32", "4": "int8"},) * 2, ({"0": "fp32", "4": "fp32"},) * 2]

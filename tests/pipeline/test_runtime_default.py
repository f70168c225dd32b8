"""What the runtime does by itself stands beside what was built, measured with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import Finished

from hwsmpq.hardware.targets import get_target
from hwsmpq.report.verdict import judge
from hwsmpq.types import RuntimeDefault


def test_certificate_has_what_the_runtime_does_by_itself(openvino_run: Finished) -> None:
    default = openvino_run.certificate.runtime_default
    if get_target("openvino-cpu").computes_in == "fp32":
        assert default is None, "the engine in fp32 is it"
        return
    assert default is not None and default.precision != "fp32"
    assert default.latency_ms > 0 and default.plain_ms > 0
    # The file says what stays in fp32: without, outputs change by what bf16 loses, which is 1e-2 here.
    assert default.plain_error < 5e-3


@pytest.mark.parametrize(("default_ms", "said"), [
    (2.0, "2.00x faster than your runtime's default (bf16, 2.00 ms)"),
    (0.5, "slower than your runtime's default (bf16, 0.500 ms)"),
    (1.02, "as fast as your runtime's default (bf16, 1.02 ms) within the timing spread"),
])
def test_verdict_compares_with_it(openvino_run: Finished, default_ms: float, said: str) -> None:
    run, certificate = openvino_run.open(), openvino_run.certificate
    assert certificate.latency_ms is not None
    certificate = replace(
        certificate, latency_ms=replace(certificate.latency_ms, measured=1.0, spread=0.02),
        runtime_default=RuntimeDefault("bf16", default_ms, 0.01, 1.0, 0.0),
    )
    assert f", {said}, " in judge(run.network, run.plan(), certificate).text.replace("\xa0", " ")

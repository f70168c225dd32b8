"""Products of two activations in OpenVINO: engines of every mixture compute what is simulated, as was asked for."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
from attention import FORMS, attention, tokens
from torch import Tensor

from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.engine.agree import agreement
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.openvino_ir import stored_in_ir
from hwsmpq.hardware.target import Target
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import PRECISIONS, Ranges


@pytest.fixture(scope="module")
def target() -> Target:
    target = get_target("openvino-cpu")
    if reason := target.unavailable():
        pytest.skip(reason)
    if "product" not in target.kinds:
        pytest.skip("the processor has no dot products of integers")
    return target


def prepared(target: Target, form: str, x: Tensor, n_heads: int = 2) -> tuple[Captured, Ranges]:
    captured = capture(attention(form, x.shape[1], n_heads), (x,), kinds=target.kinds)
    captured = captured.with_ties(target.ties(captured))
    return captured, calibrate(captured, (x,), get_scheme(target.scheme_name), [8])


@pytest.mark.parametrize("precisions", [("int8", "fp32"), ("bf16", "int8", "fp32")], ids=["two", "three"])
@pytest.mark.parametrize("form", FORMS)
def test_engines_compute_what_is_simulated(
    form: str, precisions: tuple[str, ...], target: Target, tmp_path: Path
) -> None:
    """With as many heads as tokens, too, where the runtime's own attention is wrong."""
    if not set(precisions) <= {*target.native}:
        pytest.skip(str(target.why_not("bf16")))
    if len(precisions) > 2 and form not in ("none", "mask"):
        pytest.skip("one form with its own operation, and one without, suffice")
    for n_heads, n_tokens in ((2, 7), (4, 4)):
        x = tokens(8, n_tokens)
        captured, ranges = prepared(target, form, x, n_heads)
        scheme, network = get_scheme(target.scheme_name), captured.network
        builder, simulator = Builder(captured, ranges, scheme, target), Simulator(captured, ranges, scheme)
        n_free = len(network.groups) - (len(precisions) > 2)  # the last one as the first
        for i, chosen in enumerate(product(precisions, repeat=n_free)):
            names = (*chosen, *chosen[: len(network.groups) - n_free])
            assignment, folder = dict(zip(network.group_names, names, strict=True)), tmp_path / f"{n_heads}.{i}"
            builder.write(assignment, folder)
            engine = target.load(folder)
            audits = builder.audit(assignment, engine, folder)
            assert [a for a in audits if a.realised != a.requested or a.differs] == [], assignment
            found = agreement(simulator, assignment, (x,), engine_outputs(engine, (x,), 1))
            assert found.agrees, (assignment, found)


def test_one_kernel_computes_an_attention(target: Target, tmp_path: Path) -> None:
    x = tokens(8, 64)  # counters are whole microseconds, and a small attention takes less than one
    captured, ranges = prepared(target, "none", x)
    builder = Builder(captured, ranges, get_scheme(target.scheme_name), target)
    for precision in ("int8", "fp32"):
        folder = tmp_path / precision
        builder.write(captured.network.uniform(precision), folder)
        times = target.load(folder).layer_ms([x.name for x in captured.network.layers], [x[:1].numpy()], 5)
        assert times["product"] == times["product#2"] > 0, "both have half of its time"
        assert times.keys() == {*(x.name for x in captured.network.layers), UNATTRIBUTED}


def test_another_scale_in_the_file_is_found(target: Target, tmp_path: Path) -> None:
    x = tokens(8)
    captured, ranges = prepared(target, "none", x)
    scheme, assignment = get_scheme(target.scheme_name), captured.network.uniform("int8")
    builder = Builder(captured, ranges, scheme, target)
    builder.write(assignment, tmp_path)
    stored = stored_in_ir(tmp_path, captured.network.layers)
    assert all(stored[name].second_scale for name in captured.network.products)
    # As if the second operand of the first product had been quantized to half of its range.
    wrong = {**ranges.operands, "product": ranges.layers["product#2"]}
    other = Builder(captured, Ranges(**{**vars(ranges), "operands": wrong}), scheme, target)
    differs = {a.layer: a.differs for a in other.audit(assignment, target.load(tmp_path), tmp_path) if a.differs}
    assert differs.keys() == {"product"}
    assert re.fullmatch(r"[\d.e+-]+ times the scale of its second operand", differs["product"])


def test_products_run_in_eight_bits_or_floats(target: Target) -> None:
    captured, _ = prepared(target, "none", tokens(2))
    layer = next(layer for layer in captured.network.layers if not layer.has_weight)
    found = {name for name in PRECISIONS if layer.takes(PRECISIONS[name]) and target.runs(layer, name)}
    assert found == {"int8", "fp32"} | ({"bf16"} & {*target.native})

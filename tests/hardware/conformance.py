"""What every target must pass: subclass :class:`TargetConformance`, name the target, add its own facts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import qdq_network as net
from faulty import NETWORKS, OWN, RIGHT, outcomes
from onnx.reference import ReferenceEvaluator

from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target
from hwsmpq.quantize.scheme import get_scheme

UNIFORM = {name: dict.fromkeys(net.NAMES, name) for name in ("int8", "fp32")}


def mixture(seed: int) -> dict[str, str]:
    """Random precisions, equal within a group, int8 and fp32 both present."""
    rng = np.random.default_rng(seed)
    flips = rng.permutation(np.arange(len(net.GROUPS)) % 2)
    chosen = zip(net.GROUPS, flips, strict=True)
    return {layer: ("int8", "fp32")[flip] for group, flip in chosen for layer in group.layers}


ASSIGNMENTS = {**UNIFORM, **{f"mixture {seed}": mixture(seed) for seed in range(4)}}


class TargetConformance:
    """The conformance suite.

    ``device`` is the command that reaches the machine with the engines. ``fallback`` is what the target runs where it
    has no kernel for a layer at a precision.
    """

    target_name: str
    device = ""
    fallback = "fp32"

    @pytest.fixture
    def target(self):
        target = get_target(self.target_name, self.device)
        if (reason := target.unavailable()) is not None:
            pytest.skip(reason)
        return target

    @pytest.fixture
    def build(self, target, tmp_path):
        def build(layer_precisions, folder=tmp_path, **options):
            signed = get_scheme(target.scheme_name).signed_activations
            net.write(folder / "qdq.onnx", layer_precisions, signed=signed, **options)
            target.build(folder / "qdq.onnx", folder / "engine")
            return target.load(folder / "engine")

        return build

    @pytest.fixture
    def expected(self, target):
        """What the layers of an engine run in when they are asked for something."""
        layers = {layer.name: layer for layer in net.network().layers}
        return lambda asked: {
            name: precision if target.runs(layers[name], precision) else self.fallback
            for name, precision in asked.items()
        }

    def test_describes_itself(self, target):
        assert target.name == self.target_name
        assert target.native
        machine = target.machine()
        assert machine
        assert all(isinstance(k, str) and isinstance(v, str) and v for k, v in machine.items())

    @pytest.mark.parametrize("case", ASSIGNMENTS)
    def test_realises_what_was_asked(self, build, expected, case):
        assert build(ASSIGNMENTS[case]).realised(net.NAMES) == expected(ASSIGNMENTS[case])

    @pytest.mark.parametrize("changed", net.NAMES)
    def test_sees_one_layer_differ(self, build, expected, changed):
        asked = {**UNIFORM["int8"], changed: "fp32"}
        assert build(asked).realised(net.NAMES) == expected(asked)

    def test_unknown_layer_is_an_error(self, build):
        with pytest.raises(HwsmpqError, match=r"no\.such\.layer"):
            build(UNIFORM["int8"]).realised(["stem.0", "no.such.layer"])

    def test_build_leaves_no_temporary_files(self, build, tmp_path):
        build(UNIFORM["fp32"])
        first = sorted(p.name for p in (tmp_path / "engine").iterdir())
        build(UNIFORM["int8"])
        assert sorted(p.name for p in (tmp_path / "engine").iterdir()) == first

    def test_rebuild_replaces(self, build):
        build(UNIFORM["fp32"])
        assert "int8" in build(UNIFORM["int8"]).realised(net.NAMES).values()

    def test_folders_may_have_any_name(self, build, expected, tmp_path):
        folder = tmp_path / "50 %, été (2)"
        folder.mkdir()
        assert build(UNIFORM["int8"], folder).realised(net.NAMES) == expected(UNIFORM["int8"])

    def test_load_without_engine(self, target, tmp_path):
        with pytest.raises(HwsmpqError, match="no engine"):
            target.load(tmp_path / "nothing")

    def test_build_of_garbage(self, target, tmp_path):
        (tmp_path / "bad.onnx").write_bytes(b"not a model")
        with pytest.raises(HwsmpqError, match=r"bad\.onnx"):
            target.build(tmp_path / "bad.onnx", tmp_path / "engine")


class RunnableConformance(TargetConformance):
    """What targets with a runtime must pass on top."""

    @pytest.mark.parametrize("network", NETWORKS)
    def test_a_wrong_engine_is_not_verified_and_its_fault_is_located(self, target, network, tmp_path):
        if self.device:
            pytest.skip("the checks are the same where the engine is elsewhere")
        found = {one.fault: one for one in outcomes(network, target, tmp_path)}
        right, own = found.pop(RIGHT), found.get(OWN)
        assert right.code == 0 and right.certificate.verified, right
        if own is not None and own.certificate.agreement["chosen"].agrees:
            assert target.name.startswith("openvino")
            del found[OWN]  # this version computes it right
        for one in found.values():
            assert one.code == 1 and not one.certificate.verified and one.named == one.places, one

    @pytest.mark.parametrize("case", ASSIGNMENTS)
    def test_computes_what_the_onnx_says(self, build, tmp_path, case):
        engine = build(ASSIGNMENTS[case])
        reference = ReferenceEvaluator(onnx.load(tmp_path / "qdq.onnx"))
        for seed in range(3):
            x = net.sample(seed)
            (expected,) = reference.run(None, {"x": x})
            (found,) = engine.infer([x])
            assert found.shape == expected.shape
            # One activation that rounds the other way is a step of .03; a wrong grid or layer costs far more.
            assert 10 * np.log10(np.sum(expected**2) / np.sum((found - expected) ** 2)) > 40

    def test_outputs_belong_to_the_caller(self, build):
        engine = build(UNIFORM["fp32"])
        (first,) = engine.infer([net.sample(0)])
        kept = first.copy()
        (second,) = engine.infer([net.sample(1)])
        assert np.array_equal(first, kept)
        assert not np.array_equal(first, second)

    @pytest.mark.parametrize("case", ASSIGNMENTS)
    def test_a_load_anew_is_the_same_engine(self, build, expected, case):
        engine = build(ASSIGNMENTS[case])
        first = engine.infer([net.sample(0)])
        for _ in range(2):
            engine.reload()
            for one, again in zip(first, engine.infer([net.sample(0)]), strict=True):
                np.testing.assert_array_equal(one, again)
        assert engine.realised(net.NAMES) == expected(ASSIGNMENTS[case])

    def test_wrong_batch_is_an_error(self, build):
        with pytest.raises(HwsmpqError, match="refuses"):
            build(UNIFORM["fp32"]).infer([np.zeros((2, *net.INPUT_SHAPE[1:]), np.float32)])

    @pytest.mark.parametrize("case", ASSIGNMENTS)
    def test_counters_cover_every_layer(self, build, case):
        counters = build(ASSIGNMENTS[case]).layer_ms(net.NAMES, [net.sample(0)], n_repeats=10)
        assert set(counters) == {*net.NAMES, UNATTRIBUTED}
        assert all(np.isfinite(ms) and ms >= 0 for ms in counters.values())
        assert sum(counters[name] > 0 for name in net.NAMES) >= len(net.NAMES) - 2


class FileOnlyConformance(TargetConformance):
    """What targets whose engines cannot run on this machine must pass on top."""

    def test_claims_no_latency(self, target, build):
        assert not target.has_latency
        assert "no latency claim" in target.claim or "latency not measured" in target.claim
        engine = build(UNIFORM["int8"])
        with pytest.raises(HwsmpqError):
            engine.infer([net.sample(0)])
        with pytest.raises(HwsmpqError):
            engine.layer_ms(net.NAMES, [net.sample(0)], 1)

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import qdq_network as net

from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.cost_model import fit
from hwsmpq.hardware.profile import draw_mixtures
from hwsmpq.hardware.tensorrt.trtexec import (
    ImportedEngine,
    cost_table,
    import_engine,
    read_machine,
    read_profile,
    read_times,
)
from hwsmpq.types import Assignment, CostTable, Ladder, Measurement

from . import synthetic as syn

SAMPLES = Path(__file__).with_name("samples")
LADDER = Ladder.parse("int8,fp16,fp32")
NETWORK = net.network()


def recorded(name: str) -> ImportedEngine:
    return import_engine(SAMPLES / f"{name}.layers.json", SAMPLES / f"{name}.profile.json")


def engine(folder: Path, name: str, assignment: Assignment, dialect: str, **layers: str) -> ImportedEngine:
    """The files of an assignment, except that single ``layers`` run in something else, imported."""
    precisions = {**syn.by_layer(assignment), **layers}
    return import_engine(*syn.write_engine(folder, name, precisions, syn.total_ms(assignment), dialect))


def uniform(folder: Path, dialect: str = "11") -> list[ImportedEngine]:
    return [engine(folder, name, NETWORK.uniform(name), dialect) for name in LADDER.names]


def table_of(engines: list[ImportedEngine]) -> CostTable:
    return cost_table(engines, NETWORK, LADDER, "tensorrt", {"device": "Made Up 1"})


@pytest.mark.parametrize("dialect", ["10", "11"])
def test_recovers_the_machine(tmp_path, dialect):
    drawn = draw_mixtures(NETWORK, LADDER, 8, seed=0)
    mixtures = [engine(tmp_path, f"mixture{i}", x, dialect) for i, x in enumerate(drawn)]
    # In any order: every engine says itself what it is.
    table = table_of([*mixtures[:3], *uniform(tmp_path, dialect), *mixtures[3:]])
    assert table.group_ms == {
        g: pytest.approx({name: syn.group_ms(g, name) for name in LADDER.names}) for g in NETWORK.group_names
    }
    assert {timing.assignment["up"] for timing in table.engines} == set(LADDER.names)
    assert [timing.assignment for timing in table.engines] == drawn
    model = fit(table, NETWORK)
    assert (model.scale, model.offset_ms) == pytest.approx((syn.SCALE, syn.OFFSET_MS))
    assert [*model.switch_ms.values()] == pytest.approx([syn.SWITCH_MS] * len(LADDER.names))
    assert model.fit_error_ms == pytest.approx(0, abs=1e-9)
    for x in draw_mixtures(NETWORK, LADDER, 20, seed=7):
        assert model.predict(x) == pytest.approx(syn.total_ms(x))
    assert (table.target, table.machine, table.ladder) == ("tensorrt", {"device": "Made Up 1"}, LADDER.names)


@pytest.mark.parametrize("dialect", ["10", "11"])
def test_realised_precisions_and_times_of_one_engine(tmp_path, dialect):
    x = {**NETWORK.uniform("int8"), "left": "fp16", "head.fc": "fp32"}
    found = engine(tmp_path, "x", x, dialect)
    assert found.realised(net.NAMES) == syn.by_layer(x)
    shared = sum(syn.layer_ms(layer, "fp16") for layer in ("left", "right")) / 2
    assert found.layer_ms(net.NAMES) == pytest.approx({
        **{layer: syn.layer_ms(layer, name) for layer, name in syn.by_layer(x).items()},
        "left": shared, "right": shared, UNATTRIBUTED: syn.OVERHEAD_MS,
    })
    total = syn.total_ms(x)
    # Half of the 10..90 range of samples that lie evenly within one percent.
    assert found.total == Measurement(pytest.approx(total), pytest.approx(0.008 * total), 21)
    assert found.machine == {
        "device": "Made Up 1", "compute_capability": "8.9",
        "runtime": {"10": "tensorrt 10.9.0", "11": "tensorrt 11.0.0"}[dialect],
    }


def test_a_precision_that_runs_as_another_one(tmp_path):
    """``up`` has no int8 kernel: the engine that is int8 otherwise is the uniform one."""
    network = replace(NETWORK, substitutes={"up": {"int8": "fp16"}})
    engines = [engine(tmp_path, name, network.uniform(name), "11") for name in LADDER.names]
    table = cost_table(engines, network, LADDER, "tensorrt", {})
    assert table.group_ms["up"]["int8"] == table.group_ms["up"]["fp16"] == pytest.approx(syn.group_ms("up", "fp16"))
    assert table.engines == ()
    with pytest.raises(HwsmpqError, match=r"every layer in int8[\s\S]*'up' in fp16 instead of int8 \(1 such"):
        table_of(engines)


def test_repeated_uniform_engine_is_one_more_observation(tmp_path):
    table = table_of([*uniform(tmp_path), engine(tmp_path, "again", NETWORK.uniform("fp16"), "11")])
    assert [timing.assignment for timing in table.engines] == [NETWORK.uniform("fp16")]


def test_missing_precision_names_the_closest_engine(tmp_path):
    odd = engine(tmp_path, "odd", NETWORK.uniform("int8"), "11", **{"head.fc": "fp32"})
    with pytest.raises(HwsmpqError) as error:
        table_of([odd, *uniform(tmp_path)[1:]])
    assert str(error.value).splitlines() == [
        "no engine runs every layer in int8",
        f"  why: {odd.path}, the closest, ran layer 'head.fc' in fp32 instead of int8 (1 such layers)",
        "  fix: add the files of the engine that is int8 throughout",
    ]


@pytest.mark.parametrize("layers,match", [
    ({"right": "fp32"}, "layer 'right' of group 'left' in fp32"),  # only half of a group
    ({"hidden": "bf16"}, "layer 'hidden' of group 'hidden' in bf16"),
])
def test_other_engines_are_refused(tmp_path, layers, match):
    odd = engine(tmp_path, "odd", NETWORK.uniform("int8"), "11", **layers)
    with pytest.raises(HwsmpqError, match=rf"odd\.layers\.json is no mixture of the ladder[\s\S]*{match}"):
        table_of([odd, *uniform(tmp_path)])


def test_engines_of_two_machines_are_refused(tmp_path):
    engines = uniform(tmp_path)
    log = tmp_path / "fp16.log"
    log.write_text(syn.log("11", "Made Up 2"))
    again = import_engine(tmp_path / "fp16.layers.json", tmp_path / "fp16.profile.json")
    with pytest.raises(HwsmpqError, match=r"different machines[\s\S]*Made Up 1[\s\S]*Made Up 2"):
        table_of([*engines, again])
    log.unlink()
    without = import_engine(tmp_path / "fp16.layers.json", tmp_path / "fp16.profile.json")
    assert without.machine == {}
    table_of([*engines, without])


def test_no_engines():
    with pytest.raises(HwsmpqError, match="no engines"):
        table_of([])


def test_layers_are_looked_for_by_name(tmp_path):
    with pytest.raises(HwsmpqError, match=r"trt11\.layers\.json: layer 'stem\.0' is not in the engine"):
        table_of([recorded("trt11")])
    layers, profile = syn.write_engine(tmp_path, "x", syn.by_layer(NETWORK.uniform("fp32")), 1.0)
    entries = json.loads(profile.read_text())
    profile.write_text(json.dumps([e for e in entries if not str(e.get("name")).startswith("up_")]))
    with pytest.raises(HwsmpqError, match=r"x\.layers\.json: no time for layer 'up'"):
        import_engine(layers, profile).layer_ms(net.NAMES)


@pytest.mark.parametrize("name,layers,total", [
    ("trt8_int8", ("Conv_9", "Conv_22", "Conv_34", "Conv_53", "Conv_65", "Gemm_311"), 0.311296),
    ("trt8_fp16", ("Conv_0", "Conv_3", "Conv_5"), 0.361472),
    ("trt11", ("node_conv2d", "node_conv2d_1", "node_linear", "node_linear_1"), 0.083),
])
def test_recorded_engines(name, layers, total):
    found = recorded(name)
    ms = found.layer_ms(layers)
    assert sum(ms.values()) == pytest.approx(total)
    assert all(ms[layer] > 0 for layer in layers)
    # Nothing says how much one inference varied.
    assert found.total == Measurement(pytest.approx(total), 0.0, 1)


def test_recorded_kernels_belong_to_the_layers_that_they_name():
    ms = recorded("trt11").layer_ms(("node_conv2d", "node_linear_1"))
    assert ms["node_conv2d"] == 0.0085
    # The product, and the kernel that adds the bias and begins the softmax.
    assert ms["node_linear_1"] == pytest.approx(0.0056 + 0.0077)
    assert recorded("trt8_fp16").layer_ms(("Conv_0",))["Conv_0"] == 0.111616


def test_recorded_times_lie_beside_the_layers(tmp_path):
    for kind in ("layers", "profile"):
        shutil.copy(SAMPLES / f"trt8_int8.{kind}.json", tmp_path / f"x.{kind}.json")
    shutil.copy(SAMPLES / "residual.times.json", tmp_path / "x.times.json")
    found = import_engine(tmp_path / "x.layers.json", tmp_path / "x.profile.json")
    times = read_times(tmp_path / "x.times.json")
    assert (len(times), times[0], times[-1]) == (11, 0.576512, 0.545792)
    assert found.total.median_ms == np.median(times) == 0.545792
    assert found.total.n_repeats == 11


def test_recorded_profile():
    n_runs, ms = read_profile(SAMPLES / "trt8_fp16.profile.json")
    assert n_runs == 1
    assert ms["Conv_3 + Relu_4"] == 0.053248
    assert len(ms) == 7


def test_profile_without_medians_gives_means(tmp_path):
    path = tmp_path / "old.profile.json"
    path.write_text(
        '[\n  { "count" : 625 }\n, { "name" : "Conv_8", "timeMs" : 39.25, "averageMs" : 0.0628, "percentage" : 1.3 }\n]'
    )
    assert read_profile(path) == (625, {"Conv_8": 0.0628})


def test_recorded_machine():
    assert read_machine(SAMPLES / "trt10.log") == {
        "device": "NVIDIA RTX 6000 Ada Generation", "compute_capability": "8.9", "runtime": "tensorrt 10.14.1",
    }


def test_files_of_two_engines_are_refused():
    with pytest.raises(HwsmpqError, match=r"trt8_int8\.profile\.json does not belong to"):
        import_engine(SAMPLES / "trt11.layers.json", SAMPLES / "trt8_int8.profile.json")


@pytest.mark.parametrize("read", [read_profile, read_times])
@pytest.mark.parametrize("text,match", [
    (None, "cannot read"), ("{", "not JSON"), ("[]", "no (profile|times)"), ("3", "no (profile|times)"),
    ('[{"count": 1}, {"name": "a"}]', r"KeyError: '(average|compute)Ms'"),
    ('[{"name": "a", "computeMs": "x"}]', "Error"),
])
def test_bad_files_are_named(tmp_path, read, text, match):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(HwsmpqError, match=rf"bad\.json[\s\S]*{match}|{match}[\s\S]*bad\.json"):
        read(path)


def test_bad_layer_information_is_named(tmp_path):
    path = tmp_path / "bad.layers.json"
    path.write_text('{"Layers": ["conv1 + relu"]}')
    with pytest.raises(HwsmpqError, match=r"bad\.layers\.json[\s\S]*profilingVerbosity=detailed"):
        import_engine(path, SAMPLES / "trt11.profile.json")

"""Builds of TensorRT 8.x on a stand-in for its builder, and layers that lie where nothing is named."""

from __future__ import annotations

import json
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from hwsmpq.device.runtime import NOT_AUDITED, UNATTRIBUTED
from hwsmpq.device.tensorrt import weak_typing
from hwsmpq.device.tensorrt.attribution import layer_ms
from hwsmpq.device.tensorrt.inspector import parse_inspector
from hwsmpq.device.tensorrt.kernels import realised
from hwsmpq.errors import HwsmpqError

TacticSource = IntEnum("TacticSource", "CUBLAS CUBLAS_LT CUDNN EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS", start=0)
PreviewFeature = IntEnum("PreviewFeature", "FASTER_DYNAMIC_SHAPES_0805 DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805")
MODULE = SimpleNamespace(
    __version__="8.5.3.1", TacticSource=TacticSource, PreviewFeature=PreviewFeature,
    BuilderFlag=SimpleNamespace(
        INT8="INT8", FP16="FP16", OBEY_PRECISION_CONSTRAINTS="OBEY", PREFER_PRECISION_CONSTRAINTS="PREFER"
    ),
    DataType=SimpleNamespace(HALF="HALF", FLOAT="FLOAT"),
)
LOG = SimpleNamespace(reason=lambda: "no implementation obeys")


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.features: dict[Any, bool] = {}
        self.sources = 0

    def set_flag(self, flag: str) -> None:
        assert not {"OBEY", "PREFER"} <= self.flags | {flag}, "the builder refuses both"
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_tactic_sources(self, mask: int) -> bool:
        self.sources = mask
        return True

    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:
        self.features[feature] = enable


class Network:
    def __init__(self, *names: str) -> None:
        self.layers = [SimpleNamespace(name=name, precision=None) for name in names]
        self.num_layers = len(names)

    def get_layer(self, index: int) -> SimpleNamespace:
        return self.layers[index]


def build(
    layers: dict[str, str], refuses: str = "", names: tuple[str, ...] = ("a", "relu", "b", "c")
) -> tuple[Config, dict[str, Any], Any, tuple[str, ...], list[set[str]]]:
    config, network, seen = Config(), Network(*names), []

    def serialized(of: Network, by: Config) -> bytes | None:
        seen.append(set(by.flags))
        return None if refuses in by.flags else b"plan"

    builder = SimpleNamespace(build_serialized_network=serialized)
    plan, notes = weak_typing.build(MODULE, builder, network, config, layers, LOG)
    return config, {layer.name: layer.precision for layer in network.layers}, plan, notes, seen


def test_layers_are_held_to_the_plan_and_what_lies_between_is_free() -> None:
    _, precisions, plan, _, seen = build({"a": "int8", "b": "fp16", "c": "fp32"})
    assert precisions == {"a": None, "relu": None, "b": "HALF", "c": "FLOAT"}
    assert (plan, seen) == (b"plan", [{"INT8", "FP16", "PREFER"}])


@pytest.mark.parametrize(("name", "flags"), [("fp32", set()), ("int8", {"INT8"})])
def test_nothing_is_held_where_there_is_no_choice(name: str, flags: set[str]) -> None:
    _, precisions, _, _, seen = build(dict.fromkeys("abc", name))
    assert set(precisions.values()) == {None} and seen == [flags]


def test_constraints_that_cannot_be_kept_are_preferred_and_noted() -> None:
    _, _, plan, notes, seen = build(dict.fromkeys("abc", "fp16"), refuses="OBEY")
    assert plan == b"plan" and seen == [{"FP16", "OBEY"}, {"FP16", "PREFER"}]
    assert any("no implementation obeys" in note for note in notes)


@pytest.mark.parametrize("precision", ["bf16", "fp8", "w4a16", "w8a16"])
def test_what_these_versions_lack_is_refused_by_name(precision: str) -> None:
    with pytest.raises(HwsmpqError, match=rf"8\.5\.3\.1 runs no {precision}"):
        build({"a": "int8", "b": precision})


@pytest.mark.parametrize("cudnn", [False, True])
@pytest.mark.parametrize("cublas", [False, True])
def test_kernels_come_from_the_libraries_that_are_there(
    monkeypatch: pytest.MonkeyPatch, cudnn: bool, cublas: bool
) -> None:
    monkeypatch.setattr(weak_typing, "_has_cudnn", lambda: cudnn)
    monkeypatch.setattr(weak_typing, "_has_cublas", lambda: cublas)
    config, *_ = build({"a": "fp32"})
    wanted = {3, 4} | ({2} if cudnn else set()) | ({0, 1} if cublas else set())
    assert {i for i in range(5) if config.sources >> i & 1} == wanted
    off = {PreviewFeature.DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805: True}
    assert config.features == ({} if cudnn or cublas else off)


FOREIGN = "{ForeignNode[embed...head]}"
TENSOR = {"Name": "t", "Dimensions": [1, 8], "Format/Datatype": "Row major linear FP16 format"}
LAYERS = json.dumps({
    "Layers": [
        {"Name": "fc.weight + fc", "LayerType": "CaskConvolution", "Inputs": [TENSOR], "Outputs": [TENSOR],
         "OutMaps": 8, "Weights": {"Type": "Half", "Count": 64}},
        {"Name": FOREIGN, "LayerType": "Myelin", "Inputs": [TENSOR], "Outputs": [TENSOR]},
    ]
})


def test_what_lies_in_a_foreign_node_is_not_audited_and_timed_as_a_whole() -> None:
    kernels = parse_inspector(LAYERS)
    found = {layer: realised(kernels, layer) for layer in ("fc", "embed", "inside")}
    assert found == {"fc": "fp16", "embed": NOT_AUDITED, "inside": NOT_AUDITED}
    times = layer_ms({"fc.weight + fc": 1.0, FOREIGN: 4.0}, kernels, ["fc", "embed", "inside"])
    assert times == {"fc": 1.0, "embed": 2.0, "inside": 2.0, UNATTRIBUTED: 0.0}
    with pytest.raises(HwsmpqError, match="not in the engine"):
        realised(kernels[:1], "embed")

"""Engines on stand-ins for CUDA and the runtime, and on a real GPU where one is."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from hwsmpq.device.nvidia import describe
from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.device.tensorrt import session
from hwsmpq.device.tensorrt.adapter import build_engine
from hwsmpq.device.tensorrt.cuda_packages import get_cuda
from hwsmpq.device.tensorrt.engine import KERNELS_FILE, PLAN_FILE, TensorrtEngine
from hwsmpq.device.tensorrt.kernels import Kernel, TensorInfo, write_kernels
from hwsmpq.device.tensorrt.loaded import Deserialized
from hwsmpq.errors import HwsmpqError

from .fake_tensorrt import KERNEL_MS, RUN_MS, FakeCuda, FakeTensorrt

INT8, FLOAT = TensorInfo((1, 8), "Int8"), TensorInfo((1, 8), "Float")
KERNELS = (
    Kernel("conv1_myl0_0", "correlation", (INT8,), (INT8,), (FLOAT,), ("conv1",)),
    Kernel("fused_myl0_1", "gemm", (FLOAT,), (FLOAT,), (FLOAT,), ("left", "right")),
    Kernel("reformat", "reformat", (FLOAT,), (), (FLOAT,), ("conv1",)),
    Kernel("mixer", "kgen", (FLOAT,), (), (FLOAT,), ("conv1", "left")),
)
LAYERS = ("conv1", "left", "right")
FIRST_INFERENCE = [
    "copy in", "copy in", "run", "synchronize", "run", "copy out", "copy out", "synchronize",
]
LATER_INFERENCE = ["copy in", "copy in", "synchronize", "run", "copy out", "copy out", "synchronize"]


@pytest.fixture
def cuda(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setattr(session, "get_cuda", lambda: cuda)
    return cuda


@pytest.fixture
def module(cuda):
    return FakeTensorrt(cuda)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / PLAN_FILE).write_bytes(b"the plan")
    write_kernels(KERNELS, tmp_path / KERNELS_FILE)
    return tmp_path


@pytest.fixture
def engine(folder, module):
    return TensorrtEngine(folder, lambda: module)


def sample(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)]


def expected(inputs: list[np.ndarray]) -> list[np.ndarray]:
    y = (inputs[0] + inputs[1]).astype(np.float32)
    return [y.sum(axis=1), y]


def test_what_is_realised_needs_neither_gpu_nor_runtime(folder):
    engine = TensorrtEngine(folder, lambda: pytest.fail("imported the runtime"))
    assert engine.realised(["right", "conv1"]) == {"right": "fp32", "conv1": "int8"}
    with pytest.raises(HwsmpqError, match="missing"):
        engine.realised(["missing"])


def test_an_engine_of_any_batch_size_follows_its_inputs(engine, module):
    module.is_open = True
    for n in (1, 4, 3, 3):
        inputs = [np.full((n, 3), n, np.float32), sample(0)[1]]
        for found, right in zip(engine.infer(inputs), expected(inputs), strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-6)
        assert engine.milliseconds(inputs) == RUN_MS
        assert engine.layer_ms(LAYERS, inputs, 1)["conv1"] > 0
    for wrong in ((5, 3), (2, 4), (2,)):
        with pytest.raises(HwsmpqError, match=r"up to \(4, 3\)"):
            engine.infer([np.zeros(wrong, np.float32), sample(0)[1]])
    module.refuses = "shape"
    with pytest.raises(HwsmpqError, match="refuses \\(2, 3\\) for 'x'"):
        engine.infer(sample(1))


def test_infers_what_the_engine_computes(engine):
    for seed in range(3):
        for found, wanted in zip(engine.infer(sample(seed)), expected(sample(seed)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
            assert found.dtype == np.float32


def test_outputs_belong_to_the_caller(engine):
    first = engine.infer(sample(0))
    kept = [output.copy() for output in first]
    engine.infer(sample(1))
    assert all(np.array_equal(output, copy) for output, copy in zip(first, kept, strict=True))


def test_inputs_may_lie_in_memory_in_any_way(engine):
    x, bias = sample(0)
    strided = np.asfortranarray(x.astype(np.float64)), np.repeat(bias, 2)[::2]
    np.testing.assert_allclose(engine.infer(strided)[1], expected([x, bias])[1], rtol=1e-6)


def test_everything_is_done_in_order_and_nothing_twice(engine, cuda, module):
    engine.infer(sample(0))
    assert cuda.calls == FIRST_INFERENCE
    assert module.plans == [b"the plan"]
    cuda.calls.clear()
    engine.infer(sample(1))
    engine.infer(sample(2))
    assert cuda.calls == LATER_INFERENCE * 2
    assert (len(module.plans), len(module.contexts), cuda.n_allocated) == (1, 1, 4)


@pytest.mark.parametrize(
    "inputs",
    [
        [np.zeros((1, 3)), np.zeros(3)], [np.zeros((2, 3))], [np.zeros((2, 3)), np.zeros(3), np.zeros(3)],
        [np.zeros(3), np.zeros((2, 3))], [np.zeros((2, 3)), np.zeros((1, 3))], [],
    ],
    ids=lambda inputs: str([x.shape for x in inputs]),
)
@pytest.mark.parametrize("method", ["infer", "milliseconds", "layer_ms"])
def test_inputs_that_do_not_fit_are_refused(engine, cuda, inputs, method):
    call = {"layer_ms": lambda x: engine.layer_ms(LAYERS, x, 3)}.get(method, getattr(engine, method))
    with pytest.raises(HwsmpqError, match="refuses") as error:
        call(inputs)
    assert "x (2, 3), bias (3,)" in error.value.why
    assert cuda.calls == []


def test_milliseconds_are_those_of_a_run_alone(engine):
    """Neither copies, nor the first run's compilation, nor detailed markers."""
    assert [engine.milliseconds(sample(seed)) for seed in range(3)] == [RUN_MS] * 3


def test_profiling_does_not_slow_the_timed_runs_down(engine, module):
    engine.layer_ms(LAYERS, sample(0), 2)
    assert engine.milliseconds(sample(0)) == RUN_MS
    timed, profiled = module.contexts
    assert timed.profiler is None
    assert profiled.addresses == timed.addresses


def test_layers_have_the_times_of_their_kernels(engine):
    found = engine.layer_ms(LAYERS, sample(0), 4)
    shared = KERNEL_MS["fused_myl0_1"] / 2
    assert found == pytest.approx({
        "conv1": KERNEL_MS["conv1_myl0_0"] + KERNEL_MS["reformat"], "left": shared, "right": shared,
        UNATTRIBUTED: KERNEL_MS["mixer"] + KERNEL_MS["unlisted"],
    })


@pytest.mark.parametrize(("n_repeats", "n_fastest"), [(1, 1), (2, 1), (3, 1), (6, 2), (20, 6)])
def test_times_are_the_mean_of_the_fastest_third(engine, module, n_repeats, n_fastest):
    factors = np.random.default_rng(n_repeats).uniform(1, 3, n_repeats)
    module.noise = [0.01, *factors]  # the first profiled run is a warm-up, and not to be believed
    found = engine.layer_ms(LAYERS, sample(0), n_repeats)
    fastest = np.sort(factors)[:n_fastest].mean()
    assert sum(found.values()) == pytest.approx(sum(KERNEL_MS.values()) * fastest)
    assert module.noise == []
    assert module.contexts[1].n_runs == 1 + n_repeats


def test_rounds_of_profiling_are_independent(engine, module):
    module.noise = [1, 5, 5, 5, 1, 3, 3, 3]
    rounds = [engine.layer_ms(LAYERS, sample(0), 3)["left"] for _ in range(2)]
    assert rounds == pytest.approx([5 * KERNEL_MS["fused_myl0_1"] / 2, 3 * KERNEL_MS["fused_myl0_1"] / 2])
    assert len(module.contexts) == 2


def test_device_memory_goes_with_the_engine(engine, cuda, folder, module):
    other = TensorrtEngine(folder, lambda: module)
    other.layer_ms(LAYERS, sample(0), 1)
    assert len(cuda.memory) == 4
    del other
    module.contexts.clear()
    gc.collect()
    assert len(cuda.memory) == 0


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ("deserialize", "refuses the engine"), ("context", "cannot take the engine"),
        ("address", "refuses memory"), ("execute", "cannot run the engine"),
    ],
)
def test_refusals_tell_what_the_runtime_logs(engine, module, step, what):
    module.refuses = step
    for _ in range(2):
        with pytest.raises(HwsmpqError, match=what) as error:
            engine.infer(sample(0))
        assert error.value.why == f"Error Code 6 in {step} Assertion failed"
        assert error.value.fix
    module.refuses = ""
    assert np.array_equal(engine.infer(sample(0))[1], expected(sample(0))[1])


@pytest.mark.parametrize(("step", "what"), [("runtime", "cannot start"), ("type", "numpy lacks")])
def test_exceptions_of_the_bindings_become_errors(engine, module, step, what):
    module.refuses = step
    with pytest.raises(HwsmpqError, match=what):
        engine.infer(sample(0))


def test_a_profiler_without_reports_is_an_error(engine, module):
    module.reports = False
    with pytest.raises(HwsmpqError, match="reports no times"):
        engine.layer_ms(LAYERS, sample(0), 3)


def test_a_missing_plan_is_an_error(engine, folder):
    (folder / PLAN_FILE).unlink()
    with pytest.raises(HwsmpqError, match=r"engine\.plan"):
        engine.infer(sample(0))


def test_a_missing_description_is_an_error(folder):
    (folder / KERNELS_FILE).unlink()
    with pytest.raises(HwsmpqError, match=r"kernels\.json"):
        TensorrtEngine(folder, lambda: pytest.fail("imported the runtime"))


def test_the_inspector_is_asked_for_json(module):
    loaded = Deserialized(b"the plan", module)
    assert loaded.inspector_json() == '{"Layers": []}'
    module.refuses = "inspector"
    with pytest.raises(HwsmpqError, match="does not describe"):
        loaded.inspector_json()


# What follows asks the real runtimes, on the network y = relu(x @ weight) + bias.

WEIGHT = np.random.default_rng(5).normal(size=(256, 128)).astype(np.float32)


def build(module: Any, folder: Path, capability: str | None) -> TensorrtEngine:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], "fc"),
        helper.make_node("Relu", ["product"], ["positive"], "relu"),
        helper.make_node("Add", ["positive", "bias"], ["y"], "add"),
    ]
    shapes = {"x": (64, 256), "bias": (64, 128), "y": (64, 128)}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    weight = [numpy_helper.from_array(WEIGHT, "weight")]
    graph = helper.make_graph(nodes, "g", [values["x"], values["bias"]], [values["y"]], weight)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx")
    built = build_engine(module, folder / "model.onnx", capability)
    (folder / PLAN_FILE).write_bytes(built.plan)
    write_kernels(built.kernels, folder / KERNELS_FILE)
    return TensorrtEngine(folder, lambda: module)


def test_without_a_driver_there_is_one_error(tmp_path):
    module = pytest.importorskip("tensorrt_rtx")
    get_cuda.cache_clear()
    try:
        get_cuda()
    except HwsmpqError:
        pass
    else:
        pytest.skip("there is a GPU")
    engine = build(module, tmp_path, "sm89")
    assert engine.realised(["fc"]) == {"fc": "fp32"}
    for call in (engine.infer, engine.milliseconds, lambda x: engine.layer_ms(["fc"], x, 1)):
        with pytest.raises(HwsmpqError, match="engines cannot run here") as error:
            call([np.zeros((64, 256), np.float32), np.zeros((64, 128), np.float32)])
        assert "NVIDIA GPU" in error.value.fix


def test_the_real_runtime_refuses_a_plan_that_is_none():
    module = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(HwsmpqError, match="refuses the engine") as error:
        Deserialized(b"no plan", module)
    assert "Error Code" in error.value.why


def test_the_real_runtime_has_all_names_that_are_used():
    module = pytest.importorskip("tensorrt_rtx")
    used = {
        "": "ILogger IProfiler Runtime TensorIOMode ProfilingVerbosity LayerInformationFormat",
        "ICudaEngine": "create_execution_context create_engine_inspector num_io_tensors get_tensor_name "
        "get_tensor_mode get_tensor_shape get_tensor_dtype",
        "IExecutionContext": "execute_async_v3 set_tensor_address profiler nvtx_verbosity",
        "EngineInspector": "get_engine_information", "ILogger": "ERROR INTERNAL_ERROR log",
        "IProfiler": "report_layer_time", "TensorIOMode": "INPUT OUTPUT", "LayerInformationFormat": "JSON",
        "ProfilingVerbosity": "LAYER_NAMES_ONLY",
    }
    for owner, names in used.items():
        of = getattr(module, owner) if owner else module
        assert [name for name in names.split() if not hasattr(of, name)] == [], owner


def test_the_real_runtime_takes_the_profiler():
    module = pytest.importorskip("tensorrt_rtx")
    profiler = session._profiler(module)
    assert isinstance(profiler, module.IProfiler)
    for ms in (0.25, 0.5):
        profiler.report_layer_time("conv", ms)
    assert profiler.kernel_ms == {"conv": 0.75}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_real_engine_computes_and_is_timed(name, tmp_path):
    module = pytest.importorskip(name)
    try:
        get_cuda()
    except HwsmpqError as error:
        pytest.skip(str(error))
    capability = "SM" + describe().get("compute_capability", "").replace(".", "")
    if name == "tensorrt_rtx" and not hasattr(module.ComputeCapability, capability):
        pytest.skip(f"{name} does not support {capability}")
    engine = build(module, tmp_path, None)
    rng = np.random.default_rng(0)
    for _ in range(3):
        inputs = [rng.normal(size=(64, n)).astype(np.float32) for n in (256, 128)]
        (found,) = engine.infer(inputs)
        wanted = np.maximum(inputs[0] @ WEIGHT, 0) + inputs[1]
        assert 10 * np.log10(np.sum(wanted**2) / np.sum((found - wanted) ** 2)) > 80
    median_ms = np.median([engine.milliseconds(inputs) for _ in range(100)])
    assert 0.001 < median_ms < 10
    layer_ms = engine.layer_ms(["fc"], inputs, 30)
    assert layer_ms["fc"] > layer_ms[UNATTRIBUTED]
    assert 0.1 * median_ms < sum(layer_ms.values()) < 3 * median_ms

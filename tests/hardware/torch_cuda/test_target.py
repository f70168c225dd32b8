"""The target on the CPU, where every call but the CUDA graph is the same, and the conformance suite on a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import pytest
import qdq_network as net
import torch
from conformance import UNIFORM, RunnableConformance
from onnx import TensorProto, helper
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18

from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.hardware.torch_cuda import TorchCudaTarget, engine
from hwsmpq.hardware.torch_cuda.products import _Product
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.qdq import write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart.task import task as quickstart_task
from hwsmpq.types import Ladder, Ranges

PRODUCTS = {"left", "hidden", "head.fc"}
"""The layers of the conformance network that torch has an int8 kernel for."""
SCHEME = get_scheme(TorchCudaTarget().scheme_name)
LADDER = Ladder.parse("int8,fp8,bf16,fp16,fp32")


class TorchConformance(RunnableConformance):
    target_name = "torch-cuda"

    def test_only_products_have_int8_kernels(self, expected):
        assert {name for name, precision in expected(UNIFORM["int8"]).items() if precision == "int8"} == PRODUCTS

    def test_times_inferences(self, build):
        assert 0 < build(UNIFORM["int8"]).milliseconds([net.sample(0)]) < 1e4


class TestOnCpu(TorchConformance):
    @pytest.fixture
    def target(self, monkeypatch):
        target = TorchCudaTarget(device="cpu")
        monkeypatch.setattr(target, "machine", lambda: {"device": "a stand-in"})
        return target

    def test_describes_itself(self, target):
        """The machine is a GPU's, which is not here."""
        assert target.name == self.target_name
        assert target.unavailable() is None

    def test_layers_take_the_time_of_their_steps(self, build, monkeypatch):
        """On a clock that ticks once a reading, every step takes a millisecond."""
        readings = iter(range(10**6))
        monkeypatch.setattr(engine.time, "perf_counter", lambda: next(readings) / 1e3)
        built = build(UNIFORM["fp32"])
        counters = built.layer_ms(net.NAMES, [net.sample(0)], n_repeats=4)
        assert counters == pytest.approx({**dict.fromkeys(net.NAMES, 1.0), UNATTRIBUTED: 12.0})


@pytest.mark.gpu
class TestTorchCuda(TorchConformance):
    pass


@pytest.mark.gpu
class TestTorchCudaEager(TorchConformance):
    target_name = "torch-cuda:eager"


class Linears(nn.Module):
    """Linear layers on vectors and on sequences, whose sizes are no multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Linear(7, 33), nn.Linear(33, 33, bias=False)
        self.norm, self.head = nn.LayerNorm(33), nn.Linear(33, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.gelu(self.embed(x))
        return self.head(self.norm(y + torch.tanh(self.body(y))).mean(1))


def standardised(model: nn.Module, x: Tensor) -> nn.Module:
    """With batch norms that fit the data: else a deep network without training gives zeros or infinity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(x)
    return model.eval()


@dataclass(frozen=True, eq=False)
class Case:
    """A network with what its engines are built from."""

    captured: Captured
    inputs: tuple[Tensor, ...]
    fp32_onnx: bytes
    ranges: Ranges


@pytest.fixture(scope="module", params=["quickstart", "resnet18", "mobilenet_v2", "linears"])
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    x = torch.randn(12, 3, 32, 32)
    if request.param == "quickstart":
        task = quickstart_task()
        model, x = task.model, task.calibration[0][:12]
    elif request.param == "linears":
        model, x = Linears().eval(), torch.randn(12, 9, 7)
    else:
        model = standardised({"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}[request.param](), x)
    captured = capture(model, (x,))
    return Case(captured, (x,), export_onnx(captured), calibrate(captured, (x,), SCHEME, [8]))


def median_db(reference: Tensor, other: Tensor) -> float:
    return statistics.median(sqnr_db(a, b) for a, b in zip(reference, other, strict=True))


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    error = float((reference - other).double().square().mean())
    return 10 * float(torch.log10(reference.double().square().mean() / max(error, 1e-30)))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", LADDER.names)
def test_engine_computes_what_the_simulator_scores(device, precision, case, tmp_path):
    target = TorchCudaTarget(device=device)
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    if precision not in target.native:
        pytest.skip(f"this GPU does not compute in {precision}")
    ladder = Ladder.parse(f"{precision},fp32") if precision != "fp32" else LADDER
    captured = case.captured.with_substitutes(substitutes(target, case.captured.network, ladder))
    assignment = captured.network.uniform(precision)
    write_qdq(case.fp32_onnx, captured, assignment, case.ranges, SCHEME, tmp_path / "qdq.onnx")
    target.build(tmp_path / "qdq.onnx", tmp_path / "engine")
    built = target.load(tmp_path / "engine")

    simulator = Simulator(captured, case.ranges, SCHEME, device="cpu")
    both = [assignment, captured.network.uniform("fp32")]
    expected, unquantized = simulator.scores(both, case.inputs, lambda out, rows: out)
    found = engine_outputs(built, case.inputs)

    layers = {layer.name: assignment[captured.network.group_of(layer.name)] for layer in captured.network.layers}
    assert built.realised(list(layers)) == layers
    assert precision in layers.values()
    # Sums in another order can move a value to the next level, which a deep network without training amplifies.
    limit = 30.0 if precision in ("fp16", "bf16") else 90.0
    if device == "cuda" and precision in ("fp16", "bf16", "fp8"):
        # cuDNN rounds to 16 bits before the bias and after it, and Hopper adds products of fp8 with fewer bits: with as
        # much error as the precision itself has where a network without training makes the most of it.
        limit = median_db(unquantized, expected) - 3.0
    assert median_db(expected, found) > limit


def watched(product: Callable[..., Tensor], types: list[torch.dtype]) -> Callable[..., Tensor]:
    """The same product, which tells the type of its operands."""

    def call(*operands: Tensor, **options: object) -> Tensor:
        types.append(operands[0].dtype)
        return product(*operands, **options)

    return call


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_audit_reports_eight_bits_only_where_they_are_multiplied(precision, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5))
    inputs = (torch.randn(4, 4, 4, 4),)
    captured, target = capture(model, inputs), TorchCudaTarget(device="cpu")
    ranges, assignment = calibrate(captured, inputs, SCHEME, [8]), captured.network.uniform(precision)
    write_qdq(export_onnx(captured), captured, assignment, ranges, SCHEME, tmp_path / "qdq.onnx")
    target.build(tmp_path / "qdq.onnx", tmp_path / "engine")
    built = target.load(tmp_path / "engine")
    products = []
    for name in ("_int_mm", "_scaled_mm"):
        monkeypatch.setattr(torch, name, watched(getattr(torch, name), products))
    built.infer([inputs[0][:1].numpy()])
    assert products == 2 * [torch.int8 if precision == "int8" else torch.float8_e4m3fn]
    assert built.realised(["0", "1", "3"]) == {"0": precision, "1": "fp32", "3": precision}


@pytest.mark.parametrize("shape", [(1, 5), (2, 3, 16), (40, 17), (1, 64)])
@pytest.mark.parametrize("n_outputs", [1, 16, 23])
def test_products_of_any_size_are_exact(shape, n_outputs):
    generator = torch.Generator().manual_seed(0)
    x, w = (
        torch.randint(-128, 128, s, dtype=torch.int8, generator=generator) for s in (shape, (n_outputs, shape[-1]))
    )
    scales, bias = torch.rand(n_outputs, generator=generator), torch.rand(n_outputs, generator=generator)
    expected = (x.long() @ w.long().t()).float() * scales
    product = _Product(w, scales, "cpu")
    assert torch.equal(product(x), expected)
    assert torch.equal(product(x, bias), expected + bias)


def test_layers_with_a_kernel():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, groups=8),
        nn.ConvTranspose2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 5),
    )
    layers = {layer.name: layer for layer in capture(model, (torch.randn(1, 4, 6, 6),)).network.layers}
    target = TorchCudaTarget(device="cpu")
    for precision in ("int8", "fp8"):
        assert {name for name, layer in layers.items() if target.runs(layer, precision)} == {"0", "6"}
    for precision in ("fp16", "bf16", "fp32"):
        assert all(target.runs(layer, precision) for layer in layers.values())
    assert not any(target.runs(layer, "w4a16") for layer in layers.values())


@pytest.mark.parametrize(
    ("capability", "missing"), [((7, 0), {"int8", "bf16", "fp8"}), ((8, 0), {"fp8"}), ((8, 9), set()), ((12, 0), set())]
)
def test_precisions_depend_on_the_gpu(capability, missing, monkeypatch):
    layer = capture(nn.Linear(8, 5), (torch.randn(1, 8),)).network.layers[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    target = TorchCudaTarget()
    assert {name for name in LADDER.names if not target.runs(layer, name)} == missing
    assert set(LADDER.names) - set(target.native) == missing


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    target = get_target("torch-cuda")
    assert target.unavailable()
    with pytest.raises(HwsmpqError, match="torch-cuda cannot be used here"):
        target.load(tmp_path)


def test_options():
    assert get_target("torch-cuda:tf32,eager").name == "torch-cuda:tf32,eager"
    with pytest.raises(HwsmpqError, match="no option 'fast'"):
        get_target("torch-cuda:fast")


@pytest.mark.parametrize(("allow_tf32", "kind"), [(False, "ieee"), (True, "tf32")])
def test_settings_of_the_process_hold_during_a_run_only(allow_tf32, kind):
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [x.fp32_precision for x in settings]
    seen = []

    class Watching:
        inputs: dict[str, object] = {}  # noqa: RUF012
        steps = ()

        def run(self, inputs, events):
            seen.append([x.fp32_precision for x in settings])
            return []

    engine.TorchEngine(Watching(), "cpu", allow_tf32, as_graph=False)
    assert seen == [[kind, kind]]
    assert [x.fp32_precision for x in settings] == before


def test_unsupported_operation_is_named(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["y"], domain="made.up")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("made.up", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "odd.onnx")
    with pytest.raises(HwsmpqError, match="Mystery"):
        TorchCudaTarget(device="cpu").build(tmp_path / "odd.onnx", tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_tensors_die_when_nothing_reads_them_any_more(tmp_path):
    """Else a deep network needs memory for all of its activations."""
    net.write(tmp_path / "qdq.onnx", UNIFORM["fp32"])
    target = TorchCudaTarget(device="cpu")
    target.build(tmp_path / "qdq.onnx", tmp_path / "engine")
    steps = target.load(tmp_path / "engine")._program.steps
    results = {name for step in steps for name in step.results}
    dead = [name for step in steps for name in step.dead]
    assert results - {"y"} <= set(dead)
    assert len(dead) == len(set(dead))

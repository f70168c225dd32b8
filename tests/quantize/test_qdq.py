"""The Q/DQ writer against the simulator, sample by sample, in the ONNX reference evaluator."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.onnx_qdq import OnnxQdqEngine
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize import onnx_export
from hwsmpq.quantize.onnx_export import OPSET, export_onnx
from hwsmpq.quantize.qdq import PRECISION_KEY, write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import FP8_MAX, SCHEMES, Scheme, get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import HALF_FORMATS, ONNX_LAYERS, Assignment, Ladder, Precision

from .networks import LADDER, NETWORKS, Case, make_case, smoothed_case, sqnr_db

networks = pytest.mark.parametrize("network", NETWORKS)


@cache
def exported(captured: Captured) -> bytes:
    return export_onnx(captured)


def write(case: Case, assignment: Assignment, folder: Path) -> onnx.ModelProto:
    path = folder / "qdq.onnx"
    write_qdq(exported(case.captured), case.captured, assignment, case.ranges, case.scheme, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, inputs: Tensor) -> Tensor:
    evaluator = ReferenceEvaluator(model)
    name = model.graph.input[0].name
    return torch.from_numpy(np.concatenate([evaluator.run(None, {name: x[None]})[0] for x in inputs.numpy()]))


def simulate(case: Case, assignment: Assignment) -> Tensor:
    return case.simulator().scores([assignment], case.inputs, lambda out, rows: out)[0]


def test_nothing_of_the_users_code_is_in_the_file() -> None:
    data = exported(make_case("residual").captured)
    assert b"stack_trace" not in data and str(Path(__file__).parent).encode() not in data


@networks
@pytest.mark.parametrize("scheme", SCHEMES)
def test_engine_file_equals_simulator(network: str, scheme: str, tmp_path: Path) -> None:
    """Uniform at every precision, and mixtures. Sums in another order can move a value to the next level, which a
    sample or two may show; the others agree as single layers (below) do."""
    case, rng = make_case(network, scheme, n=3), random.Random(0)
    groups = case.captured.network.group_names
    exact = [p.name for p in LADDER.precisions if not in_16_bits(p)]
    assignments = [case.captured.network.uniform(name) for name in exact]
    assignments += [{group: rng.choice(exact) for group in groups} for _ in range(2)]
    quality = [
        sqnr_db(a, b)
        for assignment in assignments
        for a, b in zip(
            simulate(case, assignment), run(write(case, assignment, tmp_path), case.inputs[0]), strict=True
        )
    ]
    assert min(quality) > 20 and sum(q > 110 for q in quality) >= len(quality) - 2, sorted(quality)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_smoothed_engine_file_equals_simulator(scheme: str, tmp_path: Path) -> None:
    """In the precisions with smoothing; the tensor that two layers read is divided once, and not for other layers."""
    case = smoothed_case(scheme)
    assert len(case.ranges.smoothed["int8"]) >= 1
    quality, halves = list[float](), list[float]()
    for precision, smoothed in case.ranges.smoothed.items():
        assignment = case.captured.network.uniform(precision) | {"body": "fp32"}
        model = write(case, assignment, tmp_path)
        first_readers = {"transpose": "query", "mean": "head"}
        divided = [node.name for node in model.graph.node if node.name.endswith(".smooth")]
        assert divided == [f"{first_readers[tensor]}.in.smooth" for tensor in smoothed]
        found = zip(simulate(case, assignment), run(model, case.inputs[0]), strict=True)
        (halves if in_16_bits(Precision.parse(precision)) else quality).extend(sqnr_db(a, b) for a, b in found)
    assert min(quality) > 20 and sum(q > 110 for q in quality) >= len(quality) - 2, sorted(quality)
    assert min(halves) > 50, sorted(halves)


@networks
@pytest.mark.parametrize("scheme", ["unsigned_activations", "tensorrt"])
def test_layers_in_16_bits_agree_to_their_rounding(network: str, scheme: str, tmp_path: Path) -> None:
    """The evaluator rounds after the product and again after the bias, engines and simulator once."""
    case, rng = make_case(network, scheme, n=3), random.Random(0)
    groups = case.captured.network.group_names
    halves = [p.name for p in LADDER.precisions if in_16_bits(p)]
    assignments = [case.captured.network.uniform(name) for name in halves]
    assignments += [{group: rng.choice([*halves, "fp32"]) for group in groups} for _ in range(2)]
    for assignment in assignments:
        found, simulated = run(write(case, assignment, tmp_path), case.inputs[0]), simulate(case, assignment)
        reference = simulate(case, case.captured.network.uniform("fp32"))
        quality = sqnr_db(simulated, found)
        assert quality > 35
        if "bf16" in assignment.values():
            # Both lose to bf16, where they round: no more can lie between them than both lose.
            lost = sum(10 ** (-sqnr_db(reference, one) / 10) for one in (simulated, found))
            assert quality > -10 * math.log10(lost)


def in_16_bits(precision: Precision) -> bool:
    return precision.activation_format in HALF_FORMATS


@networks
@pytest.mark.parametrize("precision", LADDER.names[:-1])
def test_nodes_carry_layer_names_and_precisions(network: str, precision: str, tmp_path: Path) -> None:
    case = make_case(network)
    first = case.captured.network.group_names[0]
    assignment = case.captured.network.uniform(precision) | {first: "fp32"}
    model = write(case, assignment, tmp_path)
    nodes = {node.name: node for node in model.graph.node}
    assert len(nodes) == len(model.graph.node), "names are unique"
    of_layers = {la.name: assignment[case.captured.network.group_of(la.name)] for la in case.captured.network.layers}
    assert OnnxQdqEngine(model).realised(list(of_layers)) == of_layers
    initializers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for layer in case.captured.network.layers:
        node = nodes[layer.name]
        assert node.op_type in ONNX_LAYERS
        expected = assignment[case.captured.network.group_of(layer.name)]
        assert {p.key: p.value for p in node.metadata_props}[PRECISION_KEY] == expected
        source = producers.get(node.input[0])
        reads = "Cast" if in_16_bits(LADDER[expected]) else "DequantizeLinear"
        assert (source is not None and source.op_type == reads) == (expected != "fp32")
        weight_source = producers.get(node.input[1])
        while weight_source is not None and weight_source.op_type == "Transpose":
            weight_source = producers.get(weight_source.input[0])
        if LADDER[expected].is_float:
            assert weight_source is None
            continue
        assert weight_source is not None and weight_source.op_type == "DequantizeLinear"
        stored = initializers[weight_source.input[0]]
        assert stored.shape == layer.weight_shape
        if expected == "fp8":
            assert stored.dtype.name == "float8_e4m3fn" and np.abs(stored.astype(np.float32)).max() == FP8_MAX
        else:
            levels = case.scheme.weight_levels(LADDER[expected].weight_bits, exact=expected == "w8a16")
            assert stored.dtype == np.int8 and np.abs(stored).max() == levels
        assert initializers[weight_source.input[1]].shape == (layer.weight_shape[layer.channel_axis],)
    # A tensor that several layers of one precision read is quantized once.
    made = [node for node in model.graph.node if node.name.endswith((".in.quantize", ".in.cast"))]
    tensors = {la.input_tensor for la in case.captured.network.layers if la.name != first}
    assert len(made) == len(tensors)
    used = {name for node in model.graph.node for name in node.input}
    assert set(initializers) <= used, "no float copy of a quantized weight stays behind"


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "linear_without_bias": (lambda: nn.Linear(6, 5, bias=False), (6,)),
    "linear_tokens": (lambda: nn.Linear(6, 5), (4, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3), (3, 8)),
    "conv": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1), (3, 7, 7)),
    "conv_same": (lambda: nn.Conv2d(3, 5, 3, padding="same"), (3, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 5, 2), (2, 4, 4, 4)),
    "conv_transpose": (lambda: nn.ConvTranspose2d(3, 5, 3, stride=2), (3, 5, 5)),
}


class SideBySide(nn.Module):
    """Every layer on its own input; the outputs lie one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(build() for build, _ in LAYERS.values())

    def forward(
        self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor, g: Tensor, h: Tensor, i: Tensor
    ) -> Tensor:
        inputs = a, b, c, d, e, f, g, h, i
        return torch.cat([layer(x).flatten(1) for layer, x in zip(self.layers, inputs, strict=True)], 1)


@cache
def side_by_side() -> tuple[Captured, tuple[Tensor, ...], list[int]]:
    torch.manual_seed(0)
    model, inputs = SideBySide().eval(), tuple(torch.randn(4, *shape) for _, shape in LAYERS.values())
    sizes = [layer(x)[0].numel() for layer, x in zip(model.layers, inputs, strict=True)]
    return capture(model, inputs), inputs, sizes


@pytest.mark.parametrize("scheme", ["unsigned_activations", "signed_symmetric"])
@pytest.mark.parametrize("precision", LADDER.names)
def test_one_layer_is_exact(precision: str, scheme: str, tmp_path: Path) -> None:
    """Behind a single layer nothing can tip over: what is left is the order of float32 sums, near 140 dB."""
    captured, inputs, sizes = side_by_side()
    rules = get_scheme(scheme)
    case = Case(nn.Identity(), inputs, captured, calibrate(captured, inputs, rules, [2, 5, 8]), rules)
    assignment = captured.network.uniform(precision)
    assert len(assignment) == len(LAYERS)
    evaluator = ReferenceEvaluator(write(case, assignment, tmp_path))
    names = evaluator.input_names
    rows = [
        evaluator.run(None, {name: x[i : i + 1].numpy() for name, x in zip(names, inputs, strict=True)})[0]
        for i in range(len(inputs[0]))
    ]
    found = torch.from_numpy(np.concatenate(rows)).split(sizes, 1)
    for kind, a, b in zip(LAYERS, simulate(case, assignment).split(sizes, 1), found, strict=True):
        assert sqnr_db(a, b) > (45 if in_16_bits(LADDER[precision]) else 110), kind


def test_float32_levels_at_ties_agree(tmp_path: Path) -> None:
    """Values halfway between levels round alike (half to even), below and at 8 bits, also when clipped."""
    rules = Scheme("test", signed_activations=False)
    x = (torch.arange(-40, 600) / 2).reshape(-1, 1) * 0.25
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    captured = capture(model, (x,))
    fp32 = export_onnx(captured)
    for bits in (3, 8):
        ladder = Ladder.parse(f"w8a{bits},fp32")
        ranges = calibrate(captured, (torch.tensor([[-1.0], [0.25 * (2**bits - 1) - 1]]),), rules, [bits], "minmax")
        name = ladder.floor
        found = Simulator(captured, ranges, rules).scores([{"0": name}], (x,), lambda out, rows: out)[0]
        write_qdq(fp32, captured, {"0": name}, ranges, rules, tmp_path / "m.onnx")
        assert torch.equal(run(onnx.load(tmp_path / "m.onnx"), x), found)
        assert len(found.unique()) == 2**bits


def test_batch_size_is_written() -> None:
    case = make_case("tokens")
    model = onnx.load_from_string(export_onnx(case.captured, batch_size=3))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert model.opset_import[0].version == OPSET


@networks
def test_a_number_that_is_put_into_an_export_gives_the_export_for_that_number(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, calls, export = make_case(network).captured, list[int](), torch.onnx.export
    expected = described(onnx_export._export(captured, 3))
    monkeypatch.setattr(onnx_export, "_exported", WeakKeyDictionary())
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: calls.append(1) or export(*args, **kwargs))
    assert described(export_onnx(captured, 3)) == expected
    export_onnx(captured, None)
    assert len(calls) == 1


def test_sizes_that_are_computed_from_the_number_of_samples_are_exported_for_each() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            return self.a(x).reshape(n * t, 4).softmax(1).reshape(n, t, 4)

    x = torch.randn(3, 5, 4)
    captured = capture(Odd().eval(), (x,))
    model = onnx.load_from_string(export_onnx(captured, 1))
    assert described(export_onnx(captured, 1)) == described(onnx_export._export(captured, 1))
    with torch.no_grad():
        assert torch.allclose(run(model, x), captured.graph(x), atol=1e-6)


def described(file: bytes) -> list[object]:
    """What is computed, in order, whatever tensors are called."""
    model = onnx.load_from_string(file)
    tensors = {one.name: str(onnx.numpy_helper.to_array(one).tolist()) for one in model.graph.initializer}
    shapes = {one.name: str(one.type) for one in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    found: list[object] = []
    for node in model.graph.node:
        inputs = [tensors.get(name, name) for name in node.input]
        found.append(
            (node.op_type, node.name, inputs, [shapes.get(name) for name in node.output], [*map(str, node.attribute)])
        )
        tensors |= {name: f"output {i} of {node.name}" for i, name in enumerate(node.output)}
    return found


def test_an_identity_branch_is_read_in_eight_bits_where_both_sides_are(tmp_path: Path) -> None:
    case = make_case("residual", "tensorrt")
    network = case.captured.network
    reader, partner = network.group_of("depthwise"), network.group_of("short")
    assert reader == partner  # both read the tensor that the branch carries

    def branch(precision: str, scheme: str) -> str:
        case = make_case("residual", scheme)
        model = write(case, network.uniform(precision), tmp_path)
        producers = {output: node for node in model.graph.node for output in node.output}
        addition = next(n for n in model.graph.node if n.op_type == "Add" and "short" in producers[n.input[0]].name)
        return producers[addition.input[1]].op_type

    assert branch("int8", "tensorrt") == branch("fp8", "tensorrt") == "DequantizeLinear"
    assert branch("int8", "signed_symmetric") == branch("fp16", "tensorrt") == "Relu"


class Bottleneck(nn.Module):
    """A convolution whose result, without an activation behind it, is both branch and input of a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.expand, self.back = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(x)
        return (self.back(self.expand(y).relu()) + y).mean((2, 3))


@pytest.mark.parametrize("project", ["fp16", "int8", "fp32"])
@pytest.mark.parametrize("block", ["int8", "fp8"])
def test_a_branch_that_comes_from_a_layer_of_another_precision(project: str, block: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Bottleneck(), torch.randn(4, 3, 6, 6)
    captured, rules = capture(model, (x,)), get_scheme("tensorrt")
    case = Case(model, (x,), captured, calibrate(captured, (x,), rules, [8]), rules)
    assignment = {"project": project, "expand": block, "back": block}
    written = write(case, assignment, tmp_path)
    producers = {output: node for node in written.graph.node for output in node.output}
    addition = next(node for node in written.graph.node if node.op_type == "Add")
    assert [producers[name].op_type for name in addition.input] == ["Conv", "DequantizeLinear"]
    quality = [sqnr_db(a, b) for a, b in zip(simulate(case, assignment), run(written, x), strict=True)]
    assert sorted(quality)[1] > (40 if project == "fp16" else 100), quality


class Unrolled(nn.Module):
    """A recurrent network: its first step multiplies a state of zeros by the weight of layers in later steps."""

    def __init__(self, zeros: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.keep, self.head, self.zeros = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), zeros

    def forward(self, x: Tensor) -> Tensor:
        state = self.zeros(x)
        for step in range(3):
            state = torch.tanh(self.read(x[:, step]) + self.keep(state))
        return self.head(state)


@pytest.mark.parametrize("zeros", [
    lambda x: torch.zeros(x.shape[0], 8), lambda x: x.new_zeros(x.shape[0], 8),
    lambda x: torch.zeros_like(x[:, 0, :1]).repeat(1, 8),
], ids=["zeros", "new_zeros", "zeros_like"])
def test_what_reads_no_data_takes_no_layers_place(zeros: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs, scheme = Unrolled(zeros).eval(), (torch.randn(6, 3, 6),), get_scheme("unsigned_activations")
    captured = capture(model, inputs)
    assert [la.name for la in captured.network.layers] == ["read", "read#2", "keep", "read#3", "keep#2", "head"]
    case = Case(model, inputs, captured, calibrate(captured, inputs, scheme, [8]), scheme)
    assignment = captured.network.uniform("int8")
    assert sqnr_db(simulate(case, assignment), run(write(case, assignment, tmp_path), inputs[0])) > 100


def test_four_bit_weights_come_in_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(5, 3, 256)
    captured, rules = capture(model, (x,)), get_scheme("signed_symmetric")
    first, second = captured.network.layers
    assert (first.block_size, second.block_size) == (128, None)
    case = Case(model, (x,), captured, calibrate(captured, (x,), rules, []), rules)
    assignment = {"0": "w4a16", "2": "fp16"}
    written = write(case, assignment, tmp_path)
    initializers = {t.name: t for t in written.graph.initializer}
    assert OnnxQdqEngine(written).realised(["0", "2"]) == assignment
    assert initializers["0.weight.int4"].data_type == onnx.TensorProto.INT4
    assert onnx.numpy_helper.to_array(initializers["0.weight.scale"]).shape == (8, 2)
    assert sqnr_db(simulate(case, assignment), run(written, x)) > 50
    assert sqnr_db(model(x).detach(), run(written, x)) < 30


def test_an_operation_without_onnx_form_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(self.a(x))

    with pytest.raises(HwsmpqError, match=r"cannot be written as ONNX: .*bessel_j0"):
        export_onnx(capture(Odd(), (torch.randn(2, 4),)))


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("scheme", ["unsigned_activations", "signed_symmetric"])
def test_convolutions_pad_zeros_by_themselves(scheme: str, precision: str, tmp_path: Path) -> None:
    """On two sides only, on top of what they pad already, and each of two readers of one tensor in its own way."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
            self.both, self.plain, self.last = (nn.Conv2d(4, 4, 3, stride=2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(nn.functional.pad(x, (0, 1, 0, 2)))
            x = self.two(nn.functional.pad(x, (1, 0, 1, 0), value=0.5))
            z = nn.functional.pad(x, (0, 1, 1, 1))
            kept = nn.functional.pad(x, (1, 1, 1, 1))
            sides = self.both(z).mean((2, 3)) + self.plain(x).mean((2, 3))
            return sides + self.last(kept).mean((2, 3)) + kept.sum((2, 3))

    torch.manual_seed(0)
    x, rules = 1 + torch.randn(6, 3, 8, 8), get_scheme(scheme)
    captured = capture(Padded().eval(), (x,))
    ranges = calibrate(captured, (x,), rules, [8])
    assignment = captured.network.uniform(precision)
    write_qdq(exported(captured), captured, assignment, ranges, rules, tmp_path / "qdq.onnx")
    model = onnx.load(tmp_path / "qdq.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Pad" for node in model.graph.node) == 2, "the value .5, and what else is read"
    expected = Simulator(captured, ranges, rules).scores([assignment], (x,), lambda out, rows: out)[0]
    torch.testing.assert_close(run(model, x), expected, rtol=1e-4, atol=1e-5)


def test_circular_padding_is_written_as_slices(tmp_path: Path) -> None:
    """In one, two and three dimensions, of one side or both, of the network's input and of what it gives."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular")
            self.row = nn.Conv1d(4, 3, 3, padding=1, padding_mode="circular")
            self.volume = nn.Conv3d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.row(self.image(x).flatten(2)).view(-1, 3, 2, 6, 7)
            x = self.volume(nn.functional.pad(x, (2, 0, 0, 1, 1, 1), mode="circular"))
            return nn.functional.pad(x.flatten(2), (3, 0), mode="circular")

    torch.manual_seed(0)
    x, rules = torch.randn(5, 3, 10, 7), get_scheme("unsigned_activations")
    captured = capture(Around().eval(), (x,))
    ranges = calibrate(captured, (x,), rules, [8])
    for precision in ("fp32", "int8"):
        assignment = captured.network.uniform(precision)
        write_qdq(exported(captured), captured, assignment, ranges, rules, tmp_path / "qdq.onnx")
        model = onnx.load(tmp_path / "qdq.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert not any(node.op_type == "Pad" for node in model.graph.node)
        expected = Simulator(captured, ranges, rules).scores([assignment], (x,), lambda out, rows: out)[0]
        torch.testing.assert_close(run(model, x), expected, rtol=1e-4, atol=1e-5)


def test_weights_beyond_the_limit_of_protobuf_lie_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file as within the limit, node by node and tensor by tensor, and ONNX Runtime computes the same."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnxruntime)")
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)), torch.randn(9, 64)
    captured, scheme = capture(model, (x,)), get_scheme("unsigned_activations")
    ranges = calibrate(captured, (x,), scheme, [8])
    results = []
    for limit in (onnx_export.LARGEST_MESSAGE, 1000):
        monkeypatch.setattr(onnx_export, "LARGEST_MESSAGE", limit)
        path = tmp_path / f"{limit}.onnx"
        write_qdq(export_onnx(captured), captured, {"0": "fp32", "2": "int8"}, ranges, scheme, path)
        assert path.with_name(f"{path.name}.data").exists() == (limit == 1000)
        results.append(runtime.InferenceSession(path).run(None, {"input": x[:1].numpy()})[0])
    np.testing.assert_array_equal(*results)

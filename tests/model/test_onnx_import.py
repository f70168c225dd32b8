"""ONNX files as networks: what they compute, against ONNX Runtime and the torch network that they came from."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from hwsmpq.engine.onnx_file import check_onnx_file
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.agreement import FLOOR, allowed
from hwsmpq.model.capture import capture
from hwsmpq.model.onnx_import import read_onnx
from hwsmpq.model.onnx_operators import OPERATORS
from hwsmpq.model.task import Task
from hwsmpq.quantize.onnx_export import export_onnx


def export(model: nn.Module, x: Tensor, path: Path, dynamo: bool, **options: object) -> Path:
    batch: dict[str, object] = (
        {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo
        else {"opset_version": 17, "input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    )
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (x,), path, dynamo=dynamo, verbose=False, **batch, **options)
    return path


class Residual(nn.Module):
    """Convolutions of several kinds, a shortcut that subsamples and pads, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.head = nn.Linear(16 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem(x))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = functional.hardswish(self.depthwise(functional.silu(self.down(x)))) + shortcut
        x = functional.max_pool2d(self.up(x), 3, 2, 1)
        return self.head(functional.avg_pool2d(x, 2).flatten(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (2, 3, 16, 16)),
    "encoder": (Encoder, (2, 7, 32)),
    "shufflenet": (models.shufflenet_v2_x0_5, (2, 3, 32, 32)),
}


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_that_of_torch(name: str, dynamo: bool, tmp_path: Path) -> None:
    """Same outputs, layers, costs and data flow; the same names too where the file has them."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make().eval(), torch.rand(shape)
    read = read_onnx(export(model, x, tmp_path / "net.onnx", dynamo))
    more = torch.rand(5, *shape[1:])
    torch.testing.assert_close(read(more).detach(), model(more).detach(), rtol=1e-4, atol=1e-5)
    ours, theirs = capture(read, (x,)).network, capture(model, (x,)).network
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert (a.kind, a.weight_shape, a.input_shape, a.output_shape, a.n_macs) == (
            b.kind, b.weight_shape, b.input_shape, b.output_shape, b.n_macs
        )
    assert [len(group.layers) for group in ours.groups] == [len(group.layers) for group in theirs.groups]
    if name != "encoder":
        assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
        assert [e.n_elements for e in ours.edges] == [e.n_elements for e in theirs.edges]


def single(
    op: str, shape: tuple[int, ...], *constants: np.ndarray | None, opset: int = 20, n_outputs: int = 1,
    **attributes: object,
) -> onnx.ModelProto:
    """A file with one operation on x; None leaves an input out."""
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    outputs = ["y", *(f"y{i}" for i in range(1, n_outputs))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], outputs, **attributes)], "single",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        [numpy_helper.from_array(c, name) for c, name in zip(constants, names, strict=True) if c is not None],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def shape_of_a_shape() -> onnx.ModelProto:
    """x reshaped to its elements a sample, whose number is made from the size of its shape and a single number."""
    names = [("Shape", ["x"], "sizes"), ("Shape", ["sizes"], "rank"), ("Gather", ["sizes", "zero"], "n"),
             ("Reshape", ["n", "row"], "first"), ("Concat", ["first", "rest", "rank"], "wanted"),
             ("Reshape", ["x", "wanted"], "y")]
    graph = helper.make_graph(
        [helper.make_node(op, reads, [y], **({"axis": 0} if op == "Concat" else {})) for op, reads, y in names],
        "shapes", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in (("zero", 0), ("row", [1]), ("rest", [4]))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
MATRIX, BIAS = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(4,)).astype(np.float32)
GATES, GATES_BACK, GATE_BIAS = (RNG.normal(size=(2, 16, n)).astype(np.float32) for n in (6, 4, 2))
GATE_BIAS = GATE_BIAS.reshape(2, 32)
SINGLE: dict[str, onnx.ModelProto] = {
    "same upper": single("Conv", (3, 7, 8), WEIGHT, auto_pad="SAME_UPPER", strides=[2, 2]),
    "same lower": single("Conv", (3, 7, 8), WEIGHT, auto_pad="SAME_LOWER", strides=[2, 2]),
    "one-sided": single("Conv", (3, 7, 8), WEIGHT, pads=[0, 1, 1, 0], dilations=[1, 2]),
    "gemm": single("Gemm", (6,), MATRIX, BIAS, alpha=0.5, beta=2.0),
    "matmul": single("MatMul", (5, 6), MATRIX),
    "max pool": single("MaxPool", (3, 7, 8), kernel_shape=[2, 3], pads=[0, 1, 1, 0], strides=[2, 2]),
    "pool": single("AveragePool", (3, 8, 8), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0),
    "pad": single("Pad", (3, 7, 8), np.array([0, 0, 1, 2, 0, 0, 3, 0]), np.array(0.5, np.float32)),
    "reflect": single("Pad", (3, 7, 8), np.array([0, 0, 1, 2, 0, 0, 3, 0]), mode="reflect"),
    "slice": single("Slice", (3, 7, 8), np.array([1, -6]), np.array([9, -1]), np.array([2, 3]), np.array([2, 1])),
    "reduce": single("ReduceMean", (3, 7, 8), np.array([2, -1]), keepdims=0),
    "softmax": single("Softmax", (3, 7), axis=1), "leaky": single("LeakyRelu", (3, 7), alpha=0.3),
    "hard sigmoid": single("HardSigmoid", (3, 7)), "elu": single("Elu", (3, 7), alpha=0.7),
    "transpose": single("Transpose", (3, 7), perm=[0, 2, 1]), "flatten": single("Flatten", (3, 7)),
    "layer norm": single("LayerNormalization", (3, 4), BIAS, BIAS + 1),
    "resize": single("Resize", (3, 4, 4), np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32), mode="linear"),
    "average": single("GlobalAveragePool", (3, 7, 8)), "clip": single("Clip", (3,), np.array(-0.2, np.float32)),
    "max": single("Max", (3,), np.array(0.1, np.float32)), "power": single("Pow", (3,), np.array(2.0, np.float32)),
    "backwards": single("Slice", (3, 7), np.array([-1, 5]), np.array([-99, 0]), np.array([1, 2]), np.array([-1, -2])),
    "selu": single("Selu", (3,)), "celu": single("Celu", (3,), alpha=0.5), "sign": single("Sign", (3,)),
    "depth to space": single("DepthToSpace", (8, 3, 4), blocksize=2),
    "pixel shuffle": single("DepthToSpace", (8, 3, 4), blocksize=2, mode="CRD"),
    "space to depth": single("SpaceToDepth", (3, 4, 6), blocksize=2),
    "instance norm": single("InstanceNormalization", (4, 5, 5), BIAS, BIAS + 1),
    "lrn": single("LRN", (6, 3, 3), size=3, alpha=0.1), "l2": single("ReduceL2", (3, 4), np.array([1])),
    "product": single("ReduceProd", (3, 4), np.array([1, 2]), keepdims=0),
    "one-sided pool": single("AveragePool", (3, 8, 8), kernel_shape=[3, 3], pads=[0, 1, 1, 0], strides=[2, 2]),
    "one-sided pool with padding": single(
        "AveragePool", (3, 8, 8), kernel_shape=[3, 3], pads=[0, 1, 1, 0], strides=[2, 2], count_include_pad=1
    ),
    "pool of one dimension": single("AveragePool", (3, 8), kernel_shape=[3], strides=[2]),
    "transposed, one-sided": single("ConvTranspose", (4, 5, 5), WEIGHT, strides=[2, 2], pads=[0, 1, 1, 0]),
    "transposed, same": single("ConvTranspose", (4, 5, 5), WEIGHT, strides=[2, 2], auto_pad="SAME_UPPER"),
    "transposed, one dimension": single("ConvTranspose", (4, 5), WEIGHT[..., 0], strides=[2]),
    "shape of a shape": shape_of_a_shape(),
    "gather rows": single("Gather", (5, 4), np.array([[0, -1], [2, 2]]), axis=1),
    "lstm": single("LSTM", (5, 6), GATES, GATES_BACK, GATE_BIAS, hidden_size=4, direction="bidirectional", n_outputs=3),
    "gru": single("GRU", (5, 6), GATES[:, :12], GATES_BACK[:, :12], GATE_BIAS[:, :24], hidden_size=4,
                  direction="bidirectional", linear_before_reset=1, n_outputs=2),
    # What earlier opsets have as attributes, or compute otherwise.
    "upsample of opset 7": single("Upsample", (3, 4, 4), opset=7, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"),
    "upsample of opset 9": single("Upsample", (3, 4, 4), np.float32([1, 1, 2, 3]), opset=9, mode="linear"),
    "resize of opset 10": single("Resize", (3, 4, 4), np.float32([1, 1, 2, 1.5]), opset=10, mode="nearest"),
    "resize of opset 13": single("Resize", (3, 4, 4), None, np.float32([1, 1, 2.5, 1.5]), opset=13, mode="linear",
                                 coordinate_transformation_mode="asymmetric"),
    "nearest, half pixels": single("Resize", (3, 4, 4), None, np.float32([1, 1, 2.5, 0.5]), opset=13),
    "softmax of opset 9": single("Softmax", (3, 7), opset=9), "clip of opset 6": single("Clip", (3,), opset=7, max=0.3),
    "pad of opset 2": single("Pad", (3, 4), opset=9, pads=[0, 0, 1, 0, 2, 0], value=0.5),
    "slice of opset 1": single("Slice", (3, 9), opset=9, starts=[1, -6], ends=[9, -1], axes=[1, 2]),
    "squeeze of opset 1": single("Squeeze", (1, 9), opset=9, axes=[1]),
    "unsqueeze of opset 1": single("Unsqueeze", (3,), opset=9, axes=[0, 3]),
    "mean of opset 1": single("ReduceMean", (3, 7), opset=9, axes=[2]),
    "split of opset 2": single("Split", (6,), opset=9, axis=1, split=[2, 1, 3], n_outputs=3),
    "split of opset 13": single("Split", (6,), opset=13, axis=1, n_outputs=2),
    "batch norm of opset 7": single("BatchNormalization", (4, 3, 3), BIAS, BIAS, BIAS, BIAS**2, opset=7),
}


@pytest.mark.parametrize("name", SINGLE)
def test_operators_compute_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnxruntime)")
    path = tmp_path / "single.onnx"
    onnx.save(SINGLE[name], path)
    shape = [d.dim_value or 2 for d in SINGLE[name].graph.input[0].type.tensor_type.shape.dim]
    x = RNG.normal(size=shape).astype(np.float32)
    expected = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    found = read_onnx(path)(torch.from_numpy(x))
    for one, other in zip(found.values() if isinstance(found, dict) else (found,), expected, strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other, rtol=1e-4, atol=1e-5)


def fixed_batch(path: Path) -> Path:
    """Two layers with a reshape to the batch of 1 that the file fixes, in 16 bits, with weights listed as inputs."""
    weights = {"w": WEIGHT, "m": RNG.normal(size=(4 * 25, 5)).astype(np.float32), "shape": np.array([1, -1])}
    halves = [
        numpy_helper.from_array(a.astype(np.float16) if a.dtype.kind == "f" else a, n) for n, a in weights.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
         helper.make_node("Reshape", ["b", "shape"], ["c"]), helper.make_node("MatMul", ["c", "m"], ["y"])],
        "fixed", [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 3, 7, 7]),
                  helper.make_tensor_value_info("w", TensorProto.FLOAT16, WEIGHT.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 5])], halves,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def test_a_fixed_batch_is_freed_and_16_bits_are_read_in_32(tmp_path: Path) -> None:
    """The batch gives row by row what ONNX Runtime gives for single samples, up to 16 bits."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnxruntime)")
    path = fixed_batch(tmp_path / "fixed.onnx")
    x = RNG.normal(size=(3, 3, 7, 7)).astype(np.float32)
    captured = capture(read_onnx(path), (torch.from_numpy(x),))
    assert len(captured.network.layers) == 2
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": row[None].astype(np.float16)})[0] for row in x])
    found = captured.graph(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected.astype(np.float32), rtol=2e-2, atol=2e-2 * np.abs(expected).max())


@pytest.mark.parametrize("batch", [1, None])
def test_inputs_and_outputs_keep_their_names(batch: int | None, tmp_path: Path) -> None:
    """The engine takes the place of the file; also where the graph has other values of these names."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnxruntime)")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    x = torch.randn(30, 3, 8, 8)
    file = tmp_path / "named.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["image:0"], "output_names": ["relu"]}
        torch.onnx.export(model.eval(), (x[:1],), file, dynamo=False, **names)
    task = Task(file, x, (x, torch.arange(30) % 5))
    assert task.ports == (("image:0",), ("relu",)) and Task(model, x, (x, torch.arange(30) % 5)).ports == ((), ())
    captured = capture(task.model, task.calibration, ports=task.ports)
    written = runtime.InferenceSession(export_onnx(captured, batch), providers=["CPUExecutionProvider"])
    assert [port.name for port in (*written.get_inputs(), *written.get_outputs())] == ["image:0", "relu"]
    found, = written.run(None, {"image:0": x[:1].numpy()})
    np.testing.assert_allclose(found, model(x[:1]).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    model = single("Conv", (3, 7, 8), WEIGHT)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.weights", size_threshold=0)
    assert read_onnx(tmp_path / "net.onnx")
    (tmp_path / "net.weights").unlink()
    with pytest.raises(HwsmpqError, match=r"net\.weights, which is not there"):
        read_onnx(tmp_path / "net.onnx")


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(HwsmpqError, match="no ONNX file"):
        read_onnx(path)
    path.write_bytes(b"no onnx")
    with pytest.raises(HwsmpqError, match="cannot be read as ONNX"):
        read_onnx(path)
    old = single("Relu", (3,))
    old.opset_import[0].version = 6
    onnx.save(old, path)
    with pytest.raises(HwsmpqError, match="has opset 6"):
        read_onnx(path)
    onnx.save(single("Det", (3, 3)), path)
    with pytest.raises(HwsmpqError, match="not read: Det"):
        read_onnx(path)
    onnx.save(single("QuantizeLinear", (3,), np.float32(0.1), np.int8(0)), path)
    with pytest.raises(HwsmpqError, match="quantized already"):
        read_onnx(path)


def test_names_that_modules_use_themselves(tmp_path: Path) -> None:
    """A layer named like a method of modules is kept under a free name, and does not replace it."""
    model = single("Conv", (3, 7, 8), WEIGHT)
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "forward.training.weight"
    onnx.save(model, tmp_path / "net.onnx")
    read = read_onnx(tmp_path / "net.onnx")
    assert capture(read, (torch.rand(2, 3, 7, 8),)).network.layers[0].name == "forward_.training_"


def branching(path: Path, condition: list[onnx.NodeProto]) -> Path:
    """One ``If``, whose branches multiply by different matrices of one name."""
    def branch(scale: float) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", "m"], ["product"])], f"branch_{scale:g}".replace(".", "_"), [],
            [helper.make_tensor_value_info("product", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(scale * MATRIX, "m")],
        )

    taken = helper.make_node("If", ["is"], ["y"], then_branch=branch(1.0), else_branch=branch(2.0))
    graph = helper.make_graph(
        [*condition, taken], "branching", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "width", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(1), "one"), numpy_helper.from_array(np.array(5), "five"),
         numpy_helper.from_array(np.float32(1e9), "much")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("width", [5, 4])
def test_a_branch_that_sizes_decide(width: int, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnxruntime)")
    sizes = [helper.make_node("Shape", ["x"], ["sizes"]), helper.make_node("Gather", ["sizes", "one"], ["size"]),
             helper.make_node("Equal", ["size", "five"], ["is"])]
    path = branching(tmp_path / "net.onnx", sizes)
    x = RNG.normal(size=(3, width, 6)).astype(np.float32)
    captured = capture(read_onnx(path), (torch.from_numpy(x),))
    assert len(captured.network.layers) == 1
    expected = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(captured.graph(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_branch_that_inputs_decide_is_named(tmp_path: Path) -> None:
    values = [helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
              helper.make_node("Less", ["sum", "much"], ["is"])]
    model = read_onnx(branching(tmp_path / "net.onnx", values))
    with pytest.raises(HwsmpqError, match="If depends on values of the inputs"):
        model(torch.ones(2, 5, 6))


def variance_of_tokens(path: Path) -> Path:
    """Rows of a table, and their variance as a small difference of large numbers."""
    table = (1.0 + 1e-3 * RNG.normal(size=(9, 16))).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "tokens"], ["x"]), helper.make_node("Mul", ["x", "x"], ["squares"]),
         helper.make_node("ReduceMean", ["squares"], ["a"], axes=[-1]),
         helper.make_node("ReduceMean", ["x"], ["b"], axes=[-1]),
         helper.make_node("Mul", ["b", "b"], ["c"]), helper.make_node("Sub", ["a", "c"], ["variance"])],
        "tokens", [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", 4])],
        [helper.make_tensor_value_info("variance", TensorProto.FLOAT, None)], [numpy_helper.from_array(table, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_a_file_is_compared_by_what_rounding_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens cannot change a little; an operator that is read wrong is found all the same."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnxruntime)")
    path = variance_of_tokens(tmp_path / "net.onnx")
    tokens = torch.from_numpy(RNG.integers(0, 9, size=(3, 4)))
    model = read_onnx(path)
    of_inputs, of_all = (allowed(lambda inputs: [model(*inputs)], (tokens[:1],), how) for how in (False, True))
    assert of_inputs == FLOOR < of_all
    assert check_onnx_file(path, model, (tokens,)) is None
    monkeypatch.setitem(OPERATORS, "Sub", torch.add)
    with pytest.raises(HwsmpqError, match="was read as another network"):
        check_onnx_file(path, model, (tokens,))

"""What goes with an engine to whoever serves it without this package: README.md, a script, and which files to ship."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from hwsmpq._version import __version__
from hwsmpq.artifacts import write_bytes
from hwsmpq.device.files import WEIGHTS
from hwsmpq.device.tensorrt.adapter import BATCHES
from hwsmpq.engine.build import ONNX_FILE
from hwsmpq.engine.dynamic import DYNAMIC
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.model.shapes import buckets, named
from hwsmpq.model.task import Task
from hwsmpq.types import Manifest

README, SCRIPT = "README.md", "run_engine.py"
MAIN = "main.py.in"
"""What follows every target's script."""
ANY = "any"
"""A size that an input may have any of."""


@dataclass(frozen=True)
class Serving:
    """How engines of a target are served.

    Attributes:
        ships: files that the runtime loads.
        weights: a file that it also loads where there is one: weights that take more than 2 GB.
        package: the Python package that loads them; empty where any runtime for ONNX files may.
        script: template of the script in ``scripts/``; empty where there is none.
        settings: what the certificate's latency holds for, by name, besides the numbers of threads and streams.
    """

    ships: tuple[str, ...]
    package: str = ""
    script: str = ""
    weights: str = ""
    settings: dict[str, str] = field(default_factory=dict)


PORTABLE = Serving(("model.onnx",), weights=f"{ONNX_FILE}{WEIGHTS}")
PLAN = {
    "version and GPU": "an engine loads only with the version that built it, on the kind of GPU that it was built for",
}
SERVED = {
    "openvino-cpu": Serving(
        ("model.xml", "model.bin"), "openvino", "openvino.py.in", settings={
            "INFERENCE_PRECISION_HINT": "`f32`, or what `model.xml` says under `hwsmpq`: else processors with bf16"
            " compute in bf16 what is fp32 here",
            "ENABLE_CPU_PINNING": "`False`",
        },
    ),
    "onnxruntime-cpu": Serving(
        ("model.onnx",), "onnxruntime", "onnxruntime.py.in", f"model.onnx{WEIGHTS}",
        {
            "execution_mode": "ORT_SEQUENTIAL",
            "disabled_optimizers": "`WeightBiasQuantization`, which would turn fp32 layers into int8",
        },
    ),
    "tensorrt": Serving(("engine.plan",), "tensorrt", "tensorrt.py.in", settings=PLAN),
    "tensorrt-rtx": Serving(("engine.plan",), "tensorrt_rtx", "tensorrt.py.in", settings=PLAN),
}


@dataclass(frozen=True)
class Port:
    """An input or output: numpy's name of its type, and its shape, batch first."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def write_handout(folder: Path, manifest: Manifest, task: Task) -> None:
    """Write README.md, and the script where the target has one, beside an engine and that of any batch size."""
    inputs, outputs = ports(folder / ONNX_FILE)
    serving = serving_of(manifest, folder)
    if serving.script:
        for place in (folder, folder / DYNAMIC):
            if place.is_dir():
                write_bytes(place / SCRIPT, _script(manifest, serving, *ports(place / ONNX_FILE)).encode())
    write_bytes(folder / README, _readme(manifest, task, serving, _shipped(serving, folder), inputs, outputs).encode())


def export(run_folder: Path, to: Path) -> tuple[Path, ...]:
    """Copy what serves the engine of a run folder: the files that the runtime loads, README.md and the script, and
    those of the engine of any batch size in a folder of their own.

    Returns:
        The files in ``to``.

    Raises:
        HwsmpqError: there is no engine, a file of it is not as it was built, or ``to`` holds something else.
    """
    run = Folder(run_folder)
    manifest = run.check_engine()
    engine = run.path(Manifest).parent
    check_empty(to)
    served = (*_shipped(serving_of(manifest, engine), engine), SCRIPT)
    names = (*served, README, *(f"{DYNAMIC}/{name}" for name in served))
    if not (engine / README).is_file():
        raise HwsmpqError(f"{engine} has no {README}", "an earlier version built it", "run `hwsmpq build` again")
    found = [name for name in names if (engine / name).is_file()]
    for name in found:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
    return tuple(Path(shutil.copy2(engine / name, to / name)) for name in found)


def check_empty(to: Path) -> None:
    """Refuse to write into a folder that holds something."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise HwsmpqError(f"{to} is not an empty folder", "what lies there would be mixed with the engine",
                          "name another folder, or empty that one")


def serving_of(manifest: Manifest, folder: Path) -> Serving:
    """How the engine in a folder is served. Where it is a file for a device elsewhere, it still has to be built."""
    serving = SERVED.get(manifest.target.partition(":")[0], PORTABLE)
    return serving if all((folder / name).is_file() for name in serving.ships) else PORTABLE


def _shipped(serving: Serving, folder: Path) -> list[str]:
    beside = [serving.weights] if serving.weights and (folder / serving.weights).is_file() else []
    return [*serving.ships, *beside]


def ports(onnx_file: Path) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of an ONNX file, in order."""
    import onnx

    graph = onnx.load(onnx_file, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}

    def port(value: Any) -> Port:
        kind = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else ANY for d in kind.shape.dim)
        return Port(value.name, str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))), shape)

    return [port(v) for v in graph.input if v.name not in stored], [port(v) for v in graph.output]


def _script(manifest: Manifest, serving: Serving, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """How an engine runs, and what every target's script does with files."""
    scripts = resources.files("hwsmpq.engine") / "scripts"
    runs, main = ((scripts / name).read_text(encoding="utf-8") for name in (serving.script, MAIN))
    taken = {p.name: (p.dtype, p.shape) for p in inputs}
    return Template(runs).substitute(
        inputs=taken, outputs=[port.name for port in outputs], any=ANY,
        threads=manifest.threads, streams=manifest.streams, package=serving.package,
    ) + main


def _readme(
    manifest: Manifest, task: Task, serving: Serving, files: Sequence[str], inputs: Sequence[Port],
    outputs: Sequence[Port],
) -> str:
    precisions = list(dict.fromkeys(layer.realised for layer in manifest.layers))
    counts = ", ".join(f"{sum(x.realised == p for x in manifest.layers)} in {p}" for p in precisions)
    shipped = ", ".join(f"`{name}`" for name in files)
    lines = [
        f"# {task.name} for {manifest.target}", "",
        f"Built by hwsmpq {__version__}. {len(manifest.layers)} quantizable layers: {counts}.", "",
        "## Files to ship", "",
        f"{shipped}" + (f". `{SCRIPT}` shows how to run them." if serving.script else "."),
        "`hwsmpq export` copies just these. Nothing else of the run folder is needed to serve the engine.", "",
        "## Inputs, in this order", "", *_table(inputs),
        f"The first dimension is the batch: {manifest.batch} sample{'s' * (manifest.batch > 1)} at once.", "",
        *_any_shape(task, inputs),
        *_preprocessing(task, inputs),
        "## Outputs, in this order", "", *_table(outputs),
        *_any_batch(manifest, serving),
        "## Settings", "",
    ]
    if serving.package:
        lines += ["The latency in `certificate.json` holds for these settings alone:", ""]
        lines += ["| setting | value |", "|---|---|"]
        if not serving.package.startswith("tensorrt"):
            lines.append(f"| threads of an inference | {manifest.threads} |")
        if manifest.streams > 1:
            lines.append(f"| streams (inferences side by side) | {manifest.streams} |")
        lines += [f"| {name} | {value} |" for name, value in serving.settings.items()]
        lines += ["", "## Run it", "", "```sh", f"python {SCRIPT} inputs.npz outputs.npz", "```", "",
                  f"needs numpy and {serving.package}, and not hwsmpq. `inputs.npz` holds arrays with the"
                  " names and shapes of the inputs above."]
    else:
        lines.append(
            "This is an ONNX file with QuantizeLinear and DequantizeLinear. A runtime that knows its types builds an"
            " engine from it; for TensorRT, `trtexec --onnx=model.onnx --stronglyTyped --saveEngine=engine.plan` does."
        )
    return "\n".join(lines) + "\n"


def _any_shape(task: Task, inputs: Sequence[Port]) -> list[str]:
    if all(ANY not in port.shape for port in inputs):
        return []
    shapes = ", ".join(map(named, buckets(task.calibration)))
    return [
        f"Where a size is `{ANY}`, it is that of the samples: the engine was checked with {shapes}."
        " Its latency is that of this file as it is, at the shapes that `certificate.json` names under `latency_ms`."
        " A runtime that is told one shape when it loads the file (`reshape` in OpenVINO) may choose faster kernels.",
        "",
    ]


def _any_batch(manifest: Manifest, serving: Serving) -> list[str]:
    dynamic = manifest.dynamic_batch
    if dynamic is None:
        return []
    place = "There is" if dynamic.why_not else f"`{DYNAMIC}/` holds"
    lines = ["## Other batch sizes", "", f"{place} {dynamic.said}."]
    if dynamic.why_not:
        return [*lines, ""]
    if dynamic.from_certified is not None:
        lines.append(
            "These are relative errors: the root of the error's energy over that of the outputs. The runtime takes"
            " other kernels where a size is open. A value halfway between two levels may be rounded to the other one."
        )
    lines.append("Its latency is not the one in `certificate.json`.")
    if serving.package.startswith("tensorrt"):
        fewest, usual, most = BATCHES
        lines.append(f"It takes {fewest} to {most} samples and is tuned for {usual}.")
    elif not serving.package:
        lines.append("`trtexec` has to be told sizes for it: `--minShapes`, `--optShapes` and `--maxShapes`.")
    return [*lines, ""]


def _table(found: Sequence[Port]) -> list[str]:
    rows = [f"| {i} | `{p.name}` | {p.dtype} | {' x '.join(map(str, p.shape))} |" for i, p in enumerate(found, 1)]
    return ["| # | name | type | shape |", "|---|---|---|---|", *rows, ""]


def _preprocessing(task: Task, inputs: Sequence[Port]) -> list[str]:
    """As the task states it, and where the calibration samples lie."""
    stated = ["```text", task.preprocessing, "```"] if task.preprocessing else [
        "The task does not state it (`hwsmpq.Task(preprocessing=...)` does). Prepare inputs as for training."
    ]
    lines = ["### Preprocessing", "", *stated, ""]
    for port, samples in zip(inputs, task.calibration, strict=False):
        low, high = float(samples.min()), float(samples.max())
        lines.append(f"Calibration samples of `{port.name}` lie between {low:.4g} and {high:.4g}.")
    return [*lines, ""]

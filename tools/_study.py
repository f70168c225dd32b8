"""What the studies share: network, splits and supernets, a work folder of finished pieces, statistics, and plots.

A study trains on the *weights* part (CIFAR-10 (JPEG) training images), scores on the *scores* part and judges on the
*report* part (two halves of the test images), which neither weights nor scores ever see.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TASK = str(Path(__file__).parent / "tasks" / "cifar_resnet20.py")
NAMES = ("w2a2", "w3a3", "w4a4", "w6a6")
SPLIT_SEED = 0
LEARNING_RATE = 0.01
BATCH_SIZE = 64


def add_options(parser: argparse.ArgumentParser, name: str, n_seeds: int) -> None:
    """The options of every study."""
    parser.add_argument("--full", action="store_true", help="all samples and longer training, in hours")
    parser.add_argument("--work", type=Path, default=Path(f"runs/{name}"), help="where finished pieces are kept")
    parser.add_argument("--jobs", type=int, default=2, help="pieces at a time, on one thread each")
    parser.add_argument("--seeds", type=int, default=n_seeds)
    parser.add_argument("--training", metavar="FILE", help="npz with x (n, 32, 32, 3) and y, in place of train5000")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="where SVG plots go; by default beside the JSON file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="print the tables of a finished study, and end")


@dataclass(frozen=True, eq=False)
class Material:
    """The network with its ranges, and the three parts of the data."""

    task: Any
    captured: Any
    ranges: Any
    scheme: Any
    ladder: Any
    weights: Any
    scores: Any
    report: Any


@cache
def material(training: str | None) -> Material:
    """Made once a process; what it holds is not changed."""
    import torch

    from hwsmpq.model.capture import capture
    from hwsmpq.model.load import load_task
    from hwsmpq.model.parts import Samples
    from hwsmpq.quantize.ranges import calibrate
    from hwsmpq.quantize.scheme import get_scheme
    from hwsmpq.types import Ladder, Precision

    torch.set_num_threads(1)
    task = load_task(TASK)
    captured, scheme = capture(task.model, task.calibration), get_scheme("unsigned_activations")
    bits = [Precision.parse(name).activation_bits for name in NAMES]
    scores, report = task.split(SPLIT_SEED)
    return Material(
        task, captured, calibrate(captured, task.calibration, scheme, bits), scheme,
        Ladder.parse(",".join(NAMES)), Samples(*_training_images(training)), scores, report,
    )


def _training_images(file: str | None) -> tuple[Any, Any]:
    import sys

    import torch

    task_module = sys.modules["hwsmpq_task_cifar_resnet20"]
    if file is None:
        inputs, targets = task_module.images("train5000")
        return (inputs,), targets
    from _data import normalize

    with np.load(file) as arrays:
        pixels, targets = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    return (normalize(pixels.permute(0, 3, 1, 2).float().contiguous()),), targets.long()


@dataclass(frozen=True)
class Search:
    """One supernet: how it is trained."""

    strength: float
    n_samples: int
    n_epochs: int
    seed: int
    training: str | None

    @property
    def name(self) -> str:
        return f"supernet-{self.strength:g}-{self.n_samples}x{self.n_epochs}-{self.seed}"


def supernet(folder: Path, search: Search) -> Any:
    """A supernet, trained if the folder does not hold it; where training takes up again after an interruption."""
    from safetensors.torch import load_file, save

    from hwsmpq.artifacts import write_bytes
    from hwsmpq.model.task import cross_entropy
    from hwsmpq.train.fit import fit
    from hwsmpq.train.supernet import Supernet, penalised
    from hwsmpq.types import Recipe

    m, file = material(search.training), folder / f"{search.name}.safetensors"
    net = Supernet(m.captured, m.ranges, m.scheme, m.ladder)
    if not file.exists():
        began: list[int] = []
        started = time.process_time()
        recipe = Recipe(search.n_epochs, LEARNING_RATE, BATCH_SIZE, search.seed)
        fit(
            net, some(m.weights, search.n_samples, search.seed), penalised(net, cross_entropy, search.strength), recipe,
            checkpoint=folder / f"{search.name}.pt", identity=repr(search), progress=lambda done, n: began.append(done),
        )
        # Where an interrupted training went on, the epochs of this process stand for all.
        n_here = max(1, search.n_epochs - began[0])
        store(
            folder / f"{search.name}.json", cpu_s=(time.process_time() - started) * search.n_epochs / n_here,
        )
        write_bytes(file, save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}))
    net.load_state_dict(load_file(file))
    return net


@dataclass(frozen=True)
class Training:
    """The piece of work that trains one supernet."""

    folder: Path
    search: Search

    @property
    def path(self) -> Path:
        return self.folder / f"{self.search.name}.safetensors"

    def __call__(self) -> None:
        supernet(self.folder, self.search)

    @property
    def cpu_s(self) -> float:
        return float(stored(self.path.with_suffix(".json"))["cpu_s"])


def some(samples: Any, n: int, seed: int) -> Any:
    """``n`` random samples, without repetition."""
    import torch

    return samples.take(torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:n])


def judged(net: Any, samples: Any, chunk_size: int = 100) -> dict[str, NDArray[np.float64]]:
    """Per-sample correctness and cross-entropy of a trainable network."""
    import torch

    from hwsmpq.model.task import cross_entropy, top1

    outputs = []
    with torch.no_grad():
        for start in range(0, len(samples), chunk_size):
            outputs.append(net(*samples.take(slice(start, start + chunk_size)).inputs))
    out = torch.cat(outputs)
    return {"correct": top1(out, samples.targets).numpy(), "ce": cross_entropy(out, samples.targets).numpy()}


def store(path: Path, **values: Any) -> None:
    """Write a small JSON file whole, or not at all."""
    from hwsmpq.artifacts import write_bytes

    write_bytes(path, json.dumps(values).encode())


def stored(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def store_arrays(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)
    temporary.rename(path)


class Piece(Protocol):
    """A piece of work, finished once ``path`` exists. It can be sent to another process."""

    @property
    def path(self) -> Path: ...

    def __call__(self) -> None: ...


def _work(piece: Piece) -> float:
    started = time.monotonic()
    piece()
    return time.monotonic() - started


def work_through(title: str, pieces: Iterable[Piece], n_jobs: int) -> None:
    """Do the pieces that are not done, each in one of ``n_jobs`` processes; says how far it is."""
    pieces = list(pieces)
    open_pieces = [piece for piece in pieces if not piece.path.exists()]
    print(f"{title}: {len(pieces) - len(open_pieces)} of {len(pieces)} pieces are done", flush=True)
    if not open_pieces:
        return
    started = time.monotonic()
    with ProcessPoolExecutor(min(n_jobs, len(open_pieces)), mp_context=get_context("spawn")) as processes:
        futures = {processes.submit(_work, piece): piece for piece in open_pieces}
        try:
            for n_done, future in enumerate(as_completed(futures), 1):
                seconds, elapsed = future.result(), time.monotonic() - started
                left = elapsed / n_done * (len(open_pieces) - n_done)
                print(
                    f"  {title} {n_done}/{len(open_pieces)} {futures[future].path.stem}: {seconds:.0f} s,"
                    f" about {left / 60:.1f} min left", flush=True,
                )
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise


def kendall(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kendall's tau-b along the last axis; 0 where one of them is constant. Leading axes broadcast."""
    pairs = np.array(list(combinations(range(x.shape[-1]), 2)))
    dx, dy = (np.sign(a[..., pairs[:, 0]] - a[..., pairs[:, 1]]) for a in (x, y))
    size = np.sqrt((dx != 0).sum(-1) * (dy != 0).sum(-1))
    return np.asarray((dx * dy).sum(-1) / np.maximum(size, 1) * (size > 0))


def interval(draws: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = np.percentile(np.asarray(draws), [2.5, 97.5])
    return float(low), float(high)


def save_plot(path: Path, size: tuple[float, float], draw: Callable[[Any, Any], None]) -> None:
    """Draw on one pair of axes in the style of the report, on white, as a file of its own."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from hwsmpq.report.colours import PALETTE
    from hwsmpq.report.style import drawing

    with drawing():
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots(), PALETTE)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
    print(f"plot: {path}")


def plots_folder(options: Any) -> Path | None:
    return options.plots or (options.json.parent if options.json else None)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

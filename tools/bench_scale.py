"""What a search takes in time and memory, against groups (on synthetic tables), and against samples (a whole run on
images that are made as they are read, with one process and with two).

    python tools/bench_scale.py [--groups 100 300 1000] [--samples 1000 10000 50000] [--two 50000] [--json FILE]

Every case runs in a process of its own. Memory is the peak beyond what that process holds before the case: for samples,
with the network made and all libraries loaded. It is that of all processes together, where what they share counts once
(PSS), sampled; and the resident set of the one process for the parts of a search.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE, TILE, N_COLOURS = 224, 14, 3
N_LEVELS, N_WALKS, N_RACED = 3, 4, 60


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Memory:
    """Samples what a process and its children hold together, in MB, from ``with`` to its end: before, and at most."""

    def __enter__(self) -> Memory:
        self.before = self.most = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, self._now())

    def _now(self) -> float:
        found, waiting = 0.0, [Path("/proc/self")]
        while waiting:
            process = waiting.pop()
            try:
                lines = (process / "smaps_rollup").read_text().splitlines()
                found += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
                for task in (process / "task").iterdir():
                    waiting += [Path("/proc") / child for child in (task / "children").read_text().split()]
            except (OSError, StopIteration):  # it ended meanwhile
                continue
        return found


def of_report(n_groups: int) -> dict[str, float]:
    """CPU seconds of making the report of a folder with so many groups, its size, and the peak of memory."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))
    from factory import make_run

    from hwsmpq.report.render import render

    with tempfile.TemporaryDirectory() as folder:
        render(make_run(Path(folder) / "warm", n_groups=12))
        run = make_run(Path(folder) / "run", n_groups=n_groups)
        before, start = peak_mb(), time.process_time()
        page = render(run)
        return {
            "report_s": time.process_time() - start, "page_mb": page.stat().st_size / 1e6,
            "report_peak_mb": peak_mb() - before,
        }


def of_groups(n_groups: int) -> dict[str, float]:
    """CPU seconds of each part of a search on random tables (``solve_s`` and ``guided_s``: the eight best choices of
    the table, and of the surrogate), and the peak of memory."""
    from dataclasses import replace

    from hwsmpq.contribution.memo import Memo
    from hwsmpq.search.k_best import k_best
    from hwsmpq.search.moves import neighbours
    from hwsmpq.search.problem import Problem
    from hwsmpq.search.surrogate import fit_surrogate
    from hwsmpq.types import Cost

    rng = np.random.default_rng(0)
    value = np.cumsum(rng.exponential(size=(n_groups, N_LEVELS)), axis=1) / n_groups
    table = 1.0 - np.eye(N_LEVELS)
    switches = tuple((i, i + 1, 0.05 * table) for i in range(n_groups - 1))
    costs = {"latency_ms": Cost(np.cumsum(rng.exponential(size=(n_groups, N_LEVELS)), axis=1), switches)}
    middle = float(costs["latency_ms"](np.ones(n_groups, dtype=np.int64)))
    problem = Problem(Cost(value), costs, {"latency_ms": middle})
    rows, walks = [], []
    for walk in range(N_WALKS):
        row = np.zeros(n_groups, dtype=np.int64)
        for group in rng.permutation(n_groups):
            for level in range(1, N_LEVELS):
                row = row.copy()
                row[group] = level
                rows.append(row)
                walks.append(walk)
    raced = [rng.integers(N_LEVELS, size=n_groups) for _ in range(N_RACED)]
    levels, walks = np.array([*rows, *raced]), np.array([*walks, *range(N_WALKS, N_WALKS + N_RACED)])
    lost = value.max(1, keepdims=True) - value
    chosen = lost[np.arange(n_groups), levels]
    values = -chosen.sum(1) - 0.5 * (chosen[:, 1:] * chosen[:, :-1]).sum(1) * n_groups
    before, found = peak_mb(), {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        found[name] = time.process_time() - start
        return result

    model = timed("surrogate_s", lambda: fit_surrogate(levels, values, walks, value, 2 * n_groups))
    best = timed("solve_s", lambda: k_best(problem, 8))[0]
    guided = problem if model is None else replace(problem, value=model)
    timed("guided_s", lambda: k_best(guided, 8))
    timed("neighbours_s", lambda: neighbours(guided, best.choice, 24))
    with tempfile.TemporaryDirectory() as folder:
        memo = Memo(Path(folder) / "memo.sqlite", print)
        vectors = {f"{i:064d}": rng.random(512).astype(np.float32) for i in range(len(levels))}
        timed("memo_s", lambda: (memo.put_many("0" * 64, vectors), memo.get_many("0" * 64, list(vectors))))
    found["kept_surrogate"] = float(model is not None)
    found["peak_mb"] = peak_mb() - before
    return found | of_report(n_groups)


def of_samples(n_samples: int, n_workers: int = 1) -> dict[str, float]:
    """A whole run on so many images, and its peak of memory beyond network and libraries. Its budget asks for a
    mixture, so that contributions are taken."""
    import torch
    from torch import nn

    import hwsmpq
    from hwsmpq.pipeline.optimize import optimize

    class Images(torch.utils.data.Dataset):
        """Tiles of colours; the label is the colour that there is most of."""

        def __len__(self) -> int:
            return n_samples

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            tiles = np.random.default_rng(i).random((N_COLOURS, TILE, TILE), dtype=np.float32)
            image = tiles.repeat(SIZE // TILE, axis=1).repeat(SIZE // TILE, axis=2)
            return torch.from_numpy(image), int(tiles.sum((1, 2)).argmax())

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, N_COLOURS),
    ).eval()
    with torch.no_grad():  # the first channels carry the mean of every colour to the logits
        for layer in (model[0], model[2]):
            layer.weight[:3] = 0
            layer.bias[:3] = 0
            for colour in range(N_COLOURS):
                layer.weight[colour, colour] = 1 / 16
        model[6].weight.zero_()
        model[6].bias.zero_()
        model[6].weight[:, :N_COLOURS] = 50 * torch.eye(N_COLOURS)
    warm = torch.utils.data.TensorDataset(*map(torch.stack, zip(*[
        (Images()[i][0], torch.tensor(Images()[i][1])) for i in range(64)
    ], strict=True)))
    small: dict[str, Any] = {
        "ladder": ("int8", "fp32"), "timing_seconds": 2.0, "n_mixtures": 3, "cost": "bitops", "workers": n_workers,
        "bitops": 6e8,  # of 1.0e8 in int8 and 1.6e9 in fp32
    }
    with tempfile.TemporaryDirectory() as folder:
        # Once on few samples: libraries are loaded and engines compiled.
        optimize(hwsmpq.Task(model, warm, warm), Path(folder) / "warm", **small)
        start = time.process_time()
        task = hwsmpq.Task(model, Images(), Images(), name=f"{n_samples} images")
        with Memory() as memory:
            certificate = optimize(task, Path(folder) / "run", **small)
        return {
            "processes": n_workers,
            "cpu_s": time.process_time() - start, "n_reported": certificate.accuracy.n_samples,
            "metric": certificate.accuracy.engine, "verified": float(certificate.verified),
            "gigabytes_of_data": n_samples * N_COLOURS * SIZE**2 * 4 / 1e9, "peak_mb": memory.most - memory.before,
        }


CASES: dict[str, Callable[[int], dict[str, float]]] = {
    "groups": of_groups, "samples": of_samples, "two": lambda n: of_samples(n, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--samples", type=int, nargs="*", default=[1000, 10_000, 50_000])
    parser.add_argument("--two", type=int, nargs="*", default=[50_000], help="samples of runs with two processes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(CASES[asked.case[0]](int(asked.case[1]))))
        return
    rows = []
    for kind in CASES:
        for n in getattr(asked, kind):
            command = [sys.executable, __file__, "--case", kind, str(n)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append({kind: n, **json.loads(done.stdout.splitlines()[-1])})
            print("  ".join(f"{name} {value:,.4g}" for name, value in rows[-1].items()), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

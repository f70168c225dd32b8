"""Build engines: assignment -> Q/DQ ONNX -> the target's engine files."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hwsmpq.artifacts import file_digest
from hwsmpq.device.runtime import Engine
from hwsmpq.engine.structure import differences
from hwsmpq.hardware.stored import stored_in_onnx
from hwsmpq.hardware.target import Target
from hwsmpq.lock import BUILDING
from hwsmpq.model.capture import Captured
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.types import REFERENCE, Assignment, LayerAudit, Manifest, Ranges

ONNX_FILE = "qdq.onnx"


@dataclass(frozen=True)
class _Built:
    """The files of an engine, and the seconds that building it took."""

    folder: Path
    seconds: float


class Builder:
    """Builds engines of one captured network on one target; the float ONNX is exported once.

    Args:
        target: what they are built for, which computes with ``threads`` threads and ``streams`` streams.
        batch: samples that they take at once.

    Attributes:
        target: as given.
    """

    _takes_any_batch = False

    def __init__(
        self, captured: Captured, ranges: Ranges, scheme: Scheme, target: Target, batch: int = 1, threads: int = 1,
        streams: int = 1,
    ) -> None:
        self._captured, self._ranges, self._scheme = captured, ranges, scheme
        self.target, self.batch, self._threads, self._streams = target, batch, threads, streams
        self._fp32_onnx: bytes | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="hwsmpq-")
        self._built: dict[frozenset[tuple[str, str]], _Built] = {}

    def of_any_batch(self) -> Builder:
        """The same for engines that take any number of samples at once."""
        other = copy.copy(self)
        other._takes_any_batch, other._fp32_onnx, other._built = True, None, {}
        return other

    def write(self, assignment: Assignment, folder: Path) -> None:
        """Write the Q/DQ ONNX file and the engine files of an assignment into ``folder``."""
        onnx = folder / ONNX_FILE
        self.write_onnx(assignment, onnx)
        self.target.build(onnx, folder)

    def write_onnx(self, assignment: Assignment, path: Path) -> None:
        """Write the Q/DQ ONNX file of an assignment."""
        # They load libraries for ONNX files, half a second, which stages before the first engine need not wait for.
        from hwsmpq.quantize.onnx_export import export_onnx
        from hwsmpq.quantize.qdq import write_qdq

        if self._fp32_onnx is None:
            batch = None if self._takes_any_batch else self.batch
            self._fp32_onnx = self.target.rewrite(export_onnx(self._captured, batch))
        write_qdq(
            self._fp32_onnx, self._captured, assignment, self._ranges, self._scheme, path, self.target.form
        )

    def engine(self, assignment: Assignment) -> Engine:
        """A loaded engine whose files live as long as this builder, which builds it once."""
        return self.target.load(self._built_of(assignment).folder)

    def is_in(self, folder: Path, assignment: Assignment) -> bool:
        """Whether the files in a folder are those of the engine of an assignment, byte for byte."""
        built = {folder / one.name: one for one in self._built_of(assignment).folder.iterdir()}
        return all(other.is_file() and file_digest(other) == file_digest(one) for other, one in built.items())

    def _built_of(self, assignment: Assignment) -> _Built:
        key = frozenset(assignment.items())
        if key not in self._built:
            folder = Path(tempfile.mkdtemp(dir=self._scratch.name))
            start = time.perf_counter()
            self.write(assignment, folder)
            self._built[key] = _Built(folder, time.perf_counter() - start)
        return self._built[key]

    def untouched(self) -> Engine:
        """The loaded engine that the runtime makes of the network by itself, built once too."""
        return self.target.load_plainly(self._untouched)

    @cached_property
    def _untouched(self) -> Path:
        from hwsmpq.quantize.onnx_export import export_onnx
        from hwsmpq.quantize.qdq import write_qdq

        folder = Path(tempfile.mkdtemp(dir=self._scratch.name))
        write_qdq(
            export_onnx(self._captured, self.batch), self._captured, self._captured.network.uniform(REFERENCE),
            self._ranges, self._scheme, folder / ONNX_FILE,
        )
        self.target.build_untouched(folder / ONNX_FILE, folder)
        return folder

    @contextmanager
    def temporary(self, assignment: Assignment) -> Iterator[Engine]:
        """A loaded engine whose files are gone after the block, unless it was there before."""
        if frozenset(assignment.items()) in self._built:
            yield self.engine(assignment)
            return
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as name:
            self.write(assignment, Path(name))
            yield self.target.load(Path(name))

    def deliver(self, assignment: Assignment, folder: Path) -> Manifest:
        """Write the engine of a plan into ``folder``, replacing what is there, and audit every layer. One that this
        builder has built is the one that is delivered."""
        with tempfile.TemporaryDirectory(prefix=BUILDING, dir=_existing(folder.parent)) as name:
            fresh, built = Path(name) / folder.name, self._built_of(assignment)
            shutil.copytree(built.folder, fresh)
            layers = self.audit(assignment, self.target.load(fresh), fresh)
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
        return Manifest(
            target=self.target.name,
            assignment=assignment,
            build_seconds=built.seconds,
            n_bytes=sum(path.stat().st_size for path in folder.iterdir() if not path.name.startswith(ONNX_FILE)),
            files={path.name: file_digest(path) for path in sorted(folder.iterdir())},
            layers=layers,
            batch=self.batch,
            threads=self._threads,
            streams=self._streams,
            outputs=self._captured.form.names,
        )

    def audit(self, assignment: Assignment, engine: Engine, folder: Path | None = None) -> tuple[LayerAudit, ...]:
        """What every layer was meant to run in and what it runs in, read back from the engine of an assignment, and
        what its files in ``folder`` hold otherwise than they should."""
        network = self._captured.network
        realised = engine.realised([layer.name for layer in network.layers])
        differs = {} if folder is None else self._differences(assignment, folder)
        return tuple(
            LayerAudit(
                layer.name, assignment[network.group_of(layer.name)], realised[layer.name], differs.get(layer.name, "")
            )
            for layer in network.layers
        )

    def _differences(self, assignment: Assignment, folder: Path) -> dict[str, str]:
        """Of the engine's files, and of the one that they were made from, which any target leaves readable."""
        layers, found = self._captured.network.layers, dict[str, str]()
        for stored in (stored_in_onnx(folder / ONNX_FILE, layers), self.target.stored(folder, layers)):
            found |= differences(self._captured, self._ranges, self._scheme, assignment, stored)
        return found


def _existing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

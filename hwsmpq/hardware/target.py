"""What a hardware target must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import HERE, Device
from hwsmpq.hardware.stored import Stored
from hwsmpq.types import PRECISIONS, REFERENCE, WITH_WEIGHTS, Kind, Ladder, Layer, Network, OnnxForm

if TYPE_CHECKING:
    from hwsmpq.model.capture import Captured

class Target(ABC):
    """A kind of hardware with its runtime.

    ``name`` is what the user calls it: the kind, and behind a colon what one of several devices or options it is.
    ``native`` are the precisions that it has kernels for, ``scheme_name`` the quantization scheme that its
    engines compute, ``has_latency`` whether its engines can be timed, ``claim`` what a certificate for it rests on.
    Its files hold quantized weights in ``least_weight_bits`` or more. Operations of ``kinds`` are layers: those that it
    has kernels for in more than one precision.
    Where ``takes_shapes``, its engines take inputs whose sizes are open.
    ``device`` is the machine that builds and runs its engines; ``anywhere`` tells whether that may be another one.
    """

    name: str
    native: tuple[str, ...]
    has_latency: bool
    claim: str
    least_weight_bits: int = 0
    kinds: frozenset[Kind] = WITH_WEIGHTS
    device: Device = HERE
    anywhere: ClassVar[bool] = False
    takes_shapes: ClassVar[bool] = False

    @property
    @abstractmethod
    def scheme_name(self) -> str:
        """The scheme, which may depend on what this machine's kernels compute exactly."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this machine cannot use the target, or None if it can."""

    @abstractmethod
    def machine(self) -> dict[str, str]:
        """What a measurement on this target depends on: device, cores, threads, runtime version, capabilities."""

    def with_threads(self, n_threads: int) -> Target:
        """The same, computing with ``n_threads`` threads.

        Raises:
            HwsmpqError: threads cannot be chosen on this target.
        """
        if n_threads == 1:
            return self
        raise HwsmpqError(
            f"target {self.name} has no choice of threads", f"--threads {n_threads} was given", "leave --threads out"
        )

    def with_streams(self, n_streams: int) -> Target:
        """The same, running ``n_streams`` inferences side by side, each with the threads of the target.

        Raises:
            HwsmpqError: the target runs one inference after the other.
        """
        if n_streams == 1:
            return self
        raise HwsmpqError(
            f"target {self.name} runs one inference after the other", f"--streams {n_streams} was given",
            "leave --streams out, or take --target openvino-cpu",
        )

    def on(self, device: Device) -> Target:
        """The same, with its engines on another machine.

        Raises:
            HwsmpqError: the target runs on this machine only.
        """
        if device is self.device:
            return self
        raise HwsmpqError(
            f"target {self.name} runs on this machine only", "--device names another one", "leave --device out"
        )

    @property
    def default_ladder(self) -> tuple[str, ...]:
        """Candidates where the user names none."""
        return ("int8", REFERENCE)

    def why_not(self, precision: str) -> str | None:
        """Why a precision that the target has elsewhere is not native here; None where it never has it."""
        return None

    def runs(self, layer: Layer, precision: str) -> bool:
        """Whether the target has a kernel for a layer at a precision."""
        return precision in self.native

    @property
    def form(self) -> OnnxForm:
        """How the ONNX files that it builds are written."""
        return OnnxForm()

    def rewrite(self, onnx: bytes) -> bytes:
        """The float ONNX file that engines of the target are built from, rewritten around what its runtime gets wrong.
        It computes the same, and layers keep their nodes."""
        return onnx

    def ties(self, captured: Captured) -> tuple[tuple[str, ...], ...]:
        """Layers that run in some precision only together: the precision of one decides whether another has a kernel.

        A layer that never runs in a precision is no tie, but what :meth:`runs` or an audit of the engine says.
        """
        return ()

    def conditions(self) -> dict[str, str]:
        """What a measurement depends on and what changes by itself, such as clocks and power state, at this moment."""
        return {}

    def workspace(self, folder: Path) -> None:  # noqa: B027 - most targets keep nothing
        """Name the run folder, where the target may keep what makes later builds choose alike."""

    @abstractmethod
    def build(self, onnx: Path, folder: Path) -> None:
        """Build the engine of a Q/DQ ONNX file (layer nodes named by layer) into ``folder``.

        Raises:
            HwsmpqError: the runtime refuses the network (names the operation) or the files cannot be written.
        """

    def stored(self, folder: Path, layers: Sequence[Layer]) -> dict[str, Stored]:
        """What the files of :meth:`build` hold of layers: of those that can be read in them."""
        return {}

    @property
    def computes_in(self) -> str:
        """What the runtime computes floats in by itself: the precision of an fp32 file without settings."""
        return REFERENCE

    def build_untouched(self, onnx: Path, folder: Path) -> None:
        """Build the engine of a network's own ONNX file as the runtime's documentation makes it. Only where
        :attr:`computes_in` is not fp32."""
        raise NotImplementedError(f"{self.name} computes fp32 files in fp32")

    def load_plainly(self, folder: Path) -> Engine:
        """Load what was built as the runtime's documentation does, with the threads of the target, likewise."""
        raise NotImplementedError(f"{self.name} computes fp32 files in fp32")

    @abstractmethod
    def load(self, folder: Path) -> Engine:
        """Load what :meth:`build` wrote.

        Raises:
            HwsmpqError: the files are missing or unreadable, or the runtime is not installed.
        """


def substitutes(target: Target, network: Network, ladder: Ladder) -> dict[str, dict[str, str]]:
    """What groups run instead of precisions that the target has no kernels for: of the ladder's precisions that all
    layers of the group run, the next above, or else the next below (not for products of activations); without any, the
    reference.

    Raises:
        HwsmpqError: no group runs in a precision of the ladder.
    """
    found: dict[str, dict[str, str]] = {}
    for group in network.groups:
        layers = network.layers_of(group.name)
        runs = [
            name for name in ladder.names
            if all(layer.takes(PRECISIONS[name]) and target.runs(layer, name) for layer in layers)
        ]
        missing = {}
        has_products = not all(layer.has_weight for layer in layers)
        for i, name in enumerate(ladder.names):
            if name not in runs:
                below = () if has_products else ladder.names[i::-1]
                nearest = [n for n in (*ladder.names[i:], *below) if n in runs]
                missing[name] = nearest[0] if nearest else REFERENCE
        if missing:
            found[group.name] = missing
    idle = [name for name in ladder.names if all(name in found.get(g, {}) for g in network.group_names)]
    if idle:
        kinds_of_layers = ", ".join(sorted({layer.kind for layer in network.layers}))
        raise HwsmpqError(
            f"no layer of the network runs in {', '.join(idle)} on {target.name}",
            f"its layers are of kind {kinds_of_layers}", "leave it out of --ladder",
        )
    return found

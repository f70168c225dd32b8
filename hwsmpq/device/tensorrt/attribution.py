"""Times of an engine's kernels as times of the network's layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.device.tensorrt.kernels import HELPERS, Kernel, computing, is_hidden
from hwsmpq.errors import HwsmpqError


def layer_ms(kernel_ms: Mapping[str, float], kernels: Sequence[Kernel], layers: Sequence[str]) -> dict[str, float]:
    """Milliseconds a layer, and under UNATTRIBUTED what belongs to none; the sum is that of the kernels.

    A kernel that computes several layers shares its time equally among them. A helper kernel counts to a layer where it
    names no other; otherwise it combines or converts what belongs to several. Layers that no kernel names share the
    time of the kernels that name nothing.

    Args:
        kernel_ms: time by the name of the kernel.
        kernels: the engine's kernels.
        layers: the layers to attribute times to.

    Raises:
        HwsmpqError: no kernel computes a layer, or the one that does has no time.
    """
    hidden = [layer for layer in layers if is_hidden(kernels, layer)]
    computed_by = {layer: computing(kernels, layer) for layer in layers if layer not in hidden}
    for layer, kernel in computed_by.items():
        if kernel.name not in kernel_ms:
            some = ", ".join(sorted(kernel_ms)[:5])
            raise HwsmpqError(
                f"no time for layer {layer!r}",
                f"the profiler reports no kernel {kernel.name!r}, but {some} and others",
                "report the version of the runtime (`hwsmpq targets` prints it)",
            )
    owners: dict[str, set[str]] = defaultdict(set)
    for kernel in kernels:
        named = hidden if kernel.is_opaque else [layer for layer in layers if layer in kernel.layers]
        if kernel.kind in HELPERS and len(named) > 1:
            named = [layer for layer in named if computed_by[layer] == kernel]
        owners[kernel.name].update(named)
    total = dict.fromkeys([*layers, UNATTRIBUTED], 0.0)
    for name, ms in kernel_ms.items():
        sharing = owners[name] or {UNATTRIBUTED}
        for owner in sharing:
            total[owner] += ms / len(sharing)
    return total

"""Reconstruction: block by block, outputs of the quantized network are brought back to those of the network.

Li et al. 2021 (BRECQ, arXiv 2102.05426): what is learned of one block (the rounding of its weights, the steps of its
activations, its biases) minimises the squared error of the block's outputs, on inputs as the quantized network gives
them. As in QDrop, each entry of these is that of the unquantized network at random. Linear layers of which the weight
alone is in integers are rounded by GPTQ before (:mod:`hwsmpq.train.gptq`). No labels are needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwsmpq.model.capture import Captured
from hwsmpq.train.blocks import Block, blocks_of
from hwsmpq.train.checkpoint import check_device, go_on, store
from hwsmpq.train.gptq import compensate
from hwsmpq.train.learned import Learned
from hwsmpq.train.network import QuantizedNetwork
from hwsmpq.train.propagate import Propagation
from hwsmpq.types import BlockOutcome, Layer, Reconstruction

MOST_SAMPLES = 1024
"""What a block reads and gives is kept in memory for all of them."""
SHARE_HELD_OUT = 0.125
"""Of the samples: they say whether what was learned of a block is kept."""
DROP = 0.5
"""Probability that an activation is left in full precision."""
RATES = {"steps": 0.004, "biases": 0.02}
"""Learning rates of Adam, relative to the size of what learns; they fall to 0 along a cosine."""
N_TIMED = 4
"""Iterations that say how many fit into a block's share of the time; the first is not timed."""
MACS_AN_ENTRY = 128
"""What it takes to quantize an entry of a layer's input, forward and backward, in multiplications of its product
(measured on EfficientNet-Lite0): every block gets about as many iterations."""
MOST_ITERATIONS = 20_000
"""A block gets no more, whatever time there is (Li et al. 2021 take as many)."""


def reconstruct(
    network: QuantizedNetwork, captured: Captured, inputs: tuple[Tensor, ...], recipe: Reconstruction,
    device: str = "cpu", checkpoint: Path | None = None, identity: str = "",
    progress: Callable[[int, int, str], None] | None = None, clock: Callable[[], float] = time.monotonic,
) -> tuple[BlockOutcome, ...]:
    """Learn rounding, steps and biases of a network in place, and leave it on the CPU.

    An interrupted reconstruction that is started again with the same arguments goes on after its last finished block.
    Where iterations are counted, not minutes, it ends as if it had not been interrupted, bit for bit on the same
    machine with as many threads.

    Args:
        captured: the network as it is; nothing of it is changed.
        inputs: samples, (n, ...) an argument of the network, of which at most :data:`MOST_SAMPLES` are taken.
        checkpoint: where to keep what goes on; not kept by default.
        identity: of everything that the result depends on; a checkpoint of another one is not gone on with.
        progress: called with (blocks done, blocks in all, what the last one came to).
        clock: seconds, which minutes are counted by.

    Raises:
        HwsmpqError: the device is not there, or the checkpoint cannot be read.
    """
    check_device(device)
    layers = {captured.layer_nodes[layer.name].name: layer for layer in captured.network.weighted}
    blocks = blocks_of(network.graph, set(layers))
    network.to(device).requires_grad_(False)
    outcomes: list[BlockOutcome] = []

    def restore(state: dict[str, Any]) -> None:
        network.load_state_dict(state["network"])
        network.fixed_scales = state["scales"]
        outcomes.extend(BlockOutcome(**{**one, "layers": tuple(one["layers"])}) for one in state["outcomes"])

    go_on(checkpoint, identity, restore)
    samples = Propagation(network, captured, tuple(x[:MOST_SAMPLES] for x in inputs), SHARE_HELD_OUT, device)
    of_block = [[layers[name] for name in block.layers] for block in blocks]
    work = [sum(_work(layer) for layer in some) for some in of_block]
    began, spent = clock(), sum(one.seconds for one in outcomes)
    for index, block in enumerate(blocks):
        if progress:
            progress(index, len(blocks), _said(outcomes))
        samples.enter(block)
        if index >= len(outcomes):
            seconds = None
            if recipe.minutes is not None:
                left = max(60 * recipe.minutes - spent - (clock() - began), 0.0)
                seconds = left * work[index] / max(sum(work[index:]), 1)
            with torch.random.fork_rng():
                torch.manual_seed((recipe.seed << 20) + index)
                outcomes.append(_learn_block(network, block, of_block[index], samples, recipe, seconds, clock))
            if checkpoint is not None:
                store(checkpoint, identity, {
                    "network": network.state_dict(), "scales": network.fixed_scales,
                    "outcomes": [asdict(one) for one in outcomes],
                })
        samples.leave(block)
    if progress:
        progress(len(blocks), len(blocks), _said(outcomes))
    network.to("cpu")
    return tuple(outcomes)


def _learn_block(
    network: QuantizedNetwork, block: Block, layers: list[Layer], samples: Propagation, recipe: Reconstruction,
    seconds: float | None, clock: Callable[[], float],
) -> BlockOutcome:
    """Learn one block, and undo it where the error on held-out samples is no lower."""
    began, before = clock(), samples.error(block)
    learned, n, after = Learned(network, block), 0, before
    undo = compensate(network, block, samples)
    if learned.is_anything:
        with learned.learning(DROP):
            n = _descend(block, learned, samples, recipe, seconds, clock)
    if learned.is_anything or undo:
        after = samples.error(block)
        if not after < before:
            learned.undo()
            for one in undo:
                one()
    return BlockOutcome(tuple(layer.name for layer in layers), n, before, after, clock() - began)


def _descend(
    block: Block, learned: Learned, samples: Propagation, recipe: Reconstruction, seconds: float | None,
    clock: Callable[[], float],
) -> int:
    """Minimise the error of a block; the number of iterations."""
    optimizer = torch.optim.Adam(learned.parameter_groups(RATES))
    first = [group["lr"] for group in optimizer.param_groups]
    n, done, began = recipe.n_iterations, 0, 0.0
    while done < n:
        share = done / n
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.zero_grad()
        samples.loss(block, recipe.batch_size, DROP).backward()
        optimizer.step()
        learned.descend((1 - share) / n)  # half a level in all, as far as an offset reaches
        learned.constrain()
        done += 1
        if seconds is not None and done == 1:
            began, n = clock(), MOST_ITERATIONS
        if seconds is not None and done == N_TIMED:
            one = (clock() - began) / (N_TIMED - 1)
            n = min(max(int(seconds / one), N_TIMED), MOST_ITERATIONS)
    return done


def _work(layer: Layer) -> int:
    """What an iteration takes, as far as it can be told from shapes."""
    return layer.n_macs + MACS_AN_ENTRY * math.prod(layer.input_shape)


def _said(outcomes: list[BlockOutcome]) -> str:
    """The last block in words."""
    if not outcomes:
        return ""
    last = outcomes[-1]
    return f"{last.layers[-1]}: error {last.error_before:.3g} -> {min(last.error_before, last.error_after):.3g}"

"""The training loop: it learns, it is the same each time, and an interruption changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quantize.networks import NETWORKS, make_case
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import cross_entropy
from hwsmpq.train.fit import PATIENCE, fit
from hwsmpq.train.network import QuantizedNetwork, quantized
from hwsmpq.types import Recipe

CASE = make_case("residual")
SAMPLES = Samples(
    (torch.randn(40, *NETWORKS["residual"][1], generator=torch.Generator().manual_seed(5)),),
    torch.arange(40) % 5,
)


def objective(outputs: Tensor, batch: Samples) -> Tensor:
    return cross_entropy(outputs, batch.targets).mean()


def network() -> QuantizedNetwork:
    return quantized(CASE.captured, CASE.ranges, CASE.scheme, CASE.captured.network.uniform("w3a5"))


class Interrupted(Exception):
    pass


def stop_after(n_epochs: int):
    def progress(done: int, total: int) -> None:
        if done == n_epochs:
            raise Interrupted

    return progress


@pytest.mark.parametrize("n_before", [1, 3])
def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path: Path, n_before: int) -> None:
    recipe, whole, parts = Recipe(4, 0.02, 16, seed=3), network(), network()
    losses = fit(whole, SAMPLES, objective, recipe)
    with pytest.raises(Interrupted):
        fit(parts, SAMPLES, objective, recipe, checkpoint=tmp_path / "c.pt", progress=stop_after(n_before))
    again = network()
    assert fit(again, SAMPLES, objective, recipe, checkpoint=tmp_path / "c.pt") == losses
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert losses.losses[-1] < losses.losses[0] and losses.held_out == ()


def test_a_checkpoint_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    fit(network(), SAMPLES, objective, Recipe(1), checkpoint=tmp_path / "c.pt", identity="one")
    seen: list[int] = []
    fit(
        network(), SAMPLES, objective, Recipe(1), checkpoint=tmp_path / "c.pt", identity="two",
        progress=lambda done, total: seen.append(done),
    )
    assert seen == [0, 1]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(HwsmpqError, match=r"c\.pt cannot be read"):
        fit(network(), SAMPLES, objective, Recipe(1), checkpoint=tmp_path / "c.pt")


def test_divergence_is_an_error() -> None:
    with pytest.raises(HwsmpqError, match="diverged in epoch"):
        fit(network(), SAMPLES, lambda out, batch: objective(out, batch) * float("nan"), Recipe(2))


@pytest.mark.parametrize("device", ["nonsense", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_missing_device_is_an_error(device: str) -> None:
    with pytest.raises(HwsmpqError, match="no device"):
        fit(network(), SAMPLES, objective, Recipe(1), device)


@pytest.mark.parametrize("bad", [{"n_epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_bad_recipes(bad: dict[str, float]) -> None:
    with pytest.raises(HwsmpqError):
        Recipe(**bad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_training_on_a_gpu_ends_on_the_cpu() -> None:
    net = network()
    losses = fit(net, SAMPLES, objective, Recipe(4, 0.02, 16), "cuda")
    assert losses.losses[-1] < losses.losses[0] and {p.device.type for p in net.parameters()} == {"cpu"}


HELD_OUT = Samples((SAMPLES.inputs[0][:16] + 0.1,), SAMPLES.targets[:16])


@pytest.mark.parametrize("n_before", [1, 2])
def test_the_best_epoch_is_kept_also_after_an_interruption(tmp_path: Path, n_before: int) -> None:
    # A rate that is too high: later epochs are worse.
    recipe, whole, again = Recipe(4, 0.08, 16, seed=3), network(), network()
    course = fit(whole, SAMPLES, objective, recipe, held_out=HELD_OUT)
    assert len(course.held_out) == len(course.losses) + 1
    with torch.no_grad():
        kept = float(objective(whole(*HELD_OUT.inputs), HELD_OUT))
    assert kept == pytest.approx(min(course.held_out), rel=1e-5)
    with pytest.raises(Interrupted):
        fit(
            network(), SAMPLES, objective, recipe, checkpoint=tmp_path / "c", progress=stop_after(n_before),
            held_out=HELD_OUT,
        )
    assert fit(again, SAMPLES, objective, recipe, checkpoint=tmp_path / "c", held_out=HELD_OUT) == course
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_training_that_is_never_better_ends_early_and_changes_nothing() -> None:
    count = iter(range(1000))

    def worse(outputs: Tensor, batch: Samples) -> Tensor:
        return objective(outputs, batch) if torch.is_grad_enabled() else torch.tensor(float(next(count)))

    net, before = network(), network().state_dict()
    course = fit(net, SAMPLES, worse, Recipe(20, 0.01, 64), held_out=HELD_OUT)
    assert len(course.losses) == PATIENCE
    for (name, one), other in zip(net.state_dict().items(), before.values(), strict=True):
        assert torch.equal(one, other), name

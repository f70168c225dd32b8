"""Samples of several shapes: read, kept in order, captured once, and evaluated as each is by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from shapes import LENGTHS, SIZES, Image, Text, image_task, text_task, texts
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hwsmpq import Task
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.shapes import Ragged, buckets, chunks, joined
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator

SCHEME = get_scheme("unsigned_activations")


def rows() -> list[Tensor]:
    return [torch.full((2 + i % 3, 2), float(i)) for i in range(10)]


def test_every_sample_runs_once_with_those_of_its_shape() -> None:
    given = rows()
    seen: dict[int, Tensor] = {}
    for places, (x,) in chunks((Ragged(given),), 2):  # type: ignore[arg-type]
        assert len(x) <= 2
        seen |= dict(zip(np.arange(10)[places].tolist(), x, strict=True))
    assert sorted(seen) == list(range(10)) and all(torch.equal(seen[i], given[i]) for i in seen)
    assert [len(places) for places in buckets((Ragged(given),)).values()] == [3, 3, 4]  # type: ignore[arg-type]


def test_parts_of_one_shape_make_a_tensor_and_others_keep_their_order() -> None:
    whole = joined([torch.stack(rows()[0:1]), torch.stack(rows()[3:4]), torch.stack(rows()[1:2])])
    assert isinstance(whole, Ragged) and [int(row[0, 0]) for row in whole.rows] == [0, 3, 1]
    assert torch.equal(whole[:2], torch.stack([rows()[0], rows()[3]]))
    assert isinstance(whole[torch.tensor([2, 0])], Ragged)


class Sentences(Dataset[Any]):
    """Texts of the length that their number says."""

    def __init__(self, pads: bool) -> None:
        self.lengths = [LENGTHS[i * i % 3] for i in range(40)]
        self.pads = pads

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Any:
        return torch.full((self.lengths[i],), i), i % 3


def padded(items: list[Any]) -> Any:
    """To the longest of a batch, as a tokenizer's collator does."""
    longest = max(len(x) for x, _ in items)
    return torch.stack([nn.functional.pad(x, (0, longest - len(x))) for x, _ in items]), torch.tensor(
        [y for _, y in items]
    )


@pytest.mark.parametrize("collate", [None, padded])
def test_a_sample_has_its_own_shape_whatever_it_is_read_with(collate: Callable[..., Any] | None) -> None:
    data = Sentences(pads=collate is not None)
    loader = DataLoader(data, batch_size=16, collate_fn=collate) if collate else data
    task = Task(Text(), loader, loader, metric=lambda y, t: t, loss=lambda y, t: t, higher_is_better=True)
    search, report = task.split(0)
    for part in (search, report):
        for x, y in zip(part.inputs[0][:].rows, part.targets[:], strict=True):
            assert len(x) == data.lengths[int(x[0])] and int(x[0]) % 3 == int(y)
    assert len(report.inputs[0][:5]) == 5
    assert report.sha256() == task.split(0)[1].sha256() != search.sha256()


def captured_of(task: Task) -> Captured:
    return capture(task.model, task.calibration, task.input_names)


@pytest.mark.parametrize("build, varying", [(text_task, ((1,), (1,))), (image_task, ((2, 3),))])
def test_buckets_give_what_every_sample_gives_by_itself(build: Callable[[], Task], varying: object) -> None:
    """Simulated outputs, scores and metric, of an assignment in int8, in the order of the samples."""
    task = build()
    captured = captured_of(task)
    assert captured.varying == varying
    network = captured.network
    ranges = calibrate(captured, task.calibration, SCHEME, [8])
    simulator, int8 = Simulator(captured, ranges, SCHEME), network.uniform("int8")
    part = task.split(0)[0]
    whole = simulator.scores([int8], part.inputs, lambda out, rows: out)[0]
    alone = torch.cat([
        next(simulator.outputs([int8], tuple(x[i : i + 1] for x in part.inputs)))[1] for i in range(len(part))
    ])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = torch.cat([
            task.model(*(x[i : i + 1] for x in part.inputs)) for i in range(len(part))
        ])
    reference = simulator.scores([network.uniform("fp32")], part.inputs, lambda out, rows: out)[0]
    torch.testing.assert_close(reference, expected, rtol=0, atol=1e-5)
    scores = Evaluator(simulator, task, part, "loss", network.uniform("fp32"))([int8])[0]
    loss = nn.functional.cross_entropy(whole, part.targets, reduction="none")
    np.testing.assert_allclose(scores[: len(part)], -loss, atol=1e-5)
    assert (scores[len(part) :] == (whole.argmax(1) == part.targets).numpy()).all()


def test_ranges_are_those_of_all_shapes() -> None:
    """A loud sample of one shape alone widens them."""
    task = image_task()
    loud = list(task.calibration[0].rows)
    places = [i for i, x in enumerate(loud) if tuple(x.shape[1:]) == SIZES[0]]
    loud[places[0]] = 10 * loud[places[0]]
    captured = captured_of(task)
    first = captured.network.layers[0].name
    quiet, wide = (calibrate(captured, (x,), SCHEME, [8], "minmax") for x in (task.calibration[0], Ragged(loud)))
    assert wide.layers[first].maximum == pytest.approx(float(loud[places[0]].max()))
    assert wide.layers[first].maximum > 5 * quiet.layers[first].maximum


class Fixed(nn.Module):
    """Adds places of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.classes = nn.Embedding(50, 8), nn.Linear(8, 3)
        self.places = nn.Parameter(torch.rand(LENGTHS[-1], 8))

    def forward(self, ids: Tensor) -> Tensor:
        return self.classes((self.words(ids) + self.places).mean(1))


class Pixels(nn.Module):
    """Logits of every pixel: as many as the image has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def ids(*lengths: int) -> tuple[Any]:
    return (joined([texts(2, length)["input_ids"] for length in lengths]),)


@pytest.mark.parametrize("model, inputs, message", [
    (Fixed(), ids(8, 24), "fixes a size that differs between samples"),
    (Pixels(), (joined([torch.rand(2, 3, *size) for size in SIZES]),), "output 'output' has no size of its own"),
])
def test_what_takes_one_shape_is_refused(model: nn.Module, inputs: Any, message: str) -> None:
    with pytest.raises(HwsmpqError, match=message):
        capture(model, inputs)


def test_a_shape_that_calibration_does_not_show_is_refused() -> None:
    evaluation = [(torch.rand(8, 3, *size), torch.zeros(8, dtype=torch.long)) for size in SIZES * 2]
    task = Task(Image(), [(torch.rand(8, 3, *SIZES[0]),)], evaluation)
    with pytest.raises(HwsmpqError, match=r"(?s)a sample of the data is \(3, 32, 32\) .* calibration data"):
        _ = task.split(0)[1].inputs[0][:]


def test_labels_of_several_shapes_are_refused() -> None:
    evaluation = [(torch.rand(8, 3, *size), torch.zeros(8, *size)) for size in SIZES * 2]
    task = Task(Image(), evaluation, evaluation)
    with pytest.raises(HwsmpqError, match="labels of the evaluation data differ in shape"):
        _ = task.split(0)[0].targets

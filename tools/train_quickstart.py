"""Train the quickstart network and write its two files; about one minute on one core.

Needs scikit-learn, whose copy of the digits is split once by a fixed seed: the network is trained on the first
part only, and the calibration digits come from that part too.
"""

from __future__ import annotations

import math

import torch
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from hwsmpq.artifacts import write_bytes
from hwsmpq.quickstart.network import DigitsResNet
from hwsmpq.quickstart.task import DIGITS_FILE, WEIGHTS_FILE, prepare

N_TRAINING = 1197
N_CALIBRATION = 256
SEED = 0
N_EPOCHS = 16
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


def split(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training digits and labels, evaluation digits and labels; digits are uint8 (n, 8, 8) with values 0..16."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(seed))
    digits = torch.tensor(bunch.images, dtype=torch.uint8)[order]
    labels = torch.tensor(bunch.target, dtype=torch.uint8)[order]
    return digits[:N_TRAINING], labels[:N_TRAINING], digits[N_TRAINING:], labels[N_TRAINING:]


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to one pixel of the 16x16 grid, the same way for a whole batch."""
    rows, columns = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(images, (rows, columns), dims=(2, 3))


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """AdamW with a one-cycle schedule on cross-entropy with label smoothing."""
    n_batches = math.ceil(len(images) / BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=N_EPOCHS * n_batches)
    model.train()
    for epoch in range(N_EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(shifted(images[batch])), labels[batch], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)
    model.eval()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    digits, labels, evaluation, evaluation_labels = split(SEED)
    model = DigitsResNet()
    train(model, prepare(digits), labels.long())
    with torch.no_grad():
        correct = model(prepare(evaluation)).argmax(1) == evaluation_labels
    print(f"{sum(p.numel() for p in model.parameters())} parameters; held-out accuracy {correct.double().mean():.4f}")
    write_bytes(WEIGHTS_FILE, save({k: v for k, v in model.state_dict().items() if "num_batches" not in k}))
    parts = {
        "calibration": digits[:N_CALIBRATION],
        "evaluation": evaluation,
        "evaluation_labels": evaluation_labels,
    }
    write_bytes(DIGITS_FILE, save({name: part.contiguous() for name, part in parts.items()}))


if __name__ == "__main__":
    main()

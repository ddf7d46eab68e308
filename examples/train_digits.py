"""Train the small demo network on scikit-learn's digits and save its weights.

    python examples/train_digits.py --out digits_cnn.safetensors

It takes a few seconds on one core. The weights serve as `model.checkpoint` of a job with
`model: {name: digits_cnn}` and `data: digits`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autoprune.data.dataset import Dataset
from autoprune.data.digits import Digits
from autoprune.job.spec import ModelSpec, SplitSpec
from autoprune.models.catalog import build_model

EPOCHS = 12
BATCH_SIZE = 64
LEARNING_RATE = 0.05


def main() -> None:
    """Train, print the accuracy on the test images, and write the weights."""
    parser = argparse.ArgumentParser(description="Train digits_cnn on scikit-learn's digits.")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    out: Path = parser.parse_args().out
    if out.exists():
        print(f"{out} exists already: nothing to train (delete the file to train again)")
        return
    torch.set_num_threads(1)
    raw = Digits().load()
    # The two halves of the test part, of which a search would only report on the second.
    half = len(raw.test_labels) // 2
    splits = SplitSpec(search=half, report=len(raw.test_labels) - half)
    dataset = Dataset.from_raw(raw, splits)
    model = build_model(ModelSpec(name="digits_cnn"), dataset.num_classes, dataset.input_shape)
    train(model, dataset)
    test_inputs = torch.cat([dataset.search.inputs, dataset.report.inputs])
    test_labels = torch.cat([dataset.search.labels, dataset.report.labels])
    share = accuracy(model, dataset.normalise(test_inputs), test_labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out)
    print(f"test accuracy {share:.2%} on {len(test_labels)} images; weights written to {out}")


def train(model: nn.Module, dataset: Dataset) -> None:
    """Train `model` on the training part with SGD and a one-cycle learning rate."""
    inputs, labels = dataset.normalise(dataset.train.inputs), dataset.train.labels
    steps = EPOCHS * (len(labels) // BATCH_SIZE)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    shuffle = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(labels), generator=shuffle)
        for start in range(0, len(labels) - BATCH_SIZE + 1, BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the share of `inputs` that `model` labels rightly."""
    with torch.inference_mode():
        return float((model(inputs).argmax(1) == labels).float().mean())


if __name__ == "__main__":
    main()

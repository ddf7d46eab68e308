"""Train a small multilayer perceptron on UCI Adult and save its weights.

    python examples/train_adult.py --data PATH --out adult_mlp.safetensors

PATH is the directory that holds `adult.data` and `adult.test`. It takes less than a minute
on one core. The weights serve as `model.checkpoint` of a job with `model: {name: mlp}` and
`data: {name: adult}`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from train_digits import accuracy, train

from autoprune.data.adult import Adult
from autoprune.data.dataset import Dataset
from autoprune.job.spec import ModelSpec, SplitSpec
from autoprune.models.catalog import build_model


def main() -> None:
    """Train, print the accuracy on the test part, and write the weights."""
    parser = argparse.ArgumentParser(description="Train mlp on UCI Adult.")
    parser.add_argument("--data", required=True, help="the directory of adult.data and adult.test")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    raw = Adult(path=options.data).load()
    dataset = Dataset.from_raw(raw, SplitSpec())
    model = build_model(ModelSpec(name="mlp"), dataset.num_classes, dataset.input_shape)
    train(model, dataset)
    test_inputs, test_labels = torch.from_numpy(raw.test_inputs), torch.from_numpy(raw.test_labels)
    share = accuracy(model, test_inputs, test_labels)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), options.out)
    print(f"test accuracy {share:.2%} on {len(test_labels)} rows; weights written to {options.out}")


if __name__ == "__main__":
    main()

"""Networks of all kinds as Python source: what learns, is shared, is named oddly, or writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tests.written_source import exported
from tests.zoo import entry


class Dropping(nn.Module):
    """Drops in a layer, in a function, and within attention."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.attend = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(x, x, x, need_weights=False)[0]
        x = functional.dropout(self.drop(x), 0.25, self.training)
        logits: Tensor = self.out(x.mean(1))
        return logits


def test_what_drops_in_training_still_does(tmp_path: Path) -> None:
    written, code = exported(Dropping(), torch.randn(4, 3, 8), tmp_path)
    assert "self.drop(" in code
    assert "0.25, self.training)" in code
    assert "dropout_p=0.5 if self.training else 0.0" in code
    inputs = torch.randn(4, 3, 8)
    assert torch.equal(written(inputs), written(inputs))
    written.train()
    assert not torch.equal(written(inputs), written(inputs))


class Tied(nn.Module):
    """Runs one layer under two names, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.first = nn.Linear(6, 6)
        self.inner = nn.ModuleList([nn.Linear(6, 6), self.first])
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.embed(x))
        for each in self.inner:
            x = torch.relu(each(x))
        logits: Tensor = self.out(x.sum(1))
        return logits


def test_weights_with_two_names_stay_one(tmp_path: Path) -> None:
    written, _ = exported(Tied(), torch.arange(12).reshape(4, 3) % 11, tmp_path)
    assert written.out.weight is written.embed.weight
    assert written.inner[1] is written.first
    assert len(list(written.parameters())) == len(list(Tied().parameters()))


class Odd(nn.Module):
    """Has names that are no identifiers, and tensors of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module('it\'s "quoted"\n', nn.Linear(4, 4))
        self.__dict__["called"] = self._modules['it\'s "quoted"\n']
        self.class_ = nn.ParameterList([torch.ones(4), torch.full((4,), 2.0)])
        self.register_parameter("lambda", nn.Parameter(torch.ones(4)))
        self.register_buffer("_Odd__kept", torch.arange(4.0))
        self.register_buffer("lost", torch.arange(4) % 3, persistent=False)
        self.register_buffer("constant_0", torch.ones(1))
        self.plain = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.called(x) + getattr(self, "lambda") * self.class_[1] - self.class_[0]
        x = x[:, self.lost] + self.__kept * self.plain * torch.tensor(0.5)
        return x * self.constant_0


def test_odd_names_and_constants(tmp_path: Path) -> None:
    written, _ = exported(Odd(), torch.randn(3, 4), tmp_path)
    assert written.lost.dtype == torch.int64
    stored = load_file(tmp_path / "network.safetensors")
    assert set(written.state_dict()) < set(stored)


class Writing(nn.Module):
    """Writes into its values and counts, and stacks lists of layers with gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.Identity(),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        self.norm = nn.GroupNorm(2, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        y = x[:, 1:3]
        y.mul_(2.0)
        x += functional.hardswish(self.norm(x))
        logits: Tensor = self.out(torch.relu_(x).mean((2, 3)))
        return logits


def test_what_writes_into_values_does_so_in_the_same_order(tmp_path: Path) -> None:
    exported(Writing(), torch.randn(3, 3, 9, 9), tmp_path)


class DropsInPlace(nn.Module):
    """Writes into values within a sequence that is called as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(400, 3, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x * 1.0)
        return logits


def test_what_a_sequence_does_is_done_once(tmp_path: Path) -> None:
    written, code = exported(DropsInPlace(), torch.randn(3, 400), tmp_path)
    assert "return self.head(x * 1.0)" in code
    assert "dropout" not in code.partition("def forward")[2]
    inputs = torch.ones(1, 400)
    with torch.no_grad():
        written.head[1].weight.fill_(1.0)
        # Dropping twice would leave a quarter, four times as large, which varies more.
        spread = torch.stack([written.train()(inputs) for _ in range(200)]).std()
    assert 15 < float(spread) < 25


def test_a_sequence_is_a_sequence(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    written, code = exported(layers, torch.randn(3, 3, 4), tmp_path)
    assert "class Network(nn.Sequential):" in code
    assert isinstance(written[1], nn.Linear)


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
@pytest.mark.parametrize("begins", [False, True])
def test_recurrent_layers(kind: type[nn.Module], begins: bool, tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = kind(3, 5, num_layers=2, bidirectional=True, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            start = x.new_ones(4, x.shape[0], 5)
            given = (start, start * 2) if kind is nn.LSTM else start
            every, last = self.cells(x, given) if begins else self.cells(x)
            state: Tensor = last[1] if kind is nn.LSTM else last
            return every.mean(1) + state.transpose(0, 1).flatten(1)[:, :10]

    exported(Recurrent(), torch.randn(3, 4, 3), tmp_path)


@pytest.mark.parametrize("name", ["cifar_resnet20_lambda", "resnet18", "mobilenet_v2", "swin"])
@pytest.mark.filterwarnings("ignore")
def test_networks_of_others(name: str, tmp_path: Path) -> None:
    network, inputs = entry(name).build()
    assert isinstance(inputs, Tensor)
    _, code = exported(network, torch.randn(2, *inputs.shape[1:]), tmp_path)
    assert max(map(len, code.splitlines())) <= 100

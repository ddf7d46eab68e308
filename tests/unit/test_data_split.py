"""How a job's data is split: disjoint, stratified, balanced wherever it is cut, repeatable."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from autoprune.contracts.data import RawData
from autoprune.data._strata import stratified_order
from autoprune.data.dataset import Dataset, Part
from autoprune.errors import DataError
from autoprune.job.spec import SplitSpec

UNEVEN = (70, 20, 10, 1)


def numbered(train: tuple[int, ...], test: tuple[int, ...]) -> RawData:
    """Return data whose every input is its own number; test inputs count from 1,000,000.

    `train` and `test` give the size of each class; classes lie one after the other.
    """

    def part(sizes: tuple[int, ...], first: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.arange(first, first + sum(sizes), dtype=np.float32)[:, None]
        return inputs, np.repeat(np.arange(len(sizes)), sizes)

    return RawData(*part(train, 0), *part(test, 1_000_000))


def numbers(part: Part) -> list[int]:
    return [int(each) for each in part.inputs[:, 0]]


def counts(labels: Tensor, classes: int) -> list[int]:
    return torch.bincount(labels, minlength=classes).tolist()


@pytest.mark.parametrize(
    "cut",
    [
        lambda order, size: order[:size],
        lambda order, size: order[len(order) - size :],
        lambda order, size: order[(len(order) - size) // 2 :][:size],
    ],
    ids=["prefix", "suffix", "window"],
)
def test_every_cut_of_the_order_is_balanced(
    cut: Callable[[np.ndarray, int], np.ndarray],
) -> None:
    labels = np.repeat(np.arange(4), UNEVEN)
    order = stratified_order(labels, np.random.default_rng(3))
    assert sorted(order) == list(range(len(labels)))
    shares = np.asarray(UNEVEN) / len(labels)
    for size in range(1, len(labels) + 1):
        found = np.bincount(labels[cut(order, size)], minlength=4)
        assert np.abs(found - shares * size).max() < 3.0, size


def test_the_order_is_random_within_classes() -> None:
    order = stratified_order(np.zeros(100, dtype=np.int64), np.random.default_rng(0))
    assert list(order) != sorted(order)
    assert abs(np.corrcoef(order, np.arange(100))[0, 1]) < 0.3


def test_search_and_report_are_disjoint_and_from_the_test_part() -> None:
    raw = numbered((5, 5, 5, 5), UNEVEN)
    dataset = Dataset.from_raw(raw, SplitSpec(search=40, report=50))
    search, report = set(numbers(dataset.search)), set(numbers(dataset.report))
    assert (len(search), len(report)) == (40, 50)
    assert not search & report
    assert min(search | report) >= 1_000_000
    assert sorted(numbers(dataset.train)) == list(range(20))


def test_labels_stay_with_their_inputs() -> None:
    raw = numbered((30, 10, 5), UNEVEN[:3])
    dataset = Dataset.from_raw(raw, SplitSpec())
    for part, labels, first in (
        (dataset.train, raw.train_labels, 0),
        (dataset.search, raw.test_labels, 1_000_000),
        (dataset.report, raw.test_labels, 1_000_000),
    ):
        expected = [labels[number - first] for number in numbers(part)]
        assert part.labels.tolist() == expected
        assert part.labels.dtype == torch.int64


def test_halves_of_ten_even_classes_hold_exactly_half_of_each() -> None:
    raw = numbered((10,) * 10, (1000,) * 10)
    dataset = Dataset.from_raw(raw, SplitSpec(search=5000, report=5000, seed=7))
    assert counts(dataset.search.labels, 10) == [500] * 10
    assert counts(dataset.report.labels, 10) == [500] * 10


@pytest.mark.parametrize("source", ["test", "train"])
def test_every_prefix_of_every_part_is_balanced(source: str) -> None:
    raw = numbered((120,) * 5, (120,) * 5)
    splits = SplitSpec.model_validate({"source": source, "search": 150, "report": 200})
    dataset = Dataset.from_raw(raw, splits)
    for part in (dataset.train, dataset.search, dataset.report):
        for size in range(1, len(part) + 1):
            found = counts(part.labels[:size], 5)
            assert max(found) - min(found) <= 3, size


def test_source_train_trains_on_the_rest() -> None:
    raw = numbered((60, 40), (9, 9))
    dataset = Dataset.from_raw(raw, SplitSpec(source="train", search=20, report=0.3))
    parts = [numbers(each) for each in (dataset.train, dataset.search, dataset.report)]
    assert [len(each) for each in parts] == [50, 20, 30]
    assert sorted(itertools.chain(*parts)) == list(range(100))


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    raw = numbered((50, 50), (50, 50))
    first, again, other = (
        Dataset.from_raw(raw, SplitSpec(search=30, report=30, seed=seed)) for seed in (1, 1, -2)
    )
    for name in ("train", "search", "report"):
        drawn = numbers(getattr(first, name))
        assert numbers(getattr(again, name)) == drawn
        assert numbers(getattr(other, name)) != drawn


def test_each_held_out_part_is_independent_of_the_size_of_the_other() -> None:
    raw = numbered((5, 5), (50, 50))
    narrow, wide = (Dataset.from_raw(raw, SplitSpec(search=v, report=40)) for v in (10, 60))
    assert numbers(narrow.report) == numbers(wide.report)
    assert numbers(narrow.search) == numbers(wide.search)[:10]


def test_global_random_state_is_left_alone() -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), pickle.dumps(np.random.get_state())
    Dataset.from_raw(numbered((5, 5), (5, 5)), SplitSpec())
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert pickle.dumps(np.random.get_state()) == numpy_state


def test_shares_are_of_the_source_and_round_down_exactly() -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point.
    dataset = Dataset.from_raw(numbered((5, 5), (50, 50)), SplitSpec(search=0.29, report=0.5))
    assert (len(dataset.search), len(dataset.report)) == (29, 50)
    odd = Dataset.from_raw(numbered((5, 5), (51, 50)), SplitSpec())
    assert (len(odd.search), len(odd.report)) == (50, 50)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (SplitSpec(search=70, report=31), r"70 \+ 31 = 101 images .* has 100"),
        (SplitSpec(search=0.7, report=50), r"70 \+ 50 = 120 images .* has 100"),
        (SplitSpec(search=0.001, report=50), "0.001 .* at least one image"),
        (SplitSpec(source="train"), "train part, which has 20; that leaves nothing to train on"),
    ],
)
def test_splits_that_ask_for_too_much_are_refused_with_the_numbers(
    splits: SplitSpec, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        Dataset.from_raw(numbered((10, 10), (50, 50)), splits)


def test_data_that_breaks_its_contract_is_refused() -> None:
    raw = RawData(np.zeros((4, 3)), np.arange(4), np.zeros((4, 3)), np.arange(4))
    with pytest.raises(DataError, match=r"data source: training part: .* given float64"):
        Dataset.from_raw(raw, SplitSpec())


class TestImages:
    def dataset(self, channels: int = 3, **statistics: tuple[float, ...]) -> Dataset:
        generator = np.random.default_rng(0)
        self.images = generator.integers(0, 256, (12, 5, 4, channels), dtype=np.uint8)
        # The label is the row, so that each image can be found again.
        labels = np.arange(12)
        raw = RawData(self.images, labels, self.images, labels, **statistics)
        return Dataset.from_raw(raw, SplitSpec())

    @pytest.mark.parametrize("channels", [1, 3])
    def test_become_channels_first_by_shape_and_stay_uint8(self, channels: int) -> None:
        dataset = self.dataset(channels)
        assert dataset.input_shape == (channels, 5, 4)
        assert dataset.num_classes == 12
        inputs = dataset.train.inputs
        assert inputs.dtype == torch.uint8
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        for image, label in zip(inputs, dataset.train.labels, strict=True):
            assert np.array_equal(image.permute(1, 2, 0), self.images[label])

    def test_are_normalised_per_channel(self) -> None:
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
        dataset = self.dataset(mean=mean, std=std)
        inputs = dataset.search.inputs
        before = inputs.clone()
        outputs = dataset.normalise(inputs)
        assert outputs.dtype == torch.float32
        assert outputs.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(inputs, before)
        for channel in range(3):
            slow = (before[:, channel].double() / 255 - mean[channel]) / std[channel]
            assert torch.allclose(outputs[:, channel].double(), slow, atol=1e-6)

    def test_without_statistics_are_only_scaled(self) -> None:
        dataset = self.dataset()
        outputs = dataset.normalise(dataset.search.inputs)
        assert torch.allclose(outputs, dataset.search.inputs / 255, atol=1e-7)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_are_normalised_on_their_device(self) -> None:
        dataset = self.dataset(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
        inputs = dataset.search.inputs
        here = dataset.normalise(inputs)
        there = dataset.normalise(inputs.cuda())
        assert there.device.type == "cuda"
        assert torch.allclose(there.cpu(), here, atol=1e-6)
        assert torch.equal(dataset.normalise(inputs), here)


def test_float_inputs_are_returned_as_they_are() -> None:
    dataset = Dataset.from_raw(numbered((5, 5), (5, 5)), SplitSpec())
    assert dataset.input_shape == (1,)
    assert dataset.normalise(dataset.search.inputs) is dataset.search.inputs

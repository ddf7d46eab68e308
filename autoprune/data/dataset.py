"""Labelled data split for a search, in memory, ready for a network.

dataset = Dataset.from_raw(Digits().load(), SplitSpec(search=300, report=300))
logits = model(dataset.normalise(dataset.search.inputs[:100]))
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from autoprune.contracts.data import RawData
from autoprune.contracts.objective import Grouping
from autoprune.data._arrays import checked
from autoprune.data._strata import stratified_order
from autoprune.data.groups import grouped, require_members
from autoprune.errors import DataError
from autoprune.job.spec import SplitSpec


@dataclass(frozen=True)
class Part:
    """Labelled inputs in a random order of which every prefix is close to class-balanced.

    `inputs` is uint8 of shape (n, channels, height, width), laid out channels_last, or
    float32 of shape (n, ...). `labels` is int64 of shape (n,). `groupings` are those that
    results on the part are judged by.
    """

    inputs: Tensor
    labels: Tensor
    groupings: tuple[Grouping, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


class Dataset:
    """Data of a job: `train` to repair and recover with, `search` (V) to judge candidates,
    and `report` (T) for the final figures only.

    "Class-balanced" means that each class has the share that it has in the source.
    """

    def __init__(
        self,
        train: Part,
        search: Part,
        report: Part,
        num_classes: int,
        mean: tuple[float, ...] = (),
        std: tuple[float, ...] = (),
    ) -> None:
        self.train = train
        self.search = search
        self.report = report
        self.num_classes = num_classes
        # (pixel / 255 - mean) / std as one multiplication and one addition.
        self._scale = 1.0 / (255.0 * torch.tensor(std or (1.0,)).reshape(-1, 1, 1))
        self._shift = -(torch.tensor(mean or (0.0,)) / torch.tensor(std or (1.0,))).reshape(
            -1, 1, 1
        )

    @classmethod
    def from_raw(
        cls,
        raw: RawData,
        splits: SplitSpec,
        attributes: Mapping[str, np.ndarray] | None = None,
        groups: Sequence[str] = (),
    ) -> Dataset:
        """Draw V and T, once and for all: seeded, stratified by class and group, disjoint.

        V is taken from the front and T from the back of one random order, so neither
        changes when the size of the other does. From the test part, what is left over is
        unused; from the training part, it is what is trained on. `attributes` are added to
        those of the data, for the part that is split; `groups` says by which V and T are judged.

        Raises `DataError` if the splits ask for more than there is, or leave nothing to
        train on, for groups that are unknown or empty, and for data that does not keep the
        contract of `RawData`.
        """
        raw = checked(raw, "data source")
        # Own generator: no global state is touched. Seeds may be negative in a job.
        generator = np.random.default_rng(splits.seed % 2**64)
        is_from_test = splits.source == "test"
        labels = raw.test_labels if is_from_test else raw.train_labels
        searched, reported = _counts(len(labels), splits)
        known = {**(raw.test_attributes if is_from_test else raw.train_attributes)}
        groupings = grouped(groups, {**known, **(attributes or {})}, labels, splits.source)
        order = stratified_order(_strata(labels, groupings), generator)
        held_out = (order[:searched], order[len(order) - reported :][::-1])
        if is_from_test:
            trained = stratified_order(raw.train_labels, generator)
            inputs = raw.test_inputs
        else:
            trained = order[searched : len(order) - reported]
            inputs = raw.train_inputs
        search, report = (_part(inputs, labels, rows, groupings) for rows in held_out)
        if groups:
            require_members(search.groupings, "search", len(search))
            require_members(report.groupings, "report", len(report))
        train = _part(raw.train_inputs, raw.train_labels, trained)
        return cls(train, search, report, raw.num_classes, raw.mean, raw.std)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays that `from_arrays` makes an equal data set of."""
        arrays = {
            "num_classes": np.array(self.num_classes),
            "scale": self._scale.cpu().numpy(),
            "shift": self._shift.cpu().numpy(),
        }
        for name, part in self._parts.items():
            inputs = part.inputs
            # As it lies in memory, so that it can be sent and shared as one block.
            images = inputs.permute(0, 2, 3, 1) if inputs.dtype == torch.uint8 else inputs
            arrays[f"{name}.inputs"] = images.contiguous().numpy()
            arrays[f"{name}.labels"] = part.labels.numpy()
            arrays[f"{name}.groups"] = np.array([each.title for each in part.groupings], dtype=str)
            for place, each in enumerate(part.groupings):
                arrays[f"{name}.groups.{place}.names"] = np.array(each.names)
                arrays[f"{name}.groups.{place}.codes"] = each.codes.numpy()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Dataset:
        """Rebuild a data set from `to_arrays`; its inputs share the memory of the arrays."""
        train, search, report = (
            Part(
                _shared(arrays[f"{name}.inputs"]),
                torch.from_numpy(arrays[f"{name}.labels"].copy()),
                tuple(_groupings(arrays, name)),
            )
            for name in ("train", "search", "report")
        )
        dataset = cls(train, search, report, int(arrays["num_classes"]))
        dataset._scale = torch.from_numpy(arrays["scale"].copy())
        dataset._shift = torch.from_numpy(arrays["shift"].copy())
        return dataset

    @property
    def _parts(self) -> dict[str, Part]:
        return {"train": self.train, "search": self.search, "report": self.report}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, channels first."""
        return tuple(self.train.inputs.shape[1:])

    def normalise(self, inputs: Tensor) -> Tensor:
        """Return what the network reads: float32, on the device of `inputs`.

        uint8 images of shape (n, channels, height, width) are scaled to [0, 1],
        normalised per channel, and laid out channels_last. Float inputs are returned as
        they are.
        """
        if inputs.dtype != torch.uint8:
            return inputs
        if self._scale.device != inputs.device:
            self._scale = self._scale.to(inputs.device)
            self._shift = self._shift.to(inputs.device)
        images = inputs.to(torch.float32, memory_format=torch.channels_last)
        return images.mul_(self._scale).add_(self._shift)

    @property
    def has_images(self) -> bool:
        """Say whether inputs are images, which have a range, and not just numbers."""
        return self.train.inputs.dtype == torch.uint8

    def pixels(self, inputs: Tensor) -> Tensor:
        """Return images as float32 in [0, 1]; other inputs as they are."""
        return inputs.float() / 255.0 if self.has_images else inputs

    def standardise(self, pixels: Tensor) -> Tensor:
        """Return what the network reads, of `pixels`; a gradient flows back through it."""
        if not self.has_images:
            return pixels
        scale, shift = (each.to(pixels.device) for each in (self._scale, self._shift))
        standard = 255.0 * pixels * scale + shift
        return standard.contiguous(memory_format=torch.channels_last)


def _counts(total: int, splits: SplitSpec) -> tuple[int, int]:
    """Return how many images V and T take of `total`."""
    searched, reported = (_count(total, each) for each in (splits.search, splits.report))
    asked = (
        f"splits.search {splits.search} and splits.report {splits.report} ask for "
        f"{searched} + {reported} = {searched + reported} images of the {splits.source} part, "
        f"which has {total}"
    )
    if searched + reported > total:
        raise DataError(f"{asked}; lower one of them")
    if searched == 0 or reported == 0:
        raise DataError(f"{asked}; each needs at least one image: raise the share that got none")
    if splits.source == "train" and searched + reported == total:
        raise DataError(f"{asked}; that leaves nothing to train on: lower one of them")
    return searched, reported


def _count(total: int, size: int | float) -> int:
    # The tiny addend keeps 0.29 of 100 at 29, where 0.29 * 100 is 28.999999999999996.
    return size if isinstance(size, int) else int(total * size + 1e-9)


def _part(
    inputs: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    groupings: Sequence[Grouping] = (),
) -> Part:
    chosen = tuple(
        replace(each, codes=each.codes[torch.from_numpy(rows.copy())]) for each in groupings
    )
    return Part(_shared(inputs[rows]), torch.from_numpy(labels[rows]), chosen)


def _strata(labels: np.ndarray, groupings: Sequence[Grouping]) -> np.ndarray:
    """Return a number for every combination of class and groups, shape (n,)."""
    columns = np.stack([labels, *(each.codes.numpy() for each in groupings)], axis=1)
    strata: np.ndarray = np.unique(columns, axis=0, return_inverse=True)[1].reshape(-1)
    return strata


def _groupings(arrays: Mapping[str, np.ndarray], part: str) -> Iterator[Grouping]:
    for place, title in enumerate(arrays[f"{part}.groups"]):
        key = f"{part}.groups.{place}"
        codes = torch.from_numpy(arrays[f"{key}.codes"].copy())
        yield Grouping(str(title), tuple(map(str, arrays[f"{key}.names"])), codes)


def _shared(array: np.ndarray) -> Tensor:
    """Return inputs as a tensor on the same memory, which may be read-only: nothing writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        inputs = torch.from_numpy(array)
    # Channels first by shape alone: in memory this is channels_last, and not a copy.
    return inputs.permute(0, 3, 1, 2) if inputs.dtype == torch.uint8 else inputs

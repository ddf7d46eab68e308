"""Groups of samples: where they come from, how splits treat them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.contracts.data import RawData
from autoprune.data.adult import Adult
from autoprune.data.dataset import Dataset
from autoprune.data.groups import grouped, read_attributes
from autoprune.data.npz import Npz
from autoprune.errors import DataError
from autoprune.job.spec import DataSpec, PluginSpec, SplitSpec

SEX = np.array(["f", "m"] * 20)
RACE = np.array(["a", "a", "b", "b"] * 10)
LABELS = np.arange(40) % 2


def raw(**attributes: np.ndarray) -> RawData:
    inputs = np.arange(40, dtype=np.float32)[:, None]
    return RawData(inputs, LABELS, inputs, LABELS, test_attributes=attributes)


def test_classes_are_the_groups_where_none_are_named() -> None:
    (found,) = Dataset.from_raw(raw(), SplitSpec()).search.groupings
    assert (found.title, found.names) == ("class", ("class=0", "class=1"))


def test_groups_follow_their_samples_into_both_splits() -> None:
    dataset = Dataset.from_raw(raw(sex=SEX, race=RACE), SplitSpec(), None, ("sex", "sex & race"))
    for part in (dataset.search, dataset.report):
        rows = part.inputs[:, 0].long().numpy()
        one, both = part.groupings
        assert [one.names[code] for code in one.codes] == [f"sex={each}" for each in SEX[rows]]
        expected = [f"sex={x} & race={y}" for x, y in zip(SEX[rows], RACE[rows], strict=True)]
        assert [both.names[code] for code in both.codes] == expected
    assert dataset.train.groupings == ()


@given(st.integers(0, 1000))
def test_splits_hold_every_group_in_its_proportion(seed: int) -> None:
    dataset = Dataset.from_raw(raw(race=RACE, sex=SEX), SplitSpec(seed=seed), None, ("race & sex",))
    for part in (dataset.search, dataset.report):
        counts = torch.bincount(part.groupings[0].codes, minlength=4)
        assert counts.tolist() == [5, 5, 5, 5]


def test_naming_the_classes_changes_no_split() -> None:
    plain = Dataset.from_raw(raw(), SplitSpec())
    named = Dataset.from_raw(raw(), SplitSpec(), None, ("class",))
    assert torch.equal(plain.search.inputs, named.search.inputs)
    assert torch.equal(plain.report.inputs, named.report.inputs)


def test_groups_survive_the_way_to_a_worker() -> None:
    dataset = Dataset.from_raw(raw(sex=SEX), SplitSpec(), None, ("sex", "class"))
    again = Dataset.from_arrays(dataset.to_arrays())
    for mine, theirs in zip(dataset.search.groupings, again.search.groupings, strict=True):
        assert (mine.title, mine.names) == (theirs.title, theirs.names)
        assert torch.equal(mine.codes, theirs.codes)


def test_an_unknown_attribute_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'sexe'.*allowed: class, sex; did you mean 'sex'"):
        Dataset.from_raw(raw(sex=SEX), SplitSpec(), None, ("sexe",))


def test_labels_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(DataError, match="'light' has 39 values, but the test part has 40 samples"):
        Dataset.from_raw(raw(), SplitSpec(), {"light": SEX[:39]}, ("light",))


def test_a_group_without_a_sample_in_a_split_is_named() -> None:
    rare = np.array(["often"] * 39 + ["once"])
    with pytest.raises(DataError, match=r"no sample of rare=once among the \d+ of data.splits"):
        Dataset.from_raw(raw(rare=rare), SplitSpec(), None, ("rare",))


def test_attributes_of_your_own(tmp_path: Path) -> None:
    np.save(tmp_path / "light.npy", np.array([0, 1] * 20))
    spec = DataSpec(
        source=PluginSpec(name="digits"), attributes={"light": str(tmp_path / "light.npy")}
    )
    (found,) = grouped(("light",), read_attributes(spec), LABELS, "test")
    assert found.names == ("light=0", "light=1")


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot be read"), (np.zeros((2, 2)), r"one array of shape \(n,\), found \(2, 2\)")],
)
def test_attributes_that_cannot_be_used(
    tmp_path: Path, content: np.ndarray | None, why: str
) -> None:
    path = tmp_path / "a.npy"
    if content is not None:
        np.save(path, content)
    spec = DataSpec(source=PluginSpec(name="digits"), attributes={"light": str(path)})
    with pytest.raises(DataError, match=f"data.attributes.light: .*{why}"):
        read_attributes(spec)


def test_one_name_is_a_list_of_one() -> None:
    spec = DataSpec.model_validate({"source": {"name": "digits"}, "groups": "class"})
    assert spec.groups == ("class",)


def test_npz_brings_attributes(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    inputs = np.zeros((4, 3), np.float32)
    arrays = {"x_train": inputs, "y_train": LABELS[:4], "x_test": inputs, "y_test": LABELS[:4]}
    np.savez(path, **arrays, sex_train=SEX[:4], sex_test=SEX[:4][::-1])
    found = Npz(path=str(path)).load()
    assert found.train_attributes["sex"].tolist() == ["f", "m", "f", "m"]
    assert found.test_attributes["sex"].tolist() == ["m", "f", "m", "f"]


ROW = (
    "39, {work}, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, {sex}, "
    "{gain}, 0, 40, United-States, {class_}"
)


def adult(directory: Path, train: list[str], test: list[str]) -> Adult:
    (directory / "adult.data").write_text("\n".join(train) + "\n\n")
    (directory / "adult.test").write_text("|1x3 Cross validator\n" + "\n".join(test) + "\n")
    return Adult(path=str(directory))


def test_adult_by_hand(tmp_path: Path) -> None:
    train = [
        ROW.format(work="Private", sex="Male", gain=0, class_="<=50K"),
        ROW.format(work="?", sex="Female", gain=99, class_=">50K"),
    ]
    test = [ROW.format(work="New", sex="Female", gain=99, class_=">50K.")]
    found = adult(tmp_path, train, test).load()
    assert found.train_labels.tolist() == [0, 1]
    assert found.test_labels.tolist() == [1]
    assert found.test_attributes["sex"].tolist() == ["Female"]
    # Constant numbers are 0, not NaN; log(1 + 0) and log(1 + 99) are ∓1 deviation apart.
    columns = found.train_inputs.T.tolist()
    assert [-1.0, 1.0] in columns
    # An unknown word is none of the known ones.
    assert found.test_inputs.shape == (1, found.train_inputs.shape[1])
    assert np.isfinite(found.train_inputs).all()


def test_adult_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no adult\.data in"):
        Adult(path=str(tmp_path)).load()
    good = ROW.format(work="Private", sex="Male", gain=0, class_="<=50K")
    with pytest.raises(DataError, match=r"adult\.test: expected 15 columns, found the row"):
        adult(tmp_path, [good], [good, "1, 2"]).load()
    with pytest.raises(DataError, match="column capital-gain of Adult holds"):
        adult(tmp_path, [good, good.replace(", 0, 0,", ", much, 0,")], [good]).load()


def test_attributes_are_those_of_the_part_that_is_split() -> None:
    both = replace(raw(sex=SEX), train_attributes={"sex": SEX[::-1].copy()})
    split = SplitSpec(source="train", search=0.25, report=0.25)
    (found,) = Dataset.from_raw(both, split, None, ("sex",)).search.groupings
    rows = Dataset.from_raw(both, split, None, ("sex",)).search.inputs[:, 0].long().numpy()
    assert [found.names[code] for code in found.codes] == [f"sex={x}" for x in SEX[::-1][rows]]

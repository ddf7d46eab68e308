"""What each data source reads, and what it says about files that it cannot use."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autoprune import plugins
from autoprune.data.cifar10 import Cifar10
from autoprune.data.digits import Digits
from autoprune.data.fashion_mnist import FashionMnist
from autoprune.data.imagefolder import ImageFolder
from autoprune.data.npz import Npz
from autoprune.errors import DataError
from autoprune.job.spec import PluginSpec
from autoprune.vision import ensure_torchvision


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of a good CIFAR-like file, with some replaced."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    good = {
        "x_train": images[:20],
        "y_train": labels[:20],
        "x_test": images[20:],
        "y_test": labels[20:],
    }
    return good | changes


def saved(tmp_path: Path, content: dict[str, np.ndarray]) -> str:
    path = tmp_path / "data.npz"
    np.savez(path, allow_pickle=True, **content)
    return str(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {}),
        ("npz", {"path": "a.npz", "mean": [0.5], "std": [0.5]}),
        ("cifar10", {"path": "a.npz"}),
        ("fashion_mnist", {"path": "a"}),
        ("imagefolder", {"path": "a", "image_size": 32}),
    ],
)
def test_every_source_is_a_plugin_that_takes_its_options(
    name: str, options: dict[str, Any]
) -> None:
    assert plugins.names("data")[name]
    assert plugins.check("data", PluginSpec(name=name, options=options), "data") == []
    assert plugins.check("data", PluginSpec(name=name, options={"nonsense": 1}), "data")


class TestDigits:
    def test_has_all_images_once(self) -> None:
        from sklearn.datasets import load_digits

        raw = Digits().load()
        assert raw.train_inputs.shape == (1078, 8, 8, 1)
        assert raw.test_inputs.shape == (719, 8, 8, 1)
        assert raw.num_classes == 10
        together = np.concatenate([raw.train_inputs, raw.test_inputs])[..., 0]
        original = load_digits().images
        assert np.array_equal(
            np.unique(np.rint(together / 255 * 16), axis=0), np.unique(original, axis=0)
        )
        assert len(together) == len(original)

    def test_uses_the_whole_range_of_bytes(self) -> None:
        raw = Digits().load()
        assert raw.train_inputs.dtype == np.uint8
        assert (raw.train_inputs.min(), raw.train_inputs.max()) == (0, 255)
        assert raw.mean == pytest.approx([(raw.train_inputs / 255).mean()], abs=1e-3)
        assert raw.std == pytest.approx([(raw.train_inputs / 255).std()], abs=1e-3)

    def test_is_split_by_class_and_always_alike(self) -> None:
        first, again = Digits().load(), Digits().load()
        assert np.array_equal(first.train_inputs, again.train_inputs)
        assert np.array_equal(first.test_labels, again.test_labels)
        train, test = np.bincount(first.train_labels), np.bincount(first.test_labels)
        assert np.allclose(train / (train + test), 0.6, atol=0.01)


class TestNpz:
    def test_reads_images(self, tmp_path: Path) -> None:
        content = arrays()
        raw = Npz(path=saved(tmp_path, content), mean=[0.5, 0.4, 0.3], std=[1.0, 2.0, 3.0]).load()
        assert np.array_equal(raw.train_inputs, content["x_train"])
        assert np.array_equal(raw.test_labels, content["y_test"])
        assert raw.test_labels.dtype == np.int64
        assert (raw.mean, raw.std) == ((0.5, 0.4, 0.3), (1.0, 2.0, 3.0))

    def test_reads_float_tables(self, tmp_path: Path) -> None:
        table = np.ones((20, 7), dtype=np.float32)
        raw = Npz(path=saved(tmp_path, arrays(x_train=table, x_test=table[:10]))).load()
        assert raw.train_inputs.shape == (20, 7)
        assert raw.train_inputs.dtype == np.float32

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"x_train": np.zeros((20, 4))}, "training part: .* given float64 of shape"),
            ({"x_train": np.zeros((20, 3, 32, 32), np.uint8)}, "put channels last"),
            ({"x_test": np.zeros((10, 32, 32), np.uint8)}, "test part: .* add the channel axis"),
            ({"x_test": np.zeros((0, 32, 32, 3), np.uint8)}, "test part: inputs are empty"),
            ({"x_test": np.zeros((10, 8, 8, 3), np.uint8)}, "must be alike"),
            ({"x_test": np.zeros((10, 32, 32, 3), np.float32)}, "must be alike"),
            ({"y_train": np.zeros(19, np.int64)}, "20 inputs but 19 labels"),
            ({"y_train": np.zeros((20, 1), np.int64)}, r"shape \(n,\), given int64 of shape"),
            ({"y_test": np.zeros(10)}, "whole numbers .* given float64"),
            ({"y_test": np.arange(10) - 1}, "test part: .* given the label -1"),
        ],
    )
    def test_refuses_arrays_that_do_not_fit(
        self, tmp_path: Path, changes: dict[str, np.ndarray], words: str
    ) -> None:
        with pytest.raises(DataError, match=words) as caught:
            Npz(path=saved(tmp_path, arrays(**changes))).load()
        assert "data.npz" in str(caught.value)

    @pytest.mark.parametrize(
        ("mean", "std"),
        [([0.5], [0.5]), ([0.5] * 3, None), (None, [0.5] * 3), ([0.5] * 3, [1.0, 0.0, 1.0])],
    )
    def test_refuses_statistics_that_do_not_fit(
        self, tmp_path: Path, mean: list[float] | None, std: list[float] | None
    ) -> None:
        with pytest.raises(DataError, match="one number for each of 3 channel"):
            Npz(path=saved(tmp_path, arrays()), mean=mean, std=std).load()

    def test_refuses_statistics_for_float_inputs(self, tmp_path: Path) -> None:
        table = np.ones((20, 7), dtype=np.float32)
        path = saved(tmp_path, arrays(x_train=table, x_test=table[:10]))
        with pytest.raises(DataError, match="float32 inputs are used as they are"):
            Npz(path=path, mean=[0.5], std=[0.5]).load()

    def test_names_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no data file at .*absent\.npz.*x_train"):
            Npz(path=str(tmp_path / "absent.npz")).load()

    def test_names_missing_arrays_and_what_is_there(self, tmp_path: Path) -> None:
        content = arrays()
        content["labels"] = content.pop("y_test")
        with pytest.raises(DataError, match=r"lacks y_test.*found: .*labels"):
            Npz(path=saved(tmp_path, content)).load()

    def test_refuses_pickled_objects(self, tmp_path: Path) -> None:
        path = saved(tmp_path, arrays(y_train=np.asarray([{}] * 20, dtype=object)))
        with pytest.raises(DataError, match=r"data\.npz cannot be read.*object"):
            Npz(path=path).load()

    @pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps([1, 2])])
    def test_refuses_other_files(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "data.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read: it is not an \.npz archive"):
            Npz(path=str(path)).load()

    def test_refuses_a_damaged_archive(self, tmp_path: Path) -> None:
        path = Path(saved(tmp_path, arrays()))
        content = bytearray(path.read_bytes())
        content[2000:2100] = bytes(100)
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            Npz(path=str(path)).load()


class TestCifar10:
    def test_reads_an_npz_file(self, tmp_path: Path) -> None:
        content = arrays()
        raw = Cifar10(path=saved(tmp_path, content)).load()
        assert np.array_equal(raw.test_inputs, content["x_test"])
        assert raw.train_labels.dtype == np.int64
        assert raw.mean == (0.485, 0.456, 0.406)
        assert raw.std == (0.229, 0.224, 0.225)

    @pytest.mark.parametrize(
        "changes",
        [
            {"y_train": np.full(20, 10)},
            {
                "x_train": np.zeros((20, 28, 28, 3), np.uint8),
                "x_test": np.zeros((10, 28, 28, 3), np.uint8),
            },
        ],
    )
    def test_refuses_other_data(self, tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
        with pytest.raises(DataError, match="CIFAR-10 has images of shape"):
            Cifar10(path=saved(tmp_path, arrays(**changes))).load()

    def test_reads_the_original_batches(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ensure_torchvision()
        from torchvision.datasets import CIFAR10

        content = arrays()
        directory = tmp_path / CIFAR10.base_folder
        directory.mkdir()

        def write(name: str, body: dict[str, Any]) -> list[str]:
            text = pickle.dumps(body)
            (directory / name).write_bytes(text)
            return [name, hashlib.md5(text).hexdigest()]

        def batch(name: str, inputs: np.ndarray, labels: np.ndarray) -> list[str]:
            flat = inputs.transpose(0, 3, 1, 2).reshape(len(inputs), -1)
            return write(name, {"data": flat, "labels": labels.tolist()})

        # The loader trusts checksums only, so small files take the place of the real ones.
        first = batch("data_batch_1", content["x_train"], content["y_train"])
        test = batch("test_batch", content["x_test"], content["y_test"])
        meta = write("batches.meta", {"label_names": ["plane"]})
        monkeypatch.setattr(CIFAR10, "train_list", [first])
        monkeypatch.setattr(CIFAR10, "test_list", [test])
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta[1]})
        raw = Cifar10(path=str(tmp_path)).load()
        assert np.array_equal(raw.train_inputs, content["x_train"])
        assert np.array_equal(raw.test_inputs, content["x_test"])
        assert np.array_equal(raw.test_labels, content["y_test"])

    def test_refuses_a_directory_without_it(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"without an intact CIFAR-10.*data_batch_1"):
            Cifar10(path=str(tmp_path)).load()


def idx(array: np.ndarray) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


class TestFashionMnist:
    images = np.arange(6 * 28 * 28).reshape(6, 28, 28).astype(np.uint8)
    labels = np.arange(6, dtype=np.uint8)

    def write(self, directory: Path, *, is_zipped: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name, array in (
            ("train-images-idx3-ubyte", self.images[:4]),
            ("train-labels-idx1-ubyte", self.labels[:4]),
            ("t10k-images-idx3-ubyte", self.images[4:]),
            ("t10k-labels-idx1-ubyte", self.labels[4:]),
        ):
            body = gzip.compress(idx(array)) if is_zipped else idx(array)
            (directory / (f"{name}.gz" if is_zipped else name)).write_bytes(body)

    @pytest.mark.parametrize("is_zipped", [True, False])
    @pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
    def test_reads_plain_and_zipped_files(
        self, tmp_path: Path, below: str, is_zipped: bool
    ) -> None:
        self.write(tmp_path / below, is_zipped=is_zipped)
        raw = FashionMnist(path=str(tmp_path)).load()
        assert np.array_equal(raw.train_inputs[..., 0], self.images[:4])
        assert np.array_equal(raw.test_inputs[..., 0], self.images[4:])
        assert raw.train_labels.tolist() == [0, 1, 2, 3]
        assert raw.test_labels.tolist() == [4, 5]
        assert len(raw.mean) == len(raw.std) == 1

    def test_names_the_missing_file(self, tmp_path: Path) -> None:
        self.write(tmp_path, is_zipped=True)
        (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
        with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte"):
            FashionMnist(path=str(tmp_path)).load()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\0\0\x08",
            b"\0\0\x08\x01\0\0",
            idx(labels)[:-1],
            idx(labels) + b"\0",
            idx(images),
            b"\0\0\x09" + idx(labels)[3:],
        ],
        ids=["empty", "no axes", "cut header", "cut", "too long", "other axes", "other type"],
    )
    def test_refuses_a_damaged_file(self, tmp_path: Path, body: bytes) -> None:
        self.write(tmp_path, is_zipped=False)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(body)
        with pytest.raises(DataError, match="train-labels-idx1-ubyte is not an intact idx file"):
            FashionMnist(path=str(tmp_path)).load()

    @pytest.mark.parametrize(
        "spoil", [lambda body: b"no gzip", lambda body: body[:-9], lambda body: body[:20]]
    )
    def test_refuses_a_damaged_archive(self, tmp_path: Path, spoil: Any) -> None:
        self.write(tmp_path, is_zipped=True)
        file = tmp_path / "train-images-idx3-ubyte.gz"
        file.write_bytes(spoil(file.read_bytes()))
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
            FashionMnist(path=str(tmp_path)).load()


RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def paint(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


class TestImageFolder:
    def write(self, directory: Path, second: str = "test") -> None:
        paint(directory / "train" / "cat" / "1.png", RED)
        paint(directory / "train" / "cat" / "2.PNG", GREEN, (20, 60))
        paint(directory / "train" / "ant" / "1.bmp", BLUE)
        (directory / "train" / "cat" / "notes.txt").write_text("not an image")
        paint(directory / second / "cat" / "1.png", RED)
        paint(directory / second / "ant" / "1.png", BLUE)

    @pytest.mark.parametrize("second", ["test", "val"])
    def test_numbers_the_sorted_classes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
    ) -> None:
        self.write(tmp_path, second)
        # A file system may list names in any order: here, in the worst.
        listed = Path.iterdir
        monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self))[::-1]))
        raw = ImageFolder(path=str(tmp_path), image_size=16).load()
        assert raw.train_inputs.shape == (3, 16, 16, 3)
        assert raw.train_labels.tolist() == [0, 1, 1]
        assert raw.test_labels.tolist() == [0, 1]
        assert raw.train_inputs[0, 8, 8].tolist() == list(BLUE)
        assert raw.train_inputs[1, 8, 8].tolist() == list(RED)
        assert raw.train_inputs[2, 8, 8].tolist() == list(GREEN)
        assert raw.mean == (0.485, 0.456, 0.406)

    def test_scales_the_shorter_side_and_cuts_out_the_middle(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        # Thirds of red, green and blue: the middle of 96 x 32 is all green.
        wide = Image.new("RGB", (96, 32), RED)
        wide.paste(GREEN, (32, 0, 64, 32))
        wide.paste(BLUE, (64, 0, 96, 32))
        wide.save(tmp_path / "test" / "cat" / "1.png")
        raw = ImageFolder(path=str(tmp_path), image_size=28).load()
        assert (raw.test_inputs[1] == GREEN).all()

    @pytest.mark.parametrize("size", [(1, 1), (1000, 3), (7, 5)])
    def test_fits_images_of_any_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        self.write(tmp_path)
        paint(tmp_path / "test" / "cat" / "1.png", GREEN, size)
        raw = ImageFolder(path=str(tmp_path), image_size=33).load()
        assert (raw.test_inputs[1] == GREEN).all()

    def test_turns_grey_and_palette_images_into_colour(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        Image.new("L", (20, 20), 77).save(tmp_path / "test" / "cat" / "1.png")
        raw = ImageFolder(path=str(tmp_path), image_size=8).load()
        assert (raw.test_inputs[1] == 77).all()

    def test_needs_both_parts(self, tmp_path: Path) -> None:
        paint(tmp_path / "train" / "cat" / "1.png", RED)
        with pytest.raises(DataError, match="no directory 'test' or 'val'"):
            ImageFolder(path=str(tmp_path)).load()

    def test_needs_the_same_classes_in_both(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        paint(tmp_path / "test" / "dog" / "1.png", RED)
        with pytest.raises(DataError, match="same classes; only one of them has: dog"):
            ImageFolder(path=str(tmp_path)).load()

    def test_names_an_empty_part_and_an_empty_class(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "test" / "cat" / "1.png").unlink()
        with pytest.raises(DataError, match="cat holds no images"):
            ImageFolder(path=str(tmp_path), image_size=8).load()
        other = tmp_path / "other"
        for name in ("train", "test"):
            (other / name).mkdir(parents=True)
        with pytest.raises(DataError, match="train holds no class directories"):
            ImageFolder(path=str(other)).load()

    def test_names_a_file_that_is_no_image(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "test" / "cat" / "1.png").write_bytes(b"nonsense")
        with pytest.raises(DataError, match=r"cat/1\.png cannot be read as an image"):
            ImageFolder(path=str(tmp_path), image_size=8).load()

    def test_needs_a_positive_size(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="at least 1 pixel, given 0"):
            ImageFolder(path=str(tmp_path), image_size=0)

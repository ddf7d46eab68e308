"""Models by name and by import: ready for use, repeatable, and refused with a reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.errors import ModelError
from autoprune.job.spec import ModelSpec
from autoprune.models.catalog import build_model, model_names
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.models.digits_cnn import DigitsCnn

torch.set_num_threads(1)

FACTORIES = """
import torch
from torch import nn

number = 3

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).to(torch.bfloat16)

def needy(width):
    return nn.Linear(width, 2)

def broken():
    raise RuntimeError("out of luck")

def dictionary():
    return {}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory with a module of factories the current one; undo all imports."""
    (tmp_path / "factories_of_a_user").mkdir()
    (tmp_path / "factories_of_a_user" / "nets.py").write_text(FACTORIES)
    (tmp_path / "unfinished_of_a_user.py").write_text("import a_package_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    outside = [each for each in sys.path if each not in ("", str(tmp_path))]
    monkeypatch.setattr(sys, "path", outside)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def digits_cnn(checkpoint: str | None = None) -> DigitsCnn:
    model = build_model(ModelSpec(name="digits_cnn", checkpoint=checkpoint), 10, (1, 8, 8))
    assert isinstance(model, DigitsCnn)
    return model


def imported(target: str) -> ModelSpec:
    return ModelSpec.model_validate({"import": target})


@pytest.mark.parametrize(
    ("name", "input_shape"),
    [
        ("digits_cnn", (1, 8, 8)),
        ("digits_cnn", (3, 8, 8)),
        ("cifar_resnet20", (3, 32, 32)),
        ("cifar_resnet56", (1, 28, 28)),
        ("torchvision/resnet18", (3, 64, 64)),
        ("torchvision/squeezenet1_1", (3, 64, 64)),
    ],
)
def test_named_models_are_ready_for_use(name: str, input_shape: tuple[int, ...]) -> None:
    model = build_model(ModelSpec(name=name), 7, input_shape)
    assert not any(module.training for module in model.modules())
    for each in model.parameters():
        assert (each.device.type, each.dtype) == ("cpu", torch.float32)
    with torch.inference_mode():
        assert model(torch.zeros(2, *input_shape)).shape == (2, 7)


def test_digits_cnn_has_the_promised_size_and_parts() -> None:
    model = digits_cnn()
    assert 100_000 <= sum(each.numel() for each in model.parameters()) <= 200_000
    weighted = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len(weighted) >= 6  # five that can be pruned, and the output
    # The block is residual: with its inner path silenced, its input comes through.
    nn.init.zeros_(model.block.bn2.weight)
    features = torch.rand(2, 32, 8, 8)
    assert torch.equal(model.block(features), features)


def test_initialisation_is_repeatable_and_leaves_the_global_state() -> None:
    state = torch.random.get_rng_state()
    first = digits_cnn()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = digits_cnn()
    for left, right in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_checkpoint_is_loaded(tmp_path: Path) -> None:
    source = digits_cnn()
    nn.init.constant_(source.output.bias, 5.0)
    path = str(tmp_path / "weights.safetensors")
    save_file(source.state_dict(), path)
    model = digits_cnn(checkpoint=path)
    assert model.output.bias.tolist() == [5.0] * 10
    with pytest.raises(ModelError, match=r"output\.weight"):
        build_model(ModelSpec(name="digits_cnn", checkpoint=path), 9, (1, 8, 8))


def test_num_classes_of_the_job_overrides_the_datas() -> None:
    spec = ModelSpec(name="cifar_resnet20", num_classes=100)
    model = build_model(spec, 10, (3, 32, 32))
    assert isinstance(model, CifarResNet)
    assert model.linear.out_features == 100
    with pytest.raises(ModelError, match="num_classes is 100, but the data has 101"):
        build_model(spec, 101, (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cifar_resnet_56", "cifar_resnet56"),
        ("resnet18", "torchvision/resnet18"),
        ("torchvision/resnet19", "torchvision/resnet1"),
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision/"),
        ("digits-cnn", "digits_cnn"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ModelError, match=f"unknown model '{name}' .*did you mean '{near}"):
        build_model(ModelSpec(name=name), 10, (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "input_shape", "words"),
    [
        ("digits_cnn", (1, 28, 28), "8x8 pixels"),
        ("digits_cnn", (64,), "images of shape"),
        ("cifar_resnet20", (64,), r"the data has shape \(64,\)"),
        ("torchvision/resnet18", (1, 28, 28), "with 3 channels"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    name: str, input_shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        build_model(ModelSpec(name=name), 10, input_shape)


def test_names_are_sorted_and_without_detection_models() -> None:
    names = model_names()
    assert names == sorted(names)
    assert {"digits_cnn", "cifar_resnet110", "torchvision/mobilenet_v2"} <= set(names)
    assert not [name for name in names if "rcnn" in name or "segmentation" in name]


@pytest.mark.usefixtures("project")
class TestImport:
    def test_finds_the_users_module_in_the_current_directory(self) -> None:
        model = build_model(imported("factories_of_a_user.nets:make"), 2, (4,))
        assert not model.training
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        assert model(torch.zeros(3, 4)).shape == (3, 2)

    def test_does_not_shadow_what_is_installed(self, project: Path) -> None:
        (project / "safetensors.py").write_text("raise RuntimeError('the wrong one')")
        build_model(imported("factories_of_a_user.nets:make"), 2, (4,))
        assert sys.path[-1] == str(project)

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("a_module_that_is_not_there:make", "cannot import 'a_module_that_is_not_there'"),
            ("unfinished_of_a_user:make", "cannot import .*a_package_that_is_not_there"),
            ("factories_of_a_user.nets:mke", "no such function; .*did you mean 'make'"),
            ("factories_of_a_user.nets:number", "no such function"),
            ("factories_of_a_user.nets:needy", "without arguments failed .TypeError.*width"),
            ("factories_of_a_user.nets:broken", "failed .RuntimeError: out of luck"),
            ("factories_of_a_user.nets:dictionary", "must return a torch.nn.Module.* dict"),
        ],
    )
    def test_says_what_is_wrong_with_it(self, target: str, words: str) -> None:
        with pytest.raises(ModelError, match=words):
            build_model(imported(target), 2, (4,))

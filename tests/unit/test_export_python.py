"""Networks as Python source: the contract, every family, and files that run without autoprune."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from autoprune.contracts.exporter import Candidate, NetworkExporter
from autoprune.errors import ExportError
from autoprune.exporters.python_exporter import Python
from autoprune.policy import LayerDecision
from autoprune.seal import seal
from tests import exporting
from tests.quantised import every, quantised
from tests.written_source import exported, namespace


@pytest.fixture
def pruned() -> Candidate:
    return exporting.digits()


class TestPython(exporting.DigitsContract):
    def make(self) -> NetworkExporter:
        return Python()


@pytest.mark.parametrize(
    ("family", "dropped"), [*((each, 0) for each in exporting.FAMILIES), ("vit", 2)]
)
def test_every_family_is_written_with_its_state(family: str, dropped: int, tmp_path: Path) -> None:
    candidate = exporting.pruned(family, dropped=dropped)
    written, code = exported(candidate.network, candidate.example, tmp_path, **candidate.provenance)
    for name, each in candidate.network.state_dict().items():
        assert torch.equal(written.state_dict()[name], each)
    assert not written.training
    assert all(each.requires_grad for each in written.parameters())
    assert max(map(len, code.splitlines())) <= 100
    assert "torch.ops" not in code
    assert "zeros_like" not in code  # of what was dropped nothing is left


def test_code_reads_as_people_write_it(pruned: Candidate, tmp_path: Path) -> None:
    _, code = exported(pruned.network, pruned.example, tmp_path, **pruned.provenance)
    start, end = code.index("    def forward"), code.index("def load")
    assert code[start:end].splitlines()[2:-2] == [
        "        x = F.relu(self.stem_bn(self.stem(x)))",
        "        y = F.relu(self.block.bn1(self.block.conv1(x)))",
        "        x = F.relu(x + self.block.bn2(self.block.conv2(y)))",
        "        x = F.relu(self.down_bn(self.down(x)))",
        "        x = F.relu(self.conv_bn(self.conv(x))).flatten(1)",
        "        x = F.relu(self.hidden(x))",
        "        return self.output(x)",
    ]
    assert "self.stem = nn.Conv2d(1, 16, kernel_size=(3, 3), padding=(1, 1), bias=False)" in code


def test_only_torch_is_needed(tmp_path: Path) -> None:
    candidate = exporting.pruned("cifar_resnet20")
    Python().export(candidate, tmp_path / "network.py")
    save_file(
        {"inputs": candidate.example, "outputs": candidate.network(candidate.example)},
        tmp_path / "expected.safetensors",
    )
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("autoprune", "safetensors", "numpy", "torchvision"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import warnings
warnings.simplefilter("ignore")
import torch
import network
expected = network.read("expected.safetensors")
with torch.inference_mode():
    outputs = network.load()(expected["inputs"])
torch.testing.assert_close(outputs, expected["outputs"], atol=1e-5, rtol=0)
assert not [each for each in sys.modules if each.startswith(("autoprune", "safetensors"))]
print("same")
"""
    done = subprocess.run(
        [sys.executable, "-E", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "same\n", done.stderr


def test_it_can_be_fine_tuned(pruned: Candidate, tmp_path: Path) -> None:
    written, _ = exported(pruned.network, pruned.example, tmp_path)
    before = {name: each.clone() for name, each in written.state_dict().items()}
    written.train()
    optimiser = torch.optim.SGD(written.parameters(), lr=0.1)
    loss = functional.cross_entropy(written(pruned.example), torch.zeros(4, dtype=torch.long))
    loss.backward()
    optimiser.step()
    after = written.state_dict()
    for name in before:
        assert not torch.equal(before[name], after[name]), name
    assert int(after["stem_bn.num_batches_tracked"]) == 1


_HOSTILE = "'''\"\"\"\\' + exit() + '\n\r\0\u2028é\u202e{}$x ${y} \\N{DASH} # coding: latin-1 \\"


def test_no_name_gets_out_of_its_quotes(tmp_path: Path) -> None:
    said = {
        "job": _HOSTILE,
        "trial": "'''\nraise SystemExit\n'''",
        "model": {"import": _HOSTILE, "name": None},
        "more": ["\\", "'", "''", "\\'", "'''", "\\u0027", "\\\\u0027"],
    }
    path = tmp_path / "network.py"
    Python().export(Candidate(nn.Linear(3, 2).eval(), torch.randn(2, 3), said), path)
    found = Python().provenance_of(path)
    assert {key: found[key] for key in said} == said
    names = namespace(path)
    assert json.loads(names["PROVENANCE"]) == found
    assert path.read_text(encoding="utf-8").count("\n\n\n") < 20


def test_what_was_changed_is_never_run(pruned: Candidate, tmp_path: Path) -> None:
    path = tmp_path / "network.py"
    Python().export(pruned, path)
    ran = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    text = path.read_text(encoding="utf-8")
    for changed in (ran + text, text + ran, ran, text.replace("import json", ran)):
        path.write_text(changed, encoding="utf-8")
        with pytest.raises(ExportError, match=r"network\.py"):
            Python().opened(path)
        with pytest.raises(ExportError, match=r"network\.py"):
            Python().provenance_of(path)
    path.write_text(text, encoding="utf-8")
    Python().opened(path)
    (tmp_path / "network.safetensors").write_bytes(b"other weights")
    with pytest.raises(ExportError, match=r"network\.py"):
        Python().opened(path)
    assert not (tmp_path / "ran").exists()


def test_a_sealed_file_that_cannot_run_is_an_error(pruned: Candidate, tmp_path: Path) -> None:
    path = tmp_path / "network.py"
    Python().export(pruned, path)
    text = path.read_text(encoding="utf-8")
    digest = Python().provenance_of(path)["seal"].partition(":")[2]
    path.write_text(text.replace(digest, "0" * 64).replace("import torch\n", "import no_such\n"))
    seal(path, Python().others(path))
    with pytest.raises(ExportError, match="cannot run"):
        Python().opened(path)


def test_nothing_of_a_file_stays_behind(pruned: Candidate, tmp_path: Path) -> None:
    path = tmp_path / "network.py"
    Python().export(pruned, path)
    modules, state = set(sys.modules), torch.get_rng_state()
    Python().opened(path)
    assert set(sys.modules) == modules
    assert torch.equal(torch.get_rng_state(), state)
    assert {each.name for each in tmp_path.iterdir()} == {"network.py", "network.safetensors"}


def test_files_follow_from_the_network(pruned: Candidate, tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        Python().export(pruned, tmp_path / name)
    for ending in (".py", ".safetensors"):
        content = (tmp_path / f"a{ending}").read_bytes()
        assert content == (tmp_path / f"b{ending}").read_bytes()
        for place in (Path.cwd(), Path(torch.__file__).parent, tmp_path):
            assert str(place).encode() not in content


@pytest.mark.parametrize("change", ["offsets", "shape", "header", "missing"])
def test_damaged_weights_are_refused_before_they_are_read(
    pruned: Candidate, tmp_path: Path, change: str
) -> None:
    Python().export(pruned, tmp_path / "network.py")
    weights = tmp_path / "network.safetensors"
    content = weights.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if change == "offsets":
        header["stem.weight"]["data_offsets"][1] += 4 * 10**12
    elif change == "shape":
        header["stem.weight"]["shape"] = [10**6, 10**6]
    elif change == "missing":
        del header["stem.weight"]
    text = json.dumps(header).encode()
    length = 2**60 if change == "header" else len(text)
    weights.write_bytes(length.to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(ValueError, match=r"network\.safetensors"):
        namespace(tmp_path / "network.py")["load"]()


class Branching(nn.Module):
    """Asks its inputs which way to go, which no trace can know."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Pair(nn.Module):
    """Returns more than its logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, -x


class Ungraded(nn.Module):
    """Has a part whose operations are kept in a graph of their own."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x * 2
        return x + y


def test_what_cannot_be_written_names_what_can(tmp_path: Path) -> None:
    inputs = torch.randn(4, 3)
    linear = nn.Sequential(nn.Linear(3, 2))
    decisions = every(linear, LayerDecision(weight_bits=8, activation_bits=8))
    for network, instead in (
        (quantised(linear, inputs, decisions), "--to onnx_int8"),
        (Branching(), "--to torch"),
        (Pair(), "--to torch"),
        (Ungraded(), "--to torch"),
    ):
        with pytest.raises(ExportError, match=instead):
            Python().export(Candidate(network.eval(), inputs), tmp_path / "network.py")
    assert not list(tmp_path.iterdir())

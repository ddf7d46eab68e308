"""Energy: the contract, the model by hand, and counters that the tests move."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.contracts.objective import Objective, Subject
from autoprune.errors import InputError
from autoprune.graph.cost import Costs
from autoprune.objectives import _energy_counters, _energy_meter
from autoprune.objectives._energy_counters import Nvml, Rapl
from autoprune.objectives._energy_meter import Metered, Rate, metered
from autoprune.objectives.energy import Energy, _per_sample
from autoprune.testing import ObjectiveContract
from autoprune.trial import Measurement

SMALL = Costs(100, params=10, size_bytes=40, activation_bytes=80, bitops=100 * 32 * 32)
LARGE = Costs(1000, params=100, size_bytes=400, activation_bytes=800, bitops=1000 * 32 * 32)


def convolution(width: int, costs: Costs = SMALL) -> Subject:
    return Subject(costs, network=nn.Conv2d(3, width, 3).eval(), example=torch.randn(2, 3, 16, 16))


class TestEnergy(ObjectiveContract):
    def make(self) -> Objective:
        return Energy(source="model")

    def better(self) -> Subject:
        return convolution(4)

    def worse(self) -> Subject:
        return convolution(32, LARGE)


# -- energy: the model -------------------------------------------------------------------------


def test_the_model_by_hand() -> None:
    costs = Costs(10**9, 10**6, 4 * 10**6, 2 * 10**6, bitops=10**9 * 32 * 32)
    subject = Subject(costs, network=nn.Identity(), example=torch.zeros(1, 1))
    measured = Energy(source="model").measure(subject)
    # 4.6 pJ per operation; 162.5 pJ per byte, 4 MB of weights, 2 MB written and read.
    parts = {name: each.value for name, each in measured.parts.items()}
    assert parts == pytest.approx({"macs_mj": 4.6, "weights_mj": 0.65, "activations_mj": 0.65})
    assert measured.value == pytest.approx(5.9)
    assert (measured.low, measured.high) == (None, None)
    assert measured.note.startswith("estimated: ")
    # Four samples share the weights that a pass reads.
    assert Energy(source="model", batch=4).measure(subject).value == pytest.approx(5.4125)
    # Bits of 8 by 8 take a sixteenth of what operations on 32 by 32 take.
    eight = replace(subject, costs=replace(costs, bitops=10**9 * 8 * 8))
    found = Energy(source="model").measure(eight).parts["macs_mj"].value
    assert found == pytest.approx(4.6 / 16)


# -- energy: RAPL ------------------------------------------------------------------------------


def zone(directory: Path, name: str, title: str, joules: float = 0.0, turn: float = 1e6) -> Path:
    """Write a zone as Linux shows it; return the file of its counter."""
    made = directory / name
    made.mkdir(parents=True)
    (made / "name").write_text(f"{title}\n")
    (made / "max_energy_range_uj").write_text(f"{round(turn * 1e6)}\n")
    counter = made / "energy_uj"
    counter.write_text(f"{round(joules * 1e6)}\n")
    return counter


@pytest.fixture
def powercap() -> Iterator[Path]:
    """An empty directory that every user may read, in the place of Linux's own."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_energy_counters, "POWERCAP", directory)
        yield directory
    shutil.rmtree(directory)


def test_rapl_adds_up_packages_and_nothing_else(powercap: Path) -> None:
    zones = [
        zone(powercap, "intel-rapl:0", "package-0", 5.0),
        zone(powercap, "intel-rapl:0:0", "core", 1.0),
        zone(powercap, "intel-rapl:1", "package-1", 7.0),
        zone(powercap, "intel-rapl:2", "psys", 9.0),
        zone(powercap, "intel-rapl-mmio:0", "package-0", 5.0),
    ]
    counter = Rapl()
    assert "2 processor package(s)" in counter.title
    assert counter.joules() == 0.0
    for each in zones:
        each.write_text(str(int(each.read_text()) + 250_000))
    assert counter.joules() == pytest.approx(0.5)
    assert counter.joules() == pytest.approx(0.5)


def test_rapl_follows_a_counter_that_turns_around(powercap: Path) -> None:
    file = zone(powercap, "intel-rapl:0", "package-0", 90.0, turn=100.0)
    counter = Rapl()
    for now, expected in ((99.0, 9.0), (4.0, 14.0), (50.0, 60.0), (49.0, 159.0)):
        file.write_text(str(round(now * 1e6)))
        assert counter.joules() == pytest.approx(expected)


def test_a_counter_that_may_not_be_read_is_named_with_its_permission(powercap: Path) -> None:
    file = zone(powercap, "intel-rapl:0", "package-0")
    file.chmod(0o400)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    else:
        file.chmod(0)
    try:
        with pytest.raises(InputError) as refused:
            Energy(source="rapl").check("cpu")
        estimate = Energy().measure(convolution(2))
    finally:
        os.seteuid(user)
    mode = "-r--------" if user == 0 else "----------"
    for part in (
        str(file),
        "Permission denied",
        mode,
        f"user {user}",
        "chmod a+r",
        "source: model",
    ):
        assert part in str(refused.value)
    assert estimate.note.startswith("estimated: ")
    assert f"not measured: {file} cannot be read: Permission denied" in estimate.note


def test_without_rapl_only_an_explicit_wish_is_refused(powercap: Path) -> None:
    subject = convolution(4)
    with pytest.raises(InputError, match=r"source: rapl: no .*/intel-rapl:\*/name names a package"):
        Energy(source="rapl").check("cpu")
    with pytest.raises(InputError, match="source: model, an estimate"):
        Energy(source="rapl").measure(subject)
    for source in ("auto", "model"):
        Energy(source=source).check("cpu")
    measured, model = Energy().measure(subject), Energy(source="model").measure(subject)
    assert measured.value == model.value
    assert "names a package" in measured.note


def test_a_source_that_does_not_see_the_device_is_refused() -> None:
    with pytest.raises(InputError, match=r"nvml does not see what runs on cpu.*auto, rapl, model"):
        Energy(source="nvml").check("cpu")
    with pytest.raises(InputError, match=r"rapl does not see what runs on cuda.*auto, nvml, model"):
        Energy(source="rapl").check("cuda")


class Machine(nn.Module):
    """A network on a machine that takes 20 W, and `pass_j` more for every pass.

    It writes the counter itself, and so does `idle`: what is read is exact.
    """

    def __init__(self, file: Path, pass_j: float) -> None:
        super().__init__()
        self.file, self.pass_j, self.passes = file, pass_j, 0

    def idle(self) -> int:
        time.sleep(0.002)
        joules = 20.0 * time.perf_counter() + self.pass_j * self.passes
        self.file.write_text(str(round(1e6 * joules)))
        return 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.idle()
        return x


def test_idle_power_is_subtracted(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(zone(powercap, "intel-rapl:0", "package-0"), pass_j=5.0)
    monkeypatch.setattr(_energy_meter, "_idle", machine.idle)
    subject = Subject(SMALL, network=machine, example=torch.zeros(1, 1))
    measured = Energy(batch=4, seconds=0.4).measure(subject)
    # A pass of 4 samples takes 5 J, and at least 40 mJ of the 20 W while it runs.
    assert measured.value == pytest.approx(1250.0, rel=0.05)
    assert measured.low is not None
    assert measured.high is not None
    assert 0.0 < measured.low <= measured.value <= measured.high
    assert measured.parts["idle_w"].value == pytest.approx(20.0, rel=0.2)
    assert measured.parts["gross_mj"].value > measured.value + 5.0
    assert measured.note == "by RAPL's counter of 1 processor package(s)"


def test_a_counter_that_stands_still_is_no_zero(powercap: Path) -> None:
    zone(powercap, "intel-rapl:0", "package-0", 3.0)
    subject = convolution(4)
    with pytest.raises(InputError, match=r"moved 0 times in 0\.\d s"):
        Energy(source="rapl", seconds=0.05).measure(subject)
    assert Energy(seconds=0.05).measure(subject).note.startswith("estimated: ")


class Sluggish:
    """A counter of 10 W that moves every 0.1 s, as those of GPUs do."""

    title = "a counter"

    def joules(self) -> float:
        return float(10.0 * 0.1 * int(time.perf_counter() / 0.1))


def test_a_run_goes_on_until_the_counter_has_moved_often_enough() -> None:
    passes: list[float] = []

    def work() -> int:
        time.sleep(0.01)
        passes.append(time.perf_counter())
        return 1

    found = metered(Sluggish(), work, seconds=0.1)
    assert passes[-1] - passes[0] > 0.45
    assert found.idle.mean == pytest.approx(10.0, rel=0.2)
    # Working takes as much as idling, so that nothing is left for the passes.
    assert abs(found.net.mean) < 0.5 * found.gross


def test_the_interval_of_five_windows_by_hand() -> None:
    # The standard error of 1 … 5 is √(2.5 / 5); Student's t with 4 degrees of freedom 2.776.
    assert _energy_meter._half([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.776 * 0.5**0.5)


def test_what_idling_hides_is_given_as_the_most_that_it_can_be() -> None:
    idle = Rate(20.0, 1.0)
    plain = _per_sample(Metered(Rate(0.010, 0.002), 0.05, idle), 2, "a counter")
    assert (plain.value, plain.low, plain.high) == pytest.approx((5.0, 4.0, 6.0))
    assert plain.parts["idle_w"] == Measurement(20.0, 19.0, 21.0)
    hidden = _per_sample(Metered(Rate(0.001, 0.002), 0.05, idle), 2, "a counter")
    assert (hidden.value, hidden.low, hidden.high) == pytest.approx((1.5, 0.0, 1.5))
    assert "the most it can be" in hidden.note
    # The machine was busier before than while the network ran: all that is known is the sum.
    below = _per_sample(Metered(Rate(-0.010, 0.002), 0.05, idle), 2, "a counter")
    assert (below.value, below.low, below.high) == pytest.approx((25.0, 0.0, 25.0))


# -- energy: NVML, played by hand where there is no GPU ----------------------------------------


class NvmlError(Exception):
    pass


def driver(monkeypatch: pytest.MonkeyPatch, readings: list[int]) -> None:
    """Put a driver in place that has one GPU and then fails when `readings` are used up."""

    def energy(handle: str) -> int:
        if not readings:
            raise NvmlError("Not Supported")
        assert handle == "handle of GPU-17"
        return readings.pop(0)

    module: Any = SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle of {uuid}",
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    properties = SimpleNamespace(name="a GPU", uuid=17)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def test_nvml_counts_millijoules_of_the_network_s_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, [1000, 2500, 4000])
    counter = Nvml(torch.device("cuda", 0))
    assert "a GPU" in counter.title
    assert [counter.joules(), counter.joules()] == [2.5, 4.0]
    with pytest.raises(InputError, match="NVML's counter of a GPU cannot be read: Not Supported"):
        counter.joules()


def test_a_gpu_without_a_counter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, [])
    with pytest.raises(InputError, match="cannot be read: Not Supported; else: source: model"):
        Energy(source="nvml").check("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device here; else: source: model"):
        Energy(source="nvml").check("cuda")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(InputError, match=r"pip install 'autoprune\[nvml\]'"):
        Energy(source="nvml").check("cuda")
    Energy().check("cuda")


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="batch must be at least 1"):
        Energy(batch=0)
    for seconds in (0.0, -1.0, 61.0, float("nan")):
        with pytest.raises(ValueError, match=r"between 0\.05 and 60"):
            Energy(seconds=seconds)


def test_reading_a_run_with_resources_needs_no_torch() -> None:
    modules = ", ".join(f"autoprune.objectives.{x}" for x in ("bitops", "memory", "energy"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_energy_on_cuda_is_measured_by_nvml() -> None:
    pytest.importorskip("pynvml")
    small, large = (convolution(width) for width in (16, 256))
    values = []
    for each in (small, large):
        assert each.network is not None
        assert each.example is not None
        on_gpu = replace(each, network=each.network.cuda(), example=each.example.cuda())
        values.append(Energy(batch=64, source="nvml").measure(on_gpu))
    assert all("NVML" in each.note for each in values)
    assert values[0].value < values[1].value

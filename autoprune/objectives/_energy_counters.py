"""Counters of energy: of the GPU by NVML, of the processor by RAPL."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.errors import InputError

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """A counter of energy; `title` says which, for people."""

    title: str

    def joules(self) -> float:
        """Return the joules since some start. Raises `InputError` if it cannot be read."""


class Nvml:
    """The counter of a GPU that NVIDIA's driver keeps, in mJ; Volta or newer.

    It moves every 20 to 100 ms. Raises `InputError` where there is none.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        import torch

        try:
            import pynvml
        except ImportError:
            message = "NVML is read through nvidia-ml-py: pip install 'autoprune[nvml]'"
            raise InputError(message) from None
        if not torch.cuda.is_available():
            raise InputError("there is no CUDA device here")
        properties: Any = torch.cuda.get_device_properties(device)
        self.title = f"NVML's counter of {properties.name}"
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            # By its identity: CUDA_VISIBLE_DEVICES renumbers devices for us, not for NVML.
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        except pynvml.NVMLError as error:
            raise self._unreadable(error) from error
        self.joules()

    def joules(self) -> float:
        """Return the joules since the driver was loaded."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self.title} cannot be read: {error}")


class Rapl:
    """The counters of all processor packages, in μJ, as Linux shows them (powercap).

    They cover whatever runs on the packages, and move about every millisecond. Only packages
    count: cores are parts of them, few machines count their memory, and `intel-rapl-mmio`
    shows the same packages again. Raises `InputError` that names the file.
    """

    def __init__(self) -> None:
        zones = sorted(POWERCAP.glob("intel-rapl:*"))
        packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
        if not packages:
            raise InputError(
                f"no {POWERCAP}/intel-rapl:*/name names a package; RAPL needs Linux on the bare "
                "metal of an Intel or AMD processor"
            )
        self.title = f"RAPL's counter of {len(packages)} processor package(s)"
        self._counters = [zone / "energy_uj" for zone in packages]
        self._ranges = [int(_text(zone / "max_energy_range_uj")) for zone in packages]
        self._last = [int(_text(each)) for each in self._counters]
        self._sum = 0

    def joules(self) -> float:
        """Return the joules since the first reading; to be read once per turn-around at least."""
        for place, counter in enumerate(self._counters):
            now = int(_text(counter))
            grown = now - self._last[place]
            self._sum += grown if grown >= 0 else grown + self._ranges[place]
            self._last[place] = now
        return self._sum / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        advice = _permission(path) if isinstance(error, PermissionError) else ""
        raise InputError(f"{path} cannot be read: {error.strerror}{advice}") from error


def _permission(path: Path) -> str:
    found = path.stat()
    mode = stat.filemode(found.st_mode)
    return f" (it is {mode}, owned by user {found.st_uid}); let root run 'chmod a+r {path}'"

"""What a user installs: the wheel's packages and data files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_our_four_packages_and_their_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    # A copy of what git tracks: building must not leave anything in the checkout.
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={source}/"], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"agents", "autoprune", "cluster", "search_spaces"}
    migrations = "autoprune/store/migrations"
    assert {
        "autoprune/report/template.html",
        "autoprune/py.typed",
        f"{migrations}/env.py",
        f"{migrations}/versions/0001_first_schema.py",
    } <= set(names)

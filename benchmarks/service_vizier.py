"""OSS Vizier's ListOptimalTrials and our QueryFront, on the same trials."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.service_host import Host, fronts
from benchmarks.service_log import entries, points
from benchmarks.service_table import Row, left_out
from cluster.proto.autoprune.v1 import front_service_pb2 as pb

_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = _ROOT / "runs" / "vizier-venv"
# The newest release. Its server imports much that only searchers need; a newer JAX breaks that.
_PACKAGES = ("google-vizier[jax]==0.1.24", "jax<0.5")
_TRIALS, _CALLS = 1000, 20
_JOB = "digits"
_PATIENCE_S = 600.0


def beside_vizier() -> list[Row | str]:
    """Ask both for the front of a thousand trials with three objectives."""
    what = f"the front of {_TRIALS:,} trials"
    log = list(entries(_TRIALS, rungs=1))
    with Host() as host:
        host.add_job(_JOB, log)
        first, usual, members = asyncio.run(_asked(host))
        note = f"the first time {1e3 * first:.0f} ms; {len(members)} members"
        rows: list[Row | str] = [Row(f"{what}: QueryFront", 1e3 * usual, "{:.1f} ms", note=note)]
        try:
            python = _environment()
            points_file = host.directory / "points.json"
            points_file.write_text(json.dumps(points(log)))
            theirs = _peer(python, points_file)
        except (OSError, subprocess.SubprocessError) as error:
            return [*rows, left_out("… OSS Vizier's ListOptimalTrials", _reason(error))]
    is_same = "the same ones" if theirs["listed"] == members else "others"
    is_listed = "is" if theirs["lists_nan"] else "is not"
    note = (
        f"{len(theirs['listed'])} members, {is_same}; a trial that measured NaN {is_listed} listed"
    )
    theirs_ms = 1e3 * theirs["seconds"]
    return [*rows, Row("… OSS Vizier's ListOptimalTrials", theirs_ms, "{:,.0f} ms", note=note)]


async def _asked(host: Host) -> tuple[float, float, list[int]]:
    """Return the seconds of the first query, of later ones, and the numbers of the members."""
    async with host.channel() as channel:
        await channel.channel_ready()
        ask = fronts(channel).QueryFront
        laps = []
        for place in range(_CALLS + 1):
            # Another query each time, so that nothing is answered from memory.
            request = pb.QueryFrontRequest(job=_JOB, page_size=1000)
            request.bounds.add(metric="macs", most=1e12 + place)
            begun = time.perf_counter()
            answer = await ask(request, metadata=host.metadata)
            laps.append(time.perf_counter() - begun)
    members = sorted(each.number for each in answer.trials)
    return laps[0], statistics.median(laps[1:]), members


def _environment() -> Path:
    """Return the interpreter of Vizier's environment, which is made if it is not there."""
    python = _ENVIRONMENT / "bin" / "python"
    made = _ENVIRONMENT / ".installed"
    if not made.exists():
        print("OSS Vizier is being installed: some two minutes", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(_ENVIRONMENT)])
        _run([str(python), "-m", "pip", "install", "--quiet", *_PACKAGES])
        made.touch()
    return python


def _peer(python: Path, points_file: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("vizier_peer.py")
    output = _run([str(python), str(script), str(points_file)])
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _run(command: list[str]) -> str:
    without_ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        env=without_ours,
    )
    return done.stdout


def _reason(error: Exception) -> str:
    """Return the last line of what went wrong."""
    said = getattr(error, "stderr", None) or str(error)
    return str(said).strip().splitlines()[-1][:200]

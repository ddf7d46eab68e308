"""What the service does under load: a real server over TLS, with a token and SQLite logs.

    python -m benchmarks.service [--part queries] [--part export] …

Prints a Markdown table, what was measured beside what was aimed at. The server is a process of
its own; nothing is searched, the logs are made up (`benchmarks.service_log`).

queries       100 trials of a job with 10,000, from a server on one core, by 16 clients on another
first_query   the first query of a job with 100,000 trials, after a start
insertion     a trial into a front of 10,000 (`benchmarks.front_index`)
watchers      200 streams of a log that another process writes, 50 events a second for a minute
submissions   one job, submitted 100 times at once with one request_id
export        a file of 500 MB that an exporter has left, broken off and resumed
vizier        a front of 1,000 trials beside OSS Vizier's, in an environment of its own that the
              first run makes in `runs/` (some two minutes, 860 MB)
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

from benchmarks.service_queries import first_query, queries
from benchmarks.service_streams import export, submissions, watchers
from benchmarks.service_table import HEAD, Row
from benchmarks.service_vizier import beside_vizier

_MEMBERS = 10_000


def insertion() -> list[Row]:
    """Add trials to a large front."""
    command = [sys.executable, "-m", "benchmarks.front_index", "--trials", "100"]
    command += ["--members", str(_MEMBERS)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    found = next(line for line in lines if line["what"] == "insertion")
    dominated, comes_in = found["dominated_ms"], found["comes_in_ms"]
    return [
        Row(
            f"a trial into a front of {_MEMBERS:,} with three objectives, where others leave",
            found["others_leave_ms"],
            "{:.2f} ms",
            most=1.0,
            note=f"{comes_in:.2f} where none does, {dominated:.2f} if it is dominated",
        )
    ]


PARTS: dict[str, Callable[[], Sequence[Row | str]]] = {
    "queries": queries,
    "first_query": first_query,
    "insertion": insertion,
    "watchers": watchers,
    "submissions": submissions,
    "export": export,
    "vizier": beside_vizier,
}


def main() -> None:
    """Print the table, row by row as it is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one, or these")
    options = parser.parse_args()
    print(HEAD, flush=True)
    # Each part has a client's process of its own: cores, threads and memory begin anew.
    spawn = multiprocessing.get_context("spawn")
    for name in options.part or PARTS:
        begun = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            for row in pool.submit(PARTS[name]).result():
                print(row, flush=True)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Seconds of `import autoprune` and of `autoprune plugins`, each in a fresh interpreter.

python -m benchmarks.import_time
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 7


def seconds(command: list[str]) -> float:
    """Return the median wall seconds of a command."""
    laps = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        laps.append(time.perf_counter() - start)
    return statistics.median(laps)


def main() -> None:
    """Print the figures as JSON; the bare interpreter is timed beside them."""
    bare = seconds([sys.executable, "-c", "pass"])
    imported = seconds([sys.executable, "-c", "import autoprune"])
    plugins = seconds([sys.executable, "-m", "autoprune.cli.main", "plugins"])
    figures = {
        "bare_interpreter_s": bare,
        "import_autoprune_s": imported - bare,
        "autoprune_plugins_s": plugins,
        "target_import_s": 0.3,
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

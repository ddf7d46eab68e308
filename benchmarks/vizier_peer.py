"""OSS Vizier's own server, asked for the optimal trials of a study.

python benchmarks/vizier_peer.py POINTS.json      # in an environment that has google-vizier

Knows nothing of autoprune. Reads {number: [value, …]}, adds each as a completed trial of a study
whose metrics are all to be small, and prints as JSON how long ListOptimalTrials takes over gRPC,
which numbers it lists, and whether it lists a trial without a number in its metrics.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vizier.service import clients, pyvizier, servers
from vizier.service.protos import vizier_service_pb2

_METRICS = ("error", "macs", "latency_ms")


def main() -> None:
    """Print what was measured."""
    points: dict[str, list[float]] = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as directory:
        server = servers.DefaultVizierServer(database_url=f"sqlite:///{directory}/vizier.db")
        clients.environment_variables.server_endpoint = server.endpoint
        study = _study()
        numbers = {_add(study, values): int(number) for number, values in points.items()}
        request = vizier_service_pb2.ListOptimalTrialsRequest(parent=study.resource_name)
        begun = time.perf_counter()
        found = server.stub.ListOptimalTrials(request).optimal_trials
        seconds = time.perf_counter() - begun
        listed = sorted(numbers[int(each.id)] for each in found)
        stray = _add(study, [float("nan")] * len(_METRICS))
        again = server.stub.ListOptimalTrials(request).optimal_trials
    is_stray_listed = stray in [int(each.id) for each in again]
    print(json.dumps({"seconds": seconds, "listed": listed, "lists_nan": is_stray_listed}))


def _study() -> Any:
    config = pyvizier.StudyConfig(algorithm="RANDOM_SEARCH")
    config.search_space.root.add_float_param("keep_ratio", 0.0, 1.0)
    for name in _METRICS:
        goal = pyvizier.ObjectiveMetricGoal.MINIMIZE
        config.metric_information.append(pyvizier.MetricInformation(name, goal=goal))
    return clients.Study.from_study_config(config, owner="benchmark", study_id="front")


def _add(study: Any, values: list[float]) -> int:
    """Add a completed trial and return its id."""
    trial = pyvizier.Trial(parameters={"keep_ratio": 0.5})
    metrics = dict(zip(_METRICS, values, strict=True))
    trial.complete(pyvizier.Measurement(metrics=metrics))
    number: int = study.add_trial(trial).id
    return number


if __name__ == "__main__":
    main()

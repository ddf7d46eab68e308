"""Requests that nobody means well: jobs with wrong parts in every place, and damaged messages."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from cluster.proto.autoprune.v1 import front_service_pb2 as front_pb
from cluster.proto.autoprune.v1 import search_service_pb2 as pb
from tests.service.calls import Method

Place = tuple[str | int, ...]

# Valid, and with every section that a job can have.
FULL: dict[str, Any] = {
    "name": "full",
    "model": {"name": "digits_cnn", "num_classes": 10},
    "data": {"name": "digits", "groups": ["class"], "splits": {"source": "test", "search": 0.5}},
    "space": {"name": "mixed", "keep_ratio": [0.2, 1.0], "bits": [4, 8], "criterion": ["l1"]},
    "objectives": [
        "error",
        {"name": "churn"},
        {"name": "corruption_error", "kinds": ["shot_noise"]},
    ],
    "constraints": ["macs <= 0.6 * dense", {"soft": "error <= dense + 0.02"}],
    "searchers": ["nsga2", {"name": "portfolio", "searchers": ["tpe", {"name": "uniform"}]}],
    "baselines": {"searchers": [{"name": "random"}], "trials": 4},
    "rungs": [
        {"repair": "bn", "images": 10},
        {
            "finetune_steps": 3,
            "recovery": {"name": "finetune", "optimizer": "sgd"},
            "distill": {"teacher": {"name": "digits_cnn"}, "features": []},
        },
    ],
    "quantization": {"target": "onnx", "images": 16},
    "budget": {"trials": 5, "minutes": 1.5},
    "resources": {"workers": 2, "device": "cpu", "labels": {"kind": "small"}},
    "significance": 0.05,
    "seed": 3,
}
CANARY = "canary"
"""A module that a server never imports, and the name of a directory that it never opens."""


def evil_values(outside: Path) -> list[Any]:
    """Return what stands nowhere in a job; `outside` is a file that is none of the server's."""
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    paths = [str(outside), f"../../../../../../../..{outside}", f"file://{outside}", "/etc/passwd"]
    imports = [f"{CANARY}:Thing", f"{CANARY}:no word", f"{CANARY}:", f"x.{CANARY}:Thing"]
    odd = ["", "\0", "\ud800", "\u202e\r\n\x1b[31m", "é" * 300, "A" * 100_000, "${PATH}", "{0.x}"]
    numbers = [0, -1, 1.5, 1e308, -1e308, 2**31, 2**63 - 1, 2**64, 10**400, 1e-320]
    others = [None, True, [], {}, [None], deep, float("nan"), float("inf"), [0] * 200]
    keys = [{text: 1} for text in (*imports, *paths, "\ud800", "name", "import", "__class__")]
    named = [{"name": each} for each in (*imports, *paths)] + [{"import": x} for x in imports]
    return [*paths, *imports, *odd, *numbers, *others, *keys, *named]


def wild_jobs(count: int, outside: Path) -> Iterator[tuple[str, bool]]:
    """Yield jobs as text, and whether each is valid: one in twenty is.

    The first ones have each evil value in each place in turn, as far as `count` goes.
    """
    rng = random.Random(0)
    evil = evil_values(outside)
    single = [(place, value) for place in _places(FULL) for value in evil]
    rng.shuffle(single)
    for number in range(count):
        job = deepcopy(FULL)
        if number % 20 == 0:
            job["seed"] = number
        elif number < len(single):
            _put(job, *single[number])
        else:
            for _ in range(rng.randint(1, 6)):
                _mutate(job, rng, evil)
        yield json.dumps(job), number % 20 == 0


def sensible(method: Method, job: str) -> list[Message]:
    """Return requests that make sense, with something in every field."""
    query = front_pb.QueryFrontRequest(job=job, sort="macs", top=3, sequence=9, page_size=2)
    query.bounds.add(metric="error", most=0.5, of_dense=True)
    query.field_mask.paths.extend(["number", "objectives"])
    pick = front_pb.QueryFrontRequest(job=job, everything=True, page_token="WzFd")
    pick.pick.weights.weights["error"] = 2.0
    trials = front_pb.ListTrialsRequest(job=job, states=[2], page_size=1, page_token="WzFd")
    trials.field_mask.paths.append("policy_json")
    found: dict[str, list[Message]] = {
        "SubmitJob": [pb.SubmitJobRequest(request_id="x", spec_json="{}", validate_only=True)],
        "ListJobs": [pb.ListJobsRequest(page_size=3, states=[1, 2], page_token="WzFd")],
        "GetJob": [pb.GetJobRequest(job=job, with_preparation=True)],
        "CancelJob": [pb.CancelJobRequest(job=job, mode=pb.CANCEL_MODE_NOW)],
        "ResumeJob": [pb.ResumeJobRequest(job=job, trials=7, minutes=1.5)],
        "WatchJob": [pb.WatchJobRequest(job=job, after_sequence=3)],
        "WatchFront": [pb.WatchFrontRequest(job=job, after_sequence=3)],
        "QueryFront": [query, pick],
        "ListTrials": [trials],
        "ExportTrial": [front_pb.ExportTrialRequest(job=job, trial="0", format="onnx", offset=1)],
    }
    texts = ("0", "knee", "best:error", "weights:error=1,macs=2")
    if "trial" in method.kind.DESCRIPTOR.fields_by_name and method.name not in found:
        return [method.kind(job=job, trial=text) for text in texts]
    return found.get(method.name) or [method.kind(job=job)]


def damaged(seeds: list[bytes], rng: random.Random) -> bytes:
    """Return a message with flipped bits, cut, put together from two, or of random bytes."""
    body = bytearray(rng.choice(seeds))
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(64))
    if kind == 1:
        return bytes(body[: rng.randrange(len(body) + 1)])
    if kind == 2:
        other = rng.choice(seeds)
        return bytes(body[: rng.randrange(len(body) + 1)] + other[rng.randrange(len(other) + 1) :])
    if kind == 3:
        place = rng.randrange(len(body) + 1)
        return bytes(body[:place] + rng.randbytes(rng.randrange(1, 9)) + body[place:])
    for _ in range(rng.randrange(1, 9) if kind == 4 else 1):
        place = rng.randrange(len(body))
        body[place] ^= 1 << rng.randrange(8)
    return bytes(body)


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield where a value has parts, at every level."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in entries:
        yield (*place, key)
        if isinstance(each, dict | list):
            yield from _places(each, (*place, key))


def _put(job: dict[str, Any], place: Place, value: Any) -> None:
    parent: Any = job
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = deepcopy(value)


def _mutate(job: dict[str, Any], rng: random.Random, evil: list[Any]) -> None:
    """Replace, add or remove a part, or put one in another's place."""
    places = list(_places(job))
    if not places:
        return
    place, kind = rng.choice(places), rng.randrange(5)
    value = rng.choice(evil)
    if kind == 0:
        value = _at(job, rng.choice(places))
    elif kind == 1:
        value = [_at(job, place)] * rng.randint(1, 3)
    elif kind == 2:
        keys = [x for x in evil if isinstance(x, str)] + [str(each[-1]) for each in places]
        value = {rng.choice(keys): value}
    elif kind == 3 and isinstance(_at(job, place[:-1]), dict):
        del _at(job, place[:-1])[place[-1]]
        return
    _put(job, place, value)


def _at(job: Any, place: Place) -> Any:
    for key in place:
        job = job[key]
    return job

"""How many workers fit: every resource that they ask for, on nodes that fit and live."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.errors import JobError
from autoprune.validation import validated
from cluster.placement import Resources


def node(
    cpus: float = 0, gpus: float = 0, memory: float = 64e9, alive: bool = True, **labels: str
) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": gpus, "memory": memory}
    held = {name: each for name, each in resources.items() if each}
    return {"Alive": alive, "Resources": held, "Labels": labels}


@pytest.mark.parametrize(
    ("resources", "nodes", "wanted"),
    [
        (Resources(), [node(4), node(2)], 6),
        (Resources(), [node(4), node(2, alive=False)], 4),
        (Resources(), [], 1),
        (Resources(fewest=3), [node(2)], 3),
        (Resources(most=5), [node(4), node(4)], 5),
        (Resources(most=5), [node(2)], 5),
        (Resources(fewest=2, most=2), [node(8)], 2),
        (Resources(), [node(3.5)], 3),
        (Resources(gpus_per_worker=0.25), [node(16, 2), node(16)], 8),
        (Resources(gpus_per_worker=0.1), [node(16, 0.3)], 3),
        (Resources(gpus_per_worker=0.25), [node(3, 2)], 3),
        (Resources(memory_bytes=10**9), [node(16, memory=3.9e9)], 3),
        (Resources(labels={"kind": "big"}), [node(4, kind="big"), node(4), node(4, kind="x")], 4),
    ],
)
def test_room(resources: Resources, nodes: list[dict[str, Any]], wanted: int) -> None:
    assert resources.wanted(nodes) == wanted


def job(**resources: Any) -> Any:
    body = {
        "model": {"name": "cifar_resnet20"},
        "data": {"name": "digits"},
        "resources": resources,
    }
    return validated(body).resources


def test_a_number_of_workers_is_fixed_and_auto_lies_between_bounds() -> None:
    fixed = Resources.of(job(workers=3, min_workers=1, max_workers=9), "cpu")
    assert (fixed.fewest, fixed.most) == (3, 3)
    auto = Resources.of(job(min_workers=2, max_workers=9), "cpu")
    assert (auto.fewest, auto.most) == (2, 9)
    assert Resources.of(job(), "cpu").most is None


def test_gpus_are_asked_for_only_where_they_are_used() -> None:
    asked = job(gpus_per_worker=0.5, memory_gb_per_worker=2, labels={"kind": "big"})
    options = Resources.of(asked, "cuda").options()
    assert options["num_gpus"] == 0.5
    assert options["memory"] == 2 * 2**30
    assert options["label_selector"] == {"kind": "big"}
    assert options["max_restarts"] == 0
    assert Resources.of(asked, "cpu").options()["num_gpus"] == 0


def test_bounds_in_the_wrong_order_are_an_error() -> None:
    with pytest.raises(JobError, match=r"max_workers \(1\) must not be below min_workers \(2\)"):
        job(min_workers=2, max_workers=1)

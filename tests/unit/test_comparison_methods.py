"""Pairs of a criterion and a recovery: which can serve, and that all train alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autoprune.comparison.contest import Standing
from autoprune.comparison.method import Method, methods_of, require_recoveries
from autoprune.comparison.request import Request
from autoprune.contracts.recovery import Training
from autoprune.criteria.l1 import L1
from autoprune.errors import InputError, JobError, RunError
from autoprune.job.spec import PluginSpec, RungSpec
from autoprune.policy import LayerDecision, Policy
from autoprune.recoveries.finetune import Finetune
from tests.comparing import compared, noise_job

UNITS = Policy.from_keep_ratios({"one": 0.5})
WEIGHTS = Policy(layers={"one": LayerDecision(keep_ratio=0.5)})
RANKS = Policy(layers={"one": LayerDecision(rank=2)})


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return noise_job(tmp_path)


def test_methods_are_all_pairs() -> None:
    assert methods_of(("l1", "l2"), ()) == (Method("l1"), Method("l2"))
    found = methods_of(("l1", "random"), ("finetune", "rigl"))
    assert [str(each) for each in found] == [
        "l1 with finetune",
        "l1 with rigl",
        "random with finetune",
        "random with rigl",
    ]
    assert found[1].yardstick == found[3]
    assert found[3].yardstick == found[3]
    assert Method("l1").to_json() == {"criterion": "l1", "recovery": None}
    policy = found[1].applied_to(UNITS)
    assert (policy.recipe.criterion, policy.recipe.recovery) == ("l1", "rigl")
    assert policy.decisions == UNITS.decisions


@pytest.mark.parametrize(
    ("named", "rung", "policy", "words"),
    [
        (("finetune", "rigl"), {}, WEIGHTS, ""),
        (("finetune", "slimming"), {}, UNITS, ""),
        (("finetune", "rigl"), {}, UNITS, "'rigl' cannot serve here.*whole units alone leave"),
        (("slimming",), {}, WEIGHTS, "'slimming' cannot serve here.*more than units leave"),
        (("slimming",), {}, RANKS, "'slimming' cannot serve here.*more than units leave"),
        (("slimming",), {"quantize_aware": "lsq"}, UNITS, "'slimming'.*lsq learns steps"),
        (("finetune",), {"quantize_aware": "lsq"}, UNITS, ""),
        # The rung's own does what it can, unless that is nothing.
        ((), {"recovery": "rigl"}, UNITS, ""),
        ((), {"recovery": "slimming"}, UNITS, ""),
        ((), {"recovery": "slimming"}, WEIGHTS, "'slimming' cannot serve here"),
        ((), {"recovery": "slimming", "finetune_steps": None}, WEIGHTS, ""),
        (("rigl",), {"recovery": "slimming"}, WEIGHTS, ""),
    ],
)
def test_recoveries_that_make_no_sense_of_what_leaves(
    named: tuple[str, ...], rung: dict[str, Any], policy: Policy, words: str
) -> None:
    spec = RungSpec.model_validate({"finetune_steps": 3, **rung})
    if not words:
        require_recoveries(named, spec, [policy])
        return
    with pytest.raises(InputError, match=words) as told:
        require_recoveries(named, spec, [policy])
    fitting = str(told.value).partition("recoveries that can: ")[2].split(", ")
    assert "finetune" in fitting
    assert ("rigl" in fitting) == (policy is not UNITS and policy.is_sparse)
    assert ("slimming" in fitting) == (policy is UNITS and spec.quantize_aware != "lsq")
    require_recoveries(fitting, spec, [policy])


def test_what_is_named_wrongly_is_told_before_anything_runs(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    missing = {**job, "data": {"name": "npz", "path": "/no/such.npz"}}
    request = Request(("tailor",), (0,), (0.5,), rung=1, recoveries=("finetune", "riggle"))
    with pytest.raises(JobError, match="did you mean 'rigl'") as told:
        compared(missing, tmp_path / "x.json", request)
    assert [(each.path, each.given) for each in told.value.violations] == [
        ("criteria", "tailor"),
        ("recoveries", "riggle"),
    ]
    request = Request(("l1",), (0,), (0.5,), recoveries=("finetune",))
    with pytest.raises(InputError, match=r"trains nothing.*rungs\.0\.finetune_steps.*--rung 1"):
        compared(missing, tmp_path / "x.json", request)
    with pytest.raises(InputError, match="recoveries names 'rigl' twice"):
        Request(("l1",), (0,), (0.5,), recoveries=("rigl", "rigl"))
    request = Request(("l1",), (0,), (0.5,), rung=1, recoveries=("rigl",))
    with pytest.raises(InputError, match="would be finetune under another name"):
        compared(job, tmp_path / "x.json", request)
    assert not (tmp_path / "x.json").exists()


def test_all_methods_train_alike(
    digits_job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many steps, at the same rate, on the same batches; options of the rung's own are its."""
    recover, seen = Finetune.recover, []

    def watched(self: Finetune, training: Training) -> None:
        seen.append((type(self).__name__, getattr(self, "every", self.weight_decay), training))
        recover(self, training)

    monkeypatch.setattr(Finetune, "recover", watched)
    own = {"name": "finetune", "weight_decay": 0.125}
    rung = {"finetune_steps": 2, "batch_size": 8, "learning_rate": 0.03, "recovery": own}
    scoring = {"images": 8}
    request = Request(("l1",), (0, 5), (0.3,), of="weights", recoveries=("finetune", "rigl"))
    done = compared(
        {**digits_job, "rungs": [{**rung, "repair": "none", "images": 50}], "scoring": scoring},
        tmp_path / "x.json",
        request,
    )
    assert [str(row.method) for row in done.rows if row.errors] == [
        str(row.method) for row in done.rows
    ]
    assert len(seen) == 8
    assert [name for name, *_ in seen] == ["Finetune", "RigL"] * 4
    assert {option for name, option, _ in seen if name == "Finetune"} == {0.125}
    assert {option for name, option, _ in seen if name == "RigL"} == {5e-4}
    assert {(each.steps, each.learning_rate) for *_, each in seen} == {(2, 0.03)}
    for seed in (0, 5):
        rows = [each.batch(1).rows.tolist() for *_, each in seen if each.seed == seed]
        assert len(rows) == 4
        assert all(each == rows[0] for each in rows)
    assert seen[0][2].batch(1).rows.tolist() != seen[4][2].batch(1).rows.tolist()


def test_of_units_those_that_begin_dense_are_compared(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    names = ("finetune", "slimming")
    request = Request(("l1",), (0,), (0.5,), rung=1, recoveries=names)
    done = compared({**job, "objectives": ["error", "loss"]}, tmp_path / "x.json", request)
    assert {row.method for row in done.rows if row.errors} == set(
        methods_of(("l1", "random"), names)
    )
    entries = done.ledger.entries
    assert len({each.outcome.network for each in entries.values()}) == 4
    for row in done.to_json()["rows"]:
        assert row["policy"]["recipe"]["recovery"] == row["recovery"]
        assert row["policy"]["groups"] == done.targets[0].policy.to_json()["groups"]
    for known in ("l1", "random"):
        losses = {
            entries[Method(known, x), 0.5, 0].outcome.measured["report"]["loss"].value
            for x in names
        }
        assert len(losses) == 2
    assert done.indifferent == ()


class Twin(L1):
    """Another name for what `l1` finds."""


def test_equal_units_are_one_network_unless_training_asks_in_which_order_they_leave(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    twin = "tests.unit.test_comparison_methods:Twin"
    request = Request(("l1", twin), (0,), (0.5,), rung=1, recoveries=("finetune", "gradual_units"))
    entries = compared(job, tmp_path / "x.json", request).ledger.entries
    networks = {key[0]: each.outcome.network for key, each in entries.items()}
    assert networks[Method("l1", "finetune")] == networks[Method(twin, "finetune")]
    assert networks[Method("l1", "gradual_units")] != networks[Method(twin, "gradual_units")]


def test_a_recovery_of_the_space_is_not_in_the_way(job: Mapping[str, Any], tmp_path: Path) -> None:
    """What is not named is the rung's own, whatever the job's space would choose from."""
    space = {"name": "mixed", "recovery": ["lottery", "finetune"], "criterion": "l2"}
    done = compared(
        {**job, "rungs": [job["rungs"][1]], "space": space},
        tmp_path / "x.json",
        Request(("l1",), (0,), (0.5,)),
    )
    assert done.targets[0].policy.recipe.recovery is None
    assert done.job.space == PluginSpec(name="mixed")
    plain = compared(
        {**job, "rungs": [job["rungs"][1]]}, tmp_path / "y.json", Request(("l1",), (0,), (0.5,))
    )
    for key, entry in plain.ledger.entries.items():
        other = done.ledger.entries[key].outcome
        assert other.to_json()["measured"] == entry.outcome.to_json()["measured"]


@pytest.mark.parametrize("evaluated", [1, 3])
def test_a_comparison_of_recoveries_goes_on(
    evaluated: int, job: Mapping[str, Any], tmp_path: Path
) -> None:
    names = ("finetune", "gradual_units")
    request = Request(("l1",), (0,), (0.6,), rung=1, recoveries=names)
    compared(job, tmp_path / "whole.json", request)

    def interrupt(standing: Standing) -> None:
        if standing.done == evaluated and " at " in standing.doing:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compared(job, tmp_path / "part.json", request, interrupt)
    seen: list[Standing] = []
    compared(job, tmp_path / "part.json", request, seen.append)
    assert (seen[0].done, seen[-1].total) == (evaluated, 4)
    assert len([each for each in seen if " at " in each.doing]) == 4 - evaluated
    bodies = [json.loads((tmp_path / x).read_text()) for x in ("whole.json", "part.json")]
    keys = [[(x["criterion"], x["recovery"]) for x in body["entries"]] for body in bodies]
    assert keys[0] == keys[1] == [(x, y) for x in ("l1", "random") for y in names]
    assert bodies[0]["entries"][3]["measured"] == bodies[1]["entries"][3]["measured"]
    # The same file takes in the rung's own, which is another method.
    both = compared(job, tmp_path / "part.json", Request(("l1",), (0,), (0.6,), rung=1))
    assert len(both.ledger.entries) == 6
    own, named = (both.ledger.entries[Method("l1", x), 0.6, 0] for x in (None, "finetune"))
    assert own.outcome.to_json()["measured"] == named.outcome.to_json()["measured"]


def test_a_file_of_the_version_before_is_refused(job: Mapping[str, Any], tmp_path: Path) -> None:
    path, request = tmp_path / "x.json", Request(("l1",), (0,), (0.5,))
    compared(job, path, request)
    body = json.loads(path.read_text())
    assert body["format"] == "autoprune comparison 2"
    path.write_text(json.dumps({**body, "format": "autoprune comparison 1"}))
    with pytest.raises(RunError, match="is no comparison that this version has written"):
        compared(job, path, request)

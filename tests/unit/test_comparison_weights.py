"""Single weights that leave: of every kernel as many, by every criterion that judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.cli.comparison_table import print_comparison
from autoprune.comparison.arena import Arena
from autoprune.comparison.method import Method
from autoprune.comparison.request import Request, compared_job
from autoprune.comparison.weight_target import weight_targets
from autoprune.contracts.criterion import Cost, WeightCriterion
from autoprune.contracts.executor import WorkItem
from autoprune.errors import InputError, PluginError, RunError
from autoprune.evaluation.evaluator import NetworkEvaluator
from autoprune.evaluation.material import load_dataset, load_model
from autoprune.pattern import Pattern
from autoprune.preflight import preflight
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.table import weigh_kernels
from autoprune.surgery.examination import examine
from autoprune.trial import FailureKind
from autoprune.validation import validated
from tests.comparing import compared, noise_job
from tests.networks import Residual

KERNELS = ("stem.weight", "one.weight", "two.weight", "out.weight")


class Undefined(WeightCriterion):
    """Saliencies that are no numbers."""

    cost: Cost = "weights"

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        return {x: np.full_like(evidence.weights[x], np.nan) for x in evidence.kernels}


class Half(WeightCriterion):
    """The largest weights leave first; the last kernel it does not know."""

    cost: Cost = "weights"

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        return {x: -abs(evidence.weights[x]) for x in evidence.kernels[:-1]}


class Small(Half):
    """Saliencies of another shape."""

    def saliencies(self, evidence: Evidence) -> dict[str, np.ndarray]:
        return {x: np.ones(3) for x in evidence.kernels}


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return noise_job(tmp_path)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[WorkItem, nn.Module]]:
    """The networks that are built from now on."""
    built: list[tuple[WorkItem, nn.Module]] = []
    build = NetworkEvaluator.network

    def network(self: NetworkEvaluator, item: Any, dtype: Any) -> nn.Module:
        built.append((item, build(self, item, dtype)))
        return built[-1][1]

    monkeypatch.setattr(NetworkEvaluator, "network", network)
    return built


def of_weights(
    criteria: tuple[str, ...] = ("l1",), shares: tuple[float, ...] = (0.3,), **more: Any
) -> Request:
    return Request(criteria, **{"seeds": (0,), "shares": shares, "of": "weights", **more})


def kernels(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each for name, each in network.named_parameters() if each.dim() > 1}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"of": "macs", "pattern": "2:4"}, "shares are of macs; say --of weights"),
        ({"pattern": "2:4"}, r"of 2:4 the share 0\.5 stays; given: 0\.3; say --keep 0\.5"),
        ({"pattern": "2:4", "shares": (0.5, 0.3)}, r"given: 0\.5, 0\.3; say --keep 0\.5"),
        ({"pattern": "4:2"}, r"pattern must be N:M .*given: '4:2'"),
        ({"pattern": "dense"}, "given: 'dense'"),
        ({"shares": (1.0,)}, "half of the dense weights"),
    ],
)
def test_requests_of_weights_are_checked(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        of_weights(**changed)


@pytest.mark.parametrize(
    ("pattern", "share", "stays"),
    [
        (None, 0.3, "every kernel keeps 0.3 of its weights"),
        ("2:4", 0.5, "every kernel keeps 2 of every 4 weights in a row"),
        ("4x1", 0.3, "every kernel keeps 0.3 of its blocks of 4x1"),
    ],
)
def test_of_every_kernel_of_digits_as_much_stays_and_no_unit_leaves(
    pattern: str | None,
    share: float,
    stays: str,
    digits_job: Mapping[str, Any],
    tmp_path: Path,
    networks: list[tuple[WorkItem, nn.Module]],
) -> None:
    rungs = [{"finetune_steps": 2, "batch_size": 8, "repair_images": 50, "images": 100}]
    raw = {**digits_job, "rungs": rungs, "objectives": ["error", "params"]}
    request = of_weights(shares=(share,), pattern=pattern, recoveries=("finetune", "rigl"))
    done = compared(raw, tmp_path / "x.json", request)
    (target,) = done.targets
    assert target.stays == stays
    assert len(networks) == 4
    loaded = validated(raw)
    dense = kernels(load_model(loaded, load_dataset(loaded)))
    masks = []
    for item, network in networks:
        found = kernels(network)
        assert {x: y.shape for x, y in found.items()} == {x: y.shape for x, y in dense.items()}
        for name, each in found.items():
            decision = item.policy.layer(name.rpartition(".")[0])
            assert decision.keep_ratio == share
            most, _ = Pattern.parse(pattern).stored(share, each.numel(), len(each))
            assert 0.8 * most <= int((each != 0).sum()) <= most
        masks.append(found["conv.weight"] != 0)
    assert not torch.equal(masks[0], masks[2])  # l1 and random
    body = done.to_json()
    assert {row["policy"]["recipe"]["recovery"] for row in body["rows"]} == {"finetune", "rigl"}
    assert body["shares"][0]["of_dense"] == target.cost / target.dense < share + 0.05
    for row in body["rows"]:
        assert row["report"]["params"]["mean"] == target.cost
    assert {x: y["seconds"] > 0 for x, y in body["scorings"].items()} == {
        "l1": True,
        "random": True,
    }


def test_all_are_the_criteria_that_judge_single_weights(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    done = compared(job, tmp_path / "x.json", of_weights(("all",)))
    assert {"l1", "obs", "wanda", "random"} <= set(done.criteria)
    assert not {"taylor", "bn_scale"} & set(done.criteria)
    assert done.left_out["bn_scale"] == "it judges whole units, not single weights"
    assert all(row.errors for row in done.rows)
    with pytest.raises(InputError, match=r"'taylor' cannot.*whole units.*can: .*l1, l2") as told:
        compared(job, tmp_path / "y.json", of_weights(("l1", "taylor")))
    assert "bn_scale" not in str(told.value)


def test_what_is_measured_is_what_a_search_measures(job: Mapping[str, Any], tmp_path: Path) -> None:
    """By an evaluator that finds the saliencies itself, random ones by the job's seed."""
    objectives = ["error", "loss", "params"]
    request = of_weights(("wanda",), (0.4,), seeds=(3,), rung=1, recoveries=("rigl",))
    done = compared({**job, "objectives": objectives}, tmp_path / "x.json", request)
    space = {"name": "mixed", "bits": [32], "weights": [0.4, 1.0]}
    raw = {**job, "seed": 3, "space": space, "objectives": objectives}
    found = preflight(validated(raw))
    own = replace(found.preparation, dtype=torch.float32)
    evaluator = NetworkEvaluator(job=found.job.to_json(), preparation=own.to_json())
    for method in (Method("wanda", "rigl"), Method("random", "rigl")):
        policy = method.applied_to(done.targets[0].policy)
        assert found.space.contains(Method("l1").applied_to(policy))
        mine = done.ledger.entries[method, 0.4, 3].outcome
        for split in ("search", "report"):
            item = WorkItem(0, policy, rung=1, split=split, seed=3)
            theirs = evaluator.evaluate(item).measurements
            assert {x: y.to_json()[:3] for x, y in theirs.items()} == {
                x: y.to_json()[:3] for x, y in mine.measured[split].items()
            }


def test_equal_masks_are_evaluated_once_and_others_are_not(
    job: Mapping[str, Any], tmp_path: Path, networks: list[tuple[WorkItem, nn.Module]]
) -> None:
    done = compared(job, tmp_path / "x.json", of_weights(("l1", "l2", "wanda"), seeds=(0, 1)))
    assert not done.trains
    built = [item.policy.recipe.criterion for item, _ in networks]
    assert built == ["l1", "wanda", "random", "random"]
    outcomes = {
        (str(x), seed): y.outcome.network for (x, _, seed), y in done.ledger.entries.items()
    }
    assert outcomes["l1", 0] == outcomes["l1", 1] == outcomes["l2", 0]
    assert len(set(outcomes.values())) == 4


def test_what_no_criterion_decides_is_trained_once(
    job: Mapping[str, Any],
    tmp_path: Path,
    networks: list[tuple[WorkItem, nn.Module]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = of_weights(("l1", "l2"), rung=1, recoveries=("finetune", "gradual"))
    done = compared(job, tmp_path / "x.json", request)
    built = [(x.policy.recipe.criterion, x.policy.recipe.recovery) for x, _ in networks]
    assert built == [("l1", "finetune"), ("l1", "gradual"), ("random", "finetune")]
    assert done.indifferent == ("gradual",)
    assert done.to_json()["indifferent"] == ["gradual"]
    print_comparison(done)
    shown = [" ".join(each.split()[:2]) for each in capsys.readouterr().out.splitlines()]
    named = [each for each in shown if each.endswith(("finetune", "gradual"))]
    assert sorted(named) == ["any gradual", "l1 finetune", "l2 finetune", "random finetune"]


def test_a_criterion_that_fails_does_not_stand_for_all(
    job: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "tests.unit.test_comparison_weights:Undefined"
    print_comparison(
        compared(job, tmp_path / "x.json", of_weights((broken,), rung=1, recoveries=("gradual",)))
    )
    (row,) = (x for x in capsys.readouterr().out.splitlines() if x.split()[:1] == ["any"])
    assert row.split()[:2] == ["any", "gradual"]
    assert "%" in row
    assert "failed" not in row


@pytest.mark.parametrize(
    ("space", "whole", "stays"),
    [
        ({"name": "layerwise", "keep_ratio": [0.1, 0.5]}, (), "0.3 of its weights"),
        (
            {"name": "mixed", "keep_ratio": [0.1, 0.5], "protect": ["first"], "rank": [0.5]},
            ("stem",),
            "0.3 of its weights (left whole: stem)",
        ),
        ({"name": "mixed", "bits": [8], "weights": [0.9]}, (), "0.3 of its weights"),
    ],
)
def test_kernels_are_those_of_a_mixed_space(
    space: dict[str, Any], whole: tuple[str, ...], stays: str, job: Mapping[str, Any]
) -> None:
    found = preflight(compared_job(validated({**job, "space": space}), of_weights()))
    targets = weight_targets((0.3, 0.1), None, found)
    assert [each.share for each in targets] == [0.3, 0.1]
    assert targets[0].stays == f"every kernel keeps {stays}"
    for each in targets:
        assert not each.policy.removes
        assert not each.policy.factorises
        assert each.policy.is_quantised == (space.get("bits") == [8])
        assert each.metric == "params"
        kept = {name: y.keep_ratio for name, y in each.policy.layers.items() if y.is_sparse}
        names = {"stem", "one", "two", "out"} - set(whole)
        assert kept == dict.fromkeys(names, each.share)
        sizes = {"stem": 216, "one": 360, "two": 360, "out": 24}
        rest = found.dense.params - sum(sizes.values())
        stay = {x: round(kept.get(x, 1.0) * size) for x, size in sizes.items()}
        assert (each.cost, each.dense) == (rest + sum(stay.values()), found.dense.params)


def test_where_everything_is_protected_nothing_is_compared(
    job: Mapping[str, Any], tmp_path: Path
) -> None:
    space = {"name": "mixed", "protect": ["*"]}
    with pytest.raises(InputError, match=r"no kernel of this network may.*space\.protect"):
        compared({**job, "space": space}, tmp_path / "x.json", of_weights())
    assert not (tmp_path / "x.json").exists()


def test_more_shares_go_into_the_same_file_and_patterns_do_not(
    job: Mapping[str, Any], tmp_path: Path, networks: list[tuple[WorkItem, nn.Module]]
) -> None:
    path = tmp_path / "x.json"
    compared(job, path, of_weights(shares=(0.5,)))
    # Units stay, so their range does not matter, nor does what methods decide.
    space = {"name": "layerwise", "keep_ratio": [0.3, 1.0], "criterion": "l2"}
    done = compared({**job, "space": space}, path, of_weights(shares=(0.5, 0.2)))
    assert len(networks) == 4
    assert len(done.ledger.entries) == 4
    with pytest.raises(RunError, match="pattern is null there and 2:4 here"):
        compared(job, path, of_weights(shares=(0.5,), pattern="2:4"))
    with pytest.raises(RunError, match="of is weights there and macs here"):
        compared(job, path, of_weights(shares=(0.5,), of="macs"))
    protected = {"space": {"name": "mixed", "bits": [32], "protect": ["last"]}}
    with pytest.raises(RunError, match=r"protect.*last"):
        compared({**job, **protected}, path, of_weights(shares=(0.5,)))


def test_a_criterion_is_asked_alone_once_and_fails_alone(
    job: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, bool]] = []
    score = Arena.score

    def noted(self: Arena, criterion: str, seed: int, *, alone: bool) -> Any:
        before = set(vars(self.evidence))
        asked.append((criterion, seed, alone))
        found = score(self, criterion, seed, alone=alone)
        if alone:
            assert set(vars(self.evidence)) == before  # it shared nothing
        return found

    monkeypatch.setattr(Arena, "score", noted)
    broken, half = (f"tests.unit.test_comparison_weights:{x}" for x in ("Undefined", "Half"))
    done = compared(job, tmp_path / "x.json", of_weights((broken, half), seeds=(0, 1)))
    assert asked == [
        *((name, 0, True) for name in (broken, half, "random")),
        (broken, 1, True),
        (half, 1, False),
        ("random", 1, False),
    ]
    entries = done.ledger.entries
    failures = [entries[Method(broken), 0.3, seed].outcome.failure for seed in (0, 1)]
    assert [each.kind for each in failures if each] == [FailureKind.INVALID] * 2
    assert {str(row.method) for row in done.rows if row.errors} == {half, "random"}
    assert done.ledger.scorings[half].fallen_back == ("out.weight",)


def test_kernels_that_a_criterion_does_not_know_lose_their_smallest_weights() -> None:
    model = Residual().eval()
    evidence = Evidence(model, examine(model, torch.randn(2, 3, 8, 8)).graph.groups)
    table = weigh_kernels(Half(), evidence)
    assert tuple(table.saliencies) == KERNELS
    weights = dict(model.named_parameters())
    for name in KERNELS:
        sign = 1 if name == "out.weight" else -1
        assert torch.equal(table.saliencies[name], sign * weights[name].detach().abs())
    assert table.fallen_back == ("out.weight",)
    for criterion, words in (
        (Undefined(), "Undefined.*not finite"),
        (Small(), r"Small.*shape \(3,\)"),
    ):
        with pytest.raises(PluginError, match=words):
            weigh_kernels(criterion, evidence)

"""Recipes that choose single weights while they train, against what is worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autoprune import plugins
from autoprune.contracts.executor import WorkItem
from autoprune.contracts.recovery import Batch, Recovery
from autoprune.errors import PluginError
from autoprune.job.spec import Job, PluginSpec
from autoprune.policy import LayerDecision, Policy
from autoprune.preflight import evaluator_spec, preflight
from autoprune.recoveries._chosen import Times, cubic
from autoprune.recoveries._regrowth import decayed
from autoprune.recoveries.finetune import Finetune
from autoprune.recoveries.lottery import Lottery
from autoprune.surgery.sparsify import Sparsity, mask_of
from autoprune.testing.recovery import RecoveryContract
from tests.one_layer import KERNEL, WEIGHTS, History, bare, counts, hooks, layer, rows, training_of

OPTIONS: dict[str, dict[str, Any]] = {
    "gradual": {"every": 3},
    "set": {"every": 3},
    "rigl": {"every": 2},
    "granet": {"every": 2, "ema": 0.8},
    "feedback": {"every": 2},
    "soft": {"every": 3},
    "movement": {"every": 2, "optimizer": "adamw"},
    "lottery": {},
    "lottery of weights": {"rewind": "weights"},
    "deephoyer": {"strength": 0.01},
    "admm": {"every": 2, "ema": 0.8},
    "thresholds": {},
}


def made(which: str, **options: Any) -> Finetune:
    """Return a recipe with the options that short trainings need."""
    spec = PluginSpec(name=which.partition(" ")[0], options=OPTIONS[which] | options)
    recovery = plugins.create("recovery", spec)
    assert isinstance(recovery, Finetune)
    return recovery


@pytest.mark.parametrize("which", OPTIONS)
class TestEveryRecipe(RecoveryContract):
    @pytest.fixture(autouse=True)
    def _of(self, which: str) -> None:
        self.which = which

    def make(self) -> Recovery:
        return made(self.which)

    def test_where_nothing_leaves_it_is_fine_tuning(self) -> None:
        own = self.trained()
        network = self.network()
        Finetune(ema=OPTIONS[self.which].get("ema")).recover(self.training(network))
        if "optimizer" in OPTIONS[self.which]:
            network = self.network()
            Finetune(optimizer="adamw").recover(self.training(network))
        assert all(torch.equal(each, own[name]) for name, each in network.state_dict().items())


# -- what leaves, and when ----------------------------------------------------------------


def test_times_and_shares_by_hand() -> None:
    times = Times(0.75, 4)
    assert [taken for taken in range(1, 20) if times.is_due(taken, 12)] == [4, 8, 9]
    assert [taken for taken in range(1, 13) if Times(0.75).is_due(taken, 12)] == [9]
    assert Times(0.1, 1).last(2) == 1
    assert [cubic(taken, 8) for taken in (0, 4, 8, 9)] == [0.0, 0.875, 1.0, 1.0]
    assert [decayed(0.4, taken, 8) for taken in (0, 4, 8)] == pytest.approx([0.4, 0.2, 0.0])


def test_gradually_the_smallest_leave() -> None:
    seen: list[Tensor] = []
    weights = torch.arange(1.0, 21.0).view(4, 5)
    network = layer(weights)
    decision = LayerDecision(keep_ratio=0.2)
    bare("gradual", every=2, until=0.8).recover(training_of(network, decision, seen=seen))
    # After 2, 4, 6 and 8 of 8 steps the shares 1 - (1 - t/8)³ of 16 of 20 have left.
    assert counts(seen) == [20, 20, 11, 11, 6, 6, 4, 4, 4, 4]
    assert torch.equal(seen[4], weights * (weights > 14))
    assert torch.equal(network.get_parameter(KERNEL), weights * (weights > 16))


# -- weights that are trained although they are not there --------------------------------------


def test_feedback_computes_with_masked_weights_and_trains_all() -> None:
    seen: list[Tensor] = []
    history = History()
    weights = torch.tensor([[1.0, 0.5, 0.4, 0.1]])
    gradient = torch.tensor([[0.0, 0.0, 0.0, -1.0]])
    network = layer(weights)
    training = training_of(
        network,
        LayerDecision(keep_ratio=0.25),
        gradient,
        seen,
        learning_rate=0.1,
        checkpoint=history,
    )
    bare("feedback", every=2, until=0.6).recover(training)
    whole, masks = history.all(f"network/{KERNEL}"), history.all(f"masking/{KERNEL}")
    for step in range(1, 6):
        assert torch.equal(seen[step], whole[step - 1] * masks[step - 1])
        assert bool((whole[step - 1] != 0).all())
    # The last weight left first, learned on, and came back when it was the largest.
    assert seen[2].ne(0).tolist() == [[True, False, False, True]]
    assert network.get_parameter(KERNEL).ne(0).tolist() == [[False, False, False, True]]
    assert counts(seen[6:]) == [1] * 4
    assert float(network.get_parameter(KERNEL)[0, 3]) > 2.0


def test_softly_pruned_weights_grow_again_until_the_last_time() -> None:
    seen: list[Tensor] = []
    decision = LayerDecision(keep_ratio=0.5)
    training = training_of(layer(WEIGHTS), decision, -1.0, seen, learning_rate=0.01)
    bare("soft", every=2, until=0.6).recover(training)
    assert counts(seen) == [12, 12, 6, 12, 6, 12, 6, 6, 6, 6]


def test_scores_are_how_weights_move() -> None:
    seen: list[Tensor] = []
    history, gradient = History(), rows(1, 3, 4)
    training = training_of(
        layer(WEIGHTS),
        LayerDecision(keep_ratio=0.25),
        gradient,
        seen,
        learning_rate=0.1,
        checkpoint=history,
    )
    bare("movement", every=2, until=0.8).recover(training)
    whole, masks = history.all(f"network/{KERNEL}"), history.all(f"masking/{KERNEL}")
    scores = history.all(f"masking/{KERNEL}/score")
    expected = torch.zeros(3, 4)
    for step in range(8):
        before = whole[step - 1] if step else WEIGHTS
        expected -= 0.1 * gradient * before  # also of what left
        torch.testing.assert_close(scores[step], expected)
        if step in (1, 3, 5, 7):
            share = cubic(step + 1, 8)
            best = mask_of(expected, LayerDecision(keep_ratio=0.25), share)
            assert torch.equal(masks[step], best)
        if step:
            assert torch.equal(seen[step], before * masks[step - 1])
    gone = ~masks[5]
    assert not torch.equal(scores[6][gone], scores[5][gone])
    assert counts(seen[8:]) == [3, 3]


# -- rounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewind", ["weights", "learning_rate"])
def test_rounds_end_with_pruning_and_rewind(rewind: str) -> None:
    seen: list[Tensor] = []
    weights = rows(0, 4, 5)
    network = layer(weights)
    gradient = rows(1, 4, 5)
    training = training_of(
        network, LayerDecision(keep_ratio=0.25), gradient, seen, steps=9, learning_rate=0.1
    )
    bare("lottery", rounds=3, rewind=rewind).recover(training)
    assert counts(seen) == [20] * 3 + [10] * 3 + [5] * 3
    first = seen[2] - 0.1 * (gradient + 0.9 * (1 + 0.9 + 0.81) * gradient)  # Nesterov's third
    mask = mask_of(first.abs(), LayerDecision(keep_ratio=0.5))
    assert torch.equal(seen[3] != 0, mask)
    if rewind == "weights":
        assert torch.equal(seen[3], weights * mask)
        assert torch.equal(seen[6], weights * (seen[6] != 0))
    else:
        torch.testing.assert_close(seen[3], first * mask)
    # Momentum begins anew: the first move of a round is the first of all.
    torch.testing.assert_close(seen[4] - seen[3], (seen[1] - seen[0]) * mask)


def test_everything_returns_when_weights_are_rewound() -> None:
    suite = TestEveryRecipe()
    network = suite.network()
    initial = {name: each.clone() for name, each in network.state_dict().items()}
    decision = LayerDecision(keep_ratio=0.25)
    sparsity = Sparsity({KERNEL: decision}, {KERNEL: network.get_parameter(KERNEL).abs()})
    states: list[dict[str, Tensor]] = []
    plain = suite.training(network)

    def loss(batch: Batch) -> Tensor:
        states.append({name: each.clone() for name, each in network.state_dict().items()})
        return plain.loss(batch)

    Lottery(rounds=2, rewind="weights").recover(
        suite.training(network, loss=loss, sparsity=sparsity, steps=4)
    )
    for name, each in states[2].items():
        there = (each != 0) if name == KERNEL else torch.ones_like(each, dtype=torch.bool)
        assert torch.equal(each, initial[name] * there)
    assert not torch.equal(states[1]["1.running_mean"], states[2]["1.running_mean"])
    assert not torch.equal(states[3]["5.bias"], initial["5.bias"])


def test_the_rate_begins_anew_every_round() -> None:
    training = training_of(layer(WEIGHTS), LayerDecision(keep_ratio=0.5), steps=7)
    recovery = Lottery(rounds=2, schedule="cosine")
    shares = [recovery.share_of_rate(training, step) for step in range(7)]
    cosines = [[0.5 * (1 + math.cos(math.pi * x / n)) for x in range(n)] for n in (4, 3)]
    assert shares == pytest.approx([*cosines[0], *cosines[1]])


# -- what all of them keep to --------------------------------------------------------------------


@pytest.mark.parametrize(
    "decision",
    [
        LayerDecision(keep_ratio=0.3),
        LayerDecision(pattern="1:4"),
        LayerDecision(keep_ratio=0.4, pattern="4x1"),
    ],
)
@pytest.mark.parametrize(
    ("which", "patience"),
    [(each, None) for each in OPTIONS]
    + [(each, 1) for each in OPTIONS if not each.startswith("lottery")],
)
def test_patterns_are_kept_also_where_training_stops_early(
    which: str, decision: LayerDecision, patience: int | None
) -> None:
    network, more = layer(rows(0, 6, 10)), {"patience": patience} if patience else {}
    training = training_of(network, decision, 0.0 if patience else rows(1, 6, 10))
    made(which, **more).recover(training)
    there = network.get_parameter(KERNEL) != 0
    kept = mask_of(there.float(), decision)
    assert not bool((there & ~kept).any())
    most, _ = decision.shape.stored(decision.keep_ratio, 60, 6)
    exact = not decision.shape.is_blocks and which not in ("set", "rigl", "thresholds")
    assert int(there.sum()) <= most
    assert int(there.sum()) == most or not exact


def test_smaller_blocks_at_the_edges_are_not_taken_for_too_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decision = LayerDecision(keep_ratio=0.5, pattern="2x1")
    network = layer(WEIGHTS)  # three rows: the blocks of the last have one weight
    masking = hooks(bare("set"), training_of(network, decision))
    last = torch.tensor([[False], [False], [True]])
    for chosen in (last, ~last):
        monkeypatch.setattr(type(masking), "cut", lambda _: pytest.fail("chosen again"))
        masking.masks = {KERNEL: chosen.expand(3, 4).clone()}
        masking.end()


@pytest.mark.parametrize("which", OPTIONS)
def test_kernels_that_are_made_from_others_lose_weights_in_those(which: str) -> None:
    class Half(nn.Module):
        def forward(self, kernel: Tensor) -> Tensor:
            return kernel / 2

    suite = TestEveryRecipe()
    network = suite.network()
    worth = network.get_parameter("5.weight").detach().abs()
    parametrize.register_parametrization(network[5], "weight", Half())  # type: ignore[index,arg-type]
    sparsity = Sparsity({"5.weight": LayerDecision(pattern="2:4")}, {"5.weight": worth})
    made(which).recover(suite.training(network, sparsity=sparsity))
    stored = network.get_parameter("5.parametrizations.weight.original")
    assert 0 < int((stored != 0).sum()) <= stored.numel() // 2


@pytest.mark.parametrize("recovery", ["gradual", "movement", "thresholds"])
def test_trials_are_recovered_by_it(digits_job: dict[str, Any], recovery: str) -> None:
    rung = {
        "repair_images": 64,
        "images": 64,
        "finetune_steps": 4,
        "recovery": recovery,
        "quantize": "int8",
    }
    space = {"name": "mixed", "bits": [8, 32], "weights": [0.2, 1.0]}
    changes = {"rungs": [rung], "scoring": {"images": 64}, "space": space}
    found = preflight(Job.model_validate({**digits_job, **changes}))
    layers = {
        each.name: LayerDecision(keep_ratio=0.2) for each in found.preparation.graph.groups.layers
    }
    policy = found.preparation.graph.groups.canonical(Policy(layers=layers))
    evaluator: Any = evaluator_spec(found.job, found.preparation, None).build()
    network = evaluator.network(WorkItem(1, policy, seed=1), torch.float32)
    for name, each in network.named_parameters():
        if each.dim() > 1 and policy.layer(name.rpartition(".")[0]).is_sparse:
            assert 0 < int((each != 0).sum()) <= max(1, round(0.2 * each.numel()))


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("gradual", {"every": 0}, "every must be at least 1 step, given 0"),
        ("soft", {"until": 0}, r"until is a share, in \(0, 1\], given 0"),
        ("feedback", {"until": 1.5}, r"until is a share, in \(0, 1\], given 1.5"),
        ("set", {"drop": 1.2}, r"drop is a share, in \(0, 1\], given 1.2"),
        ("rigl", {"drop": 0.0}, r"drop is a share, in \(0, 1\], given 0"),
        ("granet", {"drop": -1}, r"drop is a share, in \(0, 1\], given -1"),
        ("lottery", {"rounds": 1}, "rounds must be at least 2"),
        ("lottery", {"rewind": "biases"}, "weights"),
        ("lottery", {"patience": 5}, "leave it out of lottery"),
        ("deephoyer", {"strength": 0}, "strength must be above zero, given 0"),
        ("admm", {"rho": -1}, "rho must be above zero, given -1"),
        ("thresholds", {"start": 1}, "start must be below zero"),
        ("thresholds", {"decay": 0}, "decay must be above zero, given 0"),
        # Those of fine-tuning are known and checked as its own.
        ("movement", {"ema": 2}, "such as 0.999"),
        ("movement", {"shedule": "cosine"}, "did you mean 'schedule'"),
        ("movement", {"optimizer": "sdg"}, "sgd"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(PluginError, match=rule):
        plugins.create("recovery", PluginSpec(name=name, options=options))


def test_options_of_the_base_are_listed_behind_its_own() -> None:
    own, base = (plugins.options_of(plugins.load("recovery", x)) for x in ("rigl", "finetune"))
    assert [*own] == ["every", "until", "drop", *base]
    assert {name: each.default for name, each in own.items() if name in base} == {
        name: each.default for name, each in base.items()
    }


def test_a_constructor_of_its_own_inherits_nothing() -> None:
    class Narrow(Finetune):
        def __init__(self, *, hurry: bool = False) -> None:
            super().__init__()

    class Same(Finetune):
        pass

    make: Callable[[type[Any]], list[str]] = lambda plugin: [*plugins.options_of(plugin)]  # noqa: E731
    assert make(Narrow) == ["hurry"]
    assert make(Same) == make(Finetune)

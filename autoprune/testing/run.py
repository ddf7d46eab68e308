"""The suite that every view of a run passes: of a directory, of a server's job, and yours.

class TestMine(RunContract):
    @pytest.fixture
    def run(self):
        return Mine(...)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.errors import ExportError, InputError, RunError
from autoprune.front import Front
from autoprune.run_view import RunView
from autoprune.trial import Trial, TrialState, shown


class RunContract:
    """Inherit, and override the fixture `run`."""

    @pytest.fixture
    def run(self) -> RunView:
        """Return a run that has ended, with a front of several trials of several searchers."""
        raise NotImplementedError

    def test_trials_are_numbered_in_the_order_of_asking(self, run: RunView) -> None:
        assert [each.number for each in run.trials()] == list(range(len(run.trials())))
        assert len(run.trials()) > 4

    def test_completed_are_those_that_completed(self, run: RunView) -> None:
        done = [each for each in run.trials() if each.state is TrialState.COMPLETED]
        assert run.completed() == done
        assert all(each.evaluation is not None for each in done)

    def test_a_trial_is_found_by_its_number(self, run: RunView) -> None:
        for each in run.trials():
            assert run.find(each.number) == each
            assert run.trial(str(each.number)) == each
        beyond = len(run.trials())
        assert run.find(beyond) is None
        with pytest.raises(RunError, match=str(beyond)):
            run.trial(str(beyond))

    def test_the_dense_network_is_the_first(self, run: RunView) -> None:
        assert run.dense == run.trials()[0]
        assert run.dense is not None
        assert run.dense.policy.is_dense

    def test_goals_are_the_job_s_with_reference_points(self, run: RunView) -> None:
        assert len(run.goals) == len(run.job.objectives)
        measured = run.trials()[0].evaluation
        assert measured is not None
        assert {each.name for each in run.goals} <= set(measured.measurements)
        assert all(each.reference is not None for each in run.goals)

    def test_the_front_is_that_of_the_highest_rung(self, run: RunView) -> None:
        ranked = _ranked(run)
        expected = Front.of(ranked, run.goals, significance=run.job.significance)
        front = run.front()
        assert front.members == expected.members
        assert front.hypervolume() == expected.hypervolume()
        assert front.reference_point == tuple(each.reference for each in run.goals)
        assert len(front.members) > 1
        for member in front.members:
            assert not any(_beats(run, each, member) for each in ranked)

    def test_a_searcher_has_a_front_of_its_own(self, run: RunView) -> None:
        for label in {each.searcher for each in run.front().members}:
            own = [each for each in _ranked(run) if each.searcher == label]
            expected = Front.of(own, run.goals, significance=run.job.significance)
            assert run.front(label).members == expected.members
        assert run.front("nobody").members == []

    def test_on_the_report_split_members_are_judged_by_what_it_says(self, run: RunView) -> None:
        reported = [each for each in run.front().members if each.report is not None]
        expected = Front.of(reported, run.goals, use_report=True)
        assert run.front(on_report=True).members == expected.members
        assert run.front(on_report=True).hypervolume() == expected.hypervolume()

    def test_picks_are_those_of_the_front(self, run: RunView) -> None:
        front, goals = run.front(), run.goals
        assert run.trial("knee") == front.knee()
        for goal in goals:
            assert run.trial(f"best:{goal.name}") == front.best(goal.name)
            expected = front.weighted({goal.name: 2.5})
            assert run.trial(f"weights:{goal.name}=2.5") == expected

    @pytest.mark.parametrize(
        "name",
        [
            *("", "-1", "1.5", "²", "9" * 50, "elbow", "best:", "best:nothing", "weights:"),
            *("weights:x", "weights:error=much", "weights:nothing=1", "weights:error=-1"),
            "weights:error=nan",
        ],
    )
    def test_what_picks_nothing_is_bad_input(self, run: RunView, name: str) -> None:
        with pytest.raises(InputError):
            run.trial(name)

    def test_a_selection_is_the_front_best_first(self, run: RunView) -> None:
        assert _numbers(run.select()) == _numbers(
            sorted(run.front().members, key=lambda x: _shown_loss(run, x, 0))
        )
        last = len(run.goals) - 1
        by_last = run.select(sort=run.goals[last].name)
        losses = [_shown_loss(run, each, last)[0] for each in by_last]
        assert losses == sorted(losses)
        assert sorted(_numbers(by_last)) == sorted(_numbers(run.front().members))
        assert run.select(top=2) == run.select()[:2]

    def test_everything_is_every_completed_trial(self, run: RunView) -> None:
        everything = run.select(everything=True)
        assert sorted(_numbers(everything)) == _numbers(run.completed())

    def test_bounds_are_kept_and_may_be_relative_to_dense(self, run: RunView) -> None:
        metric = run.goals[-1].name
        assert run.dense is not None
        values = {each.number: shown(each).value(metric) for each in run.completed()}
        bound, dense = sorted(values.values())[len(values) // 2], values[0]
        for where, limit in (
            (f"{metric}<={bound!r}", bound),
            (f"{metric} <= {bound / dense!r} * dense", bound / dense * dense),
            (f"{metric} <= dense - {dense - bound!r}", dense - (dense - bound)),
        ):
            kept = run.select(everything=True, where=[where])
            assert set(_numbers(kept)) == {x for x, value in values.items() if value <= limit}
        both = run.select(everything=True, where=[f"{metric}<={bound!r}", f"{metric}>={bound!r}"])
        assert {shown(each).value(metric) for each in both} == {bound}

    def test_bounds_and_metrics_that_cannot_be_are_bad_input(self, run: RunView) -> None:
        with pytest.raises(InputError, match="METRIC <= NUMBER"):
            run.select(where=["macs"])
        with pytest.raises(InputError, match="unknown metric 'nothing'"):
            run.select(where=["nothing <= 1"])
        with pytest.raises(InputError, match="unknown metric 'nothing'"):
            run.select(sort="nothing")

    def test_the_front_has_its_documented_json(self, run: RunView) -> None:
        body = json.loads(json.dumps(run.front_json(), allow_nan=False))
        assert list(body) == ["job", "objectives", "hypervolume", "reference_point", "trials"]
        assert body["job"] == run.job.name
        assert body["hypervolume"] == run.front().hypervolume()
        assert body["reference_point"] == [each.reference for each in run.goals]
        assert [each["name"] for each in body["objectives"]] == [x.name for x in run.goals]
        assert [each["id"] for each in body["trials"]] == _numbers(run.select())
        for row, trial in zip(body["trials"], run.select(), strict=True):
            _check_row(row, trial, run)

    def test_listed_trials_stand_in_the_json(self, run: RunView) -> None:
        trials = run.select(everything=True, top=3)
        assert [each["id"] for each in run.front_json(trials)["trials"]] == _numbers(trials)

    def test_a_trial_is_shown_with_everything_about_it(self, run: RunView) -> None:
        for trial in run.trials():
            body = json.loads(json.dumps(run.show_json(trial), allow_nan=False))
            _check_row(body, trial, run)
            assert body["state"] == trial.state
            assert (body["parent"], body["attempts"]) == (trial.parent, trial.attempts)
            assert body["failure"] == (trial.failure.to_json() if trial.failure else None)
            costs = run.graph.costs.costs(run.as_evaluated(trial))
            assert body["costs"]["macs"] == costs.macs
            own = [x for x in body["evaluations"] if x["trial"] == trial.number]
            assert len(own) == (trial.evaluation is not None) + (trial.report is not None)
            assert {x["trial"] for x in body["evaluations"]} == {
                x.number for x in run.trials() if x.policy == trial.policy and x.evaluation
            }

    def test_what_dominates_a_trial_is_shown(self, run: RunView) -> None:
        members = run.front().members
        for trial in run.trials():
            expected = [each.number for each in members if _beats(run, each, trial)]
            assert run.show_json(trial)["dominated_by"] == expected

    def test_every_policy_is_known_as_its_rung_evaluates_it(self, run: RunView) -> None:
        for trial in run.completed():
            assert run.as_evaluated(trial).decisions == trial.policy.decisions
        assert run.as_evaluated(run.trials()[0]).is_dense

    def test_an_export_that_cannot_be_is_refused_and_leaves_nothing(
        self, run: RunView, tmp_path: Path
    ) -> None:
        knee = run.trial("knee")
        taken = tmp_path / "taken.onnx"
        taken.write_text("mine")
        with pytest.raises(ExportError, match=r"taken\.onnx exists already"):
            run.export(knee, "onnx", taken)
        with pytest.raises(InputError, match="nothing"):
            run.export(knee, "nothing", tmp_path / "new.bin")
        for trial in run.trials():
            if trial.state is not TrialState.COMPLETED:
                with pytest.raises(ExportError, match="only completed trials"):
                    run.export(trial, "onnx", tmp_path / "new.bin")
        assert taken.read_text() == "mine"
        assert list(tmp_path.iterdir()) == [taken]


def _ranked(run: RunView) -> list[Trial]:
    """Return the trials that may stand on the front, but for the constraints that they break."""
    top = max((each.rung for each in run.trials() if _is_done(each) and each.number), default=0)
    return [each for each in run.trials() if _is_done(each) and each.rung == top]


def _is_done(trial: Trial) -> bool:
    return trial.state is TrialState.COMPLETED


def _losses(run: RunView, trial: Trial) -> list[float]:
    assert trial.evaluation is not None
    return [goal.loss(trial.evaluation.value(goal.name)) for goal in run.goals]


def _beats(run: RunView, one: Trial, other: Trial) -> bool:
    """Say whether `one` is as good in everything and better in something."""
    if not (_is_done(one) and _is_done(other)) or not (
        one.evaluation and one.evaluation.is_feasible
    ):
        return False
    pairs = list(zip(_losses(run, one), _losses(run, other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _shown_loss(run: RunView, trial: Trial, place: int) -> tuple[float, int]:
    goal = run.goals[place]
    return goal.loss(shown(trial).value(goal.name)), trial.number


def _check_row(row: dict[str, object], trial: Trial, run: RunView) -> None:
    assert row["id"] == trial.number
    assert row["policy_sha256"] == trial.policy.sha256
    assert (row["searcher"], row["rung"]) == (trial.searcher, trial.rung)
    assert row["policy"] == json.loads(json.dumps(trial.policy.to_json()))
    objectives = row["objectives"]
    assert isinstance(objectives, dict)
    if trial.evaluation is None:
        assert objectives == {}
        return
    assert list(objectives) == [goal.name for goal in run.goals]
    for name, each in objectives.items():
        measured = shown(trial).measurements[name]
        assert each == {"value": measured.value, "low": measured.low, "high": measured.high}


def _numbers(trials: list[Trial]) -> list[int]:
    return [each.number for each in trials]

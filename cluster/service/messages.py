"""What the server knows, in the words of its protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from autoprune.contracts.objective import Goal
from autoprune.errors import Violation
from autoprune.trial import Evaluation, Trial, TrialState
from cluster.proto.autoprune.v1 import trial_pb2 as trial_pb
from cluster.service.refusal import invalid

# Fields that are dear, and filled only where they are named.
_DEAR = frozenset({"policy_json", "evaluation_json", "report_json"})
FIELDS = tuple(field.name for field in trial_pb.Trial.DESCRIPTOR.fields)
_STATES = {
    TrialState.WAITING: trial_pb.TRIAL_STATE_WAITING,
    TrialState.RUNNING: trial_pb.TRIAL_STATE_WAITING,
    TrialState.COMPLETED: trial_pb.TRIAL_STATE_COMPLETED,
    TrialState.FAILED: trial_pb.TRIAL_STATE_FAILED,
    TrialState.INFEASIBLE: trial_pb.TRIAL_STATE_INFEASIBLE,
    TrialState.STOPPED: trial_pb.TRIAL_STATE_STOPPED,
}


def masked_fields(mask: FieldMask) -> tuple[str, ...]:
    """Return the fields that a mask names, in the order of the protocol; `*` names all."""
    named = set(mask.paths)
    strays = sorted(named - {*FIELDS, "*"})
    if strays:
        rule = f"no field of a trial; allowed: *, {', '.join(FIELDS)}"
        raise invalid([Violation("field_mask", each, rule) for each in strays])
    if "*" in named:
        return FIELDS
    return tuple(x for x in FIELDS if x in named or (not named and x not in _DEAR))


def trial_states(states: Iterable[int]) -> list[TrialState]:
    """Return the states that a request names."""
    found = {int(number): state for state, number in _STATES.items()}
    strays = [each for each in states if each not in found]
    if strays:
        rule = "no state of a trial that can be asked for"
        raise invalid([Violation("states", each, rule) for each in strays])
    return [found[each] for each in states]


def trial_message(
    trial: Trial, fields: Sequence[str] = (), *, with_report: bool = True
) -> trial_pb.Trial:
    """Return a trial as a message with `fields`; all but those that hold JSON if there are none.

    Without `with_report` it is the trial as it was before it was measured on the report split.
    """
    chosen = fields or masked_fields(FieldMask())
    report = trial.report if with_report else None
    made = trial_pb.Trial()
    plain = {
        "number": trial.number,
        "state": _STATES[trial.state],
        "searcher": trial.searcher,
        "rung": trial.rung,
        "failure": str(trial.failure) if trial.failure else "",
        "attempts": trial.attempts,
    }
    optional = {"parent": trial.parent, "teacher": trial.teacher}
    for name, value in {**plain, **optional}.items():
        if name in chosen and value is not None:
            setattr(made, name, value)
    if "policy_sha256" in chosen:
        made.policy_sha256 = trial.policy.sha256
    if "policy_json" in chosen:
        made.policy_json = json.dumps(trial.policy.to_json())
    for name, json_name, evaluation in (
        ("objectives", "evaluation_json", trial.evaluation),
        ("report", "report_json", report),
    ):
        if evaluation is not None and name in chosen:
            _fill_measurements(getattr(made, name), evaluation)
        if evaluation is not None and json_name in chosen:
            setattr(made, json_name, json.dumps(evaluation.to_json()))
    return made


def objective_message(goal: Goal) -> trial_pb.Objective:
    """Return an objective as a message."""
    direction = trial_pb.GOAL_MIN if goal.goal == "min" else trial_pb.GOAL_MAX
    made = trial_pb.Objective(name=goal.name, unit=goal.unit, goal=direction)
    if goal.reference is not None:
        made.reference = goal.reference
    return made


def _fill_measurements(target: object, evaluation: Evaluation) -> None:
    for name, each in evaluation.measurements.items():
        made = target[name]  # type: ignore[index]
        made.value = each.value
        if each.low is not None:
            made.low = each.low
        if each.high is not None:
            made.high = each.high

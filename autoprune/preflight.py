"""Pre-flight: everything that can go wrong is found before a search starts.

The model is built, run and traced, every group is proven, the space is constructed, the
reachable costs are computed, and the constraints on them are checked. Nothing is written.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch

from autoprune import plugins
from autoprune.contracts.executor import EvaluatorSpec, WorkItem
from autoprune.contracts.objective import Subject
from autoprune.errors import InputError, ModelError
from autoprune.evaluation.inference import BATCH, best_device, fastest_dtype
from autoprune.evaluation.material import load_dataset, load_model, packed
from autoprune.evaluation.preparation import Preparation
from autoprune.evaluation.recovery import obstacle
from autoprune.evaluation.teachers import check_teacher
from autoprune.evaluation.workbench import fingerprint, scoring_samples, to_layout
from autoprune.fidelity import policy_at
from autoprune.graph.cost import Costs
from autoprune.graph.network import NetworkGraph
from autoprune.job.spec import Job, RungSpec
from autoprune.job_space import is_automatic, space_of
from autoprune.metrics import metrics_of
from autoprune.objectives.latency import Latency
from autoprune.policy import Policy
from autoprune.reachability import Reach, reaches
from autoprune.rebuild import shrunk
from autoprune.runtimes.catalog import create
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.gathering import gathered, require_weight_criteria
from autoprune.scoring.gathering import remarks as scoring_remarks
from autoprune.space import Choice, Float, SearchSpace, Value
from autoprune.surgery.examination import examine
from autoprune.tracing.example import logits_of

_PROOF_SAMPLES = 2


@dataclass(frozen=True)
class Preflight:
    """What is known before a search: the preparation, the space, and what it can reach.

    `scoring_remarks` say of which groups a criterion tells nothing, and `target_remarks` what of
    the fewest bits the target of a deployment runs otherwise.
    """

    job: Job
    preparation: Preparation
    space: SearchSpace
    dense: Costs
    lowest: Costs
    reaches: tuple[Reach, ...]
    scoring_remarks: tuple[str, ...] = ()
    target_remarks: tuple[str, ...] = ()


def preflight(job: Job) -> Preflight:
    """Check everything about `job` that can be checked without searching.

    Raises `ModelError`, `DataError`, `PluginError` or `InputError`, with one message.
    """
    device = best_device(job.resources.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("resources.device is 'cuda' but no CUDA device is available; use auto")
    for name, metric in metrics_of(job).items():
        try:
            metric.check(device.type)
        except InputError as error:
            raise InputError(f"{name} cannot be measured: {error}") from error
    dataset = load_dataset(job)
    model = to_layout(load_model(job, dataset), device)
    sample = dataset.normalise(dataset.train.inputs[:BATCH].to(device))
    graph = examine(model, sample[:_PROOF_SAMPLES]).graph
    _check_classes(model, sample[:_PROOF_SAMPLES], dataset.num_classes)
    evidence = Evidence(model, graph.groups, scoring_samples(job, dataset, device))
    tables = gathered(criteria_of(job), evidence, seed=job.seed)
    preparation = Preparation(
        graph,
        fastest_dtype(model, sample),
        dataset.num_classes,
        fingerprint(model),
        {name: table.scores for name, table in tables.items()},
        _multiple(job, Subject(graph.costs.costs(Policy()), network=model, example=sample)),
    )
    check_teacher(job, dataset, model)
    space = space_of(job, graph.groups, preparation.multiple)
    dense, lowest = graph.costs.costs(Policy()), _lowest(space, preparation)
    _check_recipes(job, space)
    remarks = scoring_remarks(tables), _target_remarks(job, graph, lowest, model)
    spec = evaluator_spec(job, preparation)
    ends = reaches(job, graph.costs, lowest, lambda: spec.build(material=packed(dataset, model)))
    return Preflight(job, preparation, space, dense, graph.costs.costs(lowest), ends, *remarks)


def _target_remarks(
    job: Job, graph: NetworkGraph, lowest: Policy, model: torch.nn.Module
) -> tuple[str, ...]:
    """Return what of the fewest bits the job's target runs otherwise; nothing without bits.

    Raises `InputError` where networks are quantised and what is to run them is missing.
    """
    policies = [policy_at(job, graph.groups, lowest, rung) for rung in range(len(job.rungs))]
    quantised = [policy for policy in policies if policy.is_quantised]
    if not quantised:
        return ()
    target = create(job.quantization.target)
    try:
        target.check("cpu")
    except InputError as error:
        raise InputError(f"quantization.target: {error}") from error
    return tuple(target.remarks(shrunk(model, graph.groups, quantised[-1], graph.foldable)))


def _check_recipes(job: Job, space: SearchSpace) -> None:
    """Raise `InputError` for criteria and recoveries that do not go with what may leave."""
    # Not the canonical policy: with few units left ranks save nothing, and it has none.
    lowest = space.decode(_lowest_values(space))
    if lowest.is_sparse:
        require_weight_criteria(criteria_of(job))
    rungs, chosen = _training_rungs(job), job.space.options.get("recovery", ())
    if chosen and 0 not in rungs:
        raise InputError(
            "space.recovery decides how networks are trained, and the lowest rung, which judges "
            "it, does not train: give rungs.0 finetune_steps or finetune_epochs"
        )
    for place, rung in rungs.items():
        named = {f"rungs.{place}.recovery": (rung.recovery.name,), "space.recovery": chosen}
        for path, name in ((path, name) for path, names in named.items() for name in names):
            kind = plugins.load("recovery", name)
            if reason := obstacle(kind, lowest, rung, f"rungs.{place}."):
                raise InputError(
                    f"{path}: {name!r} {reason}; take another recovery, such as finetune, or "
                    "leave space.weights, space.rank or quantize_aware out"
                )


def _training_rungs(job: Job) -> dict[int, RungSpec]:
    return {place: each for place, each in enumerate(job.rungs) if each.trains}


def criteria_of(job: Job) -> tuple[str, ...]:
    """Return the names of the criteria that the job's policies may carry."""
    named = job.space.options.get("criterion", "l1")
    return (named,) if isinstance(named, str) else tuple(named)


def _multiple(job: Job, dense: Subject) -> int:
    """Return what `space.round_to: auto` stands for: measured where the job's latency is."""
    if not is_automatic(job):
        return 1
    own = (each for each in metrics_of(job).values() if isinstance(each, Latency))
    return next(own, Latency()).preferred_multiple(dense)


def require_reachable(found: Preflight) -> None:
    """Raise `InputError` if a hard constraint cannot be met by any policy of the space."""
    for each in found.reaches:
        if each.is_reachable is False and not each.constraint.is_soft:
            raise InputError(
                f"constraint {each.constraint.text!r} cannot be met: {each.reason}; relax it, "
                "lower space.keep_ratio, or make it {soft: ...}"
            )


def evaluator_spec(job: Job, preparation: Preparation, files: str | None = None) -> EvaluatorSpec:
    """Return how to build a job's evaluator in any process."""
    return EvaluatorSpec(
        "autoprune.evaluation.evaluator:NetworkEvaluator",
        {"job": job.to_json(), "preparation": preparation.to_json(), "files": files},
        material="autoprune.evaluation.material:gather",
    )


def seconds_per_trial(found: Preflight) -> float:
    """Evaluate the middle of the space at the lowest rung and return the warm seconds."""
    evaluator = evaluator_spec(found.job, found.preparation).build()
    middle: dict[str, Value] = {}
    for each in found.space.parameters:
        if isinstance(each, Choice):
            middle[each.name] = each.options[0]
        elif isinstance(each, Float):
            middle[each.name] = (each.low + each.high) / 2
        else:
            middle[each.name] = (each.low + each.high) // 2
    policy = found.preparation.graph.groups.canonical(found.space.decode(middle))
    laps = [evaluator.evaluate(WorkItem(0, policy)).seconds for _ in range(3)]
    return statistics.median(laps[1:])


def inspection(found: Preflight, seconds: float) -> dict[str, Any]:
    """Return the JSON object that `autoprune inspect --format json` prints."""
    parts = found.preparation.graph.costs.by_module(Policy())
    none = Costs(0, 0, 0)
    groups = [
        {
            "name": group.name,
            "layers": list(group.layers),
            "units": group.units,
            "macs_share": sum(parts.get(x, none).macs for x in group.layers)
            / max(1, found.dense.macs),
            "params_share": sum(parts.get(x, none).params for x in group.layers)
            / max(1, found.dense.params),
            "frozen": group.is_frozen,
            "reason": group.reason,
        }
        for group in found.preparation.graph.groups
    ]
    return {
        "model": found.job.model.title,
        "dense": {"macs": found.dense.macs, "params": found.dense.params},
        "lowest": {"macs": found.lowest.macs, "params": found.lowest.params},
        "groups": groups,
        "constraints": [
            {"text": each.constraint.text, "reachable": each.is_reachable} for each in found.reaches
        ],
        "seconds_per_trial": seconds,
    }


def _lowest(space: SearchSpace, preparation: Preparation) -> Policy:
    """Return the policy of every number's lowest value, and of the options that cost least."""
    values = _lowest_values(space)

    def with_option(name: str, option: Value) -> Costs:
        return preparation.graph.costs.costs(space.decode({**values, name: option}))

    for each in space.parameters:
        if isinstance(each, Choice):
            macs = [with_option(each.name, option).macs for option in each.options]
            values[each.name] = each.options[macs.index(min(macs))]
    return preparation.graph.groups.canonical(space.decode(values))


def _lowest_values(space: SearchSpace) -> dict[str, Value]:
    """Return every number's lowest value, and the first options."""
    return {
        each.name: each.options[0] if isinstance(each, Choice) else each.low
        for each in space.parameters
    }


def _check_classes(model: torch.nn.Module, sample: torch.Tensor, num_classes: int) -> None:
    with torch.inference_mode():
        outputs = logits_of(model(sample))
    if outputs.dim() != 2:
        got = tuple(outputs.shape)
        raise ModelError(f"the model must return logits of shape (batch, classes), got {got}")
    if outputs.shape[1] < num_classes:
        raise ModelError(
            f"the model has {outputs.shape[1]} outputs but the data has {num_classes} classes; "
            "set model.num_classes or use a checkpoint trained on this data"
        )

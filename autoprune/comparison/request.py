"""What is compared with what: criteria, shares of a cost, seeds, and a rung of the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from autoprune import plugins
from autoprune.errors import InputError, JobError, Violation
from autoprune.job.spec import Job, PluginSpec
from autoprune.metrics import metrics_of
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.gathering import require_fit, sorted_out

Cost = Literal["macs", "params", "size_bytes"]
"""Of which cost of the dense network shares are meant."""
YARDSTICK = "random"
"""The criterion that is always compared: whoever is no better has found nothing."""
EVERY = "all"
"""Stands for all built-in criteria that can judge the network."""
ERROR = "error"


@dataclass(frozen=True, slots=True)
class Request:
    """A comparison that is asked for.

    `criteria` are names as in a job, or `all`; `shares` lie within (0, 1); `rung` is the place of
    the job's rung that repairs and recovers. Raises `InputError` for values out of bounds, for
    none, and for the same twice.
    """

    criteria: tuple[str, ...]
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    of: Cost = "macs"
    rung: int = 0

    def __post_init__(self) -> None:
        named: dict[str, Sequence[Any]] = {
            "criteria": self.criteria,
            "seeds": self.seeds,
            "keep": self.shares,
        }
        for option, values in named.items():
            if not values:
                raise InputError(f"{option} names nothing; give at least one, separated by commas")
            twice = sorted({each for each in values if values.count(each) > 1})
            if twice:
                raise InputError(f"{option} names {twice[0]!r} twice; each counts once")
        negative = [each for each in self.seeds if each < 0]
        if negative:
            raise InputError(f"seeds must not be below 0, given: {negative[0]}")
        outside = [each for each in self.shares if not 0.0 < each < 1.0]
        if outside:
            raise InputError(
                f"keep must be shares between 0 and 1, given: {outside[0]}; 0.5 keeps half of the "
                f"dense {self.of}, and 1 would be the dense network"
            )
        if self.of not in get_args(Cost):
            raise InputError(f"of must be {', '.join(get_args(Cost))}; given: {self.of!r}")

    def check(self, job: Job) -> None:
        """Raise `InputError` where the job has no such rung, or nothing has such a name."""
        if not 0 <= self.rung < len(job.rungs):
            raise InputError(
                f"rung {self.rung} does not exist: the job has {len(job.rungs)}, counted from 0"
            )
        problems = [
            Violation("criteria", name, each.rule)
            for name in self.criteria
            if name != EVERY
            for each in plugins.check("criterion", PluginSpec(name=name), "criteria")
        ]
        if problems:
            raise JobError(problems, "compare")

    def chosen(self, evidence: Evidence) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the criteria that are compared, the yardstick among them, and those left out.

        Raises `InputError` for one that was named and cannot judge this network.
        """
        fitting, left_out = sorted_out(evidence) if EVERY in self.criteria else ((), {})
        own = [each for each in self.criteria if each != EVERY]
        require_fit(own, evidence)
        return tuple(dict.fromkeys((*own, *fitting, YARDSTICK))), left_out


def compared_job(job: Job, rung: int) -> Job:
    """Return the part of a job that a comparison is about.

    One rung, no constraints, no criterion of the space; the error is measured in any case.
    """
    options = {name: each for name, each in job.space.options.items() if name != "criterion"}
    is_there = ERROR in metrics_of(job.model_copy(update={"constraints": ()}))
    error = () if is_there else (PluginSpec(name=ERROR),)
    return job.model_copy(
        update={
            "space": job.space.model_copy(update={"options": options}),
            "constraints": (),
            "objectives": (*job.objectives, *error),
            "rungs": (job.rungs[rung],),
        }
    )

"""What is compared with what: criteria, recoveries, shares, seeds, and a rung of the job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from autoprune import plugins
from autoprune.comparison.method import YARDSTICK
from autoprune.errors import InputError, JobError, Violation
from autoprune.job.spec import Job, PluginSpec
from autoprune.metrics import metrics_of
from autoprune.pattern import Pattern
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.gathering import require_fit, sorted_out

Cost = Literal["macs", "params", "size_bytes"]
"""Of which cost of the dense network shares are meant, where whole units leave."""
Of = Literal[Cost, "weights"]
"""What shares are of: a cost, or the weights of every kernel."""
EVERY = "all"
"""Stands for all built-in criteria that can judge the network."""
ERROR = "error"
_OF_LAYERS = ("bits", "activation_bits", "protect", "repair", "rounding")
"""What of a space `mixed` holds for single weights: all but units, ranks, and what is compared."""
_OF_METHODS = ("criterion", "recovery")


@dataclass(frozen=True, slots=True)
class Request:
    """A comparison that is asked for.

    `criteria` are names as in a job, or `all`; `shares` lie within (0, 1); `rung` is the place of
    the job's rung that repairs and recovers, by each of the `recoveries`, or by its own where
    there are none. `pattern` is that in which single weights leave (`autoprune.pattern`). Raises
    `InputError` for values out of bounds, for none, and for the same twice.
    """

    criteria: tuple[str, ...]
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    of: Of = "macs"
    rung: int = 0
    recoveries: tuple[str, ...] = ()
    pattern: str | None = None

    def __post_init__(self) -> None:
        named: dict[str, Sequence[Any]] = {
            "criteria": self.criteria,
            "seeds": self.seeds,
            "keep": self.shares,
        }
        for option, values in {**named, "recoveries": self.recoveries}.items():
            if option in named and not values:
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
        if self.of not in get_args(Of):
            raise InputError(f"of must be {', '.join(get_args(Of))}; given: {self.of!r}")
        self._check_pattern()

    @property
    def of_weights(self) -> bool:
        """Say whether single weights leave, and no units."""
        return self.of == "weights"

    def check(self, job: Job) -> None:
        """Raise `InputError` where the job has no such rung, or nothing has such a name.

        Also where recoveries are named, and the rung does not train.
        """
        if not 0 <= self.rung < len(job.rungs):
            raise InputError(
                f"rung {self.rung} does not exist: the job has {len(job.rungs)}, counted from 0"
            )
        if problems := list(self._unknown()):
            raise JobError(problems, "compare")
        if self.recoveries and not job.rungs[self.rung].trains:
            others = [str(place) for place, each in enumerate(job.rungs) if each.trains]
            named = f", or take one that does: --rung {' or '.join(others)}" if others else ""
            raise InputError(
                f"rung {self.rung} trains nothing, so that recoveries make no difference; given: "
                f"{', '.join(self.recoveries)}; set rungs.{self.rung}.finetune_steps or "
                f"finetune_epochs{named}"
            )

    def chosen(self, evidence: Evidence) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the criteria that are compared, the yardstick among them, and those left out.

        Raises `InputError` for one that was named and cannot judge this network.
        """
        fitting: tuple[str, ...] = ()
        left_out: dict[str, str] = {}
        if EVERY in self.criteria:
            fitting, left_out = sorted_out(evidence, of_weights=self.of_weights)
        own = [each for each in self.criteria if each != EVERY]
        require_fit(own, evidence, of_weights=self.of_weights)
        return tuple(dict.fromkeys((*own, *fitting, YARDSTICK))), left_out

    def _check_pattern(self) -> None:
        """Raise `InputError` for a pattern that is none, or does not go with what is asked."""
        shape = Pattern.parse(self.pattern)
        if self.pattern is not None and not self.of_weights:
            raise InputError(
                f"a pattern ({self.pattern}) says how single weights leave, and shares are of "
                f"{self.of}; say --of weights, or leave --pattern out"
            )
        if shape.is_n_of_m and self.shares != (shape.kept / shape.columns,):
            raise InputError(
                f"of {self.pattern} the share {shape.kept / shape.columns} stays; given: "
                f"{', '.join(map(str, self.shares))}; say --keep {shape.kept / shape.columns}"
            )

    def _unknown(self) -> Iterator[Violation]:
        """Yield what is wrong with names of plug-ins."""
        criteria = [each for each in self.criteria if each != EVERY]
        for kind, path, names in (
            ("criterion", "criteria", criteria),
            ("recovery", "recoveries", self.recoveries),
        ):
            for name in names:
                for each in plugins.check(kind, PluginSpec(name=name), path):
                    yield Violation(path, name, each.rule)


def compared_job(job: Job, request: Request) -> Job:
    """Return the part of a job that a comparison is about.

    One rung, no constraints, nothing of the space that methods decide; the error is measured in
    any case.
    """
    is_there = ERROR in metrics_of(job.model_copy(update={"constraints": ()}))
    error = () if is_there else (PluginSpec(name=ERROR),)
    return job.model_copy(
        update={
            "space": _compared_space(job.space, request),
            "constraints": (),
            "objectives": (*job.objectives, *error),
            "rungs": (job.rungs[request.rung],),
        }
    )


def _compared_space(space: PluginSpec, request: Request) -> PluginSpec:
    """Return the space without what methods decide; for single weights one that knows layers."""
    options: Mapping[str, Any] = space.options
    if request.of_weights:
        options = options if space.name == "mixed" else {"bits": [32]}
        kept = {name: each for name, each in options.items() if name in _OF_LAYERS}
        return PluginSpec(name="mixed", options=kept)
    kept = {name: each for name, each in options.items() if name not in _OF_METHODS}
    return space.model_copy(update={"options": kept})

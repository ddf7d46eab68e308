"""How far a search has come, as figures that can be shown or sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """A look at a running search.

    `done` counts completed trials of the lowest rung, `to_do` the trials that the budget
    still allows, baselines included, `seconds_left` what is left of its time; `to_report`
    the trials that the report split still has to measure, None before. `trouble` says why
    the search is waiting, None while it is not.
    """

    done: int
    to_do: int | None
    seconds_left: float | None
    front: int
    hypervolume: float | None
    to_report: int | None = None
    trouble: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into equal progress."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Progress:
        """Rebuild progress from `to_json`."""
        return cls(**body)


# Called every turn of the loop with what makes a `Progress`, for whoever finds it due.
Watcher: TypeAlias = Callable[[Callable[[], Progress]], None]


def unwatched(look: Callable[[], Progress]) -> None:
    """Let nobody know."""

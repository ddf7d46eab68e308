"""Model card: what a trial is, how good, what it costs, and where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import yaml

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.errors import ExportError
from autoprune.exporters import _card_sections as sections
from autoprune.exporters._front_picture import drawn
from autoprune.exporters._markdown import tables_of
from autoprune.exporters._run_facts import finite, origin
from autoprune.numbers import readable
from autoprune.seal import check_seal
from autoprune.trial import TrialState, shown

_COMMENT = re.compile(r"<!-- (\{.*\}) -->")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_NUMBER = re.compile(r"(-?[\d.]+(?:e[+-]?\d+)?|nan|-?inf) ?([kMGT]?)")
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


class Card(RunExporter):
    """Model card in Markdown, as Hugging Face reads them, with the front as an SVG beside it.

    What only a person knows can be given, and is otherwise left to be filled in.

    Args:
        license: identifier of the licence, as `apache-2.0`.
        data: the data set that the network was trained on, as Hugging Face names it.
        authors: who answers for the network.
        intended_use: what it is for, and what it is not for.
    """

    suffix: ClassVar[str] = ".md"
    companions: ClassVar[tuple[str, ...]] = (".svg",)

    def __init__(
        self, *, license: str = "", data: str = "", authors: str = "", intended_use: str = ""
    ) -> None:
        self._license = license
        self._data = data
        self._authors = authors
        self._intended_use = intended_use

    def write(self, source: Chosen, path: Path) -> None:
        """Write the card and the picture; `ExportError` for a trial that has not completed."""
        trial = source.trial
        if trial.state is not TrialState.COMPLETED:
            raise ExportError(
                f"trial {trial.number} is {trial.state}: there is nothing to say in a card; all "
                "trials are in --to csv, json and parquet"
            )
        (picture,) = self.others(path)
        picture.write_text(drawn(source.run, trial), encoding="utf-8")
        path.write_text("\n".join(self._lines(source, picture.name)), encoding="utf-8")

    def check(self, source: Chosen, path: Path) -> float:
        """Read both files back: every number against the trial, every marker against the front.

        Raises `ExportError` where one is not what it should be.
        """
        check_seal(path, self.others(path))
        text = path.read_text(encoding="utf-8")
        said = _COMMENT.search(text)
        if said is None or any(
            json.loads(said[1]).get(key) != value for key, value in origin(source).items()
        ):
            raise ExportError(f"{path.name} does not say where it comes from; nothing was kept")
        _check_front_matter(source, text)
        _check_tables(source, text)
        (picture,) = self.others(path)
        _check_picture(source, picture.read_text(encoding="utf-8"))
        return 0.0

    def _lines(self, source: Chosen, picture: str) -> Iterator[str]:
        stamp = self.stamped(origin(source))
        # A comment ends at its first -->, wherever that stands.
        safe = stamp.replace("<", "\\u003c").replace(">", "\\u003e")
        given = {
            "Licence": self._license,
            "Trained on": self._data,
            "Authors": self._authors,
        }
        yield "---"
        yield from self._front_matter(source)
        yield from ("---", "", f"<!-- {safe} -->", "")
        yield from sections.lead(source)
        yield from sections.picture(source, picture)
        yield from sections.quality(source)
        yield from sections.groups(source)
        yield from sections.costs(source)
        yield from sections.nature(source)
        yield from sections.policy(source)
        yield from sections.limits(source, self._intended_use)
        yield from sections.use(source)
        yield from sections.provenance(source, given)

    def _front_matter(self, source: Chosen) -> Iterator[str]:
        """Yield the YAML that Hugging Face reads; what is not known is a comment."""
        policy = source.run.as_evaluated(source.trial)
        kinds = {
            "pruning": policy.removes or policy.is_sparse,
            "low-rank": policy.factorises,
            "quantization": policy.is_quantised,
        }
        if self._license:
            yield _yaml({"license": self._license})
        else:
            yield "# license: not given, fill in (as in apache-2.0)"
        if self._data:
            yield _yaml({"datasets": [self._data]})
        else:
            yield "# datasets: not given, fill in"
        tags = ["autoprune", "model-compression", *(each for each, is_so in kinds.items() if is_so)]
        yield _yaml({"library_name": "pytorch", "tags": tags, **_results(source)})


def _yaml(body: dict[str, Any]) -> str:
    # ASCII without folding: no name can end a line, and so the block.
    return yaml.safe_dump(body, sort_keys=False, width=10**9).rstrip("\n")


def _results(source: Chosen) -> dict[str, Any]:
    """Return the metrics as Hugging Face lists them, with all their digits."""
    run, trial = source.run, source.trial
    values = {x: each.value for x, each in shown(trial).measurements.items()}
    split = "report" if trial.report is not None else "search"
    result = {
        "task": {"type": "classification"},
        "dataset": {"type": run.job.data.source.name, "name": run.job.data.source.name}
        | {"split": split},
        "metrics": [{"type": name, "value": finite(value)} for name, value in values.items()],
    }
    index = {"name": f"{run.job.name}-{trial.number}", "results": [result]}
    return {"metrics": list(values), "model-index": [index]}


def _check_front_matter(source: Chosen, text: str) -> None:
    found = _FRONT_MATTER.match(text)
    body = yaml.safe_load(found[1]) if found else {}
    expected = _results(source)
    if {name: body.get(name) for name in expected} != expected:
        raise ExportError("the card's YAML was read back otherwise; nothing was kept")


def _check_tables(source: Chosen, text: str) -> None:
    """Compare the numbers of the tables with those of the trial, as far as they are written."""
    tables, body = tables_of(text), source.run.show_json(source.trial)
    units = sections.units_of(source)
    measured = shown(source.trial).measurements
    wanted = [
        *((row, x, each.value) for row, (x, each) in _paired(tables["Metric"], measured)),
        *((row, x, float(each)) for row, (x, each) in _paired(tables["Cost"], body["costs"])),
    ]
    for row, name, value in wanted:
        unit = units.get(name, "")
        read = _read(row[3]) * (0.01 if unit == "share" else 1.0)
        # Formatting what was read gives the same text, or something else was written.
        if readable(read, unit) != readable(value, unit):
            raise ExportError(f"the card says {row[3]} of {name}, not {value}; nothing was kept")
    for row, (name, (kept, all_)) in _paired(tables["Group"], body["units"]):
        if [int(row[1]), int(row[2])] != [kept, all_]:
            raise ExportError(f"the card says {row[1]} of {row[2]} units of {name}, not {kept}")


def _paired(rows: list[list[str]], wanted: Any) -> Iterator[tuple[list[str], tuple[str, Any]]]:
    if len(rows) != len(wanted):
        raise ExportError(f"the card has {len(rows)} rows instead of {len(wanted)}")
    return zip(rows, wanted.items(), strict=True)


def _read(cell: str) -> float:
    """Return the first number of a cell."""
    found = _NUMBER.match(cell)
    if found is None:
        raise ExportError(f"the card says {cell!r} where a number belongs; nothing was kept")
    return float(found[1]) * _FACTORS[found[2]]


def _check_picture(source: Chosen, text: str) -> None:
    """Require well-formed XML with a marker for every member of the front, and the trial's."""
    try:
        marks = list(ElementTree.fromstring(text).iter())
    except ElementTree.ParseError as error:
        raise ExportError(f"the picture is not XML: {error}; nothing was kept") from error
    for kind, expected in (
        ("member", [each.number for each in source.run.front().members]),
        ("ring", [source.trial.number]),
    ):
        drawn_ = [int(x.get("data-trial", "")) for x in marks if x.get("class") == kind]
        if drawn_ != expected:
            raise ExportError(f"the picture shows {drawn_} instead of {expected} as {kind}")

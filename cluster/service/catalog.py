"""What jobs of clients may name: models and data that the server has, and modules.

    models:
      resnet20: {name: cifar_resnet20, checkpoint: /models/resnet20.th}
    data:
      cifar10: {name: cifar10, path: /data/cifar10.npz}
    imports: [team_models]              # team_models and everything in it

Jobs name a model or data of the catalogue by its name there; a built-in model without a
checkpoint, and data that need no path, need not stand in it. Nothing else that a client sends
is used as a path or imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from autoprune.errors import InputError, Violation

_IMPORT = re.compile(r"[\w.]+:\w+", re.ASCII)
# What would name a file of the server.
_PATHS = frozenset({"path", "checkpoint", "attributes"})
# What a client may say of a model or data that the catalogue holds.
_OWN = frozenset({"name", "num_classes", "splits", "groups"})
_FREE = frozenset({"resources.labels"})  # any text may stand there, and none of it is looked up


class Catalog(BaseModel):
    """Models and data by name, as a job file has them, and the modules that may be imported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    data: dict[str, dict[str, Any]] = Field(default_factory=dict)
    imports: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Catalog:
        """Read a YAML file; raises `InputError`."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"the catalogue {path} cannot be used: {error}") from error

    def resolved(self, raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Violation]]:
        """Return a client's job with what its names stand for, and all that it may not name."""
        resolver = _Resolver(self)
        return resolver.visited(raw, ""), resolver.problems


class _Resolver:
    """Goes through one job; what the catalogue puts in is not looked at again."""

    def __init__(self, catalog: Catalog) -> None:
        self.problems: list[Violation] = []
        self._imports = catalog.imports
        self._shelves = {"model": catalog.models, "teacher": catalog.models, "data": catalog.data}
        self._rule = (
            "a client names no files, but what the server has: models "
            f"{_listed(catalog.models)}; data {_listed(catalog.data)}"
        )

    def visited(self, value: Any, path: str) -> Any:
        """Return a part of a job, which stands at `path`, resolved."""
        if isinstance(value, Mapping):
            return {key: self._entry(str(key), each, path) for key, each in value.items()}
        if isinstance(value, list):
            return [self.visited(each, f"{path}.{place}") for place, each in enumerate(value)]
        if isinstance(value, str):
            self._check_import(value, path)
        return value

    def _entry(self, key: str, value: Any, parent: str) -> Any:
        path = f"{parent}.{key}" if parent else key
        given = _named(value)
        known = self._shelves.get(key, {})
        if isinstance(given.get("name"), str) and given["name"] in known:
            return self._merged(given, known[given["name"]], path)
        if path in _FREE:
            return value
        self._check_import(key, path)
        if key in _PATHS and value:
            self.problems.append(Violation(path, value, self._rule))
            return value
        return self.visited(value, path)

    def _merged(self, given: Mapping[str, Any], entry: Mapping[str, Any], path: str) -> Any:
        rule = f"the server's {given['name']!r} can be given none of this"
        for key in given.keys() - _OWN:
            if given[key]:
                self.problems.append(Violation(f"{path}.{key}", given[key], rule))
        own = {key: each for key, each in given.items() if key in _OWN - {"name"} and each}
        return {**entry, **own}

    def _check_import(self, text: str, path: str) -> None:
        """Refuse what anybody could take for `module:name`: nothing else in a job has a colon."""
        if ":" in text and not self._may_import(text):
            known = _listed(self._imports)
            rule = f"the server does not import this; modules that it does: {known}"
            self.problems.append(Violation(path, text, rule))

    def _may_import(self, name: str) -> bool:
        if not _IMPORT.fullmatch(name):
            return False
        module = name.partition(":")[0]
        return any(module == each or module.startswith(f"{each}.") for each in self._imports)


def _named(section: Any) -> dict[str, Any]:
    """Return a section of a job as a mapping with a name, whichever way it was written."""
    if isinstance(section, str):
        return {"name": section}
    if not isinstance(section, Mapping):
        return {}
    source = section.get("source")
    if "name" in section or source is None:
        return dict(section)
    rest = {key: each for key, each in section.items() if key != "source"}
    if isinstance(source, Mapping) and not source.get("options"):
        source = source.get("name")
    return {"name": source, **rest}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"

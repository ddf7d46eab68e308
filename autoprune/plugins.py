"""The plug-in loader: one file is one plug-in, and its file name is its name in a job.

    load("searcher", "nsga2")                       # agents/nsga2.py: its one public class
    load("searcher", "mypackage.search:Annealing")  # somebody else's
    create("space", PluginSpec(name="layerwise", options={"round_to": 8}), groups)

A file that would shadow a well-known module carries its shelf's suffix
(`random_search.py` answers to `random`). Options are the constructor's keyword-only
arguments; they are checked, with their types, before anything runs.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from autoprune.errors import PluginError, Violation, suggestion
from autoprune.job.spec import PluginSpec


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the plug-ins of a kind lie, and which contract they keep."""

    package: str
    contract: str
    suffix: str


SHELVES: Mapping[str, Shelf] = {
    "searcher": Shelf("agents", "autoprune.contracts.searcher:Searcher", "_search"),
    "space": Shelf("search_spaces", "autoprune.space:SearchSpace", "_space"),
    "criterion": Shelf(
        "autoprune.criteria", "autoprune.contracts.criterion:Criterion", "_criterion"
    ),
    "objective": Shelf(
        "autoprune.objectives", "autoprune.contracts.objective:Objective", "_objective"
    ),
    "exporter": Shelf("autoprune.exporters", "autoprune.contracts.exporter:Exporter", "_exporter"),
    "data": Shelf("autoprune.data", "autoprune.contracts.data:DataSource", "_data"),
    "recovery": Shelf("autoprune.recoveries", "autoprune.contracts.recovery:Recovery", "_recovery"),
}
# Given by the engine, never by a job.
_ENGINE_OPTIONS = frozenset({"seed"})


def names(kind: str) -> dict[str, str]:
    """Return the built-in plug-ins of a kind: name → first line of the docstring.

    Files are read, not imported, so listing is fast and needs no optional package.
    """
    return {name: _summary(path) for name, path in sorted(_files(kind).items())}


def load(kind: str, name: str) -> type[Any]:
    """Return the plug-in class called `name`.

    Raises `PluginError` for an unknown name (with the nearest match), for a module that
    cannot be imported, and for a class that does not keep the kind's contract.
    """
    if ":" in name:
        module_name, _, class_name = name.partition(":")
    else:
        path = _files(kind).get(name)
        if path is None:
            raise PluginError(f"unknown {kind} {name!r}; {suggestion(name, _files(kind))}")
        module_name, class_name = f"{SHELVES[kind].package}.{path.stem}", ""
    try:
        module = import_here(module_name)
    except ImportError as error:
        where = f"; it must be installed, or lie in {os.getcwd()}" if ":" in name else ""
        raise PluginError(f"{kind} {name!r} cannot be imported: {error}{where}") from error
    contract = _contract(kind)
    plugin = getattr(module, class_name, None) if class_name else _only_plugin(module, contract)
    if not (inspect.isclass(plugin) and issubclass(plugin, contract)):
        raise PluginError(f"{kind} {name!r} must be a class derived from {contract.__qualname__}")
    return plugin


def import_here(name: str) -> ModuleType:
    """Import a module that is installed or lies in the working directory."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        # The console script leaves it out. Last, so that no installed package is shadowed,
        # and for good, because a user's module may import more when it runs.
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def check(kind: str, spec: PluginSpec, path: str) -> list[Violation]:
    """Return what is wrong with a plug-in of a job, at `path`; an empty list if nothing."""
    try:
        options = _options_model(load(kind, spec.name))
    except PluginError as error:
        return [Violation(f"{path}.name", spec.name, str(error))]
    try:
        options.model_validate(spec.options)
    except ValidationError as error:
        return [
            Violation(
                f"{path}.{'.'.join(map(str, each['loc']))}",
                each["input"] if each["type"] != "missing" else None,
                _option_rule(each["type"], each["msg"], str(each["loc"][0]), options),
            )
            for each in error.errors()
        ]
    return []


def create(kind: str, spec: PluginSpec, *arguments: Any, **engine_options: Any) -> Any:
    """Construct a plug-in with its job's options; raises `PluginError` where they are wrong."""
    plugin = load(kind, spec.name)
    problems = check(kind, spec, f"{kind} {spec.name}")
    if problems:
        raise PluginError("; ".join(map(str, problems)))
    validated = _options_model(plugin).model_validate(spec.options)
    options = {name: getattr(validated, name) for name in validated.model_fields_set}
    try:
        return plugin(*arguments, **options, **engine_options)
    except ValueError as error:
        raise PluginError(f"{kind} {spec.name}: {error}") from error


def options_of(plugin: type[Any]) -> dict[str, inspect.Parameter]:
    """Return the options that a job may set: the constructor's keyword-only arguments."""
    return {
        name: parameter
        for name, parameter in inspect.signature(plugin).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _ENGINE_OPTIONS
    }


def _options_model(plugin: type[Any]) -> type[BaseModel]:
    hints = get_type_hints(plugin.__init__, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if each.default is each.empty else each.default)
        for name, each in options_of(plugin).items()
    }
    return create_model(plugin.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def _option_rule(kind: str, message: str, name: str, options: type[BaseModel]) -> str:
    if kind == "extra_forbidden":
        return f"unknown option; {suggestion(name, options.model_fields)}"
    if kind == "missing":
        return "this option is required"
    return message.lower().replace("a valid tuple", "a list")


def _only_plugin(module: Any, contract: type[Any]) -> type[Any] | None:
    found = [
        each
        for name, each in vars(module).items()
        if inspect.isclass(each)
        and not name.startswith("_")
        and issubclass(each, contract)
        and each.__module__ == module.__name__
    ]
    return found[0] if len(found) == 1 else None


@cache
def _contract(kind: str) -> type[Any]:
    module_name, _, class_name = SHELVES[kind].contract.partition(":")
    contract: type[Any] = getattr(importlib.import_module(module_name), class_name)
    return contract


@cache
def _files(kind: str) -> dict[str, Path]:
    shelf = SHELVES[kind]
    found = {
        path.stem.removesuffix(shelf.suffix): path
        for path in shelf_directory(shelf.package).glob("*.py")
        if not path.name.startswith("_") and _defines_plugin(path)
    }
    return found


def shelf_directory(package: str) -> Path:
    """Return the shelf's directory; `PluginError` when another distribution took its name."""
    ours = Path(__file__).resolve().parent
    spec = importlib.util.find_spec(package)
    origin = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
    expected = ours.parent.joinpath(*package.split("."))
    if origin != expected:
        raise PluginError(
            f"package {package!r} was expected at {expected} but "
            f"{'is missing' if origin is None else f'comes from {origin}'}; another "
            "distribution or a folder on the import path shadows it: uninstall or rename it"
        )
    return expected


def _defines_plugin(path: Path) -> bool:
    return _plugin_node(path) is not None


def _summary(path: Path) -> str:
    node = _plugin_node(path)
    text = ast.get_docstring(node) if node is not None else None
    return text.splitlines()[0] if text else ""


def _plugin_node(path: Path) -> ast.ClassDef | None:
    """Return the file's plug-in: its last public class that has a base class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.bases and not node.name.startswith("_")
    ]
    return classes[-1] if classes else None

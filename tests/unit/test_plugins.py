"""The plug-in loader: names, options, intruders."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autoprune import plugins
from autoprune.errors import PluginError
from autoprune.job.spec import PluginSpec
from autoprune.objectives.latency import Latency


@pytest.mark.parametrize("kind", plugins.SHELVES)
def test_every_shelf_loads_and_says_what_each_plugin_is(kind: str) -> None:
    listing = plugins.names(kind)
    assert listing
    for name, summary in listing.items():
        assert summary, name
        assert plugins.load(kind, name).__name__


def test_suffixed_files_answer_to_their_plain_name() -> None:
    assert plugins.load("searcher", "random").__module__ == "agents.random_search"
    assert plugins.load("exporter", "torch").__module__ == "autoprune.exporters.torch_exporter"
    assert not any(name.startswith("_") for name in plugins.names("searcher"))


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean 'nsga2'"):
        plugins.load("searcher", "nsga-2")
    with pytest.raises(PluginError, match=r"allowed: activation_norm, .*l1, l2, .*random"):
        plugins.load("criterion", "xyz")


def test_options_are_checked_with_path_and_rule() -> None:
    spec = PluginSpec(name="latency", options={"bach": 1, "threads": "many"})
    found = {x.path: x.rule for x in plugins.check("objective", spec, "objectives.2")}
    assert "did you mean 'batch'" in found["objectives.2.bach"]
    assert "integer" in found["objectives.2.threads"]
    (missing,) = plugins.check("data", PluginSpec(name="npz"), "data")
    assert missing.path == "data.path"
    assert missing.rule == "this option is required"
    assert plugins.check("objective", PluginSpec(name="latency"), "x") == []


def test_the_seed_belongs_to_the_engine() -> None:
    spec = PluginSpec(name="nsga2", options={"seed": 3})
    (problem,) = plugins.check("searcher", spec, "searchers.0")
    assert problem.path == "searchers.0.seed"


def test_options_reach_the_constructor() -> None:
    made = plugins.create("objective", PluginSpec(name="latency", options={"batch": 8}))
    assert isinstance(made, Latency)
    assert made.batch == 8
    with pytest.raises(PluginError, match="unknown option"):
        plugins.create("objective", PluginSpec(name="latency", options={"x": 8}))


def test_wrong_options_do_not_reach_the_constructor() -> None:
    with pytest.raises(PluginError, match="required"):
        plugins.create("data", PluginSpec(name="npz"))
    with pytest.raises(PluginError, match="integer"):
        plugins.create("objective", PluginSpec(name="latency", options={"batch": "many"}))


def test_values_that_the_constructor_refuses_are_input_errors() -> None:
    with pytest.raises(PluginError, match="at least 1"):
        plugins.create("objective", PluginSpec(name="latency", options={"batch": 0}))


def test_plugins_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from autoprune.objectives.macs import Macs\n"
        "class Mine(Macs):\n    'My own.'\n    name = 'mine'\n"
        "class Wrong: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.load("objective", "mine:Mine").name == "mine"
    for name, message in (
        ("mine:Wrong", "derived from Objective"),
        ("mine:Absent", "derived from Objective"),
        ("nowhere:Thing", "cannot be imported"),
        ("autoprune.criteria.l1:L1", "derived from Objective"),
    ):
        with pytest.raises(PluginError, match=message):
            plugins.load("objective", name)


def test_an_intruder_on_a_shelfs_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("")
    for name in [x for x in sys.modules if x.split(".")[0] == "agents"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    plugins._files.cache_clear()
    with pytest.raises(PluginError, match=str(tmp_path / "agents")):
        plugins.names("searcher")


def test_a_plugin_of_ones_own_is_found_in_the_working_directory_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_ones_own.py").write_text(
        "from autoprune.objectives.macs import Macs\nclass Mine(Macs):\n    pass\n"
    )
    spec = PluginSpec.model_validate({"name": "of_ones_own:Mine"})
    with pytest.raises(PluginError, match=r"of_ones_own.*must be installed, or lie in /"):
        plugins.load("objective", spec.name)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.chdir(tmp_path)
    assert plugins.load("objective", spec.name).__name__ == "Mine"

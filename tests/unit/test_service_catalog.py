"""What jobs of clients may name: the server's models and data, and modules that it allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune import plugins
from autoprune.errors import InputError
from cluster.service.catalog import Catalog

CATALOG = Catalog(
    models={"ours": {"name": "cifar_resnet20", "checkpoint": "/models/ours.th"}},
    data={"photos": {"name": "imagefolder", "path": "/data/photos", "image_size": 64}},
    imports=("team", "other.part"),
)
# Options of plug-ins that are text, and name neither a file nor a module.
HARMLESS = {"criterion"}


def problems(**job: Any) -> dict[str, str]:
    """Return where a job is refused, and why."""
    _, found = CATALOG.resolved(job)
    return {each.path: each.rule for each in found}


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({"name": "ours"}, {"name": "cifar_resnet20", "checkpoint": "/models/ours.th"}),
        (
            {"name": "ours", "num_classes": 5},
            {"name": "cifar_resnet20", "checkpoint": "/models/ours.th", "num_classes": 5},
        ),
        ({"name": "ours", "checkpoint": None}, CATALOG.models["ours"]),
        ({"name": "mlp"}, {"name": "mlp"}),
    ],
)
def test_a_model_is_what_the_server_has_of_that_name(given: Any, resolved: Any) -> None:
    job, found = CATALOG.resolved({"model": given})
    assert not found
    assert job["model"] == resolved
    teacher, found = CATALOG.resolved({"rungs": [{"distill": {"teacher": given}}]})
    assert not found
    assert teacher["rungs"][0]["distill"]["teacher"] == resolved


@pytest.mark.parametrize(
    "given",
    [
        "photos",
        {"name": "photos"},
        {"source": "photos"},
        {"source": {"name": "photos"}},
        {"source": {"name": "photos", "options": {}}},
    ],
)
def test_data_are_found_whichever_way_they_are_written(given: Any) -> None:
    job, found = CATALOG.resolved({"data": given})
    assert not found
    assert job["data"] == CATALOG.data["photos"]


def test_a_client_adds_to_data_only_what_is_its_own() -> None:
    own = {"groups": ["class"], "splits": {"search": 0.5}}
    job, found = CATALOG.resolved({"data": {"name": "photos", **own}})
    assert not found
    assert job["data"] == {**CATALOG.data["photos"], **own}
    for key in ("path", "image_size", "attributes", "source"):
        assert set(problems(data={"name": "photos", key: "/etc"})) == {f"data.{key}"}


@pytest.mark.parametrize(
    "data",
    [
        {"name": "cifar10", "path": "/etc"},
        {"source": {"name": "cifar10", "path": "/etc"}},
        {"source": {"name": "cifar10", "options": {"path": "/etc"}}},
        {"name": "digits", "attributes": {"sex": "/etc/x.npy"}},
        {"source": {"name": "photos", "options": {"path": "/etc"}}},
    ],
)
def test_no_file_is_named(data: Any) -> None:
    (rule,) = problems(data=data).values()
    assert "models ours; data photos" in rule


def test_no_option_of_a_plug_in_is_forgotten() -> None:
    """Options that are text may be files: they are refused, or stand in HARMLESS."""
    seen = set()
    for kind in plugins.SHELVES.keys() - {"exporter"}:  # no job names one
        for name in plugins.names(kind):
            options = plugins.options_of(plugins.load(kind, name))
            texts = {x for x, each in options.items() if each.annotation in ("str", "Path", str)}
            for option in texts - HARMLESS:
                found = problems(data={"name": name, option: "/etc/passwd"})
                assert found, f"{kind} {name}: {option}"
                seen.add(option)
    assert "path" in seen


@pytest.mark.parametrize(
    "text", ["team:make", "team.deep.module:Class", "other.part:x", "other.part.more:x"]
)
def test_what_is_allowed_is_imported(text: str) -> None:
    assert not problems(model={"import": text}, searchers=[text, {"import": text}])


@pytest.mark.parametrize(
    "text",
    [
        "os:system",
        "teams:make",
        "other:x",
        "other.partial:x",
        "team:",
        ":make",
        "team:not a word",
        "team:make\n",
        "team :make",
        "team:make:x",
        "os:system:team:make",
        "ｔeam:make",
        "team/../os:system",
    ],
)
def test_nothing_else_is_imported_wherever_it_stands(text: str) -> None:
    """As an entry, an option, or a key: all of these have been plug-ins' names."""
    for path, job in {
        "model.import": {"model": {"import": text}},
        "searchers.0": {"searchers": [text]},
        "objectives.0.import": {"objectives": [{"import": text}]},
        "objectives.0.name": {"objectives": [{"name": text}]},
        "space.criterion.0": {"space": {"name": "layerwise", "criterion": [text]}},
        f"space.criterion.{text}": {"space": {"name": "layerwise", "criterion": {text: 1}}},
        "space.labels": {"space": {"name": "layerwise", "labels": text}},
    }.items():
        assert "does not import" in problems(**job)[path]


def test_labels_are_any_text() -> None:
    assert not problems(resources={"labels": {"a:b": "os:system", "path": "/etc"}})


def test_a_catalogue_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text("models: {ours: {name: mlp}}\nimports: [team]")
    assert Catalog.read(path) == Catalog(models={"ours": {"name": "mlp"}}, imports=("team",))
    path.write_text("")
    assert Catalog.read(path) == Catalog()
    for damage in (b"[", b"models: 3", b"module: {}", b"imports: team", b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=r"catalog\.yaml cannot be used"):
            Catalog.read(path)

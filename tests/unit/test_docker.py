"""What docker/ and docs/cluster.md ship is well-formed, fits together and fits the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from compose_spec import PyOptions
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.scripts.scripts import cli as ray_cli
from yamllint import linter
from yamllint.config import YamlLintConfig

from autoprune.cli.main import app
from cluster.ray_job import cluster_job
from tests.conftest import ROOT

_DOCKER = ROOT / "docker"
_DOCKERFILES = sorted(_DOCKER.glob("*.Dockerfile"))
_YAML = sorted(_DOCKER.rglob("*.yaml"))
_MANIFESTS = [
    body
    for path in sorted((_DOCKER / "kubernetes").glob("*.yaml"))
    for body in yaml.safe_load_all(path.read_text())
]
_GUIDE = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("cluster", "service"))
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_GIVEN = {"POSTGRES_PASSWORD": "p", "RAY_AUTH_TOKEN": "t", "AUTOPRUNE_DATA": "/data"}
_LINT = YamlLintConfig(
    "{extends: default, rules: {line-length: {max: 100}, document-start: disable}}"
)
# Of KubeRay's RayCluster (ray.io/v1), operator 1.6: what a group may hold.
_GROUP = {"rayStartParams", "template", "resources", "labels"}
_WORKERS = _GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds"}


def _manifest(kind: str) -> dict[str, Any]:
    (found,) = [body for body in _MANIFESTS if body["kind"] == kind]
    return found


def _compose_text(given: Mapping[str, str]) -> str:
    """Put values in as Docker does; KeyError for a required variable that has none."""

    def value(match: re.Match[str]) -> str:
        if match["rule"].startswith(":-"):
            return given.get(match["name"], match["rule"][2:])
        return given[match["name"]]

    variable = re.compile(r"\$\{(?P<name>\w+)(?P<rule>:[-?][^}]+)\}")
    return variable.sub(value, (_DOCKER / "compose.yaml").read_text())


_COMPOSE = yaml.safe_load(_compose_text(_GIVEN))


def _groups() -> Iterator[dict[str, Any]]:
    spec = _manifest("RayCluster")["spec"]
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


def _pods() -> Iterator[dict[str, Any]]:
    """The specifications of all pods."""
    yield from (group["template"]["spec"] for group in _groups())
    yield _manifest("StatefulSet")["spec"]["template"]["spec"]


def _guide_lines() -> list[list[str]]:
    """The shell commands of the guide, split into words."""
    blocks = re.findall(r"```bash\n(.*?)```", _GUIDE, re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    # What follows the service's name goes to the image's entry point.
    lines = text.replace("run --rm search ", "run --rm search autoprune ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def _commands(program: str) -> list[list[str]]:
    """The arguments of every call of `program` in the compose file, the manifests, the guide."""
    lines = [shlex.split(_manifest("RayJob")["spec"]["entrypoint"]), *_guide_lines()]
    for service in _COMPOSE["services"].values():
        if service["image"].startswith("autoprune:"):
            entry, command = service.get("entrypoint", ["autoprune"]), service["command"]
            is_script = entry == ["sh", "-c"]
            parts = command[0].split("&&") if is_script else [shlex.join(entry + command)]
            lines += [shlex.split(part) for part in parts]
        lines.append(service.get("healthcheck", {}).get("test", []))
    return [line[line.index(program) + 1 :] for line in lines if program in line]


def _arguments(dockerfile: Path) -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", _YAML, ids=lambda path: path.name)
def test_every_yaml_file_passes_its_linter(path: Path) -> None:
    assert [str(each) for each in linter.run(path.read_text(), _LINT)] == []


@pytest.mark.parametrize("path", _DOCKERFILES, ids=lambda path: path.name)
def test_every_dockerfile_passes_its_linter(path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", _DOCKERFILES, ids=lambda path: path.name)
def test_an_image_holds_versions_that_the_package_allows(path: Path) -> None:
    text = path.read_text()
    bounds = {Requirement(each).name: Requirement(each) for each in _PROJECT["dependencies"]}
    pins = _arguments(path)
    for name in ("torch", "torchvision", "ray"):
        assert pins[f"{name.upper()}_VERSION"] in bounds[name].specifier
    bases = set(re.findall(r"^FROM python:([\d.]+)-slim-bookworm", text, re.MULTILINE))
    assert len(bases) == 1
    assert bases.pop() in SpecifierSet(_PROJECT["requires-python"])
    assert "USER 1000:1000" in text
    assert f"--tag autoprune:{_PROJECT['version']}-{path.stem} ." in text


def test_both_images_hold_the_same_versions() -> None:
    cpu, cuda = (_arguments(path) for path in _DOCKERFILES)
    assert cpu.pop("TORCH_INDEX").endswith("/cpu")
    assert re.search(r"/cu\d+$", cuda.pop("TORCH_INDEX"))
    assert cpu == cuda


def test_the_extra_that_images_install_serves_a_cluster() -> None:
    extras = _PROJECT["optional-dependencies"]
    (everything,) = (Requirement(each) for each in extras["all"])
    held = [Requirement(each) for extra in everything.extras for each in extras[extra]]
    assert any(each.name == "psycopg" for each in held)
    assert any(each.name == "ray" and "default" in each.extras for each in held)


def test_the_build_sees_all_packages_and_nothing_else() -> None:
    kept = {x[1:] for x in (ROOT / ".dockerignore").read_text().split() if x.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {x.rstrip("*") for x in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert kept == packages | {"pyproject.toml", _PROJECT["readme"]}


def test_the_compose_file_keeps_its_specification() -> None:
    PyOptions(apply_merge=True).from_yaml(_compose_text(_GIVEN)).validate()
    for service in _COMPOSE["services"].values():
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"}
            assert "healthcheck" in _COMPOSE["services"][other]
        named = [x.split(":")[0] for x in service.get("volumes", []) if isinstance(x, str)]
        assert set(named) <= set(_COMPOSE["volumes"])
    assert _COMPOSE["services"]["worker"]["deploy"]["replicas"] == 2
    assert all(x.startswith("127.0.0.1:") for x in _COMPOSE["services"]["head"]["ports"])


@pytest.mark.parametrize("missing", sorted(_GIVEN))
def test_compose_starts_nothing_without_its_secrets_and_data(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        _compose_text({name: value for name, value in _GIVEN.items() if name != missing})


def test_every_autoprune_command_is_one() -> None:
    root = typer.main.get_command(app)
    commands = _commands("autoprune")
    assert {"search", "submit", "front", "serve"} <= {each[0] for each in commands}
    for name, *arguments in commands:
        with root.make_context("autoprune", [name, *arguments]) as context:
            command = root.get_command(context, name)
            assert command is not None, name
            command.make_context(name, arguments, parent=context)


def test_every_ray_command_is_one() -> None:
    commands = _commands("ray")
    commands += [
        ["start", *(f"--{key}={value}" for key, value in group["rayStartParams"].items())]
        for group in _groups()
    ]
    assert {"start", "health-check"} <= {each[0] for each in commands}
    for name, *arguments in commands:
        group = ray_cli
        if name == "job":
            group, (name, *arguments) = ray_cli.commands[name], arguments
        group.commands[name].make_context(name, arguments)


def test_every_kubernetes_object_keeps_its_schema() -> None:
    own = [body for body in _MANIFESTS if body["apiVersion"] != "ray.io/v1"]
    assert len(_MANIFESTS) - len(own) == 2  # KubeRay's: the tests below look at their parts
    for body in own:
        kubernetes_validate.validate(body, "1.33", strict=True)


def test_every_pod_keeps_its_schema_and_has_no_rights_it_does_not_need() -> None:
    for spec in _pods():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, "1.33", strict=True)
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            # Ray offers the limits: without equal requests it would offer what is not there.
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_ray_cluster_is_one() -> None:
    body = _manifest("RayCluster")
    spec = body["spec"]
    assert spec["rayVersion"] == _arguments(_DOCKERFILES[0])["RAY_VERSION"]
    assert spec["enableInTreeAutoscaling"] is True
    assert set(spec["headGroupSpec"]) <= _GROUP
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= _WORKERS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        needs_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert container["image"].endswith("-cuda" if needs_gpu else "-cpu")
        assert ("ray.io/accelerator-type" in group.get("labels", {})) == needs_gpu


def test_the_ray_job_searches_on_that_cluster_with_its_store() -> None:
    spec = _manifest("RayJob")["spec"]
    assert spec["clusterSelector"] == {
        "ray.io/cluster": _manifest("RayCluster")["metadata"]["name"]
    }
    assert set(spec) == {"clusterSelector", "submissionMode", "entrypoint"}
    assert f"@{_manifest('Service')['metadata']['name']}/autoprune" in spec["entrypoint"]


def test_what_pods_mount_and_take_is_declared() -> None:
    claims = {x["metadata"]["name"] for x in _MANIFESTS if x["kind"] == "PersistentVolumeClaim"}
    maps = {x["metadata"]["name"] for x in _MANIFESTS if x["kind"] == "ConfigMap"}
    for spec in _pods():
        volumes = {each["name"]: each for each in spec.get("volumes", [])}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim in claims or volume.get("configMap", {}).get("name") in maps
        for container in spec["containers"]:
            mounted = {each["name"] for each in container["volumeMounts"]}
            assert mounted <= {*volumes, "data"}
            secrets = [x["valueFrom"]["secretKeyRef"] for x in container["env"] if "valueFrom" in x]
            assert secrets == [{"name": "autoprune-postgres", "key": "password"}]
    assert "create secret generic autoprune-postgres" in _GUIDE


def test_the_shipped_job_can_run_on_a_cluster() -> None:
    raw = yaml.safe_load(_manifest("ConfigMap")["data"]["job.yaml"])
    assert cluster_job(raw).name == "digits"
    (mounts,) = {str(x["template"]["spec"]["containers"][0]["volumeMounts"]) for x in _groups()}
    assert str(Path(raw["model"]["checkpoint"]).parent) in mounts


@pytest.mark.parametrize("path", [*_YAML, ROOT / "docs" / "cluster.md"], ids=lambda path: path.name)
def test_no_address_carries_a_password(path: Path) -> None:
    assert re.findall(r"://[^\s/@]+:[^\s/@]+@", path.read_text()) == []


def test_all_that_is_named_as_our_image_is_built_here() -> None:
    built = {f"autoprune:{_PROJECT['version']}-{path.stem}" for path in _DOCKERFILES}
    images = {x["image"] for spec in _pods() for x in spec["containers"]}
    images |= {service["image"] for service in _COMPOSE["services"].values()}
    assert {each for each in images if each.startswith("autoprune")} == built
    assert all(re.search(r":\d+\.\d+", each) for each in images)

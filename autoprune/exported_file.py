"""What an exported file is: its format, its provenance, and the policy in it, read without torch.

exporter, provenance = identify(Path("knee.onnx"))
given = read_policy(Path("knee.onnx"))                  # or JSON as `show` prints it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune import plugins
from autoprune.contracts.exporter import NetworkExporter, format_of
from autoprune.errors import ExportError, InputError, PolicyError
from autoprune.job.spec import PluginSpec
from autoprune.policy import Policy

# What a job of `apply` takes over from the file unless it says otherwise.
_TAKEN_OVER = ("data", "objectives", "quantization", "seed")


@dataclass(frozen=True, slots=True)
class Given:
    """A policy, and what its file tells: `architecture` is the fingerprint of the groups, ""
    where it is not known, `units` are [kept, all] by group, `facts` the provenance.
    """

    policy: Policy
    architecture: str = ""
    units: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def job_defaults(self) -> dict[str, Any]:
        """Return the keys of a job that the file gives: data, objectives, the rung, the seed."""
        found = {key: self.facts[key] for key in _TAKEN_OVER if key in self.facts}
        return found | ({"rungs": [self.facts["rung"]]} if "rung" in self.facts else {})


def identify(path: Path) -> tuple[NetworkExporter, dict[str, Any]]:
    """Return the format of an exported network, and its provenance.

    Raises `ExportError` for a file that is missing, that has changed, that autoprune has not
    written, or that holds no network.
    """
    if not path.is_file():
        raise ExportError(f"{path} does not exist, or is no file")
    exporters = _exporters()
    reasons = []
    for exporter in (each for each in exporters if each.suffix == path.suffix):
        try:
            found = exporter.provenance_of(path)
        except ExportError as error:
            reasons.append(str(error))
            continue
        if found.get("format") == format_of(exporter):
            return exporter, found
        reasons.append(f"{path} is a file of the format {found.get('format')}")
    known = ", ".join(f"{format_of(each)} ({each.suffix})" for each in exporters)
    why = reasons[-1] if reasons else f"{path} has another file ending"
    raise ExportError(f"{why}. Formats that hold a network: {known}")


def read_policy(path: Path) -> Given:
    """Return the policy in a file: an exported network, or JSON as `show --format json` prints.

    JSON may also be a policy alone. Raises `ExportError`, `InputError` or `PolicyError` for a
    file that holds none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the policy {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if text.lstrip().startswith("{"):
        return _from_json(path, text)
    facts = identify(path)[1]
    if "policy" not in facts:
        raise ExportError(f"{path} holds a network, but no policy that it was made by")
    return Given(Policy.from_json(facts["policy"]), facts.get("architecture", ""), facts=facts)


def _exporters() -> list[NetworkExporter]:
    found = (plugins.create("exporter", PluginSpec(name=x)) for x in plugins.names("exporter"))
    return [each for each in found if isinstance(each, NetworkExporter)]


def _from_json(path: Path, text: str) -> Given:
    try:
        body = json.loads(text)
        told = body.get("policy", body)
        # `show` prints apart the bits that a rung gives to what the search left at 32.
        policy = Policy.from_json(
            {**told, **{key: body[key] for key in ("layers",) if key in body}}
        )
        found = body.get("units", {}).items()
        units = {name: (int(kept), int(every)) for name, (kept, every) in found}
    except (ValueError, TypeError, AttributeError, KeyError, PolicyError) as error:
        raise InputError(f"{path} holds no policy: {error}") from error
    return Given(policy, str(body.get("architecture", "")), units)

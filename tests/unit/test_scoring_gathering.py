"""Criteria and the network that they are to judge: who can, and who cannot and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune import plugins
from autoprune.comparison.request import Request
from autoprune.errors import InputError, PluginError
from autoprune.scoring.evidence import Evidence
from autoprune.scoring.gathering import gathered, obstacle, sorted_out
from autoprune.surgery.examination import examine
from tests.networks import Residual


def test_criteria_are_sorted_by_whether_they_can_judge_a_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    evidence = Evidence(model, examine(model, torch.randn(2, 3, 8, 8)).graph.groups)
    assert obstacle("l1", evidence) is None
    assert obstacle("taylor", evidence) in (
        "there are no samples to look at",
        "the samples have no labels",
        "its loss has no gradient: an operation in it has no derivative",
    )
    fitting, left_out = sorted_out(evidence)
    assert {"l1", "l2", "random"} <= set(fitting)
    assert "taylor" in left_out
    with pytest.raises(InputError, match=r"criterion 'taylor' cannot judge this network: .*l1, l2"):
        gathered(("l1", "taylor"), evidence, seed=0)
    request = Request(("all",), (0,), (0.5,))
    assert request.chosen(evidence) == (fitting, left_out)
    with pytest.raises(InputError, match="'taylor' cannot judge"):
        Request(("l1", "taylor"), (0,), (0.5,)).chosen(evidence)
    assert Request(("l2", "l1"), (0,), (0.5,)).chosen(evidence) == (("l2", "l1", "random"), {})


def test_a_plug_in_that_cannot_be_loaded_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Residual().eval()
    evidence = Evidence(model, examine(model, torch.randn(2, 3, 8, 8)).graph.groups)
    load = plugins.load

    def without_l2(kind: str, name: str) -> Any:
        if name == "l2":
            raise PluginError("its package is missing")
        return load(kind, name)

    monkeypatch.setattr(plugins, "load", without_l2)
    fitting, left_out = sorted_out(evidence)
    assert "l1" in fitting
    assert left_out["l2"] == "its package is missing"

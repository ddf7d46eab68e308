"""The report of a small made-up run: what stands in it, and what must never."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autoprune.contracts.store import Entry
from autoprune.front import Front
from autoprune.policy import LayerDecision, Policy
from autoprune.report.figures import bits_figure, convergence_figure, front_figure, policy_figure
from autoprune.report.html import render, write_report
from autoprune.report.summary import WHOLE, summarise
from autoprune.run import Run
from autoprune.store import entries
from tests.made_up_run import EVIL, LABELS, PROBLEM, evaluation, job, log, stored


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return stored(tmp_path, job(), log())


def embedded(html: str, name: str) -> list[dict[str, Any]]:
    """Return the figures that stand under a name in the page."""
    box = re.search(rf'<div class="figure" id="{name}">(.*?)</div>', html, re.DOTALL)
    bodies = re.findall(r'<script type="application/json">(.*?)</script>', box[1] if box else "")
    return [json.loads(body) for body in bodies]


def words(html: str) -> str:
    """Return the page without plotly's own code and without comments of the data."""
    return re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)


def test_the_front_and_every_searcher_stand_in_the_tables(run: Run) -> None:
    html = render(run)
    members = run.front().members
    assert len(members) > 3
    assert all(f">{trial.number}</td>" in html for trial in members)
    rows = html[html.index('<tbody class="rows">') :].split("</tbody>")[0]
    assert rows.count("<tr>") == len(members)
    for label in LABELS:
        assert f'<td class="word">{label}' in html
    assert "its units are the outputs" in html  # a frozen group and its reason
    assert html.count("knee") > 1
    assert "finished" in html


def test_hypervolumes_are_those_of_the_front(run: Run) -> None:
    rows = {row.label: row for row in summarise(run)}
    assert list(rows) == [WHOLE, *LABELS]
    assert rows[WHOLE].hypervolume == run.front().hypervolume()
    assert rows[WHOLE].report_hypervolume == run.front(on_report=True).hypervolume()
    html = render(run)
    for label in LABELS:
        assert rows[label].hypervolume == run.front(label).hypervolume()
        assert f"<td>{rows[label].hypervolume:.4f}</td>" in html
        assert f"<td>{rows[label].report_hypervolume:.4f}</td>" in html
    gained = convergence_figure(run)
    assert gained is not None
    curves = {curve.name: curve.y[-1] for curve in gained.data}
    assert curves.pop("all together") == run.front().hypervolume()
    assert curves == {label: run.front(label).hypervolume() for label in LABELS}


def test_rows_count_trials_by_how_they_ended(run: Run) -> None:
    whole, *own = summarise(run)
    assert (whole.trials, whole.failed, whole.infeasible) == (28, 2, 2)
    assert whole.on_front == len([x for x in run.front().members if x.number])
    for name in ("trials", "failed", "infeasible", "on_front"):
        assert getattr(whole, name) == sum(getattr(row, name) for row in own)
    assert [row.is_baseline for row in own] == [True, True, False, False]


def test_gains_add_up_to_the_hypervolume_of_the_searchers(run: Run) -> None:
    rows = {row.label: row for row in summarise(run)}
    searchers = LABELS[2:]
    assert all(rows[label].gained is None for label in (WHOLE, *LABELS[:2]))
    front = Front(run.goals)
    front.add(run.history.trials[0])
    alone = front.hypervolume() or 0.0
    for trial in run.completed():
        if trial.searcher in searchers:
            front.add(trial)
    gains = [rows[label].gained or 0.0 for label in searchers]
    assert min(gains) > 0.0
    assert alone + sum(gains) == pytest.approx(front.hypervolume())
    html = render(run)
    assert all(f"<td>{gain:.4f}</td>" in html for gain in gains)


def test_a_searcher_whose_trials_all_stand_on_the_front_is_in_the_legend(tmp_path: Path) -> None:
    policy = PROBLEM.groups.canonical(Policy.from_keep_ratios({"conv1": 0.5}))
    made = [*log(0)[:3], entries.asked(1, policy, "tpe", rung=0, parent=None, batch=0)]
    made.append(entries.completed(1, evaluation(policy, 1), attempt=1))
    lonely = stored(tmp_path, job(), made)
    error, macs = lonely.goals
    named = [each.name for each in front_figure(lonely, macs, error).data if each.showlegend]
    assert "tpe" in named


def test_the_front_is_drawn_where_the_report_split_puts_it(run: Run) -> None:
    error, macs = run.goals
    figure = front_figure(run, macs, error)
    drawn = {(x, y) for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    for trial in run.front().members:
        assert trial.report is not None
        assert (trial.report.value("macs"), trial.report.value("error")) in drawn
    large = [trace for trace in figure.data if trace.name.endswith("on the front")]
    assert all(bar == pytest.approx(0.012) for each in large for bar in each.error_y.array)
    assert sum(len(each.x) for each in large) == len([x for x in run.front().members if x.number])


def test_the_line_joins_what_nothing_beats_in_the_axes_shown(run: Run) -> None:
    error, macs = run.goals
    (line,) = [trace for trace in front_figure(run, macs, error).data if trace.name == "front"]
    assert list(line.x) == sorted(line.x)
    assert list(line.y) == sorted(line.y, reverse=True)
    points = [(x.report.value("macs"), x.report.value("error")) for x in run.front().members]  # type: ignore[union-attr]
    slow = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    assert sorted(zip(line.x, line.y, strict=True)) == sorted(slow)


def test_the_heat_map_has_a_row_per_group_and_a_column_per_member(run: Run) -> None:
    figure = policy_figure(run)
    assert figure is not None
    (heat,) = figure.data
    members = run.front().members
    assert list(heat.y) == [group.name for group in PROBLEM.groups.prunable]
    assert list(heat.x) == [f"#{trial.number}" for trial in members]
    assert heat.z[1][2] == members[2].policy.keep_ratio("conv2")


def test_bits_are_drawn_where_a_kernel_has_fewer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = run.graph.groups.layers[0].name
    for decision, is_drawn in ((LayerDecision(keep_ratio=0.5), False), (LayerDecision(8), True)):
        policy = Policy(layers={layer: decision})
        monkeypatch.setattr(Run, "as_evaluated", lambda *_, policy=policy: policy)
        assert (bits_figure(run) is not None) == is_drawn


def test_text_of_the_job_is_escaped(run: Run) -> None:
    html = render(run)
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)" in html


def test_nothing_is_loaded_from_anywhere(run: Run) -> None:
    html = render(run)
    assert "default-src 'none'" in html
    assert not re.search(r"https?://", words(html))
    assert not re.search(r"<(script|img|link|iframe)[^>]*\s(src|href)=", words(html))
    assert html.count("<script>") == 3  # plotly.js once, the figures, the table


@pytest.mark.parametrize(
    ("objectives", "views"),
    [(("error",), 1), (("macs", "error"), 1), (("error", "macs", "size_bytes"), 3)],
)
def test_any_number_of_objectives_has_its_figures(
    tmp_path: Path, objectives: Sequence[str], views: int
) -> None:
    html = render(stored(tmp_path, job(objectives), log()))
    found = embedded(html, "front")
    assert len(found) == views
    assert len(embedded(html, "parallel")) == (len(objectives) > 2)
    assert ("<select" in html) == (views > 1)
    for figure in embedded(html, "parallel"):
        lines = [x for each in figure["data"] for x in each["x"]]
        assert lines.count(None) == html.split('<tbody class="rows">')[1].count('data-value="T"')
    if len(objectives) == 2:  # whatever their order, the cost lies and the error stands up
        assert found[0]["layout"]["xaxis"]["title"]["text"] == "macs"


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_run_that_has_hardly_begun_has_a_report(tmp_path: Path, length: int) -> None:
    html = render(stored(tmp_path, job(), log()[:length]))
    assert "unfinished" in html
    assert "No figures yet" in html
    assert ("The front is empty" in html) == (length < 3)


def test_a_run_whose_trials_all_break_a_constraint_has_a_report(tmp_path: Path) -> None:
    made = log(4, is_reported=False)
    for index, each in enumerate(made):
        if each.kind == "COMPLETED":
            body = {**each.body["evaluation"], "violations": {"macs <= 1": 3.0}}
            made[index] = Entry(each.kind, each.trial, each.attempt, {"evaluation": body})
    html = render(stored(tmp_path, job(), made))
    assert "The front is empty" in html
    (figure,) = embedded(html, "front")
    assert [each["name"] for each in figure["data"]] == ["breaks a constraint", "dense network"]


def test_without_the_report_split_values_are_those_of_the_search_split(tmp_path: Path) -> None:
    run = stored(tmp_path, job(), log(is_reported=False))
    assert all(row.report_hypervolume is None for row in summarise(run))
    html = render(run)
    assert 'data-value="V">V</td>' in html
    assert 'data-value="T">T</td>' not in html


def test_trials_of_lower_rungs_are_shown_apart(tmp_path: Path) -> None:
    run = stored(tmp_path, job(rungs=2), log(rungs=2))
    assert run.top_rung == 1
    error, macs = run.goals
    traces = {trace.name: trace for trace in front_figure(run, macs, error).data}
    assert len(traces["lower rungs"].x) == len([x for x in run.completed() if x.rung == 0]) - 1
    html = render(run)
    assert "at rung 1" in html
    assert all(f">{trial.number}</td>" in html for trial in run.front().members)


def test_a_report_replaces_an_older_one_and_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(run, path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(x.name for x in tmp_path.glob("*report*")) == ["report.html"]

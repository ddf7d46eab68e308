"""Model cards: their numbers are the trial's, their pictures show the front."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt

from autoprune.contracts.exporter import Chosen, RunExporter
from autoprune.errors import ExportError
from autoprune.exporters import _card_sections
from autoprune.exporters._front_picture import drawn
from autoprune.exporters._markdown import code, folded, plain, table, tables_of
from autoprune.exporters.card_exporter import Card
from autoprune.run import Run
from autoprune.testing import ExporterContract
from autoprune.trial import Measurement, TrialState
from tests.hard_run import ODD, hard_run
from tests.made_up_run import job, log, stored

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return hard_run(tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return stored(tmp_path_factory.mktemp("run"), job(), log(60))


class TestCard(ExporterContract):
    @pytest.fixture(autouse=True)
    def _use(self, hard: Run) -> None:
        self._run = hard

    def make(self) -> RunExporter:
        return Card()

    def source(self) -> Chosen:
        return Chosen(self._run, self._run.trial("1"))


def written(run: Run, pick: str, directory: Path, **given: str) -> tuple[str, ElementTree.Element]:
    exported = Card(**given).export(Chosen(run, run.trial(pick)), directory / "card.md")
    assert [each.name for each in exported.others] == ["card.svg"]
    return exported.path.read_text(), ElementTree.fromstring(exported.others[0].read_text())


def html_of(text: str) -> str:
    body = text.split("\n---\n", 1)[1]
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


def front_matter(text: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_values_stand_beside_those_of_the_dense_network(hard: Run, tmp_path: Path) -> None:
    text, _ = written(hard, "1", tmp_path)
    tables = tables_of(text)
    assert tables["Metric"][0] == [
        "error °",
        "%",
        "3.10 (2.79 – 3.41)",
        "8.50 (7.65 – 9.35)",
        "+5.40 points",
    ]
    assert tables["Metric"][1] == ["macs", "MACs", "1.00 M", "200.00 k", "20.0 % of dense"]
    assert "the report split T" in text
    assert "measured on the deployed network (`onnx`, a file of 123.46 k bytes)" in text
    assert tables["Part"][0] == [
        "class=0",
        "worst_group_error",
        "%",
        "3.10 (1.55 – 6.20)",
        "8.50 (4.25 – 17.00)",
    ]
    assert tables["Layer"] == [
        ["`conv1`", "8", "8", "full", "all"],
        ["`conv4`", "4", "32", "full", "all"],
    ]
    assert tables["Group"][0][:4] == ["`conv1`", "4", "16", "0.250"]
    assert ["Blocks left out", "`middle`"] in tables["Property"]
    assert ["Recovery", "`finetune`, 2 epochs, learning rate 0.01, taught by dense"] in tables[
        "Property"
    ]
    assert "misses the soft constraint worst&#95;" not in text  # an underscore within a word stays
    assert "misses the soft constraint worst_group_error &#60;= dense" in text
    assert "autoprune export RUN 1 --to torch --out digits-1.safetensors" in text
    model = front_matter(text)["model-index"][0]  # type: ignore[index]
    assert model["results"][0]["metrics"][0] == {"type": "error", "value": 0.085}


def test_what_only_a_person_knows_is_asked_for_or_given(hard: Run, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    text, _ = written(hard, "1", tmp_path)
    assert not {"license", "datasets"} & set(front_matter(text))
    assert "# license: not given, fill in" in text
    assert dict(tables_of(text)["Origin"])["Licence"] == "_not given: fill in_"
    evil = "mit\nlibrary_name: evil # <b>|"
    text, _ = written(hard, "1", tmp_path / "given", license=evil, data="mnist", authors="A | B")
    assert front_matter(text)["license"] == evil
    assert front_matter(text)["datasets"] == ["mnist"]
    assert front_matter(text)["library_name"] == "pytorch"
    assert dict(tables_of(text)["Origin"])["Authors"] == "A &#124; B"


def test_names_are_read_as_they_are(hard: Run, tmp_path: Path) -> None:
    text, _ = written(hard, "1", tmp_path)
    html = html_of(text)
    shown = re.sub(r"[\n\t]", " ", ODD)
    for given, rendered in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        shown = shown.replace(given, rendered)
    assert f"<td>{shown}</td>" in html
    assert "<b>" not in html
    assert "<script" not in html
    assert html.count("<!--") == html.count("-->") == 1
    assert html.count("<table>") == text.count("\n| --- |")


def test_a_trial_that_was_not_reported_says_so(tmp_path: Path) -> None:
    run = stored(tmp_path, job(), log(12, is_reported=False))
    text, _ = written(run, "knee", tmp_path)
    assert "Measured on the search split V, by which it was chosen" in text
    assert "It was not measured on the report split" in text


def test_only_completed_trials_have_a_card(hard: Run, tmp_path: Path) -> None:
    for number in ("2", "3", "5"):
        with pytest.raises(ExportError, match="there is nothing to say in a card"):
            Card().export(Chosen(hard, hard.trial(number)), tmp_path / "card.md")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", ["value", "units", "stamp", "member", "ring", "xml", "yaml"])
def test_what_is_not_right_is_not_kept(spoil: str, hard: Run, tmp_path: Path) -> None:
    exporter = Card()
    write = exporter.write

    def spoiled(source: Chosen, path: Path) -> None:
        write(source, path)
        changes = {
            "value": (path, "8.50 (7.65", "8.60 (7.65"),
            "units": (path, "| 4 | 16 |", "| 5 | 16 |"),
            "stamp": (path, '"job": "digits"', '"job": "other"'),
            "yaml": (path, "value: 0.085\n", "value: 0.0851\n"),
            "member": (path.with_suffix(".svg"), 'class="member"', 'class="nobody"'),
            "ring": (path.with_suffix(".svg"), 'class="ring" data', 'class="r" data'),
            "xml": (path.with_suffix(".svg"), "</svg>", "</svg"),
        }
        place, old, new = changes[spoil]
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new, 1))

    with patch.object(exporter, "write", spoiled), pytest.raises(ExportError):
        exporter.export(Chosen(hard, hard.trial("1")), tmp_path / "card.md")
    assert list(tmp_path.iterdir()) == []


def test_the_same_log_gives_the_same_files(made_up: Run, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        written(made_up, "knee", tmp_path / name)
    for name in ("card.md", "card.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def marks(picture: ElementTree.Element, kind: str) -> list[int]:
    return [int(x.get("data-trial", "")) for x in picture.iter() if x.get("class") == kind]


def test_every_member_has_a_marker_where_it_belongs(made_up: Run, tmp_path: Path) -> None:
    _, picture = written(made_up, "knee", tmp_path)
    members = made_up.front().members
    assert marks(picture, "member") == [each.number for each in members]
    assert marks(picture, "ring") == [made_up.trial("knee").number]
    assert marks(picture, "dense") == [0]
    circles = [x for x in picture.iter(f"{SVG}circle") if x.get("class") == "member"]
    for axis, metric, sign in (("cx", "macs", 1), ("cy", "error", -1)):
        values = [each.report.value(metric) for each in members if each.report]
        places = [sign * float(each.get(axis, "")) for each in circles]
        order = sorted(range(len(values)), key=lambda x, values=values: values[x])  # type: ignore[misc]
        assert order == sorted(range(len(places)), key=lambda x, places=places: places[x])  # type: ignore[misc]
        assert all(0 < abs(x) < 760 for x in places)
    texts = {x.text for x in picture.iter(f"{SVG}text")}
    assert {"macs [MACs]", "error [%]", "dense", "dense network"} <= texts
    assert picture.find(f"{SVG}style") is not None
    assert "prefers-color-scheme:dark" in (picture.find(f"{SVG}style").text or "")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "objectives", [("error",), ("macs", "size_bytes"), ("error", "macs", "size_bytes")]
)
def test_any_number_of_objectives_is_drawn(objectives: tuple[str, ...], tmp_path: Path) -> None:
    run = stored(tmp_path, job(objectives), log(20))
    picture = ElementTree.fromstring(drawn(run, run.trial("3")))
    assert marks(picture, "member") == [each.number for each in run.front().members]
    assert marks(picture, "ring") == [3]


def test_a_run_of_the_dense_network_alone_is_drawn(tmp_path: Path) -> None:
    run = stored(tmp_path, job(), log(0))
    text, picture = written(run, "0", tmp_path)
    assert marks(picture, "member") == marks(picture, "ring") == [0]
    assert "# digits_cnn, as it was" in text


def test_odd_names_make_no_odd_pictures(hard: Run) -> None:
    trial = replace(hard.trial("1"), searcher=f"{ODD}\x00\udc80")
    with patch.object(hard, "find", lambda number: trial if number == 1 else hard.trials()[number]):
        picture = ElementTree.fromstring(drawn(hard, trial))
    titles = [x.text or "" for x in picture.iter(f"{SVG}title")]
    assert any("a|b" in each for each in titles)


def test_without_values_nothing_falls_over(hard: Run) -> None:
    trial = hard.trial("1")
    assert trial.report is not None
    alone = replace(trial.report, measurements={**trial.report.measurements, "x": Measurement(0.0)})
    odd = Chosen(hard, replace(trial, report=alone))
    assert any("| x | – | – | 0 | – |" in line for line in _card_sections.quality(odd))
    assert trial.state is TrialState.COMPLETED


def test_markdown_is_what_it_was_given() -> None:
    assert code("layer1.0.conv") == "`layer1.0.conv`"
    assert code("a`b") == "a&#96;b"
    assert plain("a_b _c_") == "a_b &#95;c&#95;"
    assert plain("a\nb") == "a b"
    lines = list(table(("a", "b"), [["1", "2"], ["3", "4"]]))
    assert tables_of("\n".join([*lines, "", *table(("c",), [["5"]])])) == {
        "a": [["1", "2"], ["3", "4"]],
        "c": [["5"]],
    }
    assert list(folded("many", lines)) == lines
    many = list(table(("a",), [[str(x)] for x in range(20)]))
    assert next(iter(folded("many", many))).startswith("<details><summary>many")

"""Tables for people: the front, the searchers beside the baselines, groups, one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autoprune.numbers import readable
from autoprune.policy import LayerDecision
from autoprune.report.remarks import by_group, deployed, details, forecasts, is_deployed, remarks
from autoprune.report.summary import summarise
from autoprune.run import REPORT_NAME, Run
from autoprune.run_view import RunView
from autoprune.trial import Measurement, Trial, shown

if TYPE_CHECKING:
    from autoprune.preflight import Preflight

_console = Console(highlight=False)
# Of columns that are not as wide as their headers: labels, and a header that may wrap.
_WIDTHS = {"": 11, "on the front": 6}


def print_result(run: Run) -> None:
    """Print the front, the searchers beside the baselines, and where the report lies."""
    print_front(run, run.select())
    caption = "gained: hypervolume added to that of all searchers; * baselines add to their own"
    table = Table(caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    columns = ("", "trials", "failed", "infeasible", "on the front", "gained", "min")
    for column in (*columns, "on V", "on T"):
        justify: Literal["left", "right"] = "right" if column else "left"
        table.add_column(column, justify=justify, min_width=_WIDTHS.get(column, len(column)))
    for row in summarise(run):
        table.add_row(
            f"{row.label} *" if row.is_baseline else row.label,
            str(row.trials),
            str(row.failed),
            str(row.infeasible),
            str(row.on_front),
            _volume(row.gained),
            f"{row.seconds / 60:.1f}",
            _volume(row.hypervolume),
            _volume(row.report_hypervolume),
        )
    _console.print(table)
    for line in forecasts(run):
        _console.print(line)
    _console.print(f"report: {run.directory / REPORT_NAME}", soft_wrap=True)


def print_front(run: RunView, trials: Sequence[Trial]) -> None:
    """Print trials with their objectives; the dense network stands above for comparison.

    Where there is no room for them, intervals and shares of dense are left out.
    """
    table = _front_table(run, trials, is_wide=True)
    unbounded = _console.options.update(max_width=9999)
    if _console.measure(table, options=unbounded).maximum > _console.width:
        table = _front_table(run, trials, is_wide=False)
    _console.print(table)
    if line := deployed(trials):
        _console.print(f"° {line}")
    for line in remarks(trials):
        _console.print(f"* {line}")


def _front_table(run: RunView, trials: Sequence[Trial], *, is_wide: bool) -> Table:
    splits = {"report" if trial.report else "search" for trial in trials}
    where = " and ".join(sorted(splits)) or "search"
    title = f"{run.job.name}: {len(trials)} trials, values on the {where} split"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("trial", justify="right")
    for goal in run.goals:
        # A long name may be broken where it has a seam.
        name = f"{goal.name} [{goal.unit}]" if is_wide else goal.name.replace("_", "_\n")
        table.add_column(name, justify="right")
        if is_wide:
            table.add_column("of dense", justify="right")
    table.add_column("searcher")
    table.add_column("rung", justify="right")
    dense = run.dense
    if dense is not None and dense.evaluation is not None:
        table.add_row(*_cells(run, dense, dense, is_wide=is_wide), style="dim")
    for trial in trials:
        if trial.number != 0:
            table.add_row(*_cells(run, trial, dense, is_wide=is_wide))
    return table


def print_trial(run: RunView, trial: Trial, body: Mapping[str, Any]) -> None:
    """Print one trial as `show_json` of its run describes it."""
    _console.print(f"[bold]trial {body['id']}[/bold]  {body['state']}  by {body['searcher']}")
    _console.print(f"policy {body['policy_sha256']}")
    if body["failure"]:
        _console.print(f"failure: {body['failure']['kind']}: {body['failure']['message']}")
    costs = body["costs"]
    _console.print(
        f"macs {costs['macs']:,}   params {costs['params']:,}   bytes {costs['size_bytes']:,}   "
        f"bit operations {costs['bitops']:,}"
    )
    if body["dropped"]:
        _console.print(f"blocks left out: {', '.join(body['dropped'])}")
    table = Table(title=f"units kept, ranked by {body['policy']['recipe']['criterion']}")
    for column in ("group", "kept", "of", "keep_ratio"):
        table.add_column(column, justify="left" if column == "group" else "right")
    for name, (kept, units) in body["units"].items():
        table.add_row(name, str(kept), str(units), f"{kept / units:.3f}")
    _console.print(table)
    if body["layers"]:
        _console.print(_layer_table(body["layers"]))
    table = Table(title="evaluations")
    for column in ("trial", "rung", "split", "measured", "seconds"):
        table.add_column(column)
    for each in body["evaluations"]:
        measured = "  ".join(
            f"{name}={value[0]:.6g}" for name, value in each["measurements"].items()
        )
        cells = (each["trial"], each["rung"], each["split"], measured, f"{each['seconds']:.2f}")
        table.add_row(*map(str, cells))
    _console.print(table)
    if trial.evaluation is not None:
        _print_details(run, trial)
    others = ", ".join(map(str, body["dominated_by"]))
    _console.print(f"dominated by {others}" if others else "not dominated by any front member")


def _layer_table(layers: Mapping[str, Any]) -> Table:
    """Return bits, ranks and weights that are kept, layer by layer."""
    table = Table(title="layers")
    for column in ("layer", "weight bits", "activation bits", "rank", "weights kept"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for name, layer in layers.items():
        rank = "full" if layer["rank"] is None else str(layer["rank"])
        bits = str(layer["weight_bits"]), str(layer["activation_bits"])
        table.add_row(name, *bits, rank, LayerDecision(**layer).kept)
    return table


def _print_details(run: RunView, trial: Trial) -> None:
    """Print what goes with a trial's values, what was noted of them, and every group's."""
    for line in (*details(trial), *remarks([trial])):
        _console.print(line)
    rows = by_group(run, trial)
    if rows:
        table = Table(title="by group")
        for column in ("metric", "group", "dense", f"#{trial.number}"):
            table.add_column(column)
        for row in rows:
            table.add_row(row.metric, row.group, row.dense, row.value)
        _console.print(table)


def print_inspection(body: Mapping[str, Any], found: Preflight) -> None:
    """Print what `autoprune inspect` found: the documented JSON, and the reasons behind it."""
    dense, lowest = body["dense"], body["lowest"]
    _console.print(f"[bold]{body['model']}[/bold]")
    _console.print(f"dense  {dense['macs']:>15,} macs  {dense['params']:>13,} params")
    _console.print(f"lowest {lowest['macs']:>15,} macs  {lowest['params']:>13,} params")
    table = Table(title="prunable groups")
    for column in ("group", "layers", "units", "macs", "params", "frozen because"):
        table.add_column(
            column, justify="right" if column in ("units", "macs", "params") else "left"
        )
    for group in body["groups"]:
        table.add_row(
            group["name"],
            str(len(group["layers"])),
            str(group["units"]),
            f"{100 * group['macs_share']:.1f} %",
            f"{100 * group['params_share']:.1f} %",
            group["reason"] or "",
            style="dim" if group["frozen"] else "",
        )
    _console.print(table)
    blocks = [each.name for each in found.preparation.graph.groups.droppable]
    if blocks:
        _console.print(f"blocks that may be left out (space.depth): {', '.join(blocks)}")
    for layer in found.preparation.graph.groups.layers:
        if layer.reason:
            _console.print(f"layer {layer.name} stays at 32 bits: {layer.reason}")
    for remark in found.scoring_remarks:
        _console.print(f"criterion {remark}")
    for remark in found.target_remarks:
        _console.print(f"{found.job.quantization.target}: {remark}")
    if found.job.space.options.get("round_to") == "auto":
        _console.print(f"space.round_to: auto is {found.preparation.multiple} on this device")
    words = {True: "can be met", False: "CANNOT be met", None: "only a search tells"}
    for each in found.reaches:
        kind = " (soft)" if each.constraint.is_soft else ""
        _console.print(f"{each.constraint.text}{kind}: {words[each.is_reachable]}; {each.reason}")
    _console.print(f"{body['seconds_per_trial']:.2f} s per trial at the lowest rung, one worker")


def print_plugins(listing: Mapping[str, Mapping[str, str]]) -> None:
    """Print the plug-ins of every kind with the first line of their docstrings."""
    for kind, plugins in listing.items():
        table = Table(title=kind, show_header=False, title_justify="left", box=None)
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for name, summary in plugins.items():
            table.add_row(name, escape(summary))
        _console.print(table)


def _cells(run: RunView, trial: Trial, dense: Trial | None, *, is_wide: bool) -> list[str]:
    cells = [str(trial.number)]
    for goal in run.goals:
        measured = shown(trial).measurements[goal.name]
        mark = "°" * is_deployed(trial, goal.name) + "*" * bool(measured.note)
        if not is_wide:
            cells.append(readable(measured.value, goal.unit) + mark)
            continue
        cells.append(_with_interval(measured, goal.unit, mark))
        base = shown(dense).value(goal.name) if dense and dense.evaluation else 0.0
        cells.append(f"{measured.value / base:.2f}×" if base else "")
    return [*cells, trial.searcher, str(trial.rung)]


def _with_interval(measured: Measurement, unit: str, mark: str) -> str:
    text = readable(measured.value, unit) + mark
    if measured.low is None or measured.high is None:
        return text
    return f"{text} ({readable(measured.low, unit)} – {readable(measured.high, unit)})"


def _volume(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

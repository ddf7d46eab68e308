"""What `compare` prints: a table for every share, and what must be read beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoprune.comparison.contest import Comparison
from autoprune.comparison.method import Method
from autoprune.comparison.target import Target
from autoprune.comparison.verdict import Difference, Row
from autoprune.numbers import readable

_SPLITS = {"search": "V", "report": "T"}
_ANY = "any"  # criterion: the recovery reads none


def print_comparison(done: Comparison) -> None:
    """Print a table for every share, smallest first, and what must be read beside them."""
    console = Console(highlight=False)
    request, dense = done.request, done.ledger.dense
    assert dense is not None
    seeds = ", ".join(map(str, request.seeds))
    console.print(f"[bold]{done.job.name}[/bold]: rung {request.rung}, seeds {seeds}")
    ends = (f"{_value(dense[x]['error'].value, done)} on {y}" for x, y in _SPLITS.items())
    console.print(f"dense: error {', '.join(ends)}")
    others = tuple(x for row in done.rows for x in row.others if x not in done.counted)
    tables = [_table(done, share, tuple(dict.fromkeys(others))) for share in done.ascending]
    unbounded = console.options.update(max_width=9999)
    if any(console.measure(x, options=unbounded).maximum > console.width for x in tables):
        tables = [_table(done, share, ()) for share in done.ascending]
    for share, table in zip(done.ascending, tables, strict=True):
        console.print(f"\n[bold]{_title(done, done.target(share))}[/bold]")
        console.print(table)
    for line in _remarks(done):
        console.print(line, markup=False)  # messages of others may hold brackets
    console.print(f"kept in {done.ledger.path}", soft_wrap=True, markup=False)


def _table(done: Comparison, share: float, others: Sequence[str]) -> Table:
    """Return the rows of a share, with these metrics beside the error."""
    rows = [row for row in done.rows if row.share == share]
    # Where no criterion makes a difference, one row stands for all.
    stand_ins = _stand_ins(rows, done)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("criterion", overflow="fold")
    if done.request.recoveries:
        table.add_column("recovery", overflow="fold")
    # A long name may be broken where it has a seam.
    seamed = (x.replace("_", "_\n") + "\non T" for x in others)
    for column in ("error on V", "error on T", *seamed, "scored\nin", "rank"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("to\nbest", "to\nrandom"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        stands_for_all = row.method in stand_ins
        if row.method.recovery in done.indifferent and not stands_for_all:
            continue
        scoring = None if stands_for_all else done.ledger.scorings.get(row.method.criterion)
        names = [_ANY if stands_for_all else row.method.criterion, row.method.recovery]
        table.add_row(
            *(Text(each) for each in names if each is not None),
            *(_error(row, split, done) for split in _SPLITS),
            *(_value(row.others[x].mean, done, x) if row.others else "" for x in others),
            "" if scoring is None else f"{scoring.seconds:.3f} s",
            "" if row.rank is None else str(row.rank),
            "best" if row.is_best else _words(row.from_best),
            "" if stands_for_all else _words(row.from_random),
        )
    return table


def _stand_ins(rows: Sequence[Row], done: Comparison) -> set[Method]:
    """Return the method that stands for all criteria with each recovery that reads none.

    The first one, for those that failed come last.
    """
    found: dict[str | None, Method] = {}
    for row in rows:
        found.setdefault(row.method.recovery, row.method)
    return {each for name, each in found.items() if name in done.indifferent}


def _title(done: Comparison, target: Target) -> str:
    """Return what all methods have in common at a share."""
    row = next((row for row in done.rows if row.share == target.share and row.others), None)
    parts = [
        f"{target.share} of {done.request.of}: {target.stays}",
        f"{readable(target.cost, '')} {target.metric}, {target.cost / target.dense:.4f} of dense",
    ]
    for name in done.counted if row else ():
        if row is not None and name != target.metric:
            parts.append(f"{readable(row.others[name].mean, done.metrics[name].unit)} {name}")
    return "; ".join(parts)


def _error(row: Row, split: str, done: Comparison) -> str:
    if not row.errors:
        return "failed" if row.failures else ""
    partial = f" ({len(row.entries) - len(row.failures)} of {len(row.entries)} seeds)"
    text = _value(row.errors[split].mean, done)
    if (deviation := row.errors[split].deviation) is not None:
        text += f" ± {100 * deviation:.2f}"
    return text + (partial if row.failures else "")


def _value(value: float, done: Comparison, metric: str = "error") -> str:
    return readable(value, done.metrics[metric].unit)


def _words(difference: Difference | None) -> str:
    """Return what a difference on T says."""
    if difference is None:
        return ""
    if difference.is_worse:
        return "worse"
    return "better" if difference.is_better else "≈"


def _remarks(done: Comparison) -> Iterator[str]:
    """Yield what must be read beside the tables."""
    yield (
        "rank: by the mean error on V; ±: standard deviation over seeds; to best, to random: by "
        "paired differences on T, ≈ where 95 % intervals hold zero (more seeds narrow them)"
    )
    if not done.trains and len(done.request.seeds) > 1:
        yield (
            f"rung {done.request.rung} trains nothing: seeds change only what criteria draw at "
            "random, and equal networks were evaluated once"
        )
    yield from _remarks_on_recoveries(done)
    yield from _remarks_on_criteria(done)
    for row in done.rows:
        for each in row.failures:
            yield f"{row.method} at {row.share}, seed {each.seed} failed: {each.outcome.failure}"
    if done.unmeasured:
        names = ", ".join(done.unmeasured)
        yield f"{names}: not measured here; it follows from the counts, which are the same for all"


def _remarks_on_recoveries(done: Comparison) -> Iterator[str]:
    """Yield what must be known of recoveries that were named."""
    named, own = done.request.recoveries, done.job.rungs[0].recovery
    if len(named) > 1 and own.name in named and own.options:
        options = ", ".join(own.options)
        yield f"{own.name} has the rung's options ({options}), the other recoveries their defaults"
    if done.indifferent:
        names = ", ".join(done.indifferent)
        yield f"{names}: no criterion makes a difference, one row stands for all"


def _remarks_on_criteria(done: Comparison) -> Iterator[str]:
    """Yield what must be known of criteria."""
    judged = f"{len(done.groups.prunable)} groups: ranked by L1 there"
    if done.request.of_weights:
        kernels = sum(len(each.tensors) for each in done.groups.layers)
        judged = f"{kernels} kernels: the smallest weights leave there"
    for name in done.criteria:
        scoring = done.ledger.scorings.get(name)
        if scoring is not None and scoring.fallen_back:
            yield f"{name} tells nothing of {len(scoring.fallen_back)} of {judged}"
    for reason in dict.fromkeys(done.left_out.values()):
        names = (name for name, each in done.left_out.items() if each == reason)
        yield f"left out: {', '.join(names)}: {reason}"

"""A comparison on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmark.terminal import titled
from results.board.compare import Compared, Pair
from results.board.quantities import METRICS, written
from results.board.row import Row
from results.statistics.multiple_comparisons import SIGNIFICANT

MOST_VALUES = 4


def to_table(compared: Compared) -> Group:
    """The pairs, what they come to, what differs, and what has no partner; fits 120 columns."""
    metric = METRICS[compared.metric]
    parts: list[RenderableType] = [
        Text(f"A: {compared.first.name}\nB: {compared.second.name}\n{metric.title} ({metric.unit})\n")
    ]
    for _, members in groupby(compared.pairs, key=lambda pair: pair.first.panel):
        parts.append(_pairs(compared, list(members)))
    parts.append(Text(f"{summary(compared)}\n"))
    if compared.differences:
        parts.append(_differences(compared))
    for side, rows in ((compared.first, compared.only_first), (compared.second, compared.only_second)):
        if rows:
            parts.append(Text(f"only in {side.name}: {_some([_where(row) for row in rows])}"))
    return Group(*parts)


def summary(compared: Compared) -> str:
    """In a sentence: who is better, where, and how sure that is."""
    alike = sum(pair.same for pair in compared.pairs)
    open_pairs = [pair for pair in compared.pairs if not pair.same]
    if not open_pairs:
        return "A and B are the same records: there is nothing to compare."
    won = [compared.winner(pair) for pair in open_pairs]
    untested = sum(pair.p is None for pair in open_pairs)
    told = [
        f"A is better on {won.count('first')}",
        f"B on {won.count('second')}",
        f"{won.count('') - untested} cannot be told apart at p < {SIGNIFICANT:g}",
    ]
    if untested:
        told.append(f"{untested} without a test")
    if alike:
        told.append(f"{alike} are the same records")
    text = f"Of {len(compared.pairs)}: {', '.join(told)}."
    if compared.improvement is not None:
        text += f" A seed of A is better than one of B with probability {compared.improvement.text('{:.2f}'.format)}."
    return text


def _pairs(compared: Compared, pairs: Sequence[Pair]) -> Table:
    """Of one data set."""
    dataset, preset, grid = pairs[0].first.panel
    table = titled(f"{dataset} ({preset}, {grid})")
    models = any(pair.first.label != compared.first.name for pair in compared.pairs)
    table.add_column("Level", justify="right", no_wrap=True)
    if models:
        table.add_column("Model", overflow="fold")
    for heading in ("A", "B", "A - B [95 %]", "relative", "P(A better)", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Better", overflow="fold")
    for pair in pairs:
        table.add_row(
            Text(str(pair.first.level)),
            *([Text(_label(pair))] if models else []),
            *(Text(one.written(compared.metric)) for one in (pair.first, pair.second)),
            *map(Text, ["", "", "", ""] if pair.same else _numbers(pair, compared.metric)),
            _verdict(pair, compared),
        )
    return table


def _label(pair: Pair) -> str:
    one, other = pair.first.label, pair.second.label
    return one if one == other else pair.first.model if pair.first.model == pair.second.model else f"{one} / {other}"


def _numbers(pair: Pair, metric: str) -> list[str]:
    found, scale = pair.comparison, METRICS[metric].divisor
    if not found.seeds:
        return ["-", "-", "-" if found.improvement != found.improvement else f"{found.improvement:.2f}", "-"]
    difference = found.difference.text(lambda part: written(part / scale))
    relative = "-" if found.relative is None else f"{100 * found.relative:+.1f} %"
    return [difference, relative, f"{found.improvement:.2f}", _written_p(pair.p)]


def _written_p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _verdict(pair: Pair, compared: Compared) -> Text:
    winner = compared.winner(pair)
    if winner:
        return Text({"first": "A", "second": "B"}[winner], style="bold green")
    if pair.same:
        return Text("same records")
    remark = "; ".join(dict.fromkeys(filter(None, (pair.first.remark, pair.second.remark))))
    why = pair.comparison.reason or "cannot be told apart"
    return Text(f"{why} ({remark})" if remark else why, style="yellow" if pair.p is None else "")


def _differences(compared: Compared) -> Table:
    table = titled("What differs")
    for heading in ("", "", "A", "B"):
        table.add_column(heading, overflow="fold")
    for one in compared.differences:
        table.add_row(Text(one.kind), Text(one.what), Text(_some(one.first)), Text(_some(one.second)))
    return table


def _some(values: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(values[:MOST_VALUES]) or "-"
    return shown + (f" and {len(values) - MOST_VALUES} more" if len(values) > MOST_VALUES else "")


def _where(row: Row) -> str:
    return f"{row.label} ({row.dataset} level {row.level}, {row.preset})"

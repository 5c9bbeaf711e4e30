"""A comparison as tables for the terminal."""

from collections.abc import Sequence
from itertools import groupby
from math import isnan

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmark.terminal import titled
from results.board.compare import Compared, Pair
from results.board.contests import claim, effect_text
from results.board.notes import size_of, unit_of
from results.board.quantities import METRICS
from results.statistics.multiple_comparisons import SIGNIFICANT

MOST_VALUES = 4


def to_table(compared: Compared) -> Group:
    """Tables of the pairs and of what differs, a summary, and the rows without a partner; fits 120 columns."""
    metric, unit = METRICS[compared.metric], unit_of(compared.metric, {row.dataset for row in compared.first.rows})
    parts: list[RenderableType] = [
        Text(f"A: {compared.first.name}\nB: {compared.second.name}\n{metric.title} ({unit})\n")
    ]
    if compared.warning:
        parts.append(Text(f"{compared.warning}\n", style="bold yellow"))
    for _, members in groupby(compared.pairs, key=lambda pair: pair.first.panel):
        parts.append(_pairs(compared, list(members)))
    parts.append(Text(f"{summary(compared)} {_claim(compared)}\n"))
    for row in (row for pair in compared.pairs for row in (pair.first, pair.second) if row.mixed):
        parts.append(Text(f"{row.label} (level {row.level}): {row.mixed}\n", style="yellow"))
    if compared.differences:
        parts.append(_differences(compared))
    for side, rows in ((compared.first, compared.only_first), (compared.second, compared.only_second)):
        if rows:
            places = [f"{row.label} ({row.dataset} level {row.level}, {row.preset})" for row in rows]
            parts.append(Text(f"only in {side.name}: {_some(places)}"))
    return Group(*parts)


def summary(compared: Compared) -> str:
    """The result in one or two sentences."""
    different = [pair for pair in compared.pairs if not pair.same]
    if not different:
        return "A and B are the same records: there is nothing to compare."
    winners = [compared.winner(pair) for pair in different]
    untested = sum(pair.test is None for pair in different)
    counts = [
        f"A is better on {winners.count('first')}",
        f"B on {winners.count('second')}",
        f"no significant difference on {winners.count('') - untested} (p < {SIGNIFICANT:g})",
    ]
    if untested:
        counts.append(f"{untested} without a test")
    if same := len(compared.pairs) - len(different):
        counts.append(f"{same} are the same records")
    text = f"Of {len(compared.pairs)}: {', '.join(counts)}."
    if compared.improvement is not None:
        text += f" A seed of A is better than one of B with probability {compared.improvement.text('{:.2f}'.format)}."
    return text


def _claim(compared: Compared) -> str:
    """Claim of the tests, and the number that their p is adjusted for."""
    text = claim([pair.first for pair in compared.pairs], compared.metric)
    if compared.of_one_board:
        return text
    return text.replace("for the pairs of a level", "for the number of lines")


def _pairs(compared: Compared, pairs: Sequence[Pair]) -> Table:
    """Table of the pairs of one dataset."""
    dataset, preset, grid = pairs[0].first.panel
    table = titled(f"{dataset} ({size_of(dataset, preset, grid)}), {pairs[0].first.test_runs or 'unknown'} test runs")
    models = any(pair.first.label != compared.first.name for pair in compared.pairs)
    table.add_column("Level", justify="right", no_wrap=True)
    if models:
        table.add_column("Model", overflow="fold")
    for heading in ("A", "B", "A against B\n[adjusted 95 %]", "P(A better)", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Better", overflow="fold")
    for pair in pairs:
        table.add_row(
            Text(", ".join(filter(None, (str(pair.first.level), *pair.first.varied, pair.first.budget)))),
            *([Text(_label(pair))] if models else []),
            *(Text(one.written(compared.metric)) for one in (pair.first, pair.second)),
            *map(Text, ["", "", ""] if pair.same else _numbers(pair, compared.metric)),
            _verdict(pair, compared),
        )
    return table


def _label(pair: Pair) -> str:
    one, other = pair.first.label, pair.second.label
    return one if one == other else pair.first.model if pair.first.model == pair.second.model else f"{one} / {other}"


def _numbers(pair: Pair, metric: str) -> list[str]:
    improvement = "-" if isnan(pair.improvement) else f"{pair.improvement:.2f}"
    p = "-" if pair.test is None else "<0.001" if pair.test.p < 0.001 else f"{pair.test.p:.3f}"
    return [effect_text(pair.test, metric), improvement, p]


def _verdict(pair: Pair, compared: Compared) -> Text:
    winner = compared.winner(pair)
    if winner:
        return Text({"first": "A", "second": "B"}[winner], style="bold green")
    if pair.same:
        return Text("same records")
    remark = "; ".join(dict.fromkeys(filter(None, (pair.first.remark, pair.second.remark))))
    reason = pair.reason or "not significant"
    return Text(f"{reason} ({remark})" if remark else reason, style="yellow" if pair.test is None else "")


def _differences(compared: Compared) -> Table:
    table = titled("What differs")
    for heading in ("", "", "A", "B"):
        table.add_column(heading, overflow="fold")
    for one in compared.differences:
        table.add_row(Text(one.kind), Text(one.what), Text(_some(one.first)), Text(_some(one.second)))
    return table


def _some(values: Sequence[str]) -> str:
    shown = ", ".join(values[:MOST_VALUES]) or "-"
    return shown + (f" and {len(values) - MOST_VALUES} more" if len(values) > MOST_VALUES else "")

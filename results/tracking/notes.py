"""Notes of runs in MLflow: Markdown that MLflow shows at the top of a run."""

from collections.abc import Sequence

from benchmark.markdown import bold, escape, line, table
from results.board.contests import BoardTests
from results.board.differences import provenance_notes
from results.board.notes import paper_notes, symmetry_notes
from results.board.quantities import METRICS
from results.board.row import Row
from results.board.trivial import first_line
from results.tracking.runs import LONGEST_TAG

BOARD_COLUMNS = ("rmse_future", "rmse_domain", "parameters", "flops")
MOST_WINNERS = 6
"""Contests whose winner the note of the board names."""


def setting_note(row: Row) -> str:
    """Note of the run of a setting: what it is, and the means over its seeds."""
    lines = [
        f"{bold(row.marked)} on {escape(row.dataset)} ({escape(row.size)}), level"
        f" {escape(row.level)}. Means over {row.count('done')} of {len(row.seeds)} seeds, which stand below this"
        " run; those that end in `_low` and `_high` are the ends of the 95 % interval of the mean.",
        *([f"Not in the means: {escape(row.missing)}."] if row.missing else []),
        *([f"Seeds in the means: {escape(row.unlearned)}."] if row.unlearned else []),
        *([f"The seeds do not belong together: {escape(row.mixed)}."] if row.mixed else []),
        *([f"Source: {escape(row.source)}"] if row.source else []),
        *map(escape, [*symmetry_notes([row.panel]), *paper_notes([row.model])]),
        "",
        table(("", "mean over seeds"), _numbers(row)),
    ]
    return "\n".join(lines)[:LONGEST_TAG]


def _numbers(row: Row) -> list[tuple[str, str]]:
    """Title and text of each metric that the row has, and of those that its network cannot have."""
    return [(METRICS[name].title, text) for name in METRICS if (text := row.written(name)) != "-"]


def board_note(tests: BoardTests) -> str:
    """Note of the run LEADERBOARD: the winners, then as many rows of the board as a tag may hold."""
    rows = tests.rows
    losses = first_line(rows, tests.metric)
    lines = [
        *([escape(losses), ""] if losses else []),
        *_winners(tests),
        "",
        *(text for note in _notes(rows) for text in (escape(note), "")),
        "The report, its figures and the table are under **Artifacts**.\n",
    ]
    lines.append(table(("data", "level", "model", *(METRICS[name].title for name in BOARD_COLUMNS), "seeds"), ()))
    for row in rows:
        seeds = f"{row.count('done')}/{len(row.seeds)} {row.remark}"
        data = row.dataset if tests.one_protocol else f"{row.dataset}, {row.terms}"
        lines.append(line((data, row.level, row.marked, *map(row.written, BOARD_COLUMNS), seeds)))
        if sum(map(len, lines)) + len(lines) > LONGEST_TAG - 100:
            return "\n".join([*lines[:-1], "", "The other rows are in the artifacts."])[:LONGEST_TAG]
    return "\n".join(lines)[:LONGEST_TAG]


def _notes(rows: Sequence[Row]) -> list[str]:
    models = (row.model for row in rows)
    return [*symmetry_notes(row.panel for row in rows), *paper_notes(models), *provenance_notes(rows)]


def verdict_line(tests: BoardTests) -> str:
    """The sentences on families and first contests on one line, as MLflow shows one line of an experiment's note."""
    contests = [one for one in tests.verdicts if one.best is not None]
    more = [f"{len(contests) - MOST_WINNERS} more"] if len(contests) > MOST_WINNERS else []
    winners = "; ".join([one.sentence(tests.metric) for one in contests[:MOST_WINNERS]] + more)
    return escape(" ".join([*tests.family_leads, winners]))


def _winners(tests: BoardTests) -> list[str]:
    """The sentences on families, then that of each of the first contests."""
    leads = [f"{escape(text)}\n" for text in tests.family_leads]
    lines = ["Lowest RMSE future, and whether it is sure:\n"]
    for verdict in tests.verdicts[:MOST_WINNERS]:
        lines.append(f"- {escape(verdict.example.dataset)} {escape(verdict.sentence(tests.metric))}")
    return [*leads, *lines, *(["- ..."] if len(tests.verdicts) > MOST_WINNERS else [])]

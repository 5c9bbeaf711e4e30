"""The leaderboard as CSV, LaTeX or Markdown. Names stay text: never a formula, a TeX command or markup."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmark.markdown import bold, escape, table
from results.board.contests import BoardTests, claim
from results.board.differences import provenance_notes
from results.board.leaderboard import best
from results.board.notes import MARK, paper_notes, symmetry_notes
from results.board.quantities import METRICS, Metric, with_neighbours
from results.board.row import Row, written_numbers
from results.board.trivial import first_line

SHOWN = (
    *("data_equivariance_error", "strict_floor", "rmse_future", "skill_future", "rmse_domain"),
    *("model_equivariance_error", "model_equivariance_error_over_change", "model_equivariance_error_within_range"),
    *("equivariance_floor", "parameters", "flops"),
)
FORMULA = tuple("=+-@\t\r\n")
"""First characters of a formula in a spreadsheet."""
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"{{{character}}}" for character in "[*"},  # an option of the previous line, at the start of a line
}


def to_csv(rows: Sequence[Row], metric: str = "rmse_future") -> str:
    """Every metric of every row: mean, standard deviation, ends of the interval, seeds; in base units, unrounded.

    Text that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV injection).
    """
    names = [name for name in METRICS if any(name in row.metrics for row in rows)]
    parts = ("mean", "std", "low", "high", "n")
    setting = ["dataset", "preset", "grid", "protocol", "budget", "level", "label", "model", "family"]
    seeds = ["seeds", "done", "diverged", "failed", "running", "absent", "reason", "mixed", "group", "best"]
    groups, winners = BoardTests(rows, metric).letters, best(rows, metric)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*setting, *seeds, *(f"{name}_{part}" for name in names for part in parts)])
    for index, row in enumerate(rows):
        counts = [row.count(state) for state in ("done", "diverged", "failed", "running", "absent")]
        texts = [
            row.dataset,
            row.preset,
            row.grid,
            row.protocol["name"],
            row.budget,
            row.level,
            row.label,
            row.model,
            row.family,
        ]
        numbers = [getattr(row.metrics.get(name), part, None) for name in names for part in parts]
        line = [*texts, len(row.seeds), *counts, row.reason, row.mixed, groups[index], int(index in winners), *numbers]
        writer.writerow([_not_a_formula(value) if isinstance(value, str) else value for value in line])
    return buffer.getvalue()


def _not_a_formula(text: str) -> str:
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def to_markdown(rows: Sequence[Row], metric: str = "rmse_future") -> str:
    """A table for each contest with the best in bold; names are escaped."""
    parts: list[str] = [escape(text) for text in _notes(rows, metric)]
    for heading, head, lines in _tables(rows, metric):
        texts = [[bold(text) if is_best else text for text, is_best in line] for line in lines]
        parts += [f"### {escape(heading)}", table(head, texts, range(1, len(head) - 1))]
    return "\n\n".join([*parts, f"{FOOTNOTE} {escape(claim(rows, metric))}\n"])


def _notes(rows: Sequence[Row], metric: str) -> list[str]:
    """Sentences above the tables."""
    return [
        *filter(None, [first_line(rows, metric)]),
        *symmetry_notes(row.panel for row in rows),
        *paper_notes(row.model for row in rows),
        *provenance_notes(rows),
    ]


FOOTNOTE = (
    "Mean and standard deviation over the finished seeds. Models of a level that share a letter do not differ"
    " significantly (5 %)."
)


def to_latex(rows: Sequence[Row], metric: str = "rmse_future") -> str:
    """A `tabular` with booktabs rules for each contest; names are escaped."""
    parts = [f"% {' '.join(text.split())}" for text in _notes(rows, metric)]
    parts += [r"% \usepackage{booktabs} in the preamble, and [T1]{fontenc} for quotes in names"]
    for heading, head, lines in _tables(rows, metric):
        parts += [f"% {' '.join(heading.split())}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 2)}l}}", r"\toprule"]
        parts += [" & ".join(map(latex_text, head)) + r" \\", r"\midrule"]
        for line in lines:
            texts = [rf"\textbf{{{latex_text(text)}}}" if is_best else latex_text(text) for text, is_best in line]
            parts.append(" & ".join(texts) + r" \\")
        parts += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(parts)


def latex_text(text: str) -> str:
    """Text of a cell on one line, with TeX's special characters escaped and ± and † in math mode."""
    escaped = "".join(LATEX.get(character, character) for character in " ".join(text.split()))
    return escaped.replace("±", r"$\pm$").replace(MARK, r"$\dagger$")


def _tables(rows: Sequence[Row], metric: str) -> Iterator[tuple[str, list[str], list[list[tuple[str, bool]]]]]:
    """Heading, column heads and lines of each contest; a line has (text, whether it is the best) for each column."""
    columns = [name for name in with_neighbours((*SHOWN, metric)) if any(name in row.metrics for row in rows)]
    head = ["Model", *(_head(METRICS[name]) for name in columns), "Seeds", "Verdict"]
    tests = BoardTests(rows, metric)
    groups = tests.letters
    texts = {name: written_numbers(rows, name) for name in columns}
    winners = {name: best(rows, name) for name in {metric, "rmse_future", "rmse_domain"}}
    for contest in tests.contests:
        first = rows[contest.positions[0]]
        heading = f"{first.dataset} ({first.size}), level {first.level}, {first.terms}"
        lines = []
        for index in contest.positions:
            row = rows[index]
            label = f"{row.marked} ({row.remark})" if row.remark else row.marked
            numbers = [(texts[name][index], index in winners.get(name, ())) for name in columns]
            seeds = f"{row.count('done')}/{len(row.seeds)}"
            lines.append([(label, False), *numbers, (seeds, False), (groups[index], False)])
        yield heading, head, lines


def _head(metric: Metric) -> str:
    return metric.title if metric.unit in ("1", "count", "a step", "field units") else f"{metric.title} ({metric.unit})"


FORMATS: Mapping[str, Callable[[Sequence[Row], str], str]] = {
    "csv": to_csv,
    "latex": to_latex,
    "markdown": to_markdown,
}
"""Option of `symbench leaderboard` -> function."""

"""Boards that are committed: what a suite came to, small enough for the repository, and where it came from.

`results/published/<suite>/` holds board.json, README.md and the suite as it was run. The same store gives the same
files; the foremost board also stands in `results/published/README.md`, which names the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import write_text
from benchmark.markdown import Markdown, bold, escape, table
from benchmark.suite.suite import Suite
from results.board.published_board import KEPT, MACHINE, VERSIONS, board, by_rank, read
from results.board.quantities import METRICS, written
from results.store.record import Broken
from results.store.store import Store

PUBLISHED_FOLDER = Path(__file__).parents[1] / "published"
README = PUBLISHED_FOLDER / "README.md"
BEGIN = "<!-- the published boards, written by `symbench publish` -->"
END = "<!-- end of the published boards -->"
SHOWN = (*KEPT[:2], "model_equivariance_error", "parameters", "flops")
MOST_COLUMNS = 6
EXPLAINED = (
    "Mean ± standard deviation over seeds; the best of a level that is complete in bold. Models that share a letter"
    " within a level cannot be told apart at p < 0.05."
)


@dataclass(frozen=True)
class Published:
    """What was written; `unfinished` counts the cells that are not done, by their state."""

    files: tuple[Path, ...]
    unfinished: Mapping[str, int]
    broken: tuple[Broken, ...]


def publish(
    store: Store,
    suite: Suite,
    folder: Path = PUBLISHED_FOLDER,
    readme: Path | None = README,
    metric: str = "rmse_future",
) -> Published:
    """Write the board of `suite`. UserError: no result, or another suite's board is in the way."""
    records, broken = store.read(suite.cells)
    finished = {key: record for key, record in records.items() if record.status.is_result}
    if not finished:
        raise UserError(f"suite {suite.name!r}: nothing is finished in store {store.root}; there is nothing to publish")
    target = folder / (re.sub(r"[^A-Za-z0-9._-]+", "-", suite.name).strip(".-") or "suite")
    document = board(suite, records, broken, metric)
    path = target / "board.json"
    if path.exists() and (other := read(path)["suite"]) != suite.name:
        raise UserError(f"{path}: is the board of the suite {other!r}; give this suite another name")
    write_text(path, json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(target / "README.md", page(document))
    files = [path, target / "README.md"]
    if suite.path.is_file():
        write_text(target / "suite.yaml", suite.path.read_text(encoding="utf-8"))
        files.append(target / "suite.yaml")
    if readme is not None:
        write_text(readme, with_section(readme.read_text(encoding="utf-8"), section(folder)))
        files.append(readme)
    unfinished = {state: count for state, count in document["states"].items() if state != "done"}
    return Published(tuple(files), unfinished, tuple(broken))


def section(folder: Path) -> str:
    """Text of results/published/README.md between the markers; empty where nothing is published."""
    ranked = by_rank(folder)
    if not ranked:
        return ""
    first, *others = ((path.parent.name, read(path)) for path in ranked)
    link, document = first
    lines = [
        f"Published board {bold(document['suite'])}: {_told(document)}"
        f" [Everything about it]({link}/README.md), and as [JSON]({link}/board.json).",
        *_tables(document),
    ]
    if others:
        lines += ["", "Also published:", ""]
        lines += [f"- [{escape(document['suite'])}]({link}/README.md): {_told(document)}" for link, document in others]
    return "\n".join(lines)


def with_section(text: str, content: str) -> str:
    """README.md with `content` between the markers. UserError: no markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md: the lines {BEGIN!r} and {END!r} are missing")
    return f"{before}{BEGIN}\n{content}\n{END}{after}" if content else f"{before}{BEGIN}\n{END}{after}"


def page(document: Mapping[str, Any]) -> str:
    """The README.md of a board."""
    provenance = document["provenance"]
    lines = [
        f"# {escape(document['suite'])}",
        "",
        _told(document),
        "",
        f"Run with `{document['command']}` ([suite.yaml](suite.yaml)) at the commit below; all numbers are in"
        " [board.json](board.json). Written by `symbench publish`.",
        *_tables(document),
        "",
        "## All rows",
        "",
        "Mean ± standard deviation over the seeds that are done.",
        "",
        table(
            ["data", "level", "model", *(METRICS[name].title for name in SHOWN), "seeds"],
            (
                [row["dataset"], row["level"], row["label"]]
                + [row["written"].get(name, "-") for name in SHOWN]
                + [f"{row['done']}/{row['expected']} {row['remark']}"]
                for row in document["rows"]
            ),
        ),
    ]
    lines += ["", "## What is missing", ""]
    lines += [
        f"- {escape(one['dataset'])} level {escape(one['level'])}, {escape(one['label'])}, seed"
        f" {one['seed']}: {one['state']}{': ' + escape(one['why']) if one['why'] else ''}"
        for one in document["missing"]
    ] or ["Nothing: every cell is done."]
    lines += [f"- unreadable record: {escape(name)}" for name in document["unreadable"]]
    keys = [key for key in (*VERSIONS, *MACHINE) if key in provenance]
    keys += sorted(provenance.keys() - keys)  # a board of an older symbench may name more
    told = ([key, ", ".join(provenance[key])] for key in keys)
    lines += ["", "## Where it comes from", "", table(("", ""), told), ""]
    fields = (
        [f"{one['dataset']} ({one['preset']})", one["level"], one["file"], one["checksum"][:16], _error(one)]
        for one in document["data"]
    )
    lines.append(table(["data", "level", "file", "sha256", "measured equivariance error"], fields))
    return "\n".join(lines) + "\n"


def _error(data: Mapping[str, Any]) -> str:
    return "-" if data["data_equivariance_error"] is None else written(data["data_equivariance_error"])


def _told(document: Mapping[str, Any]) -> str:
    """The board in two sentences."""
    seeds, states = len(document["seeds"]), document["states"]
    left = ", ".join(f"{count} {state}" for state, count in states.items() if state != "done")
    provenance = document["provenance"]
    commits = [escape(commit[:12]) for commit in provenance.get("git_commit", [])]
    dirty = " with uncommitted changes" if "true" in provenance.get("git_dirty", []) else ""
    day, machine = document["last_result"][:10], escape(", ".join(provenance.get("device", ["unknown machine"])))
    return (
        f"{states.get('done', 0)} of {document['cells']} cells done{f' ({left})' if left else ''}, {seeds}"
        f" {'seed' if seeds == 1 else 'seeds'} each, {day}; commit {', '.join(commits) or 'unknown'}{dirty}, torch"
        f" {escape(', '.join(provenance.get('torch', ['unknown'])))}, {machine}."
    )


def _tables(document: Mapping[str, Any]) -> list[str]:
    """The metric of each model at each level, a table for each data set; the best that is complete in bold."""
    lines = ["", EXPLAINED]
    metric = METRICS[document["metric"]]

    def panel(row: Mapping[str, Any]) -> tuple[str, str, str]:
        return row["dataset"], row["preset"], row["grid"]

    for (dataset, preset, grid), members in groupby(document["rows"], key=panel):
        rows = list(members)
        levels = list(dict.fromkeys(str(row["level"]) for row in rows))
        for first in range(0, len(levels), MOST_COLUMNS):
            shown = levels[first : first + MOST_COLUMNS]
            lines += ["", f"{metric.title} ({metric.unit}) on `{dataset}` ({preset}, {grid}):", ""]
            labels = dict.fromkeys(row["label"] for row in rows)
            cells = ([label, *(_cell(rows, label, level, document["metric"]) for level in shown)] for label in labels)
            lines.append(table(["model", *(f"level {level}" for level in shown)], cells))
    return lines


def _cell(rows: Sequence[Mapping[str, Any]], label: str, level: str, metric: str) -> Markdown:
    found = next((row for row in rows if row["label"] == label and str(row["level"]) == level), None)
    if found is None:
        return Markdown()
    text = found["written"].get(metric, "")
    remark = f"({found['remark']})" if found["remark"] else ""
    return Markdown(" ".join(filter(None, (bold(text) if found["best"] else text, found["group"], escape(remark)))))

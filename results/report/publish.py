"""Published boards: results of a suite with their provenance, small enough to be committed.

`results/published/<suite>/` holds board.json, README.md, the suite file and the plug-ins that it names. Equal stores
give equal files. `results/published/README.md` lists the boards, each with the question that its suite opens with.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, unknown_name
from benchmark.files import write_text
from benchmark.markdown import Markdown, bold, escape, table
from benchmark.models import model_registry
from benchmark.suite import loading as suites
from benchmark.suite.facts import model_facts
from benchmark.suite.labels import varying
from benchmark.suite.suite import Suite
from benchmark.training.recorder import METRICS_VERSION
from results.board.notes import paper_notes, size_of, symmetry_notes, unit_of
from results.board.published_board import STATISTICS, board, read
from results.board.quantities import METRICS, Statistic, written_column, written_error
from results.board.trivial import Line, place_of, rmse_of, sentence
from results.report.verification import FILE as VERIFIED
from results.report.verification import Verification, verifications
from results.store.provenance import MACHINE, VERSIONS
from results.store.record import Broken
from results.store.store import Store

PUBLISHED_FOLDER = Path(__file__).parents[1] / "published"
README = PUBLISHED_FOLDER / "README.md"
BEGIN = "<!-- the published boards, written by `symbench publish` -->"
END = "<!-- end of the published boards -->"
SHOWN = (
    *("rmse_future", "rmse_domain", "skill_future", "skill_domain", "model_equivariance_error"),
    *("model_equivariance_error_over_change", "model_equivariance_error_within_range", "equivariance_floor"),
    *("learned_level", "learned_angle", "parameters", "flops"),
)
MEASURED = {"data_equivariance_error": "measured equivariance error", "strict_floor": "strict floor"}
MOST_COLUMNS = 6
CONTEST = ("dataset", "preset", "grid", "level", "protocol", "budget")
TABLE_NOTE = (
    "Mean ± standard deviation over seeds. Bold: the best model of a level, among those with all seeds. Models of a"
    " level that share a letter do not differ significantly (p < 0.05)."
)


@dataclass(frozen=True)
class Published:
    """Files of a published board; `unfinished` counts the cells that are not done, by state."""

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
    """Write the board of `suite` into `folder`, and update `readme` if it is given.

    UserError: there is no result, or the folder has the board of another suite.
    """
    records, broken = store.read(suite.cells)
    finished = {key: record for key, record in records.items() if record.status.is_result}
    if not finished:
        raise UserError(f"suite {suite.name!r}: nothing is finished in store {store.root}; run the suite first")
    target = folder / (re.sub(r"[^A-Za-z0-9._-]+", "-", suite.name).strip(".-") or "suite")
    document = board(suite, records, broken, metric)
    path = target / "board.json"
    if path.exists() and (other := read(path)["suite"]) != suite.name:
        raise UserError(f"{path}: the board of suite {other!r} is there; give this suite another name")
    write_text(path, json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    write_page(target)
    files = [path, target / "README.md"]
    if suite.path.is_file():
        texts = {plugin.name: plugin.read_text(encoding="utf-8") for plugin in suite.plugins}
        texts["suite.yaml"] = suites.copied(suite, [plugin.name for plugin in suite.plugins])
        for name, text in texts.items():
            write_text(target / name, text)
            files.append(target / name)
    if readme is not None:
        write_text(readme, with_section(readme.read_text(encoding="utf-8"), section(folder)))
        files.append(readme)
    unfinished = {state: count for state, count in document["states"].items() if state != "done"}
    return Published(tuple(files), unfinished, tuple(broken))


def write_page(target: Path) -> None:
    """Write the README.md of the board in `target`, and remove a verified.json of an earlier board."""
    verified = verifications(target)
    if not verified:
        (target / VERIFIED).unlink(missing_ok=True)
    write_text(target / "README.md", page(read(target / "board.json"), verified))


def board_folder(board: str) -> Path:
    """Folder of a published board, given by its name or as a path. UserError: there is no board."""
    for folder in (PUBLISHED_FOLDER / board, Path(board)):
        if (folder / "board.json").is_file():
            return folder
    names = sorted(path.parent.name for path in PUBLISHED_FOLDER.glob("*/board.json"))
    raise UserError(f"{unknown_name('published board', board, names)}; or give a folder that holds board.json")


def section(folder: Path) -> str:
    """Table of the boards in `folder`, for results/published/README.md; empty without a published board."""
    rows = []
    for path in sorted(folder.glob("*/board.json")):
        document, name = read(path), path.parent.name
        cells = f"{document['states'].get('done', 0)} of {document['cells']}"
        question = " ".join((_question(path.with_name("suite.yaml")), other_metrics(document))).strip()
        rows.append(
            (
                Markdown(f"[{escape(document['suite'])}]({name}/README.md)"),
                question,
                cells,
                document["last_result"][:10],
            )
        )
    return table(("board", "question", "cells done", "last result"), rows) if rows else ""


def _question(suite: Path) -> str:
    """First sentence of the comment that the suite file `suite` opens with; empty without one."""
    lines = suite.read_text(encoding="utf-8").splitlines() if suite.is_file() else []
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[.?!])\s", comment, maxsplit=1)[0]


def with_section(text: str, content: str) -> str:
    """Text of a README.md with `content` between the markers. UserError: no markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md: the lines {BEGIN!r} and {END!r} are missing")
    lines = f"\n{content}\n" if content else "\n"
    return f"{before}{BEGIN}{lines}{END}{after}"


def page(document: Mapping[str, Any], verified: Sequence[Verification] = ()) -> str:
    """Text of the README.md of a board, with those who have verified it."""
    provenance = document["provenance"]
    shown = [name for name in SHOWN if any(name in row["metrics"] for row in document["rows"])]
    texts = {name: _column(document["rows"], name) for name in shown}
    lines = [
        f"# {escape(document['suite'])}",
        "",
        *_notes(document),
        _summary(document),
        "",
        *(line for one in verified for line in (escape(one.sentence), "")),
        f"Run with `{document['command']}` ([suite.yaml](suite.yaml)) at the commit below; all numbers are in"
        " [board.json](board.json). Written by `symbench publish`.",
        *(line for text in document.get("leads", []) for line in ("", escape(text))),
        *_tables(document),
        "",
        "## All rows",
        "",
        "Mean ± standard deviation over the finished seeds.",
        "",
        table(
            ["data", "level", "model", *(METRICS[name].title for name in shown), "seeds"],
            (
                [place, row["level"], row["label"]]
                + [texts[name][index] for name in shown]
                + [f"{row['done']}/{row['expected']} {row['remark']}"]
                for index, (row, place) in enumerate(zip(document["rows"], _places(document["rows"]), strict=True))
            ),
        ),
    ]
    lines += ["", "## Missing cells", ""]
    lines += [
        f"- {escape(one['dataset'])} level {escape(one['level'])}, {escape(one['label'])}, seed"
        f" {one['seed']} ({one['id']}): {one['state']}{': ' + escape(one['why']) if one['why'] else ''}"
        for one in document["missing"]
    ] or ["None: every cell is done."]
    lines += [f"- unreadable record: {escape(name)}" for name in document["unreadable"]]
    keys = [key for key in (*VERSIONS, *MACHINE) if key in provenance]
    keys += sorted(provenance.keys() - keys)  # a board of an older symbench may name more
    values = ([key, ", ".join(provenance[key])] for key in keys)
    lines += ["", "## Provenance", "", table(("", ""), values), ""]
    known = {key: title for key, title in MEASURED.items() if any(one.get(key) is not None for one in document["data"])}
    files = (
        [
            *(f"{one['dataset']} ({one['preset']})", one["level"], one["file"], one["checksum"][:16]),
            *("-" if value is None else written_error(value) for value in map(one.get, known)),
        ]
        for one in document["data"]
    )
    lines.append(table(["data", "level", "file", "sha256", *known.values()], files))
    return "\n".join(lines) + "\n"


def _places(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Data set of each row, with those of its preset, grid, protocol and budget in which rows differ."""
    keys = ("preset", "grid", "budget")
    settings = [{**{key: row.get(key, "") for key in keys}, **row["protocol"]} for row in rows]
    return [
        row["dataset"] + "".join(f", {setting}" for setting in varied if not setting.endswith(" "))
        for row, varied in zip(rows, varying(settings), strict=True)
    ]


def _notes(document: Mapping[str, Any]) -> list[str]:
    """First paragraphs of a board: where its networks lose to a trivial forecast, and what its symmetry errors say."""
    rmse = rmse_of(document["metric"])
    lines = [
        Line(
            json.dumps([row.get(key) for key in CONTEST], sort_keys=True),
            place_of(row["dataset"], row["grid"], row["level"], row.get("budget", "")),
            *(row["model"], row["label"], row["metrics"][rmse]["mean"]),
        )
        for row in document["rows"]
        if rmse in row["metrics"]
    ]
    panels = [(row["dataset"], row["preset"], row["grid"]) for row in document["rows"]]
    texts = [
        *filter(None, [sentence(lines, rmse)]),
        *symmetry_notes(panels),
        *paper_notes(row["model"] for row in document["rows"]),
        *document.get("differences", []),
    ]
    return [line for text in texts for line in (escape(text), "")]


def _statistics(document: Mapping[str, Any]) -> str:
    """Claim of the tests of a board, or the version under which they were made."""
    if document.get("statistics") == STATISTICS:
        return str(document["claim"])
    version = ", ".join(document["provenance"].get("symbench", ["unknown"]))
    return (
        f"The letters are those of symbench {version} at the commit of the board: pairs of seeds and test runs, both as"
        " random, on the errors themselves. This board does not hold the value of each seed and run, so the tests"
        " cannot be made anew."
    )


def _summary(document: Mapping[str, Any]) -> str:
    """Finished cells, seeds, day, commit and machine of a board in one sentence."""
    seeds, states = len(document["seeds"]), document["states"]
    unfinished = ", ".join(f"{count} {state}" for state, count in states.items() if state != "done")
    provenance = document["provenance"]
    commits = [escape(commit[:12]) for commit in provenance.get("git_commit", [])]
    dirty = " with uncommitted changes" if "true" in provenance.get("git_dirty", []) else ""
    other = other_metrics(document)
    day, machine = document["last_result"][:10], escape(", ".join(provenance.get("device", ["unknown machine"])))
    return (
        f"{states.get('done', 0)} of {document['cells']} cells done{f' ({unfinished})' if unfinished else ''}, {seeds}"
        f" {'seed' if seeds == 1 else 'seeds'} each, {day}; commit {', '.join(commits) or 'unknown'}{dirty}, torch"
        f" {escape(', '.join(provenance.get('torch', ['unknown'])))}, {machine}.{f' {other}' if other else ''}"
    )


def other_metrics(document: Mapping[str, Any]) -> str:
    """Sentence on a board whose metrics or splits have another meaning than those of today; empty for the others."""
    version = document.get("metrics_version", 1)
    if version == METRICS_VERSION:
        return ""
    return f"Its metrics are of version {version}, today's of {METRICS_VERSION}: they do not compare (CHANGELOG.md)."


def _tables(document: Mapping[str, Any]) -> list[str]:
    """Tables of the metric of each model at each level, one for each dataset, protocol and budget."""
    lines = ["", " ".join(filter(None, (TABLE_NOTE, escape(_statistics(document)), _versions(document))))]
    metric = METRICS[document["metric"]]

    panels: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row, varied in zip(document["rows"], varying([row["protocol"] for row in document["rows"]]), strict=True):
        runs = [f"{row['test_runs']} test runs"] if row.get("test_runs") else []
        budget = [row["budget"]] if row.get("budget") else []
        terms = "".join(f", {term}" for term in (*varied, *budget, *runs))
        panels[row["dataset"], row["preset"], row["grid"], terms].append(row)
    for (dataset, preset, grid, terms), rows in panels.items():
        levels = list(dict.fromkeys(str(row["level"]) for row in rows))
        unit, size = unit_of(document["metric"], [dataset]), size_of(dataset, preset, grid)
        for first in range(0, len(levels), MOST_COLUMNS):
            shown = levels[first : first + MOST_COLUMNS]
            lines += ["", f"{metric.title} ({unit}) on `{dataset}` ({size}){terms}:", ""]
            labels = dict.fromkeys(row["label"] for row in rows)
            cells = ([label, *(_cell(rows, label, level, document["metric"]) for level in shown)] for label in labels)
            lines.append(table(["model", *(f"level {level}" for level in shown)], cells))
    return lines


def _versions(document: Mapping[str, Any]) -> str:
    """Sentence that names the versions of those models that have had several; empty if there are none."""
    names = model_registry.model_names()
    versions = {
        (row["model"], row["config"].get("version", 1))
        for row in document["rows"]
        if row["model"] in names and model_facts(row["model"]).version > 1
    }
    written = ", ".join(f"{escape(model)} {version}" for model, version in sorted(versions))
    return f"Versions of the models (CHANGELOG.md says what a later one changes): {written}." if versions else ""


def _column(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Text of `metric` of each row, with equal decimals."""
    numbers = [row["metrics"].get(metric) for row in rows]
    return written_column(metric, [None if number is None else Statistic(**number) for number in numbers])


def _cell(rows: Sequence[Mapping[str, Any]], label: str, level: str, metric: str) -> Markdown:
    index = next((n for n, row in enumerate(rows) if row["label"] == label and str(row["level"]) == level), None)
    if index is None:
        return Markdown()
    row, text = rows[index], _column(rows, metric)[index] if metric in rows[index]["metrics"] else ""
    remark = f"({row['remark']})" if row["remark"] else ""
    return Markdown(" ".join(filter(None, (bold(text) if row["best"] else text, row["group"], escape(remark)))))

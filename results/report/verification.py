"""Verification of a published board: numbers of cells that were trained again, compared with those of the board.

Numbers must be bit-equal where code, data, versions and machine are those of the board. Otherwise each root mean square
error must lie within the spread of the seeds, and the numbers of parameters must be equal. `verified.json` beside
board.json says who has verified which cells, when and on what.
"""

import getpass
import hashlib
import json
import math
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

from pydantic import TypeAdapter
from scipy import special

from benchmark.cell import Cell
from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.suite.labels import plain
from benchmark.suite.suite import Suite
from benchmark.training.recorder import METRICS_VERSION
from results.board.published_board import COMPARED, environment_of, provenance
from results.board.quantities import BY_RUN, METRICS, SKILLS
from results.board.row import declared
from results.report.board_check import cell_of, other_version
from results.store.provenance import MACHINE, VERSIONS
from results.store.record import COSTS, Record

ROOT = Path(__file__).parents[2]
CODE = ("benchmark/data", "benchmark/evaluation", "benchmark/groups.py", "benchmark/models", "benchmark/training")
"""Code that a number depends on."""
CONDITIONS = (*COMPARED, *(key for key in (*VERSIONS, *MACHINE) if key not in ("git_commit", "git_dirty", "lanes")))
"""Parts of the environment that may change the bits of a number; the code is compared with git."""
EXACT = ("parameters",)
CONFIDENCE = 0.99
"""Probability that two trainings of one setting are within the spread, if their errors are normally distributed."""
DETERMINISTIC_TOLERANCE = 0.01
"""Relative difference that is allowed to a forecast without training, whose single record has no spread."""
FILE = "verified.json"
Rule = Literal["bit-equal", "within the spread"]


@dataclass(frozen=True)
class Claim:
    """Result of one cell on a board: its numbers, those of all seeds of its row, and the conditions of the training."""

    cell: Cell
    state: str
    numbers: Mapping[str, float | Sequence[float]]
    row_values: Mapping[str, Sequence[float]]
    environment: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Check:
    """Comparison of a claim with a second training; `rule` is None if they do not agree."""

    cell: Cell
    rule: Rule | None
    text: str


@dataclass(frozen=True)
class Verification:
    """Entry of verified.json. `cells` are (id, name, rule), out of `board_cells` on the board."""

    by: str
    date: str
    board_cells: int
    cells: tuple[tuple[str, str, Rule], ...]
    environment: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """Verified cells, with who trained them, when and on what."""
        rules = [rule for _, _, rule in self.cells]
        counts = ", ".join(f"{rules.count(rule)} {rule}" for rule in dict.fromkeys(rules))
        known = {key: self.environment.get(key, "unknown") for key in ("git_commit", "torch", "device", "processor")}
        machine = f"commit {known['git_commit'][:12]}, torch {known['torch']}, {known['device']}, {known['processor']}"
        count = f"{len(self.cells)} of {self.board_cells} cells trained again ({counts})"
        return f"Verified by {self.by} on {self.date}: {count}; {machine}. {FILE} names the cells."


_VERIFICATIONS = TypeAdapter(tuple[Verification, ...])


def trainable_claims(document: Mapping[str, Any], suite: Suite) -> list[Claim]:
    """Claims whose model and metrics have the versions of this code. UserError: there are none."""
    same_metrics = document.get("metrics_version", 1) == METRICS_VERSION
    current = [one for one in claims(document) if same_metrics and not other_version(one.cell, suite)]
    if not current:
        commits = ", ".join(document["provenance"].get("git_commit", ["unknown"]))
        raise UserError(
            f"{document['suite']}: the models or the metrics have other versions in this code;"
            f" check out the commit of the board: {commits}"
        )
    return current


def claims(document: Mapping[str, Any]) -> list[Claim]:
    """Claim of a board on each cell that is done or diverged."""
    claimed: dict[str, Claim] = {}
    for row in document["rows"]:
        seeds = [seed for seed in row["seeds"] if seed["state"] in ("done", "diverged")]
        row_values = {
            name: [seed["values"][name] for seed in seeds if name in seed.get("values", {})] for name in row["metrics"]
        }
        for seed in seeds:
            by_run = {BY_RUN[name]: values for name, values in seed.get("by_run", {}).items() if name in BY_RUN}
            numbers = {**seed.get("values", {}), **by_run}
            for name in (*COSTS, *SKILLS):  # skills follow from the errors, see board_check
                numbers.pop(name, None)
            cell, environment = cell_of(row, seed["seed"]), environment_of(document, row, seed)
            seconds = seed.get("values", {}).get("training_seconds", 0.0)
            claimed.setdefault(cell.id, Claim(cell, seed["state"], numbers, row_values, environment, seconds))
    return list(claimed.values())


def check(claim: Claim, record: Record) -> Check:
    """Compare a claim with the record of a second training."""
    if record.status.state != claim.state:
        return Check(
            claim.cell, None, f"{record.status.state} here, {claim.state} on the board; {record.status.message}"
        )
    here = {name: record.metrics.get(name) for name in claim.numbers}
    differing = [name for name in here if here[name] != claim.numbers[name]]
    if not differing:
        shown = [f"{METRICS[name].title} {here[name]}" for name in METRICS if name in here] or [claim.state]
        return Check(claim.cell, "bit-equal", f"{len(here)} numbers, {shown[0]}")
    conditions = ", ".join(_other_conditions(claim.environment, record.environment))
    if not conditions:
        text = _both(claim, record, differing[0])
        return Check(claim.cell, None, f"{text}, although code, data, versions and machine are those of the board")
    errors = [_compared(claim, record, name) for name in here if name in METRICS and name.startswith("rmse_")]
    errors = errors or [("the board has no error of this cell", False)]
    sizes = [(_both(claim, record, name), name not in differing) for name in EXACT if name in here]
    wrong = [text for text, holds in (*errors, *sizes) if not holds]
    text = "; ".join(wrong or [text for text, _ in (*errors, *sizes)])
    return Check(claim.cell, None if wrong else "within the spread", f"{text}. Not bit-equal: {conditions}")


def _compared(claim: Claim, record: Record, name: str) -> tuple[str, bool]:
    """Both values of an error with the largest difference that the spread allows, and whether it holds.

    The spread is the smaller one of the row with the value of the board and of the row with the value found here, so
    that a wrong value on the board does not widen it.
    """
    claimed, here, values = claim.numbers[name], record.metrics.get(name), claim.row_values[name]
    assert isinstance(claimed, int | float)
    if not isinstance(here, int | float):
        return _both(claim, record, name), False
    if not declared(claim.cell.model.name)[2]:
        most, basis = (
            DETERMINISTIC_TOLERANCE * abs(claimed),
            f"{DETERMINISTIC_TOLERANCE:.0%}, a forecast without training",
        )
    elif len(values) < 2:
        most, basis = 0.0, "a single seed has no spread"
    else:
        others = list(values)
        others[others.index(claimed)] = here
        quantile = float(special.stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
        most = math.sqrt(2) * quantile * min(stdev(values), stdev(others))
        basis = f"the spread of {len(values)} seeds"
    return f"{_both(claim, record, name)}, at most {most:.4g} apart ({basis})", abs(here - claimed) <= most


def _both(claim: Claim, record: Record, name: str) -> str:
    title = METRICS[name].title if name in METRICS else name
    return f"{title} {record.metrics.get(name, 'missing')} here, {claim.numbers[name]} on the board"


def _other_conditions(board: Mapping[str, str], here: Mapping[str, Any]) -> Iterator[str]:
    """Differences in code, data, versions and machine, in a few words each."""
    commit = board.get("git_commit", "")
    if board.get("git_dirty") != "false":
        yield f"the code of the board is commit {commit[:12] or 'unknown'} with uncommitted changes"
    elif reason := _code_difference(commit):
        yield reason
    for key in CONDITIONS:
        mine = "" if here.get(key) is None else plain(here[key])
        if board.get(key, "") != mine:
            yield f"{key} {mine[:64] or 'unknown'} here, {board.get(key, '')[:64] or 'unknown'} on the board"


def _code_difference(commit: str) -> str:
    """Difference between the files here and those of a commit; empty if there is none."""
    command = ["git", "-C", str(ROOT), "diff", "--quiet", commit, "--", *CODE]
    try:
        status = subprocess.run(command, capture_output=True, check=False).returncode
    except OSError:
        status = -1
    if status in (0, 1):
        return "the code has changed since commit " + commit[:12] if status else ""
    return f"the code of commit {commit[:12]} is not known here"


def digest(folder: Path) -> str:
    """sha256 of the board.json in `folder`."""
    return hashlib.sha256((folder / "board.json").read_bytes()).hexdigest()


def verifications(folder: Path) -> tuple[Verification, ...]:
    """Verifications of the board in `folder` as it is now; none if board.json has changed since.

    UserError: the file cannot be read.
    """
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return _VERIFICATIONS.validate_python(document["verifications"]) if document["board"] == digest(folder) else ()
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / FILE}: not written by `symbench verify`; delete it") from error


def add_verification(
    folder: Path, document: Mapping[str, Any], checks: Sequence[Check], records: Mapping[str, Record]
) -> Path:
    """Write `checks`, which all agree, into verified.json, after earlier verifications of the same board."""
    cells = tuple((one.cell.id, str(one.cell), one.rule) for one in checks if one.rule is not None)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = provenance([records[one.cell.id] for one in checks])
    environment = {key: " or ".join(values) for key, values in machine.items()}
    entries = [*verifications(folder), Verification(_person(), day, document["cells"], cells, environment)]
    write_json(folder / FILE, {"board": digest(folder), "verifications": [asdict(one) for one in entries]})
    return folder / FILE


def _person() -> str:
    """Name of the user as git knows it, or the name of the account."""
    try:
        name = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        name = ""
    return name or getpass.getuser()

"""Fairness ledger of a board: what tuning each model has cost, and where models were not tuned alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmark.errors import UserError
from benchmark.files import tuned_folder
from benchmark.suite.studies import studies
from benchmark.suite.study import Study
from benchmark.suite.suite import Suite
from benchmark.suite.tuned import read_result
from benchmark.terminal import titled
from results.board.row import family_and_source
from results.store.record import Record
from results.store.store import Store


@dataclass(frozen=True)
class Spent:
    """How a model of the board came to its settings; `trials` is 0 where the suite wrote them.

    `devices` says what the hours are of, `limit` how many were given where that ended the search. `gain` is the
    validation RMSE found, over that of the suite's own settings.
    """

    family: str
    model: str
    dataset: str
    levels: str
    settings: str
    trials: int = 0
    epochs: int = 0
    device_hours: float = 0.0
    devices: str = ""
    search: str = ""
    limit: float | None = None
    gain: float | None = None
    contest: str = ""


def spent_by(suite: Suite, records: Mapping[str, Record], store: Store) -> list[Spent]:
    """The ledger: a line for each trained model and group of levels; empty where nothing of the board is tuned."""
    if not any(tuned_folder(store.root).glob("*.yaml")):
        return []
    lines: dict[str, Spent] = {}
    of_cell = studies(suite)
    for cell in suite.cells:
        study = of_cell.get(cell.id)
        if study is None:
            continue
        record = records.get(cell.id)
        name = suite.studies.get(cell.id, str(record.environment.get("study", "")) if record else "")
        key = f"{study.name} {bool(name)}"
        if key not in lines:
            lines[key] = _line(study, tuned_folder(store.root) / f"{name}.yaml" if name else None)
    return list(lines.values()) if any(line.settings != "default" for line in lines.values()) else []


def _line(study: Study, path: Path | None) -> Spent:
    who: dict[str, Any] = {
        "family": family_and_source(study.model.name)[0],
        "model": study.model.name,
        "dataset": f"{study.dataset.name} ({study.dataset.preset})",
        "levels": ", ".join(map(str, study.levels)),
        "contest": study.contest,
    }
    if path is None or not path.exists():
        return Spent(**who, settings="default")
    try:
        result = read_result(path)
        spent, effort, value = result["spent"], result["effort"], result["found"]
        default = value["rmse_validation_default"]
        return Spent(
            **who,
            settings="tuned",
            trials=spent["trials"],
            epochs=spent["epochs"],
            device_hours=spent["device_hours"],
            devices="GPU" if spent["devices"] == "cuda" else "CPU ranks",
            search=f"{effort['search']}, {effort['scheduler']}",
            limit=effort["hours"],
            gain=value["rmse_validation"] / default if default else None,
        )
    except (UserError, KeyError, TypeError):
        return Spent(**who, settings=f"{path.name} cannot be read")


def warnings_of(ledger: Sequence[Spent]) -> list[str]:
    """Where models that meet on the board were not tuned alike."""
    told = []
    for contest in dict.fromkeys(line.contest for line in ledger):
        members = [line for line in ledger if line.contest == contest]
        efforts: dict[str, list[str]] = {}
        for line in members:
            amount = f"{line.limit:g} device-hours" if line.limit else f"{line.trials} trials"
            effort = f"{amount} ({line.search})" if line.trials else f"{line.settings} settings"
            efforts.setdefault(effort, []).append(line.model)
        if len(efforts) > 1:
            where = f"{members[0].dataset} level {members[0].levels}"
            parts = "; ".join(f"{', '.join(dict.fromkeys(models))}: {effort}" for effort, models in efforts.items())
            told.append(f"{where}: not tuned alike: {parts}")
    return told


def left_out(suite: Suite) -> str:
    """Who is not on a board of tuned settings because nobody tuned it; empty where nobody is."""
    levels: dict[tuple[str, str], list[str]] = {}
    for cell in suite.untuned:
        levels.setdefault((cell.model.name, cell.dataset.name), []).append(str(cell.dataset.level))
    named = [f"{model} on {data} level {', '.join(dict.fromkeys(at))}" for (model, data), at in levels.items()]
    return f"not tuned, and so not on this board: {'; '.join(named)}" if named else ""


def ledger_table(ledger: Sequence[Spent]) -> Table:
    """For the terminal."""
    table = titled("What tuning cost")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", no_wrap=heading == "Model")
    for line in ledger:
        table.add_row(*map(Text, cells_of(line)))
    return table


HEADINGS = ("Family", "Model", "Dataset", "Level", "Settings", "Trials", "Epochs", "Spent", "RMSE / default")


def cells_of(line: Spent) -> list[str]:
    """As the ledger writes it; the last is the validation RMSE found, over that of the suite's own settings."""
    spent = f"{line.device_hours:.3g} {'GPU-h' if line.devices == 'GPU' else 'rank-h'}" if line.trials else "-"
    gain = "-" if line.gain is None else f"{line.gain:.3f}"
    settings = line.search or line.settings
    return [
        *(line.family, line.model, line.dataset, line.levels, settings),
        *(str(line.trials), str(line.epochs), spent, gain),
    ]

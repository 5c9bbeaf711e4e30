"""Tuning ledger of a board: cost of each model's tuning, and warnings about models that were not tuned alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from benchmark.errors import UserError
from benchmark.files import tuned_folder
from benchmark.suite.studies import studies
from benchmark.suite.study import Study
from benchmark.suite.suite import Suite
from benchmark.suite.tuned import doubt, read_result
from benchmark.terminal import titled
from results.board.row import family_and_source
from results.store.record import Record
from results.store.store import Store


@dataclass(frozen=True)
class LedgerLine:
    """Origin of a model's settings on a group of levels, and their cost.

    `settings` is the search and scheduler, or `default` if the suite wrote them; `unit` is that of `device_hours`.
    `limit` is the number of hours that the search was given, if any. `gain` is the best validation RMSE divided by
    that of the suite's own settings.
    """

    family: str
    model: str
    dataset: str
    levels: str
    settings: str
    trials: int = 0
    epochs: int = 0
    device_hours: float = 0.0
    unit: str = ""
    limit: float | None = None
    gain: float | None = None
    contest: str = ""


def tuning_ledger(suite: Suite, records: Mapping[str, Record], store: Store) -> list[LedgerLine]:
    """Line for each trained model and group of levels; empty if no model of the board is tuned."""
    tuned = tuned_folder(store.root)
    if not any(tuned.glob("*.yaml")):
        return []
    lines: dict[tuple[str, bool], LedgerLine] = {}
    of_cell = studies(suite)
    for cell in suite.cells:
        study = of_cell.get(cell.id)
        if study is None:
            continue
        record = records.get(cell.id)
        name = suite.studies.get(cell.id, str(record.environment.get("study", "")) if record else "")
        key = (study.name, bool(name))
        if key not in lines:
            lines[key] = _line(study, store, name)
    return list(lines.values()) if any(line.settings != "default" for line in lines.values()) else []


def _line(study: Study, store: Store, name: str) -> LedgerLine:
    """Line of a model whose settings are those of the study `name`, or of the suite."""
    line = LedgerLine(
        family=family_and_source(study.model.name)[0],
        model=study.model.name,
        dataset=f"{study.dataset.name} ({study.dataset.preset})",
        levels=", ".join(map(str, study.levels)),
        settings="default",
        contest=study.contest,
    )
    path = tuned_folder(store.root) / f"{name}.yaml"
    if not name or not path.exists():
        return line
    try:
        result = read_result(path)
        edited = doubt(store.root, study, result)
        spent, effort, best = result["spent"], result["effort"], result["found"]
        default, hours = best["rmse_validation_default"], effort["hours"]
        return replace(
            line,
            settings=f"{effort['search']}, {effort['scheduler']}{', edited by hand' if edited else ''}",
            trials=int(spent["trials"]),
            epochs=int(spent["epochs"]),
            device_hours=float(spent["device_hours"]),
            unit="GPU-h" if spent["devices"] == "cuda" else "rank-h",
            limit=None if hours is None else float(hours),
            gain=float(best["rmse_validation"]) / float(default) if default else None,
        )
    except (UserError, KeyError, TypeError, ValueError, ArithmeticError):
        return replace(line, settings=f"{path.name} cannot be read")


def unequal_tuning(ledger: Sequence[LedgerLine]) -> list[str]:
    """Warning for each contest whose models were not tuned alike."""
    warnings = []
    for contest in dict.fromkeys(line.contest for line in ledger):
        members = [line for line in ledger if line.contest == contest]
        efforts: dict[str, list[str]] = {}
        for line in members:
            amount = f"{line.limit:g} device-hours" if line.limit else f"{line.trials} trials"
            effort = f"{amount} ({line.settings})" if line.trials else f"{line.settings} settings"
            efforts.setdefault(effort, []).append(line.model)
        if len(efforts) > 1:
            where = f"{members[0].dataset} level {members[0].levels}"
            parts = "; ".join(f"{', '.join(dict.fromkeys(models))}: {effort}" for effort, models in efforts.items())
            warnings.append(f"{where}: not tuned alike: {parts}")
    return warnings


def untuned_models(suite: Suite) -> str:
    """Sentence that names the models missing from a board of tuned settings; empty if none is."""
    levels: dict[tuple[str, str], list[str]] = {}
    for cell in suite.untuned:
        levels.setdefault((cell.model.name, cell.dataset.name), []).append(str(cell.dataset.level))
    names = [f"{model} on {data} level {', '.join(dict.fromkeys(at))}" for (model, data), at in levels.items()]
    return f"not tuned, and so not on this board: {'; '.join(names)}" if names else ""


HEADINGS = ("Family", "Model", "Dataset", "Level", "Settings", "Trials", "Epochs", "Spent", "RMSE / default")


def ledger_table(ledger: Sequence[LedgerLine]) -> Table:
    """Ledger for the terminal."""
    table = titled("What tuning cost")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", no_wrap=heading == "Model")
    for line in ledger:
        table.add_row(*map(Text, ledger_row(line)))
    return table


def ledger_row(line: LedgerLine) -> list[str]:
    """Line as text, in the order of HEADINGS."""
    return [
        *(line.family, line.model, line.dataset, line.levels, line.settings),
        *(str(line.trials), str(line.epochs)),
        f"{line.device_hours:.3g} {line.unit}" if line.trials else "-",
        "-" if line.gain is None else f"{line.gain:.3f}",
    ]

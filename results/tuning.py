"""What tuning cost and showed: the fairness ledger of a board, figures of its studies, and runs for MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmark.errors import MachineError, UserError
from benchmark.files import tuned_folder
from benchmark.studies import studies
from benchmark.study import Study
from benchmark.suite import Suite
from benchmark.terminal import titled
from benchmark.tuned import read_result

from .figures import INK, Plot, family_style
from .leaderboard import family_and_source
from .mlflow_runs import Import, cell_params, tags_of
from .plot import Axis, Series, chart
from .store import Record, Store
from .studies import StudyFolder, Trial

MOST_STUDIES = 12
"""Studies whose figures are drawn; the page says so of the others."""


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


def section(suite: Suite, records: Mapping[str, Record], store: Store) -> dict[str, Any] | None:
    """What the report shows of it; None where nothing of the board is tuned."""
    ledger = spent_by(suite, records, store)
    if not ledger:
        return None
    known = {name: folder for name, folder in folders(suite, store).items() if folder.result_path.exists()}
    plots = [plot for folder in list(known.values())[:MOST_STUDIES] for plot in figures_of(folder)]
    return {
        "headings": HEADINGS,
        "lines": [cells_of(line) for line in ledger],
        "warnings": warnings_of(ledger),
        "plots": plots,
        "left": max(0, len(known) - MOST_STUDIES),
    }


def folders(suite: Suite, store: Store) -> dict[str, StudyFolder]:
    """The studies of a suite that were begun, as they were begun."""
    if not tuned_folder(store.root).is_dir():
        return {}
    found = {}
    for study in {study.name: study for study in studies(suite).values()}.values():
        begun = StudyFolder(store.root, study).begun()
        if begun is not None:
            found[study.name] = StudyFolder(store.root, begun.study)
    return found


def figures_of(folder: StudyFolder) -> list[Plot]:
    """Learning curves of one study; nothing where its trials cannot be read any more."""
    trials = [trial for trial in _trials(folder) if trial.closed]
    if not trials:
        return []
    study = folder.study
    return [
        Plot(
            f"tuning-curves-{study.name}",
            f"Trials of {study}",
            "The lowest validation RMSE so far, by epoch. Coloured: the best trial; dashed: the settings of the suite."
            " A line that ends early was stopped, or its loss was no longer finite.",
            learning_curves(study, trials),
        )
    ]


def _trials(folder: StudyFolder) -> list[Trial]:
    """None where they cannot be read: a board has more to show, and `tune` names what is wrong."""
    try:
        return folder.trials()
    except (OSError, ValueError, MachineError):
        return []


def learning_curves(study: Study, trials: Sequence[Trial]) -> str | None:
    """A line for each trial."""
    best = _best(trials)
    style = family_style(family_and_source(study.model.name)[0])
    series = []
    for trial in sorted(trials, key=lambda trial: (trial is best, trial.note.by == "default")):
        marked = trial is best or trial.note.by == "default"
        name = f"trial {trial.note.number}" + (" (default)" if trial.note.by == "default" else "")
        series.append(
            Series(
                name if marked else "",
                list(range(1, len(trial.curve) + 1)),
                trial.curve,
                style.color if trial is best else INK if marked else "#808890",
                marker="o" if len(trial.curve) == 1 else "",
                dashed=trial.note.by == "default",
            )
        )
    return chart(series, Axis("epoch", whole=True), Axis("lowest validation RMSE (field units)", log=True))


def _best(trials: Sequence[Trial]) -> Trial | None:
    return min((trial for trial in trials if math.isfinite(trial.value)), key=lambda t: t.value, default=None)


def mlflow_runs(suite: Suite, store: Store) -> list[Import]:
    """A run for each study of the suite, and below it one for each trial."""
    wanted: list[Import] = []
    for folder in folders(suite, store).values():
        trials = [trial for trial in _trials(folder) if trial.records]
        if trials:
            runs = [_trial_run(folder, trial) for trial in trials]
            wanted += [_study_run(folder, trials, runs), *runs]
    return wanted


def _study_run(folder: StudyFolder, trials: Sequence[Trial], runs: Sequence[Import]) -> Import:
    study, best = folder.study, _best(trials)
    start = min(run.start for run in runs)
    end = max(run.end or run.start for run in runs)
    metrics = {
        "trials": float(sum(trial.closed for trial in trials)),
        "epochs": float(sum(trial.epochs for trial in trials)),
        "device_hours": sum(trial.device_hours for trial in trials),
        **({"rmse_validation": best.value, "best_trial": float(best.note.number)} if best else {}),
    }
    told = {"kind": "study", "state": "done" if folder.result_path.exists() else "running", **_place(study)}
    return Import(
        key=f"study-{study.name}",
        name=f"STUDY {study}",
        start=start,
        end=end,
        status="FINISHED",
        tags=tags_of(told),
        params={**cell_params(best.cells[0])} if best else {},
        metrics=tuple((name, value, end, 0) for name, value in metrics.items()),
        artifacts={"study.yaml": folder.result_path.read_text(encoding="utf-8")} if folder.result_path.exists() else {},
    )


def _trial_run(folder: StudyFolder, trial: Trial) -> Import:
    study = folder.study
    end = round(1000 * max(record.status.heartbeat for record in trial.records.values()))
    start = max(0, end - round(1000 * trial.seconds))
    each = (end - start) / max(1, len(trial.curve))
    points = [("validation_rmse", value, start + round(each * n), n) for n, value in enumerate(trial.curve, start=1)]
    finals = {"epochs": float(trial.epochs), "device_hours": trial.device_hours}
    if math.isfinite(trial.value):
        finals["rmse_validation"] = trial.value
    told = {"kind": "trial", "state": trial.state, "by": trial.note.by, "trial": trial.note.number, **_place(study)}
    return Import(
        key=f"trial-{study.name}-{trial.note.number}",
        name=f"trial {trial.note.number}, {study.model.name}",
        start=start,
        end=end if trial.closed else None,
        status="FINISHED" if trial.closed else "RUNNING",
        tags=tags_of(told),
        params=cell_params(trial.cells[0]),
        metrics=(*((name, value, end, 0) for name, value in finals.items()), *points),
        parent=f"study-{study.name}",
    )


def _place(study: Study) -> dict[str, Any]:
    return {
        "study": study.name,
        "dataset": study.dataset.name,
        "preset": study.dataset.preset,
        "grid": study.dataset.grid,
        "level": ", ".join(map(str, study.levels)),
        "model": study.model.name,
        "family": family_and_source(study.model.name)[0],
    }


def files_of(suite: Suite, store: Store) -> list[Path]:
    """What `mlflow_runs` and `section` are made from, for whoever asks whether it changed."""
    known = folders(suite, store).values()
    return sorted(path for one in known for path in (one.result_path, *one.root.glob("trials/*.json")))

"""MLflow runs of the studies of a suite: one for each study, with a child run for each trial."""

from collections.abc import Sequence
from typing import Any

from benchmark.suite.study import Study
from benchmark.suite.suite import Suite
from results.board.row import family_and_source
from results.store.store import Store
from results.store.studies import StudyFolder, Trial, begun_studies, best_trial, readable_trials
from results.tracking.runs import WantedRun, cell_params, finite_points, symbench_tags


def study_runs(suite: Suite, store: Store) -> list[WantedRun]:
    """Runs of the studies of `suite` whose trials can be read."""
    wanted: list[WantedRun] = []
    for folder in begun_studies(suite, store)[0]:
        trials = [trial for trial in readable_trials(folder)[0] if trial.records]
        if trials:
            runs = [_trial_run(folder, trial) for trial in trials]
            wanted += [_study_run(folder, trials, runs), *runs]
    return wanted


def _study_run(folder: StudyFolder, trials: Sequence[Trial], runs: Sequence[WantedRun]) -> WantedRun:
    study, best = folder.study, best_trial(trials)
    start = min(run.start for run in runs)
    end = max(run.end or run.start for run in runs)
    metrics = {
        "trials": float(sum(trial.closed for trial in trials)),
        "epochs": float(sum(trial.epochs for trial in trials)),
        "device_hours": sum(trial.device_hours for trial in trials),
        **({"rmse_validation": best.value, "best_trial": float(best.note.number)} if best else {}),
    }
    done = folder.result_path.exists()
    return WantedRun(
        key=f"study-{study.name}",
        name=f"STUDY {study}",
        start=start,
        end=end,
        status="FINISHED",
        tags=symbench_tags({"kind": "study", "state": "done" if done else "running", **_place(study)}),
        params=cell_params(best.cells[0]) if best else {},
        metrics=finite_points((name, value, end, 0) for name, value in metrics.items()),
        artifacts={"study.yaml": folder.result_path.read_text(encoding="utf-8")} if done else {},
    )


def _trial_run(folder: StudyFolder, trial: Trial) -> WantedRun:
    study = folder.study
    end = round(1000 * max(record.status.heartbeat for record in trial.records.values()))
    start = max(0, end - round(1000 * trial.seconds))
    each = (end - start) / max(1, len(trial.curve))
    points = [("validation_rmse", value, start + round(each * n), n) for n, value in enumerate(trial.curve, start=1)]
    finals = {"epochs": trial.epochs, "device_hours": trial.device_hours, "rmse_validation": trial.value}
    tags = {"kind": "trial", "state": trial.state, "by": trial.note.by, "trial": trial.note.number, **_place(study)}
    return WantedRun(
        key=f"trial-{study.name}-{trial.note.number}",
        name=f"trial {trial.note.number}, {study.model.name}",
        start=start,
        end=end if trial.closed else None,
        status="FINISHED" if trial.closed else "RUNNING",
        tags=symbench_tags(tags),
        params=cell_params(trial.cells[0]),
        metrics=finite_points([*((name, value, end, 0) for name, value in finals.items()), *points]),
        parent=f"study-{study.name}",
    )


def _place(study: Study) -> dict[str, Any]:
    return {
        "study": study.name,
        "dataset": study.dataset.name,
        "preset": study.dataset.preset,
        "grid": study.dataset.place,
        "level": ", ".join(map(str, study.levels)),
        "model": study.model.name,
        "family": family_and_source(study.model.name)[0],
    }

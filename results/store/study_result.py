"""Result of a study, `STORE/tuned/<study>.yaml`: best settings, all trials, cost and provenance."""

import io
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.suite.study import TUNING_SEED, Study
from benchmark.suite.suite import Range
from benchmark.suite.tuned import digest, read_result
from benchmark.terminal import duration
from results.store.studies import Effort, StudyFolder, Trial, best_trial

PROVENANCE = ("symbench", "git_commit", "git_dirty", "python", "torch", "ray", "optuna", "device", "host")


class NoResultError(MachineError):
    """All trials of a study have ended, and none was trained to its last epoch."""


def freeze(folder: StudyFolder, effort: Effort, trials: Sequence[Trial], used_up: bool = False) -> dict[str, Any]:
    """Write the result; `used_up` if the space is exhausted. Raises NoResultError if no trial came to its end."""
    best = best_trial(trials)
    if best is None:
        folder.result_path.unlink(missing_ok=True)
        ends = Counter(re.split(" at epoch|:", trial.state)[0] for trial in trials)
        raise NoResultError(
            f"{folder.study}: no result, since no trial was trained to its last epoch"
            f" ({', '.join(f'{count} {state}' for state, count in ends.items())}); see {folder.root},"
            " and go on with more --trials or --gpu-hours"
        )
    document = _document(folder.study, effort, trials, best) | {"space_used_up": used_up}
    buffer = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 118
    yaml.dump(document, buffer)
    text = buffer.getvalue()
    written = YAML(typ="safe").load(text)
    heading = f"# What `symbench tune` found for {folder.study}.\n# `symbench run SUITE --tuned` uses `best`.\n"
    write_text(folder.result_path, f"{heading}{text}digest: {digest(written)}\n")
    return document


def is_complete(folder: StudyFolder, effort: Effort, trials: Sequence[Trial]) -> bool:
    """Whether no trial is open, and `effort` is spent or the space exhausted."""
    if not trials or any(not trial.closed for trial in trials):
        return False
    spent = effort.is_spent(len(trials), sum(trial.device_hours for trial in trials))
    return spent or is_used_up(folder, trials)


def is_used_up(folder: StudyFolder, trials: Sequence[Trial]) -> bool:
    """Whether the result of these `trials` records an exhausted space. Raises UserError if it cannot be read."""
    if not folder.result_path.exists():
        return False
    result = read_result(folder.result_path)
    return bool(result.get("space_used_up")) and len(result.get("trials", ())) == len(trials)


def conclude(folder: StudyFolder, effort: Effort, used_up: bool = False) -> str:
    """Write the result and return a line that describes it; `used_up` if the space is exhausted.

    Raises MachineError if a trial is open, and NoResultError if none was trained to its end.
    """
    trials = folder.trials()
    unfinished = [trial for trial in trials if not trial.closed]
    if unfinished:
        raise MachineError(
            f"{folder.study}: {len(unfinished)} trials could not be brought to their end, the first is trial "
            f"{unfinished[0].note.number}; the same command tries again"
        )
    document = freeze(folder, effort, trials, used_up)
    best, spent = document["found"], document["spent"]
    default = best["rmse_validation_default"]
    return (
        f"{folder.study}: RMSE {best['rmse_validation']:.4g} by trial {best['trial']} of {spent['trials']},"
        f" {'no RMSE of the default' if default is None else f'default {default:.4g}'};"
        f" {spent['epochs']} epochs, {duration(spent['seconds'])}; {folder.result_path}"
    )


def _document(study: Study, effort: Effort, trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    cell = best.cells[0]
    environment: Mapping[str, Any] = best.records[cell.id].environment
    default = best_trial(trial for trial in trials if trial.note.by == "default")
    return {
        "study": study.name,
        "dataset": study.dataset.model_dump(mode="json", exclude={"level"}),
        "levels": list(study.levels),
        "protocol": study.protocol.model_dump(mode="json"),
        "budget": study.model_dump(mode="json")["budget"],
        "best": {"model": cell.model.model_dump(mode="json"), "train": cell.train.model_dump(mode="json")},
        "found": {
            "trial": best.note.number,
            "by": best.note.by,
            "settings": dict(best.note.settings),
            "rmse_validation": best.value,
            "rmse_validation_default": None if default is None else default.value,
            "best_epoch": 1 + best.curve.index(best.curve[-1]),
        },
        "validation_curve": [float(f"{value:.6g}") for value in best.curve],
        "effort": {**effort.model_dump(mode="json"), "seeds": [TUNING_SEED]},
        "spent": _cost(trials),
        "space": {
            key: {"low": domain.low, "high": domain.high} if isinstance(domain, Range) else list(domain)
            for key, domain in study.space.items()
        },
        "trials": [
            {
                "trial": trial.note.number,
                "by": trial.note.by,
                "state": trial.state,
                "rmse_validation": _number(trial.value),
                "epochs": trial.epochs,
                "seconds": round(trial.seconds, 2),
                "settings": dict(trial.note.settings),
            }
            for trial in trials
        ],
        "provenance": {
            "frozen": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **{key: environment[key] for key in PROVENANCE if key in environment},
            "data": {
                str(record.environment["data_file"]): str(record.environment["data_checksum"])
                for record in best.records.values()
                if "data_checksum" in record.environment
            },
        },
    }


def _cost(trials: Sequence[Trial]) -> dict[str, Any]:
    devices = {r.environment.get("device_type", "cpu") for t in trials for r in t.records.values()}
    return {
        "trials": sum(trial.closed for trial in trials),
        "epochs": sum(trial.epochs for trial in trials),
        "seconds": round(sum(trial.seconds for trial in trials), 2),
        "device_hours": round(sum(trial.device_hours for trial in trials), 6),
        "devices": "/".join(sorted(map(str, devices))),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None

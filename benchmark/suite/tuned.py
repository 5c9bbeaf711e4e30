"""Tuned settings of a suite: results of studies in a store replace the settings that the suite writes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.cell import Cell, Frozen, ModelChoice, Training
from benchmark.errors import UserError
from benchmark.files import tuned_folder
from benchmark.suite import facts
from benchmark.suite.budget import Budget
from benchmark.suite.search_space import width_path
from benchmark.suite.studies import studies
from benchmark.suite.study import Settings, Study, is_within, trial_choice
from benchmark.suite.suite import Resources, Suite
from benchmark.suite.yaml_file import plain, read_plain


class Best(Frozen):
    """Best settings of a study: the model and its training, complete."""

    model: ModelChoice
    train: Training


def read_result(path: Path) -> dict[str, Any]:
    """Result of a finished study. UserError: it cannot be read."""
    return read_plain(path, "not a study; delete it and tune again")


def digest(result: Mapping[str, Any]) -> str:
    """Digest of a result, which its key `digest` has when the search writes it."""
    text = json.dumps(
        plain({key: value for key, value in result.items() if key != "digest"}), sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def doubt(store: Path, study: Study, result: Mapping[str, Any]) -> str:
    """Why the result is not as the search of `study` wrote it; empty if it is.

    Its best settings must be those of a trial in the study's folder, or of its search space if the folder is gone, and
    the rest of the model and training that of the suite.
    """
    if result.get("digest") != digest(result):
        return "was edited after the search"
    try:
        settings, number = result["found"]["settings"], int(result["found"]["trial"])
        note = tuned_folder(store) / study.name / "trials" / f"{number:04}.json"
        if note.exists():
            tried = json.loads(note.read_text(encoding="utf-8"))["settings"] == settings
        else:
            tried = all(is_within(study.space[key], value) for key, value in settings.items())
        if tried and _has_settings(study, settings, Best.model_validate_json(json.dumps(result["best"]))):
            return ""
    except (KeyError, TypeError, ValueError, OSError, AttributeError):
        pass
    return "its best settings are those of no trial of this study"


def _has_settings(study: Study, settings: Settings, best: Best) -> bool:
    """Whether `best` is the study's model and training with `settings`, but for a width that a budget decides."""
    model, train = trial_choice(study, settings)
    for choice in (model, best.model) if study.budget else ():
        *way, width = width_path(choice)
        at = choice.config
        for key in way:
            at = at[key]["config"]
        at.pop(width, None)
    return (best.model, best.train) == (model, train)


def resolved(suite: Suite, store: Path, only: str = "", skip_untuned: bool = False) -> Suite:
    """`suite`, or `only` a part of it, with the best settings of its studies in `store`.

    UserError: a cell is not tuned. With `skip_untuned` such cells move to `untuned`; then UserError: none is tuned.
    """
    of_cell = studies(suite)
    best = {name: _best(store, study) for name, study in {one.name: one for one in of_cell.values()}.items()}
    cells: dict[str, Cell] = {}
    names: dict[str, str] = {}
    budgets: dict[str, tuple[Budget, ...]] = {}
    missing: dict[str, Study] = {}
    resources: dict[str, Resources] = {}
    for cell in suite.cells:
        study, budgeted, own = of_cell.get(cell.id), suite.budgets.get(cell.id, ()), suite.own_resources.get(cell.id)
        if study is not None and (tuned := best[study.name][0]) is not None:
            cell = cell.model_copy(update={"model": tuned.model, "train": tuned.train})
            cell = Cell.model_validate_json(cell.model_dump_json())  # the update is not validated
            names[cell.id] = study.name
            if budgeted:
                budgets[cell.id] = tuple(dict.fromkeys((*budgets.get(cell.id, ()), *budgeted)))
        elif study is not None:
            missing[cell.id] = study
        cells.setdefault(cell.id, cell)
        if own is not None:
            resources.setdefault(cell.id, own)
    edited = tuple(
        f"{reason}; `symbench tune {suite.argument}` writes it anew" for _, reason in best.values() if reason
    )
    chosen = replace(suite, cells=tuple(cells.values()), budgets=budgets, studies=names, own_resources=resources)
    chosen = replace(chosen, edited=edited)
    chosen = chosen.only(only) if only else chosen
    complete = tuple(cell for cell in chosen.cells if cell.id not in missing)
    if skip_untuned and names and complete:
        return replace(chosen, cells=complete, untuned=tuple(cell for cell in chosen.cells if cell.id in missing))
    lacking = list({missing[cell.id].name: missing[cell.id] for cell in chosen.cells if cell.id in missing}.values())
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(
            f"{suite.name}: not tuned in store {store}: {lacking[0]}{more}; run `symbench tune {suite.argument}` first"
        )
    return chosen


def _best(store: Path, study: Study) -> tuple[Best | None, str]:
    """Best settings of a study, or None if it is unfinished, and what speaks against them."""
    path = tuned_folder(store) / f"{study.name}.yaml"
    if not path.exists():
        return None, ""
    result = read_result(path)
    try:
        best = Best.model_validate_json(json.dumps(result.get("best")))
        if not (reason := doubt(store, study, result)):
            return best, ""
        if best.model.name != study.model.name:
            raise ValueError
        model = facts.configured(best.model.name, best.model.config)
        return Best(model=model, train=best.train), f"{path}: {reason}"
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a result of this study; delete it and tune again") from error


def provenance(store: Path, cell: Cell) -> dict[str, str]:
    """`study`: name of the study in `store` whose best settings `cell` has; empty if there is none."""
    same_level = {"dataset": cell.dataset.model_dump(mode="json", exclude={"level"})}
    wanted = {**same_level, "protocol": cell.protocol.model_dump(mode="json")}
    best = {"model": cell.model.model_dump(mode="json"), "train": cell.train.model_dump(mode="json")}
    for path in sorted(tuned_folder(store).glob("*.yaml")):  # a long name is cut
        try:
            document = read_result(path)
        except UserError:  # reported where its settings are needed
            continue
        levels = document.get("levels")
        alike = all(document.get(key) == value for key, value in {**wanted, "best": best}.items())
        if alike and isinstance(levels, list) and cell.dataset.level in levels:
            return {"study": path.stem}
    return {}

"""Tuned settings of a suite: results of studies in a store replace the settings that the suite writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from benchmark.cell import Cell, Frozen, ModelChoice, Training
from benchmark.errors import UserError
from benchmark.files import tuned_folder
from benchmark.suite.budget import Budget
from benchmark.suite.studies import studies
from benchmark.suite.study import Study
from benchmark.suite.suite import Resources, Suite


class Best(Frozen):
    """Best settings of a study: the model and its training, complete."""

    model: ModelChoice
    train: Training


def read_result(path: Path) -> dict[str, Any]:
    """Result of a finished study. UserError: it cannot be read."""
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, ValueError) as error:
        raise UserError(f"{path}: not a readable study ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a study; delete it and tune again")
    return document


def resolved(suite: Suite, store: Path, only: str = "", skip_untuned: bool = False) -> Suite:
    """`suite`, or `only` a part of it, with the best settings of its studies in `store`.

    UserError: a cell is not tuned. With `skip_untuned` such cells move to `untuned`; then UserError: none is tuned.
    """
    of_cell = studies(suite)
    best = {name: _best(store, name) for name in {study.name for study in of_cell.values()}}
    cells: dict[str, Cell] = {}
    names: dict[str, str] = {}
    budgets: dict[str, tuple[Budget, ...]] = {}
    missing: dict[str, Study] = {}
    resources: dict[str, Resources] = {}
    for cell in suite.cells:
        study, budgeted, own = of_cell.get(cell.id), suite.budgets.get(cell.id, ()), suite.own_resources.get(cell.id)
        if study is not None and (tuned := best[study.name]) is not None:
            cell = cell.model_copy(update={"model": tuned.model, "train": tuned.train})
            cell = Cell.model_validate_json(cell.model_dump_json())  # also: a copy keeps the id of the original
            names[cell.id] = study.name
            if budgeted:
                budgets[cell.id] = tuple(dict.fromkeys((*budgets.get(cell.id, ()), *budgeted)))
        elif study is not None:
            missing[cell.id] = study
        cells.setdefault(cell.id, cell)
        if own is not None:
            resources.setdefault(cell.id, own)
    chosen = replace(suite, cells=tuple(cells.values()), budgets=budgets, studies=names, own_resources=resources)
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


def _best(store: Path, study: str) -> Best | None:
    """Best settings of a study, or None if it is unfinished."""
    path = tuned_folder(store) / f"{study}.yaml"
    if not path.exists():
        return None
    try:
        return Best.model_validate_json(json.dumps(read_result(path).get("best")))
    except (ValidationError, TypeError) as error:
        raise UserError(f"{path}: not a study; delete it and tune again") from error


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
        alike = all(document.get(key) == value for key, value in wanted.items())
        if alike and cell.dataset.level in document.get("levels", ()) and document.get("best") == best:
            return {"study": path.stem}
    return {}
